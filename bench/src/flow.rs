//! The generator's side of all conversations of one ring: who says what when, and whether what
//! comes back is what must. It knows no socket: bytes go in, bytes for the outbox come out.

use crate::arrivals::Arrivals;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::config::{Config, Door, Scenario};
use crate::connection::{Connection, Retry, State};
use crate::control::Control;
use crate::frames::{self, Dress, GREETING, RELAY_GROUP};
use crate::latency::Recorder;
use crate::order::GroupOrder;
use crate::outbox::Outbox;
use crate::tally::Tally;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wire::ClientMessageId;
use wire::frame::{self, Decoded, Frame};
use wire::handshake::Hello;
use wire::table::{Authenticate, Authenticated, Group, TableWriter};
use wire::{ErrorCode, Kind};

/// A cursor is sent after this many deliveries ...
const UNMARKED_MAX: u16 = 256;
/// ... or this long after the first of them.
const MARK_AFTER: Nanos = 200 * MILLISECOND;
/// First and longest wait before a lost connection is opened again.
const BACKOFF_MIN: Nanos = 20 * MILLISECOND;
const BACKOFF_MAX: Nanos = SECOND;

/// What one ring measures.
#[derive(Debug, Default)]
pub(crate) struct Recorders {
    pub(crate) sent: Recorder,
    pub(crate) delivered: Recorder,
    pub(crate) offer_lag: Recorder,
}

/// Sockets that the driver shall do something with.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) receives: Vec<u32>,
    /// Ended by us: their receive is to be cancelled.
    pub(crate) cancels: Vec<u32>,
    pub(crate) closes: Vec<u32>,
    /// To be opened, when due.
    pub(crate) opens: BinaryHeap<Reverse<(Nanos, u32)>>,
}

/// One ring's conversations.
pub(crate) struct Flow {
    pub(crate) config: Arc<Config>,
    pub(crate) control: Arc<Control>,
    /// Index of the first user; slots count from there.
    pub(crate) base: u32,
    pub(crate) connections: Vec<Connection>,
    pub(crate) outbox: Outbox,
    pub(crate) orders: Vec<GroupOrder>,
    pub(crate) tally: Tally,
    pub(crate) recorders: Recorders,
    pub(crate) wishes: Wishes,
    pub(crate) dress: Dress,
    pub(crate) writer: TableWriter,
    pub(crate) arrivals: Option<Arrivals>,
    /// Slots that send, and whose turn it is.
    pub(crate) senders: Vec<u32>,
    pub(crate) sender_next: usize,
    /// When the measured part is; empty before that is known.
    pub(crate) measured: Range<Nanos>,
    /// Connections with deliveries to acknowledge, and by when.
    pub(crate) marks: VecDeque<(Nanos, u32)>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) lags: Vec<Nanos>,
    /// Connections that a refusal has told to wait, and until when.
    pub(crate) waits: Vec<(Nanos, u32)>,
    /// When the turn, or the batch of completions, began.
    pub(crate) now: Nanos,
}

/// A walk over all connections that takes a little less than the server's interval.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    pub(crate) interval: Nanos,
    pub(crate) next: usize,
    pub(crate) at: Nanos,
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) String);

impl Flow {
    /// The users `base..base + count`.
    pub(crate) fn new(config: &Arc<Config>, control: &Arc<Control>, users: Range<u32>) -> Self {
        let count = users.len();
        let groups_count = match config.scenario {
            Scenario::Group { groups, .. } => groups as usize,
            _ => 0,
        };
        let salt = u32::try_from(config.seed & 0xffff_ffff).expect("masked");
        let mut connections: Vec<_> = (0..count).map(|_| Connection::default()).collect();
        if config.survives_restart {
            for connection in &mut connections {
                connection.retry = Some(Box::new(Retry::default()));
            }
        }
        let slots = 0..u32::try_from(count).expect("below the limit of a ring");
        let senders = slots.clone().filter(|slot| config.scenario.sends(users.start + slot));
        let opens = slots.clone().map(|slot| Reverse((0, slot))).collect();
        Self {
            config: Arc::clone(config),
            control: Arc::clone(control),
            base: users.start,
            connections,
            outbox: Outbox::new(count),
            orders: (0..groups_count).map(|_| GroupOrder::default()).collect(),
            tally: Tally::default(),
            recorders: Recorders::default(),
            wishes: Wishes { opens, ..Wishes::default() },
            dress: Dress { salt, content_bytes: config.content_bytes },
            writer: TableWriter::default(),
            arrivals: None,
            senders: senders.collect(),
            sender_next: 0,
            measured: 0..0,
            marks: VecDeque::new(),
            heartbeat: Heartbeat { interval: 25 * SECOND, ..Heartbeat::default() },
            lags: Vec::new(),
            waits: Vec::new(),
            now: 0,
        }
    }

    pub(crate) fn connection(&mut self, slot: u32) -> &mut Connection {
        &mut self.connections[slot as usize]
    }

    pub(crate) fn user_name(&self, index: u32) -> String {
        format!("{}{index}", self.config.user_prefix)
    }

    /// The socket is open: says who speaks.
    pub(crate) fn opened(&mut self, slot: u32) {
        let index = self.base + slot;
        let name = self.user_name(index);
        self.connection(slot).state = State::Greeting;
        self.wishes.receives.push(slot);
        let out = self.outbox.buffer(slot);
        if self.config.door == Door::Relay {
            return frames::put_relay_greeting(out, index);
        }
        frame::encode(out, Kind::Hello, GREETING, &[&Hello::OURS.head().0]);
        let who = Authenticate {
            user: Some(&name),
            device: Some(frames::DEVICE),
            ..Authenticate::default()
        };
        frame::encode(out, Kind::Authenticate, GREETING, &[self.writer.authenticate(&who)]);
    }

    /// The server knows who speaks.
    pub(crate) fn ready(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.state = State::Live;
        connection.attempts = 0;
        connection.earlier_sequence = connection.delivered.last_sequence;
        connection.session_sequence = 0;
        if connection.was_ready {
            self.tally.resumed += 1;
        } else {
            connection.was_ready = true;
            self.control.ready.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(retry) = &mut connection.retry {
            retry.in_flight = 0;
            retry.old = retry.unacked.iter().take_while(|message| message.was_sent).count();
            self.pump(slot);
        }
    }

    /// Asks for group `number`, on the connection of its first member.
    pub(crate) fn create_group(&mut self, number: u32) {
        let Scenario::Group { members, .. } = self.config.scenario else { return };
        let creator = number * members;
        let names: Vec<_> = (creator + 1..creator + members).map(|i| self.user_name(i)).collect();
        let name = format!("group {number}");
        let request = (u128::from(self.dress.salt) << 64) | (u128::from(number) + 1);
        let members = names.iter().map(String::as_str);
        let body = self.writer.create_group(ClientMessageId(request), &name, members);
        let out = self.outbox.buffer(creator - self.base);
        frame::encode(out, Kind::CreateGroup, u64::from(number), &[body]);
    }

    /// Takes what a socket has received.
    pub(crate) fn received(&mut self, slot: u32, bytes: &[u8], now: Nanos) -> Result<(), Fault> {
        let mut rest = bytes;
        let mut partial = std::mem::take(&mut self.connection(slot).partial);
        while !partial.is_empty() {
            match frame::decode(&partial).map_err(bad_frame)? {
                Decoded::Incomplete { bytes_needed } => {
                    let (front, behind) =
                        rest.split_at(rest.len().min(bytes_needed - partial.len()));
                    if front.is_empty() {
                        self.connection(slot).partial = partial;
                        return Ok(());
                    }
                    partial.extend_from_slice(front);
                    rest = behind;
                    continue;
                }
                Decoded::Frame(frame, _) => self.handle(slot, frame, now)?,
                Decoded::Unknown { .. } => {}
            }
            partial.clear();
            self.outbox.keep_spare(std::mem::take(&mut partial));
        }
        while !rest.is_empty() {
            match frame::decode(rest).map_err(bad_frame)? {
                Decoded::Frame(frame, bytes) => {
                    self.handle(slot, frame, now)?;
                    rest = &rest[bytes..];
                }
                Decoded::Unknown { bytes, .. } => rest = &rest[bytes..],
                Decoded::Incomplete { .. } => {
                    let mut partial = self.outbox.take_spare();
                    partial.extend_from_slice(rest);
                    self.connection(slot).partial = partial;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, slot: u32, frame: Frame<'_>, now: Nanos) -> Result<(), Fault> {
        if self.config.door == Door::Relay {
            return self.handle_relayed(slot, frame, now);
        }
        match frame.kind {
            Kind::Deliver => self.delivered(slot, frame.body, now),
            Kind::MessageSent => self.acked(slot, frame, now),
            Kind::SyncBatch => self.synced(slot, frame.body, now),
            Kind::Authenticated => {
                let body =
                    Authenticated::decode(frame.body).map_err(|e| bad_body(frame.kind, e))?;
                self.heartbeat.interval = u64::from(body.heartbeat_interval_s.max(1)) * SECOND;
                self.ready(slot);
                Ok(())
            }
            Kind::Group => {
                let body = Group::decode(frame.body).map_err(|e| bad_body(frame.kind, e))?;
                self.group_made(frame.reference, body.group.0);
                Ok(())
            }
            Kind::Error => self.refused(slot, frame, now),
            _ => Ok(()),
        }
    }

    fn group_made(&mut self, number: u64, id: u128) {
        let stages = &self.control.stages;
        let mut groups = stages.groups.lock().expect("nobody panics while holding it");
        let Some(group) = usize::try_from(number).ok().and_then(|at| groups.get_mut(at)) else {
            return;
        };
        if *group == 0 {
            *group = id;
            stages.groups_made.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// All groups exist: every member knows its own.
    pub(crate) fn learn_groups(&mut self) {
        let Scenario::Group { members, .. } = self.config.scenario else { return };
        let groups = self.control.stages.groups.lock().expect("nobody panics while holding it");
        for (index, connection) in (self.base..).zip(&mut self.connections) {
            connection.conversation = match self.config.door {
                Door::Native => groups[(index / members) as usize],
                Door::Relay => u128::from(RELAY_GROUP | u64::from(index / members)),
            };
        }
    }

    fn refused(&mut self, slot: u32, frame: Frame<'_>, now: Nanos) -> Result<(), Fault> {
        let (head, text) = wire::body::error(frame.body).map_err(|e| bad_body(frame.kind, e))?;
        let code = ErrorCode::from_number(head.code());
        let is_momentary = matches!(code, Some(ErrorCode::Busy | ErrorCode::RateLimited));
        let is_message = self.connection(slot).state == State::Live && frame.reference > GREETING;
        let name = code.map_or("unknown", ErrorCode::name);
        if !is_momentary || !is_message {
            self.control.note_error(&format!("the server refused: {name}: {text}"));
        }
        if is_momentary && is_message {
            let pause = u64::from(head.retry_after_ms().max(1)) * MILLISECOND;
            self.refuse_message(slot, frame.reference, now + pause);
        } else if is_message {
            self.tally.refused += 1;
        }
        let is_over = self.connection(slot).state == State::Greeting;
        if is_over { Err(Fault(format!("not let in: {name}: {text}"))) } else { Ok(()) }
    }

    /// Notes that a conversation has a delivery to acknowledge, and does so when it is time.
    pub(crate) fn mark(&mut self, slot: u32, now: Nanos) {
        if !self.config.receipts {
            return;
        }
        let connection = &mut self.connections[slot as usize];
        connection.unmarked += 1;
        if connection.unmarked == 1 {
            self.marks.push_back((now + MARK_AFTER, slot));
        } else if connection.unmarked >= UNMARKED_MAX {
            self.send_mark(slot);
        }
    }

    fn send_mark(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.unmarked = 0;
        if connection.state == State::Live {
            let (id, up_to) = (connection.conversation, connection.delivered.last_sequence);
            frames::put_delivered(self.outbox.buffer(slot), id, up_to);
        }
    }

    /// Opens the histograms' window of this second of the measured part.
    pub(crate) fn roll(&mut self, now: Nanos) {
        let second = now.saturating_sub(self.measured.start) / SECOND;
        self.recorders.sent.roll(second);
        self.recorders.delivered.roll(second);
        self.recorders.offer_lag.roll(second);
    }

    /// Everything whose time has come, but the messages.
    pub(crate) fn timers(&mut self, now: Nanos) {
        while let Some((due, slot)) = self.marks.front().copied()
            && due <= now
        {
            self.marks.pop_front();
            if self.connection(slot).unmarked > 0 {
                self.send_mark(slot);
            }
        }
        if !self.waits.is_empty() {
            let due: Vec<_> = self.waits.extract_if(.., |(due, _)| *due <= now).collect();
            for (_, slot) in due {
                self.pump(slot);
            }
        }
        if self.config.door == Door::Native {
            self.beat(now);
        }
    }

    /// Sends the heartbeats that a walk at constant speed has reached.
    fn beat(&mut self, now: Nanos) {
        let lap = self.heartbeat.interval / 10 * 8;
        let step = (lap / self.connections.len() as u64).max(1);
        if self.heartbeat.at == 0 {
            self.heartbeat.at = now + step;
        }
        while self.heartbeat.at <= now {
            self.heartbeat.at += step;
            let index = self.heartbeat.next;
            self.heartbeat.next = (index + 1) % self.connections.len();
            if self.connections[index].state == State::Live {
                let slot = u32::try_from(index).expect("below the limit of a ring");
                frames::put_heartbeat(self.outbox.buffer(slot));
            }
        }
    }

    /// The connection is over, by whoever's will. It goes down once its operations have ended.
    pub(crate) fn end(&mut self, slot: u32, why: &str) {
        let connection = &mut self.connections[slot as usize];
        if matches!(connection.state, State::Ending | State::Closing | State::Down) {
            return;
        }
        self.tally.disconnects += u64::from(connection.state == State::Live);
        connection.state = State::Ending;
        connection.partial = Vec::new();
        connection.unmarked = 0;
        if connection.is_receiving {
            self.wishes.cancels.push(slot);
        }
        self.outbox.forget(slot);
        if !self.config.survives_restart {
            self.control.note_error(&format!("a connection ended: {why}"));
        }
        self.close_if_quiet(slot);
    }

    /// Gives the slot back when nothing is under way on it.
    pub(crate) fn close_if_quiet(&mut self, slot: u32) {
        let is_flying = self.outbox.is_flying(slot);
        let connection = &mut self.connections[slot as usize];
        if connection.state == State::Ending && !connection.is_receiving && !is_flying {
            connection.state = State::Closing;
            self.wishes.closes.push(slot);
        }
    }

    /// The slot is free: opens it again, if that is wanted, after a pause that grows.
    pub(crate) fn closed(&mut self, slot: u32, now: Nanos) {
        let connection = &mut self.connections[slot as usize];
        connection.state = State::Down;
        if self.config.survives_restart {
            let pause = (BACKOFF_MIN << connection.attempts.min(6)).min(BACKOFF_MAX);
            connection.attempts = connection.attempts.saturating_add(1);
            // Spread over as long again, so that not all come back at one instant.
            let spread = crate::content::mix(u64::from(slot) ^ now) % pause;
            self.wishes.opens.push(Reverse((now + pause + spread, slot)));
        }
    }
}

fn bad_frame(error: wire::FrameError) -> Fault {
    Fault(format!("not a frame: {error:?}"))
}

pub(crate) fn bad_body(kind: Kind, error: wire::body::BodyError) -> Fault {
    Fault(format!("{kind:?}: {error:?}"))
}
