//! The files of a data folder, and what the log asks of the disk and hears back.

use crate::error::DiskError;
use std::fmt;

/// Names a file of the data folder as a plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// Which logs there are.
    Manifest {
        /// Whether it is still being written.
        temporary: bool,
    },
    /// A part of a log.
    Segment {
        /// Of which log.
        log: u16,
        /// The offset in the log of the file's first byte.
        base: u64,
    },
    /// The state as of a place in a log.
    Snapshot {
        /// Of which log.
        log: u16,
        /// From where on records are to be replayed on top of it.
        offset: u64,
        /// Whether it is still being written.
        temporary: bool,
    },
}

impl FileId {
    /// The folder it is in, relative to the data folder; empty for the data folder itself.
    pub fn folder(self) -> String {
        match self {
            Self::Manifest { .. } => String::new(),
            Self::Segment { log, .. } | Self::Snapshot { log, .. } => log_folder(log),
        }
    }

    /// Its name within [`FileId::folder`].
    pub fn name(self) -> String {
        match self {
            Self::Manifest { temporary: false } => "ringmain.manifest".to_owned(),
            Self::Manifest { temporary: true } => "ringmain.manifest.tmp".to_owned(),
            Self::Segment { base, .. } => format!("{base:016x}.seg"),
            Self::Snapshot { offset, temporary: false, .. } => format!("{offset:016x}.snap"),
            Self::Snapshot { offset, temporary: true, .. } => format!("{offset:016x}.snap.tmp"),
        }
    }

    /// Its path relative to the data folder.
    pub fn path(self) -> String {
        match self {
            Self::Manifest { .. } => self.name(),
            Self::Segment { .. } | Self::Snapshot { .. } => {
                format!("{}/{}", self.folder(), self.name())
            }
        }
    }

    /// The file called `name` in the folder of log `log`, if it is one of ours.
    pub fn in_log(log: u16, name: &str) -> Option<Self> {
        let (digits, suffix) = name.split_once('.')?;
        if digits.len() != 16 || digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let offset = u64::from_str_radix(digits, 16).ok()?;
        match suffix {
            "seg" => Some(Self::Segment { log, base: offset }),
            "snap" => Some(Self::Snapshot { log, offset, temporary: false }),
            "snap.tmp" => Some(Self::Snapshot { log, offset, temporary: true }),
            _ => None,
        }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.path())
    }
}

/// The folder of log `log`, relative to the data folder.
pub(crate) fn log_folder(log: u16) -> String {
    format!("log-{log:05}")
}

/// What the driver is asked to do. It answers each with one [`DiskEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Write all of `bytes` and hand them back. The file exists.
    Write {
        /// Where to.
        file: FileId,
        /// At which byte of the file.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Make what was written durable (`fdatasync`).
    Sync {
        /// Which file.
        file: FileId,
    },
    /// Read `length` bytes; fewer only at the end of the file.
    Read {
        /// Where from.
        file: FileId,
        /// From which byte of the file.
        offset: u64,
        /// How many.
        length: u32,
        /// Comes back with the bytes.
        token: u64,
    },
    /// Create or truncate, fill with `bytes` zeros, write `header` over the first of them, sync
    /// file and folder.
    Prepare {
        /// Which file.
        file: FileId,
        /// The size of the file.
        bytes: u64,
        /// Its first block.
        header: Vec<u8>,
    },
    /// Create or truncate to nothing.
    Create {
        /// Which file.
        file: FileId,
    },
    /// Rename and sync the folder.
    Publish {
        /// The finished file.
        from: FileId,
        /// What it is called from then on.
        to: FileId,
    },
    /// Close it, unlink it and sync the folder; a file that is not there is removed already.
    Remove {
        /// Which file.
        file: FileId,
    },
}

/// What became of a [`DiskOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// Of a write: how many bytes were written.
    Written {
        /// Where to.
        file: FileId,
        /// The bytes of the op, for another use.
        bytes: Vec<u8>,
        /// How many of them were written.
        result: Result<usize, DiskError>,
    },
    /// Of a sync.
    Synced {
        /// Which file.
        file: FileId,
        /// Whether it is durable.
        result: Result<(), DiskError>,
    },
    /// Of a read.
    Read {
        /// That of the op.
        token: u64,
        /// What was read.
        bytes: Vec<u8>,
        /// Whether it was.
        result: Result<(), DiskError>,
    },
    /// Of a prepare.
    Prepared {
        /// Which file.
        file: FileId,
        /// Whether it is there.
        result: Result<(), DiskError>,
    },
    /// Of a create.
    Created {
        /// Which file.
        file: FileId,
        /// Whether it is there.
        result: Result<(), DiskError>,
    },
    /// Of a publish.
    Published {
        /// The new name.
        to: FileId,
        /// Whether it is there for good.
        result: Result<(), DiskError>,
    },
    /// Of a remove.
    Removed {
        /// Which file.
        file: FileId,
        /// Whether it is gone for good.
        result: Result<(), DiskError>,
    },
}

/// Who hears a [`DiskEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// [`crate::Log::handle`].
    Log,
    /// [`crate::SnapshotWriter::handle`].
    Snapshot,
    /// [`crate::Readers::handle`].
    Readers,
}

impl DiskEvent {
    /// Who hears it.
    pub fn target(&self) -> Target {
        let file = match self {
            Self::Read { .. } => return Target::Readers,
            Self::Written { file, .. }
            | Self::Synced { file, .. }
            | Self::Prepared { file, .. }
            | Self::Created { file, .. }
            | Self::Removed { file, .. } => file,
            Self::Published { to, .. } => to,
        };
        match file {
            FileId::Snapshot { .. } => Target::Snapshot,
            FileId::Segment { .. } | FileId::Manifest { .. } => Target::Log,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_leads_back_to_the_file() {
        for file in [
            FileId::Segment { log: 7, base: 0xabc000 },
            FileId::Snapshot { log: 7, offset: 64, temporary: true },
            FileId::Snapshot { log: 7, offset: u64::MAX, temporary: false },
        ] {
            assert_eq!(FileId::in_log(7, &file.name()), Some(file));
        }
        assert_eq!(FileId::in_log(7, "lost+found"), None);
        assert_eq!(FileId::in_log(7, "12.seg"), None);
        let segment = FileId::Segment { log: 7, base: 4096 };
        assert_eq!(segment.path(), "log-00007/0000000000001000.seg");
    }
}
