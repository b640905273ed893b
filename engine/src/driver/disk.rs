//! One shard's disk: its log's writes, syncs and cold reads on a uring of their own, whose worker
//! threads the kernel runs off the shard's CPU; rarer and slower work (making a zero-filled
//! segment, renaming, removing) on a thread of ours. Recent bytes of the log are read through a
//! memory map: they are resident, since this process wrote them a moment ago.
#![expect(unsafe_code, reason = "the kernel reads and fills buffers that an op owns")]

use super::folder::{DiskFolder, errno};
use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use storage::{DiskError, DiskEvent, DiskOp, FileId};

const OPS_IN_FLIGHT_MAX: usize = 256;
/// How far behind the end of a log its bytes count as resident.
const RESIDENT_BYTES: u64 = 64 << 20;

struct OpenFile {
    file: File,
    map: Option<Mmap>,
    /// What this process wrote of it: from, to.
    written: Option<(u64, u64)>,
}

/// What the rare-work thread is asked.
pub(super) struct RareWork {
    op: DiskOp,
    answer: Sender<DiskEvent>,
    doorbell: super::Doorbell,
}

/// The files of one shard.
pub(super) struct Disk {
    uring: IoUring,
    folder: DiskFolder,
    files: HashMap<FileId, OpenFile, foldhash::fast::FixedState>,
    in_flight: Vec<Option<DiskOp>>,
    free: Vec<usize>,
    read_buffers: Vec<Vec<u8>>,
    rare: Sender<RareWork>,
    rare_answers: (Sender<DiskEvent>, Receiver<DiskEvent>),
    doorbell: super::Doorbell,
    /// Reads served at once from a map, to be handed to the shard.
    ready: Vec<DiskEvent>,
    pushed: bool,
    /// The segment written last.
    newest: Option<FileId>,
}

impl Disk {
    pub(super) fn new(
        folder: DiskFolder,
        rare: Sender<RareWork>,
        doorbell: super::Doorbell,
        worker_cpus: Option<&libc::cpu_set_t>,
    ) -> io::Result<Self> {
        let uring: IoUring = IoUring::builder().setup_clamp().build(512)?;
        uring.submitter().register_eventfd(doorbell.as_raw_fd())?;
        // Before the first op: a worker stays where it was born, which without this is the
        // shard's own CPU.
        if let Some(cpus) = worker_cpus {
            uring.submitter().register_iowq_aff(cpus)?;
        }
        uring.submitter().register_iowq_max_workers(&mut [4, 4])?;
        Ok(Self {
            uring,
            folder,
            files: HashMap::default(),
            in_flight: (0..OPS_IN_FLIGHT_MAX).map(|_| None).collect(),
            free: (0..OPS_IN_FLIGHT_MAX).rev().collect(),
            read_buffers: Vec::new(),
            rare,
            rare_answers: crossbeam_channel::bounded(OPS_IN_FLIGHT_MAX),
            doorbell,
            ready: Vec::new(),
            pushed: false,
            newest: None,
        })
    }

    /// Whether another op fits.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether `next_event` has an answer that no completion will announce.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes on one op.
    pub(super) fn perform(&mut self, op: DiskOp) -> io::Result<()> {
        match op {
            DiskOp::Write { .. } | DiskOp::Sync { .. } => self.submit(op),
            DiskOp::Read { file, offset, length, token } => {
                if let Some(bytes) = self.read_resident(file, offset, length) {
                    self.ready.push(DiskEvent::Read { token, bytes, result: Ok(()) });
                    return Ok(());
                }
                self.submit(op)
            }
            DiskOp::Prepare { .. }
            | DiskOp::Create { .. }
            | DiskOp::Publish { .. }
            | DiskOp::Remove { .. } => {
                if let DiskOp::Publish { from: file, .. } | DiskOp::Remove { file } = op {
                    self.files.remove(&file);
                }
                let answer = self.rare_answers.0.clone();
                let work = RareWork { op, answer, doorbell: self.doorbell.clone() };
                self.rare.send(work).map_err(|_| io::Error::other("the disk thread is gone"))
            }
        }
    }

    fn open(&mut self, file: FileId) -> Result<&mut OpenFile, DiskError> {
        if !self.files.contains_key(&file) {
            let opened = self.folder.open(file)?;
            self.files.insert(file, OpenFile { file: opened, map: None, written: None });
        }
        Ok(self.files.get_mut(&file).expect("just inserted"))
    }

    fn read_resident(&mut self, file: FileId, offset: u64, length: u32) -> Option<Vec<u8>> {
        // An older segment may have left the page cache, and a fault would stop the shard.
        if self.newest != Some(file) {
            return None;
        }
        let opened = self.files.get_mut(&file)?;
        let (from, to) = opened.written?;
        let end = (offset + u64::from(length)).min(to);
        if offset < from || end <= offset || offset + RESIDENT_BYTES < to {
            return None;
        }
        if opened.map.is_none() {
            // SAFETY: a segment is never truncated while it is open, only this process writes it,
            // and the log asks only for bytes below its durable watermark, which no write touches.
            opened.map = Some(unsafe { Mmap::map(&opened.file) }.ok()?);
        }
        let map = opened.map.as_ref()?;
        let range = usize::try_from(offset).ok()?..usize::try_from(end).ok()?;
        Some(map.get(range)?.to_vec())
    }

    fn submit(&mut self, mut op: DiskOp) -> io::Result<()> {
        let file = match &op {
            DiskOp::Write { file, .. } | DiskOp::Sync { file } | DiskOp::Read { file, .. } => *file,
            _ => unreachable!("only these go by uring"),
        };
        let fd = match self.open(file) {
            Ok(opened) => opened.file.as_raw_fd(),
            Err(error) => {
                self.ready.push(failed(op, error));
                return Ok(());
            }
        };
        let index = self.free.pop().expect("has_room was asked");
        let entry = self.entry(fd, index, &mut op);
        self.in_flight[index] = Some(op);
        // SAFETY: the buffer is owned by `in_flight[index]` (writes) or `read_buffers[index]`
        // (reads), neither of which is touched before the completion.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.uring.submit()?;
        }
        self.pushed = true;
        Ok(())
    }

    fn entry(&mut self, fd: RawFd, index: usize, op: &mut DiskOp) -> squeue::Entry {
        let user_data = index as u64;
        match op {
            DiskOp::Write { offset, bytes, .. } => {
                let length = u32::try_from(bytes.len()).expect("a batch is megabytes");
                // On a worker: a write into the page cache may wait for the file system's journal.
                opcode::Write::new(Fd(fd), bytes.as_ptr(), length)
                    .offset(*offset)
                    .build()
                    .flags(squeue::Flags::ASYNC)
                    .user_data(user_data)
            }
            DiskOp::Read { offset, length, .. } => {
                if self.read_buffers.len() <= index {
                    self.read_buffers.resize_with(index + 1, Vec::new);
                }
                self.read_buffers[index] = vec![0; *length as usize];
                opcode::Read::new(Fd(fd), self.read_buffers[index].as_mut_ptr(), *length)
                    .offset(*offset)
                    .build()
                    .user_data(user_data)
            }
            _ => opcode::Fsync::new(Fd(fd))
                .flags(io_uring::types::FsyncFlags::DATASYNC)
                .build()
                .user_data(user_data),
        }
    }

    /// Hands what was taken on to the kernel.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.pushed {
            self.pushed = false;
            self.uring.submit()?;
        }
        Ok(())
    }

    /// The next answer, if one is there.
    pub(super) fn next_event(&mut self) -> Option<DiskEvent> {
        if let Some(event) = self.ready.pop() {
            return Some(event);
        }
        let entry = self.uring.completion().next();
        if let Some(entry) = entry {
            let index = usize::try_from(entry.user_data()).expect("an index into in_flight");
            return Some(self.complete(index, entry.result()));
        }
        let event = self.rare_answers.1.try_recv().ok()?;
        Some(event)
    }

    fn complete(&mut self, index: usize, result: i32) -> DiskEvent {
        let op = self.in_flight[index].take().expect("completed once");
        self.free.push(index);
        let count = usize::try_from(result).map_err(|_| errno(-result));
        match op {
            DiskOp::Write { file, offset, bytes } => {
                if let (Ok(count), Some(opened)) = (&count, self.files.get_mut(&file)) {
                    if let FileId::Segment { .. } = file {
                        self.newest = Some(file);
                    }
                    let end = offset + *count as u64;
                    let (from, to) = opened.written.unwrap_or((offset, end));
                    opened.written = Some((from.min(offset), to.max(end)));
                }
                DiskEvent::Written { file, bytes, result: count }
            }
            DiskOp::Sync { file } => DiskEvent::Synced { file, result: count.map(drop) },
            DiskOp::Read { token, .. } => {
                let mut bytes = std::mem::take(&mut self.read_buffers[index]);
                if let Ok(count) = count {
                    bytes.truncate(count);
                }
                DiskEvent::Read { token, bytes, result: count.map(drop) }
            }
            _ => unreachable!("only these go by uring"),
        }
    }
}

/// The answer to an op whose file cannot be opened.
fn failed(op: DiskOp, error: DiskError) -> DiskEvent {
    match op {
        DiskOp::Write { file, bytes, .. } => DiskEvent::Written { file, bytes, result: Err(error) },
        DiskOp::Sync { file } => DiskEvent::Synced { file, result: Err(error) },
        DiskOp::Read { token, .. } => {
            DiskEvent::Read { token, bytes: Vec::new(), result: Err(error) }
        }
        _ => unreachable!("only these go by uring"),
    }
}

/// The set of `cpus`, where there are any.
pub(super) fn cpu_set(cpus: &[usize]) -> Option<libc::cpu_set_t> {
    if cpus.is_empty() {
        return None;
    }
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: it sets a bit of the set, or none where the number is beyond it.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    Some(set)
}

/// The rare-work thread: one op after another until every shard is gone.
pub(super) fn rare_work(mut folder: DiskFolder, work: &Receiver<RareWork>) {
    use storage::Folder;
    for RareWork { op, answer, doorbell } in work {
        let event = match op {
            DiskOp::Prepare { file, bytes, header } => DiskEvent::Prepared {
                file,
                result: folder
                    .create_beside_others(file, bytes, &header)
                    .and_then(|()| folder.sync_dir(&file.folder())),
            },
            DiskOp::Create { file } => {
                DiskEvent::Created { file, result: folder.create(file, 0, &[]) }
            }
            DiskOp::Publish { from, to } => {
                let renamed = folder.rename(from, to);
                DiskEvent::Published {
                    to,
                    result: renamed.and_then(|()| folder.sync_dir(&to.folder())),
                }
            }
            DiskOp::Remove { file } => DiskEvent::Removed {
                file,
                result: folder.remove(file).and_then(|()| folder.sync_dir(&file.folder())),
            },
            _ => unreachable!("writes, syncs and reads go by uring"),
        };
        // A shard that is gone wants no answer.
        let _ = answer.send(event);
        doorbell.ring();
    }
}

impl Drop for Disk {
    /// The kernel may still write into what an op owns: wait for every op before it is freed.
    fn drop(&mut self) {
        while self.free.len() < OPS_IN_FLIGHT_MAX {
            if self
                .uring
                .submit_and_wait(1)
                .is_err_and(|error| error.raw_os_error() != Some(libc::EINTR))
            {
                std::process::abort();
            }
            while let Some(entry) = self.uring.completion().next() {
                self.free.push(usize::try_from(entry.user_data()).expect("an index"));
            }
        }
    }
}
