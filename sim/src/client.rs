//! A simulated device: it connects, speaks real frames, retries what was not acknowledged, and
//! hands all it sees to the oracle. What it decides to do is in `deeds`, what it hears in `hears`.

use crate::env::{Env, Happening};
use crate::oracle::{MessageIndex, User, name_of};
use std::collections::{BTreeMap, BTreeSet};
use wire::handshake::Hello;
use wire::table::{Authenticate, MemberChange, TableWriter};
use wire::{ConversationId, Decoded, Kind, frame};

/// Where a device is in the life of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Down,
    Hello,
    Auth,
    Live,
    /// Has ended its half, or was told to go.
    Leaving,
}

/// What a reference stands for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Send(MessageIndex),
    History {
        conversation: ConversationId,
        before: u64,
        newest_known: u64,
        gone_since: Option<u64>,
    },
    Sync,
    Create {
        users: Vec<User>,
    },
    Change {
        group: ConversationId,
        change: MemberChange,
        users: Vec<User>,
        asked_at: u64,
    },
    Other,
}

/// What one session has received of one conversation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    /// The newest that was delivered, or 0.
    pub(crate) last: u64,
    /// Sent by this very session and acknowledged to it: not delivered to it again.
    pub(crate) own: BTreeSet<u64>,
    /// An explicit sync goes back to here.
    pub(crate) rewinds_to: Option<u64>,
}

/// A history being read page by page at the end of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) sequences: BTreeSet<u64>,
    pub(crate) gap_through: u64,
    pub(crate) before: u64,
    pub(crate) is_done: bool,
    pub(crate) is_asked: bool,
}

/// See the module.
pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) user: User,
    pub(crate) device: String,
    pub(crate) is_hostile: bool,
    /// Handing it a message counts as delivery.
    pub(crate) is_auto: bool,
    /// Some device of the user is.
    pub(crate) is_auto_user: bool,
    pub(crate) connection: Option<u32>,
    pub(crate) phase: Phase,
    pub(crate) token: Option<Vec<u8>>,
    buffer: Vec<u8>,
    pub(crate) out: Vec<u8>,
    pub(crate) tables: TableWriter,
    next_reference: u64,
    pub(crate) asked: BTreeMap<u64, Asked>,
    /// To be acknowledged, oldest first.
    pub(crate) unacked: Vec<MessageIndex>,
    pub(crate) retry_at: u64,
    pub(crate) connect_at: u64,
    pub(crate) stalled_until: u64,
    pub(crate) heard_at: u64,
    pub(crate) heartbeat_at: u64,
    pub(crate) streams: BTreeMap<ConversationId, Stream>,
    /// The last acknowledgement of a send of this session: its reference and sequence.
    pub(crate) last_acks: BTreeMap<ConversationId, (u64, u64)>,
    pub(crate) marks: BTreeMap<ConversationId, u64>,
    pub(crate) receipts: BTreeMap<(ConversationId, User, bool), u64>,
    pub(crate) readings: BTreeMap<ConversationId, Reading>,
    /// Another's token, tried by the hostile.
    pub(crate) tries_foreign_token: bool,
}

impl Client {
    pub(crate) fn new(index: usize, user: User, device: String) -> Self {
        Self {
            index,
            user,
            device,
            is_hostile: false,
            is_auto: false,
            is_auto_user: false,
            connection: None,
            phase: Phase::Down,
            token: None,
            buffer: Vec::new(),
            out: Vec::new(),
            tables: TableWriter::default(),
            next_reference: 0,
            asked: BTreeMap::new(),
            unacked: Vec::new(),
            retry_at: 0,
            connect_at: 0,
            stalled_until: 0,
            heard_at: 0,
            heartbeat_at: 0,
            streams: BTreeMap::new(),
            last_acks: BTreeMap::new(),
            marks: BTreeMap::new(),
            receipts: BTreeMap::new(),
            readings: BTreeMap::new(),
            tries_foreign_token: false,
        }
    }

    pub(crate) fn name(&self) -> String {
        if self.is_hostile { format!("mallory-{}", self.user) } else { name_of(self.user) }
    }

    pub(crate) fn reference(&mut self, asked: Asked) -> u64 {
        self.next_reference += 1;
        self.asked.insert(self.next_reference, asked);
        self.next_reference
    }

    pub(crate) fn put(&mut self, kind: Kind, reference: u64, parts: &[&[u8]]) {
        frame::encode(&mut self.out, kind, reference, parts);
    }

    pub(crate) fn flush(&mut self, env: &mut Env) {
        let out = std::mem::take(&mut self.out);
        if let Some(connection) = self.connection.filter(|_| !out.is_empty()) {
            env.trace.bytes(&out);
            env.send_up(connection, &out);
        }
    }

    pub(crate) fn connect(&mut self, env: &mut Env) {
        assert_eq!(self.phase, Phase::Down);
        self.connection = Some(env.dial(self.index));
        self.phase = Phase::Hello;
        self.tries_foreign_token = false;
        self.heard_at = env.time;
        self.put(Kind::Hello, 0, &[&Hello::OURS.head().0]);
        if env.random.chance(500) {
            // Nothing says that one must wait for the welcome.
            self.authenticate(env);
        }
        self.flush(env);
    }

    pub(crate) fn authenticate(&mut self, env: &mut Env) {
        self.phase = Phase::Auth;
        let (name, device) = (self.name(), self.device.clone());
        let resume = self.token.clone().filter(|_| env.random.chance(700));
        let body = self.tables.authenticate(&Authenticate {
            token: None,
            user: Some(&name),
            device: Some(&device),
            resume_token: resume.as_deref(),
            auto_delivered: self.is_auto,
        });
        frame::encode(&mut self.out, Kind::Authenticate, 1, &[body]);
    }

    /// The connection is no more: what was asked on it may or may not have happened.
    pub(crate) fn forget_connection(&mut self, env: &mut Env) {
        self.connection = None;
        self.phase = Phase::Down;
        self.asked.clear();
        self.buffer.clear();
        self.out.clear();
        self.streams.clear();
        self.last_acks.clear();
        for reading in self.readings.values_mut() {
            reading.is_asked = false;
        }
        let delay = env.random.delay(200_000);
        self.connect_at = self.connect_at.max(env.time + delay);
    }

    /// Ends the connection at once, from this side.
    pub(crate) fn abort(&mut self, env: &mut Env) {
        if let Some(connection) = self.connection {
            env.reset(connection);
        }
        self.forget_connection(env);
    }

    /// Reads what has arrived.
    pub(crate) fn read(&mut self, env: &mut Env, id: u32) {
        if self.connection != Some(id) {
            return;
        }
        if env.time < self.stalled_until {
            let wait = self.stalled_until - env.time;
            return env.after(wait, Happening::ClientRead { connection: id });
        }
        let found = env.connections.get_mut(&id).expect("ours");
        let bytes: Vec<u8> = found.client_inbox.drain(..).collect();
        let is_over = found.client_ended;
        self.buffer.extend_from_slice(&bytes);
        self.heard_at = env.time;
        self.take_frames(env);
        if is_over && self.connection == Some(id) {
            if !self.buffer.is_empty() && !env.connections[&id].is_reset && !self.is_hostile {
                // A process that crashes stops in the middle of a frame; so does a slow reader's
                // connection. Nothing was promised of half a frame.
                env.counters.hit("ends within a frame");
            }
            if self.phase != Phase::Leaving {
                env.end_up(id);
            }
            self.forget_connection(env);
        }
    }

    fn take_frames(&mut self, env: &mut Env) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = &buffer[..];
        while self.connection.is_some() {
            match frame::decode(rest) {
                Ok(Decoded::Frame(frame, used)) => {
                    self.hear(env, frame);
                    rest = &rest[used..];
                }
                Ok(Decoded::Incomplete { .. }) => break,
                other => {
                    env.oracle.fail(format!("the server sent what is no frame: {other:?}"));
                    return;
                }
            }
        }
        if self.connection.is_some() {
            self.buffer = rest.to_vec();
        }
    }
}
