//! Views of the cold bodies, which are tables of `schema/ringmain.fbs`.
//!
//! Decoding verifies the whole table under tight bounds, then checks what the schema cannot say:
//! names, lengths, counts, ids that must be there. What it returns borrows from the body and needs
//! no further check of form. Encoding is [`TableWriter`]'s.
//!
//! An empty string or list in a field that may be absent means that it is absent: the builders of
//! some languages cannot leave a field out.

mod writer;

use crate::body::{BodyError, name};
use crate::generated as schema;
use crate::id::{ClientMessageId, ConversationId, Sequence};
use crate::limits::{
    CONVERSATIONS_PER_FRAME_MAX, CURSORS_PER_FRAME_MAX, GROUP_NAME_BYTES_MAX,
    MEMBERS_PER_FRAME_MAX, RESUME_TOKEN_BYTES_MAX, TABLE_APPARENT_BYTES_MAX, TABLE_DEPTH_MAX,
    TABLES_PER_FRAME_MAX, TOKEN_BYTES_MAX,
};
use flatbuffers::{Follow, ForwardsUOffset, Vector, Verifiable, VerifierOptions};

pub use writer::{GroupHead, TableWriter};

/// `Authenticate`: a token, or a user id where the server is in development mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Authenticate<'a> {
    /// A JSON web token.
    pub token: Option<&'a str>,
    /// Who speaks, in development mode.
    pub user: Option<&'a str>,
    /// Which device; the token may name one too.
    pub device: Option<&'a str>,
    /// What an earlier session was given.
    pub resume_token: Option<&'a [u8]>,
    /// Whether bytes handed to the socket count as delivered.
    pub auto_delivered: bool,
}

impl<'a> Authenticate<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::Authenticate<'a>>(body)?;
        let token = table.token().filter(|token| !token.is_empty());
        if token.is_some_and(|token| token.len() > TOKEN_BYTES_MAX) {
            return Err(BodyError::TooLarge);
        }
        Ok(Self {
            token,
            user: optional_name(table.user_id())?,
            device: optional_name(table.device_id())?,
            resume_token: table.resume_token().map(resume_token).transpose()?.flatten(),
            auto_delivered: table.auto_delivered(),
        })
    }
}

/// `Authenticated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authenticated<'a> {
    /// Whom the server takes the client for.
    pub user: &'a str,
    /// And which device.
    pub device: &'a str,
    /// The session's number, for logs.
    pub session: u64,
    /// What a later session may resume with.
    pub resume_token: &'a [u8],
    /// How often a client without traffic sends a heartbeat.
    pub heartbeat_interval_s: u32,
    /// Whether the resume token was taken.
    pub resumed: bool,
    /// The server's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
}

impl<'a> Authenticated<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::Authenticated<'a>>(body)?;
        Ok(Self {
            user: name(table.user_id().as_bytes())?,
            device: name(table.device_id().as_bytes())?,
            session: table.session(),
            resume_token: resume_token(table.resume_token())?.unwrap_or_default(),
            heartbeat_interval_s: table.heartbeat_interval_s(),
            resumed: table.resumed(),
            server_time_ms: table.server_time_ms(),
        })
    }
}

/// `Sync`: how far the client has each conversation that it knows.
#[derive(Clone, Copy, Debug)]
pub struct Sync<'a>(Option<Vector<'a, schema::CursorHead>>);

impl<'a> Sync<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let cursors = root::<schema::Sync<'a>>(body)?.cursors();
        at_most(cursors.map_or(0, |cursors| cursors.len()), CURSORS_PER_FRAME_MAX)?;
        for cursor in cursors.iter().flatten() {
            conversation(cursor.conversation())?;
        }
        Ok(Self(cursors))
    }

    /// The cursors, as sent.
    pub fn cursors(&self) -> impl Iterator<Item = (ConversationId, Sequence)> + use<'a> {
        let cursor = |head: &schema::CursorHead| {
            (ConversationId(head.conversation().into()), Sequence(head.up_to()))
        };
        self.0.into_iter().flatten().map(cursor)
    }
}

/// What a member may do in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Reads and writes.
    Member = 0,
    /// Also changes members and the name.
    Admin = 1,
}

impl Role {
    /// The one numbered `number`, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Member, Self::Admin].into_iter().find(|role| *role as u8 == number)
    }
}

/// How membership changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemberChange {
    /// Users become members.
    Add = 0,
    /// Members are taken out.
    Remove = 1,
    /// The sender goes.
    Leave = 2,
    /// Members become admins.
    Promote = 3,
    /// Admins become members.
    Demote = 4,
}

impl MemberChange {
    /// Every one, in order of number.
    pub const ALL: [Self; 5] = [Self::Add, Self::Remove, Self::Leave, Self::Promote, Self::Demote];

    /// The one numbered `number`, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|change| *change as u8 == number)
    }
}

/// User ids, each checked, at most `MEMBERS_PER_FRAME_MAX`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a>(Option<Vector<'a, ForwardsUOffset<&'a str>>>);

impl<'a> Names<'a> {
    fn check(names: Option<Vector<'a, ForwardsUOffset<&'a str>>>) -> Result<Self, BodyError> {
        at_most(names.map_or(0, |names| names.len()), MEMBERS_PER_FRAME_MAX)?;
        for user in names.iter().flatten() {
            name(user.as_bytes())?;
        }
        Ok(Self(names))
    }

    /// The ids, as sent: perhaps one twice.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
        self.0.into_iter().flatten()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.map_or(0, |names| names.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `CreateGroup`.
#[derive(Clone, Copy, Debug)]
pub struct CreateGroup<'a> {
    /// The creator's name for the request, never zero: asked twice, it is one group.
    pub request: ClientMessageId,
    /// The group's name.
    pub name: &'a str,
    /// Who is in it beside the creator.
    pub members: Names<'a>,
}

impl<'a> CreateGroup<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::CreateGroup<'a>>(body)?;
        Ok(Self {
            request: ClientMessageId(required(table.request())?),
            name: group_name(table.name())?,
            members: Names::check(Some(table.members()))?,
        })
    }
}

/// `ChangeMembers`.
#[derive(Clone, Copy, Debug)]
pub struct ChangeMembers<'a> {
    /// Which group.
    pub group: ConversationId,
    /// What happens.
    pub change: MemberChange,
    /// To whom; none for `Leave`, somebody for everything else.
    pub users: Names<'a>,
}

impl<'a> ChangeMembers<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::ChangeMembers<'a>>(body)?;
        let change = member_change(table.change())?;
        let users = Names::check(table.user_ids())?;
        if users.is_empty() != (change == MemberChange::Leave) {
            return Err(BodyError::Table);
        }
        Ok(Self { group: conversation(table.group())?, change, users })
    }
}

/// `RenameGroup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenameGroup<'a> {
    /// Which group.
    pub group: ConversationId,
    /// Its name from here on.
    pub name: &'a str,
}

impl<'a> RenameGroup<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::RenameGroup<'a>>(body)?;
        Ok(Self { group: conversation(table.group())?, name: group_name(table.name())? })
    }
}

/// A member in a [`Group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Who.
    pub user: &'a str,
    /// As what.
    pub role: Role,
}

/// Members of a group, each checked, at most `MEMBERS_PER_FRAME_MAX`.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a>(Vector<'a, ForwardsUOffset<schema::Member<'a>>>);

impl<'a> Members<'a> {
    /// The members, as sent.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Member<'a>> + use<'a> {
        self.0.into_iter().map(|member| Member {
            user: member.user_id(),
            role: Role::from_number(member.role().0).expect("checked when it was decoded"),
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `Group`: the answer to `CreateGroup` and `ReadGroup`.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// Which group.
    pub group: ConversationId,
    /// Its name.
    pub name: &'a str,
    /// How many members it has.
    pub members_count: u32,
    /// Index of the first member here.
    pub from: u32,
    /// A slice of them.
    pub members: Members<'a>,
    /// Its newest message.
    pub last_sequence: Sequence,
}

impl<'a> Group<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::Group<'a>>(body)?;
        let members = table.members();
        at_most(members.len(), MEMBERS_PER_FRAME_MAX)?;
        for member in members {
            name(member.user_id().as_bytes())?;
            Role::from_number(member.role().0).ok_or(BodyError::Table)?;
        }
        Ok(Self {
            group: conversation(table.group())?,
            name: group_name(table.name())?,
            members_count: table.members_count(),
            from: table.from(),
            members: Members(members),
            last_sequence: Sequence(table.last_sequence()),
        })
    }
}

/// `MembersChanged`.
#[derive(Clone, Copy, Debug)]
pub struct MembersChanged<'a> {
    /// Which group.
    pub group: ConversationId,
    /// What happened.
    pub change: MemberChange,
    /// Who did it.
    pub by: &'a str,
    /// To whom.
    pub users: Names<'a>,
}

impl<'a> MembersChanged<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::MembersChanged<'a>>(body)?;
        Ok(Self {
            group: conversation(table.group())?,
            change: member_change(table.change())?,
            by: name(table.by().as_bytes())?,
            users: Names::check(Some(table.user_ids()))?,
        })
    }
}

/// `GroupUpdated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupUpdated<'a> {
    /// Which group.
    pub group: ConversationId,
    /// Its name from here on.
    pub name: &'a str,
    /// Who gave it.
    pub by: &'a str,
}

impl<'a> GroupUpdated<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::GroupUpdated<'a>>(body)?;
        Ok(Self {
            group: conversation(table.group())?,
            name: group_name(table.name())?,
            by: name(table.by().as_bytes())?,
        })
    }
}

/// One conversation in [`Conversations`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConversationEntry<'a> {
    /// Which.
    pub conversation: ConversationId,
    /// The name of a group.
    pub name: Option<&'a str>,
    /// The other user of a direct conversation.
    pub peer: Option<&'a str>,
    /// Its newest message.
    pub last_sequence: Sequence,
    /// Messages that the user has not read.
    pub unread: u64,
    /// How far the user's devices have it.
    pub delivered: Sequence,
    /// How far the user has read it.
    pub read: Sequence,
}

impl<'a> ConversationEntry<'a> {
    fn check(entry: schema::ConversationEntry<'a>) -> Result<Self, BodyError> {
        let group = entry.name().filter(|name| !name.is_empty());
        Ok(Self {
            conversation: conversation(entry.conversation())?,
            name: group.map(group_name).transpose()?,
            peer: optional_name(entry.peer())?,
            last_sequence: Sequence(entry.last_sequence()),
            unread: entry.unread(),
            delivered: Sequence(entry.delivered()),
            read: Sequence(entry.read()),
        })
    }
}

/// `Conversations`: a slice of the user's conversations, in order of id.
#[derive(Clone, Copy, Debug)]
pub struct Conversations<'a> {
    /// Whether there are more after the last of these.
    pub has_more: bool,
    /// Messages unread in all of the user's conversations.
    pub total_unread: u64,
    entries: Vector<'a, ForwardsUOffset<schema::ConversationEntry<'a>>>,
}

impl<'a> Conversations<'a> {
    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Result<Self, BodyError> {
        let table = root::<schema::Conversations<'a>>(body)?;
        let entries = table.entries();
        at_most(entries.len(), usize::from(CONVERSATIONS_PER_FRAME_MAX))?;
        for entry in entries {
            ConversationEntry::check(entry)?;
        }
        Ok(Self { has_more: table.has_more(), total_unread: table.total_unread(), entries })
    }

    /// The entries, as sent.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = ConversationEntry<'a>> + use<'a> {
        let entry = |entry| ConversationEntry::check(entry).expect("checked when it was decoded");
        self.entries.into_iter().map(entry)
    }
}

/// Verifies a whole body and gives its root table.
fn root<'a, T: Follow<'a> + Verifiable + 'a>(body: &'a [u8]) -> Result<T::Inner, BodyError> {
    let options = VerifierOptions {
        max_depth: TABLE_DEPTH_MAX,
        max_tables: TABLES_PER_FRAME_MAX,
        max_apparent_size: TABLE_APPARENT_BYTES_MAX,
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, body).map_err(|_| BodyError::Table)
}

fn at_most(count: usize, count_max: usize) -> Result<(), BodyError> {
    if count <= count_max { Ok(()) } else { Err(BodyError::TooLarge) }
}

fn required(id: &schema::Id128) -> Result<u128, BodyError> {
    match id.into() {
        0 => Err(BodyError::Table),
        id => Ok(id),
    }
}

fn conversation(id: &schema::Id128) -> Result<ConversationId, BodyError> {
    required(id).map(ConversationId)
}

fn member_change(change: schema::MemberChange) -> Result<MemberChange, BodyError> {
    MemberChange::from_number(change.0).ok_or(BodyError::Table)
}

fn optional_name(text: Option<&str>) -> Result<Option<&str>, BodyError> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| name(text.as_bytes())).transpose()
}

fn resume_token(token: Vector<'_, u8>) -> Result<Option<&[u8]>, BodyError> {
    at_most(token.len(), RESUME_TOKEN_BYTES_MAX)?;
    Ok(Some(token.bytes()).filter(|token| !token.is_empty()))
}

/// The name of a group that was checked: 1 to 256 bytes, none of them a control character.
pub fn group_name(text: &str) -> Result<&str, BodyError> {
    at_most(text.len(), GROUP_NAME_BYTES_MAX)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(BodyError::Text);
    }
    Ok(text)
}
