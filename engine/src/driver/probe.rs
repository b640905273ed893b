//! What the kernel can do, found out by doing it, before anything depends on it.

use super::buffers::Buffers;
use super::uring::{Key, Kind, Uring};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What was found.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// Such as `6.18.44`.
    pub kernel: String,
    /// Completions run only when a shard asks (`DEFER_TASKRUN`, Linux 6.1).
    pub defers_work: bool,
}

/// Why this host cannot run a shard, in words a person can act on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}. {advice}")]
pub struct Unable {
    what: &'static str,
    error: io::Error,
    advice: String,
}

/// Accepts a connection and receives from it the way a shard does, on loopback.
pub fn probe() -> Result<Abilities, Unable> {
    let kernel = kernel_release();
    let mut uring = Uring::new(8).map_err(|error| unable("io_uring is not available", error))?;
    let mut buffers = Buffers::new(8, 512).map_err(|error| unable("no memory to map", error))?;
    uring
        .register_buffers(&mut buffers)
        .map_err(|error| unable("provided buffer rings are not available", error))?;
    let received = receive_once(&mut uring);
    let defers_work = uring.defers_work();
    drop(uring);
    received.map_err(|error| unable("a multishot receive did not work", error))?;
    Ok(Abilities { kernel, defers_work })
}

fn receive_once(uring: &mut Uring) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    uring.accept(listener.as_raw_fd())?;
    let mut completions = Vec::new();
    let connection = wait_for(uring, &mut completions, Kind::Accept)?;
    let connection = u32::try_from(connection).map_err(|_| errno(connection))?;
    uring.receive(Key::new(Kind::Receive, connection, 1), true)?;
    io::Write::write_all(&mut &client, b"probe")?;
    match wait_for(uring, &mut completions, Kind::Receive)? {
        5 => Ok(()),
        result => Err(errno(result)),
    }
}

fn errno(result: i32) -> io::Error {
    io::Error::from_raw_os_error(-result)
}

fn wait_for(
    uring: &mut Uring,
    completions: &mut Vec<super::Completion>,
    kind: Kind,
) -> io::Result<i32> {
    for _ in 0..20 {
        uring.enter(1, Duration::from_millis(100))?;
        completions.clear();
        uring.reap(completions);
        if let Some(found) = completions.iter().find(|found| found.key.kind == kind) {
            return Ok(found.result);
        }
    }
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

fn unable(what: &'static str, error: io::Error) -> Unable {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match io_uring_disabled() {
            Some(level @ 1..) => format!(
                "kernel.io_uring_disabled is {level}: set it to 0 with \
                 'sysctl kernel.io_uring_disabled=0'"
            ),
            _ => "A seccomp filter forbids it, as container runtimes do by default: run with one \
                  that allows the io_uring system calls (Docker: --security-opt seccomp=unconfined)"
                .to_owned(),
        },
        Some(libc::ENOMEM) => {
            "The limit on locked memory is too small for the rings: raise it (ulimit -l unlimited)"
                .to_owned()
        }
        Some(libc::EMFILE) => {
            "The limit on open files is too small: raise it (ulimit -n)".to_owned()
        }
        Some(libc::ENOSYS | libc::EINVAL) => {
            format!("Linux 6.1 or newer is needed; this is {}", kernel_release())
        }
        _ => "'ringmain-tune check' says more about this host".to_owned(),
    };
    Unable { what, error, advice }
}

fn io_uring_disabled() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    text.trim().parse().ok()
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_receives_as_a_shard_does() {
        let abilities = probe().unwrap();
        assert!(!abilities.kernel.is_empty());
    }

    #[test]
    fn a_refused_ring_says_what_to_do() {
        let refused = unable("x", io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(refused.contains("ulimit -l"), "{refused}");
        let refused = unable("x", io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(refused.contains("seccomp") || refused.contains("io_uring_disabled"), "{refused}");
    }
}
