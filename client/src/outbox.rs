//! Messages that the server has not acknowledged, oldest first.
//!
//! A message stays here, under one id, through any number of connections until it was
//! acknowledged or refused for good. Bounded in messages and in bytes: a full outbox refuses the
//! next one, which the caller can show, rather than forgetting an earlier one, which it cannot.

use std::collections::VecDeque;
use std::time::Duration;
use wire::{ClientMessageId, ConversationId};

/// Messages that may wait.
pub const OUTBOX_ENTRIES_MAX: usize = 4096;
/// Bytes of content that may wait.
pub const OUTBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A conversation that exists.
    Conversation(ConversationId),
    /// The conversation with this user.
    User(String),
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) client_message: ClientMessageId,
    pub(crate) target: Target,
    pub(crate) message_kind: u8,
    pub(crate) content: Vec<u8>,
    /// When it is to be sent; none while the server has it.
    due: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    /// Invariant: the sum of the contents' lengths, never above `OUTBOX_BYTES_MAX`.
    content_bytes: usize,
}

impl Outbox {
    pub(crate) fn has_room(&self, content_bytes: usize) -> bool {
        self.entries.len() < OUTBOX_ENTRIES_MAX
            && self.content_bytes + content_bytes <= OUTBOX_BYTES_MAX
    }

    /// Takes a message, to be sent at once. The caller has made sure that there is room.
    pub(crate) fn push(
        &mut self,
        client_message: ClientMessageId,
        target: Target,
        message_kind: u8,
        content: Vec<u8>,
    ) {
        assert!(self.has_room(content.len()));
        self.content_bytes += content.len();
        let due = Some(Duration::ZERO);
        self.entries.push_back(Entry { client_message, target, message_kind, content, due });
    }

    /// The oldest message that is due, marked as being with the server.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<&Entry> {
        let is_due = |entry: &&mut Entry| entry.due.is_some_and(|due| due <= now);
        let entry = self.entries.iter_mut().find(is_due)?;
        entry.due = None;
        Some(entry)
    }

    /// When the next message is due, if one waits.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.entries.iter().filter_map(|entry| entry.due).min()
    }

    /// The server refused it for the moment.
    pub(crate) fn retry(&mut self, client_message: ClientMessageId, due: Duration) {
        if let Some(entry) = self.find(client_message) {
            entry.due = Some(due);
        }
    }

    /// The connection ended, so whatever was with the server may never have come there.
    pub(crate) fn retry_all(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.due = Some(Duration::ZERO));
    }

    fn find(&mut self, client_message: ClientMessageId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.client_message == client_message)
    }

    /// It was acknowledged, or refused for good.
    pub(crate) fn remove(&mut self, client_message: ClientMessageId) -> Option<Entry> {
        let is_it = |entry: &Entry| entry.client_message == client_message;
        let index = self.entries.iter().position(is_it)?;
        let entry = self.entries.remove(index)?;
        self.content_bytes -= entry.content.len();
        Some(entry)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
