//! The simulated disk: what files show, and what of that would survive a power cut.
//!
//! A write is visible when it completes and *pending*, sector by sector, until a sync that was
//! submitted after that covers it. Names are pending too, until their folder is synced. A power
//! cut keeps what is durable and, by a policy, some of what is pending.

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use storage::{DiskError, FileId, Folder};

const SECTOR_BYTES: usize = 512;

/// One sector's write that no sync has covered.
#[derive(Clone, Debug)]
struct Pending {
    sector: usize,
    bytes: Vec<u8>,
    /// Which write of the file it came from.
    write: u64,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    visible: Vec<u8>,
    pending: Vec<Pending>,
    writes_count: u64,
}

/// A change of names that a folder's sync has not covered.
#[derive(Clone, Copy, Debug)]
enum Renaming {
    Link(FileId, u64),
    Unlink(FileId),
    Move(FileId, FileId),
}

/// Which pending sectors a power cut keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    All,
    Nothing,
    Half,
    Prefix,
    Suffix,
    /// All but the first: a hole in front of what seems whole.
    AllButFirst,
}

pub(crate) const SURVIVALS: [Survival; 6] = [
    Survival::All,
    Survival::Nothing,
    Survival::Half,
    Survival::Prefix,
    Survival::Suffix,
    Survival::AllButFirst,
];

/// The whole disk of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<FileId, u64>,
    names_durable: BTreeMap<FileId, u64>,
    renamings: Vec<Renaming>,
    folders: BTreeSet<String>,
    folders_durable: BTreeSet<String>,
    /// Steps of a start that still work; then the power goes.
    pub(crate) steps_left: Option<u64>,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.visible.len() < end {
            self.visible.resize(end, 0);
        }
        self.visible[offset..end].copy_from_slice(bytes);
        self.writes_count += 1;
        if bytes.is_empty() {
            return;
        }
        for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(self.visible.len());
            let bytes = self.visible[from..to].to_vec();
            self.pending.push(Pending { sector, bytes, write: self.writes_count });
        }
    }

    fn persist(&mut self, pending: &Pending) {
        let from = pending.sector * SECTOR_BYTES;
        let end = from + pending.bytes.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[from..end].copy_from_slice(&pending.bytes);
    }

    fn persist_where(&mut self, mut keeps: impl FnMut(usize, &Pending) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        for (index, entry) in pending.into_iter().enumerate() {
            if keeps(index, &entry) {
                self.persist(&entry);
            } else {
                self.pending.push(entry);
            }
        }
    }

    fn cut_power(&mut self, survival: Survival, random: &mut Random) {
        let count = self.pending.len();
        let border = if count == 0 { 0 } else { random.index(count + 1) };
        self.persist_where(|index, _| match survival {
            Survival::All => true,
            Survival::Nothing => false,
            Survival::Half => random.chance(500),
            Survival::Prefix => index < border,
            Survival::Suffix => index >= border,
            Survival::AllButFirst => index > 0,
        });
        self.pending.clear();
        self.visible.clone_from(&self.durable);
    }
}

impl Disk {
    fn file(&mut self, file: FileId) -> Result<&mut File, DiskError> {
        let id = self.names.get(&file).ok_or(DiskError::NotFound)?;
        Ok(self.files.get_mut(id).expect("a name leads to a file"))
    }

    /// How many writes of `file` have completed: what a sync submitted at this moment covers.
    pub(crate) fn writes_count(&mut self, file: FileId) -> u64 {
        self.file(file).map_or(0, |file| file.writes_count)
    }

    pub(crate) fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        let offset = usize::try_from(offset).expect("files are small here");
        self.file(file)?.write(offset, bytes);
        Ok(())
    }

    /// Makes durable what completed before the sync was submitted.
    pub(crate) fn sync_up_to(&mut self, file: FileId, writes: u64) -> Result<(), DiskError> {
        let file = self.file(file)?;
        file.persist_where(|_, pending| pending.write <= writes);
        if file.pending.is_empty() {
            file.durable.resize(file.visible.len().max(file.durable.len()), 0);
        }
        Ok(())
    }

    /// A sync that fails: some of it reached the disk, the rest is clean in memory and lost, so
    /// that another sync would say that all is well.
    pub(crate) fn fail_sync(&mut self, file: FileId, writes: u64, random: &mut Random) {
        let Ok(file) = self.file(file) else { return };
        file.persist_where(|_, pending| pending.write <= writes && random.chance(300));
        file.pending.retain(|pending| pending.write > writes);
    }

    /// The kernel writes back whatever it likes.
    pub(crate) fn write_back(&mut self, random: &mut Random) {
        for file in self.files.values_mut() {
            // A later write of the same sector is on the disk only after an earlier one.
            let mut skipped = BTreeSet::new();
            file.persist_where(|_, pending| {
                let is_kept = !skipped.contains(&pending.sector) && random.chance(300);
                if !is_kept {
                    skipped.insert(pending.sector);
                }
                is_kept
            });
        }
    }

    pub(crate) fn create_file(&mut self, file: FileId, bytes: u64, header: &[u8]) {
        let mut content = vec![0; usize::try_from(bytes).expect("files are small here")];
        content[..header.len()].copy_from_slice(header);
        let created = File { durable: content.clone(), visible: content, ..File::default() };
        self.next_file += 1;
        self.files.insert(self.next_file, created);
        self.names.insert(file, self.next_file);
        self.renamings.push(Renaming::Link(file, self.next_file));
    }

    /// A creation that did not come to its end.
    fn create_half(&mut self, file: FileId, bytes: u64, random: &mut Random) {
        let bytes = random.below(bytes + 1);
        self.create_file(file, bytes, &[]);
    }

    pub(crate) fn rename_file(&mut self, from: FileId, to: FileId) -> Result<(), DiskError> {
        let id = self.names.remove(&from).ok_or(DiskError::NotFound)?;
        self.names.insert(to, id);
        self.renamings.push(Renaming::Move(from, to));
        Ok(())
    }

    pub(crate) fn remove_file(&mut self, file: FileId) {
        self.names.remove(&file);
        self.renamings.push(Renaming::Unlink(file));
    }

    pub(crate) fn sync_names(&mut self, folder: &str) {
        let renamings = std::mem::take(&mut self.renamings);
        for renaming in renamings {
            let (Renaming::Link(file, _) | Renaming::Unlink(file) | Renaming::Move(_, file)) =
                renaming;
            if file.folder() == folder {
                self.keep_name(renaming);
            } else {
                self.renamings.push(renaming);
            }
        }
        if folder.is_empty() {
            self.folders_durable.clone_from(&self.folders);
        }
    }

    fn keep_name(&mut self, renaming: Renaming) {
        match renaming {
            Renaming::Link(file, id) => {
                self.names_durable.insert(file, id);
            }
            Renaming::Unlink(file) => {
                self.names_durable.remove(&file);
            }
            Renaming::Move(from, to) => {
                if let Some(id) = self.names_durable.remove(&from) {
                    self.names_durable.insert(to, id);
                }
            }
        }
    }

    /// What is in flight is lost or half done, what is pending survives as `survival` says, and
    /// of the names a file system's journal keeps a prefix of the changes.
    pub(crate) fn cut_power(&mut self, survival: Survival, random: &mut Random) {
        for file in self.files.values_mut() {
            file.cut_power(survival, random);
        }
        let renamings = std::mem::take(&mut self.renamings);
        let kept = match survival {
            Survival::All => renamings.len(),
            Survival::Nothing => 0,
            _ => random.index(renamings.len() + 1),
        };
        for renaming in renamings.into_iter().take(kept) {
            self.keep_name(renaming);
        }
        if random.chance(500) {
            self.folders.clone_from(&self.folders_durable);
        } else {
            self.folders_durable.clone_from(&self.folders);
        }
        let folders = &self.folders;
        self.names_durable
            .retain(|file, _| file.folder().is_empty() || folders.contains(&file.folder()));
        self.names.clone_from(&self.names_durable);
        let used: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| used.contains(id));
        self.steps_left = None;
    }

    /// Gives up what a failed sync left clean in memory but not on the disk, as a restart of the
    /// machine does.
    pub(crate) fn forget_cache(&mut self) {
        for file in self.files.values_mut() {
            let pending = std::mem::take(&mut file.pending);
            for entry in &pending {
                file.persist(entry);
            }
            file.visible.clone_from(&file.durable);
        }
    }

    /// One step of a start. When the steps are used up the rest fails, as it would for a process
    /// that is no more.
    fn step(&mut self) -> Result<(), DiskError> {
        match &mut self.steps_left {
            Some(0) => Err(DiskError::Io(5)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Folder for Disk {
    fn list(&mut self, folder: &str) -> Result<Vec<(String, u64)>, DiskError> {
        self.step()?;
        if !folder.is_empty() && !self.folders.contains(folder) {
            return Err(DiskError::NotFound);
        }
        let mut listed = Vec::new();
        if folder.is_empty() {
            listed.extend(self.folders.iter().map(|name| (name.clone(), 0)));
        }
        for (file, id) in self.names.iter().filter(|(file, _)| file.folder() == folder) {
            listed.push((file.name(), self.files[id].visible.len() as u64));
        }
        Ok(listed)
    }

    fn read(&mut self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        self.step()?;
        let bytes = &self.file(file)?.visible;
        let start = bytes.len().min(usize::try_from(offset).expect("files are small here"));
        Ok(bytes[start..bytes.len().min(start + length)].to_vec())
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.step()?;
        self.write_at(file, offset, bytes)
    }

    fn sync(&mut self, file: FileId) -> Result<(), DiskError> {
        self.step()?;
        self.sync_up_to(file, u64::MAX)
    }

    fn create(&mut self, file: FileId, bytes: u64, header: &[u8]) -> Result<(), DiskError> {
        if self.steps_left == Some(0) {
            self.create_half(file, bytes, &mut Random::new(bytes));
        }
        self.step()?;
        self.create_file(file, bytes, header);
        Ok(())
    }

    fn create_dir(&mut self, folder: &str) -> Result<(), DiskError> {
        self.step()?;
        self.folders.insert(folder.to_owned());
        Ok(())
    }

    fn sync_dir(&mut self, folder: &str) -> Result<(), DiskError> {
        self.step()?;
        self.sync_names(folder);
        Ok(())
    }

    fn rename(&mut self, from: FileId, to: FileId) -> Result<(), DiskError> {
        self.step()?;
        self.rename_file(from, to)
    }

    fn remove(&mut self, file: FileId) -> Result<(), DiskError> {
        self.step()?;
        self.remove_file(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId::Segment { log: 0, base: 0 };

    fn disk() -> Disk {
        let mut disk = Disk::default();
        disk.create_dir("log-00000").unwrap();
        disk.create(FILE, 4096, b"head").unwrap();
        disk.sync_dir("log-00000").unwrap();
        disk.sync_dir("").unwrap();
        disk
    }

    #[test]
    fn a_sync_covers_only_the_writes_completed_before_it_was_submitted() {
        let mut disk = disk();
        disk.write_at(FILE, 512, b"before").unwrap();
        let covered = disk.writes_count(FILE);
        disk.write_at(FILE, 1024, b"after").unwrap();
        disk.sync_up_to(FILE, covered).unwrap();
        disk.cut_power(Survival::Nothing, &mut Random::new(1));
        assert_eq!(disk.read(FILE, 512, 6).unwrap(), b"before");
        assert_eq!(disk.read(FILE, 1024, 5).unwrap(), [0; 5]);
    }

    #[test]
    fn a_failed_sync_loses_what_a_second_one_calls_durable() {
        let mut disk = disk();
        disk.write_at(FILE, 512, &[7; 2048]).unwrap();
        disk.fail_sync(FILE, u64::MAX, &mut Random::new(3));
        disk.sync_up_to(FILE, u64::MAX).unwrap();
        assert_eq!(disk.read(FILE, 512, 2048).unwrap(), [7; 2048], "memory still shows it");
        disk.cut_power(Survival::All, &mut Random::new(1));
        assert_ne!(disk.read(FILE, 512, 2048).unwrap(), [7; 2048]);
    }

    #[test]
    fn a_name_survives_only_with_its_folder_synced() {
        let mut disk = disk();
        let other = FileId::Segment { log: 0, base: 4096 };
        disk.create(other, 4096, b"head").unwrap();
        disk.cut_power(Survival::Nothing, &mut Random::new(1));
        assert_eq!(disk.read(other, 0, 4), Err(DiskError::NotFound));
        assert_eq!(disk.read(FILE, 0, 4).unwrap(), b"head");
    }
}
