//! What everything in the simulated world shares: time, chance, what is to happen, the network.

use crate::counters::Counters;
use crate::disk::Disk;
use crate::options::Options;
use crate::oracle::Oracle;
use crate::random::Random;
use crate::trace::Trace;
use engine::op::Clock;
use std::collections::{BTreeMap, VecDeque};

/// The wall when a world begins: some day in 2026.
const WALL_MILLIS: u64 = 1_790_000_000_000;

/// Something that will happen.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Turn { incarnation: u64, shard: usize },
    Socket { incarnation: u64, shard: usize, token: Token },
    DiskDone { incarnation: u64, shard: usize, op: u64 },
    Dial { connection: u32 },
    Up { connection: u32, bytes: Vec<u8> },
    UpEnd { connection: u32 },
    Down { connection: u32, bytes: Vec<u8> },
    DownEnd { connection: u32 },
    ClientStep { client: usize },
    ClientRead { connection: u32 },
    WriteBack,
    Chaos,
    Restart,
}

/// A completion for a shard's sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token {
    Accept { connection: u32 },
    Arrive { connection: u32, slot: u32, from: u16, ticket: u32, turns: u64 },
    Receive { slot: u32 },
    Send { slot: u32 },
    Close { slot: u32 },
    Passed { slot: u32, error: Option<i32> },
}

/// Where a connection's server end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Dialing,
    Slot {
        shard: usize,
        slot: u32,
    },
    /// Between two shards.
    Moving,
    Gone,
}

/// One TCP connection, both ends.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) place: Place,
    /// Arrived and not read by the server.
    pub(crate) inbox: VecDeque<u8>,
    pub(crate) inbox_ended: bool,
    pub(crate) is_reset: bool,
    /// Arrived and not read by the client.
    pub(crate) client_inbox: VecDeque<u8>,
    pub(crate) client_ended: bool,
    pub(crate) down_in_flight: usize,
    last_up: u64,
    last_down: u64,
}

/// See the module.
pub(crate) struct Env {
    pub(crate) time: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued_count: u64,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) counters: Counters,
    pub(crate) options: Options,
    pub(crate) oracle: Oracle,
    pub(crate) disk: Disk,
    pub(crate) connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    /// Faults may fire.
    pub(crate) is_stormy: bool,
    pub(crate) wall_offset_millis: i64,
    /// A resume token that some honest device holds.
    pub(crate) some_token: Option<Vec<u8>>,
    /// Until when making files finds no room.
    pub(crate) full_until: u64,
}

impl Env {
    pub(crate) fn new(options: Options, random: Random, trace: Trace) -> Self {
        let retires = options.has_retention();
        Self {
            time: 0,
            queue: BTreeMap::new(),
            queued_count: 0,
            random,
            trace,
            counters: Counters::default(),
            oracle: Oracle::new(options.dedup_entries_max, retires),
            options,
            disk: Disk::default(),
            connections: BTreeMap::new(),
            next_connection: 0,
            is_stormy: true,
            wall_offset_millis: 0,
            some_token: None,
            full_until: 0,
        }
    }

    pub(crate) fn after(&mut self, micros: u64, happening: Happening) {
        self.at(self.time + micros, happening);
    }

    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
        self.queued_count += 1;
        self.queue.insert((time, self.queued_count), happening);
    }

    /// Goes on to what happens next.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let ((time, _), happening) = self.queue.pop_first()?;
        assert!(time >= self.time, "time goes forwards");
        self.time = time;
        Some(happening)
    }

    pub(crate) fn wall_millis(&self) -> u64 {
        (WALL_MILLIS + self.time / 1000).saturating_add_signed(self.wall_offset_millis)
    }

    pub(crate) fn clock(&self, started_at: u64) -> Clock {
        let micros = self.time - started_at;
        Clock { now: micros / 1000, wall: self.wall_millis(), micros }
    }

    /// A client connects; the server hears of it a little later.
    pub(crate) fn dial(&mut self, client: usize) -> u32 {
        self.next_connection += 1;
        let id = self.next_connection;
        let connection = Connection {
            client,
            place: Place::Dialing,
            inbox: VecDeque::new(),
            inbox_ended: false,
            is_reset: false,
            client_inbox: VecDeque::new(),
            client_ended: false,
            down_in_flight: 0,
            last_up: 0,
            last_down: 0,
        };
        self.connections.insert(id, connection);
        let delay = self.random.delay(self.options.network_micros);
        self.after(delay, Happening::Dial { connection: id });
        id
    }

    fn split(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        let piece_max = self.random.pick(&[1, 7, 64, 1024, 65_536]);
        while !rest.is_empty() {
            // A thousand single bytes of one frame say no more than sixty.
            let piece_max = if pieces.len() > 60 { rest.len() } else { piece_max };
            let length = 1 + self.random.index(piece_max.min(rest.len()));
            let (piece, after) = rest.split_at(length);
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces
    }

    pub(crate) fn send_up(&mut self, id: u32, bytes: &[u8]) {
        for piece in self.split(bytes) {
            let at = self.up_time(id);
            self.at(at, Happening::Up { connection: id, bytes: piece });
        }
    }

    pub(crate) fn end_up(&mut self, id: u32) {
        let at = self.up_time(id);
        self.at(at, Happening::UpEnd { connection: id });
    }

    pub(crate) fn send_down(&mut self, id: u32, bytes: &[u8]) {
        let found = self.connections.get_mut(&id).expect("an open socket has a connection");
        found.down_in_flight += bytes.len();
        for piece in self.split(bytes) {
            let at = self.down_time(id);
            self.at(at, Happening::Down { connection: id, bytes: piece });
        }
    }

    pub(crate) fn end_down(&mut self, id: u32) {
        let at = self.down_time(id);
        self.at(at, Happening::DownEnd { connection: id });
    }

    /// Bytes keep their order whatever the delay.
    fn up_time(&mut self, id: u32) -> u64 {
        let arrives = self.time + self.random.delay(self.options.network_micros);
        let Some(connection) = self.connections.get_mut(&id) else { return arrives };
        connection.last_up = connection.last_up.max(arrives);
        connection.last_up
    }

    fn down_time(&mut self, id: u32) -> u64 {
        let arrives = self.time + self.random.delay(self.options.network_micros);
        let Some(connection) = self.connections.get_mut(&id) else { return arrives };
        connection.last_down = connection.last_down.max(arrives);
        connection.last_down
    }

    /// Connections that some shard has.
    pub(crate) fn open_connections(&self) -> impl Iterator<Item = u32> + '_ {
        let open = |connection: &Connection| {
            matches!(connection.place, Place::Slot { .. }) && !connection.is_reset
        };
        self.connections.iter().filter(move |(_, it)| open(it)).map(|(id, _)| *id)
    }

    /// The connection breaks: what is in flight in either direction is lost.
    pub(crate) fn reset(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.is_reset = true;
        connection.inbox.clear();
        let delay = self.random.delay(self.options.network_micros);
        self.after(delay, Happening::DownEnd { connection: id });
    }

    /// Room for bytes on their way to the client.
    pub(crate) fn down_room(&self, id: u32) -> usize {
        let connection = &self.connections[&id];
        let held = connection.client_inbox.len() + connection.down_in_flight;
        self.options.window_bytes.saturating_sub(held)
    }
}
