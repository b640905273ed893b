//! Reading a log from a place to its end, and telling a torn tail from damage.
//!
//! A batch counts when all of it, its pad included, is there. At the first place where it is not,
//! the log ends, *unless* something behind that place proves that a sync had covered it: a record
//! whose hint reaches further, any record in a later segment, or what a snapshot relies on. Then
//! acknowledged bytes were lost or changed, and nothing may be built on the rest.

use crate::error::OpenError;
use crate::file::{FileId, log_folder};
use crate::folder::Folder;
use crate::record::{self, NotRecord, RECORD_HEADER_BYTES, Record, ends_batch, is_zero, padded};
use crate::segment::{Identity, Segment, decode_header};
use crate::{BLOCK_BYTES, BLOCK_LENGTH, DiskError};
use wire::{Hlc, Position};

const CHUNK_BYTES: u64 = 1 << 20;
/// How far into a later segment a record is looked for: the first batch written there is no longer.
const NEXT_SEARCH_BYTES: u64 = 32 << 20;

/// What there is of one log.
#[derive(Clone, Debug)]
pub(crate) struct LogFiles {
    pub(crate) identity: Identity,
    /// Without gaps, at least one.
    pub(crate) segments: Vec<Segment>,
    /// Offsets of snapshots that look finished, oldest first.
    pub(crate) snapshots: Vec<u64>,
    /// What a crash left over: unfinished files without a record.
    pub(crate) strays: Vec<FileId>,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The offset in the log behind the last whole batch.
    pub(crate) end: u64,
    /// The place of the segment it is in, or at the end of.
    pub(crate) active_index: usize,
    /// The offset behind the last byte that is not zero; above `end` if the tail was torn.
    pub(crate) written_end: u64,
}

/// Takes each record of a scan.
pub(crate) type Visit<'a> = dyn FnMut(&Record<'_>) -> Result<(), OpenError> + 'a;

/// Adds to a disk error where it happened.
pub(crate) fn at(file: FileId, offset: u64) -> impl Fn(DiskError) -> OpenError {
    move |error| OpenError::Disk { file, offset, error }
}

impl LogFiles {
    /// Lists log `identity` and reads the first block of each segment.
    pub(crate) fn list(folder: &mut dyn Folder, identity: Identity) -> Result<Self, OpenError> {
        let directory = log_folder(identity.log);
        let names = folder
            .list(&directory)
            .map_err(|error| OpenError::DiskFolder { folder: directory, error })?;
        let mut bases = Vec::new();
        let mut files = Self { identity, segments: vec![], snapshots: vec![], strays: vec![] };
        for (name, bytes) in names {
            match FileId::in_log(identity.log, &name) {
                Some(FileId::Segment { base, .. }) => bases.push((base, bytes)),
                Some(FileId::Snapshot { offset, temporary: false, .. }) => {
                    files.snapshots.push(offset);
                }
                Some(stray) => files.strays.push(stray),
                None => {} // Not ours: a person's note, or lost+found.
            }
        }
        bases.sort_unstable();
        files.snapshots.sort_unstable();
        for (at_index, &(base, bytes)) in bases.iter().enumerate() {
            files.take_segment(folder, (base, bytes), at_index + 1 == bases.len())?;
        }
        if files.segments.is_empty() {
            return Err(OpenError::Missing { log: identity.log, offset: 0 });
        }
        Ok(files)
    }

    fn take_segment(
        &mut self,
        folder: &mut dyn Folder,
        (base, file_bytes): (u64, u64),
        is_last: bool,
    ) -> Result<(), OpenError> {
        let identity = self.identity;
        let file = FileId::Segment { log: identity.log, base };
        let head_bytes = BLOCK_LENGTH + RECORD_HEADER_BYTES;
        let head = folder.read(file, 0, head_bytes).map_err(at(file, 0))?;
        let block = &head[..head.len().min(BLOCK_LENGTH)];
        let found = decode_header(identity, base, block);
        let Some(mut segment) = found.filter(|segment| segment.bytes == file_bytes) else {
            // A crash while it was prepared, if it is the last and nothing was written to it.
            let whole = Segment::new(base, file_bytes);
            let from = whole.records_start().min(whole.end());
            let is_empty = Search::run(folder, identity, &whole, from, None)?.proof.is_none();
            if is_last && is_empty && !self.segments.is_empty() {
                self.strays.push(file);
                return Ok(());
            }
            return Err(damage(file, base, base, identity.log, "its header is wrong"));
        };
        if let Some(before) = self.segments.last()
            && before.end() != base
        {
            return Err(OpenError::Missing { log: identity.log, offset: before.end() });
        }
        segment.first_hlc = first_hlc(&head[BLOCK_LENGTH..]);
        self.segments.push(segment);
        Ok(())
    }

    pub(crate) fn file(&self, segment: &Segment) -> FileId {
        FileId::Segment { log: self.identity.log, base: segment.base }
    }

    /// Refuses the log because of what is, or is not, at `position`.
    pub(crate) fn damage(&self, position: Position, what: &'static str) -> OpenError {
        let bad = position.offset();
        let index = self.segments.partition_point(|segment| segment.end() <= bad);
        let segment = &self.segments[index.min(self.segments.len() - 1)];
        damage(self.file(segment), segment.base, bad, self.identity.log, what)
    }

    /// Passes every record from offset `from` on to `visit`, in order. Whatever is below
    /// `vouched` must be there: a snapshot was made of it.
    pub(crate) fn scan(
        &self,
        folder: &mut dyn Folder,
        (from, vouched): (u64, u64),
        visit: &mut Visit<'_>,
    ) -> Result<Scanned, OpenError> {
        let log = self.identity.log;
        let first_index = self.segments.partition_point(|segment| segment.end() <= from);
        let mut scanned = Scanned {
            end: self.segments.last().expect("a log has a segment").end(),
            active_index: self.segments.len() - 1,
            written_end: 0,
        };
        for (index, segment) in self.segments.iter().enumerate().skip(first_index) {
            let file = self.file(segment);
            let start = from.max(segment.records_start());
            let tail = Tail::new(self.identity, *segment, start).run(folder, visit)?;
            (scanned.end, scanned.active_index) = (tail.end, index);
            if tail.end == segment.end() {
                continue;
            }
            let torn = |what| Err(damage(file, segment.base, tail.bad, log, what));
            if tail.end < vouched || !tail.end.is_multiple_of(BLOCK_BYTES) {
                return torn("a snapshot was made of records that are not there");
            }
            let beyond = Some(tail.end);
            let search = Search::run(folder, self.identity, segment, tail.end, beyond)?;
            if search.proof.is_some() {
                return torn("a record was durable and is not what was written");
            }
            for later in &self.segments[index + 1..] {
                let from = later.records_start();
                let later = Segment { bytes: later.bytes.min(NEXT_SEARCH_BYTES), ..*later };
                if Search::run(folder, self.identity, &later, from, None)?.proof.is_some() {
                    return torn("a later segment has records, but this one does not reach it");
                }
            }
            scanned.written_end = search.written_end;
            return Ok(scanned);
        }
        if scanned.end < vouched {
            return Err(OpenError::Missing { log, offset: scanned.end });
        }
        scanned.written_end = scanned.end;
        Ok(scanned)
    }
}

/// The stamp of a segment's first record, as far as its header can be taken at its word.
fn first_hlc(head: &[u8]) -> Option<Hlc> {
    let is_there = head.len() == RECORD_HEADER_BYTES && !is_zero(head);
    is_there.then(|| record::view(head, Position(0)).hlc).filter(|hlc| *hlc != Hlc(0))
}

/// Refuses `file` (whose first byte is byte `base` of its log) because of byte `bad` of the log.
fn damage(file: FileId, base: u64, bad: u64, log: u16, what: &'static str) -> OpenError {
    OpenError::Damage { file, offset: bad - base, position: Position::new(log, bad), what }
}

/// Reads one segment batch by batch.
struct Tail {
    identity: Identity,
    segment: Segment,
    /// The offset in the log of the first of `bytes`.
    start: u64,
    bytes: Vec<u8>,
    /// Records of the batch that has not ended: where in `bytes`, and how long.
    pending: Vec<(usize, usize)>,
}

struct TailEnd {
    /// Behind the last whole batch.
    end: u64,
    /// Where no record is, though one is needed to complete the segment.
    bad: u64,
}

impl Tail {
    fn new(identity: Identity, segment: Segment, start: u64) -> Self {
        Self { identity, segment, start, bytes: Vec::new(), pending: Vec::new() }
    }

    fn run(mut self, folder: &mut dyn Folder, visit: &mut Visit<'_>) -> Result<TailEnd, OpenError> {
        let mut end = self.start;
        let mut cursor = 0;
        while self.start + (cursor as u64) < self.segment.end() {
            let Some((kind, length)) = self.record_at(folder, cursor)? else { break };
            let after = cursor + length.next_multiple_of(8);
            if !ends_batch(kind) {
                self.pending.push((cursor, length));
                cursor = after;
                continue;
            }
            let after_offset = self.start + after as u64;
            if !after_offset.is_multiple_of(BLOCK_BYTES) {
                break;
            }
            for (at, length) in self.pending.drain(..) {
                let position = Position::new(self.identity.log, self.start + at as u64);
                visit(&record::view(&self.bytes[at..at + length], position))?;
            }
            (end, cursor) = (after_offset, after);
            if cursor as u64 >= CHUNK_BYTES {
                self.bytes.drain(..cursor);
                (self.start, cursor) = (end, 0);
            }
        }
        Ok(TailEnd { end, bad: self.start + cursor as u64 })
    }

    /// Kind and length of the record `cursor` bytes on, if there is one.
    fn record_at(
        &mut self,
        folder: &mut dyn Folder,
        cursor: usize,
    ) -> Result<Option<(u16, usize)>, OpenError> {
        let position = Position::new(self.identity.log, self.start + cursor as u64);
        loop {
            let bytes = &self.bytes[cursor.min(self.bytes.len())..];
            match record::parse(bytes, position, self.identity.salt) {
                Ok(record) => {
                    return Ok(Some((record.kind, RECORD_HEADER_BYTES + record.body.len())));
                }
                Err(NotRecord::Bad) => return Ok(None),
                Err(NotRecord::Short(needed)) => {
                    if !self.extend(folder, cursor + needed)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Reads on until there are `needed` bytes; false if the segment is not that long.
    fn extend(&mut self, folder: &mut dyn Folder, needed: usize) -> Result<bool, OpenError> {
        let file = FileId::Segment { log: self.identity.log, base: self.segment.base };
        if self.start + needed as u64 > self.segment.end() {
            return Ok(false);
        }
        while self.bytes.len() < needed {
            let from = self.start + self.bytes.len() as u64;
            let bytes = read_chunk(folder, file, &self.segment, from)?;
            self.bytes.extend_from_slice(&bytes);
        }
        Ok(true)
    }
}

/// Reads from byte `from` of the log to the end of a chunk or of `segment`.
fn read_chunk(
    folder: &mut dyn Folder,
    file: FileId,
    segment: &Segment,
    from: u64,
) -> Result<Vec<u8>, OpenError> {
    let offset = from - segment.base;
    let length = usize::try_from(CHUNK_BYTES.min(segment.end() - from)).expect("a chunk");
    let bytes = folder.read(file, offset, length).map_err(at(file, offset))?;
    if bytes.len() < length {
        return Err(at(file, offset)(DiskError::Short));
    }
    Ok(bytes)
}

/// Looks at every place where a record could stand.
struct Search {
    /// The offset of a record that was asked for.
    proof: Option<u64>,
    /// The offset behind the last byte that is not zero.
    written_end: u64,
}

impl Search {
    /// Searches `segment` from offset `from` on for a record whose hint is above `beyond`, or for
    /// any record.
    fn run(
        folder: &mut dyn Folder,
        identity: Identity,
        segment: &Segment,
        from: u64,
        beyond: Option<u64>,
    ) -> Result<Self, OpenError> {
        let file = FileId::Segment { log: identity.log, base: segment.base };
        let mut search = Self { proof: None, written_end: from };
        let mut chunk_start = from;
        while chunk_start < segment.end() {
            let chunk = read_chunk(folder, file, segment, chunk_start)?;
            let chunk_end = chunk_start + chunk.len() as u64;
            for block_start in (0..chunk.len()).step_by(BLOCK_LENGTH) {
                let block_end = chunk.len().min(block_start + BLOCK_LENGTH);
                let block = &chunk[block_start..block_end];
                if is_zero(block) {
                    continue;
                }
                let used = block.len() - block.iter().rev().take_while(|byte| **byte == 0).count();
                search.written_end = chunk_start + (block_start + used) as u64;
                for at in (block_start..block_end).step_by(8) {
                    let offset = chunk_start + at as u64;
                    let position = Position::new(identity.log, offset);
                    let mut found = record::parse(&chunk[at..], position, identity.salt);
                    let longer;
                    if let Err(NotRecord::Short(needed)) = found
                        && offset + padded(needed as u64) <= segment.end()
                    {
                        longer = read_record(folder, (identity, segment), offset)?;
                        found = record::parse(&longer, position, identity.salt);
                    }
                    let durable = found.ok().map(|record| record.durable);
                    if durable.is_some_and(|hint| beyond.is_none_or(|least| hint > least)) {
                        search.proof = Some(offset);
                        return Ok(search);
                    }
                }
            }
            chunk_start = chunk_end;
        }
        Ok(search)
    }
}

/// The bytes of the record at `offset` of the log, as far as it says it goes.
fn read_record(
    folder: &mut dyn Folder,
    (identity, segment): (Identity, &Segment),
    offset: u64,
) -> Result<Vec<u8>, OpenError> {
    let file = FileId::Segment { log: identity.log, base: segment.base };
    let position = Position::new(identity.log, offset);
    let mut length = RECORD_HEADER_BYTES;
    loop {
        let bytes = folder
            .read(file, offset - segment.base, length)
            .map_err(at(file, offset - segment.base))?;
        match record::parse(&bytes, position, identity.salt) {
            Err(NotRecord::Short(needed))
                if needed > length && offset + needed as u64 <= segment.end() =>
            {
                length = needed;
            }
            _ => return Ok(bytes),
        }
    }
}
