//! Messages: who may say something, what a retry becomes, which place the next one takes.

use crate::command::{Decision, Refusal, Speaker};
use crate::conversation::{Conversation, Counts, Member};
use crate::dedup::Entry;
use crate::owner::Owner;
use crate::record::{Message, Record};
use crate::settings::WallMillis;
use wire::limits::CONTENT_BYTES_MAX;
use wire::{ClientMessageId, ConversationId, ErrorCode, Hlc, IdKey, MessageId, Sequence, UserKey};

/// A message that has no place yet.
pub(crate) struct Draft<'a> {
    pub(crate) client_message: ClientMessageId,
    pub(crate) message_kind: u8,
    pub(crate) content: &'a [u8],
}

/// The key that was made last. Deciding and applying a message need the same one, one after the
/// other, and hashing is the dearest thing that either does.
#[derive(Default)]
pub(crate) struct Retry {
    of: (ConversationId, UserKey, ClientMessageId),
    key: u128,
}

impl Retry {
    fn key(&mut self, ids: &IdKey, of: (ConversationId, UserKey, ClientMessageId)) -> u128 {
        if self.of != of || self.key == 0 {
            *self = Self { of, key: ids.retry(of.0, of.1, of.2) };
        }
        self.key
    }
}

impl Owner {
    pub(crate) fn decide_send<'a>(
        &mut self,
        wall: WallMillis,
        sender: Speaker<'a>,
        (id, recipient): (ConversationId, Option<Speaker<'a>>),
        draft: Draft<'a>,
    ) -> Result<Decision<'a>, Refusal> {
        let Draft { client_message, message_kind, content } = draft;
        if content.len() > CONTENT_BYTES_MAX {
            return Err(Refusal::new(ErrorCode::TooLarge, "the content is over 64 KiB"));
        }
        let (sequence, recipient) = match (self.conversations.find(id.0), recipient) {
            (Some(conversation), _) => {
                conversation.expect_member(sender.user)?;
                let next = conversation.last.next();
                let of = (id, sender.user, client_message);
                if let Some(duplicate) = self.find_duplicate(wall, of) {
                    return Ok(duplicate);
                }
                (next, None)
            }
            (None, None) => return Err(Refusal::NOT_FOUND),
            (None, Some(recipient)) => {
                let direct = self.settings.ids.direct(sender.user, recipient.user);
                assert_eq!(id, direct, "the id of a direct conversation follows from its users");
                self.check_room()?;
                (Sequence(1), Some(recipient))
            }
        };
        Ok(Decision::Append(Record::Message(Message {
            conversation: id,
            sequence,
            sender,
            recipient,
            client_message,
            message_kind,
            content,
        })))
    }

    fn find_duplicate<'a>(
        &mut self,
        wall: WallMillis,
        of: (ConversationId, UserKey, ClientMessageId),
    ) -> Option<Decision<'a>> {
        if of.2 == ClientMessageId(0) {
            return None;
        }
        let key = self.retry.key(&self.settings.ids, of);
        let first = self.dedup.find(key, wall)?;
        let sequence = first.sequence();
        let message = MessageId::new(first.hlc, of.0, sequence);
        Some(Decision::Duplicate { message, sequence })
    }

    pub(crate) fn apply_message(&mut self, message: &Message<'_>, hlc: Hlc) {
        if message.client_message != ClientMessageId(0) {
            let of = (message.conversation, message.sender.user, message.client_message);
            let key = self.retry.key(&self.settings.ids, of);
            let partition = message.conversation.partition();
            self.dedup.insert(Entry::new(key, hlc, partition, message.sequence));
        }
        let slot = match (self.conversations.slot_of(message.conversation.0), message.recipient) {
            (Some(slot), _) => slot,
            (None, Some(recipient)) => self.open_direct(message, recipient),
            (None, None) => {
                self.orphans_count += 1;
                return;
            }
        };
        let conversation = self.conversations.at_mut(slot).expect("it was just found or made");
        conversation.on_message(message, hlc);
    }

    fn open_direct(&mut self, message: &Message<'_>, recipient: Speaker<'_>) -> u32 {
        let mut conversation = Conversation::empty(message.conversation, None);
        let mut members = vec![Member::new(message.sender, Sequence(0), 0)];
        if recipient.user != message.sender.user {
            members.reserve_exact(1);
            members.push(Member::new(recipient, Sequence(0), 1));
            members.sort_by_key(|member| member.user);
        }
        conversation.members = members;
        self.conversations.insert(conversation)
    }
}

impl Conversation {
    fn on_message(&mut self, message: &Message<'_>, hlc: Hlc) {
        if message.sequence <= self.last {
            return;
        }
        self.last = message.sequence;
        self.newest = hlc;
        let sequence = message.sequence;
        if let Some(member) = self.member_mut(message.sender.user) {
            member.spoke = member.spoke.max(sequence);
        }
        let members_count = u32::try_from(self.members.len()).expect("bounded by the settings");
        if let Some(group) = &mut self.group {
            group.newest_sender = message.sender.user;
            let total = members_count.saturating_sub(1);
            group.counts = Counts { total, ..Counts::default() };
            group.has_news = false;
        }
    }
}
