//! What comes back, checked: every delivery and every acknowledgement passes through here.

use crate::clock::Nanos;
use crate::config::Scenario;
use crate::connection::State;
use crate::content::Stamp;
use crate::flow::{Fault, Flow, bad_body};
use crate::frames;
use crate::order::Place;
use wire::Kind;
use wire::body::{Deliver, Page};
use wire::fixed::{Sent, SentStatus};
use wire::frame::Frame;
use wire::generated::SendHead;

/// Where a message stands in its conversation, as the server says.
#[derive(Clone, Copy, Debug)]
struct Seen {
    conversation: u128,
    sequence: u64,
    is_live: bool,
}

impl Flow {
    pub(crate) fn delivered(&mut self, slot: u32, body: &[u8], now: Nanos) -> Result<(), Fault> {
        let deliver = Deliver::decode(body).map_err(|error| bad_body(Kind::Deliver, error))?;
        self.check(slot, &deliver, true, now);
        Ok(())
    }

    /// A page of what this device missed: its entries are deliveries too.
    pub(crate) fn synced(&mut self, slot: u32, body: &[u8], now: Nanos) -> Result<(), Fault> {
        let page = Page::decode(body).map_err(|error| bad_body(Kind::SyncBatch, error))?;
        for entry in page {
            let deliver = entry.map_err(|error| bad_body(Kind::SyncBatch, error))?;
            self.check(slot, &deliver, false, now);
        }
        Ok(())
    }

    fn check(&mut self, slot: u32, deliver: &Deliver<'_>, is_live: bool, now: Nanos) {
        let Some(stamp) = Stamp::read(deliver.content) else {
            self.tally.corrupt += 1;
            return;
        };
        let seen =
            Seen { conversation: deliver.conversation.0, sequence: deliver.sequence.0, is_live };
        let user = self.base + slot;
        let connection = &mut self.connections[slot as usize];
        if connection.conversation == 0 {
            connection.conversation = seen.conversation;
        }
        let is_misplaced = connection.conversation != seen.conversation
            || !may_hear(self.config.scenario, user, stamp.sender);
        if is_misplaced {
            self.tally.corrupt += 1;
            return;
        }
        if seen.sequence <= connection.session_sequence {
            if connection.skipped > 0 {
                self.tally.reordered += 1;
            } else {
                self.tally.duplicated += 1;
            }
            return;
        }
        connection.session_sequence = seen.sequence;
        if seen.sequence <= connection.earlier_sequence {
            // Of an earlier session, whose last cursor the server may not have had.
            self.tally.redelivered += u64::from(stamp.sender != user);
            return;
        }
        if stamp.sender == user {
            // A page of what was missed may show a device its own messages.
            self.tally.corrupt += u64::from(is_live);
            return;
        }
        self.count(slot, &stamp, seen, now);
    }

    /// A delivery that this user has not had before, unless its counter says otherwise.
    fn count(&mut self, slot: u32, stamp: &Stamp, seen: Seen, now: Nanos) {
        let connection = &mut self.connections[slot as usize];
        match self.config.scenario {
            Scenario::Group { members, .. } => {
                let group = ((self.base + slot) / members) as usize;
                let message = (stamp.sender, stamp.counter);
                if self.orders[group].place(seen.sequence, message) == Place::Disputed {
                    self.tally.corrupt += 1;
                    return;
                }
            }
            Scenario::Direct { .. } | Scenario::Idle { .. } => {
                let last = connection.delivered.last_counter;
                if stamp.counter <= last {
                    // Two sequence numbers for one message, or two messages out of order.
                    if connection.skipped > 0 {
                        connection.skipped -= 1;
                        self.tally.reordered += 1;
                    } else {
                        self.tally.duplicated += 1;
                        return;
                    }
                } else {
                    connection.skipped += stamp.counter - last - 1;
                }
            }
        }
        connection.see(seen.sequence);
        connection.delivered.add(stamp.counter, seen.sequence);
        self.note_delivery(stamp, seen.is_live, now);
        self.mark(slot, now);
    }

    fn note_delivery(&mut self, stamp: &Stamp, is_live: bool, now: Nanos) {
        self.tally.delivered += 1;
        if self.measured.contains(&now) {
            self.tally.measured_delivered += 1;
        }
        if is_live && self.measured.contains(&stamp.intended) {
            self.recorders.delivered.record(now.saturating_sub(stamp.intended));
        }
    }

    /// The server has a message of ours.
    pub(crate) fn acked(&mut self, slot: u32, frame: Frame<'_>, now: Nanos) -> Result<(), Fault> {
        let sent = Sent::decode(frame.body).map_err(|error| bad_body(frame.kind, error))?;
        let (intended, sequence) = (frame.reference, sent.sequence.0);
        let counter = sent.client_message.0 & u128::from(u64::MAX);
        let counter = u32::try_from(counter).unwrap_or(u32::MAX);
        let user = self.base + slot;
        let stamp = Stamp { sender: user, counter, intended };
        let connection = &mut self.connections[slot as usize];
        let is_ours = sent.client_message == self.dress.client_message(&stamp)
            && (1..=connection.last_counter).contains(&counter);
        if !is_ours {
            self.tally.corrupt += 1;
            return Ok(());
        }
        if let Some(retry) = &mut connection.retry {
            let mut in_flight = retry.unacked.iter().take(retry.in_flight);
            let Some(index) = in_flight.position(|message| message.counter == counter) else {
                self.tally.duplicated += 1;
                return Ok(());
            };
            retry.unacked.remove(index);
            retry.in_flight -= 1;
            retry.old -= usize::from(index < retry.old);
        } else if sent.status == SentStatus::Duplicate {
            self.control.note_error("a message sent once was taken for a retry");
            self.tally.duplicated += 1;
            return Ok(());
        }
        if connection.conversation == 0 {
            connection.conversation = sent.conversation.0;
        }
        if connection.conversation != sent.conversation.0 {
            self.tally.corrupt += 1;
        }
        if sequence <= connection.acked.last_sequence {
            self.tally.reordered += 1;
        }
        connection.see(sequence);
        connection.acked.add(counter, sequence);
        if let Scenario::Group { members, .. } = self.config.scenario {
            let place = self.orders[(user / members) as usize].place(sequence, (user, counter));
            self.tally.corrupt += u64::from(place == Place::Disputed);
        }
        self.note_ack(intended, now);
        if self.config.survives_restart {
            self.pump(slot);
        }
        Ok(())
    }

    fn note_ack(&mut self, intended: Nanos, now: Nanos) {
        self.tally.acked += 1;
        if self.measured.contains(&intended) {
            self.tally.measured_acked += 1;
            self.recorders.sent.record(now.saturating_sub(intended));
        }
    }

    /// The relay passes frames on as they are, and answers each with a short one.
    pub(crate) fn handle_relayed(
        &mut self,
        slot: u32,
        frame: Frame<'_>,
        now: Nanos,
    ) -> Result<(), Fault> {
        if self.connection(slot).state == State::Greeting {
            self.ready(slot);
            return Ok(());
        }
        let user = self.base + slot;
        if frame.kind == Kind::MessageSent {
            let Some((intended, counter)) = frames::relay_ack(frame.body) else {
                return Err(Fault("a short reply".to_owned()));
            };
            let connection = self.connection(slot);
            if counter <= connection.acked.last_counter {
                self.tally.duplicated += 1;
                return Ok(());
            }
            connection.acked.add(counter, 0);
            self.note_ack(intended, now);
            return Ok(());
        }
        let content = frame.body.get(size_of::<SendHead>()..).unwrap_or_default();
        let stamp =
            Stamp::read(content).filter(|stamp| may_hear(self.config.scenario, user, stamp.sender));
        let Some(stamp) = stamp else {
            self.tally.corrupt += 1;
            return Ok(());
        };
        let is_direct = matches!(self.config.scenario, Scenario::Direct { .. });
        let connection = self.connection(slot);
        if is_direct && stamp.counter != connection.delivered.last_counter + 1 {
            let is_late = stamp.counter <= connection.delivered.last_counter;
            self.tally.reordered += u64::from(is_late);
        }
        let connection = self.connection(slot);
        connection.delivered.add(stamp.counter, 0);
        self.note_delivery(&stamp, true, now);
        Ok(())
    }
}

/// Whether a message of user `sender` may reach `user`; one's own may, in a page.
fn may_hear(scenario: Scenario, user: u32, sender: u32) -> bool {
    match scenario {
        Scenario::Direct { .. } => sender == user || sender == user ^ 1,
        Scenario::Group { members, .. } => sender / members == user / members,
        Scenario::Idle { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::control::Control;
    use crate::lane::Outcome;
    use crate::verdict::{Verdict, verdict};
    use std::net::SocketAddr;
    use std::sync::Arc;
    use wire::fixed::Durability;
    use wire::table::{Authenticated, TableWriter};
    use wire::{ConversationId, MessageId, Sequence, frame};

    const ROOM: u128 = 77;

    /// Users 0 and 1, who talk to each other, and a server that the test plays.
    struct Talk {
        flow: Flow,
        config: Arc<Config>,
    }

    impl Talk {
        fn new(survives_restart: bool) -> Self {
            let target = SocketAddr::from(([127, 0, 0, 1], 1));
            let mut config = Config::new(target, Scenario::Direct { connections: 2 });
            config.survives_restart = survives_restart;
            let config = Arc::new(config);
            let flow = Flow::new(&config, &Arc::new(Control::default()), 0..2);
            let mut talk = Self { flow, config };
            talk.log_in(0);
            talk.log_in(1);
            talk
        }

        fn log_in(&mut self, slot: u32) {
            self.flow.opened(slot);
            let body = Authenticated {
                user: "u",
                device: "d0",
                session: 1,
                resume_token: b"t",
                heartbeat_interval_s: 25,
                resumed: false,
                server_time_ms: 0,
            };
            let mut writer = TableWriter::default();
            self.hear(slot, Kind::Authenticated, 0, writer.authenticated(&body));
        }

        fn hear(&mut self, slot: u32, kind: Kind, reference: u64, body: &[u8]) {
            let mut bytes = Vec::new();
            frame::encode(&mut bytes, kind, reference, &[body]);
            self.flow.received(slot, &bytes, 1_000).unwrap();
        }

        /// User 0 sends its next message, and hears that it has `sequence`.
        fn say(&mut self, sequence: u64) {
            self.flow.now = 900;
            self.flow.offer_one(0, 900);
            let counter = self.flow.connections[0].last_counter;
            self.confirm(counter, sequence);
        }

        fn confirm(&mut self, counter: u32, sequence: u64) {
            let stamp = Stamp { sender: 0, counter, intended: 900 };
            let sent = Sent {
                message: MessageId(1),
                conversation: ConversationId(ROOM),
                client_message: self.flow.dress.client_message(&stamp),
                sequence: Sequence(sequence),
                status: SentStatus::Sent,
                durability: Durability::LocalFsync,
            };
            self.hear(0, Kind::MessageSent, 900, &sent.head().0);
        }

        /// User 1 hears message `counter` of user 0 at `sequence`.
        fn deliver(&mut self, counter: u32, sequence: u64, damage: u8) {
            let mut content = Vec::new();
            Stamp { sender: 0, counter, intended: 900 }.put(&mut content, 128);
            content[100] ^= damage;
            let deliver = Deliver {
                message: MessageId(1),
                conversation: ConversationId(ROOM),
                sequence: Sequence(sequence),
                message_kind: 0,
                sender: "u",
                content: &content,
            };
            let body = [&deliver.head().0[..], b"u", &content].concat();
            self.hear(1, Kind::Deliver, 0, &body);
        }

        fn verdict(self) -> Verdict {
            verdict(&self.config, &[Outcome { flow: self.flow, enters_count: 0 }])
        }
    }

    #[test]
    fn a_faultless_talk_is_clean() {
        let mut talk = Talk::new(false);
        for number in 1..=20 {
            talk.say(u64::from(number));
            talk.deliver(number, u64::from(number), 0);
        }
        assert!(talk.verdict().is_clean());
    }

    #[test]
    fn an_acknowledged_message_that_never_comes_is_lost() {
        let mut talk = Talk::new(false);
        talk.say(1);
        talk.say(2);
        talk.deliver(1, 1, 0);
        assert_eq!(talk.verdict(), Verdict { lost: 1, ..Verdict::default() });
    }

    #[test]
    fn a_message_that_was_never_answered_is_told_from_a_lost_one() {
        let mut talk = Talk::new(false);
        talk.flow.offer_one(0, 900);
        assert_eq!(talk.verdict(), Verdict { unanswered: 1, ..Verdict::default() });
    }

    #[test]
    fn a_message_that_comes_twice_is_a_duplicate() {
        let mut talk = Talk::new(false);
        talk.say(1);
        talk.deliver(1, 1, 0);
        talk.deliver(1, 1, 0);
        talk.deliver(1, 2, 0);
        assert_eq!(talk.verdict().duplicated, 2, "once as it was, once under a new number");
    }

    #[test]
    fn a_message_that_overtakes_another_is_seen() {
        let mut talk = Talk::new(false);
        talk.say(1);
        talk.say(2);
        talk.deliver(2, 1, 0);
        talk.deliver(1, 2, 0);
        assert_eq!(talk.verdict(), Verdict { reordered: 1, ..Verdict::default() });
    }

    #[test]
    fn a_damaged_message_is_seen() {
        let mut talk = Talk::new(false);
        talk.say(1);
        talk.deliver(1, 1, 1);
        let verdict = talk.verdict();
        assert_eq!((verdict.corrupt, verdict.lost), (1, 1));
    }

    #[test]
    fn a_number_that_no_message_has_is_a_hole() {
        let mut talk = Talk::new(false);
        talk.say(1);
        talk.say(3);
        talk.deliver(1, 1, 0);
        talk.deliver(2, 3, 0);
        assert_eq!(talk.verdict().holes, 2, "both users see it");
    }

    #[test]
    fn what_an_earlier_session_has_seen_may_come_again_in_a_later_one() {
        let mut talk = Talk::new(true);
        talk.say(1);
        talk.deliver(1, 1, 0);
        talk.log_in(1);
        talk.deliver(1, 1, 0);
        assert_eq!((talk.flow.tally.redelivered, talk.flow.tally.duplicated), (1, 0));
        talk.deliver(1, 1, 0);
        assert_eq!(talk.flow.tally.duplicated, 1, "but not twice in that one");
    }

    #[test]
    fn what_was_not_acknowledged_is_said_again_in_order_and_one_by_one() {
        let mut talk = Talk::new(true);
        for _ in 0..3 {
            talk.flow.offer_one(0, 900);
        }
        let first: Vec<u8> = talk.flow.outbox.buffer(0).clone();
        talk.flow.outbox.forget(0);
        talk.log_in(0);
        talk.flow.offer_one(0, 900);
        let count = |talk: &Talk| talk.flow.connections[0].retry.as_ref().unwrap().in_flight;
        assert_eq!(count(&talk), 1, "the server may have had it");
        let again: Vec<u8> = talk.flow.outbox.buffer(0).clone();
        let message = &again[again.len() - 180..];
        assert!(first.windows(180).any(|window| window == message), "the same bytes");
        talk.confirm(1, 1);
        talk.confirm(2, 2);
        talk.confirm(3, 3);
        talk.confirm(4, 4);
        assert_eq!(talk.flow.tally.acked, 4);
    }

    #[test]
    fn frames_may_arrive_in_any_pieces() {
        let mut talk = Talk::new(false);
        let mut bytes = Vec::new();
        for number in 1..=3 {
            talk.say(number);
            let mut content = Vec::new();
            let counter = u32::try_from(number).unwrap();
            Stamp { sender: 0, counter, intended: 900 }.put(&mut content, 128);
            let deliver = Deliver {
                message: MessageId(1),
                conversation: ConversationId(ROOM),
                sequence: Sequence(number),
                message_kind: 0,
                sender: "u",
                content: &content,
            };
            frame::encode(&mut bytes, Kind::Deliver, 0, &[&deliver.head().0, b"u", &content]);
        }
        for piece in bytes.chunks(7) {
            talk.flow.received(1, piece, 1_000).unwrap();
        }
        assert!(talk.verdict().is_clean());
    }
}
