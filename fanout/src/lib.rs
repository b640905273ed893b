//! THE MESH: how shards reach each other without a lock.
//!
//! Every shard holds one [`Port`]. Between each pair of ports run two lanes a direction, each a
//! bounded ring with one producer and one consumer:
//!
//! ```text
//!          home shard                              owner shard
//!   ┌───────────────────┐   requests (commands)  ┌───────────────────┐
//!   │  send_request ────┼──▶ ▢▢▢▢▢▢▢▢ ──────────▶┼──── next_request  │  while parcels have room
//!   │                   │                        │                   │
//!   │  next_parcel  ◀───┼─────────── ▢▢▢▢▢▢▢▢ ◀──┼──── send_parcel   │  always drained
//!   │                   │   parcels (deliveries, │                   │
//!   │  doorbell: asleep?│    replies)            │                   │
//!   └───────────────────┘                        └───────────────────┘
//!             span ─────▶ ┌─ block (64 KiB, append only, counted) ─┐
//!                         │ frame │ frame │ frame │ free           │
//!                         └────────────────────────────────────────┘
//! ```
//!
//! * [`mesh()`] builds all ports; a turn sends and takes as much as it likes and ends with one
//!   [`Port::publish`], which makes everything visible and names the sleepers to wake.
//! * [`ring()`] and [`Doorbell`] are the two parts of a lane, usable alone.
//! * [`BlockPool`] holds encoded frames, so that several shards send the same bytes without
//!   copying them.
//!
//! What it is not: it opens no eventfd and starts no thread (the driver rings the bell), it does
//! not know what a parcel means, it does not decide who wants what, and it is no general channel:
//! there is no blocking call, and a full lane is an answer, not a wait.
//!
//! `unsafe` stands in two files, `ring.rs` and `block.rs`. The orderings of rings and doorbells
//! are model-checked: `RUSTFLAGS="--cfg loom" cargo test -p fanout --release loom_`.

mod atomic;
mod block;
mod doorbell;
mod mesh;
mod ring;

pub use block::{BlockLimits, BlockPool, BlockRef, PoolFull, Span};
pub use doorbell::{Doorbell, Published};
pub use mesh::{LaneCapacities, LaneDepths, Port, mesh};
pub use ring::{Consumer, Full, Producer, ring};
