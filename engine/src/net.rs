//! The sockets' side of a shard: connections, what they have to send, what is asked of the driver.

use crate::connection::{Connection, Phase};
use crate::metrics::ShardMetrics;
use crate::op::Op;
use crate::outbox::{Outbox, Range};
use crate::parcel::Origin;
use crate::plan::Plan;
use crate::wheel::{TICK_MS, Wheel};
use fanout::{BlockLimits, BlockPool, PoolFull, Span};
use std::collections::VecDeque;
use std::sync::Arc;
use wire::generated::{ErrorHead, GoAwayHead};
use wire::limits::FRAME_BYTES_MAX;
use wire::{CloseReason, ConversationId, ErrorCode, Kind, Sequence, ShardId, frame};

/// How long a peer may take to agree that a connection is over.
const LINGER_MS: u64 = 2000;
/// Ranges that all send queues of a shard may hold together, for each connection.
const PIECES_PER_CONNECTION: usize = 64;
const PIECES_MIN: usize = 1 << 20;
const BLOCK_BYTES: u32 = 64 * 1024;

pub(crate) struct Net {
    pub(crate) shard: ShardId,
    pub(crate) connections: Vec<Connection>,
    pub(crate) outbox: Outbox,
    pub(crate) blocks: BlockPool,
    pub(crate) wheel: Wheel,
    pub(crate) ops: VecDeque<Op>,
    pub(crate) metrics: Arc<ShardMetrics>,
    blocks_max: u32,
    pub(crate) has_blocks: bool,
    dirty: Vec<u32>,
    /// Connections that are to go, with why; taken care of before the turn ends.
    pub(crate) doomed: VecDeque<(u32, CloseReason)>,
    /// Emptied windows, for the next partial frame.
    windows: Vec<Vec<u8>>,
}

const WINDOWS_KEPT_MAX: usize = 256;
const WINDOW_KEPT_BYTES_MAX: usize = 16 * 1024;

impl Net {
    pub(crate) fn new(shard: ShardId, plan: &Plan, metrics: Arc<ShardMetrics>) -> Self {
        let count = plan.connections_max;
        let pieces_max = (count as usize * PIECES_PER_CONNECTION).max(PIECES_MIN);
        Self {
            shard,
            connections: (0..count).map(|_| Connection::free()).collect(),
            outbox: Outbox::new(count, plan.send_queue_bytes_max, pieces_max),
            blocks: BlockPool::new(BlockLimits {
                block_bytes: BLOCK_BYTES,
                blocks_count_max: plan.blocks_max,
                large_block_bytes: u32::try_from(FRAME_BYTES_MAX).expect("frames are kilobytes"),
                large_blocks_count_max: plan.blocks_max / 4,
            }),
            wheel: Wheel::new(count),
            ops: VecDeque::new(),
            metrics,
            blocks_max: plan.blocks_max,
            has_blocks: true,
            dirty: Vec::new(),
            doomed: VecDeque::new(),
            windows: Vec::new(),
        }
    }

    /// Looks, now and then, whether new work may be admitted: what it causes to be sent must find
    /// room.
    pub(crate) fn look_at_blocks(&mut self) {
        self.has_blocks = self.blocks.blocks_in_use_count() < self.blocks_max as usize / 8 * 7;
    }

    pub(crate) fn window(&mut self) -> Vec<u8> {
        self.windows.pop().unwrap_or_default()
    }

    pub(crate) fn return_window(&mut self, mut window: Vec<u8>) {
        if self.windows.len() < WINDOWS_KEPT_MAX && window.capacity() <= WINDOW_KEPT_BYTES_MAX {
            window.clear();
            self.windows.push(window);
        }
    }

    /// Encodes a frame once, to be sent any number of times.
    pub(crate) fn encode(
        &mut self,
        kind: Kind,
        reference: u64,
        parts: [&[u8]; 3],
    ) -> Result<Span, PoolFull> {
        let body_bytes = parts.iter().map(|part| part.len()).sum();
        let header = frame::header(kind, reference, body_bytes);
        self.blocks.append_parts(&[&header, parts[0], parts[1], parts[2]])
    }

    /// Puts a frame on a connection of this shard.
    pub(crate) fn send(&mut self, connection: u32, kind: Kind, reference: u64, parts: [&[u8]; 3]) {
        match self.encode(kind, reference, parts) {
            Ok(span) => self.send_span(connection, &span),
            Err(PoolFull) => self.doom(connection, CloseReason::SlowConsumer),
        }
    }

    pub(crate) fn send_span(&mut self, connection: u32, span: &Span) {
        let range = self.outbox.hold(span);
        self.queue(connection, range);
        self.outbox.release(range);
    }

    /// Queues a range that is held already. A reader at its bound is cut off: it resumes.
    pub(crate) fn queue(&mut self, connection: u32, range: Range) {
        if self.outbox.push(connection, range).is_err() {
            self.doom(connection, CloseReason::SlowConsumer);
            return;
        }
        self.metrics.frames_out.add(1);
        self.mark_dirty(connection);
    }

    fn mark_dirty(&mut self, connection: u32) {
        let entry = &mut self.connections[connection as usize];
        if !entry.dirty && !entry.sending {
            entry.dirty = true;
            self.dirty.push(connection);
        }
    }

    pub(crate) fn error(
        &mut self,
        connection: u32,
        reference: u64,
        error: (ErrorCode, u32),
        text: &str,
    ) {
        let (code, retry_after_ms) = error;
        self.metrics.errors.of(code).add(1);
        let head = ErrorHead::new(code as u16, 0, retry_after_ms);
        self.send(connection, Kind::Error, reference, [&head.0, text.as_bytes(), b""]);
    }

    /// Asks for one send for each connection that has something to send and none in flight.
    pub(crate) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for connection in dirty.drain(..) {
            let entry = &mut self.connections[connection as usize];
            if !std::mem::replace(&mut entry.dirty, false) {
                continue;
            }
            let may_send =
                !matches!(entry.phase, Phase::Free | Phase::Closing | Phase::Arriving { .. });
            if may_send && !entry.sending && !self.outbox.is_empty(connection) {
                entry.sending = true;
                self.ops.push_back(Op::Send { connection });
            }
        }
        self.dirty = dirty;
    }

    /// Takes note of a finished send; true if the queue is empty.
    pub(crate) fn on_sent(&mut self, connection: u32, bytes: u32) -> bool {
        self.connections[connection as usize].sending = false;
        self.outbox.sent(connection, bytes);
        self.metrics.bytes_out.add(u64::from(bytes));
        let is_empty = self.outbox.is_empty(connection);
        if !is_empty {
            self.mark_dirty(connection);
        }
        is_empty
    }

    pub(crate) fn receive(&mut self, connection: u32, repeat: bool) {
        let entry = &mut self.connections[connection as usize];
        if !entry.receiving {
            entry.receiving = true;
            entry.receives_once = !repeat;
            self.ops.push_back(Op::Receive { connection, repeat });
        }
    }

    /// Has the connection closed before the turn ends.
    pub(crate) fn doom(&mut self, connection: u32, reason: CloseReason) {
        let entry = &mut self.connections[connection as usize];
        if entry.reason.is_none() {
            entry.reason = Some(reason);
            self.doomed.push_back((connection, reason));
        }
    }

    /// Tells the peer why, to be followed by `linger`.
    pub(crate) fn go_away(
        &mut self,
        connection: u32,
        reason: CloseReason,
        after_ms: u32,
        token: &[u8],
    ) {
        let head = GoAwayHead::new(reason as u16, 0, after_ms);
        self.send(connection, Kind::GoAway, 0, [&head.0, token, b""]);
    }

    /// Lets what is queued go out, then ends our half and waits a little for the peer's: a socket
    /// closed with bytes unread takes what was sent last with it.
    pub(crate) fn linger(&mut self, connection: u32, now: u64, reason: CloseReason) {
        let entry = &mut self.connections[connection as usize];
        if matches!(entry.phase, Phase::Free | Phase::Closing | Phase::Lingering) {
            return;
        }
        entry.phase = Phase::Lingering;
        entry.reason.get_or_insert(reason);
        entry.heard_tick = tick_of(now);
        if let Some(window) = entry.window.take() {
            self.return_window(*window);
        }
        self.wheel.insert(connection, now + LINGER_MS);
        self.receive(connection, true);
        self.shut_if_sent(connection);
    }

    pub(crate) fn shut_if_sent(&mut self, connection: u32) {
        let entry = &mut self.connections[connection as usize];
        if matches!(entry.phase, Phase::Lingering)
            && !entry.shut
            && !entry.sending
            && self.outbox.is_empty(connection)
        {
            entry.shut = true;
            self.ops.push_back(Op::Shutdown { connection });
        }
    }

    /// Ends a connection at once.
    pub(crate) fn close(&mut self, connection: u32, reason: CloseReason) {
        let entry = &mut self.connections[connection as usize];
        if matches!(entry.phase, Phase::Free | Phase::Closing) {
            return;
        }
        entry.phase = Phase::Closing;
        entry.reason.get_or_insert(reason);
        entry.syncing = false;
        let window = entry.window.take();
        let sending = entry.sending;
        self.ops.push_back(Op::Close { connection });
        if let Some(window) = window {
            self.return_window(*window);
        }
        // What is in flight stays until the kernel has let go of it.
        if !sending {
            self.outbox.clear(connection);
        }
    }

    pub(crate) fn linger_deadline(entry: &Connection) -> u64 {
        u64::from(entry.heard_tick) * TICK_MS + LINGER_MS
    }

    /// The connection of `origin`, if it is still the same.
    pub(crate) fn find(&self, origin: &Origin) -> Option<u32> {
        let entry = self.connections.get(origin.connection as usize)?;
        let is_same = entry.generation == origin.generation && entry.live().is_some();
        is_same.then_some(origin.connection)
    }

    /// Queues a message for a session, unless its sync will bring it.
    pub(crate) fn deliver(
        &mut self,
        connection: u32,
        range: Range,
        message: (ConversationId, Sequence),
    ) {
        let entry = &mut self.connections[connection as usize];
        if entry.syncing {
            let live = entry.live_mut().expect("only sessions sync");
            let sync = live.sync.as_mut().expect("the flag says so");
            if sync.will_bring(message.0, message.1) {
                return;
            }
        }
        if entry.counts_handed {
            note_queued(entry, message);
        }
        self.metrics.deliveries.add(1);
        self.queue(connection, range);
    }
}

/// Notes that a message is on its way to a session that counts that as delivery.
fn note_queued(entry: &mut Connection, message: (ConversationId, Sequence)) {
    let live = entry.live_mut().expect("delivered to sessions");
    let handed = live.handed.as_mut().expect("the flag says so");
    match handed.iter_mut().find(|(conversation, _)| *conversation == message.0) {
        Some((_, up_to)) => *up_to = (*up_to).max(message.1),
        None => handed.push(message),
    }
}

/// Connections count time in the wheel's ticks.
#[expect(clippy::cast_possible_truncation, reason = "2^32 ticks are 34 years of one process")]
pub(crate) fn tick_of(now: u64) -> u32 {
    (now / TICK_MS) as u32
}
