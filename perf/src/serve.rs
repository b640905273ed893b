//! The listening end of a probe: accept, receive, and what the probe is about.

use crate::relay::Relay;
use bench::clock::{self, MILLISECOND, Nanos};
use bench::outbox::Outbox;
use bench::uring::{Completion, FULL_TURN, Op, Sizes, Uring, Wait, sharpen_timers};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Accepts that wait in the kernel at a time.
const ACCEPTS_COUNT: u32 = 32;
/// The usual `somaxconn`.
const BACKLOG: i32 = 4096;
/// Longest sleep, so that a stop is heard.
const SLEEP_MAX: Nanos = 5 * MILLISECOND;

/// What is done with the bytes.
pub(crate) enum Work {
    /// Nothing: they are thrown away.
    Sink,
    /// They go back.
    Echo,
    /// They go where they say.
    Relay(Relay),
}

/// When to stop, and how much to take on.
#[derive(Clone, Copy)]
pub(crate) struct Bounds<'a> {
    pub(crate) until: Nanos,
    pub(crate) connections_max: u32,
    /// Set by another thread.
    pub(crate) stop: &'a AtomicBool,
    /// Connections held, over all threads that share it.
    pub(crate) held: &'a AtomicU64,
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Served {
    pub(crate) accepted: u64,
    pub(crate) received_bytes: u64,
    pub(crate) receives: u64,
    pub(crate) sends: u64,
    pub(crate) enters: u64,
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
}

#[derive(Clone, Default)]
struct Connection {
    partial: Vec<u8>,
    is_open: bool,
    is_ending: bool,
    is_receiving: bool,
}

struct Server<'a> {
    uring: Uring,
    outbox: Outbox,
    work: Work,
    connections: Vec<Connection>,
    listener: &'a TcpListener,
    bounds: Bounds<'a>,
    accepts_out: u32,
    open_count: u32,
    rearms: Vec<u32>,
    served: Served,
}

/// Listens with a queue as long as the kernel allows: a dialler opens hundreds at a time.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?; // what is accepted inherits it
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves `listener` until its bounds say so.
pub(crate) fn serve(listener: &TcpListener, work: Work, bounds: Bounds<'_>) -> io::Result<Served> {
    sharpen_timers();
    let slots_count = bounds.connections_max + ACCEPTS_COUNT;
    let (buffers_count, buffer_bytes) = (1024, 16 * 1024);
    let mut server = Server {
        uring: Uring::new(Sizes { slots_count, buffers_count, buffer_bytes })?,
        outbox: Outbox::new(slots_count as usize),
        work,
        connections: vec![Connection::default(); slots_count as usize],
        listener,
        bounds,
        accepts_out: 0,
        open_count: 0,
        rearms: Vec::new(),
        served: Served::default(),
    };
    server.run()?;
    server.served.enters = server.uring.enters_count();
    if let Work::Relay(relay) = &server.work {
        server.served.forwarded = relay.forwarded;
        server.served.dropped = relay.dropped;
    }
    Ok(server.served)
}

impl Server<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        while clock::now() < self.bounds.until && !self.bounds.stop.load(Ordering::Relaxed) {
            while self.accepts_out < ACCEPTS_COUNT
                && self.open_count + self.accepts_out < self.bounds.connections_max
            {
                self.uring.accept(self.listener);
                self.accepts_out += 1;
            }
            for slot in self.rearms.drain(..) {
                self.connections[slot as usize].is_receiving = true;
                self.uring.receive(slot);
            }
            self.served.sends += self.outbox.flush(&mut self.uring) as u64;
            let is_busy = completions.len() >= FULL_TURN;
            self.uring.enter(if is_busy { Wait::Ready } else { Wait::One(SLEEP_MAX) })?;
            self.uring.reap(&mut completions);
            for completion in &completions {
                self.complete(completion);
            }
        }
        Ok(())
    }

    fn complete(&mut self, completion: &Completion) {
        let Completion { op, slot, result, .. } = *completion;
        match op {
            Op::Accept => {
                self.accepts_out -= 1;
                if result >= 0 {
                    self.served.accepted += 1;
                    self.open_count += 1;
                    self.bounds.held.fetch_add(1, Ordering::Relaxed);
                    self.connections[slot as usize] =
                        Connection { is_open: true, ..Connection::default() };
                    self.rearms.push(slot);
                }
            }
            Op::Receive => self.receive(completion),
            Op::Send => {
                let Some(outcome) = self.uring.sent(slot, result) else { return };
                self.outbox.sent(slot);
                if outcome.is_err() {
                    self.end(slot);
                }
                self.close_if_quiet(slot);
            }
            Op::Close => {
                self.open_count -= 1;
                self.bounds.held.fetch_sub(1, Ordering::Relaxed);
            }
            Op::Open | Op::Prepare => {}
        }
    }

    fn receive(&mut self, completion: &Completion) {
        let Completion { slot, result, buffer, is_armed, .. } = *completion;
        self.connections[slot as usize].is_receiving = is_armed;
        if let (Some(id), Ok(bytes_count)) = (buffer, usize::try_from(result)) {
            self.served.receives += 1;
            self.served.received_bytes += bytes_count as u64;
            let is_good = self.take(slot, id, bytes_count);
            self.uring.buffers.recycle(id);
            if !is_good {
                self.end(slot);
            }
        }
        if is_armed {
            return;
        }
        if result > 0 || completion.is_out_of_buffers() {
            if !self.connections[slot as usize].is_ending {
                self.rearms.push(slot);
            }
        } else {
            self.end(slot);
        }
        self.close_if_quiet(slot);
    }

    /// Gives the bytes to the work; `false` where it cannot make sense of them.
    fn take(&mut self, slot: u32, id: u16, bytes_count: usize) -> bool {
        let bytes = self.uring.buffers.bytes(id, bytes_count);
        let connection = &mut self.connections[slot as usize];
        match &mut self.work {
            _ if connection.is_ending => true,
            Work::Sink => true,
            Work::Echo => {
                self.outbox.buffer(slot).extend_from_slice(bytes);
                true
            }
            Work::Relay(relay) if connection.partial.is_empty() => {
                let taken = relay.received(&mut self.outbox, slot, bytes);
                let Ok(taken) = taken else { return false };
                connection.partial.extend_from_slice(&bytes[taken..]);
                true
            }
            Work::Relay(relay) => {
                connection.partial.extend_from_slice(bytes);
                let taken = relay.received(&mut self.outbox, slot, &connection.partial);
                let Ok(taken) = taken else { return false };
                connection.partial.drain(..taken);
                true
            }
        }
    }

    fn end(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.is_ending || !connection.is_open {
            return;
        }
        connection.is_ending = true;
        self.outbox.forget(slot);
        if let Work::Relay(relay) = &mut self.work {
            relay.forget(slot);
        }
        if connection.is_receiving {
            self.uring.cancel_receive(slot);
        }
    }

    fn close_if_quiet(&mut self, slot: u32) {
        let is_flying = self.outbox.is_flying(slot);
        let connection = &mut self.connections[slot as usize];
        let is_quiet = !connection.is_receiving && !is_flying;
        if connection.is_ending && connection.is_open && is_quiet {
            connection.is_open = false;
            self.uring.close(slot);
        }
    }
}
