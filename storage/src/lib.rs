//! THE LOG: append-only segments, group commit, recovery, index, snapshots, history pages.
//!
//! It *decides* every byte that reaches the disk and every byte that is believed from it. It is
//! not what meets the disk: it emits [`DiskOp`]s and hears [`DiskEvent`]s, and at start it asks a
//! [`Folder`]. It knows nothing of messages either: records have a kind, an entity and a body, and
//! only kinds below [`KIND_FIRST`] mean anything here. `docs/disk.md` draws the bytes.
#![forbid(unsafe_code)]

mod commit;
mod error;
mod file;
mod folder;
mod index;

mod inspect;
mod log;
mod manifest;
mod open;
mod reader;
mod record;
mod recover;
mod scan;
mod segment;
mod settings;
mod snapshot;

pub use error::{AppendError, DiskError, OpenError, ReadError};
pub use file::{DiskEvent, DiskOp, FileId, Target};
pub use folder::Folder;
pub use index::{Chain, Index, MARK_EVERY};

pub use inspect::{Damage, DumpFilter, LogReport, LogStat, dump, stat, verify};
pub use log::{Log, NewRecord, RetentionPolicy};
pub use manifest::{Epoch, Manifest};
pub use open::{Opened, ShardStart, open, read_manifest};

pub use reader::{OwnedRecord, Page, PageQuery, ReaderId, Readers, Walk};
pub use record::{KIND_FIRST, RECORD_HEADER_BYTES, Record};
pub use recover::{Cut, Recovered, Recovery, recover};
pub use settings::{Durability, Settings};
pub use snapshot::{SNAPSHOT_ENTRY_BYTES_MAX, SnapshotWriter};

/// The unit in which the log reaches the disk. A durable block is never written again.
pub const BLOCK_BYTES: u64 = BLOCK_LENGTH as u64;

/// The same, where a slice's length is wanted.
const BLOCK_LENGTH: usize = 4096;

/// The least multiple of `unit` that is not below `value`.
const fn align_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}
