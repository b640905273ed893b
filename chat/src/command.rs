//! What may be asked of an owner, and what it answers.

use crate::record::Record;
use wire::table::MemberChange;
use wire::{ClientMessageId, ConversationId, ErrorCode, MessageId, Sequence, UserKey};

/// Who does something, or to whom it is done: the key to look up, the name to show. The name was
/// checked when it came off the wire (1 to 64 bytes of the allowed letters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker<'a> {
    /// The keyed hash of the name.
    pub user: UserKey,
    /// The user id as clients write it.
    pub name: &'a str,
}

/// What a user asks of the owner of a conversation.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Says something.
    Send {
        /// Where. For a direct conversation the id that both users' keys give.
        conversation: ConversationId,
        /// The other user of a direct conversation, which is made if need be.
        recipient: Option<Speaker<'a>>,
        /// The sender's name for it; zero cannot be retried.
        client_message: ClientMessageId,
        /// What the content is, opaque here.
        message_kind: u8,
        /// At most `CONTENT_BYTES_MAX`.
        content: &'a [u8],
    },
    /// Makes a group with the speaker as its admin.
    CreateGroup {
        /// From `IdKey::group`, so that a retry names the same group.
        conversation: ConversationId,
        /// What to call it.
        name: &'a str,
        /// The others; the speaker may be among them.
        members: &'a [Speaker<'a>],
    },
    /// Changes who is in a group, or who is admin. All of it or nothing.
    ChangeMembers {
        /// Which group.
        conversation: ConversationId,
        /// What happens.
        change: MemberChange,
        /// To whom; not looked at when the speaker leaves.
        users: &'a [Speaker<'a>],
    },
    /// Gives a group another name.
    Rename {
        /// Which group.
        conversation: ConversationId,
        /// The new name.
        name: &'a str,
    },
    /// A device of the speaker has the messages up to here.
    MarkDelivered {
        /// Where.
        conversation: ConversationId,
        /// How far.
        up_to: Sequence,
    },
    /// The speaker has read up to here.
    MarkRead {
        /// Where.
        conversation: ConversationId,
        /// How far.
        up_to: Sequence,
    },
}

/// What follows from a command that was not refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision<'a> {
    /// Append this to the log; if the log takes it, apply it. Nothing has changed so far.
    Append(Record<'a>),
    /// A retry: this is what the first try became. Acknowledge once `sequence` is durable.
    Duplicate {
        /// The id of the first.
        message: MessageId,
        /// Its place.
        sequence: Sequence,
    },
    /// A retry of a group's making: answer with the group as it is.
    GroupExists,
    /// A receipt moved in memory; it will come out of the next flush.
    Moved,
    /// It was so already.
    Nothing,
}

/// Why a command was refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client should do about it.
    pub code: ErrorCode,
    /// What was wrong, for people.
    pub text: &'static str,
}

impl Refusal {
    pub(crate) const fn new(code: ErrorCode, text: &'static str) -> Self {
        Self { code, text }
    }

    pub(crate) const NOT_FOUND: Self =
        Self::new(ErrorCode::NotFound, "there is no such conversation");
    pub(crate) const NOT_A_MEMBER: Self =
        Self::new(ErrorCode::NotAMember, "the user is not in this conversation");
    pub(crate) const GROUP_ENDED: Self = Self::new(ErrorCode::Gone, "everybody left this group");
}
