//! THE PROTOCOL: bytes to frames and back, and the words every crate shares.
//!
//! No I/O, no clock, no state of a conversation: a frame is checked, bounded and borrowed here,
//! and what it means is decided elsewhere. `docs/wire.md` lets a stranger write a client.

#![deny(unsafe_code)]

pub mod body;
pub mod fixed;
pub mod frame;
pub mod handshake;
pub mod id;
pub mod kind;
pub mod limits;
pub mod table;

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused_imports,
    dead_code,
    non_snake_case,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::host_endian_bytes,
    clippy::unwrap_used,
    reason = "written by flatc; `cargo xtask codegen` regenerates it"
)]
#[rustfmt::skip]
pub mod generated;

pub use frame::{Decoded, Frame, FrameError};
pub use id::*;
pub use kind::{CloseReason, ErrorCode, Kind, Plane, Sender};
