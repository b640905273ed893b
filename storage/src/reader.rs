//! Pages of history: an entity's records, newest or oldest first, in bounded time however old.
//!
//! A reader starts at the nearest place that the index knows and hops from record to record along
//! `previous`. Each read ends just behind the record it is for, so that its neighbours in the
//! chain often come along. Nothing at or above the durable watermark is read, and nothing is
//! believed but a record whose checksum, entity and sequence are those that were expected.

use crate::BLOCK_BYTES;
use crate::error::{DiskError, ReadError};
use crate::file::{DiskEvent, DiskOp};
use crate::index::{Chain, MARK_EVERY};
use crate::log::Log;
use crate::record::{self, NotRecord, RECORD_HEADER_BYTES, Record};
use std::collections::VecDeque;
use wire::{Hlc, Partition, Position};

/// Bytes read before the block of the wanted record, and from that block on.
const BEFORE_BYTES: u64 = 56 << 10;
const BEHIND_BYTES: u64 = 2 * BLOCK_BYTES;

/// Which way a page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Newest first, from `from` down.
    Backwards {
        /// The newest sequence that is wanted.
        from: u64,
    },
    /// Oldest first, from behind `after` up to `through`.
    Forwards {
        /// The sequence before the first that is wanted.
        after: u64,
        /// The last that is wanted.
        through: u64,
    },
}

/// Which records are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Whose.
    pub entity: u128,
    /// From where, in which order.
    pub walk: Walk,
    /// At most so many.
    pub records_max: u32,
    /// At most so many bytes of bodies, but one record at least.
    pub bytes_max: u32,
}

/// A record of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Where it is.
    pub position: Position,
    /// What it is to those who wrote it.
    pub kind: u16,
    /// Who owned it when it was written.
    pub partition: Partition,
    /// What it is about.
    pub entity: u128,
    /// Its number in the chain.
    pub sequence: u64,
    /// When it was written.
    pub hlc: Hlc,
    /// What was written.
    pub body: Vec<u8>,
}

/// What was asked for, as far as it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order that was asked for.
    pub records: Vec<OwnedRecord>,
    /// The records up to this sequence are retired; 0 if the page met none that is.
    pub retired_through: u64,
}

/// Names a reader until its page was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// The readers of one shard.
#[derive(Debug)]
pub struct Readers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ops: VecDeque<DiskOp>,
    pages: VecDeque<(ReaderId, Result<Page, ReadError>)>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    reader: Option<Reader>,
}

/// One page being read.
#[derive(Debug)]
struct Reader {
    query: PageQuery,
    /// The part of the chain that is being hopped through.
    leg: Leg,
    /// The record to be looked at, and its sequence.
    at: (Position, u64),
    /// Bytes of some file, from a position on.
    window: (Position, Vec<u8>),
    /// The window was read for one record alone.
    is_exact: bool,
    /// How long the window is to be.
    asked_bytes: u32,
    /// The records of a forwards leg, newest first.
    turned: Vec<OwnedRecord>,
    page: Page,
    page_bytes: u64,
}

/// Sequences, both inclusive.
#[derive(Clone, Copy, Debug)]
struct Leg {
    low: u64,
    high: u64,
}

enum Step {
    Read {
        start: Position,
        length: u32,
        /// It is for one record, whose header was seen, and holds all of it.
        is_exact: bool,
    },
    Done,
}

impl Readers {
    /// Room for `readers_max` pages at once.
    pub fn new(readers_max: u32) -> Self {
        let slots = (0..readers_max).map(|_| Slot { generation: 0, reader: None }).collect();
        let free = (0..readers_max).rev().collect();
        Self { slots, free, ops: VecDeque::new(), pages: VecDeque::new() }
    }

    /// Begins a page. It comes out of [`Readers::poll_page`] under the id that is returned.
    pub fn begin(&mut self, log: &Log, query: PageQuery) -> Result<ReaderId, ReadError> {
        let slot_index = self.free.pop().ok_or(ReadError::Busy)?;
        let slot = &mut self.slots[slot_index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let id = ReaderId((u64::from(slot.generation) << 32) | u64::from(slot_index));
        match Reader::new(log, query) {
            Some(reader) => {
                slot.reader = Some(reader);
                self.advance(log, id);
            }
            None => {
                self.free.push(slot_index);
                self.pages.push_back((id, Ok(Page::default())));
            }
        }
        Ok(id)
    }

    /// The next read for the driver. Called until none.
    pub fn poll_op(&mut self) -> Option<DiskOp> {
        self.ops.pop_front()
    }

    /// The next page that is ready.
    pub fn poll_page(&mut self) -> Option<(ReaderId, Result<Page, ReadError>)> {
        self.pages.pop_front()
    }

    /// Hears what was read.
    pub fn handle(&mut self, log: &Log, event: DiskEvent) {
        let DiskEvent::Read { token, bytes, result } = event else {
            panic!("not an event of a reader: {:?}", event.target())
        };
        let id = ReaderId(token);
        let reader = self.reader_mut(id).as_mut().expect("its read was under way");
        let position = reader.at.0;
        let result = match result {
            Ok(()) if bytes.len() < reader.asked_bytes as usize => Err(DiskError::Short),
            result => result,
        };
        reader.window.1 = bytes;
        match result {
            Ok(()) => self.advance(log, id),
            // What was asked for may have been retired, and its file removed, in the meantime.
            Err(_) if log.locate(position).is_none() => self.advance(log, id),
            Err(error) => self.end(id, Err(ReadError::Disk { position, error })),
        }
    }

    fn advance(&mut self, log: &Log, id: ReaderId) {
        let reader = self.reader_mut(id).as_mut().expect("it is being advanced");
        match reader.advance(log) {
            Ok(Step::Read { start, length, is_exact }) => {
                reader.is_exact = is_exact;
                reader.window = (start, Vec::new());
                reader.asked_bytes = length;
                let (file, offset) = log.locate(start).expect("the reader has just looked");
                self.ops.push_back(DiskOp::Read { file, offset, length, token: id.0 });
            }
            Ok(Step::Done) => {
                let mut page = std::mem::take(&mut reader.page);
                // Retention may go on while a page is read: what was read of the retired part is
                // left out, so that a page begins where its gap ends.
                let retired_through = page.retired_through;
                page.records.retain(|record| record.sequence > retired_through);
                self.end(id, Ok(page));
            }
            Err(error) => self.end(id, Err(error)),
        }
    }

    fn end(&mut self, id: ReaderId, outcome: Result<Page, ReadError>) {
        *self.reader_mut(id) = None;
        self.free.push(slot_of(id));
        self.pages.push_back((id, outcome));
    }

    fn reader_mut(&mut self, id: ReaderId) -> &mut Option<Reader> {
        let slot = &mut self.slots[slot_of(id) as usize];
        assert_eq!(u64::from(slot.generation), id.0 >> 32, "a reader ends once");
        &mut slot.reader
    }
}

fn slot_of(id: ReaderId) -> u32 {
    u32::try_from(id.0 & u64::from(u32::MAX)).expect("masked")
}

impl Reader {
    /// None if there is nothing to read.
    fn new(log: &Log, query: PageQuery) -> Option<Self> {
        let chain = log.index().chain(query.entity)?;
        let leg = match query.walk {
            Walk::Backwards { from } => {
                let high = from.min(newest_durable(log, chain)?.1);
                Leg { low: high.saturating_sub(u64::from(query.records_max)) + 1, high }
            }
            Walk::Forwards { after, through } => forwards_leg(after, through),
        };
        let mut reader = Self {
            query,
            leg,
            at: (Position(0), 0),
            window: (Position(0), Vec::new()),
            is_exact: false,
            asked_bytes: 0,
            turned: Vec::new(),
            page: Page::default(),
            page_bytes: 0,
        };
        (query.records_max > 0 && reader.begin_leg(log, leg)).then_some(reader)
    }

    /// Finds where to start for `leg`; false if nothing of it is there.
    fn begin_leg(&mut self, log: &Log, leg: Leg) -> bool {
        let chain = log.index().chain(self.query.entity).expect("chains do not go");
        let mark_number = leg.high.div_ceil(MARK_EVERY);
        let marked = usize::try_from(mark_number)
            .ok()
            .and_then(|number| chain.marks.get(number.checked_sub(1)?))
            .filter(|position| **position < limit(log, **position))
            .map(|position| (*position, mark_number * MARK_EVERY));
        let Some(at) = marked.or_else(|| newest_durable(log, chain)) else { return false };
        self.at = at;
        self.leg = Leg { low: leg.low, high: leg.high.min(at.1) };
        self.leg.low <= self.leg.high
    }

    fn advance(&mut self, log: &Log) -> Result<Step, ReadError> {
        loop {
            let (position, sequence) = self.at;
            let is_retired = sequence >= self.leg.low && log.locate(position).is_none();
            if is_retired {
                self.page.retired_through = self.page.retired_through.max(sequence);
            }
            if is_retired || sequence < self.leg.low {
                if !self.end_leg(log) {
                    return Ok(Step::Done);
                }
                continue;
            }
            let record = match self.record(log)? {
                Ok(record) => record,
                Err(step) => return Ok(step),
            };
            if record.entity != self.query.entity || record.sequence != sequence {
                return Err(ReadError::Corrupt { position });
            }
            let is_wanted = sequence <= self.leg.high;
            let owned = is_wanted.then(|| OwnedRecord::of(&record));
            self.at = (record.previous, sequence - 1);
            if owned.is_some_and(|owned| !self.take(owned)) {
                return Ok(Step::Done);
            }
        }
    }

    /// The record to be looked at, or what to read for it.
    fn record(&self, log: &Log) -> Result<Result<Record<'_>, Step>, ReadError> {
        let position = self.at.0;
        let (start, bytes) = (self.window.0, &self.window.1);
        let skipped = position.0.checked_sub(start.0).and_then(|bytes| usize::try_from(bytes).ok());
        let inside = skipped.and_then(|skipped| bytes.get(skipped..)).unwrap_or_default();
        if inside.len() < RECORD_HEADER_BYTES {
            return match self.is_exact && start == position {
                true => Err(ReadError::Corrupt { position }),
                false => Ok(Err(read_around(log, position)?)),
            };
        }
        match record::parse(inside, position, log.identity.salt) {
            Ok(record) => Ok(Ok(record)),
            // Longer than what was read, so it is read alone; unless it was, or reaches further
            // than anything that is durable.
            Err(NotRecord::Short(needed))
                if !(self.is_exact && start == position)
                    && position.0 + needed as u64 <= limit(log, position).0 =>
            {
                let length = u32::try_from(needed).expect("a record is bounded");
                Ok(Err(Step::Read { start: position, length, is_exact: true }))
            }
            Err(NotRecord::Short(_) | NotRecord::Bad) => Err(ReadError::Corrupt { position }),
        }
    }

    /// Adds a wanted record; false if the page is full.
    fn take(&mut self, record: OwnedRecord) -> bool {
        match self.query.walk {
            Walk::Forwards { .. } => {
                self.turned.push(record);
                true
            }
            Walk::Backwards { .. } => self.add(record),
        }
    }

    /// Adds a record to the page unless that is full; false if it is full after that.
    fn add(&mut self, record: OwnedRecord) -> bool {
        let page_bytes = self.page_bytes + record.body.len() as u64;
        let records = &mut self.page.records;
        if !records.is_empty() && page_bytes > u64::from(self.query.bytes_max) {
            return false;
        }
        records.push(record);
        self.page_bytes = page_bytes;
        records.len() < self.query.records_max as usize
    }

    /// Goes on with the next leg; false if the page is done.
    fn end_leg(&mut self, log: &Log) -> bool {
        let Walk::Forwards { through, .. } = self.query.walk else { return false };
        while let Some(record) = self.turned.pop() {
            if !self.add(record) {
                return false;
            }
        }
        let after = self.leg.high.max(self.page.retired_through);
        after < through && self.begin_leg(log, forwards_leg(after, through))
    }
}

impl OwnedRecord {
    fn of(record: &Record<'_>) -> Self {
        Self {
            position: record.position,
            kind: record.kind,
            partition: record.partition,
            entity: record.entity,
            sequence: record.sequence,
            hlc: record.hlc,
            body: record.body.to_vec(),
        }
    }
}

/// From behind `after` to the next mark, so that a leg is short and starts at a known place.
fn forwards_leg(after: u64, through: u64) -> Leg {
    let low = after.saturating_add(1);
    Leg { low, high: through.min(low.div_ceil(MARK_EVERY).saturating_mul(MARK_EVERY)) }
}

/// The newest record of `chain` that may be read, and its sequence.
fn newest_durable(log: &Log, chain: &Chain) -> Option<(Position, u64)> {
    let (mut position, mut sequence) = (chain.last, chain.count);
    while sequence > 0 && position >= limit(log, position) {
        position = log.previous_of_undurable(position).expect("it is chained and not durable");
        sequence -= 1;
    }
    (sequence > 0).then_some((position, sequence))
}

/// The position below which the log that `position` is in may be read: logs of other epochs are
/// never written again.
fn limit(log: &Log, position: Position) -> Position {
    if position.log() == log.id() { log.durable() } else { Position(u64::MAX) }
}

/// A read that holds the header of the record at `position`, most likely all of it, and what was
/// written shortly before it.
fn read_around(log: &Log, position: Position) -> Result<Step, ReadError> {
    let (_, segment) = log.table.find(position).ok_or(ReadError::Corrupt { position })?;
    let offset = position.offset();
    let block = offset - offset % BLOCK_BYTES;
    let start = block.saturating_sub(BEFORE_BYTES).max(segment.records_start());
    let limit = limit(log, position);
    let end = (block + BEHIND_BYTES).min(segment.end()).min(limit.offset());
    if offset < start || offset + RECORD_HEADER_BYTES as u64 > end {
        return Err(ReadError::Corrupt { position });
    }
    let length = u32::try_from(end - start).expect("a window is small");
    let start = Position::new(position.log(), start);
    Ok(Step::Read { start, length, is_exact: false })
}

const _: () = assert!(BEFORE_BYTES + BEHIND_BYTES <= 64 << 10);
