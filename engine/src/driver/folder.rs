//! The data folder on a real file system: what `storage` needs at the start, and what the tools
//! need to look into a log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use storage::{DiskError, FileId, Folder};

const ZEROS_BYTES: usize = 1 << 20;
const SUSPECT: &str = "ringmain.suspect";

/// A data folder by its path.
#[derive(Clone, Debug)]
pub struct DiskFolder {
    root: PathBuf,
}

/// A data folder held against a second server, until dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// What an errno means to the log.
pub(super) fn errno(error: i32) -> DiskError {
    match error {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        libc::ENOENT => DiskError::NotFound,
        other => DiskError::Io(other),
    }
}

fn disk_error(error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => DiskError::Short,
        _ => error.raw_os_error().map_or(DiskError::Io(0), errno),
    }
}

impl DiskFolder {
    /// The folder at `root`, which `lock` makes if need be.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the folder if need be and holds it; fails while another process does.
    pub fn lock(&self) -> io::Result<FolderLock> {
        fs::create_dir_all(&self.root)?;
        let path = self.root.join("ringmain.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use by another ringmain: stop it first", self.root.display()),
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Leaves word that a sync failed here. The kernel may go on showing bytes that the disk never
    /// got, so the next start must not believe what is cached.
    pub fn mark_suspect(&self) -> io::Result<()> {
        fs::write(self.root.join(SUSPECT), b"")
    }

    /// After a failed sync, has the kernel forget the segments, so that a start reads the disk.
    /// Returns whether there was one.
    pub fn forget_suspect(&self) -> io::Result<bool> {
        if !fs::exists(self.root.join(SUSPECT))? {
            return Ok(false);
        }
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            for entry in fs::read_dir(path)? {
                let file = File::open(entry?.path())?;
                // What is dirty would stay; and if this sync fails, so does the start.
                file.sync_data()?;
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
        fs::remove_file(self.root.join(SUSPECT))?;
        Ok(true)
    }

    /// Opens `file` for reading and writing.
    pub(super) fn open(&self, file: FileId) -> Result<File, DiskError> {
        let options = OpenOptions::new().read(true).write(true).open(self.path(file));
        options.map_err(|error| disk_error(&error))
    }

    /// Creates a file of zeros while others commit to the same disk: each piece is synced before
    /// the next is written. In one go, the disk's queue would be full of zeros for as long as they
    /// take, and every sync of the log would wait behind all of them.
    pub(super) fn create_beside_others(
        &mut self,
        file: FileId,
        bytes: u64,
        header: &[u8],
    ) -> Result<(), DiskError> {
        self.create_filled(file, (bytes, header), File::sync_data)
    }

    fn create_filled(
        &mut self,
        file: FileId,
        (bytes, header): (u64, &[u8]),
        after_piece: impl Fn(&File) -> io::Result<()>,
    ) -> Result<(), DiskError> {
        let path = self.path(file);
        let create = || -> io::Result<()> {
            let mut opened =
                OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
            opened.write_all(header)?;
            // Written and not only reserved: the first sync into a reserved block costs a second
            // flush, for the file system's note that the block is in use.
            let zeros = vec![0; ZEROS_BYTES];
            let mut left = bytes.saturating_sub(header.len() as u64);
            while left > 0 {
                let count = left.min(ZEROS_BYTES as u64);
                opened.write_all(&zeros[..usize::try_from(count).expect("at most a MiB")])?;
                left -= count;
                after_piece(&opened)?;
            }
            opened.sync_all()
        };
        create().map_err(|error| {
            // Half a segment would take the room that others need.
            let _ = fs::remove_file(&path);
            disk_error(&error)
        })
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.root.join(file.path())
    }
}

impl Folder for DiskFolder {
    fn list(&mut self, folder: &str) -> Result<Vec<(String, u64)>, DiskError> {
        let list = || -> io::Result<Vec<(String, u64)>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(self.root.join(folder))? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string() {
                    names.push((name, entry.metadata()?.len()));
                }
            }
            names.sort();
            Ok(names)
        };
        list().map_err(|error| disk_error(&error))
    }

    fn read(&mut self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let read = || -> io::Result<Vec<u8>> {
            let opened = File::open(self.path(file))?;
            let mut bytes = vec![0; length];
            let mut filled = 0;
            while filled < length {
                match opened.read_at(&mut bytes[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            bytes.truncate(filled);
            Ok(bytes)
        };
        read().map_err(|error| disk_error(&error))
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.open(file)?.write_all_at(bytes, offset).map_err(|error| disk_error(&error))
    }

    fn sync(&mut self, file: FileId) -> Result<(), DiskError> {
        self.open(file)?.sync_all().map_err(|error| disk_error(&error))
    }

    fn create(&mut self, file: FileId, bytes: u64, header: &[u8]) -> Result<(), DiskError> {
        self.create_filled(file, (bytes, header), |_| Ok(()))
    }

    fn create_dir(&mut self, folder: &str) -> Result<(), DiskError> {
        fs::create_dir_all(self.root.join(folder)).map_err(|error| disk_error(&error))
    }

    fn sync_dir(&mut self, folder: &str) -> Result<(), DiskError> {
        let sync = || File::open(self.root.join(folder))?.sync_all();
        sync().map_err(|error| disk_error(&error))
    }

    fn rename(&mut self, from: FileId, to: FileId) -> Result<(), DiskError> {
        fs::rename(self.path(from), self.path(to)).map_err(|error| disk_error(&error))
    }

    fn remove(&mut self, file: FileId) -> Result<(), DiskError> {
        match fs::remove_file(self.path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk_error(&error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        assert_eq!(errno(libc::ENOSPC), DiskError::NoSpace);
        assert_eq!(errno(libc::EIO), DiskError::Io(libc::EIO));
    }

    #[test]
    fn a_folder_is_held_by_one_server() {
        let place = tempfile::tempdir().unwrap();
        let folder = DiskFolder::new(place.path());
        let held = folder.lock().unwrap();
        let second = folder.lock().unwrap_err();
        assert!(second.to_string().contains("in use by another ringmain"), "{second}");
        drop(held);
        folder.lock().unwrap();
    }

    #[test]
    fn after_a_failed_sync_the_cache_is_dropped_once() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = DiskFolder::new(place.path());
        folder.create_dir("log-00000").unwrap();
        let file = FileId::Segment { log: 0, base: 0 };
        folder.create(file, 8192, b"head").unwrap();
        assert!(!folder.forget_suspect().unwrap());
        folder.mark_suspect().unwrap();
        assert!(folder.forget_suspect().unwrap());
        assert!(!folder.forget_suspect().unwrap());
        assert_eq!(folder.read(file, 0, 4).unwrap(), b"head");
    }

    #[test]
    fn a_created_file_is_zeros_behind_its_header() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = DiskFolder::new(place.path());
        folder.create_dir("log-00000").unwrap();
        let file = FileId::Segment { log: 0, base: 0 };
        folder.create(file, 8192, b"head").unwrap();
        let bytes = folder.read(file, 0, 9000).unwrap();
        assert_eq!((bytes.len(), &bytes[..4]), (8192, &b"head"[..]));
        assert!(bytes[4..].iter().all(|byte| *byte == 0));
        folder.write(file, 100, b"x").unwrap();
        assert_eq!(folder.read(file, 99, 3).unwrap(), b"\0x\0");
        assert_eq!(folder.list("log-00000").unwrap(), vec![(file.name(), 8192)]);
        assert_eq!(folder.list("log-00001"), Err(DiskError::NotFound));
    }
}
