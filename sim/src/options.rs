//! What one seed draws before its world begins: how much of everything, how small the limits, and
//! which faults are on. Each seed switches off about half of them, so that no fault hides another.

use crate::random::Random;
use chat::Settings as ChatSettings;
use engine::plan::Plan;
use fanout::LaneCapacities;
use storage::{Durability, Settings};
use wire::IdKey;

/// Faults of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskFaults {
    pub(crate) writes: bool,
    pub(crate) syncs: bool,
    pub(crate) short_writes: bool,
    pub(crate) no_space: bool,
    pub(crate) reads: bool,
    pub(crate) slow: bool,
    pub(crate) snapshots: bool,
}

/// Faults of everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorldFaults {
    pub(crate) power_cuts: bool,
    pub(crate) process_crashes: bool,
    pub(crate) recovery_crashes: bool,
    pub(crate) drains: bool,
    pub(crate) resets: bool,
    pub(crate) half_closes: bool,
    pub(crate) stalled_readers: bool,
    pub(crate) wall_jumps: bool,
    pub(crate) other_shard_counts: bool,
    pub(crate) hostile_clients: bool,
}

/// One seed's choices.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) shards_count: u16,
    pub(crate) users_count: usize,
    pub(crate) devices_counts: Vec<usize>,
    /// Users whose devices count being handed a message as delivery.
    auto_users: Vec<usize>,
    pub(crate) hostile_count: usize,
    pub(crate) safety_micros: u64,
    /// How often a client does something.
    pub(crate) step_micros: u64,
    pub(crate) network_micros: u64,
    pub(crate) disk_micros: u64,
    pub(crate) window_bytes: usize,
    pub(crate) storage: Settings,
    pub(crate) lanes: LaneCapacities,
    pub(crate) disk_faults: DiskFaults,
    pub(crate) faults: WorldFaults,
    connections_max: u32,
    send_queue_bytes_max: u32,
    blocks_max: u32,
    readers_max: u32,
    page_backlog_max: usize,
    snapshot_every_bytes: u64,
    retention_bytes: Option<u64>,
    pub(crate) dedup_entries_max: u32,
    receipts_group_max: u32,
}

impl Options {
    pub(crate) fn draw(random: &mut Random, minutes: Option<u64>) -> Self {
        let users_count = usize::try_from(random.range(2, 7)).expect("a few");
        let devices_counts: Vec<usize> =
            (0..users_count).map(|_| random.pick(&[1, 1, 1, 2, 2, 3])).collect();
        let auto_users = (0..users_count).filter(|_| random.chance(150)).collect();
        let faults = Self::draw_faults(random);
        let hostile_count = if faults.hostile_clients { random.pick(&[1usize, 2]) } else { 0 };
        let safety_micros = match minutes {
            Some(minutes) => minutes * 60_000_000,
            None => random.range(8, 30) * 1_000_000,
        };
        Self {
            shards_count: u16::try_from(random.range(1, 4)).expect("a few"),
            users_count,
            devices_counts,
            auto_users,
            hostile_count,
            safety_micros,
            step_micros: random.pick(&[2_000, 10_000, 30_000]),
            network_micros: random.pick(&[50, 500, 10_000]),
            disk_micros: random.pick(&[50, 300, 3_000]),
            window_bytes: random.pick(&[512, 4096, 65_536]),
            storage: Self::draw_storage(random),
            lanes: LaneCapacities {
                requests_max: random.pick(&[4, 16, 256]),
                parcels_max: random.pick(&[32, 64, 512]),
                parcels_reserve: 16,
            },
            disk_faults: Self::draw_disk_faults(random),
            faults,
            connections_max: random.pick(&[12, 32, 64]),
            send_queue_bytes_max: random.pick(&[140 * 1024, 256 * 1024, 1 << 20]),
            blocks_max: random.pick(&[64, 128, 256]),
            readers_max: random.pick(&[1, 2, 16]),
            page_backlog_max: random.pick(&[8, 64]),
            snapshot_every_bytes: random.pick(&[16 << 10, 64 << 10, 1 << 20]),
            retention_bytes: random.chance(150).then_some(128 << 10),
            dedup_entries_max: random.pick(&[64, 16_384, 16_384, 16_384]),
            receipts_group_max: random.pick(&[2, 32]),
        }
    }

    fn draw_storage(random: &mut Random) -> Settings {
        let segment_bytes = random.pick(&[64 << 10, 128 << 10, 512 << 10]);
        Settings {
            segment_bytes,
            first_segment_bytes: 32 << 10,
            commit_window_bytes: random.pick(&[32 << 10, 64 << 10]),
            record_bytes_max: 8 << 10,
            durability: Durability::Fsync,
        }
    }

    fn draw_disk_faults(random: &mut Random) -> DiskFaults {
        let mut on = || random.chance(500);
        DiskFaults {
            writes: on(),
            syncs: on(),
            short_writes: on(),
            no_space: on(),
            reads: on(),
            slow: on(),
            snapshots: on(),
        }
    }

    fn draw_faults(random: &mut Random) -> WorldFaults {
        let mut on = || random.chance(600);
        WorldFaults {
            power_cuts: on(),
            process_crashes: on(),
            recovery_crashes: on(),
            drains: on(),
            resets: on(),
            half_closes: on(),
            stalled_readers: on(),
            wall_jumps: on(),
            other_shard_counts: on(),
            hostile_clients: on(),
        }
    }

    /// Whether a device of `user` counts being handed a message as delivery.
    pub(crate) fn is_auto(&self, user: usize) -> bool {
        self.auto_users.contains(&user)
    }

    pub(crate) fn has_retention(&self) -> bool {
        self.retention_bytes.is_some()
    }

    pub(crate) fn plan(&self, ids: IdKey, shards_count: u16) -> Plan {
        Plan {
            connections_max: self.connections_max,
            send_queue_bytes_max: self.send_queue_bytes_max,
            blocks_max: self.blocks_max,
            auth_timeout_ms: 3_000,
            heartbeat_interval_ms: 5_000,
            readers_max: self.readers_max,
            page_backlog_max: self.page_backlog_max,
            snapshot_every_bytes: self.snapshot_every_bytes,
            retention_bytes: self.retention_bytes,
            retention_ms: None,
            durability: self.storage.durability,
            chat: ChatSettings {
                dedup_entries_max: self.dedup_entries_max,
                receipts_group_max: self.receipts_group_max,
                ..ChatSettings::standard(ids, shards_count)
            },
        }
    }
}
