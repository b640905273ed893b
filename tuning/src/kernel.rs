//! The kernel itself.

use crate::{Finding, Subject, System, Verdict};

/// The first kernel whose task work waits until a shard asks for it.
const VERSION_MIN: (u64, u64) = (6, 1);

pub(crate) fn findings(system: &System) -> Vec<Finding> {
    vec![version(system), io_uring_disabled(system)]
}

fn version(system: &System) -> Finding {
    let subject = Subject {
        name: "kernel version",
        why: "completions that wait until the shard asks for them came with 6.1; before it they \
              interrupt the shard",
    };
    let wanted = format!("{}.{} or later", VERSION_MIN.0, VERSION_MIN.1);
    let Some(release) = system.text("/proc/sys/kernel/osrelease") else {
        return subject.not_available(wanted);
    };
    match version_of(&release) {
        Some(version) if version >= VERSION_MIN => subject.fine(release, wanted),
        Some(_) => subject.short(Verdict::Advice, (release, wanted), "install a newer kernel"),
        None => subject.not_available(wanted),
    }
}

fn version_of(release: &str) -> Option<(u64, u64)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn io_uring_disabled(system: &System) -> Finding {
    let subject = Subject {
        name: "kernel.io_uring_disabled",
        why: "every byte of the engine goes through io_uring; 1 keeps it to one group and root, 2 \
              from everybody",
    };
    match system.number("/proc/sys/kernel/io_uring_disabled") {
        None => subject.not_available(0),
        Some(0) => subject.fine(0, 0),
        Some(found) => {
            let verdict = if found == 1 { Verdict::Advice } else { Verdict::Blocks };
            subject.short(verdict, (found, 0), "sysctl -w kernel.io_uring_disabled=0")
        }
    }
}
