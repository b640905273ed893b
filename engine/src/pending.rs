//! Effects that wait for the disk. Nothing is published or acknowledged before the durable
//! watermark has passed its record; the line is first come, first served, so a conversation's
//! messages leave in their order.

use crate::command::PENDING_MAX;
use crate::net::Net;
use crate::parcel::{Joined, Left, Origin, Parcel, Published};
use crate::shard::Shard;
use chat::{Audience, Millis, Tell};
use fanout::{PoolFull, Span};
use storage::NewRecord;
use wire::body::Receipt;
use wire::fixed::{GroupStatus, Unread};
use wire::table::MemberChange;
use wire::{ClientMessageId, ConversationId, Hlc, Kind, Position, Sequence, ShardId, UserKey};

/// Effects released in one turn.
const RELEASED_PER_TURN_MAX: usize = 4096;
/// Receipts and device cursors written in one turn.
const RECEIPTS_PER_TURN_MAX: usize = 512;

/// One effect, and how far the log must be durable before it.
pub(crate) struct Pending {
    pub(crate) until: Position,
    pub(crate) what: Waiting,
}

/// What happens then.
pub(crate) enum Waiting {
    Message {
        conversation: ConversationId,
        sequence: Sequence,
        hlc: Hlc,
        sender: UserKey,
        origin: Origin,
        client_message: ClientMessageId,
        span: Span,
        /// It made its direct conversation, which goes on the lists of both.
        is_first: bool,
    },
    Answer {
        origin: Origin,
        span: Span,
    },
    Created(Box<Created>),
    Changed(Box<Changed>),
    Renamed {
        origin: Origin,
        group: ConversationId,
        reply: Span,
        frame: Span,
    },
    Receipt(Box<Told>),
}

pub(crate) struct Created {
    pub(crate) origin: Origin,
    pub(crate) creator: UserKey,
    pub(crate) group: ConversationId,
    pub(crate) users: Vec<(UserKey, Box<str>)>,
    pub(crate) frame: Span,
}

pub(crate) struct Changed {
    pub(crate) origin: Origin,
    pub(crate) group: ConversationId,
    pub(crate) change: MemberChange,
    pub(crate) users: Vec<(UserKey, Box<str>)>,
    pub(crate) reply: Span,
    pub(crate) frame: Span,
}

/// A receipt to be told.
pub(crate) struct Told {
    conversation: ConversationId,
    user: UserKey,
    has_read: bool,
    frames: Vec<Span>,
    /// Everybody there, or this one.
    to: Option<UserKey>,
}

impl Shard {
    /// Releases what the disk has caught up with. True if more is ready.
    pub(crate) fn release_durable(&mut self) -> bool {
        let durable = self.log.durable();
        for _ in 0..RELEASED_PER_TURN_MAX {
            let is_ready = self.pending.front().is_some_and(|pending| pending.until <= durable);
            if !is_ready {
                return false;
            }
            // Full lanes: others are behind. They take parcels without fail, so this passes.
            if !self.port.has_parcels_room() {
                return true;
            }
            let pending = self.pending.pop_front().expect("looked at above");
            self.release(pending.what);
        }
        true
    }

    fn release(&mut self, what: Waiting) {
        match what {
            Waiting::Message {
                conversation,
                sequence,
                hlc,
                sender,
                origin,
                client_message,
                span,
                is_first,
            } => {
                self.owner.release(conversation, sequence);
                if is_first {
                    self.announce_direct(conversation);
                }
                let recipient = self.other_of(conversation, sender);
                let published = Published {
                    conversation,
                    sequence,
                    hlc,
                    sender,
                    recipient,
                    origin,
                    client_message,
                    span,
                };
                self.publish_message(published);
            }
            Waiting::Answer { origin, span } => self.answer_span(origin, span),
            Waiting::Created(created) => self.release_created(*created),
            Waiting::Changed(changed) => self.release_changed(*changed),
            Waiting::Renamed { origin, group, reply, frame } => {
                self.announce(group, origin, &frame);
                self.answer_span(origin, reply);
            }
            Waiting::Receipt(told) => self.release_receipt(*told),
        }
    }

    /// The other user of a direct conversation; none for a group.
    fn other_of(&self, conversation: ConversationId, user: UserKey) -> Option<UserKey> {
        match self.owner.audience(conversation) {
            Some(Audience::Direct([a, b])) => Some(if a == user { b } else { a }),
            _ => None,
        }
    }

    /// One parcel for each home that has anything to do with the message.
    fn publish_message(&mut self, published: Published) {
        let Some(recipient) = published.recipient else { return self.publish_to_group(published) };
        let recipients_home = self.home_of(recipient);
        if published.origin.shard != recipients_home {
            self.post(published.origin.shard, Parcel::Published(published.again()));
        }
        self.post(recipients_home, Parcel::Published(published));
    }

    fn publish_to_group(&mut self, published: Published) {
        let mut homes = self.homes_of(published.conversation);
        let last = homes.pop();
        let mut told_sender = last == Some(published.origin.shard);
        for home in homes {
            told_sender |= home == published.origin.shard;
            self.post(home, Parcel::Published(published.again()));
        }
        // The sender may have left between the sync and here, and is owed the answer still.
        if !told_sender {
            self.post(published.origin.shard, Parcel::Published(published.again()));
        }
        if let Some(home) = last {
            self.post(home, Parcel::Published(published));
        }
    }

    pub(crate) fn home_of(&self, user: UserKey) -> ShardId {
        user.partition().shard(self.me.shards_count)
    }

    fn homes_of(&self, conversation: ConversationId) -> smallvec::SmallVec<[ShardId; 16]> {
        match self.owner.audience(conversation) {
            Some(Audience::Direct([a, b])) => {
                let (a, b) = (self.home_of(a), self.home_of(b));
                if a == b { [a].into_iter().collect() } else { [a, b].into_iter().collect() }
            }
            Some(Audience::Group { homes }) => homes.iter().map(|(home, _)| *home).collect(),
            None => smallvec::SmallVec::new(),
        }
    }

    fn announce(&mut self, group: ConversationId, except: Origin, frame: &Span) {
        for home in self.homes_of(group) {
            self.post(home, Parcel::Announced { group, except, span: frame.clone() });
        }
    }

    fn announce_direct(&mut self, conversation: ConversationId) {
        let members = self.owner.members(conversation, 0, 2);
        let users = members.map(|member| (member.speaker.user, member.speaker.name.into()));
        let users: Vec<(UserKey, Box<str>)> = users.collect();
        self.post_joined(conversation, users);
    }

    fn post_joined(&mut self, conversation: ConversationId, users: Vec<(UserKey, Box<str>)>) {
        for (home, users) in self.by_home(users) {
            self.post(home, Parcel::Joined(Box::new(Joined { conversation, users })));
        }
    }

    #[expect(clippy::type_complexity, reason = "a list of users for each home")]
    fn by_home(
        &self,
        mut users: Vec<(UserKey, Box<str>)>,
    ) -> Vec<(ShardId, Vec<(UserKey, Box<str>)>)> {
        users.sort_by_key(|(user, _)| self.home_of(*user));
        let mut homes: Vec<(ShardId, Vec<(UserKey, Box<str>)>)> = Vec::new();
        for user in users {
            let home = self.home_of(user.0);
            match homes.last_mut() {
                Some((last, users)) if *last == home => users.push(user),
                _ => homes.push((home, vec![user])),
            }
        }
        homes
    }

    fn release_created(&mut self, created: Created) {
        let Created { origin, creator, group, users, frame } = created;
        self.post_joined(group, users);
        self.announce(group, origin, &frame);
        self.answer_group(origin, creator, group, 0);
    }

    fn release_changed(&mut self, changed: Changed) {
        let Changed { origin, group, change, users, reply, frame } = changed;
        match change {
            MemberChange::Add => self.post_joined(group, users),
            MemberChange::Remove | MemberChange::Leave => {
                for (home, users) in self.by_home(users) {
                    let users = users.into_iter().map(|(user, _)| user).collect();
                    let frame = frame.clone();
                    let left = Left { conversation: group, users, except: origin, frame };
                    self.post(home, Parcel::Left(Box::new(left)));
                }
            }
            MemberChange::Promote | MemberChange::Demote => {}
        }
        self.announce(group, origin, &frame);
        self.answer_span(origin, reply);
    }

    fn release_receipt(&mut self, told: Told) {
        let Told { conversation, user, has_read, frames, to } = told;
        for span in frames {
            match (to, self.owner.audience(conversation)) {
                (Some(user), _) => self.tell(user, span),
                (None, Some(Audience::Direct([a, b]))) => {
                    self.tell(a, span.clone());
                    if a != b {
                        self.tell(b, span);
                    }
                }
                (None, _) => {
                    let nobody = Origin {
                        shard: self.me.shard,
                        connection: u32::MAX,
                        generation: 0,
                        reference: 0,
                    };
                    self.announce(conversation, nobody, &span);
                }
            }
        }
        if has_read && let Ok(summary) = self.owner.describe(conversation, user) {
            let unread = Unread { conversation, unread: summary.unread };
            if let Ok(span) = self.net.encode(Kind::UnreadUpdate, 0, [&unread.head().0, b"", b""]) {
                self.tell(user, span);
            }
        }
    }

    fn tell(&mut self, user: UserKey, span: Span) {
        self.post(self.home_of(user), Parcel::Told { user, span });
    }

    /// Writes receipts and device cursors that moved since the last round. True if more are due.
    pub(crate) fn flush_receipts(&mut self) -> bool {
        let hlc = self.owner.next_hlc(chat::WallMillis(self.clock.wall));
        let now = Millis(self.clock.now);
        let Self { owner, home, log, net, pending, scratch, clock, .. } = self;
        let mut append = |record: &chat::Record<'_>, log: &mut storage::Log| {
            scratch.clear();
            record.encode_head(scratch);
            let new = NewRecord {
                kind: record.kind(),
                partition: record.partition(),
                entity: record.entity(),
                sequence: 0,
                hlc,
                body: [scratch, b""],
            };
            log.append(new).is_ok()
        };
        let flushed = owner.flush_receipts(now, RECEIPTS_PER_TURN_MAX, |flush| {
            if pending.len() >= PENDING_MAX {
                return false;
            }
            let Ok(told) = encode_receipt(net, clock.wall, &flush) else { return false };
            if !append(&flush.record, log) {
                return false;
            }
            let what = Waiting::Receipt(Box::new(told));
            pending.push_back(Pending { until: log.appended(), what });
            true
        });
        let cursors = home.flush_cursors(now, RECEIPTS_PER_TURN_MAX, |record| append(&record, log));
        flushed == RECEIPTS_PER_TURN_MAX || cursors == RECEIPTS_PER_TURN_MAX
    }
}

fn encode_receipt(
    net: &mut Net,
    wall: u64,
    flush: &chat::ReceiptFlush<'_>,
) -> Result<Told, PoolFull> {
    let conversation = flush.conversation;
    let mut frames = Vec::new();
    let mut to = None;
    match flush.tell {
        Tell::Nobody => {}
        Tell::Members(_) => {
            let moved = [(Kind::DeliveryReceipt, flush.delivered), (Kind::ReadReceipt, flush.read)];
            for (kind, up_to) in moved {
                let Some(up_to) = up_to else { continue };
                let receipt = Receipt { conversation, up_to, at_millis: wall, user: flush.name };
                let head = receipt.head();
                frames.push(net.encode(kind, 0, [&head.0, flush.name.as_bytes(), b""])?);
            }
        }
        Tell::Sender { user, status } => {
            to = Some(user);
            let counts = GroupStatus {
                message: status.message,
                conversation,
                sequence: status.sequence,
                total: status.total,
                delivered: status.delivered,
                read: status.read,
                pending: status.pending(),
            };
            frames.push(net.encode(Kind::GroupStatus, 0, [&counts.head().0, b"", b""])?);
        }
    }
    Ok(Told { conversation, user: flush.user, has_read: flush.read.is_some(), frames, to })
}

impl Published {
    /// Another parcel for the same message.
    fn again(&self) -> Self {
        Self { span: self.span.clone(), ..*self }
    }
}
