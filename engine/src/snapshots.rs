//! The state of a shard, written beside its log now and then, so that a start replays only what
//! came after. Taken in bites between other work: no turn waits for it.

use crate::shard::Shard;
use chat::Walk;
use storage::{DiskEvent, DiskOp, Log, RetentionPolicy, SnapshotWriter};

/// Bytes of state taken in one turn.
const BITE_BYTES: usize = 32 * 1024;

/// What the snapshot under way has been given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Owner,
    Home,
    Index,
    Finish,
    Writing,
}

struct UnderWay {
    writer: SnapshotWriter,
    walk: Walk,
    stage: Stage,
}

/// At most one snapshot at a time.
pub(crate) struct Snapshots {
    under_way: Option<UnderWay>,
    /// Where the last one begins, or was tried.
    last_offset: u64,
    last_at: u64,
}

impl Snapshots {
    pub(crate) fn new(log: &Log) -> Self {
        Self { under_way: None, last_offset: log.snapshot_floor().offset(), last_at: 0 }
    }

    pub(crate) fn poll_op(&mut self, log: &Log) -> Option<DiskOp> {
        self.under_way.as_mut()?.writer.poll_op(log)
    }

    pub(crate) fn handle(&mut self, event: DiskEvent, log: &mut Log) {
        let under_way = self.under_way.as_mut().expect("its op was under way");
        under_way.writer.handle(event, log);
    }
}

impl Shard {
    /// Begins, continues or ends a snapshot. True if there is more to do at once.
    pub(crate) fn advance_snapshot(&mut self) -> bool {
        if self.snapshots.under_way.is_none() {
            let appended = self.log.appended().offset();
            if appended - self.snapshots.last_offset < self.plan.snapshot_every_bytes {
                return false;
            }
            self.snapshots.last_offset = appended;
            let begun = SnapshotWriter::begin(&self.log);
            self.snapshots.under_way =
                begun.map(|writer| UnderWay { writer, walk: Walk::new(), stage: Stage::Owner });
        }
        let Some(under_way) = self.snapshots.under_way.as_mut() else { return false };
        if let Some(outcome) = under_way.writer.outcome() {
            self.snapshots.under_way = None;
            self.on_snapshot(outcome);
            return false;
        }
        self.take_bite()
    }

    fn take_bite(&mut self) -> bool {
        let UnderWay { writer, walk, stage } =
            self.snapshots.under_way.as_mut().expect("asked while one is under way");
        if *stage == Stage::Writing {
            return false;
        }
        if *stage == Stage::Finish {
            if writer.may_finish() {
                writer.finish(&self.log);
                *stage = Stage::Writing;
            }
            return false;
        }
        if !writer.wants_more() {
            return false;
        }
        let out = |kind: u16, partition: wire::Partition, entry: &[u8]| {
            writer.push(kind, partition, entry);
        };
        let has_more = match stage {
            Stage::Owner => self.owner.snapshot_bite(walk, BITE_BYTES, out),
            Stage::Home => self.home.snapshot_bite(walk, BITE_BYTES, out),
            Stage::Index => !writer.push_index(self.log.index()),
            Stage::Finish | Stage::Writing => unreachable!("dealt with above"),
        };
        if !has_more {
            *walk = Walk::new();
            *stage = match stage {
                Stage::Owner => Stage::Home,
                Stage::Home => Stage::Index,
                _ => Stage::Finish,
            };
        }
        true
    }

    fn on_snapshot(&mut self, outcome: Result<wire::Position, storage::DiskError>) {
        match outcome {
            Ok(_) => {
                self.snapshots.last_at = self.clock.now;
                let before = self.plan.retention_ms.map(|ms| self.clock.wall.saturating_sub(ms));
                let keep = RetentionPolicy { bytes: self.plan.retention_bytes, before };
                if keep.bytes.is_some() || keep.before.is_some() {
                    self.log.retire(keep, self.log.snapshot_floor());
                }
            }
            // The log has everything; a start takes longer until one succeeds.
            Err(error) => tracing::warn!(%error, "a snapshot failed; the next one tries again"),
        }
        let age = self.clock.now - self.snapshots.last_at;
        self.net.metrics.snapshot_age_millis.set(age);
    }
}
