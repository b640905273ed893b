//! What goes into the log: one kind a fact, each with its own version byte.
//!
//! ```text
//! Message         version kind flags spare  client_message[16] sender[16+1+n]
//!                 (recipient[16+1+n] if flags & 1)  content ...
//! GroupCreated    version  creator  name[2+n]  members
//! MembersChanged  version change  number[8] after[8] heir[16]  by  users
//! Renamed         version  number[8] after[8]  by  name[2+n]
//! Cursors         version  user[16] delivered[8] read[8]
//! DeviceCursor    version  device[8] conversation[16] up_to[8] name[1+n]
//! ```
//! Integers are little-endian. A list of users is a count (4 bytes) and as many keys and names.
//! The entity (the conversation, or the user of a home record) and the sequence stand in the
//! header of the log's record, not here.

use crate::bytes::{Reader, put_name, put_speaker, put_text, put_u32, put_u64, put_u128};
use crate::command::Speaker;
use wire::body::Deliver;
use wire::table::MemberChange;
use wire::{
    ClientMessageId, ConversationId, DeviceKey, Hlc, MessageId, Partition, Sequence, UserKey,
};

const VERSION: u8 = 1;
const FLAG_RECIPIENT: u8 = 1;

/// Numbers of the kinds, as the log stores them. A released number is never used again.
pub mod kind {
    /// A message.
    pub const MESSAGE: u16 = 0x0100;
    /// A group began.
    pub const GROUP_CREATED: u16 = 0x0101;
    /// Membership or roles changed.
    pub const MEMBERS_CHANGED: u16 = 0x0102;
    /// A group has another name.
    pub const RENAMED: u16 = 0x0103;
    /// A member's receipts.
    pub const CURSORS: u16 = 0x0104;
    /// How far a device has come; the user's home writes it.
    pub const DEVICE_CURSOR: u16 = 0x0180;
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// No kind has this number: a newer version wrote it.
    Kind,
    /// A newer version of a kind wrote it.
    Version,
    /// Shorter or longer than its fields say.
    Length,
    /// A name that cannot be one.
    Name,
    /// A field with a value it cannot have.
    Value,
}

/// Users in a record: given as values when it is decided, as bytes when it is read back.
#[derive(Clone, Copy, Debug)]
pub struct Users<'a>(Listed<'a>);

#[derive(Clone, Copy, Debug)]
enum Listed<'a> {
    One(Speaker<'a>),
    Values(&'a [Speaker<'a>]),
    /// Checked: `count` keys and names fill it exactly.
    Bytes(u32, &'a [u8]),
}

impl<'a> Users<'a> {
    /// Just this one.
    pub fn one(user: Speaker<'a>) -> Self {
        Self(Listed::One(user))
    }

    /// All of these, in order.
    pub fn listed(users: &'a [Speaker<'a>]) -> Self {
        Self(Listed::Values(users))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self.0 {
            Listed::One(_) => 1,
            Listed::Values(users) => users.len(),
            Listed::Bytes(count, _) => count as usize,
        }
    }

    /// Each of them, in order.
    pub fn iter(&self) -> UsersIter<'a> {
        UsersIter { users: *self, index: 0 }
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, u32::try_from(self.count()).expect("bounded by the frame that named them"));
        match self.0 {
            Listed::One(user) => put_speaker(out, user),
            Listed::Values(users) => users.iter().for_each(|user| put_speaker(out, *user)),
            Listed::Bytes(_, bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Takes all that `reader` has left.
    fn read(reader: &mut Reader<'a>) -> Result<Self, BadRecord> {
        let count = reader.u32()?;
        let bytes = reader.remainder();
        let mut check = Reader::new(bytes);
        for _ in 0..count {
            check.speaker()?;
        }
        check.end()?;
        Ok(Self(Listed::Bytes(count, bytes)))
    }
}

impl PartialEq for Users<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Walks the users of a record.
#[derive(Clone, Debug)]
pub struct UsersIter<'a> {
    users: Users<'a>,
    index: usize,
}

impl<'a> Iterator for UsersIter<'a> {
    type Item = Speaker<'a>;

    fn next(&mut self) -> Option<Speaker<'a>> {
        if self.index == self.users.count() {
            return None;
        }
        let index = self.index;
        self.index += 1;
        match &mut self.users.0 {
            Listed::One(user) => Some(*user),
            Listed::Values(users) => Some(users[index]),
            Listed::Bytes(_, bytes) => {
                let mut reader = Reader::new(bytes);
                let user = reader.speaker().expect("checked when the record was read");
                *bytes = reader.remainder();
                Some(user)
            }
        }
    }
}

/// A message: the only kind that takes a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message<'a> {
    /// Where.
    pub conversation: ConversationId,
    /// Its place there.
    pub sequence: Sequence,
    /// Who said it.
    pub sender: Speaker<'a>,
    /// The other user, only in the first message of a direct conversation: it makes it.
    pub recipient: Option<Speaker<'a>>,
    /// The sender's name for it.
    pub client_message: ClientMessageId,
    /// What the content is.
    pub message_kind: u8,
    /// As sent.
    pub content: &'a [u8],
}

/// A group began, with its creator as admin. Number 1 of the group's changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupCreated<'a> {
    /// Which.
    pub group: ConversationId,
    /// Who made it.
    pub creator: Speaker<'a>,
    /// What it is called.
    pub name: &'a str,
    /// The others; may name somebody twice, or the creator, who count once.
    pub members: Users<'a>,
}

/// Membership or roles changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MembersChanged<'a> {
    /// Where.
    pub group: ConversationId,
    /// Dense number of the group's changes, so that a replayed one is known.
    pub version: u64,
    /// The newest message at that time: newcomers read from the next on.
    pub after: Sequence,
    /// Who did it.
    pub by: Speaker<'a>,
    /// What happened.
    pub change: MemberChange,
    /// The member who becomes admin because the last one went.
    pub heir: Option<UserKey>,
    /// To whom; those for whom it was so already are passed over.
    pub users: Users<'a>,
}

/// A group has another name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Renamed<'a> {
    /// Which.
    pub group: ConversationId,
    /// Dense number of the group's changes.
    pub version: u64,
    /// The newest message at that time.
    pub after: Sequence,
    /// Who did it.
    pub by: Speaker<'a>,
    /// The new name.
    pub name: &'a str,
}

/// How far a member has come. The largest holds, so replaying an old one does no harm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cursors {
    /// Where.
    pub conversation: ConversationId,
    /// Who.
    pub user: UserKey,
    /// His devices have the messages up to here.
    pub delivered: Sequence,
    /// He has read up to here.
    pub read: Sequence,
}

/// How far one device of a user has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceCursor<'a> {
    /// Whose.
    pub user: Speaker<'a>,
    /// Which device.
    pub device: DeviceKey,
    /// Where.
    pub conversation: ConversationId,
    /// How far.
    pub up_to: Sequence,
}

/// One fact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record<'a> {
    /// A message.
    Message(Message<'a>),
    /// A group began.
    GroupCreated(GroupCreated<'a>),
    /// Membership or roles changed.
    MembersChanged(MembersChanged<'a>),
    /// A group has another name.
    Renamed(Renamed<'a>),
    /// A member's receipts.
    Cursors(Cursors),
    /// How far a device has come.
    DeviceCursor(DeviceCursor<'a>),
}

impl<'a> Message<'a> {
    /// The server's name for it, stamped `hlc`.
    pub fn id(&self, hlc: Hlc) -> MessageId {
        MessageId::new(hlc, self.conversation, self.sequence)
    }

    /// As clients see it.
    pub fn deliver(&self, hlc: Hlc) -> Deliver<'a> {
        Deliver {
            message: self.id(hlc),
            conversation: self.conversation,
            sequence: self.sequence,
            message_kind: self.message_kind,
            sender: self.sender.name,
            content: self.content,
        }
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        let flags = if self.recipient.is_some() { FLAG_RECIPIENT } else { 0 };
        out.extend_from_slice(&[VERSION, self.message_kind, flags, 0]);
        put_u128(out, self.client_message.0);
        put_speaker(out, self.sender);
        if let Some(recipient) = self.recipient {
            put_speaker(out, recipient);
        }
    }

    fn read(
        conversation: ConversationId,
        sequence: Sequence,
        body: &'a [u8],
    ) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(body);
        reader.version(VERSION)?;
        let message_kind = reader.u8()?;
        let (flags, spare) = (reader.u8()?, reader.u8()?);
        if flags & !FLAG_RECIPIENT != 0 || spare != 0 || sequence == Sequence(0) {
            return Err(BadRecord::Value);
        }
        let client_message = ClientMessageId(reader.u128()?);
        let sender = reader.speaker()?;
        let recipient = if flags == FLAG_RECIPIENT { Some(reader.speaker()?) } else { None };
        let content = reader.remainder();
        Ok(Self {
            conversation,
            sequence,
            sender,
            recipient,
            client_message,
            message_kind,
            content,
        })
    }
}

impl<'a> GroupCreated<'a> {
    fn read(group: ConversationId, body: &'a [u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(body);
        reader.version(VERSION)?;
        let creator = reader.speaker()?;
        let name = reader.text()?;
        Ok(Self { group, creator, name, members: Users::read(&mut reader)? })
    }
}

impl<'a> MembersChanged<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self.change as u8]);
        put_u64(out, self.version);
        put_u64(out, self.after.0);
        put_u128(out, self.heir.unwrap_or_default().0);
        put_speaker(out, self.by);
        self.users.put(out);
    }

    fn read(group: ConversationId, body: &'a [u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(body);
        reader.version(VERSION)?;
        let change = MemberChange::from_number(reader.u8()?).ok_or(BadRecord::Value)?;
        let version = reader.u64()?;
        let after = Sequence(reader.u64()?);
        let heir = Some(reader.user()?).filter(|heir| *heir != UserKey::default());
        let by = reader.speaker()?;
        let users = Users::read(&mut reader)?;
        Ok(Self { group, version, after, by, change, heir, users })
    }
}

impl<'a> Renamed<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u64(out, self.version);
        put_u64(out, self.after.0);
        put_speaker(out, self.by);
        put_text(out, self.name);
    }

    fn read(group: ConversationId, body: &'a [u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(body);
        reader.version(VERSION)?;
        let version = reader.u64()?;
        let after = Sequence(reader.u64()?);
        let by = reader.speaker()?;
        let name = reader.text()?;
        reader.end()?;
        Ok(Self { group, version, after, by, name })
    }
}

impl Cursors {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u128(out, self.user.0);
        put_u64(out, self.delivered.0);
        put_u64(out, self.read.0);
    }

    fn read(conversation: ConversationId, body: &[u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(body);
        reader.version(VERSION)?;
        let user = reader.user()?;
        let delivered = Sequence(reader.u64()?);
        let read = Sequence(reader.u64()?);
        reader.end()?;
        Ok(Self { conversation, user, delivered, read })
    }
}

impl<'a> DeviceCursor<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u64(out, self.device.0);
        put_u128(out, self.conversation.0);
        put_u64(out, self.up_to.0);
        put_name(out, self.user.name);
    }

    fn read(user: UserKey, body: &'a [u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(body);
        reader.version(VERSION)?;
        let device = DeviceKey(reader.u64()?);
        let conversation = reader.conversation()?;
        let up_to = Sequence(reader.u64()?);
        let name = reader.name()?;
        reader.end()?;
        Ok(Self { user: Speaker { user, name }, device, conversation, up_to })
    }
}

impl<'a> Record<'a> {
    /// Its number in the log.
    pub fn kind(&self) -> u16 {
        match self {
            Self::Message(_) => kind::MESSAGE,
            Self::GroupCreated(_) => kind::GROUP_CREATED,
            Self::MembersChanged(_) => kind::MEMBERS_CHANGED,
            Self::Renamed(_) => kind::RENAMED,
            Self::Cursors(_) => kind::CURSORS,
            Self::DeviceCursor(_) => kind::DEVICE_CURSOR,
        }
    }

    /// What it is about: the conversation, or the user of a home record.
    pub fn entity(&self) -> u128 {
        match self {
            Self::Message(message) => message.conversation.0,
            Self::GroupCreated(created) => created.group.0,
            Self::MembersChanged(changed) => changed.group.0,
            Self::Renamed(renamed) => renamed.group.0,
            Self::Cursors(cursors) => cursors.conversation.0,
            Self::DeviceCursor(cursor) => cursor.user.user.0,
        }
    }

    /// Whether a [`crate::Home`] applies it rather than an [`crate::Owner`].
    pub fn is_home(&self) -> bool {
        matches!(self, Self::DeviceCursor(_))
    }

    /// The partition it belongs to.
    pub fn partition(&self) -> Partition {
        match self {
            Self::DeviceCursor(cursor) => cursor.user.user.partition(),
            _ => ConversationId(self.entity()).partition(),
        }
    }

    /// Its place in the conversation; zero for all but messages.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Message(message) => message.sequence.0,
            _ => 0,
        }
    }

    /// Appends everything but the payload to `out`.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        match self {
            Self::Message(message) => message.put_head(out),
            Self::GroupCreated(created) => {
                out.push(VERSION);
                put_speaker(out, created.creator);
                put_text(out, created.name);
                created.members.put(out);
            }
            Self::MembersChanged(changed) => changed.put(out),
            Self::Renamed(renamed) => renamed.put(out),
            Self::Cursors(cursors) => cursors.put(out),
            Self::DeviceCursor(cursor) => cursor.put(out),
        }
    }

    /// What follows the head: a message's content, so that the log can gather it from where it is.
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::Message(message) => message.content,
            _ => &[],
        }
    }

    /// Reads back what the log stored. Total: any bytes give a record or an error.
    pub fn decode(
        kind: u16,
        entity: u128,
        sequence: u64,
        body: &'a [u8],
    ) -> Result<Self, BadRecord> {
        let conversation = ConversationId(entity);
        if kind != kind::MESSAGE && sequence != 0 {
            return Err(BadRecord::Value);
        }
        Ok(match kind {
            kind::MESSAGE => Self::Message(Message::read(conversation, Sequence(sequence), body)?),
            kind::GROUP_CREATED => Self::GroupCreated(GroupCreated::read(conversation, body)?),
            kind::MEMBERS_CHANGED => {
                Self::MembersChanged(MembersChanged::read(conversation, body)?)
            }
            kind::RENAMED => Self::Renamed(Renamed::read(conversation, body)?),
            kind::CURSORS => Self::Cursors(Cursors::read(conversation, body)?),
            kind::DEVICE_CURSOR => Self::DeviceCursor(DeviceCursor::read(UserKey(entity), body)?),
            _ => return Err(BadRecord::Kind),
        })
    }
}
