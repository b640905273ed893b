//! How many files and how much locked memory.

use crate::{Finding, Subject, System, Verdict, Wanted};

/// Files beside the connections: segments, rings, doorbells, listeners.
const FILES_SPARE: u64 = 256;
/// Locked memory for the rings of one shard.
const RING_BYTES: u64 = 4 << 20;

pub(crate) fn findings(system: &System, wanted: &Wanted) -> Vec<Finding> {
    let shards = system.cpus_allowed().len().max(1) as u64;
    let files = wanted.connections.div_ceil(shards) + FILES_SPARE;
    let files_of_all = wanted.connections + FILES_SPARE;
    vec![
        open_files(system, files),
        memlock(system),
        Subject {
            name: "fs.nr_open",
            why: "the most that the limit on open files of a process can be raised to",
        }
        .at_least(
            system.number("/proc/sys/fs/nr_open"),
            files,
            Verdict::Blocks,
            format!("sysctl -w fs.nr_open={}", files.next_power_of_two()),
        ),
        Subject { name: "fs.file-max", why: "the most files that the whole host may have open" }
            .at_least(
                system.number("/proc/sys/fs/file-max"),
                files_of_all,
                Verdict::Blocks,
                format!("sysctl -w fs.file-max={}", 2 * files_of_all),
            ),
    ]
}

fn open_files(system: &System, files: u64) -> Finding {
    let subject = Subject {
        name: "open files",
        why: "the table of connections of each shard's ring may not be larger than this limit",
    };
    let wanted = format!("at least {files}");
    let Some((soft, hard)) = system.limit("Max open files") else {
        return subject.not_available(wanted);
    };
    let measured = format!("soft {soft}, hard {hard}");
    if soft >= files {
        return subject.fine(measured, wanted);
    }
    let mend = match hard >= files {
        true => format!("ulimit -n {files} before the server starts"),
        false => format!("as root: ulimit -n {files}; with systemd: LimitNOFILE={files}"),
    };
    subject.short(Verdict::Blocks, (measured, wanted), mend)
}

fn memlock(system: &System) -> Finding {
    let subject = Subject {
        name: "locked memory",
        why: "since 6.14 the rings and buffer rings of every shard count against this limit",
    };
    let shards = system.cpus_allowed().len().max(1) as u64;
    let wanted = shards * RING_BYTES;
    let soft = system.limit("Max locked memory").map(|(soft, _)| soft);
    let mend = format!("ulimit -l {}; with systemd: LimitMEMLOCK=infinity", wanted / 1024);
    subject.at_least(soft, wanted, Verdict::Advice, mend)
}
