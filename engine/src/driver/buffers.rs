//! The provided buffers of one uring: the kernel takes one when bytes arrive, so that an idle
//! connection owns none.
#![expect(unsafe_code, reason = "the ring of free buffers is memory shared with the kernel")]

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, types};
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one buffer group of a uring.
pub(super) const GROUP: u16 = 0;

/// A ring of free buffers and the memory behind them. Must outlive the uring it is registered
/// with: the kernel writes into it.
pub(super) struct Buffers {
    entries: MmapMut,
    memory: MmapMut,
    buffer_bytes: usize,
    count: u16,
    tail: u16,
    /// With the kernel, not taken yet.
    free_count: usize,
    /// With us, the one used last on top: it is still in the CPU's cache.
    spare: Vec<u16>,
    /// How many the kernel is given at once. It takes them in turn, so more than are needed would
    /// drag every receive through memory that has gone cold.
    given_max: usize,
}

/// How many the kernel has at first.
const GIVEN_AT_FIRST: usize = 256;

impl Buffers {
    /// Makes `count` buffers (a power of two) of `buffer_bytes` each; none is registered yet.
    pub(super) fn new(count: u16, buffer_bytes: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let entries = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = MmapMut::map_anon(usize::from(count) * buffer_bytes)?;
        Ok(Self {
            entries,
            memory,
            buffer_bytes,
            count,
            tail: 0,
            free_count: 0,
            spare: (0..count).rev().collect(),
            given_max: GIVEN_AT_FIRST.min(usize::from(count)),
        })
    }

    /// Gives the kernel the ring and every buffer.
    pub(super) fn register(&mut self, uring: &IoUring) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, zeroed, as long as `count` says, and live as long
        // as the uring: the driver drops the uring first.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(address, self.count, GROUP, 0)?;
        }
        self.publish();
        Ok(())
    }

    /// What the kernel put into `buffer`.
    pub(super) fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(buffer < self.count && length <= self.buffer_bytes);
        let start = usize::from(buffer) * self.buffer_bytes;
        &self.memory[start..start + length]
    }

    /// Notes that the kernel took a buffer.
    pub(super) fn note_taken(&mut self) {
        self.free_count -= 1;
    }

    /// Notes that the kernel found none: from here on it is given twice as many.
    pub(super) fn note_empty(&mut self) {
        self.given_max = (2 * self.given_max).min(usize::from(self.count));
    }

    /// Whether the kernel has enough left for another receive to find one.
    pub(super) fn has_plenty(&self) -> bool {
        self.free_count > self.given_max / 4
    }

    /// Takes `buffer` back; the kernel may have it after `publish`.
    pub(super) fn give_back(&mut self, buffer: u16) {
        self.spare.push(buffer);
    }

    fn give(&mut self, buffer: u16) {
        let address = self.memory.as_ptr() as u64 + u64::from(buffer) * self.buffer_bytes as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is below `count`, the mapping holds `count` entries, and the kernel does
        // not read an entry before the tail passes it.
        unsafe {
            let entry = &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(index);
            entry.set_addr(address);
            entry.set_len(u32::try_from(self.buffer_bytes).expect("buffers are kilobytes"));
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.free_count += 1;
    }

    /// Gives the kernel what it may have.
    pub(super) fn publish(&mut self) {
        while self.free_count < self.given_max
            && let Some(buffer) = self.spare.pop()
        {
            self.give(buffer);
        }
        // SAFETY: the tail of a buffer ring lies in the first entry, aligned, and only we write it.
        unsafe {
            let base = self.entries.as_ptr().cast::<types::BufRingEntry>();
            let tail = types::BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}
