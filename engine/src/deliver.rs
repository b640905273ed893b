//! Parcels that reach a user's home: which of its sessions want them.

use crate::parcel::{Joined, Left, Origin, Parcel, Published};
use crate::shard::Shard;
use chat::Speaker;
use wire::fixed::{Sent, SentStatus};
use wire::{Kind, MessageId, ShardId};

impl Shard {
    /// Takes a parcel. Sends nothing to other shards, which is what keeps full rings from locking.
    pub(crate) fn on_parcel(&mut self, from: ShardId, parcel: Parcel) {
        match parcel {
            Parcel::Published(published) => self.on_published(&published),
            Parcel::Reply { origin, span } => {
                if let Some(connection) = self.net.find(&origin) {
                    self.net.send_span(connection, &span);
                }
            }
            Parcel::Told { user, span } => {
                let range = self.net.outbox.hold(&span);
                for session in self.home.sessions(user) {
                    self.net.queue(session.0, range);
                }
                self.net.outbox.release(range);
            }
            Parcel::Announced { group, except, span } => {
                let skip = self.connection_of(&except);
                let range = self.net.outbox.hold(&span);
                for listener in self.home.listeners(group) {
                    if skip != Some(listener.session.0) {
                        self.net.queue(listener.session.0, range);
                    }
                }
                self.net.outbox.release(range);
            }
            Parcel::Joined(joined) => self.on_joined(&joined),
            Parcel::Left(left) => self.on_left(&left),
            Parcel::Replayed(replayed) => self.on_replayed(&replayed),
            Parcel::Described(described) => self.on_described(*described),
            Parcel::Arrival(papers) => self.on_papers(from, papers),
        }
    }

    fn connection_of(&self, origin: &Origin) -> Option<u32> {
        if origin.shard == self.me.shard { self.net.find(origin) } else { None }
    }

    /// Queues a durable message for every session here that is to see it, and acknowledges it to
    /// the one that sent it.
    fn on_published(&mut self, published: &Published) {
        let sender = self.connection_of(&published.origin);
        let message = (published.conversation, published.sequence);
        let range = self.net.outbox.hold(&published.span);
        match published.recipient {
            None => {
                for listener in self.home.listeners(published.conversation) {
                    if sender != Some(listener.session.0) {
                        self.net.deliver(listener.session.0, range, message);
                    }
                }
            }
            Some(recipient) => {
                let senders = (recipient != published.sender).then_some(published.sender);
                for user in [Some(recipient), senders].into_iter().flatten() {
                    for session in self.home.sessions(user) {
                        if sender != Some(session.0) {
                            self.net.deliver(session.0, range, message);
                        }
                    }
                }
            }
        }
        self.net.outbox.release(range);
        if let Some(connection) = sender {
            self.acknowledge(connection, published);
        }
    }

    fn acknowledge(&mut self, connection: u32, published: &Published) {
        let Published { conversation, sequence, hlc, client_message, origin, .. } = *published;
        let sent = Sent {
            message: MessageId::new(hlc, conversation, sequence),
            conversation,
            client_message,
            sequence,
            status: SentStatus::Sent,
            durability: self.durability(),
        };
        let head = sent.head();
        self.net.send(connection, Kind::MessageSent, origin.reference, [&head.0, b"", b""]);
    }

    pub(crate) fn on_joined(&mut self, joined: &Joined) {
        for (user, name) in &joined.users {
            // A user whose list is full does not see the conversation there; it is told nothing
            // that it could do about it, so the owner's member list stays as it is.
            let _ = self.home.joined(Speaker { user: *user, name }, joined.conversation);
        }
    }

    fn on_left(&mut self, left: &Left) {
        let skip = self.connection_of(&left.except);
        let range = self.net.outbox.hold(&left.frame);
        for user in &left.users {
            for session in self.home.sessions(*user) {
                if skip != Some(session.0) {
                    self.net.queue(session.0, range);
                }
            }
        }
        self.net.outbox.release(range);
        for user in &left.users {
            self.home.left(*user, left.conversation);
        }
    }
}
