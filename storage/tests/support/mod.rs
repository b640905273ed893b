//! A disk in memory: what was written, and what of it would survive a power cut now.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use storage::{
    DiskError, DiskEvent, DiskOp, Durability, FileId, Folder, Log, NewRecord, Page, PageQuery,
    ReadError, Readers, Recovered, Recovery, Settings, SnapshotWriter,
};
use wire::{Hlc, Partition, Position};

pub const KIND: u16 = 0x0100;
pub const KEY: [u8; 16] = *b"an id key of 16.";

/// Small enough that a few records fill segments and windows.
pub fn settings() -> Settings {
    Settings {
        segment_bytes: 64 << 10,
        first_segment_bytes: 32 << 10,
        commit_window_bytes: 32 << 10,
        record_bytes_max: 8 << 10,
        durability: Durability::Fsync,
    }
}

/// What the next op of its sort does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    FailWrite,
    ShortWrite,
    FailSync,
    FailPrepare,
}

/// Files by their path, and a trace of what was done.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub files: BTreeMap<String, Vec<u8>>,
    pub folders: BTreeSet<String>,
    pub faults: Vec<Fault>,
    pub trace: Vec<String>,
    /// Steps of a start that still work; the one after fails, and so do all that follow.
    pub steps_left: Option<u32>,
    pub steps_taken: u32,
}

impl Disk {
    fn step(&mut self) -> Result<(), DiskError> {
        self.steps_taken += 1;
        match &mut self.steps_left {
            Some(0) => Err(DiskError::Io(5)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn fails(&mut self, fault: Fault) -> bool {
        let at = self.faults.iter().position(|pending| *pending == fault);
        at.map(|at| self.faults.remove(at)).is_some()
    }

    pub fn bytes(&mut self, file: FileId) -> &mut Vec<u8> {
        self.files.get_mut(&file.path()).unwrap_or_else(|| panic!("no {file}"))
    }

    /// Performs `op` as a driver would.
    pub fn perform(&mut self, op: DiskOp) -> DiskEvent {
        match op {
            DiskOp::Write { file, offset, bytes } => {
                self.trace.push(format!("write {offset}+{}", bytes.len()));
                let result = if self.fails(Fault::FailWrite) {
                    Err(DiskError::Io(5))
                } else if self.fails(Fault::ShortWrite) {
                    Ok(bytes.len() / 2)
                } else {
                    Ok(bytes.len())
                };
                let at = offset as usize;
                let written = result.unwrap_or(0);
                let target = self.bytes(file);
                if target.len() < at + written {
                    assert!(matches!(file, FileId::Snapshot { .. }), "segments do not grow");
                    target.resize(at + written, 0);
                }
                target[at..at + written].copy_from_slice(&bytes[..written]);
                DiskEvent::Written { file, bytes, result }
            }
            DiskOp::Sync { file } => {
                self.trace.push("sync".to_owned());
                let failed = self.fails(Fault::FailSync);
                DiskEvent::Synced {
                    file,
                    result: if failed { Err(DiskError::Io(5)) } else { Ok(()) },
                }
            }
            DiskOp::Read { file, offset, length, token } => {
                let result = Folder::read(self, file, offset, length as usize);
                let bytes = result.clone().unwrap_or_default();
                DiskEvent::Read { token, bytes, result: result.map(drop) }
            }
            DiskOp::Prepare { file, bytes, header } => {
                let result = if self.fails(Fault::FailPrepare) {
                    Err(DiskError::NoSpace)
                } else {
                    self.create(file, bytes, &header)
                };
                DiskEvent::Prepared { file, result }
            }
            DiskOp::Create { file } => {
                self.files.insert(file.path(), Vec::new());
                DiskEvent::Created { file, result: Ok(()) }
            }
            DiskOp::Publish { from, to } => {
                DiskEvent::Published { to, result: self.rename(from, to) }
            }
            DiskOp::Remove { file } => {
                self.trace.push(format!("remove {file}"));
                DiskEvent::Removed { file, result: self.remove(file) }
            }
        }
    }
}

impl Folder for Disk {
    fn list(&mut self, folder: &str) -> Result<Vec<(String, u64)>, DiskError> {
        self.step()?;
        if folder.is_empty() {
            let folders = self.folders.iter().map(|name| (name.clone(), 0));
            let files = self.files.iter().filter(|(path, _)| !path.contains('/'));
            return Ok(folders
                .chain(files.map(|(path, bytes)| (path.clone(), bytes.len() as u64)))
                .collect());
        }
        if !self.folders.contains(folder) {
            return Err(DiskError::NotFound);
        }
        let inside = |path: &str| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
        Ok(self
            .files
            .iter()
            .filter_map(|(path, bytes)| Some((inside(path)?, bytes.len() as u64)))
            .collect())
    }

    fn read(&mut self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        self.step()?;
        let bytes = self.files.get(&file.path()).ok_or(DiskError::NotFound)?;
        let start = bytes.len().min(offset as usize);
        Ok(bytes[start..bytes.len().min(start + length)].to_vec())
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.step()?;
        let at = offset as usize;
        self.bytes(file)[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, _file: FileId) -> Result<(), DiskError> {
        self.step()
    }

    fn create(&mut self, file: FileId, bytes: u64, header: &[u8]) -> Result<(), DiskError> {
        if self.steps_left == Some(0) {
            // Cut off in the middle: the file is there, but neither long enough nor headed.
            self.files.insert(file.path(), vec![0; bytes as usize / 2]);
        }
        self.step()?;
        let mut content = vec![0; bytes as usize];
        content[..header.len()].copy_from_slice(header);
        self.files.insert(file.path(), content);
        Ok(())
    }

    fn create_dir(&mut self, folder: &str) -> Result<(), DiskError> {
        self.step()?;
        self.folders.insert(folder.to_owned());
        Ok(())
    }

    fn sync_dir(&mut self, _folder: &str) -> Result<(), DiskError> {
        self.step()
    }

    fn rename(&mut self, from: FileId, to: FileId) -> Result<(), DiskError> {
        self.step()?;
        let bytes = self.files.remove(&from.path()).ok_or(DiskError::NotFound)?;
        self.files.insert(to.path(), bytes);
        Ok(())
    }

    fn remove(&mut self, file: FileId) -> Result<(), DiskError> {
        self.step()?;
        self.files.remove(&file.path());
        Ok(())
    }
}

/// A record as tests compare it: entity, sequence, body.
pub type Seen = (u128, u64, Vec<u8>);

/// Opens `disk` with `shards_count` shards and recovers each, noting the records it was shown.
pub fn start(
    disk: &mut Disk,
    shards_count: u16,
) -> Result<Vec<(Recovery, Vec<Seen>)>, storage::OpenError> {
    start_with(disk, shards_count, settings())
}

pub fn start_with(
    disk: &mut Disk,
    shards_count: u16,
    settings: Settings,
) -> Result<Vec<(Recovery, Vec<Seen>)>, storage::OpenError> {
    let opened = storage::open(disk, shards_count, settings, KEY)?;
    let mut shards = Vec::new();
    for shard in &opened.shards {
        let mut seen = Vec::new();
        let recovery = storage::recover(disk, shard, &mut |recovered| {
            if let Recovered::Record(record) = recovered {
                seen.push((record.entity, record.sequence, record.body.to_vec()));
            }
        })?;
        shards.push((recovery, seen));
    }
    Ok(shards)
}

/// The only shard of a folder, and the records it was shown.
pub fn start_one(disk: &mut Disk) -> (Log, Vec<Seen>) {
    let (recovery, seen) = start(disk, 1).expect("it opens").remove(0);
    (recovery.log, seen)
}

/// Appends the next record of `entity`.
pub fn append(log: &mut Log, entity: u128, body: &[u8]) -> Result<Position, storage::AppendError> {
    let sequence = log.index().chain(entity).map_or(0, |chain| chain.count) + 1;
    log.append(NewRecord {
        kind: KIND,
        partition: Partition((entity & 4095) as u16),
        entity,
        sequence,
        hlc: Hlc(sequence << 16),
        body: [&body[..body.len() / 2], &body[body.len() / 2..]],
    })
}

/// Performs what the log asks for until it asks for nothing.
pub fn settle(log: &mut Log, disk: &mut Disk) {
    while let Some(op) = log.poll_op() {
        let event = disk.perform(op);
        log.handle(event);
    }
}

/// Appends and makes durable, one record after the other.
pub fn append_durable(log: &mut Log, disk: &mut Disk, entity: u128, body: &[u8]) -> Position {
    let position = match append(log, entity, body) {
        Err(storage::AppendError::Busy | storage::AppendError::Full) => {
            settle(log, disk);
            append(log, entity, body).expect("there is room")
        }
        appended => appended.expect("there is room"),
    };
    settle(log, disk);
    assert!(log.durable() > position);
    position
}

/// Reads a page to its end.
pub fn read(log: &Log, disk: &mut Disk, query: PageQuery) -> Result<Page, ReadError> {
    let mut readers = Readers::new(1);
    let id = readers.begin(log, query)?;
    while let Some(op) = readers.poll_op() {
        let event = disk.perform(op);
        readers.handle(log, event);
    }
    let (done, page) = readers.poll_page().expect("all its reads were answered");
    assert_eq!(done, id);
    page
}

/// Takes a snapshot of the index and `entries`, in bites.
pub fn snapshot(log: &mut Log, disk: &mut Disk, entries: &[(Partition, Vec<u8>)]) -> Position {
    let writer = SnapshotWriter::begin(log).expect("something was appended");
    complete(writer, (log, disk), entries)
}

/// Completes a snapshot that was begun.
pub fn complete(
    mut writer: SnapshotWriter,
    (log, disk): (&mut Log, &mut Disk),
    entries: &[(Partition, Vec<u8>)],
) -> Position {
    let mut entries = entries.iter().peekable();
    let mut is_indexed = false;
    while writer.outcome().is_none() {
        while let Some((partition, body)) = entries.next_if(|_| writer.wants_more()) {
            writer.push(KIND, *partition, body);
        }
        is_indexed = is_indexed || writer.push_index(log.index());
        if is_indexed && entries.peek().is_none() && writer.may_finish() {
            writer.finish(log);
        }
        while let Some(op) = writer.poll_op(log) {
            let event = disk.perform(op);
            writer.handle(event, log);
        }
        settle(log, disk);
    }
    writer.outcome().expect("looked above").expect("the disk is fine")
}
