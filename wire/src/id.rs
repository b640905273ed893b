//! The newtypes every crate agrees on: who, where in the order, where on the disk.
//!
//! Ids of users, devices and conversations are keyed hashes of their names, so that a table keyed
//! by one needs no defence of its own and a partition is a few of its bits. The key is made with
//! the data folder and never leaves it.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// Partitions of a data folder, fixed for its life. Shards own whole partitions.
pub const PARTITIONS_COUNT: u16 = 4096;

/// One slice of all ids; the unit in which ownership moves between shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// One pinned thread and all it owns. Dense from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A message's number in its conversation: dense, from 1. Zero means "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// A byte's place in a log: which log in the upper 16 bits, which byte of it in the lower 48.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// A hybrid logical clock stamp: 48 bits of wall milliseconds, 16 bits of counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

/// A user, as the keyed hash of the user id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(pub u128);

/// A device of a user, as the keyed hash of the device id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey(pub u64);

/// A conversation. The top bit says whether it is a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(pub u128);

/// A stored message; ids sort by server order: the stamp in the upper half, then the
/// conversation's low 32 bits, then the low 32 bits of the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u128);

/// What the sender calls a message before the server has named it: the idempotency key of a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientMessageId(pub u128);

const GROUP_BIT: u128 = 1 << 127;

impl Partition {
    /// The shard that owns this partition when there are `shards_count` of them.
    pub fn shard(self, shards_count: u16) -> ShardId {
        assert!(shards_count > 0 && self.0 < PARTITIONS_COUNT);
        ShardId(self.0 % shards_count)
    }
}

/// The low bits of a keyed hash are as good as any.
#[expect(clippy::cast_possible_truncation, reason = "the mask leaves 12 bits")]
fn partition_of(hash: u128) -> Partition {
    Partition((hash & u128::from(PARTITIONS_COUNT - 1)) as u16)
}

impl UserKey {
    /// Where this user's home is.
    pub fn partition(self) -> Partition {
        partition_of(self.0)
    }
}

impl ConversationId {
    /// Where this conversation's owner is.
    pub fn partition(self) -> Partition {
        partition_of(self.0)
    }

    /// Whether this is a group rather than a conversation of two.
    pub fn is_group(self) -> bool {
        self.0 & GROUP_BIT != 0
    }
}

impl MessageId {
    /// Builds the id of message `sequence` of `conversation`, stamped `hlc`.
    pub fn new(hlc: Hlc, conversation: ConversationId, sequence: Sequence) -> Self {
        let low = ((conversation.0 & 0xffff_ffff) << 32) | u128::from(sequence.0 & 0xffff_ffff);
        Self((u128::from(hlc.0) << 64) | low)
    }

    /// When the server stamped it.
    pub fn hlc(self) -> Hlc {
        Hlc((self.0 >> 64) as u64)
    }
}

impl Hlc {
    /// The wall-clock half, in milliseconds since 1970.
    pub fn wall_millis(self) -> u64 {
        self.0 >> 16
    }

    /// The stamp after `self` at wall time `wall_millis`: never behind either of them, so a clock
    /// that steps back changes no order.
    #[must_use]
    pub fn next(self, wall_millis: u64) -> Self {
        Self((wall_millis << 16).max(self.0 + 1))
    }
}

impl Position {
    /// The place `offset` bytes into log `log`.
    pub fn new(log: u16, offset: u64) -> Self {
        assert!(offset < 1 << 48, "a log holds at most 2^48 bytes");
        Self((u64::from(log) << 48) | offset)
    }

    /// Which log.
    pub fn log(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Which byte of that log.
    pub fn offset(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }
}

impl Sequence {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Makes ids from names. Every shard of a data folder holds the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdKey(pub [u8; 16]);

impl IdKey {
    fn hash(&self, domain: u8, parts: [&[u8]; 2]) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u8(domain);
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    }

    /// The key of the user called `name`.
    pub fn user(&self, name: &str) -> UserKey {
        UserKey(self.hash(1, [name.as_bytes(), b""]))
    }

    /// The key of the device called `name`.
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    pub fn device(&self, name: &str) -> DeviceKey {
        DeviceKey(self.hash(2, [name.as_bytes(), b""]) as u64)
    }

    /// The one conversation between `a` and `b`, in either order.
    pub fn direct(&self, a: UserKey, b: UserKey) -> ConversationId {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let hash = self.hash(3, [&low.0.to_le_bytes(), &high.0.to_le_bytes()]);
        ConversationId(hash & !GROUP_BIT)
    }

    /// The group that `creator` asked for as `request`: asked twice, it is the same group.
    pub fn group(&self, creator: UserKey, request: ClientMessageId) -> ConversationId {
        let hash = self.hash(4, [&creator.0.to_le_bytes(), &request.0.to_le_bytes()]);
        ConversationId(hash | GROUP_BIT)
    }

    /// A name for a retry of `message` by `sender` in `conversation`.
    pub fn retry(
        &self,
        conversation: ConversationId,
        sender: UserKey,
        message: ClientMessageId,
    ) -> u128 {
        let mut who = [0; 32];
        who[..16].copy_from_slice(&conversation.0.to_le_bytes());
        who[16..].copy_from_slice(&sender.0.to_le_bytes());
        self.hash(5, [&who, &message.0.to_le_bytes()])
    }

    /// What proves that `session` of `device` of `user` was given out by this data folder.
    pub fn resume(&self, user: UserKey, device: DeviceKey, session: u64) -> u128 {
        let mut who = [0; 24];
        who[..16].copy_from_slice(&user.0.to_le_bytes());
        who[16..].copy_from_slice(&device.0.to_le_bytes());
        self.hash(6, [&who, &session.to_le_bytes()])
    }
}
