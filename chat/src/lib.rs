//! THE PRODUCT: what chat means. Commands go in, decisions and effects come out.
//!
//! A shard plays two roles here. As [`Owner`] it orders the conversations of its partitions:
//! a command is *decided* (nothing changes, it may be refused), the [`Record`] that follows from
//! it goes into the log, and only then does *applying* it change the state. Recovery applies the
//! same records through the same function. As [`Home`] it keeps the users of its partitions:
//! who is online where, in which conversations, and how far each device has come.
//!
//! ```text
//! command -> decide -> record -> (log) -> apply -> state -> audience, history, receipts
//!               \-> refusal                 ^
//!                         recovery ---------/
//! ```
//!
//! It is not: a log, a socket, a ring or a clock. It stores nothing, sends nothing and reads no
//! time; whoever calls it does, and says what time it is.

#![forbid(unsafe_code)]

pub mod command;
pub mod record;

mod bytes;
mod conversation;
mod dedup;
mod group;
mod home;
mod message;
mod owner;
mod receipt;
mod round;
mod settings;
mod slab;
mod snapshot;

pub use command::{Command, Decision, Refusal, Speaker};
pub use conversation::{Audience, Conversation, MemberView, Status, Summary, Visible};
pub use home::{Home, Listener, Opened, SessionSlot};
pub use owner::{Owner, Stamp};
pub use receipt::{ReceiptFlush, Tell};
pub use record::{BadRecord, Record, Users};
pub use settings::{Millis, Settings, WallMillis};
pub use snapshot::{Walk, is_home_entry};
pub use wire::table::{MemberChange, Role};
