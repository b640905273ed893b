//! When gathered changes are written: all that waited at the start of a round, then a pause.

use crate::settings::Millis;

/// Paces a queue: a round takes what is there when it begins, over as many turns as it needs, and
/// the next one begins an interval after it at the earliest.
#[derive(Debug, Default)]
pub(crate) struct Round {
    number: u32,
    left_count: usize,
    next_at: Millis,
}

impl Round {
    /// Begins a round if one is due; returns how many entries of it are left.
    pub(crate) fn begin(&mut self, now: Millis, interval_ms: u64, waiting_count: usize) -> usize {
        if self.left_count == 0 && waiting_count > 0 && now >= self.next_at {
            self.number = self.number.wrapping_add(1);
            self.left_count = waiting_count;
            self.next_at = Millis(now.0 + interval_ms);
        }
        self.left_count
    }

    /// One entry of the round is done.
    pub(crate) fn on_done(&mut self) {
        assert!(self.left_count > 0, "a round ends with its entries");
        self.left_count -= 1;
    }

    /// 0 or 1: of the round that runs, or ran last. What joins the queue belongs to the other.
    pub(crate) fn parity(&self) -> usize {
        (self.number & 1) as usize
    }
}
