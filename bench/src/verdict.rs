//! The balance at the end: what every user must have seen, against what it has.

use crate::config::{Config, Door, Scenario};
use crate::connection::{Connection, Side};
use crate::lane::Outcome;
use serde::Serialize;

/// What went wrong with the messages of a run; all zero where nothing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Deliveries of acknowledged messages that never came.
    pub lost: u64,
    /// Deliveries that came twice in a session, or under two sequence numbers.
    pub duplicated: u64,
    /// Messages that came before an older one of the same conversation and sender.
    pub reordered: u64,
    /// Contents, places or senders that are not what was sent.
    pub corrupt: u64,
    /// Sequence numbers that were skipped, over all users.
    pub holes: u64,
    /// Messages that the server neither took nor refused.
    pub unanswered: u64,
}

impl Verdict {
    /// Whether every message was delivered once, in order, as it was sent.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    count: u64,
    digest: u64,
}

impl Sum {
    fn add(&mut self, side: &Side) {
        self.count += u64::from(side.count);
        self.digest = self.digest.wrapping_add(side.digest);
    }

    fn without(self, side: &Side) -> Self {
        let digest = self.digest.wrapping_sub(side.digest);
        Self { count: self.count - u64::from(side.count), digest }
    }

    /// What is missing of `self` where `seen` was seen.
    fn missing(self, seen: &Side) -> u64 {
        let missing = self.count.saturating_sub(u64::from(seen.count));
        let is_another = self.count == u64::from(seen.count) && self.digest != seen.digest;
        missing.max(u64::from(is_another))
    }
}

/// Draws the balance over all rings, whose outcomes stand in order of their users.
pub(crate) fn verdict(config: &Config, outcomes: &[Outcome]) -> Verdict {
    let mut verdict = Verdict::default();
    let users: Vec<&Connection> =
        outcomes.iter().flat_map(|outcome| &outcome.flow.connections).collect();
    for tally in outcomes.iter().map(|outcome| &outcome.flow.tally) {
        verdict.duplicated += tally.duplicated;
        verdict.reordered += tally.reordered;
        verdict.corrupt += tally.corrupt;
        let answered = tally.acked + tally.refused + tally.choked;
        verdict.unanswered += tally.offered.saturating_sub(answered);
    }
    let block = match config.scenario {
        Scenario::Direct { .. } => 2,
        Scenario::Group { members, .. } => members as usize,
        Scenario::Idle { .. } => return verdict,
    };
    for conversation in users.chunks(block) {
        let mut all = Sum::default();
        for user in conversation {
            all.add(&user.acked);
        }
        for user in conversation {
            verdict.lost += all.without(&user.acked).missing(&user.delivered);
        }
    }
    if config.door == Door::Native {
        verdict.holes = users.iter().map(|user| user.holes()).sum();
        verdict.corrupt += disputes(outcomes);
    }
    verdict
}

/// Groups whose order two rings disagree about. A ring that saw less has lost something, and was
/// counted for it.
fn disputes(outcomes: &[Outcome]) -> u64 {
    let [first, others @ ..] = outcomes else { return 0 };
    let mut disputes = 0;
    for other in others {
        for (one, another) in first.flow.orders.iter().zip(&other.flow.orders) {
            let (one, another) = (one.digest(), another.digest());
            let is_same_range = (one.0, one.1) == (another.0, another.1) && one.1 > 0;
            disputes += u64::from(is_same_range && one.2 != another.2);
        }
    }
    disputes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(counters: &[u32]) -> Side {
        let mut side = Side::default();
        for counter in counters {
            side.add(*counter, u64::from(*counter));
        }
        side
    }

    #[test]
    fn the_same_number_of_other_messages_is_a_loss() {
        let mut all = Sum::default();
        all.add(&side(&[1, 2, 4]));
        assert_eq!(all.missing(&side(&[1, 2, 4])), 0);
        assert_eq!(all.missing(&side(&[1, 2])), 1);
        assert_eq!(all.missing(&side(&[1, 2, 3])), 1);
    }
}
