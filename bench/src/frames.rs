//! The frames a generator says and reads, at either door.

use crate::clock::Nanos;
use crate::content::Stamp;
use wire::body::{SendMessage, Target};
use wire::generated::{CursorHead, Id128, SendHead};
use wire::{ClientMessageId, ConversationId, Kind, frame};

/// The device every generated user has.
pub const DEVICE: &str = "d0";
/// The reference of a handshake frame: no due time is ever so small.
pub const GREETING: u64 = 0;
/// Set in a relay frame's reference: the rest is a group.
pub const RELAY_GROUP: u64 = 1 << 63;
/// The relay's reply: a header and as many bytes as the chat server's acknowledgement has.
pub const RELAY_ACK_BODY_BYTES: usize = 64;

/// How the messages of one run are dressed.
#[derive(Clone, Debug)]
pub(crate) struct Dress {
    /// Told apart from other runs of the same users.
    pub(crate) salt: u32,
    /// Bytes of content.
    pub(crate) content_bytes: usize,
}

impl Dress {
    /// The name under which a sender's message may be retried.
    pub(crate) fn client_message(&self, stamp: &Stamp) -> ClientMessageId {
        let who = (u64::from(self.salt) << 32) | u64::from(stamp.sender);
        ClientMessageId((u128::from(who) << 64) | u128::from(stamp.counter))
    }

    /// Appends a message for `target`. Its due time is the frame's reference, so that the reply
    /// carries all that a latency needs.
    pub(crate) fn put_message(&self, out: &mut Vec<u8>, target: Target<'_>, stamp: &Stamp) {
        let client_message = self.client_message(stamp);
        let message = SendMessage { target, client_message, message_kind: 0, content: &[] };
        let recipient = match target {
            Target::Recipient(name) => name,
            Target::Conversation(_) => "",
        };
        let body_bytes = size_of::<SendHead>() + recipient.len() + self.content_bytes;
        out.extend_from_slice(&frame::header(Kind::SendMessage, stamp.intended, body_bytes));
        out.extend_from_slice(&message.head().0);
        out.extend_from_slice(recipient.as_bytes());
        stamp.put(out, self.content_bytes);
    }

    /// Appends a message of the same size for the relay to pass on to `reference`.
    pub(crate) fn put_relay_message(&self, out: &mut Vec<u8>, reference: u64, stamp: &Stamp) {
        let client_message: Id128 = self.client_message(stamp).0.into();
        let when: Id128 = u128::from(stamp.intended).into();
        let head = SendHead::new(&when, &client_message, 0, 0, 0, 0);
        let body_bytes = size_of::<SendHead>() + self.content_bytes;
        out.extend_from_slice(&frame::header(Kind::SendMessage, reference, body_bytes));
        out.extend_from_slice(&head.0);
        stamp.put(out, self.content_bytes);
    }
}

/// Appends a cursor: this device has all up to `up_to`.
pub fn put_delivered(out: &mut Vec<u8>, conversation: u128, up_to: u64) {
    let head = CursorHead::new(&conversation.into(), up_to);
    frame::encode(out, Kind::MarkDelivered, GREETING, &[&head.0]);
}

/// Appends a heartbeat.
pub fn put_heartbeat(out: &mut Vec<u8>) {
    frame::encode(out, Kind::Heartbeat, GREETING, &[]);
}

/// Appends the relay's greeting: which index this connection has.
pub fn put_relay_greeting(out: &mut Vec<u8>, index: u32) {
    frame::encode(out, Kind::Hello, u64::from(index), &[]);
}

/// What the relay's reply says: the due time and counter of the message it answers.
pub fn relay_ack(body: &[u8]) -> Option<(Nanos, u32)> {
    let head = SendHead(*body.first_chunk()?);
    Some((head.conversation().low(), u32::try_from(head.client_message().low()).ok()?))
}

/// The conversation a client names it by.
pub fn conversation(id: u128) -> Target<'static> {
    Target::Conversation(ConversationId(id))
}
