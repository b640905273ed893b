//! The sockets of one simulated shard. Each op is answered as the real driver answers it: one
//! send and one receive a socket, a close only when neither is in flight, bytes of a send read
//! when they leave and not when they were asked for.

use crate::env::{Env, Happening, Place, Token};
use engine::op::{Clock, Event, Op};
use engine::shard::Shard;
use wire::ShardId;

const CONNECTION_RESET: i32 = 104;
const BROKEN_PIPE: i32 = 32;
const CANCELED: i32 = 125;

struct Sending {
    /// What was to be sent when it was asked for.
    asked: Vec<u8>,
    moved: usize,
}

#[derive(Default)]
struct Socket {
    connection: Option<u32>,
    is_taken: bool,
    receiving: bool,
    repeat: bool,
    receive_due: bool,
    sending: Option<Sending>,
    send_due: bool,
    closing: bool,
}

/// See the module.
pub(crate) struct Sockets(Vec<Socket>);

type At = (u64, usize);

impl Sockets {
    pub(crate) fn new(connections_max: u32) -> Self {
        Self((0..connections_max).map(|_| Socket::default()).collect())
    }

    fn socket(&mut self, slot: u32) -> &mut Socket {
        &mut self.0[slot as usize]
    }

    /// A free slot, taken.
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        let slot = self.0.iter().position(|socket| !socket.is_taken)?;
        self.0[slot].is_taken = true;
        Some(u32::try_from(slot).expect("a few sockets"))
    }

    pub(crate) fn release(&mut self, slot: u32) {
        *self.socket(slot) = Socket::default();
    }

    /// Nothing may be armed or in flight on a connection that moves.
    pub(crate) fn take_for_pass(&mut self, slot: u32) -> u32 {
        let socket = self.socket(slot);
        assert!(!socket.receiving && socket.sending.is_none() && !socket.closing);
        socket.connection.take().expect("a connection is passed once")
    }

    pub(crate) fn perform(&mut self, env: &mut Env, at: At, op: Op, shard: &Shard) {
        match op {
            Op::Receive { connection: slot, repeat } => {
                let socket = self.socket(slot);
                assert!(!socket.receiving, "one receive a socket");
                (socket.receiving, socket.repeat) = (true, repeat);
                self.look(env, at, slot);
            }
            Op::Send { connection: slot } => {
                let mut asked = shard.outgoing(slot).collect::<Vec<_>>().concat();
                assert!(!asked.is_empty(), "a send of nothing");
                if env.random.chance(100) {
                    asked.truncate(1 + env.random.index(asked.len()));
                }
                let socket = self.socket(slot);
                assert!(socket.sending.is_none(), "one send a socket: two may interleave");
                socket.sending = Some(Sending { asked, moved: 0 });
                self.look(env, at, slot);
            }
            Op::Shutdown { connection: slot } => {
                if let Some(connection) = self.socket(slot).connection {
                    env.end_down(connection);
                }
            }
            Op::Close { connection: slot } => {
                let socket = self.socket(slot);
                assert!(!socket.closing, "closed once");
                socket.closing = true;
                self.look(env, at, slot);
                self.close_if_quiet(env, at, slot);
            }
            Op::Pass { .. } => unreachable!("it concerns two shards"),
        }
    }

    /// Plans completions for what can go on.
    pub(crate) fn look(&mut self, env: &mut Env, (incarnation, shard): At, slot: u32) {
        let socket = self.socket(slot);
        let Some(connection) = socket.connection else { return };
        let found = &env.connections[&connection];
        let can_end = socket.closing || found.is_reset;
        let can_send = can_end || found.client_ended;
        let can_receive = can_end || !found.inbox.is_empty() || found.inbox_ended;
        if socket.receiving && !socket.receive_due && can_receive {
            socket.receive_due = true;
            let (delay, token) = (env.random.delay(20), Token::Receive { slot });
            env.after(delay, Happening::Socket { incarnation, shard, token });
        }
        let can_send = can_send || env.down_room(connection) > 0;
        let socket = self.socket(slot);
        if socket.sending.is_some() && !socket.send_due && can_send {
            socket.send_due = true;
            let (delay, token) = (env.random.delay(20), Token::Send { slot });
            env.after(delay, Happening::Socket { incarnation, shard, token });
        }
    }

    fn close_if_quiet(&mut self, env: &mut Env, (incarnation, shard): At, slot: u32) {
        let socket = self.socket(slot);
        if !socket.closing || socket.receiving || socket.sending.is_some() {
            return;
        }
        if let Some(connection) = socket.connection.take() {
            let found = env.connections.get_mut(&connection).expect("it was open");
            found.place = Place::Gone;
            // Bytes that nobody read make the kernel say so to the peer.
            if !found.inbox.is_empty() && env.random.chance(500) {
                env.reset(connection);
            } else {
                env.end_down(connection);
            }
        }
        let (delay, token) = (env.random.delay(20), Token::Close { slot });
        env.after(delay, Happening::Socket { incarnation, shard, token });
    }

    pub(crate) fn complete(
        &mut self,
        env: &mut Env,
        at: At,
        token: Token,
        (clock, turns_count, shard): (Clock, u64, &mut Shard),
    ) {
        match token {
            Token::Accept { connection } => {
                if env.connections[&connection].is_reset {
                    return;
                }
                let Some(slot) = self.reserve() else {
                    // It stays in the backlog until a slot is free.
                    env.after(20_000, Happening::Dial { connection });
                    return;
                };
                self.settle(env, at, connection, slot);
                shard.handle(clock, Event::Accepted { connection: slot });
            }
            Token::Arrive { connection, slot, from, ticket, turns } => {
                self.settle(env, at, connection, slot);
                env.counters.hit(match turns_count > turns {
                    true => "papers before their connection",
                    false => "connections before their papers",
                });
                let from = ShardId(from);
                shard.handle(clock, Event::Arrived { connection: slot, from, ticket });
            }
            Token::Receive { slot } => self.received(env, at, slot, (clock, shard)),
            Token::Send { slot } => self.sent(env, at, slot, (clock, shard)),
            Token::Close { slot } => {
                self.release(slot);
                shard.handle(clock, Event::Closed { connection: slot });
            }
            Token::Passed { slot, error } => {
                self.release(slot);
                shard.handle(clock, Event::Passed { connection: slot, error });
            }
        }
    }

    fn settle(&mut self, env: &mut Env, (_, shard): At, connection: u32, slot: u32) {
        self.socket(slot).connection = Some(connection);
        let found = env.connections.get_mut(&connection).expect("it was dialed");
        found.place = Place::Slot { shard, slot };
    }

    fn received(&mut self, env: &mut Env, at: At, slot: u32, (clock, shard): (Clock, &mut Shard)) {
        let socket = self.socket(slot);
        assert!(std::mem::replace(&mut socket.receive_due, false) && socket.receiving);
        let connection = socket.connection.expect("receiving");
        if socket.closing {
            socket.receiving = false;
            return self.close_if_quiet(env, at, slot);
        }
        let found = env.connections.get_mut(&connection).expect("open");
        if found.is_reset {
            socket.receiving = false;
            let error = Some(CONNECTION_RESET);
            return shard.handle(clock, Event::Ended { connection: slot, error });
        }
        if found.inbox.is_empty() {
            assert!(found.inbox_ended, "why else was it looked at");
            socket.receiving = false;
            return shard.handle(clock, Event::Ended { connection: slot, error: None });
        }
        socket.receiving = socket.repeat;
        let buffer_bytes = env.random.pick(&[1, 16, 512, 4096]);
        let length = found.inbox.len().min(buffer_bytes);
        let bytes: Vec<u8> = found.inbox.drain(..length).collect();
        env.trace.bytes(&bytes);
        shard.handle(clock, Event::Received { connection: slot, bytes: &bytes });
        self.look(env, at, slot);
    }

    fn sent(&mut self, env: &mut Env, at: At, slot: u32, (clock, shard): (Clock, &mut Shard)) {
        let socket = self.socket(slot);
        assert!(std::mem::replace(&mut socket.send_due, false));
        let connection = socket.connection.expect("sending");
        let sending = socket.sending.as_mut().expect("one is due");
        let found = &env.connections[&connection];
        let failed = match (socket.closing, found.is_reset, found.client_ended) {
            (true, ..) => Some(CANCELED),
            (_, true, _) => Some(CONNECTION_RESET),
            (_, _, true) => Some(BROKEN_PIPE),
            _ => None,
        };
        let moved_before = sending.moved;
        if failed.is_none() {
            let room = env.down_room(connection);
            let length = room.min(sending.asked.len() - moved_before);
            // What leaves is what the shard holds now; a buffer used too early shows here.
            let held = shard.outgoing(slot).collect::<Vec<_>>().concat();
            let leaving = &held[moved_before..moved_before + length];
            let asked = &sending.asked[moved_before..moved_before + length];
            assert!(leaving == asked, "bytes in flight changed under the kernel's hands");
            sending.moved += length;
            env.trace.bytes(leaving);
            env.send_down(connection, leaving);
        }
        let (moved, is_whole) = (sending.moved, sending.moved == sending.asked.len());
        let result = match failed {
            None if is_whole => Ok(moved),
            None => return self.look(env, at, slot),
            Some(_) if moved > 0 => Ok(moved),
            Some(error) => Err(error),
        };
        socket.sending = None;
        let is_closing = socket.closing;
        let result = result.map(|bytes| u32::try_from(bytes).expect("a queue is bounded"));
        shard.handle(clock, Event::Sent { connection: slot, result });
        if is_closing {
            return self.close_if_quiet(env, at, slot);
        }
        self.look(env, at, slot);
    }
}
