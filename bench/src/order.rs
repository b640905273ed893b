//! The order of one group as its members on one ring have seen it: the first to receive a sequence
//! number fixes what stands there, and all others must find the same.

use crate::content::mix;

/// Most messages of one group in one run.
const MESSAGES_MAX: usize = 1 << 25;

/// What a member's delivery says about the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As everybody else sees it.
    Agreed,
    /// Somebody else has another message there, or the number is out of all reason.
    Disputed,
}

/// Sequence numbers to messages.
#[derive(Debug, Default)]
pub(crate) struct GroupOrder {
    /// The sequence number of the first entry.
    first: u64,
    /// Sender and counter, by sequence number; a counter of zero means not seen yet.
    entries: Vec<(u32, u32)>,
}

impl GroupOrder {
    /// Notes that `sequence` is message `counter` of `sender`.
    pub(crate) fn place(&mut self, sequence: u64, message: (u32, u32)) -> Place {
        if self.entries.is_empty() {
            self.first = sequence;
        }
        if sequence < self.first && !self.grow_front(sequence) {
            return Place::Disputed;
        }
        let index = usize::try_from(sequence - self.first).unwrap_or(usize::MAX);
        if index >= MESSAGES_MAX {
            return Place::Disputed;
        }
        if index >= self.entries.len() {
            self.entries.resize(index + 1, (0, 0));
        }
        let entry = &mut self.entries[index];
        if entry.1 == 0 {
            *entry = message;
        }
        if *entry == message { Place::Agreed } else { Place::Disputed }
    }

    /// Senders hear of their own messages out of step, so the first seen may not be the first.
    fn grow_front(&mut self, sequence: u64) -> bool {
        let missing = usize::try_from(self.first - sequence).unwrap_or(usize::MAX);
        if missing + self.entries.len() > MESSAGES_MAX {
            return false;
        }
        self.entries.splice(0..0, std::iter::repeat_n((0, 0), missing));
        self.first = sequence;
        true
    }

    /// A digest of the whole order, to compare with another ring's.
    pub(crate) fn digest(&self) -> (u64, usize, u64) {
        let entry = |sum: u64, (sender, counter): &(u32, u32)| {
            mix(sum.wrapping_add((u64::from(*sender) << 32) | u64::from(*counter)))
        };
        (self.first, self.entries.len(), self.entries.iter().fold(0, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_must_see_the_same_message_at_a_number() {
        let mut order = GroupOrder::default();
        assert_eq!(order.place(10, (1, 1)), Place::Agreed);
        assert_eq!(order.place(9, (2, 1)), Place::Agreed);
        assert_eq!(order.place(12, (1, 2)), Place::Agreed);
        assert_eq!(order.place(9, (2, 1)), Place::Agreed);
        assert_eq!(order.place(10, (2, 2)), Place::Disputed);
        assert_eq!(order.place(u64::MAX, (2, 2)), Place::Disputed);
    }
}
