//! One shard: everything it owns, and the loop that a driver turns.
//!
//! `handle` hears what happened, `turn` does what is due in bounded bites, `poll_op` and
//! `poll_disk_op` say what the driver is to do. Nothing else runs in a shard: no task, no callback,
//! no lock. `now` and `wall` come with every call, so that the same calls give the same answers.

use crate::auth::Verifier;
use crate::connection::Phase;
use crate::metrics::ShardMetrics;
use crate::net::Net;
use crate::op::{Clock, Event, Op};
use crate::page::Pages;
use crate::parcel::{Arrival, Parcel, Request, ShardPort};
use crate::pending::Pending;
use crate::plan::Plan;
use crate::roster::Roster;
use crate::snapshots::Snapshots;
use crate::sync::REPLAY_RETRY_MS;
use chat::{Home, Owner};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use storage::{DiskError, DiskEvent, DiskOp, Log, Target};
use wire::table::TableWriter;
use wire::{CloseReason, IdKey, ShardId};

/// Parcels, requests and timers taken in one turn.
const PARCELS_PER_TURN_MAX: usize = 1024;
const REQUESTS_PER_TURN_MAX: usize = 1024;
const TIMERS_PER_TURN_MAX: usize = 1024;
/// Connections told to go in one turn of a drain.
const DRAINED_PER_TURN_MAX: usize = 256;
/// How long a drain waits for peers before it ends.
const DRAIN_MS: u64 = 8000;
const PREPARE_RETRY_MS: u64 = 1000;
/// How often what is costly to count is counted.
const NOTE_EVERY_MS: u64 = 1000;

/// Why a shard stopped, and with it the process.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A write or sync of the log failed: what the disk holds is unknown, so nothing more is
    /// acknowledged and the process ends. Starting again reads what is there.
    #[error(
        "the log of shard {shard} failed: {error}; nothing unsynced was acknowledged. \
         Check the disk, then start again"
    )]
    Log {
        /// Whose log.
        shard: u16,
        /// What the disk said.
        error: DiskError,
    },
    /// The kernel refused what a shard cannot do without.
    #[error("io_uring: {0}")]
    Driver(#[source] io::Error),
}

/// Who a shard is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Me {
    pub(crate) shard: ShardId,
    pub(crate) shards_count: u16,
    pub(crate) ids: IdKey,
}

/// Where a shard is in its own life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Serving,
    /// Since this time; connections below the index have been told.
    Draining {
        since: u64,
        next: u32,
    },
}

/// Connections whose papers have come, and papers whose connection has.
#[derive(Default)]
pub(crate) struct Arrivals {
    pub(crate) papers: BTreeMap<(ShardId, u32), (u64, Box<Arrival>)>,
    pub(crate) connections: BTreeMap<(ShardId, u32), u32>,
}

/// All of one shard. One thread owns it.
pub struct Shard {
    pub(crate) me: Me,
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) net: Net,
    pub(crate) home: Home,
    pub(crate) owner: Owner,
    pub(crate) log: Log,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) pages: Pages,
    pub(crate) roster: Roster,
    pub(crate) snapshots: Snapshots,
    pub(crate) port: ShardPort,
    pub(crate) verifier: Verifier,
    pub(crate) tables: TableWriter,
    pub(crate) scratch: Vec<u8>,
    pub(crate) arrivals: Arrivals,
    /// Authenticated connections waiting to go home.
    pub(crate) leaving: Vec<u32>,
    pub(crate) sync_retries: Vec<u32>,
    pub(crate) life: Life,
    pub(crate) counters: Counters,
}

/// Small things that only count up or wait for a time.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) session: u64,
    pub(crate) ticket: u32,
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    pub(crate) prepare_retry_at: u64,
    pub(crate) sync_started_micros: u64,
    pub(crate) expired: Vec<u32>,
    pub(crate) note_at: u64,
    pub(crate) blocks_at: u64,
}

/// What recovery leaves, for a shard to be made of.
pub struct Parts {
    /// Conversations this shard orders.
    pub owner: Owner,
    /// Users who live here.
    pub home: Home,
    /// Its log, ready to be appended to.
    pub log: Log,
}

/// What a shard is given by its process.
pub struct Surroundings {
    /// Which shard.
    pub shard: ShardId,
    /// Of how many.
    pub shards_count: u16,
    /// Makes ids from names.
    pub ids: IdKey,
    /// Sizes and bounds.
    pub plan: Plan,
    /// Its ends of the rings.
    pub port: ShardPort,
    /// What counts as proof.
    pub verifier: Verifier,
    /// What it counts into.
    pub metrics: Arc<ShardMetrics>,
    /// Where its session numbers begin: no earlier process gave out any at or above it.
    pub session_base: u64,
}

impl Shard {
    /// A shard that has recovered.
    pub fn new(parts: Parts, around: Surroundings) -> Self {
        let Surroundings { shard, shards_count, ids, plan, port, verifier, metrics, session_base } =
            around;
        let Parts { owner, home, log } = parts;
        Self {
            me: Me { shard, shards_count, ids },
            clock: Clock { now: 0, wall: 0, micros: 0 },
            net: Net::new(shard, &plan, metrics),
            home,
            owner,
            snapshots: Snapshots::new(&log),
            log,
            pending: VecDeque::new(),
            pages: Pages::new(plan.readers_max),
            roster: Roster::default(),
            port,
            verifier,
            tables: TableWriter::default(),
            scratch: Vec::with_capacity(1024),
            arrivals: Arrivals::default(),
            leaving: Vec::new(),
            sync_retries: Vec::new(),
            life: Life::Serving,
            counters: Counters { session: session_base, ..Counters::default() },
            plan,
        }
    }

    /// Hears one event.
    pub fn handle(&mut self, clock: Clock, event: Event<'_>) {
        self.clock = clock;
        match event {
            Event::Accepted { connection } => self.on_accepted(connection),
            Event::Arrived { connection, from, ticket } => {
                self.on_arrived(connection, from, ticket);
            }
            Event::Received { connection, bytes } => self.on_received(connection, bytes),
            Event::Ended { connection, error } => self.on_ended(connection, error),
            Event::Sent { connection, result } => self.on_sent(connection, result),
            Event::Closed { connection } => self.on_closed(connection),
            Event::Passed { connection, error } => self.on_passed(connection, error),
            Event::Disk(event) => self.on_disk(event),
            Event::Drain => {
                if self.life == Life::Serving {
                    self.life = Life::Draining { since: clock.now, next: 0 };
                }
            }
        }
    }

    /// One turn, in bounded bites. True if there is more to do at once.
    pub fn turn(&mut self, clock: Clock) -> bool {
        self.clock = clock;
        let mut is_busy = self.take_parcels();
        is_busy |= self.take_requests();
        is_busy |= self.release_durable();
        is_busy |= self.flush_receipts();
        is_busy |= self.take_pages();
        is_busy |= self.advance_syncs();
        is_busy |= self.expire_timers();
        self.send_home();
        is_busy |= self.advance_snapshot();
        self.retry_prepare();
        is_busy |= self.drain();
        self.end_doomed();
        self.net.flush();
        self.note();
        is_busy
    }

    /// The next thing for the driver's sockets.
    pub fn poll_op(&mut self) -> Option<Op> {
        self.net.ops.pop_front()
    }

    /// The next thing for the driver's disk. What a turn appended is committed together.
    pub fn poll_disk_op(&mut self) -> Option<DiskOp> {
        let op = self
            .log
            .poll_op()
            .or_else(|| self.pages.poll_op())
            .or_else(|| self.snapshots.poll_op(&self.log))?;
        if let DiskOp::Sync { file: storage::FileId::Segment { .. } } = op {
            self.counters.sync_started_micros = self.clock.micros;
        }
        Some(op)
    }

    /// What an asked-for send is to carry.
    pub fn outgoing(&self, connection: u32) -> impl Iterator<Item = &[u8]> {
        self.net.outbox.outgoing(connection)
    }

    /// Has blocks filled with a pattern before they are used again, so that a send which reads one
    /// too late shows. For simulated drivers.
    pub fn poison_freed_blocks(&mut self) {
        self.net.blocks.set_poison(true);
    }

    /// Ends a turn: shows other shards what was staged, and says whose bell is to be rung.
    pub fn publish(&mut self, ring_bell: impl FnMut(ShardId)) {
        self.port.publish(ring_bell);
    }

    /// Whether the driver may wait; if so it says `awake` afterwards.
    pub fn prepare_sleep(&mut self) -> bool {
        self.port.prepare_sleep()
    }

    /// See `prepare_sleep`.
    pub fn awake(&self) {
        self.port.awake();
    }

    /// How long until a turn has something to do by itself.
    pub fn millis_to_next_deadline(&self) -> Option<u64> {
        let waiting = self.owner.receipts_waiting_count() + self.home.cursors_waiting_count();
        let flush = (waiting > 0).then(|| self.clock.now + self.plan.chat.receipt_flush_ms);
        let retry = (!self.sync_retries.is_empty()).then(|| self.clock.now + REPLAY_RETRY_MS);
        let deadlines = [self.net.wheel.next_deadline(), flush, retry];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_sub(self.clock.now).max(1))
    }

    /// Why the process must stop, if it must.
    pub fn failure(&self) -> Option<Failure> {
        let error = *self.log.poisoned()?;
        Some(Failure::Log { shard: self.me.shard.0, error })
    }

    /// Whether a drain is over: nobody is connected and nothing waits for the disk.
    pub fn is_drained(&self) -> bool {
        let Life::Draining { since, .. } = self.life else { return false };
        let is_quiet =
            self.counters.connections == 0 && self.pending.is_empty() && self.log.is_idle();
        is_quiet || self.clock.now > since + DRAIN_MS
    }

    fn on_disk(&mut self, event: DiskEvent) {
        match event.target() {
            Target::Log => {
                if let DiskEvent::Synced { .. } = event {
                    let micros = self.clock.micros - self.counters.sync_started_micros;
                    self.net.metrics.sync_micros.observe(micros);
                    self.net.metrics.commits.add(1);
                }
                self.log.handle(event);
            }
            Target::Snapshot => self.snapshots.handle(event, &mut self.log),
            Target::Readers => self.pages.handle(&self.log, event),
        }
    }

    fn take_parcels(&mut self) -> bool {
        for _ in 0..PARCELS_PER_TURN_MAX {
            let Some((from, parcel)) = self.port.next_parcel() else { return false };
            self.on_parcel(from, parcel);
        }
        true
    }

    fn take_requests(&mut self) -> bool {
        for _ in 0..REQUESTS_PER_TURN_MAX {
            let Some((_, request)) = self.port.next_request() else { return false };
            self.on_request(request);
        }
        true
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Frame { origin, user, kind, span, name_bytes } => {
                self.on_forwarded(origin, user, (kind, name_bytes), &span);
            }
            Request::Replay(replay) => self.begin_replay(replay),
            Request::Describe { origin, user, conversation } => {
                let described = self.describe(origin, user, conversation);
                self.post(origin.shard, Parcel::Described(Box::new(described)));
            }
            Request::Delivered { user, conversation, up_to } => {
                self.mark_delivered(user, conversation, up_to);
            }
        }
    }

    /// Sends a parcel home, wherever that is. There is room: it was asked for before the work that
    /// causes it was begun.
    pub(crate) fn post(&mut self, to: ShardId, parcel: Parcel) {
        if to == self.me.shard {
            self.on_parcel(to, parcel);
            return;
        }
        self.net.metrics.parcels_sent.add(1);
        let sent = self.port.send_parcel(to, parcel);
        // A shard that has drained takes nothing any more, and has nobody left to give it to.
        assert!(sent.is_ok() || self.life != Life::Serving, "has_parcels_room was asked");
    }

    fn retry_prepare(&mut self) {
        if self.clock.now >= self.counters.prepare_retry_at {
            self.counters.prepare_retry_at = self.clock.now + PREPARE_RETRY_MS;
            self.log.retry_prepare();
        }
    }

    /// Tells every connection to go, a few each turn, each with a moment of its own to come back.
    fn drain(&mut self) -> bool {
        let Life::Draining { since, next } = self.life else { return false };
        let count = u32::try_from(self.net.connections.len()).expect("bounded by the plan");
        let mut told_count = 0;
        let mut connection = next;
        while connection < count && told_count < DRAINED_PER_TURN_MAX {
            if !matches!(self.net.connections[connection as usize].phase, Phase::Free) {
                told_count += 1;
                self.send_away(connection, CloseReason::Draining);
            }
            connection += 1;
        }
        self.life = Life::Draining { since, next: connection };
        connection < count
    }

    fn expire_timers(&mut self) -> bool {
        let mut expired = std::mem::take(&mut self.counters.expired);
        self.net.wheel.expire(self.clock.now, TIMERS_PER_TURN_MAX, &mut expired);
        let is_busy = expired.len() == TIMERS_PER_TURN_MAX;
        for connection in expired.drain(..) {
            self.on_deadline(connection);
        }
        self.counters.expired = expired;
        is_busy
    }

    fn note(&mut self) {
        // It looks at every block, so not in every turn: in a millisecond at most a few fill.
        if self.clock.now != self.counters.blocks_at {
            self.counters.blocks_at = self.clock.now;
            self.net.look_at_blocks();
        }
        let metrics = &self.net.metrics;
        if self.clock.now >= self.counters.note_at {
            self.counters.note_at = self.clock.now + NOTE_EVERY_MS;
            let wall = chat::WallMillis(self.clock.wall);
            metrics.dedup_entries.set(self.owner.dedup_entries_count() as u64);
            metrics.dedup_window_millis.set(self.owner.window_held_ms(wall));
            metrics.log_segments.set(self.log.segments_count() as u64);
            let depths = self.port.depths();
            let depth = depths.map(|it| it.parcels_in.max(it.requests_in)).max().unwrap_or(0);
            metrics.ring_depth_max.raise(u64::from(depth));
        }
        metrics.connections.set(self.counters.connections);
        metrics.sessions.set(self.counters.sessions);
        metrics.log_appended_bytes.set(self.log.appended().offset());
        metrics.log_durable_bytes.set(self.log.durable().offset());
    }
}
