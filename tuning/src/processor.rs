//! The CPUs: how many, how steady, and what time they tell.

use crate::{Finding, Subject, System, Verdict};

pub(crate) fn findings(system: &System) -> Vec<Finding> {
    vec![allowed(system), quota(system), governor(system), clock(system)]
}

fn allowed(system: &System) -> Finding {
    let subject = Subject {
        name: "CPUs allowed",
        why: "each shard keeps a CPU busy, and the disk's worker and the kernel want one too",
    };
    match system.cpus_allowed().len() {
        0 => subject.not_available("2 or more"),
        1 => {
            let mend = "taskset, cpuset or the container's CPU set";
            subject.short(Verdict::Advice, (1, "2 or more"), mend)
        }
        count => subject.fine(count, "2 or more"),
    }
}

/// The CPU quota of this process's group, in CPUs times 100; none where there is none.
fn quota(system: &System) -> Finding {
    let subject = Subject {
        name: "CPU quota",
        why: "a group over its quota is stopped for the rest of the period, up to 100 ms at once",
    };
    let wanted = "none, or the CPUs allowed";
    let group = system.field("/proc/self/cgroup", "0:").unwrap_or_else(|| "/".to_owned());
    let group = group.trim_end_matches('/');
    // Inside a container its own group is mounted as the root.
    let own = system.text(&format!("/sys/fs/cgroup{group}/cpu.max"));
    let Some(max) = own.or_else(|| system.text("/sys/fs/cgroup/cpu.max")) else {
        return subject.not_available(wanted);
    };
    let numbers: Vec<u64> = max.split(' ').filter_map(|word| word.parse().ok()).collect();
    let cpus_count = system.cpus_allowed().len().max(1) as u64;
    match numbers[..] {
        [quota, period] if period > 0 && quota < cpus_count * period => {
            let hundredths = quota * 100 / period;
            let measured = format!("{}.{:02} CPUs", hundredths / 100, hundredths % 100);
            let mend = "lift the quota, or set --shards to whole CPUs below it";
            subject.short(Verdict::Advice, (measured, wanted), mend)
        }
        [_, _] => subject.fine(max, wanted),
        _ => subject.fine("none", wanted),
    }
}

fn governor(system: &System) -> Finding {
    let subject = Subject {
        name: "frequency governor",
        why: "a slowed-down CPU takes its time to speed up, just when a message comes",
    };
    let path = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    match system.text(path).as_deref() {
        None => subject.not_available("performance"),
        Some("performance") => subject.fine("performance", "performance"),
        Some(other) => {
            let mend = "cpupower frequency-set -g performance";
            subject.short(Verdict::Advice, (other, "performance"), mend)
        }
    }
}

fn clock(system: &System) -> Finding {
    let subject = Subject {
        name: "clock source",
        why: "a shard reads the clock every turn; hpet and acpi_pm cost a trap each time",
    };
    let wanted = "tsc, kvm-clock, or another read without a trap";
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match system.text(path).as_deref() {
        None => subject.not_available(wanted),
        Some(slow @ ("hpet" | "acpi_pm" | "jiffies")) => {
            let mend = "boot without clocksource=, or look into dmesg for why tsc was given up";
            subject.short(Verdict::Advice, (slow, wanted), mend)
        }
        Some(name) => subject.fine(name, wanted),
    }
}
