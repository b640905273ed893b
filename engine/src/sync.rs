//! Bringing a device what it missed, one conversation after another, before new messages of each.
//!
//! While a conversation is still to be brought, its new messages are not queued for the session:
//! the replay covers them. When the owner answers "through n" and the session was passed over for
//! a message above n meanwhile, the rest is asked for again. Rings keep their order, so the
//! answers and the live messages meet without a hole and without a copy kept anywhere.

use crate::net::Net;
use crate::parcel::{Origin, Replay, Replayed, Request};
use crate::shard::Shard;
use fanout::Full;
use wire::fixed::SyncDone;
use wire::{ConversationId, ErrorCode, Kind, Sequence};

/// Of a session's queue, the next page waits until less than this share of it is used.
const SYNC_QUEUE_SHARE: u32 = 4;
/// How long a question waits that the owner had no reader for.
pub(crate) const REPLAY_RETRY_MS: u64 = 20;

/// What one session still misses.
pub(crate) struct Sync {
    /// In order of id, so that a live message finds its own quickly.
    list: Vec<(ConversationId, Option<Sequence>)>,
    /// The one being brought; those before it are done.
    next: usize,
    /// The highest message of that one that the session was passed over for.
    passed_over: Sequence,
    /// A question is with the owner.
    asked: bool,
    /// The owner had no reader free: not before this time, in monotonic milliseconds.
    retry_at: u64,
    /// Of the sync frame; zero for what the server brings unasked.
    reference: u64,
}

impl Sync {
    pub(crate) fn new(mut list: Vec<(ConversationId, Option<Sequence>)>, reference: u64) -> Self {
        list.sort_unstable_by_key(|(conversation, _)| *conversation);
        list.dedup_by_key(|(conversation, _)| *conversation);
        Self { list, next: 0, passed_over: Sequence(0), asked: false, retry_at: 0, reference }
    }

    /// Whether the replay will cover this message, so that it must not be queued.
    pub(crate) fn will_bring(&mut self, conversation: ConversationId, sequence: Sequence) -> bool {
        let found = self.list.binary_search_by_key(&conversation, |(id, _)| *id);
        let Ok(index) = found else { return false };
        if index == self.next {
            self.passed_over = self.passed_over.max(sequence);
        }
        index >= self.next
    }

    fn current(&self) -> Option<(ConversationId, Option<Sequence>)> {
        self.list.get(self.next).copied()
    }

    /// Takes an answer. True if the conversation is done.
    fn on_replayed(&mut self, replayed: &Replayed) -> bool {
        self.asked = false;
        if replayed.has_more || self.passed_over > replayed.through {
            self.list[self.next].1 = Some(replayed.through);
            return false;
        }
        self.next += 1;
        self.passed_over = Sequence(0);
        true
    }
}

impl Shard {
    /// Begins to bring `list` to a session; one at a time.
    pub(crate) fn begin_sync(
        &mut self,
        connection: u32,
        list: Vec<(ConversationId, Option<Sequence>)>,
        reference: u64,
    ) {
        let entry = &mut self.net.connections[connection as usize];
        if entry.syncing {
            let error = (ErrorCode::Conflict, 0);
            self.net.error(connection, reference, error, "a sync is under way: wait for its end");
            return;
        }
        entry.syncing = true;
        let live = entry.live_mut().expect("asked by a session");
        live.sync = Some(Box::new(Sync::new(list, reference)));
        self.advance_sync(connection);
    }

    /// Asks for the next conversation, or says that all is brought. A full lane is tried again.
    pub(crate) fn advance_sync(&mut self, connection: u32) {
        let origin = self.origin(connection, 0);
        let now = self.clock.now;
        let Some(live) = self.net.connections[connection as usize].live_mut() else { return };
        let user = live.user;
        let Some(sync) = live.sync.as_mut() else { return };
        if sync.asked {
            return;
        }
        if now < sync.retry_at {
            self.sync_retries.push(connection);
            return;
        }
        // One page goes out before the next is asked for: what a device missed may be far more
        // than its queue holds, and must not cut it off as a slow reader.
        if !self.net.outbox.is_below(connection, SYNC_QUEUE_SHARE) {
            self.sync_retries.push(connection);
            return;
        }
        let Some((conversation, after)) = sync.current() else {
            let count = u32::try_from(sync.list.len()).expect("bounded by the user's list");
            let done = SyncDone { conversations_count: count };
            let reference = sync.reference;
            live.sync = None;
            self.net.connections[connection as usize].syncing = false;
            self.net.send(connection, Kind::SyncDone, reference, [&done.head().0, b"", b""]);
            return;
        };
        sync.asked = true;
        let replay = Replay { origin, user, conversation, after };
        let owner = conversation.partition().shard(self.me.shards_count);
        if owner == self.me.shard {
            self.begin_replay(replay);
        } else if let Err(Full(_)) = self.port.send_request(owner, Request::Replay(replay)) {
            self.unask(connection);
        }
    }

    /// The question did not go out, or was not answered: ask again in the next turn.
    fn unask(&mut self, connection: u32) {
        let live = self.net.connections[connection as usize].live_mut().expect("it is syncing");
        live.sync.as_mut().expect("it is syncing").asked = false;
        self.sync_retries.push(connection);
    }

    /// A part of what the device missed came.
    pub(crate) fn on_replayed(&mut self, replayed: &Replayed) {
        let Some(connection) = self.net.find(&replayed.origin) else { return };
        let live = self.net.connections[connection as usize].live_mut().expect("found");
        let Some(sync) = live.sync.as_mut() else { return };
        if sync.current().map(|(conversation, _)| conversation) != Some(replayed.conversation) {
            return;
        }
        if replayed.has_more && replayed.frames.is_none() {
            sync.retry_at = self.clock.now + REPLAY_RETRY_MS;
        }
        sync.on_replayed(replayed);
        if let Some(frames) = &replayed.frames {
            self.net.send_span(connection, frames);
        }
        // Bounded: one question a turn and session, so that a long list does not hold up others.
        self.sync_retries.push(connection);
    }

    /// Once a turn: sessions that have a next question.
    pub(crate) fn advance_syncs(&mut self) -> bool {
        let mut connections = std::mem::take(&mut self.sync_retries);
        for connection in connections.drain(..) {
            self.advance_sync(connection);
        }
        // Those that wait for their peer to read are woken by what it reads, and those that wait
        // for a reader by the clock.
        let is_busy = self.sync_retries.iter().any(|waiting| {
            let live = self.net.connections[*waiting as usize].live();
            let sync = live.and_then(|live| live.sync.as_ref());
            let is_due = sync.is_none_or(|sync| sync.retry_at <= self.clock.now);
            is_due && self.net.outbox.is_below(*waiting, SYNC_QUEUE_SHARE)
        });
        if self.sync_retries.is_empty() {
            self.sync_retries = connections;
        }
        is_busy
    }

    pub(crate) fn origin(&self, connection: u32, reference: u64) -> Origin {
        origin(&self.net, connection, reference)
    }
}

pub(crate) fn origin(net: &Net, connection: u32, reference: u64) -> Origin {
    let generation = net.connections[connection as usize].generation;
    Origin { shard: net.shard, connection, generation, reference }
}
