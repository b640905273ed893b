//! From the first byte of a connection to a live session, and to its end.

use crate::auth::{self, VerifiedDevice};
use crate::connection::{Connection, Leaving, Live, Phase};
use crate::metrics::Refusal;
use crate::net::{Net, tick_of};
use crate::op::Op;
use crate::parcel::{Arrival, Parcel};
use crate::shard::{Life, Shard};
use crate::wheel::TICK_MS;
use chat::{SessionSlot, Speaker};
use wire::handshake::{Hello, negotiate};
use wire::limits::{FRAME_HEADER_BYTES, TOKEN_BYTES_MAX};
use wire::table::{Authenticate, Authenticated};
use wire::{CloseReason, Decoded, ErrorCode, Frame, FrameError, Kind, Sender, ShardId, frame};

/// Connections that one reconnect slot of a drain takes.
const RECONNECTS_PER_SECOND: u32 = 2000;
/// A shard keeps papers this long for a connection that does not come.
const PAPERS_MS: u64 = 10_000;
/// The largest frame of a connection that nobody has vouched for.
const FIRST_FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + TOKEN_BYTES_MAX + 1024;

impl Shard {
    pub(crate) fn on_accepted(&mut self, connection: u32) {
        self.net.metrics.accepted.add(1);
        self.open(connection, Phase::ExpectHello);
        self.net.wheel.insert(connection, self.clock.now + self.plan.auth_timeout_ms);
        // One at a time: a connection that is about to move must have nothing armed.
        self.net.receive(connection, false);
        if self.life != Life::Serving {
            self.send_away(connection, CloseReason::Draining);
        }
    }

    fn open(&mut self, connection: u32, phase: Phase) {
        let entry = &mut self.net.connections[connection as usize];
        assert!(matches!(entry.phase, Phase::Free), "the driver gives out free slots");
        let generation = entry.generation.wrapping_add(1);
        let heard_tick = tick_of(self.clock.now);
        *entry = Connection { phase, generation, heard_tick, ..Connection::free() };
        self.counters.connections += 1;
    }

    pub(crate) fn on_received(&mut self, connection: u32, bytes: &[u8]) {
        self.net.metrics.bytes_in.add(bytes.len() as u64);
        let entry = &mut self.net.connections[connection as usize];
        if entry.receives_once {
            entry.receiving = false;
        }
        match entry.phase {
            Phase::ExpectHello | Phase::ExpectAuth => {}
            Phase::Live(_) => entry.heard_tick = tick_of(self.clock.now),
            // Said after the end: not read, but the peer's own end is waited for.
            Phase::Lingering => return self.net.receive(connection, true),
            _ => return,
        }
        self.read_frames(connection, bytes);
        let entry = &self.net.connections[connection as usize];
        if matches!(entry.phase, Phase::ExpectHello | Phase::ExpectAuth) {
            self.net.receive(connection, false);
        }
    }

    /// Takes frame after frame off the front; what is left waits in the connection's window.
    fn read_frames(&mut self, connection: u32, mut bytes: &[u8]) {
        if let Some(window) = self.net.connections[connection as usize].window.take() {
            bytes = match self.complete_frame(connection, *window, bytes) {
                Some(rest) => rest,
                None => return,
            };
        }
        while !bytes.is_empty() && self.is_reading(connection) {
            match self.read_frame(connection, bytes) {
                Read::Frame(used) => bytes = &bytes[used..],
                Read::Partial(_) => return self.keep_rest(connection, bytes),
                Read::Over => return,
            }
        }
        if let Phase::Leaving(leaving) = &mut self.net.connections[connection as usize].phase {
            leaving.papers.bytes.extend_from_slice(bytes);
        }
    }

    /// Fills the window up to the end of its frame, and no further.
    fn complete_frame<'a>(
        &mut self,
        connection: u32,
        mut window: Vec<u8>,
        mut bytes: &'a [u8],
    ) -> Option<&'a [u8]> {
        loop {
            match self.read_frame(connection, &window) {
                Read::Frame(used) => {
                    assert_eq!(used, window.len(), "a window holds one frame");
                    self.net.return_window(window);
                    return Some(bytes);
                }
                Read::Over => return None,
                Read::Partial(bytes_needed) => {
                    let (front, rest) =
                        bytes.split_at(bytes.len().min(bytes_needed - window.len()));
                    window.extend_from_slice(front);
                    bytes = rest;
                    if window.len() < bytes_needed {
                        self.net.connections[connection as usize].window = Some(Box::new(window));
                        return None;
                    }
                }
            }
        }
    }

    fn keep_rest(&mut self, connection: u32, bytes: &[u8]) {
        let mut window = self.net.window();
        window.extend_from_slice(bytes);
        self.net.connections[connection as usize].window = Some(Box::new(window));
    }

    /// Whether somebody was verified at the other end, and may make the server keep what he sends.
    fn is_known(&self, connection: u32) -> bool {
        self.net.connections[connection as usize].live().is_some()
    }

    fn is_reading(&self, connection: u32) -> bool {
        let entry = &self.net.connections[connection as usize];
        let is_open =
            matches!(entry.phase, Phase::ExpectHello | Phase::ExpectAuth | Phase::Live(_));
        is_open && entry.reason.is_none()
    }

    fn read_frame(&mut self, connection: u32, bytes: &[u8]) -> Read {
        match frame::decode(bytes) {
            Ok(Decoded::Frame(frame, used)) => {
                self.net.metrics.frames_in.add(1);
                self.on_frame(connection, frame);
                Read::Frame(used)
            }
            Ok(Decoded::Unknown { number, reference, bytes }) => {
                self.on_unknown(connection, number, reference);
                Read::Frame(bytes)
            }
            Ok(Decoded::Incomplete { bytes_needed }) => {
                if bytes_needed > FIRST_FRAME_BYTES_MAX && !self.is_known(connection) {
                    self.refuse(connection, 0, "authenticate before anything large");
                    return Read::Over;
                }
                Read::Partial(bytes_needed)
            }
            Err(FrameError::TooLarge { reference, bytes }) => {
                let text = format!("a body of {bytes} bytes is over the limit of its kind");
                self.net.error(connection, reference, (ErrorCode::TooLarge, 0), &text);
                self.send_away(connection, CloseReason::TooLarge);
                Read::Over
            }
            Err(FrameError::Malformed) => {
                let text = "these bytes are no frame of version 1";
                self.net.error(connection, 0, (ErrorCode::BadRequest, 0), text);
                self.send_away(connection, CloseReason::BadFrame);
                Read::Over
            }
        }
    }

    fn on_unknown(&mut self, connection: u32, number: u16, reference: u64) {
        if let Phase::Live(_) = self.net.connections[connection as usize].phase {
            let text = format!("kind {number:#06x} is unknown to version 1");
            self.net.error(connection, reference, (ErrorCode::UnknownType, 0), &text);
        } else {
            self.refuse(connection, reference, "the first frames are hello and authenticate");
        }
    }

    fn on_frame(&mut self, connection: u32, frame: Frame<'_>) {
        let entry = &self.net.connections[connection as usize];
        match (&entry.phase, frame.kind) {
            (Phase::ExpectHello, Kind::Hello) => self.on_hello(connection, frame),
            (Phase::ExpectAuth, Kind::Authenticate) => self.on_authenticate(connection, frame),
            (Phase::ExpectHello, _) => {
                self.refuse(connection, frame.reference, "the first frame is hello");
            }
            (Phase::ExpectAuth, _) => {
                let error = (ErrorCode::Unauthenticated, 0);
                self.net.error(connection, frame.reference, error, "authenticate first");
                self.send_away(connection, CloseReason::Unexpected);
            }
            (_, Kind::Hello | Kind::Authenticate) => {
                self.refuse(connection, frame.reference, "the session is open already");
            }
            (_, kind) if kind.sender() == Sender::Server => {
                self.refuse(connection, frame.reference, "this kind comes from servers");
            }
            (_, Kind::Heartbeat) => {
                self.net.send(connection, Kind::HeartbeatAck, frame.reference, [b"", b"", b""]);
            }
            _ => self.on_command(connection, frame),
        }
    }

    /// The peer broke the rules of the connection: told, and sent away.
    fn refuse(&mut self, connection: u32, reference: u64, text: &str) {
        self.net.error(connection, reference, (ErrorCode::BadRequest, 0), text);
        self.send_away(connection, CloseReason::Unexpected);
    }

    fn on_hello(&mut self, connection: u32, frame: Frame<'_>) {
        let timeout_ms = u32::try_from(self.plan.auth_timeout_ms).unwrap_or(u32::MAX);
        let negotiated = Hello::decode(frame.body)
            .map_err(|_| (ErrorCode::BadRequest, CloseReason::BadFrame))
            .and_then(|hello| {
                let refused =
                    |error: wire::handshake::HelloError| (error.error_code(), error.close_reason());
                negotiate(&hello, timeout_ms).map_err(refused)
            });
        match negotiated {
            Ok(welcome) => {
                self.net.connections[connection as usize].phase = Phase::ExpectAuth;
                let head = welcome.head();
                self.net.send(connection, Kind::Welcome, frame.reference, [&head.0, b"", b""]);
            }
            Err((code, reason)) => {
                let text = "not a hello of a version this server speaks";
                self.net.error(connection, frame.reference, (code, 0), text);
                self.send_away(connection, reason);
            }
        }
    }

    fn on_authenticate(&mut self, connection: u32, frame: Frame<'_>) {
        let Ok(claim) = Authenticate::decode(frame.body) else {
            return self.refuse(connection, frame.reference, "the authenticate frame is malformed");
        };
        let device = match self.verifier.verify(self.clock.wall, &claim) {
            Ok(device) => device,
            Err(error) => {
                self.net.error(connection, frame.reference, (error.code, 0), error.text);
                return self.send_away(connection, error.close_reason());
            }
        };
        if let Some(token) = claim.resume_token
            && !auth::is_resume_token(&self.me.ids, &device, token)
        {
            let text = "the resume token is not this device's: authenticate without it";
            self.net.error(connection, frame.reference, (ErrorCode::Forbidden, 0), text);
            return self.send_away(connection, CloseReason::Unauthenticated);
        }
        let VerifiedDevice { user, device, expires_at, .. } = device;
        let papers = Arrival {
            ticket: 0,
            user,
            device,
            auto_delivered: claim.auto_delivered,
            resumed: claim.resume_token.is_some(),
            expires_at,
            reference: frame.reference,
            bytes: Vec::new(),
        };
        let to = self.me.ids.user(&papers.user).partition().shard(self.me.shards_count);
        if to == self.me.shard {
            return self.go_live(connection, papers);
        }
        self.net.connections[connection as usize].phase =
            Phase::Leaving(Box::new(Leaving { to, papers }));
        self.leaving.push(connection);
    }

    /// Once a turn: connections that belong elsewhere go, when nothing is in flight on them.
    pub(crate) fn send_home(&mut self) {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain(|connection| !self.try_send_home(*connection));
        leaving.append(&mut self.leaving);
        self.leaving = leaving;
    }

    fn try_send_home(&mut self, connection: u32) -> bool {
        let entry = &mut self.net.connections[connection as usize];
        let Phase::Leaving(_) = entry.phase else { return true };
        if entry.sending || !self.net.outbox.is_empty(connection) || !self.port.has_parcels_room() {
            return false;
        }
        let phase = std::mem::replace(&mut entry.phase, Phase::Closing);
        let Phase::Leaving(leaving) = phase else { unreachable!("looked at above") };
        let Leaving { to, mut papers } = *leaving;
        self.counters.ticket = self.counters.ticket.wrapping_add(1);
        let ticket = self.counters.ticket;
        papers.ticket = ticket;
        self.post(to, Parcel::Arrival(Box::new(papers)));
        self.net.ops.push_back(Op::Pass { connection, to, ticket });
        true
    }

    pub(crate) fn on_passed(&mut self, connection: u32, error: Option<i32>) {
        if error.is_some() {
            self.net.metrics.refused.of(Refusal::ServerFull).add(1);
        }
        self.free(connection);
    }

    pub(crate) fn on_arrived(&mut self, connection: u32, from: ShardId, ticket: u32) {
        self.open(connection, Phase::Arriving { from, ticket });
        match self.arrivals.papers.remove(&(from, ticket)) {
            Some((_, papers)) => self.admit(connection, *papers),
            None => {
                self.arrivals.connections.insert((from, ticket), connection);
                self.net.wheel.insert(connection, self.clock.now + PAPERS_MS);
            }
        }
    }

    /// The papers of a connection from another shard.
    pub(crate) fn on_papers(&mut self, from: ShardId, papers: Box<Arrival>) {
        match self.arrivals.connections.remove(&(from, papers.ticket)) {
            Some(connection) => self.admit(connection, *papers),
            None => {
                let now = self.clock.now;
                // Papers whose connection was lost on the way are few, and go when others come.
                self.arrivals.papers.retain(|_, (until, _)| *until > now);
                let entry = (now + PAPERS_MS, papers);
                self.arrivals.papers.insert((from, entry.1.ticket), entry);
            }
        }
    }

    fn admit(&mut self, connection: u32, mut papers: Arrival) {
        let bytes = std::mem::take(&mut papers.bytes);
        self.go_live(connection, papers);
        if !bytes.is_empty() && self.is_reading(connection) {
            self.read_frames(connection, &bytes);
        }
    }

    fn go_live(&mut self, connection: u32, papers: Arrival) {
        let Arrival { user: name, device: device_name, auto_delivered, resumed, .. } = papers;
        let user = self.me.ids.user(&name);
        let device = self.me.ids.device(&device_name);
        let speaker = Speaker { user, name: &name };
        let opened = match self.home.open_session(speaker, device, SessionSlot(connection)) {
            Ok(opened) => opened,
            Err(refusal) => {
                let error = (refusal.code, 0);
                self.net.error(connection, papers.reference, error, refusal.text);
                return self.send_away(connection, CloseReason::Unauthenticated);
            }
        };
        if let Some(SessionSlot(replaced)) = opened.replaced {
            self.leave(replaced);
            self.send_away(replaced, CloseReason::Replaced);
        }
        self.counters.session += 1;
        self.counters.sessions += 1;
        let session = self.counters.session;
        let token = auth::resume_token(&self.me.ids, (user, device), session);
        let interval_ms = self.plan.heartbeat_interval_ms;
        let body = self.tables.authenticated(&Authenticated {
            user: &name,
            device: &device_name,
            session,
            resume_token: &token,
            heartbeat_interval_s: u32::try_from(interval_ms / 1000).unwrap_or(u32::MAX),
            resumed,
            server_time_ms: self.clock.wall,
        });
        self.net.send(connection, Kind::Authenticated, papers.reference, [body, b"", b""]);
        let entry = &mut self.net.connections[connection as usize];
        entry.heard_tick = tick_of(self.clock.now);
        entry.counts_handed = auto_delivered;
        entry.phase = Phase::Live(Box::new(Live {
            user,
            device,
            session,
            name,
            expires_at: papers.expires_at.unwrap_or(u64::MAX),
            sync: None,
            handed: auto_delivered.then(Box::default),
        }));
        self.net.receive(connection, true);
        let expires_in =
            papers.expires_at.map_or(u64::MAX, |at| at.saturating_sub(self.clock.wall));
        let deadline = self.clock.now + expires_in.min(2 * interval_ms);
        self.net.wheel.insert(connection, deadline);
        let list = self.missed(connection);
        self.begin_sync(connection, list, 0);
    }

    pub(crate) fn on_sent(&mut self, connection: u32, result: Result<u32, i32>) {
        let is_closing = matches!(self.net.connections[connection as usize].phase, Phase::Closing);
        let is_empty = self.net.on_sent(connection, result.unwrap_or(0));
        if is_closing {
            self.net.outbox.clear(connection);
        } else if result.is_err() {
            self.end(connection, CloseReason::PeerReset);
        } else if is_empty {
            self.net.shut_if_sent(connection);
            self.note_handed(connection);
        }
    }

    pub(crate) fn on_ended(&mut self, connection: u32, error: Option<i32>) {
        self.net.connections[connection as usize].receiving = false;
        let reason = if error.is_some() { CloseReason::PeerReset } else { CloseReason::PeerClosed };
        self.end(connection, reason);
    }

    /// A deadline came up: is it still meant?
    pub(crate) fn on_deadline(&mut self, connection: u32) {
        let now = self.clock.now;
        let entry = &self.net.connections[connection as usize];
        let heard_at = u64::from(entry.heard_tick) * TICK_MS;
        let (deadline, reason) = match &entry.phase {
            Phase::Free | Phase::Closing => return,
            Phase::ExpectHello | Phase::ExpectAuth | Phase::Leaving(_) => {
                (heard_at + self.plan.auth_timeout_ms, CloseReason::AuthTimeout)
            }
            Phase::Arriving { .. } => (heard_at + PAPERS_MS, CloseReason::Internal),
            Phase::Live(live) if live.expires_at <= self.clock.wall => {
                (now, CloseReason::Unauthenticated)
            }
            // A tick more, since what was heard is only known to the tick.
            Phase::Live(live) => {
                let silent_until = heard_at + 2 * self.plan.heartbeat_interval_ms + TICK_MS;
                let valid_until = now.saturating_add(live.expires_at - self.clock.wall);
                (silent_until.min(valid_until), CloseReason::Idle)
            }
            Phase::Lingering => (Net::linger_deadline(entry), CloseReason::PeerReset),
        };
        if now < deadline {
            return self.net.wheel.insert(connection, deadline);
        }
        match (&entry.phase, reason) {
            (Phase::Lingering | Phase::Arriving { .. }, _) => self.end(connection, reason),
            (_, CloseReason::Unauthenticated) => {
                let error = (ErrorCode::TokenExpired, 0);
                self.net.error(connection, 0, error, "the token has expired: connect with another");
                self.send_away(connection, reason);
            }
            _ => self.send_away(connection, reason),
        }
    }

    /// Says goodbye with the reason, then lets the connection end.
    pub(crate) fn send_away(&mut self, connection: u32, reason: CloseReason) {
        let entry = &self.net.connections[connection as usize];
        if matches!(entry.phase, Phase::Free | Phase::Closing | Phase::Lingering) {
            return;
        }
        if let Phase::Arriving { from, ticket } = entry.phase {
            self.arrivals.connections.remove(&(from, ticket));
        }
        // Reconnects spread over as many slots as there are connections to come back.
        let after_ms = match reason {
            CloseReason::Draining => 500 + connection * 1000 / RECONNECTS_PER_SECOND,
            _ => 0,
        };
        let who = entry.live().map(|live| ((live.user, live.device), live.session));
        let token = who.map(|(who, session)| auth::resume_token(&self.me.ids, who, session));
        let token = token.as_ref().map_or(&b""[..], |token| token);
        self.net.go_away(connection, reason, after_ms, token);
        self.leave(connection);
        self.net.linger(connection, self.clock.now, reason);
    }

    /// Ends a connection without a word: the peer is gone, or does not listen.
    pub(crate) fn end(&mut self, connection: u32, reason: CloseReason) {
        if let Phase::Arriving { from, ticket } = self.net.connections[connection as usize].phase {
            self.arrivals.connections.remove(&(from, ticket));
        }
        self.leave(connection);
        self.net.close(connection, reason);
    }

    /// Takes a session out of its user's state.
    fn leave(&mut self, connection: u32) {
        if let Some(live) = self.net.connections[connection as usize].live() {
            let user = live.user;
            self.counters.sessions -= 1;
            self.home.close_session(user, SessionSlot(connection));
            let entry = &mut self.net.connections[connection as usize];
            entry.syncing = false;
            entry.counts_handed = false;
            entry.phase = Phase::ExpectAuth;
        }
    }

    pub(crate) fn end_doomed(&mut self) {
        while let Some((connection, reason)) = self.net.doomed.pop_front() {
            self.end(connection, reason);
        }
    }

    pub(crate) fn on_closed(&mut self, connection: u32) {
        let entry = &self.net.connections[connection as usize];
        self.net.metrics.closed.of(entry.reason.unwrap_or(CloseReason::Internal)).add(1);
        self.free(connection);
    }

    fn free(&mut self, connection: u32) {
        let entry = &mut self.net.connections[connection as usize];
        let generation = entry.generation;
        *entry = Connection { generation, ..Connection::free() };
        self.net.outbox.clear(connection);
        self.counters.connections -= 1;
    }
}

/// What stood at the front of some bytes.
enum Read {
    /// A frame of so many bytes, dealt with.
    Frame(usize),
    /// Not all of a frame; the whole has so many bytes.
    Partial(usize),
    /// Nothing more is read from this connection.
    Over,
}
