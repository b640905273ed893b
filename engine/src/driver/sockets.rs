//! The sockets of one shard: which are receiving, sending, closing; and the ops that get them
//! there. The kernel's slot number is our connection number: a slot is closed only when nothing is
//! armed or in flight on it, so no late completion can meet its next tenant.
#![expect(unsafe_code, reason = "sends name memory that the kernel reads later")]

use super::buffers::Buffers;
use super::uring::{Completion, Key, Kind, Uring};
use crate::op::{Clock, Event};
use crate::shard::Shard;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use wire::ShardId;

#[derive(Clone, Copy, Default)]
struct Socket {
    generation: u32,
    receiving: bool,
    repeat: bool,
    sending: bool,
    closing: bool,
    /// The errno of a failed pass.
    pass_error: i32,
}

/// All sockets of a shard, by slot.
pub(super) struct Sockets {
    pub(super) uring: Uring,
    buffers: Buffers,
    sockets: Vec<Socket>,
    /// Connections and generations whose receive found no free buffer, oldest first.
    parked: VecDeque<(u32, u32)>,
    listener: Option<RawFd>,
    accepts_armed: u32,
    open_count: u32,
    connections_max: u32,
    accepts_max: u32,
    pub(super) receives_without_buffer: u64,
}

impl Sockets {
    pub(super) fn new(
        mut uring: Uring,
        mut buffers: Buffers,
        listener: Option<RawFd>,
        connections_max: u32,
        accepts_max: u32,
    ) -> io::Result<Self> {
        uring.register_buffers(&mut buffers)?;
        Ok(Self {
            uring,
            buffers,
            sockets: vec![Socket::default(); connections_max as usize],
            parked: VecDeque::with_capacity(connections_max as usize),
            listener,
            accepts_armed: 0,
            open_count: 0,
            connections_max,
            accepts_max,
            receives_without_buffer: 0,
        })
    }

    /// No accept is armed from here on.
    pub(super) fn stop_accepting(&mut self) {
        self.listener = None;
    }

    /// Keeps a bounded number of accepts armed while there is room: a table that is full would
    /// accept and drop.
    pub(super) fn top_up_accepts(&mut self) -> io::Result<()> {
        let Some(listener) = self.listener else { return Ok(()) };
        let room = self.connections_max.saturating_sub(self.open_count + self.accepts_armed);
        let wanted = self.accepts_max.saturating_sub(self.accepts_armed).min(room);
        for _ in 0..wanted {
            self.uring.accept(listener)?;
            self.accepts_armed += 1;
        }
        Ok(())
    }

    fn key(&self, kind: Kind, connection: u32) -> Key {
        Key::new(kind, connection, self.sockets[connection as usize].generation)
    }

    pub(super) fn receive(&mut self, connection: u32, repeat: bool) -> io::Result<()> {
        let key = self.key(Kind::Receive, connection);
        let socket = &mut self.sockets[connection as usize];
        assert!(!socket.receiving, "one receive a socket");
        socket.receiving = true;
        socket.repeat = repeat;
        self.uring.receive(key, repeat)
    }

    pub(super) fn send(&mut self, connection: u32, shard: &Shard) -> io::Result<()> {
        let key = self.key(Kind::Send, connection);
        let socket = &mut self.sockets[connection as usize];
        assert!(!socket.sending, "one send a socket: two may interleave");
        socket.sending = true;
        // SAFETY: the outbox keeps a counted reference to every block of this connection's queue
        // until `Event::Sent`, and a committed range of a block neither moves nor changes.
        unsafe { self.uring.send(key, shard.outgoing(connection)) }
    }

    pub(super) fn shutdown(&mut self, connection: u32) -> io::Result<()> {
        self.uring.shutdown(connection)
    }

    pub(super) fn close(&mut self, connection: u32) -> io::Result<()> {
        let socket = self.sockets[connection as usize];
        assert!(!socket.closing, "closed once");
        self.sockets[connection as usize].closing = true;
        if socket.receiving {
            self.uring.cancel(self.key(Kind::Receive, connection))?;
        }
        if socket.sending {
            self.uring.cancel(self.key(Kind::Send, connection))?;
        }
        self.close_if_quiet(connection)
    }

    fn close_if_quiet(&mut self, connection: u32) -> io::Result<()> {
        let socket = self.sockets[connection as usize];
        if socket.closing && !socket.receiving && !socket.sending {
            return self.uring.close(self.key(Kind::Close, connection));
        }
        Ok(())
    }

    pub(super) fn pass(
        &mut self,
        connection: u32,
        target: RawFd,
        from: ShardId,
        ticket: u32,
    ) -> io::Result<()> {
        let socket = self.sockets[connection as usize];
        assert!(!socket.receiving && !socket.sending && !socket.closing);
        let arrival = Key::new(Kind::Arrived, u32::from(from.0), ticket);
        self.uring.pass(self.key(Kind::Pass, connection), target, arrival)
    }

    /// Turns one completion into what the shard hears.
    pub(super) fn complete(
        &mut self,
        clock: Clock,
        completion: Completion,
        shard: &mut Shard,
    ) -> io::Result<()> {
        let Key { kind, connection, generation } = completion.key;
        match kind {
            Kind::Accept => self.accepted(clock, completion.result, shard),
            Kind::Arrived => self.arrived(clock, completion, shard),
            Kind::Receive => self.received(clock, completion, shard),
            Kind::Send => self.sent(clock, completion, shard),
            Kind::Pass => {
                if completion.result < 0 {
                    self.sockets[connection as usize].pass_error = -completion.result;
                }
                Ok(())
            }
            Kind::Close => {
                assert_eq!(self.sockets[connection as usize].generation, generation);
                self.closed(clock, connection, shard);
                Ok(())
            }
            Kind::Cancel | Kind::Doorbell | Kind::Shutdown => Ok(()),
        }
    }

    fn accepted(&mut self, clock: Clock, result: i32, shard: &mut Shard) -> io::Result<()> {
        self.accepts_armed -= 1;
        // A peer that gave up between its handshake and here, or a moment without memory: the
        // accept is armed again at the end of the turn.
        let Ok(connection) = u32::try_from(result) else { return Ok(()) };
        self.open(connection);
        shard.handle(clock, Event::Accepted { connection });
        Ok(())
    }

    fn open(&mut self, connection: u32) {
        let generation = self.sockets[connection as usize].generation.wrapping_add(1);
        self.sockets[connection as usize] = Socket { generation, ..Socket::default() };
        self.open_count += 1;
    }

    fn arrived(
        &mut self,
        clock: Clock,
        completion: Completion,
        shard: &mut Shard,
    ) -> io::Result<()> {
        let from = ShardId(u16::try_from(completion.key.connection).expect("packed from a u16"));
        let ticket = completion.key.generation;
        let connection = u32::try_from(completion.result).expect("the kernel names the slot");
        self.open(connection);
        shard.handle(clock, Event::Arrived { connection, from, ticket });
        Ok(())
    }

    fn closed(&mut self, clock: Clock, connection: u32, shard: &mut Shard) {
        let socket = self.sockets[connection as usize];
        self.open_count -= 1;
        if socket.closing {
            shard.handle(clock, Event::Closed { connection });
        } else {
            let error = (socket.pass_error != 0).then_some(socket.pass_error);
            shard.handle(clock, Event::Passed { connection, error });
        }
    }

    fn received(
        &mut self,
        clock: Clock,
        completion: Completion,
        shard: &mut Shard,
    ) -> io::Result<()> {
        let connection = completion.key.connection;
        let buffer = completion.buffer();
        if buffer.is_some() {
            self.buffers.note_taken();
        }
        let socket = &mut self.sockets[connection as usize];
        assert_eq!(socket.generation, completion.key.generation, "a slot closes when it is quiet");
        socket.receiving = completion.has_more();
        let is_closing = socket.closing;
        let is_over = !socket.receiving;
        let wants_more = socket.repeat;
        if let (Some(buffer), Ok(length @ 1..)) = (buffer, usize::try_from(completion.result))
            && !is_closing
        {
            let bytes = self.buffers.bytes(buffer, length);
            shard.handle(clock, Event::Received { connection, bytes });
        }
        if let Some(buffer) = buffer {
            self.buffers.give_back(buffer);
        }
        if is_closing {
            return self.close_if_quiet(connection);
        }
        match completion.result {
            // Ended by the kernel's own choice, with bytes: go on.
            1.. if is_over && wants_more => self.receive(connection, true),
            1.. => Ok(()),
            result if result == -libc::ENOBUFS => {
                self.receives_without_buffer += 1;
                self.buffers.note_empty();
                self.parked.push_back((connection, completion.key.generation));
                Ok(())
            }
            0 => {
                shard.handle(clock, Event::Ended { connection, error: None });
                Ok(())
            }
            errno => {
                shard.handle(clock, Event::Ended { connection, error: Some(-errno) });
                Ok(())
            }
        }
    }

    /// Shows the kernel the buffers that came back, and arms the receives that waited for one.
    pub(super) fn return_buffers(&mut self) -> io::Result<()> {
        self.buffers.publish();
        while self.buffers.has_plenty() {
            let Some((connection, generation)) = self.parked.pop_front() else { break };
            let socket = self.sockets[connection as usize];
            if socket.generation == generation && !socket.receiving && !socket.closing {
                self.receive(connection, socket.repeat)?;
            }
        }
        Ok(())
    }

    fn sent(&mut self, clock: Clock, completion: Completion, shard: &mut Shard) -> io::Result<()> {
        let connection = completion.key.connection;
        let socket = &mut self.sockets[connection as usize];
        assert_eq!(socket.generation, completion.key.generation, "a slot closes when it is quiet");
        socket.sending = false;
        let is_closing = socket.closing;
        let result = u32::try_from(completion.result).map_err(|_| -completion.result);
        shard.handle(clock, Event::Sent { connection, result });
        if is_closing {
            return self.close_if_quiet(connection);
        }
        Ok(())
    }
}
