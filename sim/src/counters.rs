//! What a run has fired and reached. A fault that never fired has tested nothing.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    pub(crate) fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    pub(crate) fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(name, count)| (*name, *count))
    }
}

/// What a range of seeds as long as CI's must reach at least once.
pub(crate) const SOMETIMES: &[&str] = &[
    "power cuts",
    "process crashes",
    "crashes within recovery",
    "drains",
    "logs poisoned",
    "fault: write error",
    "fault: sync error",
    "fault: short write",
    "fault: no space",
    "fault: read error",
    "fault: snapshot error",
    "fault: reset",
    "fault: half-close",
    "fault: stalled reader",
    "fault: wall jump",
    "torn tails cut",
    "snapshots restored",
    "snapshots published",
    "segments prepared",
    "shard counts changed",
    "duplicates answered",
    "retries on another device",
    "busy answered",
    "gaps told",
    "sessions resumed",
    "connections passed",
    "passes refused",
    "papers before their connection",
    "connections before their papers",
    "slow consumers cut off",
    "sessions replaced",
    "bad frames refused",
    "foreign tokens refused",
    "strangers refused",
    "members removed",
    "receipts told",
    "histories read",
    "explicit syncs",
    "lists read",
];
