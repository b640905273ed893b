//! Where a running server spends its time, by stage of a message's way: `perf` samples its stacks,
//! and the innermost frame that belongs to a stage decides. The cost a message comes from the
//! server's own count of appended records over the same seconds.

use bench::clock::{self, SECOND};
use bench::process::cpu_micros;
use serde::Serialize;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Stages in the order of the byte's way, and what marks a frame as one of theirs. The first row
/// that matches a frame wins, so what is particular stands above what is general.
const STAGES: &[(&str, &[&str])] = &[
    ("kernel: log write and sync", &["io_wq", "ext4_", "xfs_", "vfs_fsync", "io_write"]),
    ("kernel: send, and the peer's softirq", &["tcp_sendmsg", "io_send", "__sys_send"]),
    ("kernel: receive", &["tcp_recvmsg", "io_recv", "sock_recvmsg"]),
    ("kernel: rings, wake-ups, scheduling", &["io_uring_enter", "entry_SYSCALL", "schedule"]),
    ("parse: bytes to frames", &["wire::frame", "wire::body", "read_frame", "on_received"]),
    ("decide: chat and its tables", &["chat::", "wire::id", "hashbrown"]),
    ("append: record, checksum, index", &["storage::", "crc_fast", "crc32"]),
    ("encode: frames into blocks", &["fanout::block", "Net::encode", "engine::command"]),
    ("deliver: queues of sessions", &["engine::deliver", "engine::net", "engine::pending"]),
    ("gather: what is sent", &["engine::outbox", "driver::uring", "spec_extend", "SpecExtend"]),
    ("turn: driver and shard loop", &["engine::driver", "engine::shard", "engine::"]),
    ("copies in user memory", &["memmove", "memcpy", "memset", "memcmp"]),
];
const OTHER: &str = "other";
const SAMPLES_PER_SECOND: &str = "997";

/// One row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) stage: &'static str,
    pub(crate) share: f64,
    pub(crate) micros_per_message: f64,
}

/// What was found over the seconds sampled.
#[derive(Debug, Serialize)]
pub(crate) struct Stages {
    pub(crate) messages_per_second: f64,
    pub(crate) micros_per_message: f64,
    pub(crate) samples_count: u64,
    pub(crate) rows: Vec<Row>,
}

/// Samples process `pid`, whose admin door is at `admin`, for `seconds`.
pub(crate) fn stages(pid: u32, admin: SocketAddr, seconds: f64) -> io::Result<Stages> {
    let file = std::env::temp_dir().join(format!("ringmain-stages-{}.data", std::process::id()));
    let started = clock::now();
    let (cpu_before, appends_before) = (cpu(pid)?, appends(admin)?);
    let recorded = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "-g", "-o"])
        .arg(&file)
        .args(["-p", &pid.to_string(), "--", "sleep", &seconds.to_string()])
        .status();
    let (cpu_after, appends_after) = (cpu(pid)?, appends(admin)?);
    // A little longer than was asked for: perf takes a while to begin.
    let elapsed = (clock::now() - started) as f64 / SECOND as f64;
    let recorded = recorded.map_err(|error| {
        io::Error::other(format!("perf does not start ({error}): install Debian's linux-perf"))
    })?;
    if !recorded.success() {
        return Err(io::Error::other("perf record failed; what it said is above"));
    }
    let script =
        Command::new("perf").args(["script", "-F", "comm,ip,sym", "-i"]).arg(&file).output();
    std::fs::remove_file(&file)?;
    let text = String::from_utf8_lossy(&script?.stdout).into_owned();
    let messages = (appends_after - appends_before) as f64;
    let cpu_micros = (cpu_after - cpu_before) as f64;
    Ok(table(&text, elapsed, (messages, cpu_micros)))
}

fn cpu(pid: u32) -> io::Result<u64> {
    cpu_micros(&pid.to_string()).ok_or_else(|| io::Error::other(format!("no process {pid}")))
}

fn table(script: &str, seconds: f64, (messages, cpu_micros): (f64, f64)) -> Stages {
    let mut counts = vec![0_u64; STAGES.len() + 1];
    for sample in script.split("\n\n").filter(|sample| !sample.trim().is_empty()) {
        counts[stage_of(sample)] += 1;
    }
    let samples_count: u64 = counts.iter().sum();
    let names = STAGES.iter().map(|(name, _)| *name).chain([OTHER]);
    let rows = names.zip(&counts).map(|(stage, count)| {
        let share = *count as f64 / samples_count.max(1) as f64;
        Row { stage, share, micros_per_message: share * cpu_micros / messages.max(1.0) }
    });
    Stages {
        messages_per_second: messages / seconds,
        micros_per_message: cpu_micros / messages.max(1.0),
        samples_count,
        rows: rows.collect(),
    }
}

/// The stage of one sample: the first line is the thread, then frames from the innermost out.
fn stage_of(sample: &str) -> usize {
    let mut lines = sample.trim_start_matches('\n').lines();
    if lines.next().is_some_and(|thread| thread.trim_start().starts_with("iou-")) {
        return 0;
    }
    for frame in lines {
        let found = STAGES.iter().position(|(_, marks)| marks.iter().any(|it| frame.contains(it)));
        if let Some(stage) = found {
            return stage;
        }
    }
    STAGES.len()
}

/// Records appended so far, by the admin door.
fn appends(admin: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let counts = text.lines().filter_map(|line| line.strip_prefix("ringmain_appends_total{"));
    let numbers = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(numbers.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_frame_of_a_stage_decides() {
        let script = "\
shard-0 \n\t1 _copy_to_iter\n\t2 tcp_recvmsg_locked\n\t3 io_recv\n\t4 io_uring_enter\n
shard-0 \n\t1 chat::owner::Owner::decide\n\t2 engine::command::decide\n
iou-wrk-77 \n\t1 clear_page\n
shard-0 \n\t1 something_unheard_of\n";
        let found = table(script, 2.0, (1000.0, 4000.0));
        let share = |name: &str| found.rows.iter().find(|row| row.stage == name).unwrap().share;
        assert_eq!(found.samples_count, 4);
        for stage in [STAGES[0].0, "kernel: receive", "decide: chat and its tables", OTHER] {
            assert!((share(stage) - 0.25).abs() < 1e-9, "{stage}");
        }
        assert!((found.micros_per_message - 4.0).abs() < 1e-9);
        assert!((found.messages_per_second - 500.0).abs() < 1e-9);
    }
}
