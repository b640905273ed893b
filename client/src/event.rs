//! What a session tells its user: owned values, one a fact.

use crate::outbox::Target;
use crate::session::Reference;
use wire::fixed::{Durability, Gap, GroupStatus, Unread};
use wire::table::{MemberChange, Role};
use wire::{ClientMessageId, CloseReason, ConversationId, ErrorCode, MessageId, Sequence};

/// A message, as received or as read from history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The server's name for it; its stamp says when.
    pub id: MessageId,
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its place there.
    pub sequence: Sequence,
    /// What the content is: the clients' business.
    pub message_kind: u8,
    /// Who sent it.
    pub sender: String,
    /// As sent.
    pub content: Vec<u8>,
}

/// Somebody's delivered or read cursor moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where.
    pub conversation: ConversationId,
    /// How far.
    pub up_to: Sequence,
    /// When, in milliseconds since 1970.
    pub at_millis: u64,
    /// Whose.
    pub user: String,
}

/// A conversation in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Which.
    pub id: ConversationId,
    /// The name of a group.
    pub name: Option<String>,
    /// The other user of a conversation of two.
    pub peer: Option<String>,
    /// Its newest message.
    pub last: Sequence,
    /// Messages that the user has not read.
    pub unread: u64,
    /// How far the user's devices have it.
    pub delivered: Sequence,
    /// How far the user has read it.
    pub read: Sequence,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Who.
    pub user: String,
    /// As what.
    pub role: Role,
}

/// A group, or a slice of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub id: ConversationId,
    /// Its name.
    pub name: String,
    /// How many members it has.
    pub members_count: u32,
    /// Index of the first member here.
    pub from: u32,
    /// The slice.
    pub members: Vec<GroupMember>,
    /// Its newest message.
    pub last: Sequence,
}

/// Membership of a group changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersChange {
    /// Which group.
    pub group: ConversationId,
    /// What happened.
    pub change: MemberChange,
    /// Who did it.
    pub by: String,
    /// To whom.
    pub users: Vec<String>,
}

/// A group has another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// Which group.
    pub group: ConversationId,
    /// Its name from here on.
    pub name: String,
    /// Who gave it.
    pub by: String,
}

/// Something was refused, for good: what is worth retrying is retried by the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The server's reason; none where the connection ended before there was one.
    pub code: Option<ErrorCode>,
    /// For people.
    pub text: String,
    /// When it may be tried again, in milliseconds; zero where the server said nothing.
    pub retry_after_ms: u32,
}

/// What a session tells its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server accepted the hello.
    Connected,
    /// The session is live; what was missed comes next.
    Authenticated {
        /// Whom the server takes us for.
        user: String,
        /// And which device.
        device: String,
        /// Whether it remembered the earlier session.
        resumed: bool,
        /// The server's clock, in milliseconds since 1970.
        server_time_millis: u64,
    },
    /// The server will not have us: the token, the user, the version. There is no coming back.
    AuthenticationRefused(Refusal),
    /// A message that this session has not seen.
    Message {
        /// The message.
        message: Message,
        /// Whether it is one that was missed, rather than one of now.
        is_replay: bool,
    },
    /// A message of ours is ordered and as safe as `durability` says.
    Sent {
        /// Our name for it.
        client_message: ClientMessageId,
        /// Where it was sent.
        target: Target,
        /// The server's name for it.
        id: MessageId,
        /// Where it is.
        conversation: ConversationId,
        /// Its place there.
        sequence: Sequence,
        /// Whether an earlier try had stored it.
        is_duplicate: bool,
        /// How safe it is.
        durability: Durability,
    },
    /// A message of ours was refused for good.
    SendRefused {
        /// Our name for it.
        client_message: ClientMessageId,
        /// Why.
        refusal: Refusal,
    },
    /// A user's devices have messages up to a sequence.
    Delivered(Receipt),
    /// A user has read up to a sequence.
    Read(Receipt),
    /// Counts of a large group, for the sender of its newest message.
    GroupStatus(GroupStatus),
    /// The unread count of a conversation changed.
    Unread(Unread),
    /// Messages that can no longer be brought.
    Gap(Gap),
    /// Everything that was missed has come.
    CaughtUp {
        /// Conversations in which something was missed.
        conversations_count: u32,
    },
    /// The answer to a history request: newest first.
    History {
        /// Which request.
        reference: Reference,
        /// Where.
        conversation: ConversationId,
        /// The page.
        messages: Vec<Message>,
        /// Whether older ones exist.
        has_more: bool,
    },
    /// The answer to a list request.
    Conversations {
        /// Which request.
        reference: Reference,
        /// In order of id.
        entries: Vec<Conversation>,
        /// Whether more follow.
        has_more: bool,
        /// Messages unread in all conversations.
        total_unread: u64,
    },
    /// The answer to a group request.
    Group {
        /// Which request; zero where the server told us unasked.
        reference: Reference,
        /// The group.
        group: Group,
    },
    /// Membership changed; a reference that is not zero names our own request.
    MembersChanged(Reference, MembersChange),
    /// A group was renamed; a reference that is not zero names our own request.
    Renamed(Reference, Renamed),
    /// A request that was not a message was refused.
    Refused {
        /// Which request.
        reference: Reference,
        /// Why.
        refusal: Refusal,
    },
    /// The server is about to close.
    GoAway {
        /// Why, where this version knows the reason.
        reason: Option<CloseReason>,
        /// When we may come back.
        reconnect_after_ms: u32,
    },
}
