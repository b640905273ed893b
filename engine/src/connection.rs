//! One socket, as a shard sees it. What is rare or only there for a while lies behind a pointer,
//! so that an idle connection stays small.

use crate::parcel::Arrival;
use crate::sync::Sync;
use wire::{CloseReason, ConversationId, DeviceKey, Sequence, ShardId, UserKey};

/// Where a connection is in its life. Each state is entered from the one before it.
pub(crate) enum Phase {
    /// No socket.
    Free,
    /// Waits for the hello.
    ExpectHello,
    /// Waits for proof of who speaks.
    ExpectAuth,
    /// Authenticated; goes to its user's home as soon as its last send is out.
    Leaving(Box<Leaving>),
    /// Here from another shard; its papers are not.
    Arriving { from: ShardId, ticket: u32 },
    /// A session.
    Live(Box<Live>),
    /// Sends what is queued, then tells the peer that it is over and waits for it to agree.
    Lingering,
    /// The driver was asked to close it.
    Closing,
}

pub(crate) struct Leaving {
    pub(crate) to: ShardId,
    pub(crate) papers: Arrival,
}

/// An authenticated device's connection, on its user's home shard.
pub(crate) struct Live {
    pub(crate) user: UserKey,
    pub(crate) device: DeviceKey,
    /// What its resume token names.
    pub(crate) session: u64,
    pub(crate) name: Box<str>,
    /// When the token ends, in milliseconds since 1970; the far future where it does not.
    pub(crate) expires_at: u64,
    /// What the device missed, while that is being brought.
    pub(crate) sync: Option<Box<Sync>>,
    /// Messages queued that count as delivered when they are with the kernel; for sessions that
    /// asked for it.
    #[expect(clippy::box_collection, reason = "eight bytes for the many that have none")]
    pub(crate) handed: Option<Box<Vec<(ConversationId, Sequence)>>>,
}

/// One socket.
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    /// Bytes of a frame that is not complete.
    #[expect(clippy::box_collection, reason = "eight bytes while there is none")]
    pub(crate) window: Option<Box<Vec<u8>>>,
    pub(crate) generation: u32,
    /// The wheel's tick when the peer last said anything.
    pub(crate) heard_tick: u32,
    pub(crate) receiving: bool,
    /// The receive that is armed ends with the first bytes.
    pub(crate) receives_once: bool,
    pub(crate) sending: bool,
    /// Stands in the list of those with something to send.
    pub(crate) dirty: bool,
    /// `Live::sync` is there: asked for every message, so kept in the first line.
    pub(crate) syncing: bool,
    /// `Live::handed` is there.
    pub(crate) counts_handed: bool,
    pub(crate) shut: bool,
    pub(crate) reason: Option<CloseReason>,
}

const _: () = assert!(size_of::<Connection>() <= 48, "a connection is the unit of memory");

impl Connection {
    pub(crate) fn free() -> Self {
        Self {
            phase: Phase::Free,
            window: None,
            generation: 0,
            heard_tick: 0,
            receiving: false,
            receives_once: false,
            sending: false,
            dirty: false,
            syncing: false,
            counts_handed: false,
            shut: false,
            reason: None,
        }
    }

    pub(crate) fn live(&self) -> Option<&Live> {
        match &self.phase {
            Phase::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(crate) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.phase {
            Phase::Live(live) => Some(live),
            _ => None,
        }
    }
}
