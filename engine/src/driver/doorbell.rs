//! What wakes a sleeping shard: an eventfd that its uring reads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Rings one shard awake; from any thread.
#[derive(Clone, Debug)]
pub struct Doorbell {
    fd: Arc<OwnedFd>,
}

impl Doorbell {
    /// A bell nobody has rung.
    pub fn new() -> io::Result<Self> {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Wakes the shard, or keeps it from falling asleep.
    pub fn ring(&self) {
        // It fails only where 2^64 rings were not yet heard, and then the shard wakes anyway.
        let _ = rustix::io::write(self.fd.as_fd(), &1_u64.to_le_bytes());
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
