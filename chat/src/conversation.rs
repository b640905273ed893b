//! One conversation: its members, how far each has come, and what may be seen of it.

use crate::command::{Refusal, Speaker};
use crate::slab::Keyed;
use std::num::NonZero;
use wire::table::Role;
use wire::{ConversationId, Hlc, MessageId, Sequence, ShardId, UserKey};

/// Anything with members and one order: between two users, or a group.
///
/// It is never taken out of memory once it exists, not even when everybody has left: a second
/// beginning would give out sequences that the log already holds.
#[derive(Debug, PartialEq)]
pub struct Conversation {
    pub(crate) id: ConversationId,
    /// The newest message that was applied.
    pub(crate) last: Sequence,
    /// The newest message that readers may see. Invariant: at most `last`.
    pub(crate) durable: Sequence,
    /// Changes of membership and name so far.
    pub(crate) version: u64,
    /// The newest message's stamp.
    pub(crate) newest: Hlc,
    /// Sorted by user. Invariant: at most two unless it is a group.
    pub(crate) members: Vec<Member>,
    pub(crate) group: Option<Box<Group>>,
}

/// What only groups have. All but the name and the sender follows from the members.
#[derive(Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: Box<str>,
    pub(crate) newest_sender: UserKey,
    /// How many members each home shard has, in order of shard.
    pub(crate) homes: Vec<(ShardId, u32)>,
    pub(crate) admins_count: u32,
    /// How far the newest message has come, of all but its sender.
    pub(crate) counts: Counts,
    /// Whether the counts changed since its sender was told.
    pub(crate) has_news: bool,
    /// Members whose receipts wait, by parity of the round that will write them.
    pub(crate) waiting_counts: [u32; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) total: u32,
    pub(crate) delivered: u32,
    pub(crate) read: u32,
}

/// A user in a conversation.
#[derive(Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) user: UserKey,
    pub(crate) name: Box<str>,
    pub(crate) delivered: Sequence,
    pub(crate) read: Sequence,
    /// His own newest message: who writes has read what stands above.
    pub(crate) spoke: Sequence,
    /// He sees what comes after this.
    pub(crate) after: Sequence,
    /// When he joined: larger is later. Decides who inherits.
    pub(crate) joined: u64,
    pub(crate) role: Role,
    /// Where in the queue of receipts his moved cursors wait.
    pub(crate) waiting: Option<Ticket>,
}

/// A place in the queue of receipts, counted from the first ever, modulo 2^31. Never zero, so that
/// having none takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(NonZero<u32>);

impl Ticket {
    const MARK: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(u32::MAX >> 1);

    pub(crate) fn new(ordinal: u32) -> Self {
        Self(Self::MARK | ordinal)
    }

    /// How many places it is behind `front`.
    pub(crate) fn behind(self, front: u32) -> usize {
        (self.0.get().wrapping_sub(front) & (u32::MAX >> 1)) as usize
    }
}

const _: () = assert!(size_of::<Member>() <= 80, "a member is the unit of a group's memory");
const _: () = assert!(size_of::<Option<Conversation>>() <= 96);

/// Whom a conversation's parcels go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience<'a> {
    /// These two users at their homes; the same twice for notes to oneself.
    Direct([UserKey; 2]),
    /// These home shards, and how many members each has.
    Group {
        /// In order of shard; none has zero.
        homes: &'a [(ShardId, u32)],
    },
}

/// What a member may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// Only messages after this: where he joined.
    pub after: Sequence,
    /// Only messages up to this: what is durable.
    pub through: Sequence,
    /// Where his devices have come together.
    pub delivered: Sequence,
}

/// A conversation as one member sees it in his list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary<'a> {
    /// The newest message he may see.
    pub last_sequence: Sequence,
    /// Messages he has not read.
    pub unread: u64,
    /// His own cursor of delivery.
    pub delivered: Sequence,
    /// His own cursor of reading.
    pub read: Sequence,
    /// The other user, unless it is a group.
    pub peer: Option<&'a str>,
    /// The name, if it is a group.
    pub name: Option<&'a str>,
}

/// How far one message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its id, where it is the newest message; zero where an older one was asked for.
    pub message: MessageId,
    /// Its place.
    pub sequence: Sequence,
    /// Members it is for: all who were there, but its sender.
    pub total: u32,
    /// How many have it.
    pub delivered: u32,
    /// How many have read it.
    pub read: u32,
}

impl Status {
    /// How many do not have it yet.
    pub fn pending(&self) -> u32 {
        self.total - self.delivered
    }
}

/// A member as others see him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView<'a> {
    /// Who.
    pub speaker: Speaker<'a>,
    /// What he may do.
    pub role: Role,
}

impl Keyed for Conversation {
    fn key(&self) -> u128 {
        self.id.0
    }
}

impl Conversation {
    /// Which one it is.
    pub fn id(&self) -> ConversationId {
        self.id
    }

    /// The newest message, durable or not.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// The newest message that readers may see.
    pub fn durable(&self) -> Sequence {
        self.durable
    }

    /// The id of the newest message, durable or not; none before the first.
    pub fn newest(&self) -> Option<MessageId> {
        let has_any = self.last > Sequence(0);
        has_any.then(|| MessageId::new(self.newest, self.id, self.last))
    }

    /// A group's name.
    pub fn name(&self) -> Option<&str> {
        self.group.as_ref().map(|group| &*group.name)
    }

    /// How many are in it.
    pub fn members_count(&self) -> usize {
        self.members.len()
    }

    /// Whether it is a group that everybody has left.
    pub fn is_ended(&self) -> bool {
        self.members.is_empty()
    }

    /// The member with this key.
    pub fn find_member(&self, user: UserKey) -> Option<MemberView<'_>> {
        Some(self.member(user)?.view())
    }

    pub(crate) fn empty(id: ConversationId, group: Option<Box<Group>>) -> Self {
        assert_eq!(group.is_some(), id.is_group());
        Self {
            id,
            last: Sequence(0),
            durable: Sequence(0),
            version: 0,
            newest: Hlc(0),
            members: Vec::new(),
            group,
        }
    }

    fn index_of(&self, user: UserKey) -> Result<usize, usize> {
        if self.members.len() <= 2 {
            let found = self.members.iter().position(|member| member.user == user);
            return found.ok_or(self.members.iter().filter(|member| member.user < user).count());
        }
        self.members.binary_search_by(|member| member.user.cmp(&user))
    }

    pub(crate) fn member(&self, user: UserKey) -> Option<&Member> {
        Some(&self.members[self.index_of(user).ok()?])
    }

    pub(crate) fn member_mut(&mut self, user: UserKey) -> Option<&mut Member> {
        let index = self.index_of(user).ok()?;
        Some(&mut self.members[index])
    }

    /// The member with this key, or why he is none.
    pub(crate) fn expect_member(&self, user: UserKey) -> Result<&Member, Refusal> {
        if self.is_ended() {
            return Err(Refusal::GROUP_ENDED);
        }
        self.member(user).ok_or(Refusal::NOT_A_MEMBER)
    }

    pub(crate) fn audience(&self) -> Audience<'_> {
        match (&self.group, &*self.members) {
            (Some(group), _) => Audience::Group { homes: &group.homes },
            (None, [one]) => Audience::Direct([one.user, one.user]),
            (None, [one, other]) => Audience::Direct([one.user, other.user]),
            (None, _) => unreachable!("a direct conversation has one or two members"),
        }
    }

    pub(crate) fn summary(&self, member: &Member) -> Summary<'_> {
        let seen = member.read.max(member.spoke).max(member.after);
        let peer = self.members.iter().find(|other| other.user != member.user);
        let peer = peer.unwrap_or(&self.members[0]);
        Summary {
            last_sequence: self.durable,
            unread: self.durable.0.saturating_sub(seen.0),
            delivered: member.delivered,
            read: member.read,
            peer: self.group.is_none().then_some(&*peer.name),
            name: self.name(),
        }
    }

    /// Counts how far message `sequence` of `sender` has come, by walking all members.
    pub(crate) fn count(&self, sequence: Sequence, sender: UserKey) -> Counts {
        let mut counts = Counts::default();
        for member in self.members.iter().filter(|member| member.expects(sequence, sender)) {
            counts.total += 1;
            counts.delivered += u32::from(member.delivered >= sequence);
            counts.read += u32::from(member.read >= sequence);
        }
        counts
    }

    /// Counts the newest message's way anew: in the tail of a snapshot, members are ahead of it.
    pub(crate) fn recount(&mut self) {
        let Some(mut group) = self.group.take() else { return };
        group.counts = self.count(self.last, group.newest_sender);
        group.has_news = false;
        self.group = Some(group);
    }
}

impl Group {
    pub(crate) fn named(name: &str) -> Box<Self> {
        Box::new(Self {
            name: name.into(),
            newest_sender: UserKey::default(),
            homes: Vec::new(),
            admins_count: 0,
            counts: Counts::default(),
            has_news: false,
            waiting_counts: [0; 2],
        })
    }

    pub(crate) fn on_joined(&mut self, member: &Member, shards_count: u16) {
        self.admins_count += u32::from(member.role == Role::Admin);
        let home = member.user.partition().shard(shards_count);
        match self.homes.binary_search_by_key(&home, |(shard, _)| *shard) {
            Ok(index) => self.homes[index].1 += 1,
            Err(index) => self.homes.insert(index, (home, 1)),
        }
    }

    /// `last` is the conversation's newest message.
    pub(crate) fn on_left(&mut self, member: &Member, shards_count: u16, last: Sequence) {
        self.admins_count -= u32::from(member.role == Role::Admin);
        let home = member.user.partition().shard(shards_count);
        let index = self.homes.binary_search_by_key(&home, |(shard, _)| *shard);
        let index = index.expect("a member's home was counted when he joined");
        self.homes[index].1 -= 1;
        if self.homes[index].1 == 0 {
            self.homes.remove(index);
        }
        if last > Sequence(0) && member.expects(last, self.newest_sender) {
            // While a snapshot's tail is replayed, members can be ahead of the counts.
            let less = |count: &mut u32, is_in: bool| *count = count.saturating_sub(is_in.into());
            less(&mut self.counts.total, true);
            less(&mut self.counts.delivered, member.delivered >= last);
            less(&mut self.counts.read, member.read >= last);
        }
    }
}

impl Member {
    /// Somebody who has not read anything. `joined` is larger for later ones.
    pub(crate) fn new(speaker: Speaker<'_>, after: Sequence, joined: u64) -> Self {
        Self {
            user: speaker.user,
            name: speaker.name.into(),
            delivered: Sequence(0),
            read: Sequence(0),
            spoke: Sequence(0),
            after,
            joined,
            role: Role::Member,
            waiting: None,
        }
    }

    pub(crate) fn speaker(&self) -> Speaker<'_> {
        Speaker { user: self.user, name: &self.name }
    }

    pub(crate) fn view(&self) -> MemberView<'_> {
        MemberView { speaker: self.speaker(), role: self.role }
    }

    /// Whether message `sequence` of `sender` is one that this member is to receive.
    pub(crate) fn expects(&self, sequence: Sequence, sender: UserKey) -> bool {
        self.after < sequence && self.user != sender
    }
}
