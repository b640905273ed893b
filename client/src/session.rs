//! A client but for its socket and its clock.
//!
//! One [`Session`] lives through many connections: [`Session::handle_connected`] and
//! [`Session::handle_disconnected`] tell it of them. `now` is a time since any fixed moment of the
//! caller's, and only ever moves forward.

use crate::cursors::Cursors;
use crate::event::{Event, Refusal};
use crate::ids::Ids;
use crate::outbox::{Outbox, Target};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use wire::body::{self, BodyError, SendMessage, cursor_head};
use wire::fixed::{ListConversations, ReadGroup, ReadHistory};
use wire::handshake::Hello;
use wire::limits::{CONTENT_BYTES_MAX, MEMBERS_PER_FRAME_MAX, TOKEN_BYTES_MAX};
use wire::table::{Authenticate, MemberChange, RenameGroup, TableWriter, group_name};
use wire::{ClientMessageId, ConversationId, FrameError, Kind, Sequence, frame};

/// Bytes that may wait for the socket; requests beyond it are refused, messages wait.
const TRANSMIT_BYTES_MAX: usize = 1024 * 1024;
/// Requests that may wait for their answer.
const REQUESTS_MAX: usize = 1024;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long the server may take from hello to authenticated.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(15);

/// Who the client is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What proves it.
    pub credential: Credential,
    /// Which of the user's devices; a token may name it instead.
    pub device: Option<String>,
    /// Whether bytes handed to the socket count as delivered; else the session acknowledges.
    pub auto_delivered: bool,
}

/// What proves who the client is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A JSON web token.
    Token(String),
    /// A mere user id, for a server in development mode.
    User(String),
}

/// Names a request, so that its answer can be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(pub u64);

/// Why a message was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many messages wait for the server: try again when one was acknowledged.
    #[error("too many messages wait for the server")]
    Full,
    /// The content is over the protocol's limit; it never fits.
    #[error("the message is longer than {CONTENT_BYTES_MAX} bytes")]
    TooLarge,
    /// Not a user id.
    #[error("a user id is 1 to 64 of A-Z a-z 0-9 _ . : @ -")]
    Name,
}

/// Why a request was not made. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The session is not live; requests do not wait for it, since their answers would be stale.
    #[error("not connected")]
    Offline,
    /// Too many requests wait for their answer.
    #[error("too many requests wait for their answer")]
    Busy,
    /// Not a user id.
    #[error("a user id is 1 to 64 of A-Z a-z 0-9 _ . : @ -")]
    Name,
    /// Not a group's name.
    #[error("a group's name is 1 to 256 bytes without control characters")]
    GroupName,
    /// More users than a frame may name.
    #[error("at most {MEMBERS_PER_FRAME_MAX} users in one request")]
    TooMany,
}

/// The server does not speak the protocol. Close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Its bytes are not frames.
    #[error("the server's bytes are not frames: {0:?}")]
    Frame(FrameError),
    /// A body is not what its kind promises.
    #[error("a malformed {0:?} frame: {1:?}")]
    Body(Kind, BodyError),
    /// A frame that the connection's state does not allow.
    #[error("an unexpected {0:?} frame")]
    Unexpected(Kind),
}

/// The server was silent for too long. Close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has gone silent")]
pub struct TimedOut;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Offline,
    ExpectWelcome,
    ExpectAuthenticated,
    Live,
    /// The server refused the identity, or another connection took this one's place.
    Refused,
}

/// What a reference on this connection stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Handshake,
    Send(ClientMessageId),
    Request,
}

/// A client but for its socket and its clock.
pub struct Session {
    identity: Identity,
    pub(crate) ids: Ids,
    pub(crate) state: State,
    /// The start of a frame whose rest has not come.
    pub(crate) window: Vec<u8>,
    transmit: Vec<u8>,
    pub(crate) events: VecDeque<Event>,
    writer: TableWriter,
    pub(crate) outbox: Outbox,
    pub(crate) cursors: Cursors,
    pub(crate) asked: BTreeMap<u64, Asked>,
    reference_next: u64,
    pub(crate) resume_token: Vec<u8>,
    /// When the server was last heard, and when it last heard us.
    pub(crate) heard_at: Duration,
    said_at: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) attempts_count: u32,
    /// What the server asked us to wait before we come back.
    pub(crate) reconnect_after: Option<Duration>,
}

impl Session {
    /// A session that is not connected. `seed` is fresh entropy: see [`Ids`].
    pub fn new(identity: Identity, seed: u128) -> Self {
        Self {
            cursors: Cursors::new(identity.auto_delivered),
            identity,
            ids: Ids::new(seed),
            state: State::Offline,
            window: Vec::new(),
            transmit: Vec::new(),
            events: VecDeque::new(),
            writer: TableWriter::default(),
            outbox: Outbox::default(),
            asked: BTreeMap::new(),
            reference_next: 1,
            resume_token: Vec::new(),
            heard_at: Duration::ZERO,
            said_at: Duration::ZERO,
            heartbeat_interval: HANDSHAKE_TIME_MAX,
            attempts_count: 0,
            reconnect_after: None,
        }
    }

    /// A connection is open: says hello and who we are, in one go.
    pub fn handle_connected(&mut self, now: Duration) {
        assert_eq!(self.state, State::Offline, "one connection at a time");
        self.state = State::ExpectWelcome;
        (self.heard_at, self.said_at) = (now, now);
        let reference = self.ask(Asked::Handshake);
        frame::encode(&mut self.transmit, Kind::Hello, reference, &[&Hello::OURS.head().0]);
        let reference = self.ask(Asked::Handshake);
        let (token, user) = match &self.identity.credential {
            Credential::Token(token) => (Some(token.as_str()), None),
            Credential::User(user) => (None, Some(user.as_str())),
        };
        let body = self.writer.authenticate(&Authenticate {
            token,
            user,
            device: self.identity.device.as_deref(),
            resume_token: Some(self.resume_token.as_slice()).filter(|token| !token.is_empty()),
            auto_delivered: self.identity.auto_delivered,
        });
        frame::encode(&mut self.transmit, Kind::Authenticate, reference, &[body]);
    }

    /// The connection ended, or could not be opened. Returns when to open the next; none where the
    /// server would only refuse it again.
    pub fn handle_disconnected(&mut self, now: Duration) -> Option<Duration> {
        self.window.clear();
        self.transmit.clear();
        self.outbox.retry_all();
        self.cursors.forget_told(now);
        for (reference, asked) in std::mem::take(&mut self.asked) {
            if let Asked::Request = asked {
                let text = "the connection ended before the answer".to_owned();
                let refusal = Refusal { code: None, text, retry_after_ms: 0 };
                self.events.push_back(Event::Refused { reference: Reference(reference), refusal });
            }
        }
        if self.state == State::Refused {
            return None;
        }
        self.state = State::Offline;
        let wait = match self.reconnect_after.take() {
            Some(wait) => wait,
            None => {
                let doubled = BACKOFF_FIRST * 2_u32.pow(self.attempts_count.min(10));
                self.ids.jitter(doubled.min(BACKOFF_MAX))
            }
        };
        self.attempts_count = self.attempts_count.saturating_add(1);
        Some(now + wait)
    }

    /// Bytes for the socket, if there are any.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.state == State::Live {
            self.transmit_due(now);
        }
        if self.transmit.is_empty() {
            return None;
        }
        self.said_at = now;
        Some(std::mem::take(&mut self.transmit))
    }

    fn transmit_due(&mut self, now: Duration) {
        while self.transmit.len() < TRANSMIT_BYTES_MAX {
            let reference = self.reference_next;
            let Some(entry) = self.outbox.take_due(now) else { break };
            let target = match &entry.target {
                Target::Conversation(id) => body::Target::Conversation(*id),
                Target::User(name) => body::Target::Recipient(name),
            };
            let recipient = match target {
                body::Target::Recipient(name) => name,
                body::Target::Conversation(_) => "",
            };
            let (client_message, message_kind) = (entry.client_message, entry.message_kind);
            let head =
                SendMessage { target, client_message, message_kind, content: &entry.content };
            let parts = [&head.head().0, recipient.as_bytes(), &entry.content];
            frame::encode(&mut self.transmit, Kind::SendMessage, reference, &parts);
            self.ask(Asked::Send(client_message));
        }
        let transmit = &mut self.transmit;
        self.cursors.flush(now, |kind, conversation, up_to| {
            frame::encode(transmit, kind, 0, &[&cursor_head(conversation, up_to).0]);
        });
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`Session::poll_event`] has something.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// When [`Session::handle_timeout`] is to be called, and after it [`Session::poll_transmit`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        let silence = self.silence_max() + self.heard_at;
        match self.state {
            State::Offline | State::Refused => None,
            State::ExpectWelcome | State::ExpectAuthenticated => Some(silence),
            State::Live => {
                let heartbeat = self.said_at + self.heartbeat_interval;
                let dues = [self.outbox.due(), self.cursors.due(), Some(silence), Some(heartbeat)];
                dues.into_iter().flatten().min()
            }
        }
    }

    fn silence_max(&self) -> Duration {
        match self.state {
            // The server answers each heartbeat, so two missed answers are a dead connection.
            State::Live => self.heartbeat_interval * 2 + Duration::from_secs(2),
            _ => HANDSHAKE_TIME_MAX,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), TimedOut> {
        if matches!(self.state, State::Offline | State::Refused) {
            return Ok(());
        }
        if now >= self.heard_at + self.silence_max() {
            return Err(TimedOut);
        }
        if self.state == State::Live && now >= self.said_at + self.heartbeat_interval {
            frame::encode(&mut self.transmit, Kind::Heartbeat, 0, &[]);
        }
        Ok(())
    }

    /// Whether the server has authenticated this connection.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether the server has said that coming back is of no use.
    pub fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    /// Messages that the server has not acknowledged.
    pub fn unacknowledged_count(&self) -> usize {
        self.outbox.len()
    }

    /// Whether nothing waits: no message, no request, no cursor, no bytes.
    pub fn is_idle(&self) -> bool {
        self.outbox.len() == 0
            && self.asked.is_empty()
            && self.cursors.due().is_none()
            && self.transmit.is_empty()
    }

    fn ask(&mut self, asked: Asked) -> u64 {
        let reference = self.reference_next;
        self.reference_next += 1;
        self.asked.insert(reference, asked);
        reference
    }

    /// Takes a message, connected or not. It is sent, and sent again, until an [`Event::Sent`] or
    /// [`Event::SendRefused`] with the id returned.
    pub fn send(
        &mut self,
        target: Target,
        message_kind: u8,
        content: &[u8],
    ) -> Result<ClientMessageId, SendError> {
        if content.len() > CONTENT_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        if let Target::User(name) = &target {
            body::name(name.as_bytes()).map_err(|_| SendError::Name)?;
        }
        if !self.outbox.has_room(content.len()) {
            return Err(SendError::Full);
        }
        let client_message = self.ids.client_message();
        self.outbox.push(client_message, target, message_kind, content.to_vec());
        Ok(client_message)
    }

    /// The user has read up to `up_to`.
    pub fn mark_read(&mut self, now: Duration, conversation: ConversationId, up_to: Sequence) {
        self.cursors.read(now, conversation, up_to);
    }

    fn request(&mut self, kind: Kind, body: &[u8]) -> Result<Reference, RequestError> {
        if self.state != State::Live {
            return Err(RequestError::Offline);
        }
        let requests_count = self.asked.len().saturating_sub(self.outbox.len());
        if requests_count >= REQUESTS_MAX || self.transmit.len() >= TRANSMIT_BYTES_MAX {
            return Err(RequestError::Busy);
        }
        let reference = self.ask(Asked::Request);
        frame::encode(&mut self.transmit, kind, reference, &[body]);
        Ok(Reference(reference))
    }

    /// Asks for the messages before `before` (zero: from the newest), newest first.
    pub fn read_history(
        &mut self,
        conversation: ConversationId,
        before: Sequence,
        limit: u16,
    ) -> Result<Reference, RequestError> {
        let body = ReadHistory { conversation, before, limit }.head();
        self.request(Kind::ReadHistory, &body.0)
    }

    /// Asks for conversations after `after` in order of id (zero: from the start).
    pub fn list_conversations(&mut self, after: ConversationId) -> Result<Reference, RequestError> {
        let body = ListConversations { after, limit: 0 }.head();
        self.request(Kind::ListConversations, &body.0)
    }

    /// Asks for a group's name and its members from index `from` on.
    pub fn read_group(
        &mut self,
        group: ConversationId,
        from: u32,
    ) -> Result<Reference, RequestError> {
        self.request(Kind::ReadGroup, &ReadGroup { group, from }.head().0)
    }

    /// Makes a group of us and `members`; [`Event::Group`] answers.
    pub fn create_group(
        &mut self,
        name: &str,
        members: &[&str],
    ) -> Result<Reference, RequestError> {
        group_name(name).map_err(|_| RequestError::GroupName)?;
        check_names(members)?;
        let request = self.ids.client_message();
        let body = self.writer.create_group(request, name, members.iter().copied()).to_vec();
        self.request(Kind::CreateGroup, &body)
    }

    /// Changes the members of `group`; [`Event::MembersChanged`] answers. Nobody is named to
    /// leave.
    pub fn change_members(
        &mut self,
        group: ConversationId,
        change: MemberChange,
        users: &[&str],
    ) -> Result<Reference, RequestError> {
        check_names(users)?;
        if users.is_empty() != (change == MemberChange::Leave) {
            return Err(RequestError::Name);
        }
        let body = self.writer.change_members(group, change, users.iter().copied()).to_vec();
        self.request(Kind::ChangeMembers, &body)
    }

    /// Gives `group` another name; [`Event::Renamed`] answers.
    pub fn rename_group(
        &mut self,
        group: ConversationId,
        name: &str,
    ) -> Result<Reference, RequestError> {
        let name = group_name(name).map_err(|_| RequestError::GroupName)?;
        let body = self.writer.rename_group(&RenameGroup { group, name }).to_vec();
        self.request(Kind::RenameGroup, &body)
    }
}

impl Identity {
    /// Whether it can be put on the wire: names well formed, the token within its bound.
    pub fn is_valid(&self) -> bool {
        let is_name = |name: &str| body::name(name.as_bytes()).is_ok();
        let is_credential = match &self.credential {
            Credential::Token(token) => !token.is_empty() && token.len() <= TOKEN_BYTES_MAX,
            Credential::User(user) => is_name(user),
        };
        is_credential && self.device.as_deref().is_none_or(is_name)
    }
}

fn check_names(names: &[&str]) -> Result<(), RequestError> {
    if names.len() > MEMBERS_PER_FRAME_MAX {
        return Err(RequestError::TooMany);
    }
    let is_name = |name: &&str| body::name(name.as_bytes()).is_ok();
    if names.iter().all(is_name) { Ok(()) } else { Err(RequestError::Name) }
}

#[cfg(test)]
mod tests;
