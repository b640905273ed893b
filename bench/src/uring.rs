//! A socket driver on `io_uring`: direct descriptors, multishot receives into provided buffers,
//! one owned send in flight a socket, one system call a turn.
//!
//! The load generator and the raw probes are both built on it, so that what a comparison shows is
//! what stands on top. It is not the server's driver and knows no protocol.
#![expect(unsafe_code, reason = "the kernel reads and writes memory that it is lent here")]

use crate::clock::Nanos;
use io_uring::cqueue::{buffer_select, more};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use socket2::SockAddr;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Entries of the submission queue; a turn that needs more submits in between.
const SUBMISSIONS_COUNT: u32 = 4096;
/// Most completions that one turn takes.
pub const COMPLETIONS_PER_TURN_MAX: usize = 512;
/// A turn with so many completions may have left more behind: some kernels hand out 20 at a time,
/// so the next one should not wait. After any other it may, since waiting begins by running what
/// is ready. The kernel's own flag for work left cannot be asked: it was seen to stay set.
pub const FULL_TURN: usize = 16;
/// Buffers given back to the allocator rather than kept are those above this size.
const KEPT_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most idle send buffers kept for the next turn.
const KEPT_BUFFERS_MAX: usize = 4096;
const BUFFER_GROUP: u16 = 0;
// Flags of a receive that the crate keeps to itself: wait for readiness first, and stay armed.
const RECEIVE_POLL_FIRST: u16 = 1;
const RECEIVE_MULTISHOT: u16 = 2;
const PAGE_BYTES: usize = 4096;

/// Options that the kernel reads by pointer at some later time: hence static.
static ONE: libc::c_int = 1;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// A listener's next connection; the slot is the result.
    Accept = 1,
    /// The end of a socket's opening: socket, options, source address, connect.
    Open = 2,
    /// Bytes, or the end of them.
    Receive = 3,
    /// A send has ended.
    Send = 4,
    /// The descriptor is free again.
    Close = 5,
    /// A step before the connect failed; the connect itself reports as cancelled.
    Prepare = 6,
}

const OPS: [Op; 6] = [Op::Accept, Op::Open, Op::Receive, Op::Send, Op::Close, Op::Prepare];

/// One completion, copied out of the kernel's queue.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What has ended or has news.
    pub op: Op,
    /// Which socket; for an accept that worked, the new one.
    pub slot: u32,
    /// As the system call would return it: a count, or a negated error number.
    pub result: i32,
    /// Whether a multishot operation is still armed.
    pub is_armed: bool,
    /// The provided buffer that holds the bytes: to be recycled, whatever else is true.
    pub buffer: Option<u16>,
}

impl Completion {
    /// Whether a receive ended only because all buffers were in use; no byte was lost.
    pub fn is_out_of_buffers(&self) -> bool {
        self.result == -libc::ENOBUFS
    }
}

/// How long `enter` may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: take what is ready.
    Ready,
    /// For one completion, at most this long.
    One(Nanos),
}

/// Sizes of one driver.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Direct descriptors; the kernel allows each ring as many as `RLIMIT_NOFILE` says.
    pub slots_count: u32,
    /// Provided buffers, a power of two.
    pub buffers_count: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

/// A send in flight: the driver owns the bytes until the kernel is done with them.
#[derive(Default)]
struct Flight {
    bytes: Vec<u8>,
    sent_bytes: usize,
}

/// The driver of one thread.
///
/// Field order matters: the kernel's side goes first when it is dropped, then the memory that it
/// was lent.
pub struct Uring {
    ring: IoUring,
    /// The provided buffers; separate, so that bytes can be read while nothing else moves.
    pub buffers: Buffers,
    flights: Vec<Flight>,
    spare: Vec<Vec<u8>>,
    /// Addresses named by queued connects; only ever added to, so pointers into them stay good.
    #[expect(clippy::vec_box, reason = "an address must not move when another is added")]
    addresses: Vec<Box<SockAddr>>,
    enters_count: u64,
    /// The kernel ties the ring to the thread that made it.
    _this_thread: PhantomData<*const ()>,
}

/// Most addresses one driver learns: source addresses, and a target a server restart.
const ADDRESSES_MAX: usize = 4096;

/// An address that the driver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressId(usize);

impl Uring {
    /// Builds a ring for this thread.
    pub fn new(sizes: Sizes) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(16 * SUBMISSIONS_COUNT)
            .build(SUBMISSIONS_COUNT)?;
        ring.submitter().register_files_sparse(sizes.slots_count)?;
        let buffers = Buffers::new(&ring, sizes.buffers_count, sizes.buffer_bytes)?;
        let flights = (0..sizes.slots_count).map(|_| Flight::default()).collect();
        let (spare, addresses) = (Vec::new(), Vec::new());
        let _this_thread = PhantomData;
        Ok(Self { ring, buffers, flights, spare, addresses, enters_count: 0, _this_thread })
    }

    /// How many system calls were made to enter the ring.
    pub fn enters_count(&self) -> u64 {
        self.enters_count
    }

    /// Makes an address known, for `open`.
    pub fn learn(&mut self, address: SocketAddr) -> AddressId {
        assert!(self.addresses.len() < ADDRESSES_MAX, "a bounded number of restarts");
        self.addresses.push(Box::new(address.into()));
        AddressId(self.addresses.len() - 1)
    }

    /// As `learn`, for an address that may be known already.
    pub fn learn_once(&mut self, address: SocketAddr) -> AddressId {
        let wanted = SockAddr::from(address);
        let known = self.addresses.iter().position(|known| **known == wanted);
        known.map_or_else(|| self.learn(address), AddressId)
    }

    /// Takes one connection from `listener`, into a slot of the kernel's choice.
    pub fn accept(&mut self, listener: &TcpListener) {
        let fd = Fd(listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry.user_data(user_data(Op::Accept, 0)));
    }

    /// Opens a socket in `slot` and connects it to `target`, from `source` where one is given.
    /// The steps are one chain; its end is reported as `Op::Open`.
    pub fn open(&mut self, slot: u32, target: AddressId, source: Option<AddressId>) {
        self.make_room(5); // a chain that a submit cuts in two is no chain
        let fixed = Fixed(slot);
        let family = i32::from(self.addresses[target.0].family());
        let place = DestinationSlot::try_from_slot_target(slot).expect("a slot of the table");
        let socket = opcode::Socket::new(family, libc::SOCK_STREAM, 0).file_index(Some(place));
        self.push_step(socket.build(), slot);
        self.push_step(option(fixed, libc::IPPROTO_TCP, libc::TCP_NODELAY), slot);
        if let Some(source) = source {
            let port_later = libc::IP_BIND_ADDRESS_NO_PORT;
            self.push_step(option(fixed, libc::IPPROTO_IP, port_later), slot);
            let address = &self.addresses[source.0];
            let bind = opcode::Bind::new(fixed, address.as_ptr().cast(), address.len());
            self.push_step(bind.build(), slot);
        }
        let address = &self.addresses[target.0];
        let connect = opcode::Connect::new(fixed, address.as_ptr().cast(), address.len()).build();
        self.push(connect.user_data(user_data(Op::Open, slot)));
    }

    fn push_step(&mut self, entry: Entry, slot: u32) {
        let flags = Flags::IO_LINK | Flags::SKIP_SUCCESS;
        self.push(entry.flags(flags).user_data(user_data(Op::Prepare, slot)));
    }

    /// Arms the receive of `slot`; it stays armed until a completion says otherwise.
    pub fn receive(&mut self, slot: u32) {
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
            .ioprio(RECEIVE_POLL_FIRST | RECEIVE_MULTISHOT)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(entry.user_data(user_data(Op::Receive, slot)));
    }

    /// Sends `bytes`; at most one send is in flight a socket.
    pub fn send(&mut self, slot: u32, bytes: Vec<u8>) {
        let flight = &mut self.flights[slot as usize];
        assert!(flight.bytes.is_empty() && !bytes.is_empty(), "one send in flight a socket");
        *flight = Flight { bytes, sent_bytes: 0 };
        self.push_send(slot);
    }

    fn push_send(&mut self, slot: u32) {
        let flight = &self.flights[slot as usize];
        let rest = &flight.bytes[flight.sent_bytes..];
        let bytes = u32::try_from(rest.len()).expect("a send is below 4 GiB");
        let entry = opcode::Send::new(Fixed(slot), rest.as_ptr(), bytes)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(user_data(Op::Send, slot)));
    }

    /// Handles a send's completion: `None` where a rest had to be sent again, else how it ended.
    pub fn sent(&mut self, slot: u32, result: i32) -> Option<io::Result<()>> {
        let flight = &mut self.flights[slot as usize];
        let outcome = match usize::try_from(result) {
            Ok(bytes) => {
                flight.sent_bytes += bytes;
                if bytes > 0 && flight.sent_bytes < flight.bytes.len() {
                    self.push_send(slot);
                    return None;
                }
                Ok(())
            }
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        let bytes = std::mem::take(&mut flight.bytes);
        self.keep(bytes);
        Some(outcome)
    }

    /// Gives `slot` back. Only once its receive and its send have ended.
    pub fn close(&mut self, slot: u32) {
        assert!(self.flights[slot as usize].bytes.is_empty(), "the send has ended");
        let entry = opcode::Close::new(Fixed(slot)).build();
        self.push(entry.user_data(user_data(Op::Close, slot)));
    }

    /// Ends the receive of `slot`, which then completes as cancelled.
    pub fn cancel_receive(&mut self, slot: u32) {
        let entry = opcode::AsyncCancel::new(user_data(Op::Receive, slot)).build();
        let entry = entry.flags(Flags::SKIP_SUCCESS);
        self.push(entry.user_data(user_data(Op::Prepare, slot)));
    }

    /// Gives out all empty buffers that came back from sends.
    pub fn lend(&mut self, spare: &mut Vec<Vec<u8>>) {
        spare.append(&mut self.spare);
    }

    /// Keeps a buffer for the next one who needs it.
    fn keep(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < KEPT_BUFFERS_MAX && bytes.capacity() <= KEPT_BUFFER_BYTES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    fn make_room(&mut self, entries_count: usize) {
        loop {
            let submission = self.ring.submission();
            if submission.capacity() - submission.len() >= entries_count {
                return;
            }
            drop(submission);
            self.enters_count += 1;
            // Not taking anything is only ever transient; an error that stays shows in `enter`.
            drop(self.ring.submit());
        }
    }

    fn push(&mut self, entry: Entry) {
        self.make_room(1);
        // SAFETY: what an entry points to outlives its request: addresses are boxed and never
        // removed, options are static, and a send's bytes stay in `flights` until it completes.
        unsafe { self.ring.submission().push(&entry) }.expect("room was made");
    }

    /// Submits what is queued and waits as told. One system call.
    pub fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let (want, nanos) = match wait {
            // A large count with no time: the kernel runs that much deferred work, and returns.
            Wait::Ready => (COMPLETIONS_PER_TURN_MAX, 0),
            Wait::One(nanos) => (1, nanos),
        };
        let second = 1_000_000_000;
        let below_second = u32::try_from(nanos % second).expect("below a second");
        let time = Timespec::new().sec(nanos / second).nsec(below_second);
        self.enters_count += 1;
        let args = SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Copies out what has completed, at most `COMPLETIONS_PER_TURN_MAX`.
    pub fn reap(&mut self, completions: &mut Vec<Completion>) {
        completions.clear();
        let mut batch = [const { MaybeUninit::uninit() }; COMPLETIONS_PER_TURN_MAX];
        let mut queue = self.ring.completion();
        for entry in queue.fill(&mut batch) {
            let (op, slot) = from_user_data(entry.user_data());
            let result = entry.result();
            let slot = match (op, u32::try_from(result)) {
                (Op::Accept, Ok(slot)) => slot,
                _ => slot,
            };
            let (is_armed, buffer) = (more(entry.flags()), buffer_select(entry.flags()));
            completions.push(Completion { op, slot, result, is_armed, buffer });
        }
    }
}

fn option(fixed: Fixed, level: libc::c_int, name: libc::c_int) -> Entry {
    let bytes = u32::try_from(size_of::<libc::c_int>()).expect("four");
    let (level, name) = (level.cast_unsigned(), name.cast_unsigned());
    opcode::SetSockOpt::new(fixed, level, name, (&raw const ONE).cast(), bytes).build()
}

fn user_data(op: Op, slot: u32) -> u64 {
    (u64::from(op as u8) << 56) | u64::from(slot)
}

fn from_user_data(user_data: u64) -> (Op, u32) {
    let number = usize::try_from(user_data >> 56).expect("eight bits");
    let op = OPS[number - 1];
    (op, u32::try_from(user_data & 0xffff_ffff).expect("masked"))
}

/// The provided buffers of one ring.
pub struct Buffers {
    entries: Region,
    memory: Region,
    buffers_count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl Buffers {
    fn new(ring: &IoUring, buffers_count: u16, buffer_bytes: u32) -> io::Result<Self> {
        assert!(buffers_count.is_power_of_two(), "the kernel asks for it");
        let entries = Region::new(usize::from(buffers_count) * size_of::<BufRingEntry>());
        let memory = Region::new(usize::from(buffers_count) * buffer_bytes as usize);
        let address = entries.start.as_ptr() as u64;
        // SAFETY: the region is page-aligned, large enough, and lives until after the ring.
        unsafe {
            let submitter = ring.submitter();
            submitter.register_buf_ring_with_flags(address, buffers_count, BUFFER_GROUP, 0)?;
        }
        let mut buffers = Self { entries, memory, buffers_count, buffer_bytes, tail: 0 };
        for id in 0..buffers_count {
            buffers.recycle(id);
        }
        Ok(buffers)
    }

    /// The first `bytes_count` bytes of buffer `id`, which a completion has named.
    pub fn bytes(&self, id: u16, bytes_count: usize) -> &[u8] {
        assert!(id < self.buffers_count && bytes_count <= self.buffer_bytes as usize);
        // SAFETY: in range of the region, which was zeroed when it was made; the kernel does not
        // write a buffer between its completion and its recycling, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start_of(id), bytes_count) }
    }

    fn start_of(&self, id: u16) -> *const u8 {
        let offset = usize::from(id) * self.buffer_bytes as usize;
        self.memory.start.as_ptr().wrapping_add(offset)
    }

    /// Gives buffer `id` back to the kernel.
    pub fn recycle(&mut self, id: u16) {
        let address = self.start_of(id) as u64;
        let base = self.entries.start.as_ptr().cast::<BufRingEntry>();
        let place = usize::from(self.tail & (self.buffers_count - 1));
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `place` is inside the registered ring, and the kernel does not read that entry
        // until the tail has passed it. The tail lies in the first entry and is 2-aligned.
        unsafe {
            let entry = &mut *base.add(place);
            entry.set_addr(address);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id);
            let tail = AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut());
            tail.store(self.tail, Ordering::Release);
        }
    }
}

/// Zeroed memory on page borders.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("a bounded size");
        assert!(bytes > 0, "an empty region has no address");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Asks for timers that fire within a microsecond instead of fifty, for this thread.
pub fn sharpen_timers() {
    // SAFETY: changes one property of the calling thread and touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_000);
    }
}
