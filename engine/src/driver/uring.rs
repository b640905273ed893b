//! One shard's uring for sockets: the submissions it makes and the completions it reads.
//!
//! A completion finds its way home by `user_data`: what kind of op in the top byte, which
//! connection slot in the next three, the generation of the slot in the low half. A generation
//! that does not match belongs to a connection that is gone.
#![expect(unsafe_code, reason = "submissions name memory that the kernel reads later")]

use super::buffers::{self, Buffers};
use io_uring::types::{DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Close = 4,
    Cancel = 5,
    Doorbell = 6,
    Pass = 7,
    Arrived = 8,
    Shutdown = 9,
}

/// The key of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) connection: u32,
    pub(super) generation: u32,
}

impl Key {
    pub(super) fn new(kind: Kind, connection: u32, generation: u32) -> Self {
        debug_assert!(connection < 1 << 24);
        Self { kind, connection, generation }
    }

    fn pack(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.connection) << 32 | u64::from(self.generation)
    }

    fn unpack(user_data: u64) -> Option<Self> {
        let kind = match user_data >> 56 {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Close,
            5 => Kind::Cancel,
            6 => Kind::Doorbell,
            7 => Kind::Pass,
            8 => Kind::Arrived,
            9 => Kind::Shutdown,
            _ => return None,
        };
        let connection = ((user_data >> 32) & 0x00ff_ffff) as u32;
        let generation = (user_data & 0xffff_ffff) as u32;
        Some(Self { kind, connection, generation })
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) key: Key,
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the op stays armed.
    pub(super) fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer it took.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

const RECV_POLL_FIRST: u16 = 1;
const RECV_MULTISHOT: u16 = 2;
/// Pieces gathered into one send.
pub(super) const PIECES_PER_SEND_MAX: usize = 64;
/// Gathered pieces that one enter may carry; the arrays are reused once the kernel has read them.
const PIECES_PER_ENTER_MAX: usize = 64 * 1024;
const SENDS_PER_ENTER_MAX: usize = 4096;
const SUBMISSIONS_MAX: u32 = 4096;
const COMPLETIONS_MAX: u32 = 65_536;

/// The uring and what its submissions point to.
pub(super) struct Uring {
    uring: IoUring,
    /// Read by the kernel during an enter and free again after it (`SUBMIT_STABLE`). Reserved
    /// once, so their addresses hold.
    pieces: Vec<libc::iovec>,
    messages: Vec<libc::msghdr>,
    doorbell_bytes: Box<[u8; 8]>,
    pub(super) enters: u64,
    defers_work: bool,
}

impl Uring {
    /// Makes the uring of the calling thread, with room for `connections_max` sockets.
    pub(super) fn new(connections_max: u32) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_submit_all().setup_cqsize(COMPLETIONS_MAX);
        let mut wanted = builder.clone();
        wanted.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let (uring, defers_work): (IoUring, bool) = match wanted.build(SUBMISSIONS_MAX) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
                (builder.build(SUBMISSIONS_MAX)?, false)
            }
            built => (built?, true),
        };
        if !uring.params().is_feature_submit_stable() {
            return Err(io::Error::other("this kernel reads submissions late (needs Linux 5.5)"));
        }
        uring.submitter().register_files_sparse(connections_max)?;
        Ok(Self {
            uring,
            pieces: Vec::with_capacity(PIECES_PER_ENTER_MAX),
            messages: Vec::with_capacity(SENDS_PER_ENTER_MAX),
            doorbell_bytes: Box::new([0; 8]),
            enters: 0,
            defers_work,
        })
    }

    pub(super) fn register_buffers(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        buffers.register(&self.uring)
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: every caller below says why the memory its entry names lives long enough.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    /// Submits without waiting.
    fn submit(&mut self) -> io::Result<()> {
        self.enters += 1;
        match self.uring.submitter().submit() {
            Err(error) if !is_transient(&error) => Err(error),
            _ => {
                if self.uring.submission().is_empty() {
                    self.pieces.clear();
                    self.messages.clear();
                }
                Ok(())
            }
        }
    }

    /// One accept into a slot of the kernel's choice.
    pub(super) fn accept(&mut self, listener: RawFd) -> io::Result<()> {
        let entry = opcode::Accept::new(Fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
            .file_index(Some(DestinationSlot::auto_target()))
            .build()
            .user_data(Key::new(Kind::Accept, 0, 0).pack());
        self.push(&entry)
    }

    /// Arms a receive. It waits for bytes before it looks for a buffer, so that arming one while
    /// the buffers are all taken is no error.
    pub(super) fn receive(&mut self, key: Key, repeat: bool) -> io::Result<()> {
        let mode = RECV_POLL_FIRST | if repeat { RECV_MULTISHOT } else { 0 };
        let entry = opcode::Recv::new(Fixed(key.connection), std::ptr::null_mut(), 0)
            .ioprio(mode)
            .buf_group(buffers::GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(key.pack());
        self.push(&entry)
    }

    /// Starts one send of up to `PIECES_PER_SEND_MAX` pieces, in order.
    ///
    /// # Safety
    /// The bytes must stay where they are, unchanged, until the completion for `key` came.
    pub(super) unsafe fn send<'a>(
        &mut self,
        key: Key,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        if self.pieces.len() + PIECES_PER_SEND_MAX > PIECES_PER_ENTER_MAX
            || self.messages.len() == SENDS_PER_ENTER_MAX
        {
            self.flush()?;
        }
        let first = self.pieces.len();
        let gathered = pieces.take(PIECES_PER_SEND_MAX).map(|piece| libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        self.pieces.extend(gathered);
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = match self.pieces[first..] {
            [] => panic!("a send of nothing"),
            [only] => {
                let length = u32::try_from(only.iov_len).expect("a piece lies within a block");
                opcode::Send::new(Fixed(key.connection), only.iov_base.cast(), length)
                    .flags(flags)
                    .build()
            }
            [..] => {
                // SAFETY: all zeros is a message without address, control data or pieces.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = self.pieces[first..].as_mut_ptr();
                message.msg_iovlen = self.pieces.len() - first;
                self.messages.push(message);
                let message = self.messages.last().expect("just pushed");
                opcode::SendMsg::new(Fixed(key.connection), message)
                    .flags(flags.cast_unsigned())
                    .build()
            }
        };
        self.push(&entry.user_data(key.pack()))
    }

    /// Submits until the kernel has read everything that was pushed.
    fn flush(&mut self) -> io::Result<()> {
        while !self.uring.submission().is_empty() {
            self.submit()?;
        }
        self.pieces.clear();
        self.messages.clear();
        Ok(())
    }

    /// Asks for the end of the op with `key`. By key and not by socket: that would walk every
    /// armed op of the uring.
    pub(super) fn cancel(&mut self, key: Key) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(key.pack())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Key::new(Kind::Cancel, 0, 0).pack());
        self.push(&entry)
    }

    /// Closes a socket on which nothing is armed or in flight.
    pub(super) fn close(&mut self, key: Key) -> io::Result<()> {
        let entry = opcode::Close::new(Fixed(key.connection)).build().user_data(key.pack());
        self.push(&entry)
    }

    /// Ends our half of a connection. The kernel does this on a worker thread: for rare cases.
    pub(super) fn shutdown(&mut self, connection: u32) -> io::Result<()> {
        let entry = opcode::Shutdown::new(Fixed(connection), libc::SHUT_WR)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Key::new(Kind::Shutdown, 0, 0).pack());
        self.push(&entry)
    }

    /// Hands the socket of `key` to the uring `target`, which hears `arrival`, and frees the slot.
    pub(super) fn pass(&mut self, key: Key, target: RawFd, arrival: Key) -> io::Result<()> {
        let slot = DestinationSlot::auto_target();
        let send =
            opcode::MsgRingSendFd::new(Fd(target), Fixed(key.connection), slot, arrival.pack())
                .build()
                .flags(squeue::Flags::IO_HARDLINK)
                .user_data(key.pack());
        self.push(&send)?;
        self.close(Key::new(Kind::Close, key.connection, key.generation))
    }

    /// Waits for the doorbell, without blocking.
    pub(super) fn watch_doorbell(&mut self, doorbell: RawFd) -> io::Result<()> {
        let address = self.doorbell_bytes.as_mut_ptr();
        let entry = opcode::Read::new(Fd(doorbell), address, 8)
            .build()
            .user_data(Key::new(Kind::Doorbell, 0, 0).pack());
        self.push(&entry)
    }

    /// The one system call of a turn: submits, and waits for `want` completions or for `timeout`.
    ///
    /// Since Linux 6.13 a call runs at most `max(20, want)` waiting receives and sends, so a busy
    /// shard asks for many and waits for none.
    pub(super) fn enter(&mut self, want: usize, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timeout);
        self.enters += 1;
        match self.uring.submitter().submit_with_args(want, &arguments) {
            Err(error) if !is_transient(&error) => return Err(error),
            _ => {}
        }
        if self.uring.submission().is_empty() {
            self.pieces.clear();
            self.messages.clear();
        }
        Ok(())
    }

    /// Whether an enter would find something: pushed, waiting to run, or overflowed.
    pub(super) fn has_work(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Whether completions run only when asked.
    pub(super) fn defers_work(&self) -> bool {
        self.defers_work
    }

    /// Whether completions wait to be reaped.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Moves the completions that are there into `out`.
    pub(super) fn reap(&mut self, out: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            let key = Key::unpack(entry.user_data()).expect("we made every key");
            out.push(Completion { key, result: entry.result(), flags: entry.flags() });
        }
    }

    /// How often completions did not fit their queue.
    pub(super) fn overflows(&mut self) -> u32 {
        self.uring.completion().overflow()
    }
}

impl AsRawFd for Uring {
    fn as_raw_fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }
}

/// Whether to simply go round again.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME))
}
