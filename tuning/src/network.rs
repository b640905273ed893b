//! What the kernel lets through, and how much it may hold.

use crate::{Finding, Subject, System, Verdict, Wanted};

/// Connects that may wait at once, so that a storm of them is not answered with resets.
const BACKLOG: u64 = 4096;
const PAGE_BYTES: u64 = 4096;
/// What a connection with one unread message holds in the kernel's queues.
const QUEUED_BYTES: u64 = 1152;

pub(crate) fn findings(system: &System, wanted: &Wanted) -> Vec<Finding> {
    vec![
        Subject {
            name: "net.core.somaxconn",
            why: "connects that were answered but not accepted; beyond it clients are kept waiting",
        }
        .at_least(
            system.number("/proc/sys/net/core/somaxconn"),
            BACKLOG,
            Verdict::Advice,
            format!("sysctl -w net.core.somaxconn={BACKLOG}"),
        ),
        Subject {
            name: "net.ipv4.tcp_max_syn_backlog",
            why: "connects that are being answered; a restart of the server brings all at once",
        }
        .at_least(
            system.number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            BACKLOG,
            Verdict::Advice,
            format!("sysctl -w net.ipv4.tcp_max_syn_backlog={BACKLOG}"),
        ),
        tcp_mem(system, wanted),
        ports(system),
    ]
}

fn tcp_mem(system: &System, wanted: &Wanted) -> Finding {
    let pages = (wanted.connections * QUEUED_BYTES).div_ceil(PAGE_BYTES);
    let found = system.numbers("/proc/sys/net/ipv4/tcp_mem");
    Subject {
        name: "net.ipv4.tcp_mem (high)",
        why: "pages that all sockets may hold; with one unread message on each connection this \
              many are held, and beyond the limit the kernel drops",
    }
    .at_least(
        found.and_then(|pages| pages.get(2).copied()),
        pages,
        Verdict::Advice,
        format!("sysctl -w net.ipv4.tcp_mem=\"{} {pages} {}\"", pages / 2, 2 * pages),
    )
}

fn ports(system: &System) -> Finding {
    let subject = Subject {
        name: "net.ipv4.ip_local_port_range",
        why: "a load generator on this host needs a port for each connection and address; a server \
              alone needs none",
    };
    let wanted = "at least 28000 ports";
    match system.numbers("/proc/sys/net/ipv4/ip_local_port_range").as_deref() {
        Some([first, last]) if last.saturating_sub(*first) >= 28_000 => {
            subject.fine(format!("{first} to {last}"), wanted)
        }
        Some([first, last]) => subject.short(
            Verdict::Advice,
            (format!("{first} to {last}"), wanted),
            "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"",
        ),
        _ => subject.not_available(wanted),
    }
}
