//! What connections still have to send: queues of references to shared blocks, never copies.
//!
//! A frame for a thousand members is encoded once and queued a thousand times; each entry is a
//! range of a block. Neighbouring ranges merge, so a burst to one group leaves as one range.

use fanout::{BlockRef, Span};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Queue {
    head: u32,
    tail: u32,
    bytes: u32,
}

const EMPTY: Queue = Queue { head: NONE, tail: NONE, bytes: 0 };

#[derive(Clone, Copy)]
struct Piece {
    block: u32,
    start: u32,
    end: u32,
    next: u32,
}

struct Held {
    block: Option<BlockRef>,
    pieces_count: u32,
}

/// A range of a block that the outbox knows: cheap to queue many times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    block: u32,
    start: u32,
    end: u32,
}

/// The queue of a connection is at its bound: a slow reader, not a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The send queues of all connections of a shard.
pub(crate) struct Outbox {
    queues: Vec<Queue>,
    pieces: Vec<Piece>,
    free_piece: u32,
    pieces_max: usize,
    held: Vec<Held>,
    free_held: Vec<u32>,
    /// Where the last block was found: the next one usually is the same.
    last_held: u32,
    queue_bytes_max: u32,
}

impl Outbox {
    pub(crate) fn new(connections_max: u32, queue_bytes_max: u32, pieces_max: usize) -> Self {
        Self {
            queues: vec![EMPTY; connections_max as usize],
            pieces: Vec::new(),
            free_piece: NONE,
            pieces_max,
            held: Vec::new(),
            free_held: Vec::new(),
            last_held: NONE,
            queue_bytes_max,
        }
    }

    /// Makes a span known, to be queued any number of times and then `release`d.
    pub(crate) fn hold(&mut self, span: &Span) -> Range {
        let index = match self.held.get(self.last_held as usize) {
            Some(Held { block: Some(block), .. }) if block.same_block(span.block()) => {
                self.last_held
            }
            _ => self.hold_another(span.block()),
        };
        self.last_held = index;
        self.held[index as usize].pieces_count += 1;
        Range { block: index, start: span.start(), end: span.end() }
    }

    /// The same block may stand here twice; each entry is counted for itself.
    fn hold_another(&mut self, block: &BlockRef) -> u32 {
        let held = Held { block: Some(block.clone()), pieces_count: 0 };
        if let Some(index) = self.free_held.pop() {
            self.held[index as usize] = held;
            return index;
        }
        self.held.push(held);
        u32::try_from(self.held.len() - 1).expect("bounded by the pieces")
    }

    pub(crate) fn release(&mut self, range: Range) {
        self.let_go(range.block);
    }

    fn let_go(&mut self, index: u32) {
        let held = &mut self.held[index as usize];
        held.pieces_count -= 1;
        if held.pieces_count == 0 {
            held.block = None;
            self.free_held.push(index);
        }
    }

    /// Queues a range behind what the connection already has to send.
    pub(crate) fn push(&mut self, connection: u32, range: Range) -> Result<(), Full> {
        let queue = &mut self.queues[connection as usize];
        let bytes = range.end - range.start;
        if queue.bytes + bytes > self.queue_bytes_max {
            return Err(Full);
        }
        if queue.tail != NONE {
            let tail = &mut self.pieces[queue.tail as usize];
            if tail.block == range.block && tail.end == range.start {
                tail.end = range.end;
                queue.bytes += bytes;
                return Ok(());
            }
        }
        let piece = Piece { block: range.block, start: range.start, end: range.end, next: NONE };
        let index = if self.free_piece != NONE {
            let index = self.free_piece;
            self.free_piece = self.pieces[index as usize].next;
            self.pieces[index as usize] = piece;
            index
        } else if self.pieces.len() < self.pieces_max {
            self.pieces.push(piece);
            u32::try_from(self.pieces.len() - 1).expect("bounded by pieces_max")
        } else {
            return Err(Full);
        };
        match queue.tail {
            NONE => queue.head = index,
            tail => self.pieces[tail as usize].next = index,
        }
        queue.tail = index;
        queue.bytes += bytes;
        self.held[range.block as usize].pieces_count += 1;
        Ok(())
    }

    /// Whether the connection has anything to send.
    pub(crate) fn is_empty(&self, connection: u32) -> bool {
        self.queues[connection as usize].head == NONE
    }

    /// Whether less than a `share`th of the connection's queue is used.
    pub(crate) fn is_below(&self, connection: u32, share: u32) -> bool {
        self.queues[connection as usize].bytes < self.queue_bytes_max / share
    }

    /// What the connection has to send, oldest first. The bytes hold until `sent` or `clear`.
    pub(crate) fn outgoing(&self, connection: u32) -> impl Iterator<Item = &[u8]> {
        let mut next = self.queues[connection as usize].head;
        std::iter::from_fn(move || {
            let piece = self.pieces.get(next as usize)?;
            next = piece.next;
            let block = self.held[piece.block as usize].block.as_ref().expect("held by the piece");
            Some(block.bytes(piece.start, piece.end))
        })
    }

    /// Takes `bytes` off the front: they are with the kernel.
    pub(crate) fn sent(&mut self, connection: u32, mut bytes: u32) {
        let queue = &mut self.queues[connection as usize];
        assert!(bytes <= queue.bytes, "more was sent than was queued");
        queue.bytes -= bytes;
        while bytes > 0 {
            let piece = &mut self.pieces[queue.head as usize];
            let length = piece.end - piece.start;
            if bytes < length {
                piece.start += bytes;
                return;
            }
            bytes -= length;
            let (index, block) = (queue.head, piece.block);
            queue.head = piece.next;
            piece.next = self.free_piece;
            self.free_piece = index;
            let held = &mut self.held[block as usize];
            held.pieces_count -= 1;
            if held.pieces_count == 0 {
                held.block = None;
                self.free_held.push(block);
            }
        }
        if queue.head == NONE {
            queue.tail = NONE;
        }
    }

    /// Forgets everything the connection still had to send.
    pub(crate) fn clear(&mut self, connection: u32) {
        let bytes = self.queues[connection as usize].bytes;
        self.sent(connection, bytes);
        assert!(self.is_empty(connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanout::{BlockLimits, BlockPool};

    fn pool() -> BlockPool {
        BlockPool::new(BlockLimits {
            block_bytes: 4096,
            blocks_count_max: 8,
            large_block_bytes: 8192,
            large_blocks_count_max: 1,
        })
    }

    fn queued(outbox: &Outbox, connection: u32) -> Vec<Vec<u8>> {
        outbox.outgoing(connection).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn neighbours_of_a_block_leave_as_one_piece() {
        let mut pool = pool();
        let mut outbox = Outbox::new(2, 1000, 10);
        for text in ["one ", "two ", "three"] {
            let span = pool.append_parts(&[text.as_bytes()]).unwrap();
            let range = outbox.hold(&span);
            outbox.push(1, range).unwrap();
            outbox.release(range);
        }
        assert_eq!(queued(&outbox, 1), [b"one two three"]);
        outbox.sent(1, 6);
        assert_eq!(queued(&outbox, 1), [b"o three"]);
        outbox.sent(1, 7);
        assert!(outbox.is_empty(1));
    }

    #[test]
    fn a_queue_at_its_bound_takes_no_more() {
        let mut pool = pool();
        let mut outbox = Outbox::new(1, 8, 10);
        let span = pool.append_parts(&[b"12345"]).unwrap();
        let range = outbox.hold(&span);
        assert_eq!(outbox.push(0, range), Ok(()));
        assert_eq!(outbox.push(0, range), Err(Full));
        outbox.sent(0, 5);
        assert_eq!(outbox.push(0, range), Ok(()));
    }

    #[test]
    fn all_queues_together_are_bounded() {
        let mut pool = pool();
        let mut outbox = Outbox::new(3, 100, 2);
        let span = pool.append_parts(&[b"x"]).unwrap();
        let range = outbox.hold(&span);
        assert_eq!(outbox.push(0, range), Ok(()));
        assert_eq!(outbox.push(1, range), Ok(()));
        assert_eq!(outbox.push(2, range), Err(Full));
        outbox.clear(0);
        assert_eq!(outbox.push(2, range), Ok(()));
    }

    #[test]
    fn a_block_is_let_go_when_its_last_piece_was_sent() {
        let mut pool = pool();
        let mut outbox = Outbox::new(2, 100, 10);
        let span = pool.append_parts(&[b"shared"]).unwrap();
        let range = outbox.hold(&span);
        outbox.push(0, range).unwrap();
        outbox.push(1, range).unwrap();
        outbox.release(range);
        outbox.sent(0, 6);
        assert!(outbox.held[0].block.is_some());
        outbox.sent(1, 6);
        assert!(outbox.held[0].block.is_none());
    }
}
