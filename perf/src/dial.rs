//! The connecting end of a probe.

use bench::clock::{self, MILLISECOND, Nanos};
use bench::outbox::Outbox;
use bench::uring::{Completion, FULL_TURN, Op, Sizes, Uring, Wait, sharpen_timers};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SLEEP_MAX: Nanos = 5 * MILLISECOND;
const OPENING_MAX: u32 = 256;
const CONNECTIONS_PER_SOURCE: u32 = 25_000;

/// What is done once connected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// Nothing.
    Hold,
    /// One message of so many bytes to and fro.
    Ping(usize),
    /// One send of so many bytes after the other.
    Flood(usize),
}

/// When to stop, and where all shall meet before they begin.
#[derive(Clone, Copy)]
pub(crate) struct Dialing<'a> {
    pub(crate) target: SocketAddr,
    pub(crate) until: &'a AtomicU64,
    pub(crate) stop: &'a AtomicBool,
    /// Connections open, over all threads.
    pub(crate) open: &'a AtomicU64,
    /// Begin when so many are.
    pub(crate) connections_all: u64,
}

/// What a dialling thread has done since all connections were open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dialed {
    pub(crate) rounds: u64,
    pub(crate) failed: u64,
    pub(crate) began: Nanos,
    pub(crate) ended: Nanos,
    pub(crate) enters: u64,
}

struct Dialer<'a> {
    uring: Uring,
    outbox: Outbox,
    habit: Habit,
    dialing: Dialing<'a>,
    owed: Vec<usize>,
    dialed: Dialed,
    opening: u32,
    rearms: Vec<u32>,
}

/// Opens the connections `indices` of all, and keeps its habit until told to stop.
pub(crate) fn dial(indices: Range<u32>, habit: Habit, dialing: Dialing<'_>) -> io::Result<Dialed> {
    sharpen_timers();
    let slots_count = indices.end - indices.start;
    let sizes = Sizes { slots_count, buffers_count: 1024, buffer_bytes: 4096 };
    let mut dialer = Dialer {
        uring: Uring::new(sizes)?,
        outbox: Outbox::new(slots_count as usize),
        habit,
        dialing,
        owed: vec![0; slots_count as usize],
        dialed: Dialed::default(),
        opening: 0,
        rearms: Vec::new(),
    };
    dialer.run(&indices)?;
    dialer.dialed.ended = clock::now();
    dialer.dialed.enters = dialer.uring.enters_count();
    Ok(dialer.dialed)
}

impl Dialer<'_> {
    fn run(&mut self, indices: &Range<u32>) -> io::Result<()> {
        let target = self.uring.learn(self.dialing.target);
        let slots_count = indices.end - indices.start;
        let mut next_slot = 0;
        let mut completions = Vec::new();
        while !self.dialing.stop.load(Ordering::Relaxed)
            && clock::now() < self.dialing.until.load(Ordering::Relaxed)
        {
            while self.opening < OPENING_MAX && next_slot < slots_count {
                let host = 2 + (indices.start + next_slot) / CONNECTIONS_PER_SOURCE;
                let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() + host);
                let source = self.uring.learn_once(SocketAddr::from((source, 0)));
                let is_crowded = self.dialing.connections_all > u64::from(CONNECTIONS_PER_SOURCE);
                self.uring.open(next_slot, target, is_crowded.then_some(source));
                next_slot += 1;
                self.opening += 1;
            }
            for slot in self.rearms.drain(..) {
                self.uring.receive(slot);
            }
            self.begin_if_all_are_open(slots_count);
            self.outbox.flush(&mut self.uring);
            let is_busy = completions.len() >= FULL_TURN;
            self.uring.enter(if is_busy { Wait::Ready } else { Wait::One(SLEEP_MAX) })?;
            self.uring.reap(&mut completions);
            for completion in &completions {
                self.complete(completion);
            }
        }
        Ok(())
    }

    fn begin_if_all_are_open(&mut self, slots_count: u32) {
        let open_count = self.dialing.open.load(Ordering::Relaxed);
        if self.dialed.began > 0 || open_count < self.dialing.connections_all {
            return;
        }
        self.dialed.began = clock::now();
        for slot in 0..slots_count {
            self.say(slot);
        }
    }

    fn say(&mut self, slot: u32) {
        let (Habit::Ping(bytes) | Habit::Flood(bytes)) = self.habit else { return };
        let out = self.outbox.buffer(slot);
        out.resize(out.len() + bytes, 0x5a);
        self.owed[slot as usize] = bytes;
    }

    fn complete(&mut self, completion: &Completion) {
        let Completion { op, slot, result, buffer, is_armed } = *completion;
        match op {
            Op::Open => {
                self.opening -= 1;
                if result == 0 {
                    self.rearms.push(slot);
                    self.dialing.open.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.dialed.failed += 1;
                }
            }
            Op::Send => {
                let Some(outcome) = self.uring.sent(slot, result) else { return };
                self.outbox.sent(slot);
                if outcome.is_ok() && matches!(self.habit, Habit::Flood(_)) {
                    self.dialed.rounds += 1;
                    self.say(slot);
                }
            }
            Op::Receive => {
                if let Some(id) = buffer {
                    self.uring.buffers.recycle(id);
                }
                if let Ok(bytes) = usize::try_from(result) {
                    self.heard(slot, bytes);
                }
                if !is_armed && (result > 0 || completion.is_out_of_buffers()) {
                    self.rearms.push(slot);
                }
            }
            Op::Accept | Op::Close | Op::Prepare => {}
        }
    }

    fn heard(&mut self, slot: u32, bytes: usize) {
        let owed = &mut self.owed[slot as usize];
        if *owed == 0 || bytes == 0 {
            return;
        }
        *owed = owed.saturating_sub(bytes);
        if *owed == 0 {
            self.dialed.rounds += 1;
            self.say(slot);
        }
    }
}
