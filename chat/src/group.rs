//! Groups: who makes them, who comes and goes, who may say so.
//!
//! A change is decided for all users it names or for none. Records carry the users as they were
//! named; those for whom it was so already are passed over when it is applied, so replaying does
//! no harm.

use crate::command::{Decision, Refusal, Speaker};
use crate::conversation::{Conversation, Group, Member};
use crate::owner::Owner;
use crate::record::{GroupCreated, MembersChanged, Record, Renamed, Users};
use wire::limits::{GROUP_NAME_BYTES_MAX, MEMBERS_PER_FRAME_MAX};
use wire::table::{MemberChange, Role};
use wire::{ConversationId, ErrorCode, Sequence, UserKey};

/// A newcomer's place in the order of joining: the change that brought him, then his place in it.
const JOINED_INDEX_BITS: u32 = 20;

impl Owner {
    pub(crate) fn decide_create<'a>(
        &self,
        creator: Speaker<'a>,
        id: ConversationId,
        name: &'a str,
        members: &'a [Speaker<'a>],
    ) -> Result<Decision<'a>, Refusal> {
        assert!(id.is_group(), "the id of a group says that it is one");
        if let Some(group) = self.conversations.find(id.0) {
            group.expect_member(creator.user)?;
            return Ok(Decision::GroupExists);
        }
        check_name(name)?;
        check_users_count(members)?;
        let others = unique(members.iter().filter(|member| member.user != creator.user));
        if others.is_empty() {
            return Err(bad_request("a group needs a member beside the one who makes it"));
        }
        self.check_members_count(others.len() + 1)?;
        self.check_room()?;
        let members = Users::listed(members);
        Ok(Decision::Append(Record::GroupCreated(GroupCreated {
            group: id,
            creator,
            name,
            members,
        })))
    }

    pub(crate) fn decide_change<'a>(
        &self,
        by: Speaker<'a>,
        id: ConversationId,
        change: MemberChange,
        users: &'a [Speaker<'a>],
    ) -> Result<Decision<'a>, Refusal> {
        let conversation = self.expect_conversation(id)?;
        let (member, admins_count) = conversation.expect_group_member(by.user)?;
        let users = match change {
            MemberChange::Leave => Users::one(by),
            _ if member.role != Role::Admin => return Err(NOT_ADMIN),
            _ if users.is_empty() => return Err(bad_request("no user is named")),
            _ => {
                check_users_count(users)?;
                Users::listed(users)
            }
        };
        let named = unique(users.iter());
        let there = || named.iter().filter_map(|user| conversation.member(*user));
        let admins_named = there().filter(|member| member.role == Role::Admin).count();
        let affected_count = match change {
            MemberChange::Add => named.len() - there().count(),
            MemberChange::Remove | MemberChange::Leave => there().count(),
            _ if there().count() < named.len() => return Err(Refusal::NOT_A_MEMBER),
            MemberChange::Promote => named.len() - admins_named,
            MemberChange::Demote => admins_named,
        };
        if affected_count == 0 {
            return Ok(Decision::Nothing);
        }
        let is_last_admin = admins_named == admins_count as usize;
        let mut heir = None;
        match change {
            MemberChange::Add => {
                self.check_members_count(conversation.members.len() + affected_count)?;
            }
            MemberChange::Remove | MemberChange::Leave if is_last_admin => {
                heir = conversation.heir_without(&named);
            }
            MemberChange::Demote if is_last_admin => return Err(LAST_ADMIN),
            _ => {}
        }
        let (version, after) = (conversation.version + 1, conversation.last);
        let changed = MembersChanged { group: id, version, after, by, change, heir, users };
        Ok(Decision::Append(Record::MembersChanged(changed)))
    }

    pub(crate) fn decide_rename<'a>(
        &self,
        by: Speaker<'a>,
        id: ConversationId,
        name: &'a str,
    ) -> Result<Decision<'a>, Refusal> {
        let conversation = self.expect_conversation(id)?;
        let (member, _) = conversation.expect_group_member(by.user)?;
        if member.role != Role::Admin {
            return Err(NOT_ADMIN);
        }
        check_name(name)?;
        if conversation.name() == Some(name) {
            return Ok(Decision::Nothing);
        }
        let (version, after) = (conversation.version + 1, conversation.last);
        Ok(Decision::Append(Record::Renamed(Renamed { group: id, version, after, by, name })))
    }

    pub(crate) fn apply_created(&mut self, created: &GroupCreated<'_>) {
        if self.conversations.find(created.group.0).is_some() {
            return;
        }
        let mut group = Conversation::empty(created.group, Some(Group::named(created.name)));
        group.version = 1;
        let (shards_count, joined) = (self.settings.shards_count, 1 << JOINED_INDEX_BITS);
        group.admit(Users::one(created.creator), Sequence(0), joined, shards_count);
        group.set_role(&[created.creator.user], Role::Admin);
        group.admit(created.members, Sequence(0), joined + 1, shards_count);
        self.conversations.insert(group);
    }

    pub(crate) fn apply_changed(&mut self, changed: &MembersChanged<'_>) {
        let shards_count = self.settings.shards_count;
        let Some(group) = self.change_of(changed.group, changed.version) else { return };
        match changed.change {
            MemberChange::Add => {
                let joined = changed.version << JOINED_INDEX_BITS;
                group.admit(changed.users, changed.after, joined, shards_count);
            }
            MemberChange::Remove | MemberChange::Leave => {
                group.dismiss(&unique(changed.users.iter()), shards_count);
            }
            MemberChange::Promote => group.set_role(&unique(changed.users.iter()), Role::Admin),
            MemberChange::Demote => group.set_role(&unique(changed.users.iter()), Role::Member),
        }
        if let Some(heir) = changed.heir {
            group.set_role(&[heir], Role::Admin);
        }
    }

    pub(crate) fn apply_renamed(&mut self, renamed: &Renamed<'_>) {
        let Some(conversation) = self.change_of(renamed.group, renamed.version) else { return };
        let group = conversation.group.as_mut().expect("only groups are renamed");
        group.name = renamed.name.into();
    }

    /// The group to which change number `version` is news.
    fn change_of(&mut self, id: ConversationId, version: u64) -> Option<&mut Conversation> {
        let Some(group) = self.conversations.find_mut(id.0).filter(|found| found.group.is_some())
        else {
            self.orphans_count += 1;
            return None;
        };
        if version <= group.version {
            return None;
        }
        group.version = version;
        Some(group)
    }

    fn check_members_count(&self, count: usize) -> Result<(), Refusal> {
        if count <= self.settings.group_members_max as usize {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::TooLarge, "the group would have too many members"))
    }
}

impl Conversation {
    /// The member, and how many admins the group has.
    fn expect_group_member(&self, user: UserKey) -> Result<(&Member, u32), Refusal> {
        let member = self.expect_member(user)?;
        let group = self.group.as_ref().ok_or(DIRECT)?;
        Ok((member, group.admins_count))
    }

    /// Who was there longest, apart from `gone`.
    fn heir_without(&self, gone: &[UserKey]) -> Option<UserKey> {
        let left = self.members.iter().filter(|member| gone.binary_search(&member.user).is_err());
        Some(left.min_by_key(|member| member.joined)?.user)
    }

    /// Brings `users` in, but for those who are in. `joined` is the first one's place in the
    /// order of joining. Members stay sorted.
    fn admit(&mut self, users: Users<'_>, after: Sequence, joined: u64, shards_count: u16) {
        let mut fresh: Vec<Member> = (joined..)
            .zip(users.iter())
            .filter(|(_, user)| self.member(user.user).is_none())
            .map(|(joined, user)| Member::new(user, after, joined))
            .collect();
        fresh.sort_by_key(|member| member.user);
        fresh.dedup_by_key(|member| member.user);
        let group = self.group.as_mut().expect("only groups admit");
        fresh.iter().for_each(|member| group.on_joined(member, shards_count));
        let mut merged = Vec::with_capacity(self.members.len() + fresh.len());
        let mut there = std::mem::take(&mut self.members).into_iter().peekable();
        for member in fresh {
            while let Some(earlier) = there.next_if(|earlier| earlier.user < member.user) {
                merged.push(earlier);
            }
            merged.push(member);
        }
        merged.extend(there);
        self.members = merged;
    }

    /// Puts `gone` out, but for those who are not in.
    fn dismiss(&mut self, gone: &[UserKey], shards_count: u16) {
        let group = self.group.as_mut().expect("only groups dismiss");
        let last = self.last;
        let is_gone = |member: &mut Member| gone.binary_search(&member.user).is_ok();
        for member in self.members.extract_if(.., is_gone) {
            group.on_left(&member, shards_count, last);
        }
    }

    fn set_role(&mut self, users: &[UserKey], role: Role) {
        for user in users {
            let Some(member) = self.member_mut(*user) else { continue };
            if member.role == role {
                continue;
            }
            member.role = role;
            let group = self.group.as_mut().expect("only groups have roles");
            match role {
                Role::Admin => group.admins_count += 1,
                Role::Member => group.admins_count -= 1,
            }
        }
    }
}

const NOT_ADMIN: Refusal = Refusal::new(ErrorCode::Forbidden, "only an admin of the group may");
const DIRECT: Refusal =
    Refusal::new(ErrorCode::Unsupported, "a conversation of two has no members to change");
const LAST_ADMIN: Refusal =
    Refusal::new(ErrorCode::Conflict, "a group needs an admin: promote another one first");

fn bad_request(text: &'static str) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, text)
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > GROUP_NAME_BYTES_MAX {
        return Err(bad_request("a group's name has 1 to 256 bytes"));
    }
    Ok(())
}

fn check_users_count(users: &[Speaker<'_>]) -> Result<(), Refusal> {
    if users.len() <= MEMBERS_PER_FRAME_MAX {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::TooLarge, "at most 1000 users at a time"))
}

/// The keys of `users`, each once, sorted.
fn unique<'a, S: std::borrow::Borrow<Speaker<'a>>>(users: impl Iterator<Item = S>) -> Vec<UserKey> {
    let mut keys: Vec<UserKey> = users.map(|user| user.borrow().user).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
