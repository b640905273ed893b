//! What is due, said: messages are made when their time has come, whatever the server does.

use crate::clock::Nanos;
use crate::config::{Door, Scenario};
use crate::connection::{State, UNACKED_MAX, Unacked};
use crate::content::Stamp;
use crate::flow::Flow;
use crate::frames;
use crate::outbox::WAITING_BYTES_MAX;
use wire::body::Target;

/// Most messages of one turn, so that a turn ends even when the generator is behind.
const MESSAGES_PER_TURN_MAX: usize = 4096;
/// After a reconnect, bytes that may wait in a queue before more is added.
const PUMP_BYTES_MAX: usize = 64 * 1024;

impl Flow {
    /// Makes the messages due by `now`, none that is due after `end`.
    pub(crate) fn offer(&mut self, now: Nanos, end: Nanos) {
        self.lags.clear();
        let Some(mut arrivals) = self.arrivals.take() else { return };
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let intended = arrivals.due();
            if intended > now || intended >= end {
                break;
            }
            arrivals.advance();
            let slot = self.senders[self.sender_next];
            self.sender_next = (self.sender_next + 1) % self.senders.len();
            self.offer_one(slot, intended);
        }
        self.arrivals = Some(arrivals);
    }

    /// Notes how late the turn's messages went out.
    pub(crate) fn note_lags(&mut self, now: Nanos) {
        for intended in self.lags.drain(..) {
            self.recorders.offer_lag.record(now.saturating_sub(intended));
        }
    }

    pub(crate) fn offer_one(&mut self, slot: u32, intended: Nanos) {
        self.tally.offered += 1;
        if self.measured.contains(&intended) {
            self.tally.measured_offered += 1;
            self.lags.push(intended);
        }
        let waiting_bytes = self.outbox.waiting_bytes(slot);
        let connection = &mut self.connections[slot as usize];
        if let Some(retry) = &mut connection.retry {
            if retry.unacked.len() >= UNACKED_MAX {
                self.tally.choked += 1;
                return;
            }
            connection.last_counter += 1;
            let counter = connection.last_counter;
            retry.unacked.push_back(Unacked { counter, intended, was_sent: false });
            return self.pump(slot);
        }
        if connection.state != State::Live || waiting_bytes > WAITING_BYTES_MAX {
            self.tally.choked += 1;
            return;
        }
        connection.last_counter += 1;
        let counter = connection.last_counter;
        self.put(slot, counter, intended);
    }

    fn put(&mut self, slot: u32, counter: u32, intended: Nanos) {
        let user = self.base + slot;
        let stamp = Stamp { sender: user, counter, intended };
        let conversation = self.connections[slot as usize].conversation;
        self.tally.sent += 1;
        let out = self.outbox.buffer(slot);
        match (self.config.door, self.config.scenario) {
            (Door::Relay, Scenario::Group { .. }) => {
                let group = u64::try_from(conversation).expect("a group's number and one bit");
                self.dress.put_relay_message(out, group, &stamp);
            }
            (Door::Relay, _) => self.dress.put_relay_message(out, u64::from(user ^ 1), &stamp),
            (Door::Native, _) if conversation == 0 => {
                let peer = format!("{}{}", self.config.user_prefix, user ^ 1);
                self.dress.put_message(out, Target::Recipient(&peer), &stamp);
            }
            (Door::Native, _) => {
                self.dress.put_message(out, frames::conversation(conversation), &stamp);
            }
        }
    }

    /// Sends what a connection that survives restarts still has to say, as far as it may.
    pub(crate) fn pump(&mut self, slot: u32) {
        loop {
            let waiting_bytes = self.outbox.waiting_bytes(slot);
            let connection = &mut self.connections[slot as usize];
            let Some(retry) = &mut connection.retry else { return };
            let is_held = retry.not_before > self.now || (retry.old > 0 && retry.in_flight > 0);
            if connection.state != State::Live || is_held || waiting_bytes > PUMP_BYTES_MAX {
                return;
            }
            let Some(message) = retry.unacked.get_mut(retry.in_flight) else { return };
            message.was_sent = true;
            retry.in_flight += 1;
            let (counter, intended) = (message.counter, message.intended);
            self.put(slot, counter, intended);
        }
    }

    /// The server has refused the message that was due at `intended`, until `retry_at`.
    pub(crate) fn refuse_message(&mut self, slot: u32, intended: Nanos, retry_at: Nanos) {
        let connection = &mut self.connections[slot as usize];
        let Some(retry) = &mut connection.retry else {
            self.tally.refused += 1;
            return;
        };
        let mut in_flight = retry.unacked.iter().take(retry.in_flight);
        let Some(index) = in_flight.position(|message| message.intended == intended) else {
            return;
        };
        if index < retry.old {
            // The server may have had it in an earlier session: only its word ends the matter.
            retry.in_flight = 0;
            retry.not_before = retry_at;
            self.waits.push((retry_at, slot));
        } else {
            retry.unacked.remove(index);
            retry.in_flight -= 1;
            self.tally.refused += 1;
        }
    }
}
