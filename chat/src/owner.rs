//! The conversations that a shard orders: deciding commands, applying records, answering readers.

use crate::command::{Command, Decision, Refusal, Speaker};
use crate::conversation::{Audience, Conversation, MemberView, Status, Summary, Visible};
use crate::dedup::Dedup;
use crate::receipt::{Reach, Receipts};
use crate::record::Record;
use crate::settings::{Settings, WallMillis};
use crate::slab::Slab;
use wire::{ConversationId, ErrorCode, Hlc, MessageId, Sequence, UserKey};

/// What the log's header says of a record: when it was placed and, of a message, its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// From [`Owner::next_hlc`]; in recovery from the header.
    pub hlc: Hlc,
    /// [`Record::sequence`], zero for all but messages.
    pub sequence: Sequence,
}

/// See the module. One writer: the shard.
pub struct Owner {
    pub(crate) settings: Settings,
    pub(crate) conversations: Slab<Conversation>,
    pub(crate) dedup: Dedup,
    pub(crate) receipts: Receipts,
    pub(crate) retry: crate::message::Retry,
    pub(crate) clock: Hlc,
    pub(crate) orphans_count: u64,
}

impl Owner {
    /// No conversations, and room for those that `settings` allow.
    pub fn new(settings: Settings) -> Self {
        settings.check();
        Self {
            settings,
            conversations: Slab::new(),
            dedup: Dedup::new(settings.dedup_entries_max, settings.dedup_window_ms),
            receipts: Receipts::default(),
            retry: crate::message::Retry::default(),
            clock: Hlc(0),
            orphans_count: 0,
        }
    }

    /// What follows from `command`. Apart from receipts, which only move in memory, nothing changes
    /// before [`Owner::apply`] is given the record that comes out.
    pub fn decide<'a>(
        &mut self,
        wall: WallMillis,
        speaker: Speaker<'a>,
        command: Command<'a>,
    ) -> Result<Decision<'a>, Refusal> {
        match command {
            Command::Send { conversation, recipient, client_message, message_kind, content } => {
                let draft = crate::message::Draft { client_message, message_kind, content };
                self.decide_send(wall, speaker, (conversation, recipient), draft)
            }
            Command::CreateGroup { conversation, name, members } => {
                self.decide_create(speaker, conversation, name, members)
            }
            Command::ChangeMembers { conversation, change, users } => {
                self.decide_change(speaker, conversation, change, users)
            }
            Command::Rename { conversation, name } => {
                self.decide_rename(speaker, conversation, name)
            }
            Command::MarkDelivered { conversation, up_to } => {
                self.mark(speaker.user, conversation, Reach::Delivered(up_to))
            }
            Command::MarkRead { conversation, up_to } => {
                self.mark(speaker.user, conversation, Reach::Read(up_to))
            }
        }
    }

    /// Takes a record that is in the log into the state. Live and in recovery this is the one way
    /// in; a record that the state already includes changes nothing.
    pub fn apply(&mut self, record: &Record<'_>, stamp: Stamp) {
        assert_eq!(record.sequence(), stamp.sequence.0, "the log stamps what the record says");
        self.clock = self.clock.max(stamp.hlc);
        match record {
            Record::Message(message) => self.apply_message(message, stamp.hlc),
            Record::GroupCreated(created) => self.apply_created(created),
            Record::MembersChanged(changed) => self.apply_changed(changed),
            Record::Renamed(renamed) => self.apply_renamed(renamed),
            Record::Cursors(cursors) => self.apply_cursors(cursors),
            Record::DeviceCursor(_) => unreachable!("a home's record goes to the home"),
        }
    }

    /// A stamp for the next record: after all given so far, and all that recovery saw.
    pub fn next_hlc(&mut self, wall: WallMillis) -> Hlc {
        self.clock = self.clock.next(wall.0);
        self.clock
    }

    /// Messages of `conversation` up to `sequence` are durable: readers may see them.
    pub fn release(&mut self, conversation: ConversationId, sequence: Sequence) {
        let Some(conversation) = self.conversations.find_mut(conversation.0) else { return };
        assert!(sequence <= conversation.last, "what is durable was appended");
        conversation.durable = conversation.durable.max(sequence);
    }

    /// Recovery is over: all that was restored and replayed is durable, and receipts of
    /// newest messages are counted anew.
    pub fn release_all(&mut self) {
        for slot in 0..self.conversations.slots_end() {
            let Some(conversation) = self.conversations.at_mut(slot) else { continue };
            conversation.durable = conversation.last;
            conversation.recount();
        }
    }

    /// The newest message of `conversation` that readers may see.
    pub fn durable_sequence(&self, conversation: ConversationId) -> Option<Sequence> {
        Some(self.conversations.find(conversation.0)?.durable)
    }

    /// Whom to tell what happens in `conversation`.
    pub fn audience(&self, conversation: ConversationId) -> Option<Audience<'_>> {
        Some(self.conversations.find(conversation.0)?.audience())
    }

    /// The conversation called `id`, ended or not.
    pub fn conversation(&self, id: ConversationId) -> Option<&Conversation> {
        self.conversations.find(id.0)
    }

    /// How many conversations there are.
    pub fn conversations_count(&self) -> usize {
        self.conversations.count()
    }

    /// What `user` may read of `conversation` at this moment; asked anew for each page.
    pub fn visible(&self, conversation: ConversationId, user: UserKey) -> Result<Visible, Refusal> {
        let conversation = self.expect_conversation(conversation)?;
        let member = conversation.expect_member(user)?;
        let (after, delivered) = (member.after, member.delivered);
        Ok(Visible { after, through: conversation.durable.max(after), delivered })
    }

    /// `conversation` as it stands in the list of `user`.
    pub fn describe(
        &self,
        conversation: ConversationId,
        user: UserKey,
    ) -> Result<Summary<'_>, Refusal> {
        let conversation = self.expect_conversation(conversation)?;
        let member = conversation.expect_member(user)?;
        let (delivered, read) = self.receipts.reached(member);
        let mut summary = conversation.summary(member);
        summary.unread = summary.unread.min(summary.last_sequence.0.saturating_sub(read.0));
        Ok(Summary { delivered, read, ..summary })
    }

    /// Members of `conversation` from the `from`th on, at most `limit`, in an order that stays.
    pub fn members(
        &self,
        conversation: ConversationId,
        from: usize,
        limit: usize,
    ) -> impl ExactSizeIterator<Item = MemberView<'_>> {
        let found = self.conversations.find(conversation.0);
        let members = found.map_or(&[][..], |conversation| &conversation.members);
        let start = from.min(members.len());
        let end = start.saturating_add(limit).min(members.len());
        members[start..end].iter().map(|member| member.view())
    }

    /// How far message `sequence` of `sender` has come, for `user` to know. Walks all members.
    pub fn status(
        &self,
        conversation: ConversationId,
        user: UserKey,
        (sequence, sender): (Sequence, UserKey),
    ) -> Result<Status, Refusal> {
        let conversation = self.expect_conversation(conversation)?;
        let member = conversation.expect_member(user)?;
        if sequence <= member.after || sequence > conversation.durable {
            return Err(Refusal::new(ErrorCode::NotFound, "there is no such message"));
        }
        let counts = conversation.count(sequence, sender);
        Ok(conversation.status(sequence, counts))
    }

    /// How far back retries are recognised: 24 hours, unless messages came faster than the memory
    /// for them allows.
    pub fn window_held_ms(&self, wall: WallMillis) -> u64 {
        self.dedup.window_held_ms(wall)
    }

    /// Messages that are remembered to recognise their retries.
    pub fn dedup_entries_count(&self) -> usize {
        self.dedup.count()
    }

    /// Records replayed for a conversation that nothing made: above zero, history is lost.
    pub fn orphans_count(&self) -> u64 {
        self.orphans_count
    }

    pub(crate) fn expect_conversation(
        &self,
        conversation: ConversationId,
    ) -> Result<&Conversation, Refusal> {
        self.conversations.find(conversation.0).ok_or(Refusal::NOT_FOUND)
    }

    /// Refuses another conversation when the shard is full of them.
    pub(crate) fn check_room(&self) -> Result<(), Refusal> {
        if self.conversations.count() < self.settings.conversations_max as usize {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::Busy, "this server has no room for another conversation"))
    }
}

impl Conversation {
    pub(crate) fn status(&self, sequence: Sequence, counts: crate::conversation::Counts) -> Status {
        let newest = self.newest().filter(|_| sequence == self.last);
        let crate::conversation::Counts { total, delivered, read } = counts;
        Status { message: newest.unwrap_or(MessageId(0)), sequence, total, delivered, read }
    }
}
