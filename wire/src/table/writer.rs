//! Writes the cold bodies.

use super::{
    Authenticate, Authenticated, ConversationEntry, GroupUpdated, Member, MemberChange, RenameGroup,
};
use crate::generated as schema;
use crate::id::{ClientMessageId, ConversationId, Sequence};
use crate::limits::{CONVERSATIONS_PER_FRAME_MAX, CURSORS_PER_FRAME_MAX, MEMBERS_PER_FRAME_MAX};
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};

type Strings = WIPOffset<Vector<'static, ForwardsUOffset<&'static str>>>;

/// Makes table bodies, one after the other, in memory that it keeps.
///
/// Each function gives the body that [`crate::frame::encode`] puts behind a header. The caller
/// answers for what it writes: names that were checked, counts within `wire::limits`.
///
/// ```
/// use wire::table::{Authenticate, TableWriter};
/// let mut writer = TableWriter::default();
/// let mut out = Vec::new();
/// let body = writer.authenticate(&Authenticate { user: Some("alice"), ..Default::default() });
/// wire::frame::encode(&mut out, wire::Kind::Authenticate, 1, &[body]);
/// ```
#[derive(Default)]
pub struct TableWriter {
    builder: FlatBufferBuilder<'static>,
    strings: Vec<WIPOffset<&'static str>>,
    members: Vec<WIPOffset<schema::Member<'static>>>,
    entries: Vec<WIPOffset<schema::ConversationEntry<'static>>>,
}

impl TableWriter {
    /// `Authenticate`.
    pub fn authenticate(&mut self, body: &Authenticate<'_>) -> &[u8] {
        self.builder.reset();
        let builder = &mut self.builder;
        let token = body.token.map(|text| builder.create_string(text));
        let user_id = body.user.map(|text| builder.create_string(text));
        let device_id = body.device.map(|text| builder.create_string(text));
        let resume_token = body.resume_token.map(|bytes| builder.create_vector(bytes));
        let auto_delivered = body.auto_delivered;
        let arguments =
            schema::AuthenticateArgs { token, user_id, device_id, resume_token, auto_delivered };
        let root = schema::Authenticate::create(builder, &arguments);
        self.finish(root)
    }

    /// `Authenticated`.
    pub fn authenticated(&mut self, body: &Authenticated<'_>) -> &[u8] {
        self.builder.reset();
        let builder = &mut self.builder;
        let arguments = schema::AuthenticatedArgs {
            user_id: Some(builder.create_string(body.user)),
            device_id: Some(builder.create_string(body.device)),
            session: body.session,
            resume_token: Some(builder.create_vector(body.resume_token)),
            heartbeat_interval_s: body.heartbeat_interval_s,
            resumed: body.resumed,
            server_time_ms: body.server_time_ms,
        };
        let root = schema::Authenticated::create(builder, &arguments);
        self.finish(root)
    }

    /// `Sync`.
    pub fn sync(&mut self, cursors: &[(ConversationId, Sequence)]) -> &[u8] {
        assert!(cursors.len() <= CURSORS_PER_FRAME_MAX);
        self.builder.reset();
        let heads =
            cursors.iter().map(|(id, up_to)| schema::CursorHead::new(&id.0.into(), up_to.0));
        let cursors = Some(self.builder.create_vector_from_iter(heads));
        let root = schema::Sync::create(&mut self.builder, &schema::SyncArgs { cursors });
        self.finish(root)
    }

    /// `CreateGroup`.
    pub fn create_group<'n>(
        &mut self,
        request: ClientMessageId,
        name: &str,
        members: impl IntoIterator<Item = &'n str>,
    ) -> &[u8] {
        self.builder.reset();
        let members = Some(self.names(members));
        let name = Some(self.builder.create_string(name));
        let request = request.0.into();
        let arguments = schema::CreateGroupArgs { request: Some(&request), name, members };
        let root = schema::CreateGroup::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    /// `ChangeMembers`.
    pub fn change_members<'n>(
        &mut self,
        group: ConversationId,
        change: MemberChange,
        users: impl IntoIterator<Item = &'n str>,
    ) -> &[u8] {
        self.builder.reset();
        let user_ids = Some(self.names(users));
        let change = schema::MemberChange(change as u8);
        let group = group.0.into();
        let arguments = schema::ChangeMembersArgs { group: Some(&group), change, user_ids };
        let root = schema::ChangeMembers::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    /// `RenameGroup`.
    pub fn rename_group(&mut self, body: &RenameGroup<'_>) -> &[u8] {
        self.builder.reset();
        let name = Some(self.builder.create_string(body.name));
        let group = body.group.0.into();
        let arguments = schema::RenameGroupArgs { group: Some(&group), name };
        let root = schema::RenameGroup::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    /// `Group`.
    pub fn group<'n>(
        &mut self,
        head: &GroupHead<'_>,
        members: impl IntoIterator<Item = Member<'n>>,
    ) -> &[u8] {
        self.builder.reset();
        self.members.clear();
        for member in members {
            let user_id = Some(self.builder.create_string(member.user));
            let role = schema::Role(member.role as u8);
            let arguments = schema::MemberArgs { user_id, role };
            self.members.push(schema::Member::create(&mut self.builder, &arguments));
        }
        assert!(self.members.len() <= MEMBERS_PER_FRAME_MAX);
        let members = Some(self.builder.create_vector(&self.members));
        let name = Some(self.builder.create_string(head.name));
        let group = head.group.0.into();
        let arguments = schema::GroupArgs {
            group: Some(&group),
            name,
            members_count: head.members_count,
            from: head.from,
            members,
            last_sequence: head.last_sequence.0,
        };
        let root = schema::Group::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    /// `MembersChanged`.
    pub fn members_changed<'n>(
        &mut self,
        group: ConversationId,
        change: MemberChange,
        by: &str,
        users: impl IntoIterator<Item = &'n str>,
    ) -> &[u8] {
        self.builder.reset();
        let user_ids = Some(self.names(users));
        let by = Some(self.builder.create_string(by));
        let change = schema::MemberChange(change as u8);
        let group = group.0.into();
        let arguments = schema::MembersChangedArgs { group: Some(&group), change, by, user_ids };
        let root = schema::MembersChanged::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    /// `GroupUpdated`.
    pub fn group_updated(&mut self, body: &GroupUpdated<'_>) -> &[u8] {
        self.builder.reset();
        let name = Some(self.builder.create_string(body.name));
        let by = Some(self.builder.create_string(body.by));
        let group = body.group.0.into();
        let arguments = schema::GroupUpdatedArgs { group: Some(&group), name, by };
        let root = schema::GroupUpdated::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    /// `Conversations`: entries in order of id, whether more follow, and what is unread in all.
    pub fn conversations<'n>(
        &mut self,
        entries: impl IntoIterator<Item = ConversationEntry<'n>>,
        has_more: bool,
        total_unread: u64,
    ) -> &[u8] {
        self.builder.reset();
        self.entries.clear();
        for entry in entries {
            let entry = self.entry(&entry);
            self.entries.push(entry);
        }
        assert!(self.entries.len() <= usize::from(CONVERSATIONS_PER_FRAME_MAX));
        let entries = Some(self.builder.create_vector(&self.entries));
        let arguments = schema::ConversationsArgs { entries, has_more, total_unread };
        let root = schema::Conversations::create(&mut self.builder, &arguments);
        self.finish(root)
    }

    fn entry(
        &mut self,
        entry: &ConversationEntry<'_>,
    ) -> WIPOffset<schema::ConversationEntry<'static>> {
        let builder = &mut self.builder;
        let name = entry.name.map(|text| builder.create_string(text));
        let peer = entry.peer.map(|text| builder.create_string(text));
        let conversation = entry.conversation.0.into();
        let arguments = schema::ConversationEntryArgs {
            conversation: Some(&conversation),
            name,
            peer,
            last_sequence: entry.last_sequence.0,
            unread: entry.unread,
            delivered: entry.delivered.0,
            read: entry.read.0,
        };
        schema::ConversationEntry::create(builder, &arguments)
    }

    fn names<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Strings {
        self.strings.clear();
        for name in names {
            self.strings.push(self.builder.create_string(name));
        }
        assert!(self.strings.len() <= MEMBERS_PER_FRAME_MAX);
        self.builder.create_vector(&self.strings)
    }

    fn finish<T>(&mut self, root: WIPOffset<T>) -> &[u8] {
        self.builder.finish_minimal(root);
        self.builder.finished_data()
    }
}

/// All of a `Group` but its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHead<'a> {
    /// Which group.
    pub group: ConversationId,
    /// Its name.
    pub name: &'a str,
    /// How many members it has.
    pub members_count: u32,
    /// Index of the first member that is sent along.
    pub from: u32,
    /// Its newest message.
    pub last_sequence: Sequence,
}
