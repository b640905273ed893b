//! What io_uring does here, found out by asking for it.
//!
//! Versions lie: a distribution ports features back, a container's filter takes them away.

use crate::{Finding, Subject, System, Verdict, Wanted};
use io_uring::{IoUring, Probe, opcode};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;

/// Every operation that the engine submits.
const OPCODES: &[(&str, u8)] = &[
    ("accept", opcode::Accept::CODE),
    ("recv", opcode::Recv::CODE),
    ("send", opcode::Send::CODE),
    ("sendmsg", opcode::SendMsg::CODE),
    ("shutdown", opcode::Shutdown::CODE),
    ("close", opcode::Close::CODE),
    ("read", opcode::Read::CODE),
    ("write", opcode::Write::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("timeout", opcode::Timeout::CODE),
    ("async_cancel", opcode::AsyncCancel::CODE),
    ("msg_ring", opcode::MsgRingData::CODE),
];

/// Entries of the buffer ring that is tried.
const BUFFERS_COUNT: u16 = 64;
/// The most files that are tried in one table: the answer for more is the same.
const FILES_MAX: u64 = 1 << 20;

pub(crate) fn findings(wanted: &Wanted) -> Vec<Finding> {
    let subject = Subject { name: "io_uring", why: "every byte of the engine goes through it" };
    let plain = match IoUring::new(8) {
        Ok(uring) => uring,
        Err(error) => {
            let measured = format!("a ring cannot be made: {error}");
            let mend = match error.raw_os_error() {
                Some(libc::EPERM) => {
                    "sysctl -w kernel.io_uring_disabled=0, or let the container's seccomp profile \
                     allow io_uring_setup, io_uring_enter and io_uring_register"
                }
                Some(libc::ENOMEM) => "raise the limit on locked memory: ulimit -l",
                _ => "a kernel built with CONFIG_IO_URING",
            };
            return vec![subject.short(Verdict::Blocks, (measured, "a ring"), mend)];
        }
    };
    vec![
        subject.fine("a ring can be made", "a ring"),
        setup_flags(),
        opcodes(&plain),
        file_table(&plain, wanted),
        buffer_ring(&plain),
    ]
}

fn setup_flags() -> Finding {
    let subject = Subject {
        name: "io_uring: deferred task work",
        why: "completions come when the shard asks, not as interruptions; without it the engine \
              runs, with more of them",
    };
    let wanted = "SINGLE_ISSUER and DEFER_TASKRUN";
    let mut builder = IoUring::<io_uring::squeue::Entry>::builder();
    match builder.setup_single_issuer().setup_defer_taskrun().build(8) {
        Ok(_) => subject.fine("both taken", wanted),
        Err(error) => {
            let measured = format!("refused: {error}");
            subject.short(Verdict::Advice, (measured, wanted), "a kernel of 6.1 or later")
        }
    }
}

fn opcodes(uring: &IoUring) -> Finding {
    let subject = Subject {
        name: "io_uring: operations",
        why: "the engine submits each of them and has no other way",
    };
    let wanted = "all that the engine uses";
    let mut probe = Probe::new();
    if let Err(error) = uring.submitter().register_probe(&mut probe) {
        let measured = format!("the kernel does not list them: {error}");
        return subject.short(Verdict::Blocks, (measured, wanted), "a kernel of 6.1 or later");
    }
    let is_missing = |(_, code): &&(&str, u8)| !probe.is_supported(*code);
    let missing: Vec<_> = OPCODES.iter().filter(is_missing).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return subject.fine(format!("all {}", OPCODES.len()), wanted);
    }
    let measured = format!("missing: {}", missing.join(", "));
    subject.short(Verdict::Blocks, (measured, wanted), "a kernel of 6.1 or later")
}

fn file_table(uring: &IoUring, wanted: &Wanted) -> Finding {
    let subject = Subject {
        name: "io_uring: file table",
        why: "connections live in the ring's own table of files, which may not be larger than the \
              limit on open files",
    };
    let shards = System::here().cpus_allowed().len().max(1) as u64;
    let files = wanted.connections.div_ceil(shards).clamp(1, FILES_MAX);
    let count = u32::try_from(files).expect("clamped");
    let words = format!("a sparse table of {files}");
    match uring.submitter().register_files_sparse(count) {
        Ok(()) => subject.fine(format!("{files} taken"), words),
        Err(error) => {
            let mend = format!("ulimit -n {} before the server starts", files + 256);
            subject.short(Verdict::Blocks, (format!("refused: {error}"), words), mend)
        }
    }
}

fn buffer_ring(uring: &IoUring) -> Finding {
    let subject = Subject {
        name: "io_uring: buffer ring",
        why: "receives take a buffer from it only when bytes have come, so that an idle connection \
              holds none",
    };
    let wanted = "one can be registered";
    match register_buffer_ring(uring) {
        Ok(()) => subject.fine("registered", wanted),
        Err(error) => {
            let mend = "a kernel of 6.1 or later, and enough locked memory (ulimit -l)";
            subject.short(Verdict::Blocks, (format!("refused: {error}"), wanted), mend)
        }
    }
}

/// Registers an empty buffer ring and takes it away again.
#[expect(unsafe_code, reason = "the kernel is given an address")]
fn register_buffer_ring(uring: &IoUring) -> io::Result<()> {
    const ENTRY_BYTES: usize = 16;
    let layout = Layout::from_size_align(usize::from(BUFFERS_COUNT) * ENTRY_BYTES, 4096)
        .expect("a small power of two");
    // SAFETY: the layout is not of size zero.
    let memory = unsafe { alloc_zeroed(layout) };
    assert!(!memory.is_null(), "1 KiB can be allocated");
    // SAFETY: the memory is page-aligned, holds `BUFFERS_COUNT` entries of 16 bytes, and outlives
    // the registration, which ends below; no receive is ever submitted that would use it.
    let registered = unsafe {
        uring.submitter().register_buf_ring_with_flags(memory as u64, BUFFERS_COUNT, 0, 0)
    };
    let outcome = registered.and_then(|()| uring.submitter().unregister_buf_ring(0));
    // SAFETY: allocated above with this layout. Where taking it back failed, the kernel still has
    // its own hold on the page, and reads it only for a receive, of which there is none.
    unsafe { dealloc(memory, layout) };
    outcome
}
