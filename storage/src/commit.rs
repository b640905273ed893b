//! Group commit: one batch on its way to the disk, the next one filling behind it.
//!
//! A batch is a whole number of blocks and ends with a pad, so a durable block is never written
//! again. At most one write or sync is under way; when it has returned and something waits, the
//! next begins. An idle log thus commits at the disk's own speed, and a busy one in large groups.

use crate::file::FileId;
use crate::record::{Header, KIND_MARK, KIND_PAD, RECORD_HEADER_BYTES, Vouch, seal};
use crate::segment::{Identity, Segment};
use crate::{BLOCK_BYTES, BLOCK_LENGTH, align_up};
use std::collections::VecDeque;
use wire::Position;

/// Spare buffers kept: one for the batch that fills, one under way, one that ends a segment.
const SPARES_MAX: usize = 3;

/// Records on their way into one place of one segment.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) segment: Segment,
    /// The offset in the log of its first byte.
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    /// Its pad reaches to the end of the segment: the log goes on in the next.
    pub(crate) seals: bool,
}

impl Batch {
    pub(crate) fn new(segment: Segment, start: u64, bytes: Vec<u8>) -> Self {
        assert!(start.is_multiple_of(BLOCK_BYTES) && bytes.is_empty());
        Self { segment, start, bytes, seals: false }
    }

    /// The offset in the log where the next record would go.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The offset in the log of the block behind it, when `more_bytes` and a pad were added.
    pub(crate) fn padded_end(&self, more_bytes: u64) -> u64 {
        align_up(self.end() + more_bytes + RECORD_HEADER_BYTES as u64, BLOCK_BYTES)
    }
}

/// What a batch will have done once it is on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Landing {
    pub(crate) file: FileId,
    /// The offset in the log just behind it.
    pub(crate) end: u64,
    /// How many bytes are written.
    pub(crate) bytes_count: usize,
    pub(crate) role: Role,
}

/// Why a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It carries records.
    Records,
    /// As `Records`, and it is the last of its segment.
    Last,
    /// It only tells the next start that what is before it was durable.
    Mark,
}

/// The one write or sync under way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flight {
    None,
    Writing(Landing),
    SyncDue(Landing),
    Syncing(Landing),
}

/// The batches of a log between `append` and the disk.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) open: Batch,
    /// Ended by the end of their segment, not yet written.
    closed: VecDeque<Batch>,
    pub(crate) flight: Flight,
    spares: Vec<Vec<u8>>,
    /// Invariant: the bytes in `closed` and `flight`.
    waiting_bytes: u64,
    /// All is durable and no mark has said so yet.
    pub(crate) is_mark_due: bool,
}

impl Commit {
    pub(crate) fn new(segment: Segment, start: u64) -> Self {
        Self {
            open: Batch::new(segment, start, Vec::new()),
            closed: VecDeque::new(),
            flight: Flight::None,
            spares: Vec::new(),
            waiting_bytes: 0,
            is_mark_due: false,
        }
    }

    /// Whether nothing is under way and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.flight, Flight::None) && !self.has_waiting()
    }

    /// Whether a batch could be written.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.closed.is_empty() || !self.open.bytes.is_empty()
    }

    /// Bytes that are not durable if `more_bytes` are appended.
    pub(crate) fn window_bytes(&self, more_bytes: u64) -> u64 {
        self.waiting_bytes + self.open.bytes.len() as u64 + more_bytes
    }

    /// Ends the open batch with its segment and goes on in `next`.
    pub(crate) fn roll(&mut self, next: Segment) {
        let bytes = self.spares.pop().unwrap_or_default();
        let fresh = Batch::new(next, next.records_start(), bytes);
        let mut last = std::mem::replace(&mut self.open, fresh);
        assert_eq!(last.segment.end(), next.base);
        if last.start == last.segment.end() {
            assert!(last.bytes.is_empty(), "the segment was full to its last byte");
            self.spares.push(last.bytes);
            return;
        }
        last.seals = true;
        self.waiting_bytes += last.bytes.len() as u64;
        self.closed.push_back(last);
    }

    /// The next batch to write, if one waits.
    pub(crate) fn take_batch(&mut self) -> Option<(Batch, Role)> {
        if let Some(batch) = self.closed.pop_front() {
            return Some((batch, Role::Last));
        }
        if !self.open.bytes.is_empty() {
            let start = self.open.padded_end(0);
            let batch = self.replace_open(start);
            self.waiting_bytes += batch.bytes.len() as u64;
            let is_last = start == batch.segment.end();
            return Some((batch, if is_last { Role::Last } else { Role::Records }));
        }
        (self.is_mark_due && self.has_room_for_mark()).then(|| {
            self.is_mark_due = false;
            let start = self.open.start + BLOCK_BYTES;
            (self.replace_open(start), Role::Mark)
        })
    }

    /// A mark is not synced, but what ends a segment is; so a mark never takes the last block.
    pub(crate) fn has_room_for_mark(&self) -> bool {
        self.open.start + 2 * BLOCK_BYTES <= self.open.segment.end()
    }

    fn replace_open(&mut self, start: u64) -> Batch {
        let bytes = self.spares.pop().unwrap_or_default();
        let fresh = Batch::new(self.open.segment, start, bytes);
        std::mem::replace(&mut self.open, fresh)
    }

    /// Completes `batch` with its pad (or makes it a mark) and says what to write where in its
    /// file.
    pub(crate) fn launch(
        &mut self,
        (mut batch, role): (Batch, Role),
        identity: Identity,
        vouch: Vouch,
    ) -> (Landing, u64, Vec<u8>) {
        assert!(vouch.synced <= batch.start);
        let pad_start = batch.end();
        let kind = if role == Role::Mark { KIND_MARK } else { KIND_PAD };
        let end = if batch.seals { batch.segment.end() } else { batch.padded_end(0) };
        let header = Header::filler(kind, end - pad_start, identity.epoch, vouch);
        let records_bytes = batch.bytes.len();
        batch.bytes.extend_from_slice(&header.encode());
        seal(
            &mut batch.bytes[records_bytes..],
            Position::new(identity.log, pad_start),
            identity.salt,
        );
        // The segment is zeros already, so a pad's own zeros need only reach the next block.
        let block_bytes = BLOCK_LENGTH;
        batch.bytes.resize(batch.bytes.len().next_multiple_of(block_bytes), 0);
        let file = FileId::Segment { log: identity.log, base: batch.segment.base };
        let landing = Landing { file, end, bytes_count: batch.bytes.len(), role };
        self.waiting_bytes += (batch.bytes.len() - records_bytes) as u64;
        assert!(batch.start + batch.bytes.len() as u64 <= end && end <= batch.segment.end());
        self.flight = Flight::Writing(landing);
        (landing, batch.start - batch.segment.base, batch.bytes)
    }

    /// The batch that was under way is done.
    pub(crate) fn land(&mut self, landing: Landing) {
        self.flight = Flight::None;
        self.waiting_bytes -= landing.bytes_count as u64;
    }

    /// Keeps `bytes` for a later batch.
    pub(crate) fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spares.len() < SPARES_MAX {
            bytes.clear();
            self.spares.push(bytes);
        }
    }
}
