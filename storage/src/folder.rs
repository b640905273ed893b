//! The data folder as the start and the tools see it: synchronous and small.

use crate::error::DiskError;
use crate::file::FileId;

/// What the start needs of a data folder. One implementer is the real one, another is simulated.
/// Folder names are relative to the data folder; the empty name is the data folder itself.
pub trait Folder {
    /// Names and sizes of what is in `folder`; an absent folder is [`DiskError::NotFound`].
    fn list(&mut self, folder: &str) -> Result<Vec<(String, u64)>, DiskError>;
    /// Reads `length` bytes from `offset`, fewer only at the end of the file.
    fn read(&mut self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError>;
    /// Writes all of `bytes` at `offset` of a file that exists.
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Makes what was written to `file` durable.
    fn sync(&mut self, file: FileId) -> Result<(), DiskError>;
    /// Creates or truncates `file`: `bytes` zeros with `header` over the first of them. Syncs the
    /// file, not its folder.
    fn create(&mut self, file: FileId, bytes: u64, header: &[u8]) -> Result<(), DiskError>;
    /// Creates `folder`; one that is there already is no error.
    fn create_dir(&mut self, folder: &str) -> Result<(), DiskError>;
    /// Makes the names within `folder` durable.
    fn sync_dir(&mut self, folder: &str) -> Result<(), DiskError>;
    /// Gives `from` the name of `to`, replacing it, at once or not at all.
    fn rename(&mut self, from: FileId, to: FileId) -> Result<(), DiskError>;
    /// Removes `file`; a file that is not there is no error.
    fn remove(&mut self, file: FileId) -> Result<(), DiskError>;
}
