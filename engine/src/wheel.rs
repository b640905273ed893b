//! Deadlines of connections: a hashed wheel of lists linked through the connections themselves,
//! so that an idle connection costs eight bytes of timer.
//!
//! Deadlines are lazy: activity only writes down when it was. A connection that comes up is looked
//! at, and goes back in where its deadline has moved.

/// Milliseconds of a tick.
pub(crate) const TICK_MS: u64 = 256;
const SLOTS_COUNT: u32 = 512;
const NONE: u32 = u32::MAX;
/// Set on what is a slot and no connection.
const IS_SLOT: u32 = 1 << 31;

/// The wheel of one shard. A connection is in it at most once.
pub(crate) struct Wheel {
    heads: Vec<u32>,
    nexts: Vec<u32>,
    /// What leads to a connection: another one, or a slot; `NONE` for one that is not in.
    previous: Vec<u32>,
    /// The next tick to come up.
    tick: u64,
    count: usize,
}

impl Wheel {
    pub(crate) fn new(connections_max: u32) -> Self {
        assert!(connections_max < IS_SLOT, "the configuration bounds connections");
        Self {
            heads: vec![NONE; SLOTS_COUNT as usize],
            nexts: vec![NONE; connections_max as usize],
            previous: vec![NONE; connections_max as usize],
            tick: 0,
            count: 0,
        }
    }

    /// Has `connection` come up at `at` (monotonic milliseconds) or at the wheel's horizon,
    /// whichever is first. One that is in already is moved.
    pub(crate) fn insert(&mut self, connection: u32, at: u64) {
        self.remove(connection);
        let horizon = self.tick + u64::from(SLOTS_COUNT) - 1;
        let slot = slot_of(at.div_ceil(TICK_MS).clamp(self.tick, horizon));
        let next = std::mem::replace(&mut self.heads[slot as usize], connection);
        self.nexts[connection as usize] = next;
        self.previous[connection as usize] = slot | IS_SLOT;
        if next != NONE {
            self.previous[next as usize] = connection;
        }
        self.count += 1;
    }

    fn remove(&mut self, connection: u32) {
        let previous = std::mem::replace(&mut self.previous[connection as usize], NONE);
        if previous == NONE {
            return;
        }
        let next = self.nexts[connection as usize];
        if previous & IS_SLOT == 0 {
            self.nexts[previous as usize] = next;
        } else {
            self.heads[(previous & !IS_SLOT) as usize] = next;
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.count -= 1;
    }

    /// Takes up to `budget` connections that have come up by `now`.
    pub(crate) fn expire(&mut self, now: u64, budget: usize, out: &mut Vec<u32>) {
        while self.tick * TICK_MS <= now && out.len() < budget {
            let head = self.heads[slot_of(self.tick) as usize];
            if head == NONE {
                self.tick += 1;
                continue;
            }
            self.remove(head);
            out.push(head);
        }
    }

    /// When the wheel wants to turn next, where anything is in it.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        (self.count > 0).then_some(self.tick * TICK_MS)
    }
}

fn slot_of(tick: u64) -> u32 {
    u32::try_from(tick % u64::from(SLOTS_COUNT)).expect("below the count of slots")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.expire(now, usize::MAX, &mut out);
        out.sort_unstable();
        out
    }

    #[test]
    fn nothing_comes_up_early_nor_a_tick_late() {
        let mut wheel = Wheel::new(4);
        for (connection, at) in [(0, 1), (1, 1000), (2, 1000), (3, 10_000)] {
            wheel.insert(connection, at);
        }
        assert!(expired(&mut wheel, 0).is_empty());
        assert_eq!(expired(&mut wheel, TICK_MS), [0]);
        assert!(expired(&mut wheel, 999).is_empty());
        assert_eq!(expired(&mut wheel, 1000 + TICK_MS), [1, 2]);
        assert_eq!(expired(&mut wheel, 20_000), [3]);
    }

    #[test]
    fn a_deadline_beyond_the_horizon_comes_up_at_it() {
        let mut wheel = Wheel::new(1);
        wheel.insert(0, u64::MAX / 2);
        let horizon = u64::from(SLOTS_COUNT) * TICK_MS;
        assert_eq!(expired(&mut wheel, horizon), [0]);
    }

    #[test]
    fn a_connection_is_in_once_at_the_time_named_last() {
        let mut wheel = Wheel::new(3);
        for connection in 0..3 {
            wheel.insert(connection, 10_000);
        }
        wheel.insert(1, 300);
        wheel.insert(2, 20_000);
        assert_eq!(expired(&mut wheel, 1000), [1]);
        assert_eq!(expired(&mut wheel, 11_000), [0]);
        assert_eq!(expired(&mut wheel, 30_000), [2]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn expiry_stays_within_its_budget() {
        let mut wheel = Wheel::new(100);
        (0..100).for_each(|connection| wheel.insert(connection, 10));
        let mut out = Vec::new();
        wheel.expire(TICK_MS, 30, &mut out);
        assert_eq!(out.len(), 30);
        wheel.expire(TICK_MS, 1000, &mut out);
        assert_eq!(out.len(), 100);
    }
}
