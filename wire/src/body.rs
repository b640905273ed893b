//! Views of the bodies that do not fit one fixed struct: a head, then strings and bytes.
//!
//! Every view borrows from the frame. Decoding checks every length and every string; what it
//! returns needs no further check of form, only of meaning.

use crate::generated::{
    CursorHead, DeliverHead, ErrorHead, GoAwayHead, Id128, PageHead, ReceiptHead, SendHead,
};
use crate::id::{ClientMessageId, ConversationId, MessageId, Sequence};
use crate::kind::{CloseReason, ErrorCode};
use crate::limits::{CONTENT_BYTES_MAX, NAME_BYTES_MAX};

/// Why a body was refused. The frame border is intact, so the connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Shorter or longer than its fields say.
    Length,
    /// A user or device id outside 1 to 64 bytes of `[A-Za-z0-9_.:@-]`.
    Name,
    /// Not UTF-8, or over its bound.
    Text,
    /// Over a limit of `wire::limits`.
    TooLarge,
    /// A table that does not verify, or lacks a field it must have.
    Table,
    /// A field holds a number that version 1 does not define.
    Field,
}

/// A user or device id that was checked.
pub fn name(bytes: &[u8]) -> Result<&str, BodyError> {
    let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || b"_.:@-".contains(b);
    if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX || !bytes.iter().all(is_allowed) {
        return Err(BodyError::Name);
    }
    str::from_utf8(bytes).map_err(|_| BodyError::Name)
}

impl From<u128> for Id128 {
    #[expect(clippy::cast_possible_truncation, reason = "each half of an id is its own field")]
    fn from(id: u128) -> Self {
        Id128::new(id as u64, (id >> 64) as u64)
    }
}

impl From<&Id128> for u128 {
    fn from(id: &Id128) -> Self {
        (u128::from(id.high()) << 64) | u128::from(id.low())
    }
}

/// Splits the first `N` bytes off a body.
fn head<const N: usize>(body: &[u8]) -> Result<([u8; N], &[u8]), BodyError> {
    let (head, rest) = body.split_first_chunk::<N>().ok_or(BodyError::Length)?;
    Ok((*head, rest))
}

/// The whole of a body that is one struct of `N` bytes.
pub fn exact<const N: usize>(body: &[u8]) -> Result<[u8; N], BodyError> {
    body.try_into().map_err(|_| BodyError::Length)
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), BodyError> {
    bytes.split_at_checked(at).ok_or(BodyError::Length)
}

/// Where a message is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A conversation that exists.
    Conversation(ConversationId),
    /// The direct conversation with this user, made if need be.
    Recipient(&'a str),
}

/// `SendMessage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendMessage<'a> {
    /// Where to.
    pub target: Target<'a>,
    /// The sender's name for it; zero means that it cannot be retried.
    pub client_message: ClientMessageId,
    /// What the content is: opaque to the server.
    pub message_kind: u8,
    /// At most `CONTENT_BYTES_MAX`.
    pub content: &'a [u8],
}

impl<'a> SendMessage<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let (bytes, rest) = head(body)?;
        let head = SendHead(bytes);
        let (recipient, content) = split(rest, usize::from(head.recipient_bytes()))?;
        if content.len() > CONTENT_BYTES_MAX {
            return Err(BodyError::TooLarge);
        }
        let conversation = ConversationId(head.conversation().into());
        let target = match (conversation.0, recipient) {
            (0, recipient) => Target::Recipient(name(recipient)?),
            (_, []) => Target::Conversation(conversation),
            _ => return Err(BodyError::Length),
        };
        let client_message = ClientMessageId(head.client_message().into());
        Ok(Self { target, client_message, message_kind: head.message_kind(), content })
    }

    /// The fixed part; the recipient's name and the content go behind it.
    pub fn head(&self) -> SendHead {
        let (conversation, recipient) = match self.target {
            Target::Conversation(id) => (id.0, ""),
            Target::Recipient(name) => (0, name),
        };
        SendHead::new(
            &conversation.into(),
            &self.client_message.0.into(),
            self.message_kind,
            0,
            u16::try_from(recipient.len()).expect("a name is at most 64 bytes"),
            0,
        )
    }
}

/// `Deliver`, and the entry of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// The server's name for it.
    pub message: MessageId,
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its place there.
    pub sequence: Sequence,
    /// What the content is.
    pub message_kind: u8,
    /// Who sent it.
    pub sender: &'a str,
    /// As sent.
    pub content: &'a [u8],
}

impl<'a> Deliver<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let (bytes, rest) = head(body)?;
        let head = DeliverHead(bytes);
        let (sender, content) = split(rest, usize::from(head.sender_bytes()))?;
        if content.len() > CONTENT_BYTES_MAX {
            return Err(BodyError::TooLarge);
        }
        Ok(Self {
            message: MessageId(head.message().into()),
            conversation: ConversationId(head.conversation().into()),
            sequence: Sequence(head.sequence()),
            message_kind: head.message_kind(),
            sender: name(sender)?,
            content,
        })
    }

    /// The fixed part; the sender's name and the content go behind it.
    pub fn head(&self) -> DeliverHead {
        DeliverHead::new(
            &self.message.0.into(),
            &self.conversation.0.into(),
            self.sequence.0,
            self.message_kind,
            0,
            u16::try_from(self.sender.len()).expect("a name is at most 64 bytes"),
            0,
        )
    }

    /// Bytes of the body.
    pub fn body_bytes(&self) -> usize {
        size_of::<DeliverHead>() + self.sender.len() + self.content.len()
    }
}

/// `MarkDelivered` and `MarkRead`.
pub fn cursor(body: &[u8]) -> Result<(ConversationId, Sequence), BodyError> {
    let head = CursorHead(exact(body)?);
    Ok((ConversationId(head.conversation().into()), Sequence(head.up_to())))
}

/// The body of `MarkDelivered` and `MarkRead`.
pub fn cursor_head(conversation: ConversationId, up_to: Sequence) -> CursorHead {
    CursorHead::new(&conversation.0.into(), up_to.0)
}

/// `DeliveryReceipt` and `ReadReceipt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// Where.
    pub conversation: ConversationId,
    /// How far.
    pub up_to: Sequence,
    /// When, in milliseconds since 1970.
    pub at_millis: u64,
    /// Whose cursor moved.
    pub user: &'a str,
}

impl<'a> Receipt<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let (bytes, rest) = head(body)?;
        let head = ReceiptHead(bytes);
        if rest.len() != usize::from(head.user_bytes()) {
            return Err(BodyError::Length);
        }
        Ok(Self {
            conversation: ConversationId(head.conversation().into()),
            up_to: Sequence(head.up_to()),
            at_millis: head.at_ms(),
            user: name(rest)?,
        })
    }

    /// The fixed part; the user's name goes behind it.
    pub fn head(&self) -> ReceiptHead {
        let user_bytes = u16::try_from(self.user.len()).expect("a name is at most 64 bytes");
        let conversation = self.conversation.0.into();
        ReceiptHead::new(&conversation, self.up_to.0, self.at_millis, user_bytes, 0, 0)
    }
}

/// `HistoryPage` and `SyncBatch`: a head, then entries in the order the kind promises.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Where.
    pub conversation: ConversationId,
    /// Whether more of them exist in the page's direction.
    pub has_more: bool,
    count: u16,
    rest: &'a [u8],
}

impl<'a> Page<'a> {
    /// Reads a body's head; the entries are read as they are asked for.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let (bytes, rest) = head(body)?;
        let head = PageHead(bytes);
        if head.count() == 0 && !rest.is_empty() {
            return Err(BodyError::Length);
        }
        Ok(Self {
            conversation: ConversationId(head.conversation().into()),
            has_more: head.has_more() != 0,
            count: head.count(),
            rest,
        })
    }

    /// How many entries are still to come, if the page keeps its word.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The fixed part of a page of `count` entries.
    pub fn head(conversation: ConversationId, count: u16, has_more: bool) -> PageHead {
        PageHead::new(&conversation.0.into(), count, u8::from(has_more), 0, 0)
    }

    /// Appends one entry to a page's body.
    pub fn put_entry(out: &mut Vec<u8>, entry: &Deliver<'_>) {
        let bytes = u32::try_from(entry.body_bytes()).expect("bounded by the content's limit");
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&entry.head().0);
        out.extend_from_slice(entry.sender.as_bytes());
        out.extend_from_slice(entry.content);
    }

    fn entry(&mut self) -> Result<Deliver<'a>, BodyError> {
        let (length, rest) = head::<4>(self.rest)?;
        let (entry, rest) = split(rest, u32::from_le_bytes(length) as usize)?;
        self.rest = rest;
        if self.count == 0 && !rest.is_empty() {
            return Err(BodyError::Length);
        }
        Deliver::decode(entry)
    }
}

impl<'a> Iterator for Page<'a> {
    type Item = Result<Deliver<'a>, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        self.count -= 1;
        let entry = self.entry();
        if entry.is_err() {
            self.count = 0;
        }
        Some(entry)
    }
}

/// The fixed part of an `Error`; the text for people goes behind it.
pub fn error_head(code: ErrorCode, retry_after_ms: u32) -> ErrorHead {
    ErrorHead::new(code as u16, 0, retry_after_ms)
}

/// `Error`. The code may be one that this version does not know.
pub fn error(body: &[u8]) -> Result<(ErrorHead, &str), BodyError> {
    let (bytes, text) = head(body)?;
    Ok((ErrorHead(bytes), str::from_utf8(text).map_err(|_| BodyError::Text)?))
}

/// The fixed part of a `GoAway`; the resume token goes behind it.
pub fn go_away_head(reason: CloseReason, reconnect_after_ms: u32) -> GoAwayHead {
    GoAwayHead::new(reason as u16, 0, reconnect_after_ms)
}

/// `GoAway`. The reason may be one that this version does not know.
pub fn go_away(body: &[u8]) -> Result<(GoAwayHead, &[u8]), BodyError> {
    let (bytes, token) = head(body)?;
    Ok((GoAwayHead(bytes), token))
}
