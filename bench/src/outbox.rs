//! What waits to be sent, a buffer a socket: everything said in a turn leaves in one send.

use crate::uring::Uring;

/// Bytes that may wait for one socket; what comes on top is not sent at all.
pub const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

const SPARE_BUFFERS_MAX: usize = 4096;
const SPARE_BUFFER_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Default)]
struct Waiting {
    is_listed: bool,
    is_flying: bool,
}

/// The queues of all sockets of one driver.
#[derive(Default)]
pub struct Outbox {
    waiting: Vec<Vec<u8>>,
    states: Vec<Waiting>,
    listed: Vec<u32>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// For `slots_count` sockets.
    pub fn new(slots_count: usize) -> Self {
        let waiting = (0..slots_count).map(|_| Vec::new()).collect();
        let states = vec![Waiting::default(); slots_count];
        Self { waiting, states, listed: Vec::new(), spare: Vec::new() }
    }

    /// The buffer of `slot`, to append to.
    pub fn buffer(&mut self, slot: u32) -> &mut Vec<u8> {
        let index = slot as usize;
        let state = &mut self.states[index];
        if !state.is_listed && !state.is_flying {
            state.is_listed = true;
            self.listed.push(slot);
        }
        let buffer = &mut self.waiting[index];
        if buffer.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            *buffer = spare;
        }
        buffer
    }

    /// Bytes that wait behind a send in flight, or for the end of the turn.
    pub fn waiting_bytes(&self, slot: u32) -> usize {
        self.waiting[slot as usize].len()
    }

    /// Whether a send of `slot` is in flight.
    pub fn is_flying(&self, slot: u32) -> bool {
        self.states[slot as usize].is_flying
    }

    /// Hands everything to the driver that can go now. Returns how many sends that were.
    pub fn flush(&mut self, uring: &mut Uring) -> usize {
        let mut sends_count = 0;
        for slot in self.listed.drain(..) {
            let index = slot as usize;
            let is_empty = self.waiting[index].is_empty();
            self.states[index] = Waiting { is_listed: false, is_flying: !is_empty };
            if !is_empty {
                uring.send(slot, std::mem::take(&mut self.waiting[index]));
                sends_count += 1;
            }
        }
        if self.spare.is_empty() {
            uring.lend(&mut self.spare);
        }
        sends_count
    }

    /// The send of `slot` has ended.
    pub fn sent(&mut self, slot: u32) {
        let state = &mut self.states[slot as usize];
        state.is_flying = false;
        if !self.waiting[slot as usize].is_empty() && !state.is_listed {
            state.is_listed = true;
            self.listed.push(slot);
        }
    }

    /// Forgets what waits for `slot`: its connection has ended.
    pub fn forget(&mut self, slot: u32) {
        self.waiting[slot as usize] = Vec::new();
    }

    /// A buffer for the bytes of an incomplete frame.
    pub fn take_spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes such a buffer back.
    pub fn keep_spare(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}
