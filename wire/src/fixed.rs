//! Views of the bodies that are one struct and nothing behind it.
//!
//! Each has `decode` and `head`, whose bytes are the whole body. Spare fields are written as zero
//! and not looked at when read, so that a later version may use them.

use crate::body::{BodyError, exact};
use crate::generated::{
    GapHead, GroupQuery, GroupStatusHead, HistoryQuery, ListQuery, SentHead, SyncDoneHead,
    UnreadHead,
};
use crate::id::{ClientMessageId, ConversationId, MessageId, Sequence};
use crate::limits::{CONVERSATIONS_PER_FRAME_MAX, PAGE_MESSAGES_DEFAULT, PAGE_MESSAGES_MAX};

/// Whether an acknowledged message is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SentStatus {
    /// It was stored for this request.
    Sent = 0,
    /// An earlier request with the same client message id stored it.
    Duplicate = 1,
}

/// What an acknowledged message has survived so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Durability {
    /// Ordered in memory and handed to the disk.
    Memory = 0,
    /// A sync that covers it returned.
    LocalFsync = 1,
}

/// `MessageSent`: the acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The server's name for the message.
    pub message: MessageId,
    /// Where it is.
    pub conversation: ConversationId,
    /// The sender's name for it.
    pub client_message: ClientMessageId,
    /// Its place there.
    pub sequence: Sequence,
    /// New, or seen before.
    pub status: SentStatus,
    /// How safe it is.
    pub durability: Durability,
}

impl Sent {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = SentHead(exact(body)?);
        let status = match head.status() {
            0 => SentStatus::Sent,
            1 => SentStatus::Duplicate,
            _ => return Err(BodyError::Field),
        };
        let durability = match head.durability() {
            0 => Durability::Memory,
            1 => Durability::LocalFsync,
            _ => return Err(BodyError::Field),
        };
        Ok(Self {
            message: MessageId(head.message().into()),
            conversation: ConversationId(head.conversation().into()),
            client_message: ClientMessageId(head.client_message().into()),
            sequence: Sequence(head.sequence()),
            status,
            durability,
        })
    }

    /// The whole body.
    pub fn head(&self) -> SentHead {
        SentHead::new(
            &self.message.0.into(),
            &self.conversation.0.into(),
            &self.client_message.0.into(),
            self.sequence.0,
            self.status as u8,
            self.durability as u8,
            0,
            0,
        )
    }
}

/// `GroupStatus`: how far a message has come in a large group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which message.
    pub message: MessageId,
    /// Where it is.
    pub conversation: ConversationId,
    /// Its place there.
    pub sequence: Sequence,
    /// Members who are to get it.
    pub total: u32,
    /// Of them, those with a device that has it.
    pub delivered: u32,
    /// Of them, those who read it.
    pub read: u32,
    /// Of them, those without it.
    pub pending: u32,
}

impl GroupStatus {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = GroupStatusHead(exact(body)?);
        Ok(Self {
            message: MessageId(head.message().into()),
            conversation: ConversationId(head.conversation().into()),
            sequence: Sequence(head.sequence()),
            total: head.total(),
            delivered: head.delivered(),
            read: head.read(),
            pending: head.pending(),
        })
    }

    /// The whole body.
    pub fn head(&self) -> GroupStatusHead {
        GroupStatusHead::new(
            &self.message.0.into(),
            &self.conversation.0.into(),
            self.sequence.0,
            self.total,
            self.delivered,
            self.read,
            self.pending,
        )
    }
}

/// `UnreadUpdate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Where.
    pub conversation: ConversationId,
    /// How many messages the user has not read there.
    pub unread: u64,
}

impl Unread {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = UnreadHead(exact(body)?);
        let conversation = ConversationId(head.conversation().into());
        Ok(Self { conversation, unread: head.unread() })
    }

    /// The whole body.
    pub fn head(&self) -> UnreadHead {
        UnreadHead::new(&self.conversation.0.into(), self.unread)
    }
}

/// `Gap`: messages that can no longer be brought, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where.
    pub conversation: ConversationId,
    /// The first that is missing.
    pub from: Sequence,
    /// The last that is missing; never before `from`.
    pub to: Sequence,
}

impl Gap {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = GapHead(exact(body)?);
        if head.from() == 0 || head.from() > head.to() {
            return Err(BodyError::Field);
        }
        Ok(Self {
            conversation: ConversationId(head.conversation().into()),
            from: Sequence(head.from()),
            to: Sequence(head.to()),
        })
    }

    /// The whole body.
    pub fn head(&self) -> GapHead {
        GapHead::new(&self.conversation.0.into(), self.from.0, self.to.0)
    }
}

/// `ReadHistory`: messages before one, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadHistory {
    /// Where.
    pub conversation: ConversationId,
    /// The first message that is not wanted; zero starts at the newest.
    pub before: Sequence,
    /// How many, as asked: see [`ReadHistory::count_max`].
    pub limit: u16,
}

impl ReadHistory {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = HistoryQuery(exact(body)?);
        Ok(Self {
            conversation: ConversationId(head.conversation().into()),
            before: Sequence(head.before()),
            limit: head.limit(),
        })
    }

    /// The whole body.
    pub fn head(&self) -> HistoryQuery {
        HistoryQuery::new(&self.conversation.0.into(), self.before.0, self.limit, 0, 0)
    }

    /// How many messages the answer may hold: what was asked, within the protocol's limit.
    pub fn count_max(&self) -> u16 {
        count_max(self.limit, PAGE_MESSAGES_MAX)
    }
}

/// `ListConversations`: in order of id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListConversations {
    /// The last one already known; zero starts at the first.
    pub after: ConversationId,
    /// How many, as asked: see [`ListConversations::count_max`].
    pub limit: u16,
}

impl ListConversations {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = ListQuery(exact(body)?);
        Ok(Self { after: ConversationId(head.after().into()), limit: head.limit() })
    }

    /// The whole body.
    pub fn head(&self) -> ListQuery {
        ListQuery::new(&self.after.0.into(), self.limit, 0, 0)
    }

    /// How many conversations the answer may hold.
    pub fn count_max(&self) -> u16 {
        count_max(self.limit, CONVERSATIONS_PER_FRAME_MAX)
    }
}

/// `ReadGroup`: its name, and members from an index on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadGroup {
    /// Which group.
    pub group: ConversationId,
    /// Index of the first member wanted.
    pub from: u32,
}

impl ReadGroup {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = GroupQuery(exact(body)?);
        Ok(Self { group: ConversationId(head.group().into()), from: head.from() })
    }

    /// The whole body.
    pub fn head(&self) -> GroupQuery {
        GroupQuery::new(&self.group.0.into(), self.from, 0)
    }
}

/// `SyncDone`: nothing more was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncDone {
    /// Conversations in which something was.
    pub conversations_count: u32,
}

impl SyncDone {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = SyncDoneHead(exact(body)?);
        Ok(Self { conversations_count: head.conversations() })
    }

    /// The whole body.
    pub fn head(&self) -> SyncDoneHead {
        SyncDoneHead::new(self.conversations_count, 0)
    }
}

fn count_max(asked: u16, most: u16) -> u16 {
    if asked == 0 { PAGE_MESSAGES_DEFAULT } else { asked.min(most) }
}
