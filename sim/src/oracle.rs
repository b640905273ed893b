//! What clients saw, held against what was promised. No product code decides here: a message is
//! known by its content, a place by its conversation and sequence, and each is written down the
//! first time anybody sees it.

use std::collections::{BTreeMap, BTreeSet};
use wire::body::Deliver;
use wire::fixed::{Sent, SentStatus};
use wire::{ConversationId, MessageId};

pub(crate) type User = usize;
pub(crate) type MessageIndex = usize;
/// More than a run has messages.
const DEDUP_ENTRIES_AMPLE: u32 = 10_000;
type Place = (ConversationId, u64);

/// Where a message is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Direct(User),
    Group(ConversationId),
}

/// One message that some client wants to say, once.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) sender: User,
    pub(crate) client_message: u128,
    pub(crate) target: Target,
    pub(crate) content: Vec<u8>,
    pub(crate) attempts_count: u32,
    first_sent_at: u64,
    pub(crate) is_refused: bool,
    pub(crate) acked: Option<u64>,
    placed: Option<(ConversationId, u64, MessageId)>,
}

/// What was asked of a group, and what of it is certain.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupBook {
    pub(crate) creator: User,
    pub(crate) initial: BTreeSet<User>,
    /// Somebody asked to remove them, or they to leave: little is certain from there on.
    pub(crate) unstable: BTreeSet<User>,
    adds: BTreeMap<User, Adds>,
    /// Removals that were confirmed and that no later request undoes: since when.
    gone_since: BTreeMap<User, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Adds {
    open_count: u32,
    last_sent_at: u64,
}

/// The book of one run.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) messages: Vec<Message>,
    by_content: BTreeMap<Vec<u8>, MessageIndex>,
    places: BTreeMap<Place, (MessageIndex, MessageId)>,
    /// The newest that was acknowledged or seen, and so is durable.
    pub(crate) newest: BTreeMap<ConversationId, u64>,
    pub(crate) groups: BTreeMap<ConversationId, GroupBook>,
    pub(crate) directs: BTreeMap<ConversationId, [User; 2]>,
    /// The furthest that any device of a user claims to have come: delivered, read.
    pub(crate) marks: BTreeMap<(User, ConversationId), (u64, u64)>,
    events_count: u64,
    dedup_entries_max: u32,
    retention: bool,
    pub(crate) violation: Option<String>,
}

impl Oracle {
    pub(crate) fn new(dedup_entries_max: u32, retention: bool) -> Self {
        Self { dedup_entries_max, retention, ..Self::default() }
    }

    /// Whether old messages may be retired: histories then end in a gap.
    pub(crate) fn retires(&self) -> bool {
        self.retention
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.events_count += 1;
        self.events_count
    }

    pub(crate) fn new_message(
        &mut self,
        sender: User,
        target: Target,
        client_message: u128,
        padding: &[u8],
    ) -> MessageIndex {
        let index = self.messages.len();
        let mut content = format!("{index}:{client_message:032x}:").into_bytes();
        content.extend_from_slice(padding);
        self.by_content.insert(content.clone(), index);
        self.messages.push(Message {
            sender,
            client_message,
            target,
            content,
            attempts_count: 0,
            first_sent_at: 0,
            is_refused: false,
            acked: None,
            placed: None,
        });
        index
    }

    pub(crate) fn note_sent(&mut self, message: MessageIndex) {
        let now = self.tick();
        let message = &mut self.messages[message];
        message.attempts_count += 1;
        if message.attempts_count == 1 {
            message.first_sent_at = now;
        }
    }

    /// The server refused the message for good. If that was its only try, nobody may ever see it.
    pub(crate) fn note_refused(&mut self, index: MessageIndex) {
        let message = &mut self.messages[index];
        message.is_refused = true;
        if message.attempts_count == 1 && message.placed.is_some() {
            self.fail(format!("message {index} was refused and yet stored"));
        }
    }

    /// An acknowledgement came for `index`.
    pub(crate) fn note_acked(&mut self, index: MessageIndex, sent: &Sent) {
        if self.messages[index].client_message != sent.client_message.0 {
            return self.fail(format!("message {index} was acknowledged under another's name"));
        }
        self.place(index, sent.conversation, sent.sequence.0, sent.message);
        let message = &mut self.messages[index];
        if message.attempts_count == 1 && sent.status == SentStatus::Duplicate {
            return self.fail(format!("message {index} is called a duplicate of itself"));
        }
        message.acked.get_or_insert(sent.sequence.0);
    }

    fn place(&mut self, index: MessageIndex, at: ConversationId, sequence: u64, id: MessageId) {
        if sequence == 0 {
            return self.fail(format!("message {index} has sequence 0"));
        }
        let known = *self.places.entry((at, sequence)).or_insert((index, id));
        if known != (index, id) {
            return self.fail(format!(
                "sequence {sequence} of {at:?} is message {} as {:?}, \
                 and message {index} as {id:?}",
                known.0, known.1
            ));
        }
        let message = &mut self.messages[index];
        let is_refused = message.is_refused && message.attempts_count == 1;
        match message.placed {
            None => {
                message.placed = Some((at, sequence, id));
            }
            Some(placed) if placed == (at, sequence, id) => {}
            // With a small memory a retry may find itself forgotten. How much came between is not
            // for a client to know, so such seeds are no judge of this.
            Some(_) if self.dedup_entries_max < DEDUP_ENTRIES_AMPLE => {
                message.placed = Some((at, sequence, id));
            }
            Some(placed) => {
                return self.fail(format!(
                    "message {index} stands twice: {placed:?} and {:?}",
                    (at, sequence, id)
                ));
            }
        }
        if is_refused {
            return self.fail(format!("message {index} was refused and is seen at {sequence}"));
        }
        let newest = self.newest.entry(at).or_default();
        *newest = (*newest).max(sequence);
        if let Target::Direct(other) = self.messages[index].target {
            self.directs.insert(at, [self.messages[index].sender, other]);
        }
    }

    /// Some device of `viewer` was shown a message.
    pub(crate) fn observe(&mut self, viewer: User, shown: &Deliver<'_>) {
        let Some(&index) = self.by_content.get(shown.content) else {
            return self.fail(format!("{viewer} sees what nobody said: {shown:?}"));
        };
        let message = &self.messages[index];
        let (sender, target) = (message.sender, message.target);
        if message.attempts_count == 0 {
            return self.fail(format!("message {index} is seen before it was sent"));
        }
        if shown.sender != name_of(sender) {
            return self.fail(format!("message {index} of {sender} seen as of {}", shown.sender));
        }
        match target {
            Target::Direct(other) if viewer != other && viewer != sender => {
                return self.fail(format!("{viewer} sees message {index}, sent to {other}"));
            }
            Target::Group(group) if group != shown.conversation => {
                return self.fail(format!("message {index} is seen in another conversation"));
            }
            _ => {}
        }
        if let Target::Group(group) = target {
            let sent_at = message.first_sent_at;
            let gone = self.groups.get(&group).and_then(|book| book.gone_since.get(&viewer));
            if gone.is_some_and(|gone| sent_at > *gone) {
                return self.fail(format!(
                    "{viewer} was removed from {group:?} and sees message {index}, sent later"
                ));
            }
        }
        self.place(index, shown.conversation, shown.sequence.0, shown.message);
    }

    /// Whether `user` is certain to be in the conversation from its beginning to now.
    pub(crate) fn is_stable(&self, user: User, conversation: ConversationId) -> bool {
        if let Some(users) = self.directs.get(&conversation) {
            return users.contains(&user);
        }
        self.groups
            .get(&conversation)
            .is_some_and(|book| book.initial.contains(&user) && !book.unstable.contains(&user))
    }

    /// Since when `user` is removed for certain, and nobody may have added him again.
    pub(crate) fn gone_since(&self, user: User, conversation: ConversationId) -> Option<u64> {
        self.groups.get(&conversation)?.gone_since.get(&user).copied()
    }

    pub(crate) fn note_group(&mut self, group: ConversationId, creator: User, users: &[User]) {
        let book = self.groups.entry(group).or_default();
        book.creator = creator;
        book.initial.extend(users.iter().copied().chain([creator]));
    }

    /// Somebody asks to add `user`. Returns when.
    pub(crate) fn note_add_asked(&mut self, group: ConversationId, user: User) {
        let now = self.tick();
        let book = self.groups.entry(group).or_default();
        book.gone_since.remove(&user);
        let adds = book.adds.entry(user).or_default();
        adds.open_count += 1;
        adds.last_sent_at = now;
    }

    pub(crate) fn note_add_answered(&mut self, group: ConversationId, user: User) {
        let book = self.groups.entry(group).or_default();
        let adds = book.adds.entry(user).or_default();
        adds.open_count = adds.open_count.saturating_sub(1);
    }

    /// Somebody asks to remove `user`, or he to leave. Returns when.
    pub(crate) fn note_removal_asked(&mut self, group: ConversationId, user: User) -> u64 {
        self.groups.entry(group).or_default().unstable.insert(user);
        self.tick()
    }

    /// A removal asked for at `asked_at` is confirmed. It is final unless somebody may have added
    /// the user again meanwhile.
    pub(crate) fn note_removed(&mut self, group: ConversationId, user: User, asked_at: u64) {
        let now = self.tick();
        let book = self.groups.entry(group).or_default();
        let adds = book.adds.get(&user).copied().unwrap_or_default();
        if adds.open_count == 0 && adds.last_sent_at < asked_at {
            book.gone_since.insert(user, now);
        }
    }

    /// The process is gone, and with it every request that had not been decided.
    pub(crate) fn note_restart(&mut self) {
        for book in self.groups.values_mut() {
            for adds in book.adds.values_mut() {
                adds.open_count = 0;
            }
        }
    }

    /// Held against a whole history of `user`, read when all was quiet: what is missing of what
    /// was acknowledged, and whether there are holes.
    pub(crate) fn check_history(
        &mut self,
        user: User,
        conversation: ConversationId,
        (sequences, gap_through): (&BTreeSet<u64>, u64),
    ) {
        if gap_through > 0 && !self.retention {
            self.fail(format!("{conversation:?} has a gap up to {gap_through} for {user}"));
        }
        let newest = self.newest.get(&conversation).copied().unwrap_or(0);
        for sequence in gap_through + 1..=newest {
            if !sequences.contains(&sequence) {
                let lost = self.places.get(&(conversation, sequence));
                let lost = lost.map(|(index, _)| *index);
                return self.fail(format!(
                    "{user} misses sequence {sequence} of {conversation:?} (newest known \
                     {newest}), which is message {lost:?}"
                ));
            }
        }
    }

    /// Messages that were acknowledged: for the summary.
    pub(crate) fn acked_count(&self) -> usize {
        self.messages.iter().filter(|message| message.acked.is_some()).count()
    }
}

/// A user's name on the wire.
pub(crate) fn name_of(user: User) -> String {
    format!("user-{user}")
}

/// The user behind a name.
pub(crate) fn user_of(name: &str) -> Option<User> {
    name.strip_prefix("user-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Sequence;

    fn show(oracle: &mut Oracle, viewer: User, message: MessageIndex, sequence: u64) {
        let content = oracle.messages[message].content.clone();
        let shown = Deliver {
            message: MessageId(u128::from(sequence)),
            conversation: ConversationId(9),
            sequence: Sequence(sequence),
            message_kind: 0,
            sender: "user-0",
            content: &content,
        };
        oracle.observe(viewer, &shown);
    }

    fn oracle() -> (Oracle, MessageIndex) {
        let mut oracle = Oracle::new(DEDUP_ENTRIES_AMPLE, false);
        let message = oracle.new_message(0, Target::Direct(1), 5, b"");
        oracle.note_sent(message);
        (oracle, message)
    }

    #[test]
    fn what_both_ends_see_in_one_place_is_well() {
        let (mut oracle, message) = oracle();
        show(&mut oracle, 1, message, 1);
        show(&mut oracle, 0, message, 1);
        assert_eq!(oracle.violation, None);
    }

    #[test]
    fn a_message_in_two_places_is_found() {
        let (mut oracle, message) = oracle();
        show(&mut oracle, 1, message, 1);
        show(&mut oracle, 1, message, 2);
        assert!(oracle.violation.unwrap().contains("stands twice"));
    }

    #[test]
    fn a_stranger_who_sees_a_direct_message_is_found() {
        let (mut oracle, message) = oracle();
        show(&mut oracle, 2, message, 1);
        assert!(oracle.violation.unwrap().contains("sent to 1"));
    }

    #[test]
    fn a_lost_message_is_found_in_the_history() {
        let (mut oracle, message) = oracle();
        show(&mut oracle, 1, message, 1);
        oracle.check_history(1, ConversationId(9), (&BTreeSet::new(), 0));
        assert!(oracle.violation.unwrap().contains("misses sequence 1"));
    }

    #[test]
    fn a_leak_to_who_was_removed_is_found() {
        let mut oracle = Oracle::new(64, false);
        let group = ConversationId(9);
        oracle.note_group(group, 0, &[1, 2]);
        let asked_at = oracle.note_removal_asked(group, 1);
        oracle.note_removed(group, 1, asked_at);
        let message = oracle.new_message(0, Target::Group(group), 5, b"");
        oracle.note_sent(message);
        show(&mut oracle, 2, message, 1);
        assert_eq!(oracle.violation, None);
        show(&mut oracle, 1, message, 1);
        assert!(oracle.violation.unwrap().contains("was removed"));
    }
}
