//! What the kernel says about this process, the server's, and the machine.

use serde::Serialize;
use std::fs;

/// Processor time in microseconds, user and system, of process `pid` ("self" for this one).
pub fn cpu_micros(pid: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, so fields are counted from its closing bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * (1_000_000 / TICKS_PER_SECOND))
}

/// `USER_HZ`, which is part of the kernel's interface.
const TICKS_PER_SECOND: u64 = 100;

/// Resident bytes of process `pid`.
pub fn resident_bytes(pid: &str) -> Option<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Bytes of the kernel's own objects, on the whole machine.
pub fn slab_bytes() -> Option<u64> {
    kilobytes("/proc/meminfo", "Slab:")
}

fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

/// Where figures were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// How many of them this process may use.
    pub processors_count: usize,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let name = info.lines().find(|line| line.starts_with("model name"));
        let name = name.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name);
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: name.trim().to_owned(),
            processors_count: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        assert!(resident_bytes("self").is_some_and(|bytes| bytes > 100_000));
        assert!(cpu_micros("self").is_some());
        assert!(slab_bytes().is_some_and(|bytes| bytes > 0));
        assert_eq!(cpu_micros("no such process"), None);
    }
}
