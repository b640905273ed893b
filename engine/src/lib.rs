//! THE ENGINE: shards, sessions, and the driver that meets the world for them.
//!
//! A byte becomes a frame, a frame a command, a command a record and an effect; in the order of
//! that journey read `driver`, `session`, `command`, `pending`, `deliver`. Everything but
//! `driver/` (and the command line in `cli/`) is sans-IO: a shard hears events and asks for ops,
//! and the simulator runs the same shard. What chat means is not decided here but in `chat`.

pub mod driver;
pub mod op;
pub mod shard;

mod connection;
mod net;
mod outbox;
mod wheel;

pub mod auth;
mod session;

mod command;
pub mod parcel;
mod pending;

mod deliver;
mod page;
mod roster;
mod sync;

pub mod recovery;
mod snapshots;

pub mod cli;
pub mod config;
pub mod metrics;
pub mod plan;
