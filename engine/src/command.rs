//! A session's frame becomes a command: read, routed to the shard that owns the conversation,
//! decided there, and what follows from it set in motion.

use crate::metrics::Refusal;
use crate::parcel::{Origin, Parcel, Request};
use crate::pending::{Pending, Waiting};
use crate::shard::{Life, Shard};
use chat::{Command, Decision, Record, Speaker, Stamp, WallMillis};
use fanout::{Full, PoolFull, Span};
use storage::{AppendError, NewRecord};
use wire::body::{self, BodyError, SendMessage, Target};
use wire::fixed::{ListConversations, ReadGroup, ReadHistory, Sent, SentStatus};
use wire::table::{ChangeMembers, CreateGroup, MemberChange, Names, RenameGroup, Sync};
use wire::{
    ClientMessageId, ConversationId, ErrorCode, Frame, Hlc, IdKey, Kind, Sequence, UserKey,
};

/// Effects that may wait for the disk at once.
pub(crate) const PENDING_MAX: usize = 1 << 17;
const BUSY_RETRY_MS: u32 = 100;
const STORAGE_RETRY_MS: u32 = 1000;

/// What a frame asks of the owner of a conversation.
#[derive(Clone, Copy)]
pub(crate) enum Ask<'a> {
    Send { conversation: ConversationId, recipient: Option<Speaker<'a>>, message: SendMessage<'a> },
    Delivered(ConversationId, Sequence),
    Read(ConversationId, Sequence),
    History(ReadHistory),
    Group(ReadGroup),
    Create(ConversationId, CreateGroup<'a>),
    Change(ChangeMembers<'a>),
    Rename(RenameGroup<'a>),
}

impl<'a> Ask<'a> {
    fn decode(kind: Kind, body: &'a [u8], ids: &IdKey, user: UserKey) -> Result<Self, BodyError> {
        Ok(match kind {
            Kind::SendMessage => {
                let message = SendMessage::decode(body)?;
                let (conversation, recipient) = match message.target {
                    Target::Conversation(conversation) => (conversation, None),
                    Target::Recipient(name) => {
                        let recipient = Speaker { user: ids.user(name), name };
                        (ids.direct(user, recipient.user), Some(recipient))
                    }
                };
                Self::Send { conversation, recipient, message }
            }
            Kind::MarkDelivered => {
                let (conversation, up_to) = body::cursor(body)?;
                Self::Delivered(conversation, up_to)
            }
            Kind::MarkRead => {
                let (conversation, up_to) = body::cursor(body)?;
                Self::Read(conversation, up_to)
            }
            Kind::ReadHistory => Self::History(ReadHistory::decode(body)?),
            Kind::ReadGroup => Self::Group(ReadGroup::decode(body)?),
            Kind::CreateGroup => {
                let create = CreateGroup::decode(body)?;
                Self::Create(ids.group(user, create.request), create)
            }
            Kind::ChangeMembers => Self::Change(ChangeMembers::decode(body)?),
            Kind::RenameGroup => Self::Rename(RenameGroup::decode(body)?),
            other => unreachable!("{other:?} is no command for an owner"),
        })
    }

    fn conversation(&self) -> ConversationId {
        match self {
            Self::Send { conversation, .. }
            | Self::Delivered(conversation, _)
            | Self::Read(conversation, _)
            | Self::Create(conversation, _) => *conversation,
            Self::History(ask) => ask.conversation,
            Self::Group(ask) => ask.group,
            Self::Change(ask) => ask.group,
            Self::Rename(ask) => ask.group,
        }
    }
}

impl Shard {
    /// A frame of a live session.
    pub(crate) fn on_command(&mut self, connection: u32, frame: Frame<'_>) {
        let origin = self.origin(connection, frame.reference);
        let live = self.net.connections[connection as usize].live().expect("asked by a session");
        let (user, device) = (live.user, live.device);
        match frame.kind {
            Kind::Sync => return self.on_sync_frame(connection, frame),
            Kind::ListConversations => return self.on_list(connection, frame),
            _ => {}
        }
        let ask = match Ask::decode(frame.kind, frame.body, &self.me.ids, user) {
            Ok(ask) => ask,
            Err(error) => return self.answer_malformed(origin, error),
        };
        if let Ask::Delivered(conversation, up_to) | Ask::Read(conversation, up_to) = ask
            && self.home.is_in(user, conversation)
        {
            self.home.move_cursor(user, device, conversation, up_to);
        }
        let owner = ask.conversation().partition().shard(self.me.shards_count);
        if owner != self.me.shard {
            return self.forward(origin, owner, user, frame);
        }
        if !self.port.has_parcels_room() {
            return self.answer_busy(origin, Refusal::RingFull);
        }
        // The name is out of its place while it is lent, and back before anybody looks.
        let entry = self.net.connections[connection as usize].live_mut().expect("looked at above");
        let name = std::mem::take(&mut entry.name);
        self.perform(origin, Speaker { user, name: &name }, ask);
        if let Some(live) = self.net.connections[connection as usize].live_mut() {
            live.name = name;
        }
    }

    fn forward(&mut self, origin: Origin, owner: wire::ShardId, user: UserKey, frame: Frame<'_>) {
        let live = self.net.connections[origin.connection as usize].live().expect("a session");
        let name_bytes = u8::try_from(live.name.len()).expect("a name has at most 64 bytes");
        let Ok(span) = self.net.blocks.append_parts(&[live.name.as_bytes(), frame.body]) else {
            return self.answer_busy(origin, Refusal::RingFull);
        };
        let request = Request::Frame { origin, user, kind: frame.kind, span, name_bytes };
        match self.port.send_request(owner, request) {
            Ok(()) => self.net.metrics.requests_sent.add(1),
            Err(Full(_)) => self.answer_busy(origin, Refusal::RingFull),
        }
    }

    /// The same frame, on the shard that owns its conversation.
    pub(crate) fn on_forwarded(
        &mut self,
        origin: Origin,
        user: UserKey,
        (kind, name_bytes): (Kind, u8),
        span: &Span,
    ) {
        let (name, body) = span.bytes().split_at(usize::from(name_bytes));
        let name = str::from_utf8(name).expect("a checked name");
        let ask = Ask::decode(kind, body, &self.me.ids, user).expect("it was read once before");
        self.perform(origin, Speaker { user, name }, ask);
    }

    fn on_sync_frame(&mut self, connection: u32, frame: Frame<'_>) {
        let Ok(sync) = Sync::decode(frame.body) else {
            let origin = self.origin(connection, frame.reference);
            return self.answer_malformed(origin, BodyError::Table);
        };
        let mut list: Vec<_> =
            sync.cursors().map(|(conversation, up_to)| (conversation, Some(up_to))).collect();
        if list.is_empty() {
            list = self.missed(connection);
        } else {
            let user = self.net.connections[connection as usize].live().expect("a session").user;
            list.retain(|(conversation, _)| self.home.is_in(user, *conversation));
        }
        self.begin_sync(connection, list, frame.reference);
    }

    pub(crate) fn perform(&mut self, origin: Origin, speaker: Speaker<'_>, ask: Ask<'_>) {
        match ask {
            Ask::Send { conversation, recipient, message } => {
                let command = Command::Send {
                    conversation,
                    recipient,
                    client_message: message.client_message,
                    message_kind: message.message_kind,
                    content: message.content,
                };
                self.decide(origin, speaker, command);
            }
            Ask::Delivered(conversation, up_to) => {
                self.decide(origin, speaker, Command::MarkDelivered { conversation, up_to });
            }
            Ask::Read(conversation, up_to) => {
                self.decide(origin, speaker, Command::MarkRead { conversation, up_to });
            }
            Ask::History(ask) => self.begin_history(origin, speaker.user, ask),
            Ask::Group(ask) => self.answer_group(origin, speaker.user, ask.group, ask.from),
            Ask::Create(conversation, create) => {
                let members = self.speakers(create.members);
                let command =
                    Command::CreateGroup { conversation, name: create.name, members: &members };
                self.decide(origin, speaker, command);
            }
            Ask::Change(change) => {
                let users = self.speakers(change.users);
                let command = Command::ChangeMembers {
                    conversation: change.group,
                    change: change.change,
                    users: &users,
                };
                self.decide(origin, speaker, command);
            }
            Ask::Rename(rename) => {
                let command = Command::Rename { conversation: rename.group, name: rename.name };
                self.decide(origin, speaker, command);
            }
        }
    }

    fn speakers<'a>(&self, names: Names<'a>) -> Vec<Speaker<'a>> {
        names.iter().map(|name| Speaker { user: self.me.ids.user(name), name }).collect()
    }

    fn decide(&mut self, origin: Origin, speaker: Speaker<'_>, command: Command<'_>) {
        let wall = WallMillis(self.clock.wall);
        // What an answer to a retry has to name.
        let (conversation, client_message) = match command {
            Command::Send { conversation, client_message, .. } => (conversation, client_message),
            Command::CreateGroup { conversation, .. }
            | Command::ChangeMembers { conversation, .. }
            | Command::Rename { conversation, .. } => (conversation, ClientMessageId(0)),
            _ => (ConversationId(0), ClientMessageId(0)),
        };
        let is_change = matches!(command, Command::ChangeMembers { .. } | Command::Rename { .. });
        match self.owner.decide(wall, speaker, command) {
            Ok(Decision::Append(record)) => self.append(origin, &record),
            Ok(Decision::Duplicate { message, sequence }) => {
                let status = SentStatus::Duplicate;
                let durability = self.durability();
                self.answer_duplicate(
                    origin,
                    Sent { message, conversation, client_message, sequence, status, durability },
                );
            }
            Ok(Decision::GroupExists) => self.answer_group(origin, speaker.user, conversation, 0),
            // Nothing changed, and the client is told how things are.
            Ok(Decision::Nothing) if is_change => {
                self.answer_group(origin, speaker.user, conversation, 0);
            }
            Ok(Decision::Moved | Decision::Nothing) => {}
            Err(refusal) => self.answer_error(origin, (refusal.code, 0), refusal.text),
        }
    }

    /// Puts a record into the log, its effect on the state in force, and what follows from it in
    /// line behind the disk. Refused, it has changed nothing.
    fn append(&mut self, origin: Origin, record: &Record<'_>) {
        if self.life != Life::Serving {
            return self.answer_busy(origin, Refusal::Draining);
        }
        if self.pending.len() >= PENDING_MAX || !self.net.has_blocks {
            return self.answer_busy(origin, Refusal::CommitWindow);
        }
        let hlc = self.owner.next_hlc(WallMillis(self.clock.wall));
        let Ok(waiting) = self.prepare(origin, record, hlc) else {
            return self.answer_busy(origin, Refusal::CommitWindow);
        };
        self.scratch.clear();
        record.encode_head(&mut self.scratch);
        let new = NewRecord {
            kind: record.kind(),
            partition: record.partition(),
            entity: record.entity(),
            sequence: record.sequence(),
            hlc,
            body: [&self.scratch, record.payload()],
        };
        let bytes = self.scratch.len() + record.payload().len();
        match self.log.append(new) {
            Ok(_) => {}
            Err(AppendError::Busy) => return self.answer_busy(origin, Refusal::CommitWindow),
            Err(AppendError::Full) => return self.answer_busy(origin, Refusal::LogFull),
            Err(AppendError::TooLarge) => {
                let text = "the record is larger than the log takes";
                return self.answer_error(origin, (ErrorCode::TooLarge, 0), text);
            }
            // The process is about to end; nothing is said that could be taken for an answer.
            Err(AppendError::Poisoned) => return,
        }
        self.net.metrics.appends.add(1);
        self.net.metrics.append_bytes.add(bytes as u64);
        self.owner.apply(record, Stamp { hlc, sequence: Sequence(record.sequence()) });
        self.pending.push_back(Pending { until: self.log.appended(), what: waiting });
    }

    /// What is to happen once the record is durable, encoded while the record is at hand.
    fn prepare(
        &mut self,
        origin: Origin,
        record: &Record<'_>,
        hlc: Hlc,
    ) -> Result<Waiting, PoolFull> {
        Ok(match record {
            Record::Message(message) => {
                let deliver = message.deliver(hlc);
                let head = deliver.head();
                let parts = [&head.0[..], deliver.sender.as_bytes(), deliver.content];
                Waiting::Message {
                    conversation: message.conversation,
                    sequence: message.sequence,
                    hlc,
                    sender: message.sender.user,
                    origin,
                    client_message: message.client_message,
                    span: self.net.encode(Kind::Deliver, 0, parts)?,
                    is_first: message.recipient.is_some(),
                }
            }
            Record::GroupCreated(created) => {
                let members = created.members.iter().chain([created.creator]);
                let users = members.map(|user| (user.user, user.name.into())).collect();
                let names = created.members.iter().map(|user| user.name);
                let by = created.creator.name;
                let body = self.tables.members_changed(created.group, MemberChange::Add, by, names);
                let frame = self.net.encode(Kind::MembersChanged, 0, [body, b"", b""])?;
                Waiting::Created(Box::new(crate::pending::Created {
                    origin,
                    creator: created.creator.user,
                    group: created.group,
                    users,
                    frame,
                }))
            }
            Record::MembersChanged(changed) => {
                let names = changed.users.iter().map(|user| user.name);
                let body = self.tables.members_changed(
                    changed.group,
                    changed.change,
                    changed.by.name,
                    names,
                );
                let reply =
                    self.net.encode(Kind::MembersChanged, origin.reference, [body, b"", b""])?;
                let frame = self.net.encode(Kind::MembersChanged, 0, [body, b"", b""])?;
                let users = changed.users.iter().map(|user| (user.user, user.name.into()));
                Waiting::Changed(Box::new(crate::pending::Changed {
                    origin,
                    group: changed.group,
                    change: changed.change,
                    users: users.collect(),
                    reply,
                    frame,
                }))
            }
            Record::Renamed(renamed) => {
                let body = self.tables.group_updated(&wire::table::GroupUpdated {
                    group: renamed.group,
                    name: renamed.name,
                    by: renamed.by.name,
                });
                let reply =
                    self.net.encode(Kind::GroupUpdated, origin.reference, [body, b"", b""])?;
                let frame = self.net.encode(Kind::GroupUpdated, 0, [body, b"", b""])?;
                Waiting::Renamed { origin, group: renamed.group, reply, frame }
            }
            Record::Cursors(_) | Record::DeviceCursor(_) => {
                unreachable!("cursors come out of a flush")
            }
        })
    }

    /// A retry is acknowledged like the first: when that is durable.
    fn answer_duplicate(&mut self, origin: Origin, sent: Sent) {
        let head = sent.head();
        let span = self.net.encode(Kind::MessageSent, origin.reference, [&head.0, b"", b""]);
        let Ok(span) = span else { return self.answer_busy(origin, Refusal::CommitWindow) };
        self.answer_when_durable(origin, span);
    }

    /// An answer that tells of state is held until that state is durable.
    pub(crate) fn answer_when_durable(&mut self, origin: Origin, span: Span) {
        if self.pending.is_empty() {
            return self.answer_span(origin, span);
        }
        if self.pending.len() >= PENDING_MAX {
            return self.answer_busy(origin, Refusal::CommitWindow);
        }
        let until = self.log.appended();
        self.pending.push_back(Pending { until, what: Waiting::Answer { origin, span } });
    }

    pub(crate) fn answer_span(&mut self, origin: Origin, span: Span) {
        if origin.shard != self.me.shard {
            return self.post(origin.shard, Parcel::Reply { origin, span });
        }
        if let Some(connection) = self.net.find(&origin) {
            self.net.send_span(connection, &span);
        }
    }

    pub(crate) fn answer(&mut self, origin: Origin, kind: Kind, parts: [&[u8]; 3]) {
        match self.net.encode(kind, origin.reference, parts) {
            Ok(span) => self.answer_span(origin, span),
            Err(PoolFull) => self.answer_nothing(origin),
        }
    }

    /// Not even an error finds room: the connection ends, and its client tries again.
    fn answer_nothing(&mut self, origin: Origin) {
        if origin.shard == self.me.shard
            && let Some(connection) = self.net.find(&origin)
        {
            self.net.doom(connection, wire::CloseReason::SlowConsumer);
        }
    }

    pub(crate) fn answer_error(&mut self, origin: Origin, error: (ErrorCode, u32), text: &str) {
        let (code, retry_after_ms) = error;
        self.net.metrics.errors.of(code).add(1);
        let head = wire::generated::ErrorHead::new(code as u16, 0, retry_after_ms);
        self.answer(origin, Kind::Error, [&head.0, text.as_bytes(), b""]);
    }

    pub(crate) fn answer_busy(&mut self, origin: Origin, why: Refusal) {
        self.net.metrics.refused.of(why).add(1);
        let (text, retry_after_ms) = match why {
            Refusal::LogFull => ("insufficient storage: nothing was stored", STORAGE_RETRY_MS),
            Refusal::Draining => ("the server is shutting down", STORAGE_RETRY_MS),
            _ => ("the server is at its limit: nothing was stored", BUSY_RETRY_MS),
        };
        self.answer_error(origin, (ErrorCode::Busy, retry_after_ms), text);
    }

    fn answer_malformed(&mut self, origin: Origin, error: BodyError) {
        let (code, text) = match error {
            BodyError::Length => {
                (ErrorCode::BadRequest, "the body's length is not that of its fields")
            }
            BodyError::Name => {
                (ErrorCode::BadRequest, "an id is 1 to 64 bytes of letters, digits, and _.:@-")
            }
            BodyError::Field => (ErrorCode::BadRequest, "a field has a value it cannot have"),
            BodyError::Text => (ErrorCode::BadRequest, "the text is not UTF-8 or too long"),
            BodyError::TooLarge => (ErrorCode::TooLarge, "over a limit of the protocol"),
            BodyError::Table => (ErrorCode::BadRequest, "the body is no table of its kind"),
        };
        self.answer_error(origin, (code, 0), text);
    }

    /// A device has what it was handed, and says so to the owner.
    pub(crate) fn mark_delivered(
        &mut self,
        user: UserKey,
        conversation: ConversationId,
        up_to: Sequence,
    ) {
        let wall = WallMillis(self.clock.wall);
        let command = Command::MarkDelivered { conversation, up_to };
        // A refusal has nobody to go to: the user left meanwhile, and is owed no receipt.
        let _ = self.owner.decide(wall, Speaker { user, name: "" }, command);
    }

    pub(crate) fn durability(&self) -> wire::fixed::Durability {
        match self.plan.durability {
            storage::Durability::Fsync => wire::fixed::Durability::LocalFsync,
            storage::Durability::Memory => wire::fixed::Durability::Memory,
        }
    }

    fn on_list(&mut self, connection: u32, frame: Frame<'_>) {
        match ListConversations::decode(frame.body) {
            Ok(ask) => self.begin_list(connection, frame.reference, ask),
            Err(error) => {
                let origin = self.origin(connection, frame.reference);
                self.answer_malformed(origin, error);
            }
        }
    }

    /// A session's conversations, and how far its device has come in each.
    pub(crate) fn missed(&self, connection: u32) -> Vec<(ConversationId, Option<Sequence>)> {
        let live = self.net.connections[connection as usize].live().expect("a session");
        let (user, device) = (live.user, live.device);
        let all = self.home.conversations(user, ConversationId(0), usize::MAX);
        all.map(|conversation| (conversation, self.home.cursor(user, device, conversation)))
            .collect()
    }

    /// Everything queued on a session is with the kernel: for those that asked for it, that is
    /// delivery.
    pub(crate) fn note_handed(&mut self, connection: u32) {
        let Some(live) = self.net.connections[connection as usize].live_mut() else { return };
        let Some(handed) = live.handed.as_mut().filter(|handed| !handed.is_empty()) else { return };
        let (user, device) = (live.user, live.device);
        let mut handed = std::mem::take(&mut **handed);
        for (conversation, up_to) in handed.drain(..) {
            self.home.move_cursor(user, device, conversation, up_to);
            let owner = conversation.partition().shard(self.me.shards_count);
            if owner == self.me.shard {
                self.mark_delivered(user, conversation, up_to);
            } else {
                // A receipt that finds the lane full is covered by the next one.
                let _ =
                    self.port.send_request(owner, Request::Delivered { user, conversation, up_to });
            }
        }
    }
}
