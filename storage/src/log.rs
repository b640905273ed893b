//! One shard's log: appends in, disk ops out, watermarks that only rise.

use crate::commit::{Commit, Flight, Landing, Role};
use crate::error::{AppendError, DiskError};
use crate::file::{DiskEvent, DiskOp, FileId};
use crate::index::Index;
use crate::record::{Header, KIND_FIRST, RECORD_HEADER_BYTES, Vouch, padded, seal};
use crate::segment::{Identity, Segment, SegmentTable, encode_header};
use crate::settings::{Durability, Settings};
use std::collections::VecDeque;
use wire::{Hlc, Partition, Position};

/// A record to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// What it is; not below [`KIND_FIRST`].
    pub kind: u16,
    /// Who owns it.
    pub partition: Partition,
    /// What it is about.
    pub entity: u128,
    /// Its number in the entity's chain, one more than the last; 0 if it is to be in none.
    pub sequence: u64,
    /// When.
    pub hlc: Hlc,
    /// What is to be kept, gathered from two places.
    pub body: [&'a [u8]; 2],
}

/// How much of the past is kept. Either limit alone retires a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Retire the oldest segments while the log's files are larger.
    pub bytes: Option<u64>,
    /// Retire what was written before this wall time, in milliseconds since 1970.
    pub before: Option<u64>,
}

/// The segment after the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Asked(Segment),
    Ready(Segment),
    Failed(Segment, DiskError),
}

/// Segments on their way out, oldest first: one at a time, so that a crash leaves no gap.
#[derive(Debug, Default)]
struct Removals {
    waiting: VecDeque<FileId>,
    is_under_way: bool,
    /// The oldest could not be removed; the next call of `retire` tries again.
    is_halted: bool,
}

impl Removals {
    fn poll(&mut self) -> Option<FileId> {
        if self.is_under_way || self.is_halted {
            return None;
        }
        let file = self.waiting.front().copied();
        self.is_under_way = file.is_some();
        file
    }

    fn on_removed(&mut self, file: FileId, result: Result<(), DiskError>) {
        assert_eq!(self.waiting.front(), Some(&file));
        self.is_under_way = false;
        match result {
            Ok(()) => drop(self.waiting.pop_front()),
            Err(_) => self.is_halted = true,
        }
    }
}

/// One shard's log. Performs nothing: the driver takes its ops with [`Log::poll_op`] and tells
/// what became of them with [`Log::handle`].
#[derive(Debug)]
pub struct Log {
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) index: Index,
    pub(crate) table: SegmentTable,
    commit: Commit,
    next: Next,
    removals: Removals,
    /// How far records count as durable.
    durable: u64,
    /// How far a sync has returned: what hints may vouch for.
    synced: u64,
    /// Behind the last record. A mark behind it is not synced, so nothing may depend on one.
    records_end: u64,
    /// The stamp of the last record.
    last_hlc: Hlc,
    /// Chained records that are not durable: where they are, and the one before each.
    undurable: VecDeque<(Position, Position)>,
    poisoned: Option<DiskError>,
    ops: VecDeque<DiskOp>,
    /// Offsets of the published snapshots, oldest first.
    pub(crate) snapshots: Vec<u64>,
}

/// What a start found out about a log.
pub(crate) struct Restored {
    pub(crate) identity: Identity,
    pub(crate) index: Index,
    pub(crate) table: SegmentTable,
    /// The offset behind the last batch; synced.
    pub(crate) end: u64,
    /// The segment that `end` is in or at the end of.
    pub(crate) active: Segment,
    /// An empty segment behind the active one.
    pub(crate) prepared: Option<Segment>,
    pub(crate) snapshots: Vec<u64>,
}

/// The segment behind `segment`: twice as large, up to the usual size. It is made while that one
/// fills, so it must not take much longer to make than that one to fill.
fn behind(segment: &Segment, settings: &Settings) -> Segment {
    Segment::new(segment.end(), (2 * segment.bytes).min(settings.segment_bytes))
}

impl Log {
    pub(crate) fn new(settings: Settings, restored: Restored) -> Self {
        settings.check();
        let Restored { identity, index, table, end, active, prepared, snapshots } = restored;
        let next = prepared
            .map_or(Next::Failed(behind(&active, &settings), DiskError::NotFound), Next::Ready);
        let mut log = Self {
            identity,
            settings,
            index,
            table,
            commit: Commit::new(active, end),
            next,
            removals: Removals::default(),
            durable: end,
            synced: end,
            records_end: end,
            last_hlc: Hlc(0),
            undurable: VecDeque::new(),
            poisoned: None,
            ops: VecDeque::new(),
            snapshots,
        };
        log.retry_prepare();
        log
    }

    /// Copies `record` into the open batch and says where it will be. It is durable once
    /// [`Log::durable`] is above that position.
    pub fn append(&mut self, record: NewRecord<'_>) -> Result<Position, AppendError> {
        assert!(record.kind >= KIND_FIRST, "kinds below are the log's own");
        if self.poisoned.is_some() {
            return Err(AppendError::Poisoned);
        }
        let length = RECORD_HEADER_BYTES + record.body[0].len() + record.body[1].len();
        let bytes = padded(length as u64);
        if length as u64 > self.settings.record_bytes_max {
            return Err(AppendError::TooLarge);
        }
        let pad_bytes = RECORD_HEADER_BYTES as u64;
        let batch_bytes = self.commit.open.bytes.len() as u64 + bytes + pad_bytes;
        if batch_bytes > self.settings.batch_bytes_max()
            || self.commit.window_bytes(bytes + pad_bytes) > self.settings.commit_window_bytes
        {
            return Err(AppendError::Busy);
        }
        if self.commit.open.padded_end(bytes) > self.commit.open.segment.end() {
            self.roll()?;
        }
        Ok(self.place(&record, length))
    }

    /// Cannot fail: the room was found.
    fn place(&mut self, record: &NewRecord<'_>, length: usize) -> Position {
        let position = self.appended();
        let mut previous = Position(0);
        if record.sequence != 0 {
            let who = (record.entity, record.partition);
            previous = self.index.append(who, record.sequence, position);
            self.undurable.push_back((position, previous));
        }
        let header = Header {
            length: u32::try_from(length).expect("below record_bytes_max"),
            kind: record.kind,
            partition: record.partition,
            epoch: self.identity.epoch,
            entity: record.entity,
            sequence: record.sequence,
            hlc: record.hlc,
            previous,
            durable: self.synced,
        };
        self.last_hlc = record.hlc;
        let open = &mut self.commit.open;
        if open.segment.first_hlc.is_none() {
            open.segment.first_hlc = Some(record.hlc);
            self.table.insert(self.identity.log, open.segment);
        }
        let batch = &mut open.bytes;
        let start = batch.len();
        batch.extend_from_slice(&header.encode());
        batch.extend_from_slice(record.body[0]);
        batch.extend_from_slice(record.body[1]);
        seal(&mut batch[start..], position, self.identity.salt);
        batch.resize(batch.len().next_multiple_of(8), 0);
        self.records_end = self.commit.open.end();
        position
    }

    fn roll(&mut self) -> Result<(), AppendError> {
        let Next::Ready(next) = self.next else { return Err(AppendError::Full) };
        self.commit.roll(next);
        self.table.insert(self.identity.log, next);
        self.ask_next(behind(&next, &self.settings));
        Ok(())
    }

    fn ask_next(&mut self, segment: Segment) {
        let file = FileId::Segment { log: self.identity.log, base: segment.base };
        let header = encode_header(self.identity, &segment);
        self.ops.push_back(DiskOp::Prepare { file, bytes: segment.bytes, header });
        self.next = Next::Asked(segment);
    }

    /// Asks again for a segment that could not be prepared. The engine calls it now and then.
    pub fn retry_prepare(&mut self) {
        if let (Next::Failed(segment, _), None) = (self.next, self.poisoned) {
            self.ask_next(segment);
        }
    }

    /// The next thing for the driver to do. Called until none once a turn: what was appended in
    /// the turn is then committed together.
    pub fn poll_op(&mut self) -> Option<DiskOp> {
        if self.poisoned.is_some() {
            return None;
        }
        if let Some(op) = self.ops.pop_front() {
            return Some(op);
        }
        if let Some(file) = self.removals.poll() {
            return Some(DiskOp::Remove { file });
        }
        match self.commit.flight {
            Flight::None => {
                if self.commit.is_mark_due && !self.commit.has_room_for_mark() {
                    // The last batch of a segment wants its witness as much as any other. Without
                    // a next segment there is none yet; the mark stays due.
                    let _is_rolled = self.roll().is_ok();
                }
                let batch = self.commit.take_batch()?;
                let vouch = Vouch { synced: self.synced, hlc: self.last_hlc };
                let (landing, offset, bytes) = self.commit.launch(batch, self.identity, vouch);
                Some(DiskOp::Write { file: landing.file, offset, bytes })
            }
            Flight::SyncDue(landing) => {
                self.commit.flight = Flight::Syncing(landing);
                Some(DiskOp::Sync { file: landing.file })
            }
            Flight::Writing(_) | Flight::Syncing(_) => None,
        }
    }

    /// Hears what became of an op. Events of a poisoned log are of no interest any more.
    pub fn handle(&mut self, event: DiskEvent) {
        if self.poisoned.is_some() {
            return;
        }
        match event {
            DiskEvent::Written { file, bytes, result } => {
                let Flight::Writing(landing) = self.commit.flight else {
                    panic!("{file} was written, but no write is under way");
                };
                assert_eq!(landing.file, file);
                self.commit.recycle(bytes);
                match result {
                    Ok(count) if count == landing.bytes_count => self.on_written(landing),
                    Ok(_) => self.poison(DiskError::Short),
                    Err(error) => self.poison(error),
                }
            }
            DiskEvent::Synced { file, result } => {
                let Flight::Syncing(landing) = self.commit.flight else {
                    panic!("{file} was synced, but no sync is under way");
                };
                assert_eq!(landing.file, file);
                match result {
                    Ok(()) => self.on_synced(landing),
                    Err(error) => self.poison(error),
                }
            }
            DiskEvent::Prepared { file, result } => self.on_prepared(file, result),
            DiskEvent::Removed { file, result } => self.removals.on_removed(file, result),
            DiskEvent::Read { .. } | DiskEvent::Created { .. } | DiskEvent::Published { .. } => {
                panic!("not an event of the log: {:?}", event.target())
            }
        }
    }

    fn on_written(&mut self, landing: Landing) {
        match (landing.role, self.settings.durability) {
            (Role::Mark, _) => {
                self.commit.land(landing);
                self.raise_durable(landing.end);
            }
            // The end of a segment is synced even then, so that recovery may rely on every
            // segment but the last.
            (Role::Last, Durability::Memory) => {
                self.raise_durable(landing.end);
                self.commit.flight = Flight::SyncDue(landing);
            }
            (Role::Records, Durability::Memory) => {
                self.raise_durable(landing.end);
                self.commit.land(landing);
            }
            (_, Durability::Fsync) => self.commit.flight = Flight::SyncDue(landing),
        }
    }

    fn on_synced(&mut self, landing: Landing) {
        self.commit.land(landing);
        self.synced = landing.end;
        self.raise_durable(landing.end);
        self.commit.is_mark_due =
            self.settings.durability == Durability::Fsync && !self.commit.has_waiting();
    }

    fn raise_durable(&mut self, end: u64) {
        assert!(end >= self.durable, "the watermark only rises");
        self.durable = end;
        while self.undurable.front().is_some_and(|(position, _)| position.offset() < end) {
            self.undurable.pop_front();
        }
    }

    fn on_prepared(&mut self, file: FileId, result: Result<(), DiskError>) {
        let Next::Asked(segment) = self.next else {
            panic!("{file} was prepared, but was not asked for");
        };
        assert_eq!(file, FileId::Segment { log: self.identity.log, base: segment.base });
        self.next = match result {
            Ok(()) => Next::Ready(segment),
            Err(error) => Next::Failed(segment, error),
        };
    }

    fn poison(&mut self, error: DiskError) {
        self.poisoned = Some(error);
        self.ops.clear();
        self.removals.waiting.clear();
    }

    /// Where the next record goes if it fits the active segment.
    pub fn appended(&self) -> Position {
        Position::new(self.identity.log, self.commit.open.end())
    }

    /// The offset behind the last record: what a snapshot may say it has seen.
    pub(crate) fn records_end(&self) -> u64 {
        self.records_end
    }

    /// Every record below this position is durable, and none other may be acknowledged or read.
    pub fn durable(&self) -> Position {
        Position::new(self.identity.log, self.durable)
    }

    /// The oldest position that is kept; what was before is retired.
    pub fn first(&self) -> Position {
        let first = self.table.of_log(self.identity.log).next();
        Position::new(self.identity.log, first.expect("the active segment is there").base)
    }

    /// Why the log takes nothing more, if so.
    pub fn poisoned(&self) -> Option<&DiskError> {
        self.poisoned.as_ref()
    }

    /// Why there is no next segment, if it could not be prepared.
    pub fn prepare_error(&self) -> Option<&DiskError> {
        match &self.next {
            Next::Failed(_, error) => Some(error),
            Next::Asked(_) | Next::Ready(_) => None,
        }
    }

    /// Whether nothing waits for a write or a sync.
    pub fn is_idle(&self) -> bool {
        self.commit.is_idle()
    }

    /// Which log this is.
    pub fn id(&self) -> u16 {
        self.identity.log
    }

    /// Where the records of each entity are.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// From which file `position` is read, and at which byte of it; none if it was retired.
    pub fn locate(&self, position: Position) -> Option<(FileId, u64)> {
        let (file, segment) = self.table.find(position)?;
        Some((file, position.offset() - segment.base))
    }

    /// The size of the log's own files.
    pub fn bytes(&self) -> u64 {
        self.table.of_log(self.identity.log).map(|segment| segment.bytes).sum()
    }

    /// How many files of records the log has.
    pub fn segments_count(&self) -> usize {
        self.table.of_log(self.identity.log).count()
    }

    /// The record before the one at `position`, if that one is chained and not yet durable.
    pub(crate) fn previous_of_undurable(&self, position: Position) -> Option<Position> {
        let at = self.undurable.binary_search_by_key(&position, |entry| entry.0).ok()?;
        Some(self.undurable[at].1)
    }

    /// The position below which no start needs a record: retention may go so far.
    pub fn snapshot_floor(&self) -> Position {
        let floor = self.snapshots.first().copied().unwrap_or(0);
        Position::new(self.identity.log, floor)
    }

    /// Gives up the oldest segments beyond `keep`, as far as `snapshot_floor` lets it. Returns how
    /// many; their files go with the next ops.
    pub fn retire(&mut self, keep: RetentionPolicy, snapshot_floor: Position) -> u32 {
        assert_eq!(snapshot_floor.log(), self.identity.log);
        self.removals.is_halted = false;
        let mut retired_count = 0;
        let mut bytes = self.bytes();
        let floor = snapshot_floor.offset().min(self.durable);
        while let Some(oldest) = self.oldest_retirable(keep, floor, bytes) {
            bytes -= oldest.bytes;
            self.table.remove(self.identity.log, oldest.base);
            let file = FileId::Segment { log: self.identity.log, base: oldest.base };
            self.removals.waiting.push_back(file);
            retired_count += 1;
        }
        retired_count
    }

    fn oldest_retirable(&self, keep: RetentionPolicy, floor: u64, bytes: u64) -> Option<Segment> {
        let mut segments = self.table.of_log(self.identity.log);
        let (oldest, after) = (segments.next()?, segments.next()?);
        let is_too_much = keep.bytes.is_some_and(|bytes_max| bytes > bytes_max);
        // All of a segment was written before the first record of the next.
        let is_too_old = keep.before.is_some_and(|before| {
            after.first_hlc.is_some_and(|first| first.wall_millis() < before)
        });
        (oldest.end() <= floor && (is_too_much || is_too_old)).then_some(*oldest)
    }
}
