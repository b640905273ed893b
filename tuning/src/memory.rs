//! Memory: how much, in what pages, and whether it can go to a disk.

use crate::{Finding, Subject, System, Verdict, Wanted};

/// Kernel and user memory of an idle connection with an armed receive.
const CONNECTION_BYTES: u64 = 5120;
/// For the process itself: rings, buffers, commit windows.
const BASE_BYTES: u64 = 256 << 20;

pub(crate) fn findings(system: &System, wanted: &Wanted) -> Vec<Finding> {
    vec![available(system, wanted), huge_pages(system), swap(system)]
}

fn available(system: &System, wanted: &Wanted) -> Finding {
    let bytes = wanted.connections * CONNECTION_BYTES + BASE_BYTES;
    let found = system.field("/proc/meminfo", "MemAvailable");
    let kib = found.and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
    Subject {
        name: "available memory (MiB)",
        why: "an idle connection takes about 5 KiB of kernel and user memory together",
    }
    .at_least(
        kib.map(|kib| kib / 1024),
        bytes >> 20,
        Verdict::Blocks,
        "more memory, or fewer connections",
    )
}

fn huge_pages(system: &System) -> Finding {
    let subject = Subject {
        name: "transparent huge pages",
        why: "with 'always' the kernel rounds sparse tables up to 2 MiB pages, and memory grows \
              beyond the plan",
    };
    let wanted = "madvise or never";
    let Some(modes) = system.text("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return subject.not_available(wanted);
    };
    let mode = modes.split(['[', ']']).nth(1).unwrap_or_default();
    if mode == "always" {
        let mend = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
        return subject.short(Verdict::Advice, (mode, wanted), mend);
    }
    subject.fine(mode, wanted)
}

fn swap(system: &System) -> Finding {
    let subject = Subject {
        name: "swap",
        why: "a shard whose page was swapped out stops for as long as the disk takes, and with it \
              every user on it",
    };
    let Some(swaps) = system.text("/proc/swaps") else { return subject.not_available("none") };
    match swaps.lines().count().saturating_sub(1) {
        0 => subject.fine("none", "none"),
        count => {
            let measured = format!("{count} in use or ready");
            subject.short(Verdict::Advice, (measured, "none"), "swapoff -a, or vm.swappiness=1")
        }
    }
}
