//! The sizes of a log, and the proof that they fit each other.

use crate::record::{LENGTH_MAX, RECORD_HEADER_BYTES};
use crate::{BLOCK_BYTES, align_up};

/// When a record counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When a sync that covers it returned.
    Fsync,
    /// When the kernel took the write: survives the process, not the machine.
    Memory,
}

/// The sizes of one log. The plan fills them all; there is no second place with defaults but
/// [`Settings::standard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of the first segment of a log, small so that an empty start is fast.
    pub first_segment_bytes: u64,
    /// Bytes that may wait for the disk at once; half of it is the largest batch.
    pub commit_window_bytes: u64,
    /// The largest record, its header included.
    pub record_bytes_max: u64,
    /// When a record counts as durable.
    pub durability: Durability,
}

const SEGMENT_BYTES_MAX: u64 = 1 << 30;

impl Settings {
    /// The sizes a server uses unless told otherwise.
    pub fn standard() -> Self {
        Self {
            segment_bytes: 256 << 20,
            first_segment_bytes: 32 << 20,
            commit_window_bytes: 32 << 20,
            record_bytes_max: 1 << 20,
            durability: Durability::Fsync,
        }
    }

    /// The largest batch, its pad included.
    pub fn batch_bytes_max(&self) -> u64 {
        self.commit_window_bytes / 2
    }

    /// Stops if the sizes contradict each other: they come from the plan, so that is our bug.
    pub fn check(&self) {
        assert!(self.segment_bytes.is_multiple_of(BLOCK_BYTES));
        assert!(self.first_segment_bytes.is_multiple_of(BLOCK_BYTES));
        assert!(self.first_segment_bytes <= self.segment_bytes);
        assert!(self.segment_bytes <= SEGMENT_BYTES_MAX, "a pad's length has 32 bits");
        assert!(self.commit_window_bytes.is_multiple_of(2 * BLOCK_BYTES));
        // The pad that ends a segment is shorter than the batch that did not fit.
        assert!(self.commit_window_bytes <= LENGTH_MAX);
        let record_header_bytes = RECORD_HEADER_BYTES as u64;
        assert!(self.record_bytes_max > record_header_bytes);
        // The largest record and the pad behind it, in whole blocks, fit a batch and a segment;
        // else an append could be refused for ever.
        let batch_bytes = align_up(self.record_bytes_max + 8 + record_header_bytes, BLOCK_BYTES);
        assert!(batch_bytes <= self.batch_bytes_max());
        assert!(batch_bytes + BLOCK_BYTES <= self.first_segment_bytes);
    }
}
