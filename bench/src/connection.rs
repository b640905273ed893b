//! What the generator knows about one connection, and what its user must have seen.

use crate::clock::Nanos;
use crate::content::mix;
use std::collections::VecDeque;

/// Most messages that one connection keeps for a retry.
pub(crate) const UNACKED_MAX: usize = 65_536;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// No socket; to be opened at some time.
    #[default]
    Down,
    /// The socket is being opened.
    Opening,
    /// Waits for the server's answer to who it is.
    Greeting,
    /// In use.
    Live,
    /// Ended; its last operations are awaited.
    Ending,
    /// The slot is being given back.
    Closing,
}

/// One direction's messages: how many, which, and how far. Sums of digests tell two sets apart
/// that have the same size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) count: u32,
    pub(crate) last_counter: u32,
    pub(crate) digest: u64,
    pub(crate) last_sequence: u64,
}

impl Side {
    pub(crate) fn add(&mut self, counter: u32, sequence: u64) {
        self.count += 1;
        self.last_counter = self.last_counter.max(counter);
        self.digest = self.digest.wrapping_add(mix(u64::from(counter)));
        self.last_sequence = self.last_sequence.max(sequence);
    }
}

/// A message that may have to be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unacked {
    pub(crate) counter: u32,
    pub(crate) intended: Nanos,
    /// In some session: so the server may have it, and it must be retried until it says so.
    pub(crate) was_sent: bool,
}

/// The messages of a connection that survives restarts, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    pub(crate) unacked: VecDeque<Unacked>,
    /// How many of the front were sent in this session.
    pub(crate) in_flight: usize,
    /// How many of the front were sent in an earlier one. They go one by one: were one of them
    /// refused for a moment, a later one would overtake it.
    pub(crate) old: usize,
    /// Nothing is sent before this.
    pub(crate) not_before: Nanos,
}

/// One connection. An idle one owns no memory beyond this.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) conversation: u128,
    /// Messages of others.
    pub(crate) delivered: Side,
    /// Own messages that the server has.
    pub(crate) acked: Side,
    /// Sum of all sequences seen, from both sides.
    pub(crate) sequences_sum: u64,
    pub(crate) first_sequence: u64,
    /// Largest sequence delivered in this session, and at the end of the one before.
    pub(crate) session_sequence: u64,
    pub(crate) earlier_sequence: u64,
    /// The first bytes of a frame whose rest has not come.
    pub(crate) partial: Vec<u8>,
    pub(crate) retry: Option<Box<Retry>>,
    /// Own messages made, of which the last has this counter.
    pub(crate) last_counter: u32,
    /// Messages of others that should have come before one that did.
    pub(crate) skipped: u32,
    /// Deliveries since the last cursor was sent.
    pub(crate) unmarked: u16,
    pub(crate) attempts: u8,
    pub(crate) state: State,
    pub(crate) is_receiving: bool,
    pub(crate) was_ready: bool,
}

const _: () = assert!(size_of::<Connection>() <= 224, "with its queues, below 300 bytes");

impl Connection {
    /// Notes a sequence number that its conversation has used.
    pub(crate) fn see(&mut self, sequence: u64) {
        self.sequences_sum = self.sequences_sum.wrapping_add(sequence);
        if self.first_sequence == 0 || sequence < self.first_sequence {
            self.first_sequence = sequence;
        }
    }

    /// Sequence numbers between the first and the last that this user has not seen, once nothing
    /// is under way.
    pub(crate) fn holes(&self) -> u64 {
        let last = self.delivered.last_sequence.max(self.acked.last_sequence);
        if last == 0 || self.first_sequence == 0 {
            return 0;
        }
        let seen = u64::from(self.delivered.count) + u64::from(self.acked.count);
        let span = last - self.first_sequence + 1;
        let sum = u128::from(self.first_sequence + last) * u128::from(span) / 2;
        let is_same_set = sum & u128::from(u64::MAX) == u128::from(self.sequences_sum);
        span.abs_diff(seen).max(u64::from(!is_same_set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sequences: &[u64]) -> u64 {
        let mut connection = Connection::default();
        for sequence in sequences {
            connection.see(*sequence);
            connection.delivered.add(1, *sequence);
        }
        connection.holes()
    }

    #[test]
    fn a_hole_in_the_sequence_is_found() {
        assert_eq!(seen(&[]), 0);
        assert_eq!(seen(&[5, 6, 8, 7]), 0);
        assert_eq!(seen(&[1, 2, 4]), 1);
        assert_eq!(seen(&[1, 1, 3]), 1, "a repetition does not fill a hole");
    }
}
