//! Which messages were retries of which: a ring of the newest messages and a table into it.
//!
//! Oldest first out, whether by age or because the ring is full. The table probes linearly and
//! closes gaps as it removes, so that it never needs a rebuild while the ring stays its size. Its
//! slots hold enough of the key that probing stays within a cache line or two of the table.

use crate::settings::WallMillis;
use std::collections::VecDeque;
use wire::{Hlc, Partition, Sequence};

/// A slot of the table: 32 bits of the key, a bit that says it is taken, 31 bits of an ordinal.
const EMPTY: u64 = 0;
const TAKEN: u64 = 1 << 31;
const ORDINAL_MASK: u64 = TAKEN - 1;
const TABLE_SLOTS_MIN: usize = 64;
const SEQUENCE_BITS: u32 = 48;

/// What a message became, under the key of its retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// From `IdKey::retry`: as random as a hash, so it serves as one.
    pub(crate) key: u128,
    pub(crate) hlc: Hlc,
    /// The partition of the conversation in the upper 16 bits, the sequence in the rest.
    place: u64,
}

impl Entry {
    pub(crate) fn new(key: u128, hlc: Hlc, partition: Partition, sequence: Sequence) -> Self {
        assert!(sequence.0 < 1 << SEQUENCE_BITS, "no conversation holds 2^48 messages");
        Self { key, hlc, place: (u64::from(partition.0) << SEQUENCE_BITS) | sequence.0 }
    }

    pub(crate) fn sequence(&self) -> Sequence {
        Sequence(self.place & ((1 << SEQUENCE_BITS) - 1))
    }

    pub(crate) fn partition(&self) -> Partition {
        Partition((self.place >> SEQUENCE_BITS) as u16)
    }
}

/// See the module. Invariant: the table holds the ordinal, modulo 2^31, of the newest entry of each
/// key, and has at least twice as many slots as there are entries.
pub(crate) struct Dedup {
    entries: VecDeque<Entry>,
    /// The ordinal of the front entry; the first ever is 0.
    front: u64,
    table: Vec<u64>,
    entries_max: usize,
    window_ms: u64,
    /// Whether an entry had to go before its time.
    was_full: bool,
}

impl Dedup {
    pub(crate) fn new(entries_max: u32, window_ms: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            front: 0,
            table: vec![EMPTY; TABLE_SLOTS_MIN],
            entries_max: entries_max as usize,
            window_ms,
            was_full: false,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// The first message with this key, unless it is out of the window at `wall`.
    pub(crate) fn find(&self, key: u128, wall: WallMillis) -> Option<&Entry> {
        let entry = &self.entries[self.index_in_table(key).ok()?.1];
        (!self.is_old(entry, wall.0)).then_some(entry)
    }

    /// How far back retries are recognised at `wall`: the window, unless the ring is too small.
    pub(crate) fn window_held_ms(&self, wall: WallMillis) -> u64 {
        match self.entries.front() {
            Some(front) if self.was_full => {
                wall.0.saturating_sub(front.hlc.wall_millis()).min(self.window_ms)
            }
            _ => self.window_ms,
        }
    }

    /// Remembers `entry`. One that is known by its key stays as it is, unless that one is so old
    /// that it is not the same message any more.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let wall = entry.hlc.wall_millis();
        // Two out for one in: what a quiet night left behind is gone soon after, without a pause.
        for _ in 0..2 {
            if self.entries.front().is_some_and(|front| self.is_old(front, wall)) {
                self.pop();
            }
        }
        if let Ok((_, index)) = self.index_in_table(entry.key)
            && !self.is_old(&self.entries[index], wall)
        {
            return;
        }
        if self.entries.len() == self.entries_max {
            self.was_full = true;
            // The tail behind a snapshot: what went out before must not push newer ones out.
            if self.entries.front().is_some_and(|front| entry.hlc < front.hlc) {
                return;
            }
            self.pop();
        }
        if (self.entries.len() + 1) * 2 > self.table.len() {
            self.grow();
        }
        let (Ok((slot, _)) | Err(slot)) = self.index_in_table(entry.key);
        self.table[slot] = table_entry(entry.key, self.front + self.entries.len() as u64);
        self.entries.push_back(entry);
        assert!(self.entries.len() <= self.entries_max);
    }

    /// Up to `count` entries from ordinal `from` on, and the ordinal after them.
    pub(crate) fn slice(&self, from: u64, count: usize) -> (impl Iterator<Item = &Entry>, u64) {
        let from = from.max(self.front);
        let start = usize::try_from(from - self.front).unwrap_or(usize::MAX);
        let start = start.min(self.entries.len());
        let end = start.saturating_add(count).min(self.entries.len());
        (self.entries.range(start..end), self.front + end as u64)
    }

    /// The ordinal after the newest entry.
    pub(crate) fn end(&self) -> u64 {
        self.front + self.entries.len() as u64
    }

    fn is_old(&self, entry: &Entry, wall_millis: u64) -> bool {
        entry.hlc.wall_millis().saturating_add(self.window_ms) < wall_millis
    }

    fn pop(&mut self) {
        let Some(entry) = self.entries.front() else { return };
        // An entry whose key was used again is not in the table any more.
        if let Ok((slot, 0)) = self.index_in_table(entry.key) {
            self.close_gap(slot);
        }
        self.entries.pop_front();
        self.front += 1;
    }

    /// Empties `slot`, and moves back whoever probed past it.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.table.len() - 1;
        let mut slot = gap;
        loop {
            self.table[gap] = EMPTY;
            loop {
                slot = (slot + 1) & mask;
                if self.table[slot] == EMPTY {
                    return;
                }
                let ideal = self.ideal_slot(self.table[slot]);
                // Moves only if the gap lies on its way from its ideal slot to where it is.
                if (slot.wrapping_sub(ideal) & mask) >= (slot.wrapping_sub(gap) & mask) {
                    break;
                }
            }
            self.table[gap] = self.table[slot];
            gap = slot;
        }
    }

    fn grow(&mut self) {
        let slots_count = self.table.len() * 2;
        self.table.clear();
        self.table.resize(slots_count, EMPTY);
        for index in 0..self.entries.len() {
            let key = self.entries[index].key;
            let (Ok((slot, _)) | Err(slot)) = self.index_in_table(key);
            self.table[slot] = table_entry(key, self.front + index as u64);
        }
    }

    /// Where a table entry wants to be.
    fn ideal_slot(&self, entry: u64) -> usize {
        usize::try_from(entry >> 32).expect("32 bits") & (self.table.len() - 1)
    }

    fn index(&self, entry: u64) -> usize {
        let behind = (entry & ORDINAL_MASK).wrapping_sub(self.front) & ORDINAL_MASK;
        usize::try_from(behind).expect("31 bits")
    }

    /// Where `key` is in the table and in the ring, or which slot of the table would take it.
    fn index_in_table(&self, key: u128) -> Result<(usize, usize), usize> {
        let wanted = table_entry(key, 0);
        let mut slot = self.ideal_slot(wanted);
        while self.table[slot] != EMPTY {
            let index = self.index(self.table[slot]);
            if self.table[slot] >> 32 == wanted >> 32 && self.entries[index].key == key {
                return Ok((slot, index));
            }
            slot = (slot + 1) & (self.table.len() - 1);
        }
        Err(slot)
    }
}

/// What the table holds of a message. A ring has at most 2^30 entries, so 31 bits tell their
/// ordinals apart.
fn table_entry(key: u128, ordinal: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the key will do")]
    let bits = (key >> 64) as u32;
    (u64::from(bits) << 32) | TAKEN | (ordinal & ORDINAL_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(key: u64, wall: u64) -> Entry {
        // Few upper halves, so that probes run long and gaps have somebody to move.
        let key = (u128::from(key % 7) << 64) | u128::from(key);
        Entry::new(key, Hlc(wall << 16), Partition(3), Sequence(wall))
    }

    #[test]
    fn the_ring_agrees_with_a_naive_one() {
        const ENTRIES_MAX: usize = 256;
        const WINDOW_MS: u64 = 500;
        let mut dedup = Dedup::new(256, WINDOW_MS);
        let mut naive: Vec<Entry> = Vec::new();
        let mut random = 1_u64;
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let wall = 10_000 + round * (1 + round / 5000);
            let entry = entry((random >> 33) % 1000, wall);
            let is_old = |it: &Entry| it.hlc.wall_millis() + WINDOW_MS < wall;
            let known = naive.iter().find(|it| it.key == entry.key && !is_old(it));
            assert_eq!(dedup.find(entry.key, WallMillis(wall)), known);
            if known.is_none() {
                for _ in 0..2 {
                    if naive.first().is_some_and(is_old) {
                        naive.remove(0);
                    }
                }
                if naive.len() == ENTRIES_MAX {
                    naive.remove(0);
                }
                naive.push(entry);
                dedup.insert(entry);
            }
            assert_eq!(dedup.count(), naive.len());
        }
        assert!(dedup.count() <= ENTRIES_MAX && dedup.front > 5000);
        let in_table = dedup.table.iter().filter(|slot| **slot != EMPTY).count();
        let keys: std::collections::BTreeSet<_> = dedup.entries.iter().map(|it| it.key).collect();
        assert_eq!(in_table, keys.len());
    }

    #[test]
    fn ordinals_may_wrap() {
        let mut dedup = Dedup::new(4, 1000);
        dedup.front = (1 << 31) - 2;
        for key in 1..=9 {
            dedup.insert(entry(key, key));
        }
        let found: BTreeMap<u64, bool> = (1..=9)
            .map(|key| (key, dedup.find(entry(key, 9).key, WallMillis(9)).is_some()))
            .collect();
        assert!(found.iter().all(|(key, is_found)| *is_found == (*key > 5)), "{found:?}");
    }

    #[test]
    fn a_full_ring_does_not_take_what_it_gave_up() {
        let mut dedup = Dedup::new(4, 1000);
        (1..=6).for_each(|key| dedup.insert(entry(key, key)));
        dedup.insert(entry(1, 1));
        assert_eq!(dedup.find(entry(1, 1).key, WallMillis(6)), None);
        assert_eq!(dedup.find(entry(3, 3).key, WallMillis(6)), Some(&entry(3, 3)));
        assert_eq!(dedup.window_held_ms(WallMillis(8)), 5);
    }
}
