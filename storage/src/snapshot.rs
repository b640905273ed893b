//! Snapshots: the engine's state and the index, captured in bites while the log goes on.
//!
//! An entry is captured some time after `replay_from`, so records behind that place may be in it
//! already: what is restored from it says what it includes, and the replay skips those. A snapshot
//! gets its final name only when all that its entries may have seen is durable.
//!
//! ```text
//! 0          8         12        16     18      20      24            32
//! | RINGSNAP | crc32c  | version | log  | spare | epoch | replay_from |  entries ... end entry
//!
//! 0         4         8      10          12      16
//! | crc32c  | length  | kind | partition | spare | body ... | zeros to 8 |
//! ```

use crate::BLOCK_BYTES;
use crate::error::DiskError;
use crate::file::{DiskEvent, DiskOp, FileId};
use crate::folder::Folder;
use crate::index::{Chain, Index};
use crate::log::Log;
use crate::record::{KIND_FIRST, is_zero, u16_at, u32_at, u64_at};
use crate::segment::{FORMAT_VERSION, Identity};
use std::collections::VecDeque;
use wire::{Partition, Position};

/// The largest body of an entry.
pub const SNAPSHOT_ENTRY_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"RINGSNAP";
const HEADER_BYTES: usize = 32;
const ENTRY_HEADER_BYTES: usize = 16;
/// The last entry: how many were before it, and how far the log must be durable.
const KIND_END: u16 = 3;
/// A part of an entity's chain.
const KIND_CHAIN: u16 = 4;
const CHAIN_MARKS_MAX: usize = 4096;
const CHAIN_HEAD_BYTES: usize = 40;
/// Entries are asked for while less than this waits to be written.
const FILL_BYTES: usize = 256 << 10;
/// So much is written between syncs, so that none of them holds up the log's for long.
const SYNC_EVERY_BYTES: u64 = 1 << 20;
/// The newest, and one to fall back to.
const SNAPSHOTS_KEPT: usize = 2;
const CHUNK_BYTES: usize = 1 << 20;

const _: () = assert!(CHAIN_HEAD_BYTES + 8 * CHAIN_MARKS_MAX <= SNAPSHOT_ENTRY_BYTES_MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The file is to be created.
    Begun,
    /// Entries come in.
    Filling,
    /// All entries are in; they may have seen the log up to this offset.
    Finished(u64),
    /// All is on the disk; the name is given when the log is durable up to this offset.
    Synced(u64),
    /// The final name is being given.
    Publishing,
    /// Older snapshots go, or the unfinished file of a failed one.
    Clearing(Result<Position, DiskError>),
}

/// Writes one snapshot, one op at a time.
#[derive(Debug)]
pub struct SnapshotWriter {
    identity: Identity,
    replay_from: u64,
    stage: Stage,
    /// Encoded, waiting to be written.
    filled: Vec<u8>,
    /// Where in the file the next encoded byte goes.
    encoded_bytes: u64,
    written_bytes: u64,
    unsynced_bytes: u64,
    entries_count: u64,
    /// The next chain to be written, and how many of its marks are.
    chain_next: (usize, usize),
    removals: VecDeque<FileId>,
    is_under_way: bool,
    expected_bytes: usize,
}

impl SnapshotWriter {
    /// Begins a snapshot; none if nothing was appended since the last one.
    pub fn begin(log: &Log) -> Option<Self> {
        let replay_from = log.records_end();
        if log.snapshots.last() == Some(&replay_from) || log.poisoned().is_some() {
            return None;
        }
        let mut writer = Self {
            identity: log.identity,
            replay_from,
            stage: Stage::Begun,
            filled: encode_header(log.identity, replay_from),
            encoded_bytes: HEADER_BYTES as u64,
            written_bytes: 0,
            unsynced_bytes: 0,
            entries_count: 0,
            chain_next: (0, 0),
            removals: VecDeque::new(),
            is_under_way: false,
            expected_bytes: 0,
        };
        writer.filled.reserve(FILL_BYTES);
        Some(writer)
    }

    /// From where on records are to be replayed on top of it.
    pub fn replay_from(&self) -> Position {
        Position::new(self.identity.log, self.replay_from)
    }

    /// Whether it takes entries: before each push.
    pub fn wants_more(&self) -> bool {
        matches!(self.stage, Stage::Begun | Stage::Filling) && self.filled.len() < FILL_BYTES
    }

    /// Adds an entry of the engine, which asks [`SnapshotWriter::wants_more`] before each bite of
    /// them.
    pub fn push(&mut self, kind: u16, partition: Partition, body: &[u8]) {
        assert!(kind >= KIND_FIRST && body.len() <= SNAPSHOT_ENTRY_BYTES_MAX);
        assert!(matches!(self.stage, Stage::Begun | Stage::Filling), "nothing follows the end");
        self.encode_entry(kind, partition, body);
    }

    /// Adds chains of the index, as many as are wanted. True once all are in.
    pub fn push_index(&mut self, index: &Index) -> bool {
        while self.wants_more() {
            let (chain_index, marks_start) = self.chain_next;
            let Some(chain) = index.chains().get(chain_index) else { return true };
            let marks = &chain.marks[marks_start..];
            let marks = &marks[..marks.len().min(CHAIN_MARKS_MAX)];
            let mut body = Vec::with_capacity(CHAIN_HEAD_BYTES + 8 * marks.len());
            body.extend_from_slice(&chain.entity.to_le_bytes());
            body.extend_from_slice(&chain.count.to_le_bytes());
            body.extend_from_slice(&chain.last.0.to_le_bytes());
            body.extend_from_slice(&(marks_start as u64).to_le_bytes());
            for mark in marks {
                body.extend_from_slice(&mark.0.to_le_bytes());
            }
            let marks_end = marks_start + marks.len();
            let is_done = marks_end == chain.marks.len();
            self.chain_next = if is_done { (chain_index + 1, 0) } else { (chain_index, marks_end) };
            self.encode_entry(KIND_CHAIN, chain.partition, &body);
        }
        false
    }

    /// All entries are in. What they have seen of `log` must become durable first.
    pub fn finish(&mut self, log: &Log) {
        if let Stage::Clearing(Err(_)) = self.stage {
            return;
        }
        assert!(self.may_finish(), "the file is created before the snapshot is finished");
        let seen = log.records_end();
        let mut body = [0; 16];
        body[..8].copy_from_slice(&self.entries_count.to_le_bytes());
        body[8..].copy_from_slice(&seen.to_le_bytes());
        self.encode_entry(KIND_END, Partition(0), &body);
        self.stage = Stage::Finished(seen);
    }

    /// Whether [`SnapshotWriter::finish`] may be called: its file is there.
    pub fn may_finish(&self) -> bool {
        self.stage == Stage::Filling
    }

    /// The next thing for the driver to do.
    pub fn poll_op(&mut self, log: &Log) -> Option<DiskOp> {
        if self.is_under_way {
            return None;
        }
        let file = self.file(true);
        let op = match self.stage {
            Stage::Begun => DiskOp::Create { file },
            Stage::Filling | Stage::Finished(_) if self.unsynced_bytes >= SYNC_EVERY_BYTES => {
                DiskOp::Sync { file }
            }
            Stage::Filling if self.filled.len() < FILL_BYTES => return None,
            Stage::Finished(_) if self.filled.is_empty() => DiskOp::Sync { file },
            Stage::Filling | Stage::Finished(_) => {
                let bytes = std::mem::take(&mut self.filled);
                self.expected_bytes = bytes.len();
                DiskOp::Write { file, offset: self.written_bytes, bytes }
            }
            Stage::Synced(seen) if log.durable().offset() < seen => return None,
            Stage::Synced(_) => {
                self.stage = Stage::Publishing;
                DiskOp::Publish { from: file, to: self.file(false) }
            }
            Stage::Publishing => return None,
            Stage::Clearing(_) => DiskOp::Remove { file: *self.removals.front()? },
        };
        self.is_under_way = true;
        Some(op)
    }

    /// Hears what became of an op. `log` learns of the snapshot once it is there for good.
    pub fn handle(&mut self, event: DiskEvent, log: &mut Log) {
        assert!(self.is_under_way);
        self.is_under_way = false;
        let failed = match event {
            DiskEvent::Created { result, .. } => {
                if result.is_ok() {
                    self.stage = Stage::Filling;
                }
                result.err()
            }
            DiskEvent::Written { result: Ok(count), bytes, .. } => {
                self.on_written(count, bytes);
                (count != self.expected_bytes).then_some(DiskError::Short)
            }
            DiskEvent::Written { result, .. } => result.err(),
            DiskEvent::Synced { result, .. } => {
                self.unsynced_bytes = 0;
                if let (Stage::Finished(seen), true) = (self.stage, self.filled.is_empty()) {
                    self.stage = Stage::Synced(seen);
                }
                result.err()
            }
            DiskEvent::Published { result, .. } => {
                if result.is_ok() {
                    self.on_published(log);
                }
                result.err()
            }
            // A snapshot too many costs room, and the next one tries again.
            DiskEvent::Removed { .. } => {
                self.removals.pop_front();
                None
            }
            DiskEvent::Read { .. } | DiskEvent::Prepared { .. } => {
                panic!("not an event of a snapshot")
            }
        };
        if let Some(error) = failed {
            self.stage = Stage::Clearing(Err(error));
            self.removals.push_back(self.file(true));
            self.filled = Vec::new();
        }
    }

    /// How it ended: where the snapshot is to be replayed from, or why there is none.
    pub fn outcome(&self) -> Option<Result<Position, DiskError>> {
        match self.stage {
            Stage::Clearing(outcome) if self.removals.is_empty() => Some(outcome),
            _ => None,
        }
    }

    fn on_written(&mut self, count: usize, mut bytes: Vec<u8>) {
        self.written_bytes += count as u64;
        self.unsynced_bytes += count as u64;
        if self.filled.capacity() == 0 {
            bytes.clear();
            self.filled = bytes;
        }
    }

    fn on_published(&mut self, log: &mut Log) {
        log.snapshots.push(self.replay_from);
        while log.snapshots.len() > SNAPSHOTS_KEPT {
            let offset = log.snapshots.remove(0);
            let log = self.identity.log;
            self.removals.push_back(FileId::Snapshot { log, offset, temporary: false });
        }
        self.stage = Stage::Clearing(Ok(self.replay_from()));
    }

    fn file(&self, temporary: bool) -> FileId {
        FileId::Snapshot { log: self.identity.log, offset: self.replay_from, temporary }
    }

    fn encode_entry(&mut self, kind: u16, partition: Partition, body: &[u8]) {
        let start = self.filled.len();
        let length = u32::try_from(ENTRY_HEADER_BYTES + body.len()).expect("entries are bounded");
        self.filled.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
        let head = &mut self.filled[start..];
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..10].copy_from_slice(&kind.to_le_bytes());
        head[10..12].copy_from_slice(&partition.0.to_le_bytes());
        self.filled.extend_from_slice(body);
        let place = place_of(self.replay_from(), self.encoded_bytes);
        let checksum = self.identity.salt.checksum(place, &self.filled[start + 4..]);
        self.filled[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        self.filled.resize((self.filled.len() - start).next_multiple_of(8) + start, 0);
        self.encoded_bytes += (self.filled.len() - start) as u64;
        self.entries_count += 1;
    }
}

/// What an entry's checksum is bound to: the snapshot it is in, and its place there. Unlike any
/// position of a record.
fn place_of(replay_from: Position, file_offset: u64) -> u64 {
    !replay_from.0 ^ file_offset.rotate_left(16)
}

fn encode_header(identity: Identity, replay_from: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[12..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..18].copy_from_slice(&identity.log.to_le_bytes());
    bytes[20..24].copy_from_slice(&identity.epoch.to_le_bytes());
    bytes[24..32].copy_from_slice(&replay_from.to_le_bytes());
    let place = place_of(Position::new(identity.log, replay_from), 0);
    let checksum = identity.salt.checksum(place, &bytes[12..]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// One entry, as it is read.
pub(crate) enum Entry<'a> {
    /// Of the engine.
    State { kind: u16, partition: Partition, body: &'a [u8] },
    /// Of the index: a part of a chain, with its marks from a place on.
    Chain(Chain, usize),
}

/// Reads snapshot `offset` of log `identity` and passes its entries to `visit`. Returns how far
/// the log must be whole for it; none if it is not a whole snapshot.
pub(crate) fn read(
    folder: &mut dyn Folder,
    identity: Identity,
    offset: u64,
    visit: &mut dyn FnMut(Entry<'_>),
) -> Option<u64> {
    let file = FileId::Snapshot { log: identity.log, offset, temporary: false };
    let mut window = Window { file, start: 0, bytes: Vec::new() };
    let header = window.at(folder, 0, HEADER_BYTES)?;
    if header != encode_header(identity, offset) {
        return None;
    }
    let mut entries_count = 0;
    let mut cursor = HEADER_BYTES as u64;
    loop {
        let length = u32_at(window.at(folder, cursor, ENTRY_HEADER_BYTES)?, 4) as usize;
        if !(ENTRY_HEADER_BYTES..=ENTRY_HEADER_BYTES + SNAPSHOT_ENTRY_BYTES_MAX).contains(&length) {
            return None;
        }
        let padded = length.next_multiple_of(8);
        let bytes = window.at(folder, cursor, padded)?;
        let place = place_of(Position::new(identity.log, offset), cursor);
        if identity.salt.checksum(place, &bytes[4..length]) != u32_at(bytes, 0)
            || !is_zero(&bytes[length..])
        {
            return None;
        }
        let (kind, partition) = (u16_at(bytes, 8), Partition(u16_at(bytes, 10)));
        let body = &bytes[ENTRY_HEADER_BYTES..length];
        match kind {
            KIND_END => return (u64_at(body, 0) == entries_count).then(|| u64_at(body, 8)),
            KIND_CHAIN => {
                let (chain, marks_start) = decode_chain(partition, body);
                visit(Entry::Chain(chain, marks_start));
            }
            _ => visit(Entry::State { kind, partition, body }),
        }
        entries_count += 1;
        cursor += padded as u64;
    }
}

fn decode_chain(partition: Partition, body: &[u8]) -> (Chain, usize) {
    let entity = u128::from(u64_at(body, 0)) | (u128::from(u64_at(body, 8)) << 64);
    let marks = body[CHAIN_HEAD_BYTES..].chunks_exact(8).map(|mark| Position(u64_at(mark, 0)));
    let chain = Chain {
        entity,
        partition,
        count: u64_at(body, 16),
        last: Position(u64_at(body, 24)),
        marks: marks.collect(),
    };
    (chain, usize::try_from(u64_at(body, 32)).expect("memory held them all"))
}

/// A piece of a file that moves forward.
struct Window {
    file: FileId,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The `length` bytes from `offset` on; none if the file ends before, or cannot be read.
    fn at(&mut self, folder: &mut dyn Folder, offset: u64, length: usize) -> Option<&[u8]> {
        let skipped = usize::try_from(offset - self.start).expect("a window is small");
        if self.bytes.len() < skipped + length {
            self.bytes.drain(..skipped.min(self.bytes.len()));
            self.start = offset;
            while self.bytes.len() < length {
                let from = offset + self.bytes.len() as u64;
                let read = folder.read(self.file, from, CHUNK_BYTES.max(length)).ok()?;
                if read.is_empty() {
                    return None;
                }
                self.bytes.extend_from_slice(&read);
            }
        }
        let skipped = usize::try_from(offset - self.start).expect("a window is small");
        self.bytes.get(skipped..skipped + length)
    }
}

const _: () = assert!((HEADER_BYTES as u64) < BLOCK_BYTES);
