//! How far each conversation was received and read, and what of it the server has been told.
//!
//! A cursor is worth as much as the largest it ever held, so telling the server now and then is
//! enough: the first thing to tell starts a short wait, in which the others join it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wire::{ConversationId, Kind, Sequence};

/// How long a cursor waits for others to join it.
const TELL_AFTER: Duration = Duration::from_millis(50);
/// Cursors told at once; the rest follow.
const TOLD_AT_ONCE_MAX: usize = 256;
/// Conversations remembered. In one beyond them a message may be seen again after a reconnect.
const CONVERSATIONS_MAX: usize = 65_536;
/// Own messages above the cursor that are remembered in a conversation.
const OWN_MAX: usize = 4096;

#[derive(Debug, Default)]
struct Cursor {
    /// Everything up to here was received or sent by us.
    received: u64,
    /// Sequences above `received` that this device sent itself: a replay would bring them too.
    own: BTreeSet<u64>,
    /// The cursor was told the server up to here on this connection.
    received_told: u64,
    read: u64,
    read_told: u64,
}

impl Cursor {
    fn absorb_own(&mut self) {
        self.own = self.own.split_off(&(self.received + 1));
        while self.own.remove(&(self.received + 1)) {
            self.received += 1;
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Cursors {
    of: BTreeMap<ConversationId, Cursor>,
    /// Those with something to tell.
    dirty: BTreeSet<ConversationId>,
    tell_at: Option<Duration>,
    /// Whether the server counts what it wrote to the socket as delivered.
    auto_delivered: bool,
}

impl Cursors {
    pub(crate) fn new(auto_delivered: bool) -> Self {
        Self { auto_delivered, ..Self::default() }
    }

    fn cursor(&mut self, conversation: ConversationId) -> Option<&mut Cursor> {
        if self.of.len() >= CONVERSATIONS_MAX && !self.of.contains_key(&conversation) {
            return None;
        }
        Some(self.of.entry(conversation).or_default())
    }

    fn tell(&mut self, now: Duration, conversation: ConversationId) {
        self.dirty.insert(conversation);
        self.tell_at.get_or_insert(now + TELL_AFTER);
    }

    /// Message `sequence` came. Returns whether it is one that was not seen before.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        conversation: ConversationId,
        sequence: Sequence,
    ) -> bool {
        let Some(cursor) = self.cursor(conversation) else { return true };
        if sequence.0 <= cursor.received {
            return false;
        }
        let is_own = cursor.own.contains(&sequence.0);
        cursor.received = sequence.0;
        cursor.absorb_own();
        if !self.auto_delivered {
            self.tell(now, conversation);
        }
        !is_own
    }

    /// A message of this device was given place `sequence`.
    pub(crate) fn sent(&mut self, now: Duration, conversation: ConversationId, sequence: Sequence) {
        let Some(cursor) = self.cursor(conversation) else { return };
        let before = cursor.received;
        if sequence.0 > cursor.received {
            cursor.own.insert(sequence.0);
            if cursor.own.len() > OWN_MAX {
                cursor.own.pop_first();
            }
        }
        cursor.absorb_own();
        let has_advanced = cursor.received > before;
        // Else the next session of this device would be brought its own messages.
        if has_advanced && !self.auto_delivered {
            self.tell(now, conversation);
        }
    }

    /// The user has read up to `up_to`.
    pub(crate) fn read(&mut self, now: Duration, conversation: ConversationId, up_to: Sequence) {
        let Some(cursor) = self.cursor(conversation) else { return };
        if up_to.0 > cursor.read {
            cursor.read = up_to.0;
            self.tell(now, conversation);
        }
    }

    /// The connection ended: what was told on it may never have come there. Telling it again does
    /// no harm.
    pub(crate) fn forget_told(&mut self, now: Duration) {
        for (conversation, cursor) in &mut self.of {
            if cursor.received_told > 0 || cursor.read_told > 0 {
                (cursor.received_told, cursor.read_told) = (0, 0);
                self.dirty.insert(*conversation);
            }
        }
        if !self.dirty.is_empty() {
            self.tell_at.get_or_insert(now);
        }
    }

    /// When the server is to be told, if there is something to tell.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.tell_at
    }

    /// Hands what is due to `tell`: the kind of frame, the conversation, how far.
    pub(crate) fn flush(
        &mut self,
        now: Duration,
        mut tell: impl FnMut(Kind, ConversationId, Sequence),
    ) {
        if self.tell_at.is_none_or(|due| due > now) {
            return;
        }
        for _ in 0..TOLD_AT_ONCE_MAX {
            let Some(conversation) = self.dirty.pop_first() else { break };
            let Some(cursor) = self.of.get_mut(&conversation) else { continue };
            // Reading implies delivered, so one frame is enough where both moved alike.
            let received = if self.auto_delivered { 0 } else { cursor.received };
            if received > cursor.received_told.max(cursor.read) {
                cursor.received_told = received;
                tell(Kind::MarkDelivered, conversation, Sequence(received));
            }
            if cursor.read > cursor.read_told {
                cursor.read_told = cursor.read;
                tell(Kind::MarkRead, conversation, Sequence(cursor.read));
            }
        }
        self.tell_at = if self.dirty.is_empty() { None } else { Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ConversationId = ConversationId(7);

    fn told(cursors: &mut Cursors, now_ms: u64) -> Vec<(Kind, u64)> {
        let mut told = Vec::new();
        cursors.flush(Duration::from_millis(now_ms), |kind, _, up_to| told.push((kind, up_to.0)));
        told
    }

    #[test]
    fn a_burst_is_told_once_and_as_its_largest() {
        let mut cursors = Cursors::new(false);
        for sequence in 1..=100 {
            assert!(cursors.receive(Duration::ZERO, HERE, Sequence(sequence)));
        }
        assert_eq!(told(&mut cursors, 49), []);
        assert_eq!(told(&mut cursors, 50), [(Kind::MarkDelivered, 100)]);
        assert_eq!(told(&mut cursors, 500), []);
    }

    #[test]
    fn reading_implies_delivered_and_never_moves_backwards() {
        let mut cursors = Cursors::new(false);
        cursors.receive(Duration::ZERO, HERE, Sequence(9));
        cursors.read(Duration::ZERO, HERE, Sequence(9));
        cursors.read(Duration::ZERO, HERE, Sequence(4));
        assert_eq!(told(&mut cursors, 50), [(Kind::MarkRead, 9)]);
    }

    #[test]
    fn a_replay_of_what_was_seen_or_sent_here_is_not_new() {
        let mut cursors = Cursors::new(false);
        assert!(cursors.receive(Duration::ZERO, HERE, Sequence(3)));
        cursors.sent(Duration::ZERO, HERE, Sequence(5));
        assert!(!cursors.receive(Duration::ZERO, HERE, Sequence(3)));
        assert!(cursors.receive(Duration::ZERO, HERE, Sequence(4)), "another sender's");
        assert!(!cursors.receive(Duration::ZERO, HERE, Sequence(5)), "our own");
        assert!(cursors.receive(Duration::ZERO, HERE, Sequence(6)));
    }

    #[test]
    fn an_own_message_next_in_order_is_told_as_delivered() {
        let mut cursors = Cursors::new(false);
        cursors.sent(Duration::ZERO, HERE, Sequence(1));
        cursors.sent(Duration::ZERO, HERE, Sequence(3));
        assert_eq!(told(&mut cursors, 50), [(Kind::MarkDelivered, 1)]);
    }

    #[test]
    fn an_own_message_hides_no_earlier_one_of_somebody_else() {
        let mut cursors = Cursors::new(false);
        cursors.sent(Duration::ZERO, HERE, Sequence(57));
        assert!(cursors.receive(Duration::ZERO, HERE, Sequence(56)));
    }

    #[test]
    fn what_was_told_on_a_lost_connection_is_told_again() {
        let mut cursors = Cursors::new(false);
        cursors.receive(Duration::ZERO, HERE, Sequence(2));
        assert_eq!(told(&mut cursors, 50), [(Kind::MarkDelivered, 2)]);
        cursors.forget_told(Duration::from_millis(60));
        assert_eq!(told(&mut cursors, 60), [(Kind::MarkDelivered, 2)]);
    }

    #[test]
    fn a_session_that_counts_bytes_as_delivered_tells_only_what_is_read() {
        let mut cursors = Cursors::new(true);
        cursors.receive(Duration::ZERO, HERE, Sequence(2));
        assert_eq!(cursors.due(), None);
        cursors.read(Duration::ZERO, HERE, Sequence(1));
        assert_eq!(told(&mut cursors, 50), [(Kind::MarkRead, 1)]);
    }
}
