//! What a shard asks of the world and what it hears back, as plain values.
//!
//! Two drivers understand them: `driver/` on the kernel, and the simulator on a simulated one.

use storage::DiskEvent;
use wire::ShardId;

/// What a shard asks of its sockets. Disk ops are `storage`'s own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Receive bytes: once, or until the connection ends. A driver that runs out of buffers waits
    /// and goes on by itself.
    Receive {
        /// Whose.
        connection: u32,
        /// One `Received`, or as many as come.
        repeat: bool,
    },
    /// Send what the outbox holds for this connection; one `Sent` answers. The bytes stay where
    /// they are until then.
    Send {
        /// Whose.
        connection: u32,
    },
    /// Tell the peer that nothing more comes, and go on receiving.
    Shutdown {
        /// Whose.
        connection: u32,
    },
    /// End the receive and the send, then close; `Closed` says that the slot is free.
    Close {
        /// Whose.
        connection: u32,
    },
    /// Hand the socket to another shard, which hears `Arrived`; `Passed` says that the slot is
    /// free. Nothing is armed or in flight on it.
    Pass {
        /// Whose.
        connection: u32,
        /// The shard to get it.
        to: ShardId,
        /// What it is called on the way.
        ticket: u32,
    },
}

/// What a shard hears from its driver.
#[derive(Debug)]
pub enum Event<'a> {
    /// A peer connected.
    Accepted {
        /// The slot its socket has.
        connection: u32,
    },
    /// A connection came from another shard.
    Arrived {
        /// The slot its socket has here.
        connection: u32,
        /// The shard it came from.
        from: ShardId,
        /// What that shard called it.
        ticket: u32,
    },
    /// Bytes from the peer.
    Received {
        /// Whose.
        connection: u32,
        /// At least one; valid until the handler returns.
        bytes: &'a [u8],
    },
    /// The peer closed, or its socket failed; nothing more is received.
    Ended {
        /// Whose.
        connection: u32,
        /// The errno, where the socket failed.
        error: Option<i32>,
    },
    /// The send is over: so many bytes went out, or the socket failed.
    Sent {
        /// Whose.
        connection: u32,
        /// Bytes taken, or the errno.
        result: Result<u32, i32>,
    },
    /// The slot is free.
    Closed {
        /// Whose.
        connection: u32,
    },
    /// The socket is with another shard; the slot is free.
    Passed {
        /// Whose.
        connection: u32,
        /// Where handing it over failed and the socket was closed: the errno.
        error: Option<i32>,
    },
    /// The disk answered.
    Disk(DiskEvent),
    /// Take no new work and finish the old.
    Drain,
}

/// The time, as the driver read it once for the whole turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Monotonic milliseconds: what deadlines are made of.
    pub now: u64,
    /// Milliseconds since 1970: what stamps shown to people are made of.
    pub wall: u64,
    /// Monotonic microseconds, for measuring.
    pub micros: u64,
}
