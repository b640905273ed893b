//! What can go wrong in the world, and what the caller does about it.

use crate::file::FileId;
use wire::Position;

/// Why the disk did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The file system is full: free some room, nothing is lost.
    #[error("no space left")]
    NoSpace,
    /// There is no such file.
    #[error("no such file or folder")]
    NotFound,
    /// Fewer bytes were written or read than asked for.
    #[error("only part of the bytes were transferred")]
    Short,
    /// The system's own error number.
    #[error("disk error (errno {0})")]
    Io(i32),
}

/// Why an append was refused. Each says what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The commit window is full: try again once the durable watermark has moved.
    #[error("the commit window is full")]
    Busy,
    /// The active segment is full and the next is not there: the disk is full, or the file is
    /// still being prepared. Refuse, and try again when room was made.
    #[error("no segment to write to")]
    Full,
    /// The body is above `record_bytes_max`; it never fits.
    #[error("the record is too large")]
    TooLarge,
    /// An earlier write or sync failed, so what the disk holds is unknown. The log takes nothing
    /// more: stop the process and recover from what can be read.
    #[error("an earlier write or sync failed")]
    Poisoned,
}

/// Why a page could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// As many readers run as may: try again when one has ended.
    #[error("too many readers")]
    Busy,
    /// What the disk returned is not the record that was written there.
    #[error("damaged record at {position:?}")]
    Corrupt {
        /// Where the record should have been.
        position: Position,
    },
    /// The read failed.
    #[error("cannot read the record at {position:?}: {error}")]
    Disk {
        /// Which record was wanted.
        position: Position,
        /// What the disk said.
        error: DiskError,
    },
}

/// Why a data folder does not open. Nothing was changed that a later start could not repair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk refused a step of the start.
    #[error("{file} at byte {offset}: {error}")]
    Disk {
        /// In which file.
        file: FileId,
        /// At which byte of it.
        offset: u64,
        /// What the disk said.
        error: DiskError,
    },
    /// The disk refused a step that concerns a whole folder.
    #[error("folder '{folder}': {error}")]
    DiskFolder {
        /// Relative to the data folder; empty for the data folder itself.
        folder: String,
        /// What the disk said.
        error: DiskError,
    },
    /// Bytes that were durable are not what was written. Restore the file from a copy; opening
    /// it regardless would lose acknowledged messages.
    #[error("{file} is damaged at byte {offset} (position {position:?}): {what}. Restore the file")]
    Damage {
        /// In which file.
        file: FileId,
        /// At which byte of it.
        offset: u64,
        /// The same place as a position.
        position: Position,
        /// What is wrong there.
        what: &'static str,
    },
    /// The manifest is not what was written. Restore it from a copy.
    #[error("ringmain.manifest: {what}. Restore it from a copy")]
    Manifest {
        /// What is wrong with it.
        what: &'static str,
    },
    /// There are records but no manifest to read them with. Restore it from a copy.
    #[error("{file} holds records, but ringmain.manifest is missing. Restore it from a copy")]
    ManifestMissing {
        /// A file with records.
        file: FileId,
    },
    /// A segment is missing between others, or at the start with no snapshot to replace it.
    #[error(
        "log {log} lacks the bytes from {offset}: a segment or snapshot is missing. Restore it"
    )]
    Missing {
        /// Of which log.
        log: u16,
        /// From which byte of the log on.
        offset: u64,
    },
    /// The shard count changed more often than there are log ids.
    #[error("this folder has no log ids left; move its data to a new folder")]
    LogIdsSpent,
}
