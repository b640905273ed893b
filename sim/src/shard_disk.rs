//! The disk ops of one simulated shard: each takes its time, has its effect when it completes, and
//! may fail. Rare work is done by one thread for all shards, in order.

use crate::disk::Disk;
use crate::env::{Env, Happening};
use std::collections::{BTreeMap, VecDeque};
use storage::{DiskError, DiskEvent, DiskOp, FileId};

const IO: DiskError = DiskError::Io(5);

/// See the module.
#[derive(Default)]
pub(crate) struct ShardDisk {
    in_flight: BTreeMap<u64, InFlight>,
    next: u64,
    pub(crate) answers: VecDeque<DiskEvent>,
}

struct InFlight {
    op: DiskOp,
    /// Of a sync: the writes that completed before it was submitted.
    covers: u64,
}

impl ShardDisk {
    pub(crate) fn submit(
        &mut self,
        env: &mut Env,
        (incarnation, shard): (u64, usize),
        op: DiskOp,
        rare_until: &mut u64,
    ) {
        let mut typical = env.options.disk_micros;
        if env.is_stormy && env.options.disk_faults.slow && env.random.chance(10) {
            typical *= 300;
            env.counters.hit("fault: slow disk");
        }
        let mut at = env.time + env.random.delay(typical);
        let mut covers = 0;
        match &op {
            DiskOp::Sync { file } => covers = env.disk.writes_count(*file),
            DiskOp::Write { .. } | DiskOp::Read { .. } => {}
            _ => {
                at = at.max(*rare_until + 1);
                *rare_until = at;
            }
        }
        self.next += 1;
        env.trace.note(&[3, self.next, at]);
        self.in_flight.insert(self.next, InFlight { op, covers });
        env.at(at, Happening::DiskDone { incarnation, shard, op: self.next });
    }

    pub(crate) fn complete(&mut self, env: &mut Env, id: u64) {
        let InFlight { op, covers } = self.in_flight.remove(&id).expect("completed once");
        let event = perform(env, op, covers);
        let name = format!("{:?}", std::mem::discriminant(&event));
        env.trace.bytes(name.as_bytes());
        self.answers.push_back(event);
    }

    /// The process ends while these are under way: any part of them may have been done.
    pub(crate) fn abandon(&mut self, env: &mut Env) {
        for (_, InFlight { op, .. }) in std::mem::take(&mut self.in_flight) {
            if env.random.chance(300) {
                continue;
            }
            match op {
                DiskOp::Write { file, offset, bytes } => {
                    let length = env.random.index(bytes.len() / 512 + 1) * 512;
                    let _ = env.disk.write_at(file, offset, &bytes[..length.min(bytes.len())]);
                }
                DiskOp::Prepare { file, bytes, header } => match env.random.below(3) {
                    0 => env.disk.create_file(file, bytes, &header),
                    1 => env.disk.create_file(file, bytes, &[]),
                    _ => env.disk.create_file(file, bytes / 2, &[]),
                },
                DiskOp::Create { file } => env.disk.create_file(file, 0, &[]),
                DiskOp::Publish { from, to } => {
                    let _ = env.disk.rename_file(from, to);
                }
                DiskOp::Remove { file } => env.disk.remove_file(file),
                DiskOp::Sync { .. } | DiskOp::Read { .. } => {}
            }
        }
    }
}

fn is_snapshot(file: FileId) -> bool {
    matches!(file, FileId::Snapshot { .. })
}

fn fires(env: &mut Env, is_on: bool, per_ten_thousand: u64, name: &'static str) -> bool {
    let fires = env.is_stormy && is_on && env.random.below(10_000) < per_ten_thousand;
    if fires {
        env.counters.hit(name);
    }
    fires
}

fn perform(env: &mut Env, op: DiskOp, covers: u64) -> DiskEvent {
    match op {
        DiskOp::Write { file, offset, bytes } => {
            let result = write(env, file, offset, &bytes);
            DiskEvent::Written { file, bytes, result }
        }
        DiskOp::Sync { file } => DiskEvent::Synced { file, result: sync(env, file, covers) },
        DiskOp::Read { file, offset, length, token } => {
            let faults = env.options.disk_faults;
            let result = if fires(env, faults.reads, 100, "fault: read error") {
                Err(IO)
            } else {
                storage::Folder::read(&mut env.disk, file, offset, length as usize)
            };
            let bytes = result.clone().unwrap_or_default();
            DiskEvent::Read { token, bytes, result: result.map(drop) }
        }
        DiskOp::Prepare { file, bytes, header } => {
            let result = prepare(env, file, bytes, &header);
            DiskEvent::Prepared { file, result }
        }
        DiskOp::Create { file } => {
            let result = if env.time < env.full_until {
                Err(DiskError::NoSpace)
            } else {
                env.disk.create_file(file, 0, &[]);
                Ok(())
            };
            DiskEvent::Created { file, result }
        }
        DiskOp::Publish { from, to } => {
            let result = publish(&mut env.disk, from, to);
            env.counters.add("snapshots published", u64::from(result.is_ok()));
            DiskEvent::Published { to, result }
        }
        DiskOp::Remove { file } => {
            env.disk.remove_file(file);
            env.disk.sync_names(&file.folder());
            DiskEvent::Removed { file, result: Ok(()) }
        }
    }
}

fn publish(disk: &mut Disk, from: FileId, to: FileId) -> Result<(), DiskError> {
    disk.rename_file(from, to)?;
    disk.sync_names(&to.folder());
    Ok(())
}

fn write(env: &mut Env, file: FileId, offset: u64, bytes: &[u8]) -> Result<usize, DiskError> {
    let faults = env.options.disk_faults;
    let partial = env.random.index(bytes.len() / 512 + 1) * 512;
    let partial = partial.min(bytes.len());
    if is_snapshot(file) {
        if fires(env, faults.snapshots, 300, "fault: snapshot error") {
            env.disk.write_at(file, offset, &bytes[..partial])?;
            return Err(IO);
        }
    } else if fires(env, faults.writes, 4, "fault: write error") {
        env.disk.write_at(file, offset, &bytes[..partial])?;
        return Err(IO);
    } else if partial < bytes.len() && fires(env, faults.short_writes, 4, "fault: short write") {
        env.disk.write_at(file, offset, &bytes[..partial])?;
        return Ok(partial);
    }
    env.disk.write_at(file, offset, bytes)?;
    Ok(bytes.len())
}

fn sync(env: &mut Env, file: FileId, covers: u64) -> Result<(), DiskError> {
    let faults = env.options.disk_faults;
    let fails = if is_snapshot(file) {
        fires(env, faults.snapshots, 300, "fault: snapshot error")
    } else {
        fires(env, faults.syncs, 4, "fault: sync error")
    };
    if fails {
        env.disk.fail_sync(file, covers, &mut env.random);
        return Err(IO);
    }
    env.disk.sync_up_to(file, covers)
}

fn prepare(env: &mut Env, file: FileId, bytes: u64, header: &[u8]) -> Result<(), DiskError> {
    let faults = env.options.disk_faults;
    if env.time < env.full_until {
        return Err(DiskError::NoSpace);
    }
    if fires(env, faults.no_space, 1500, "fault: no space") {
        env.full_until = env.time + env.random.range(100_000, 2_500_000);
        env.disk.create_file(file, bytes / 3, &[]);
        return Err(DiskError::NoSpace);
    }
    env.disk.create_file(file, bytes, header);
    env.disk.sync_names(&file.folder());
    env.counters.hit("segments prepared");
    Ok(())
}
