//! Start, first or not: what the disk holds becomes state, and the log is ready to be written.
//!
//! For each log the newest whole snapshot is restored and the records behind it replayed. A log
//! without one is replayed from its first record, after whatever earlier epochs hold for the same
//! partitions. All records of an entity in one epoch thus come before those in the next.

use crate::error::{DiskError, OpenError};
use crate::file::FileId;
use crate::folder::Folder;
use crate::index::Index;
use crate::log::{Log, Restored};
use crate::manifest::Epoch;
use crate::open::ShardStart;
use crate::record::Record;
use crate::scan::{LogFiles, Scanned, at};
use crate::segment::{Segment, SegmentTable};
use crate::snapshot::{self, Entry};
use std::collections::BTreeMap;
use wire::{PARTITIONS_COUNT, Partition, Position, ShardId};

const ZEROS_BYTES: u64 = 1 << 20;

/// What recovery finds, in order.
#[derive(Clone, Copy, Debug)]
pub enum Recovered<'a> {
    /// An entry of a snapshot: replaces what came before for its partition and kind.
    Entry {
        /// That of the push.
        kind: u16,
        /// That of the push.
        partition: Partition,
        /// That of the push.
        body: &'a [u8],
    },
    /// A record. A snapshot before it may have included it already.
    Record(Record<'a>),
}

/// A torn tail that was cut: never durable, so never acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the log ends.
    pub position: Position,
    /// How many bytes behind it were not zero to their end.
    pub bytes: u64,
}

/// A shard's part of the folder, recovered.
#[derive(Debug)]
pub struct Recovery {
    /// Ready to be appended to.
    pub log: Log,
    /// The torn tail of its own log, if there was one.
    pub cut: Option<Cut>,
    /// How many entries of snapshots were restored.
    pub entries_count: u64,
    /// How many records were replayed.
    pub records_count: u64,
}

/// Recovers one shard: streams its state to `visit`, cuts a torn tail and gives its log.
pub fn recover(
    folder: &mut dyn Folder,
    start: &ShardStart,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<Recovery, OpenError> {
    let mut replay = Replay {
        start,
        files: BTreeMap::new(),
        index: Index::new(),
        entries_count: 0,
        records_count: 0,
        visit,
    };
    let epochs = &start.manifest.epochs;
    let own_epoch = start.manifest.newest();
    for epoch in &epochs[..epochs.len() - 1] {
        for shard in (0..epoch.shards_count).map(ShardId) {
            replay.list(folder, epoch, shard)?;
        }
    }
    replay.list(folder, own_epoch, start.shard)?;
    let own: Vec<bool> = (0..PARTITIONS_COUNT)
        .map(|partition| Partition(partition).shard(own_epoch.shards_count) == start.shard)
        .collect();
    let own_log = own_epoch.log(start.shard);
    let ends = replay.epoch(folder, epochs.len() - 1, &own)?;
    let scanned = ends.into_iter().find(|(log, _)| *log == own_log).expect("listed above").1;
    let mut table = SegmentTable::default();
    for (log, files) in replay.files.iter().filter(|(log, _)| **log != own_log) {
        for segment in &files.segments {
            table.insert(*log, *segment);
        }
    }
    let mut files = replay.files.remove(&own_log).expect("listed above");
    let cut = cut_tail(folder, &files, &scanned)?;
    let prepared = settle(folder, &mut files, &scanned)?;
    let Replay { index, entries_count, records_count, .. } = replay;
    for segment in &files.segments {
        table.insert(own_log, *segment);
    }
    let restored = Restored {
        identity: files.identity,
        index,
        table,
        end: scanned.end,
        active: files.segments[scanned.active_index],
        prepared,
        snapshots: files.snapshots,
    };
    Ok(Recovery { log: Log::new(start.settings, restored), cut, entries_count, records_count })
}

struct Replay<'a> {
    start: &'a ShardStart,
    files: BTreeMap<u16, LogFiles>,
    index: Index,
    entries_count: u64,
    records_count: u64,
    visit: &'a mut dyn FnMut(Recovered<'_>),
}

impl Replay<'_> {
    fn list(
        &mut self,
        folder: &mut dyn Folder,
        epoch: &Epoch,
        shard: ShardId,
    ) -> Result<(), OpenError> {
        let identity = self.start.manifest.identity(epoch, shard);
        self.files.insert(identity.log, LogFiles::list(folder, identity)?);
        Ok(())
    }

    /// Replays what epoch `epoch_index` and those before it hold for the `wanted` partitions.
    fn epoch(
        &mut self,
        folder: &mut dyn Folder,
        epoch_index: usize,
        wanted: &[bool],
    ) -> Result<Vec<(u16, Scanned)>, OpenError> {
        let epoch = self.start.manifest.epochs[epoch_index];
        let wanted_shards: Vec<Option<u16>> = (0..PARTITIONS_COUNT)
            .zip(wanted)
            .map(|(partition, is_wanted)| {
                is_wanted.then(|| Partition(partition).shard(epoch.shards_count).0)
            })
            .collect();
        let mut earlier = vec![false; wanted.len()];
        let mut sources = Vec::new();
        for shard in 0..epoch.shards_count {
            if !wanted_shards.contains(&Some(shard)) {
                continue;
            }
            let log = epoch.log(ShardId(shard));
            let snapshot = self.newest_snapshot(folder, log)?;
            if snapshot.is_none() && epoch_index > 0 {
                for (is_needed, wanted_shard) in earlier.iter_mut().zip(&wanted_shards) {
                    *is_needed |= *wanted_shard == Some(shard);
                }
            }
            sources.push((log, snapshot));
        }
        if earlier.contains(&true) {
            self.epoch(folder, epoch_index - 1, &earlier)?;
        }
        let mut ends = Vec::new();
        for (log, snapshot) in sources {
            ends.push((log, self.log(folder, (log, snapshot), wanted)?));
        }
        Ok(ends)
    }

    /// The newest whole snapshot of `log` whose records are there, with how far it vouches. Those
    /// that are no use are forgotten.
    fn newest_snapshot(
        &mut self,
        folder: &mut dyn Folder,
        log: u16,
    ) -> Result<Option<(u64, u64)>, OpenError> {
        let files = self.files.get_mut(&log).expect("listed");
        let first = files.segments[0].base;
        while let Some(&offset) = files.snapshots.last() {
            let vouched = snapshot::read(folder, files.identity, offset, &mut |_| ());
            if let (Some(vouched), true) = (vouched, offset >= first) {
                return Ok(Some((offset, vouched)));
            }
            files.snapshots.pop();
            files.strays.push(FileId::Snapshot { log, offset, temporary: false });
        }
        match first {
            0 => Ok(None),
            _ => Err(OpenError::Missing { log, offset: 0 }),
        }
    }

    fn log(
        &mut self,
        folder: &mut dyn Folder,
        (log, snapshot): (u16, Option<(u64, u64)>),
        wanted: &[bool],
    ) -> Result<Scanned, OpenError> {
        let Self { files, index, entries_count, records_count, visit, .. } = self;
        let files = &files[&log];
        let is_wanted = |partition: Partition| wanted[usize::from(partition.0)];
        if let Some((offset, _)) = snapshot {
            let mut is_whole = true;
            let read = snapshot::read(folder, files.identity, offset, &mut |entry| match entry {
                Entry::Chain(chain, marks_start) if is_wanted(chain.partition) => {
                    is_whole &= index.restore(&chain, marks_start).is_ok();
                }
                Entry::State { kind, partition, body } if is_wanted(partition) => {
                    *entries_count += 1;
                    visit(Recovered::Entry { kind, partition, body });
                }
                _ => {}
            });
            if read.is_none() {
                // It was whole a moment ago, so it is the disk that fails.
                let file = FileId::Snapshot { log, offset, temporary: false };
                return Err(at(file, 0)(DiskError::Short));
            }
            assert!(is_whole && index.is_whole(), "a snapshot has every part of every chain");
        }
        let (replay_from, vouched) = snapshot.unwrap_or((0, 0));
        let scanned = files.scan(folder, (replay_from, vouched), &mut |record| {
            if !is_wanted(record.partition) {
                return Ok(());
            }
            if record.sequence != 0 {
                let who = (record.entity, record.partition);
                index
                    .replay(who, record.sequence, record.position)
                    .map_err(|_| files.damage(record.position, "a record before it is missing"))?;
            }
            *records_count += 1;
            visit(Recovered::Record(*record));
            Ok(())
        })?;
        // What was read may have been in memory only: state must not be built on what a power
        // cut could still take back.
        let active = &files.segments[scanned.active_index];
        folder.sync(files.file(active)).map_err(at(files.file(active), 0))?;
        Ok(scanned)
    }
}

/// Overwrites what stands behind the log's end, so that no later start finds it there.
fn cut_tail(
    folder: &mut dyn Folder,
    files: &LogFiles,
    scanned: &Scanned,
) -> Result<Option<Cut>, OpenError> {
    let position = Position::new(files.identity.log, scanned.end);
    let bytes = scanned.written_end.saturating_sub(scanned.end);
    if bytes == 0 {
        return Ok(None);
    }
    let active = &files.segments[scanned.active_index];
    let file = files.file(active);
    let zeros = vec![0; usize::try_from(bytes.min(ZEROS_BYTES)).expect("a chunk")];
    let mut done = 0;
    while done < bytes {
        let offset = scanned.end - active.base + done;
        let length = (bytes - done).min(zeros.len() as u64);
        let chunk = &zeros[..usize::try_from(length).expect("a chunk")];
        folder.write(file, offset, chunk).map_err(at(file, offset))?;
        done += length;
    }
    folder.sync(file).map_err(at(file, 0))?;
    Ok(Some(Cut { position, bytes }))
}

/// Keeps an empty segment behind the active one for later use and removes what is of none.
fn settle(
    folder: &mut dyn Folder,
    files: &mut LogFiles,
    scanned: &Scanned,
) -> Result<Option<Segment>, OpenError> {
    let mut prepared = None;
    for segment in files.segments.split_off(scanned.active_index + 1) {
        let is_next = prepared.is_none() && segment.first_hlc.is_none();
        if is_next && segment.base == files.segments[scanned.active_index].end() {
            prepared = Some(segment);
        } else {
            files.strays.push(files.file(&segment));
        }
    }
    for stray in std::mem::take(&mut files.strays) {
        folder.remove(stray).map_err(at(stray, 0))?;
    }
    Ok(prepared)
}
