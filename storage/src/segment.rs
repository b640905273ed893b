//! A segment's first block, and where in which file a position is.
//!
//! ```text
//! 0          8         12        16     18      20        24      32      40      4096
//! | RINGSEG1 | crc32c  | version | log  | spare | epoch   | base  | bytes | zeros |
//! ```

use crate::file::FileId;
use crate::record::{Salt, is_zero, u16_at, u32_at, u64_at};
use crate::{BLOCK_BYTES, BLOCK_LENGTH};
use std::collections::BTreeMap;
use wire::{Hlc, Position};

/// The version of all that is in a segment.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"RINGSEG1";

/// Which log it is, and what its checksums are mixed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log: u16,
    pub(crate) epoch: u32,
    pub(crate) salt: Salt,
}

/// One file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The offset in the log of its first byte.
    pub(crate) base: u64,
    /// Its size, the header block included.
    pub(crate) bytes: u64,
    /// The stamp of its first record; none while it is empty.
    pub(crate) first_hlc: Option<Hlc>,
}

impl Segment {
    pub(crate) fn new(base: u64, bytes: u64) -> Self {
        Self { base, bytes, first_hlc: None }
    }

    /// The offset in the log just behind it.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes
    }

    /// The offset in the log of its first record.
    pub(crate) fn records_start(&self) -> u64 {
        self.base + BLOCK_BYTES
    }
}

/// The first block of a segment.
pub(crate) fn encode_header(identity: Identity, segment: &Segment) -> Vec<u8> {
    let mut block = vec![0; BLOCK_LENGTH];
    block[..8].copy_from_slice(&MAGIC);
    block[12..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    block[16..18].copy_from_slice(&identity.log.to_le_bytes());
    block[20..24].copy_from_slice(&identity.epoch.to_le_bytes());
    block[24..32].copy_from_slice(&segment.base.to_le_bytes());
    block[32..40].copy_from_slice(&segment.bytes.to_le_bytes());
    let place = Position::new(identity.log, segment.base).0;
    let checksum = identity.salt.checksum(place, &block[12..]);
    block[8..12].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// The segment that `block` starts, if it is the one of `identity` at `base`.
pub(crate) fn decode_header(identity: Identity, base: u64, block: &[u8]) -> Option<Segment> {
    if block.len() != BLOCK_LENGTH || block[..8] != MAGIC {
        return None;
    }
    let checksum = identity.salt.checksum(Position::new(identity.log, base).0, &block[12..]);
    let is_ours = u32_at(block, 8) == checksum
        && u32_at(block, 12) == FORMAT_VERSION
        && u16_at(block, 16) == identity.log
        && u32_at(block, 20) == identity.epoch
        && u64_at(block, 24) == base
        && is_zero(&block[40..]);
    is_ours.then(|| Segment::new(base, u64_at(block, 32)))
}

/// The segments of all logs that this shard may read, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentTable {
    /// By the position of their first byte.
    segments: BTreeMap<Position, Segment>,
}

impl SegmentTable {
    pub(crate) fn insert(&mut self, log: u16, segment: Segment) {
        self.segments.insert(Position::new(log, segment.base), segment);
    }

    pub(crate) fn remove(&mut self, log: u16, base: u64) {
        self.segments.remove(&Position::new(log, base));
    }

    /// The segment that `position` is in; none if it was retired.
    pub(crate) fn find(&self, position: Position) -> Option<(FileId, &Segment)> {
        let (start, segment) = self.segments.range(..=position).next_back()?;
        let log = position.log();
        let is_inside = start.log() == log && position.offset() < segment.end();
        is_inside.then_some((FileId::Segment { log, base: segment.base }, segment))
    }

    /// The segments of `log`, oldest first.
    pub(crate) fn of_log(&self, log: u16) -> impl DoubleEndedIterator<Item = &Segment> {
        let all = Position::new(log, 0)..=Position::new(log, (1 << 48) - 1);
        self.segments.range(all).map(|(_, segment)| segment)
    }
}
