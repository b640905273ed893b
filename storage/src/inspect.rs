//! What a person asks of a log: is it whole, what is in it, how much of what.
//!
//! Nothing is written, and damage is reported rather than refused, so that all of a folder is
//! looked at.

use crate::error::OpenError;
use crate::file::FileId;
use crate::folder::Folder;
use crate::open::read_manifest;
use crate::record::{RECORD_HEADER_BYTES, Record};
use crate::scan::LogFiles;
use crate::segment::Identity;
use crate::snapshot;
use std::collections::BTreeMap;
use wire::{Hlc, Position, ShardId};

/// A place that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What a start would say.
    pub error: OpenError,
}

/// What `verify` finds out about one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// Which log.
    pub log: u16,
    /// In which epoch it was written.
    pub epoch: u32,
    /// How many segment files it has, empty ones included.
    pub segments_count: u64,
    /// How many records, its own kinds not counted.
    pub records_count: u64,
    /// How many bytes those take, headers included.
    pub records_bytes: u64,
    /// Where the first is.
    pub first: Option<Position>,
    /// Where the last is.
    pub last: Option<Position>,
    /// Bytes behind the end that a start would cut.
    pub torn_bytes: u64,
    /// Snapshots that are whole.
    pub snapshots: Vec<Position>,
    /// Snapshots that are not: a start passes over them.
    pub snapshots_broken: Vec<FileId>,
    /// Why the folder would not open, if this log is the reason.
    pub damage: Option<Damage>,
}

/// Which records `dump` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpFilter {
    /// Only of this entity.
    pub entity: Option<u128>,
    /// At most so many.
    pub records_max: u64,
}

/// What `stat` counts in one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStat {
    /// Records and their bytes, by kind.
    pub kinds: BTreeMap<u16, (u64, u64)>,
    /// The stamps of the oldest and the newest record.
    pub span: Option<(Hlc, Hlc)>,
    /// The size of its segment files.
    pub files_bytes: u64,
}

/// Reads every record of every log.
pub fn verify(folder: &mut dyn Folder) -> Result<Vec<LogReport>, OpenError> {
    let identities = identities(folder)?;
    Ok(identities.into_iter().map(|identity| verify_log(folder, identity)).collect())
}

/// Passes the records that `filter` lets through to `show`, log by log, oldest first.
pub fn dump(
    folder: &mut dyn Folder,
    filter: DumpFilter,
    show: &mut dyn FnMut(&Record<'_>),
) -> Result<(), OpenError> {
    let mut shown_count = 0;
    for identity in identities(folder)? {
        each_record(folder, identity, &mut |record| {
            let is_meant = filter.entity.is_none_or(|entity| entity == record.entity);
            if is_meant && shown_count < filter.records_max {
                shown_count += 1;
                show(record);
            }
        })?;
        if shown_count == filter.records_max {
            break;
        }
    }
    Ok(())
}

/// Counts the records of each log.
pub fn stat(folder: &mut dyn Folder) -> Result<BTreeMap<u16, LogStat>, OpenError> {
    let mut stats = BTreeMap::new();
    for identity in identities(folder)? {
        let mut stat = LogStat::default();
        let files = each_record(folder, identity, &mut |record| {
            let (count, bytes) = stat.kinds.entry(record.kind).or_default();
            *count += 1;
            *bytes += record_bytes(record);
            let (oldest, newest) = stat.span.unwrap_or((record.hlc, record.hlc));
            stat.span = Some((oldest.min(record.hlc), newest.max(record.hlc)));
        })?;
        stat.files_bytes = files.segments.iter().map(|segment| segment.bytes).sum();
        stats.insert(identity.log, stat);
    }
    Ok(stats)
}

fn identities(folder: &mut dyn Folder) -> Result<Vec<Identity>, OpenError> {
    let missing = OpenError::Manifest { what: "it is missing" };
    let manifest = read_manifest(folder)?.ok_or(missing)?;
    let identity_of = |epoch| move |shard| (epoch, ShardId(shard));
    Ok(manifest
        .epochs
        .iter()
        .flat_map(|epoch| (0..epoch.shards_count).map(identity_of(epoch)))
        .map(|(epoch, shard)| manifest.identity(epoch, shard))
        .collect())
}

fn each_record(
    folder: &mut dyn Folder,
    identity: Identity,
    visit: &mut dyn FnMut(&Record<'_>),
) -> Result<LogFiles, OpenError> {
    let files = LogFiles::list(folder, identity)?;
    files.scan(folder, (0, 0), &mut |record| {
        visit(record);
        Ok(())
    })?;
    Ok(files)
}

fn record_bytes(record: &Record<'_>) -> u64 {
    (RECORD_HEADER_BYTES + record.body.len()) as u64
}

fn verify_log(folder: &mut dyn Folder, identity: Identity) -> LogReport {
    let mut report = LogReport {
        log: identity.log,
        epoch: identity.epoch,
        segments_count: 0,
        records_count: 0,
        records_bytes: 0,
        first: None,
        last: None,
        torn_bytes: 0,
        snapshots: Vec::new(),
        snapshots_broken: Vec::new(),
        damage: None,
    };
    if let Err(error) = verify_files(folder, identity, &mut report) {
        report.damage = Some(Damage { error });
    }
    report
}

fn verify_files(
    folder: &mut dyn Folder,
    identity: Identity,
    report: &mut LogReport,
) -> Result<(), OpenError> {
    let files = LogFiles::list(folder, identity)?;
    report.segments_count = files.segments.len() as u64;
    let log = identity.log;
    let mut vouched = 0;
    for &offset in &files.snapshots {
        match snapshot::read(folder, identity, offset, &mut |_| ()) {
            Some(seen) => {
                vouched = seen;
                report.snapshots.push(Position::new(log, offset));
            }
            None => {
                let broken = FileId::Snapshot { log, offset, temporary: false };
                report.snapshots_broken.push(broken);
            }
        }
    }
    let scanned = files.scan(folder, (0, vouched), &mut |record| {
        report.records_count += 1;
        report.records_bytes += record_bytes(record);
        report.first = report.first.or(Some(record.position));
        report.last = Some(record.position);
        Ok(())
    })?;
    report.torn_bytes = scanned.written_end.saturating_sub(scanned.end);
    Ok(())
}
