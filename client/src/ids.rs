//! Ids and jitter from the caller's seed.

use std::time::Duration;
use wire::ClientMessageId;

/// A source of ids that nobody else makes, as far as nobody else has the seed.
///
/// The seed must be fresh entropy for each process: two sessions of one user with one seed would
/// name different messages alike, and the server would take the second for a retry of the first.
#[derive(Clone, Debug)]
pub struct Ids {
    lanes: [u64; 2],
}

/// The golden ratio in 64 bits: steps of it visit every value before they repeat.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Ids {
    /// Ids that follow from `seed`.
    pub fn new(seed: u128) -> Self {
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).expect("64 bits");
        Self { lanes: [half(seed), half(seed >> 64)] }
    }

    fn lane(&mut self, index: usize) -> u64 {
        self.lanes[index] = self.lanes[index].wrapping_add(STEP);
        mix(self.lanes[index])
    }

    /// The next id; never zero, which the protocol reserves.
    pub fn client_message(&mut self) -> ClientMessageId {
        loop {
            let (low, high) = (self.lane(0), self.lane(1));
            let id = (u128::from(high) << 64) | u128::from(low);
            if id != 0 {
                return ClientMessageId(id);
            }
        }
    }

    /// A time from half of `whole` to all of it, so that many clients do not come back at once.
    pub fn jitter(&mut self, whole: Duration) -> Duration {
        let half = whole / 2;
        let half_micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(self.lane(0) % half_micros.saturating_add(1))
    }
}

/// Spreads a counter over all 64 bits, one to one.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_gives_the_same_ids_again_and_none_twice() {
        let (mut one, mut two) = (Ids::new(7), Ids::new(7));
        let mut seen = BTreeSet::new();
        for _ in 0..10_000 {
            let id = one.client_message();
            assert_eq!(id, two.client_message());
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let mut ids = Ids::new(1);
        let whole = Duration::from_millis(100);
        for _ in 0..1000 {
            let jitter = ids.jitter(whole);
            assert!(jitter >= whole / 2 && jitter <= whole);
        }
        assert_eq!(ids.jitter(Duration::ZERO), Duration::ZERO);
    }
}
