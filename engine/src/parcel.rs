//! What crosses from shard to shard.
//!
//! *Requests* go to the owner of a conversation and make it send; *parcels* come from there (or
//! carry a connection home) and make nobody send anything. A shard always takes parcels, and
//! takes requests only while it can send what they cause: so full rings press back, and never
//! lock each other.

use fanout::{Port, Span};
use std::fmt;
use wire::{ClientMessageId, ConversationId, Hlc, Kind, Sequence, ShardId, UserKey};

/// This mesh's port.
pub type ShardPort = Port<Request, Parcel>;

/// Which frame of which session a reply belongs to. The generation tells a connection from the
/// next one in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub(crate) shard: ShardId,
    pub(crate) connection: u32,
    pub(crate) generation: u32,
    pub(crate) reference: u64,
}

/// For the owner of a conversation.
pub enum Request {
    /// A session's frame, to be decided by the owner: the speaker's name, then the frame's body.
    Frame {
        /// Whom to answer.
        origin: Origin,
        /// Who speaks.
        user: UserKey,
        /// What kind of frame.
        kind: Kind,
        /// Name and body.
        span: Span,
        /// How much of the span is the name.
        name_bytes: u8,
    },
    /// What a device missed.
    Replay(Replay),
    /// A line of the user's list of conversations.
    Describe {
        /// Whom to answer.
        origin: Origin,
        /// Who asks.
        user: UserKey,
        /// About which conversation.
        conversation: ConversationId,
    },
    /// A device of the user has the messages up to here, by being handed them.
    Delivered {
        /// Who.
        user: UserKey,
        /// Where.
        conversation: ConversationId,
        /// How far.
        up_to: Sequence,
    },
}

/// A question for what a device missed of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    pub(crate) origin: Origin,
    pub(crate) user: UserKey,
    pub(crate) conversation: ConversationId,
    /// After which message; none: after what the user's devices had acknowledged.
    pub(crate) after: Option<Sequence>,
}

/// A durable message, for the homes of those who are to see it.
pub struct Published {
    pub(crate) conversation: ConversationId,
    pub(crate) sequence: Sequence,
    pub(crate) hlc: Hlc,
    pub(crate) sender: UserKey,
    /// The other user of a direct conversation; none: all listeners of the group.
    pub(crate) recipient: Option<UserKey>,
    pub(crate) origin: Origin,
    pub(crate) client_message: ClientMessageId,
    /// The deliver frame.
    pub(crate) span: Span,
}

/// A part of the answer to [`Replay`].
pub struct Replayed {
    pub(crate) origin: Origin,
    pub(crate) conversation: ConversationId,
    /// Everything up to here is in the frames, in a gap, or was known.
    pub(crate) through: Sequence,
    pub(crate) has_more: bool,
    /// Frames for the session, ready to send.
    pub(crate) frames: Option<Span>,
}

/// A line of the list of conversations.
pub struct Described {
    pub(crate) origin: Origin,
    pub(crate) conversation: ConversationId,
    pub(crate) line: Option<Line>,
}

/// What a conversation looks like to one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub(crate) name: Option<Box<str>>,
    pub(crate) peer: Option<Box<str>>,
    pub(crate) last_sequence: Sequence,
    pub(crate) unread: u64,
    pub(crate) delivered: Sequence,
    pub(crate) read: Sequence,
}

/// A connection's papers, on its way to its user's home shard.
pub struct Arrival {
    pub(crate) ticket: u32,
    pub(crate) user: Box<str>,
    pub(crate) device: Box<str>,
    pub(crate) auto_delivered: bool,
    pub(crate) resumed: bool,
    pub(crate) expires_at: Option<u64>,
    /// Of the authenticate frame.
    pub(crate) reference: u64,
    /// What came in behind the authenticate frame.
    pub(crate) bytes: Vec<u8>,
}

/// For the home of a user.
pub enum Parcel {
    /// A message to deliver, and to acknowledge where its sender is.
    Published(Published),
    /// A frame for one session.
    Reply {
        /// Which.
        origin: Origin,
        /// The frame.
        span: Span,
    },
    /// A frame for every session of a user.
    Told {
        /// Who.
        user: UserKey,
        /// The frame.
        span: Span,
    },
    /// A frame for every listener of a group.
    Announced {
        /// Which group.
        group: ConversationId,
        /// The session that caused it and has its own answer.
        except: Origin,
        /// The frame.
        span: Span,
    },
    /// Users of this home entered a conversation.
    Joined(Box<Joined>),
    /// Users of this home left a conversation; each is told by the frame.
    Left(Box<Left>),
    /// A part of what a device missed.
    Replayed(Replayed),
    /// A line for a list of conversations.
    Described(Box<Described>),
    /// A connection comes.
    Arrival(Box<Arrival>),
}

/// Who entered a conversation.
pub struct Joined {
    pub(crate) conversation: ConversationId,
    pub(crate) users: Vec<(UserKey, Box<str>)>,
}

/// Who left a conversation.
pub struct Left {
    pub(crate) conversation: ConversationId,
    pub(crate) users: Vec<UserKey>,
    pub(crate) except: Origin,
    pub(crate) frame: Span,
}

/// What an owner tells the homes of its members after a start: a user is in a conversation. Lists
/// of conversations are derived state and are made anew.
pub struct Announcement {
    /// Whose list.
    pub user: UserKey,
    /// The user's id.
    pub name: Box<str>,
    /// What to put on it.
    pub conversation: ConversationId,
}

impl fmt::Debug for Parcel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Published(_) => "Published",
            Self::Reply { .. } => "Reply",
            Self::Told { .. } => "Told",
            Self::Announced { .. } => "Announced",
            Self::Joined(_) => "Joined",
            Self::Left(_) => "Left",
            Self::Replayed(_) => "Replayed",
            Self::Described(_) => "Described",
            Self::Arrival(_) => "Arrival",
        })
    }
}
