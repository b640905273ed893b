//! What a device does of its own accord: the workload, and the bad manners of the hostile.

use crate::client::{Asked, Client, Phase};
use crate::env::Env;
use crate::oracle::{Target, User, name_of};
use wire::body::{self, SendMessage};
use wire::fixed::{ListConversations, ReadGroup, ReadHistory};
use wire::handshake::Hello;
use wire::table::{Authenticate, MemberChange, RenameGroup};
use wire::{ClientMessageId, ConversationId, ErrorCode, Frame, Kind, Sequence, frame};

const CONTENT_LONG_BYTES: usize = 5000;
const IN_FLIGHT_MAX: usize = 60;
const HEARTBEAT_MICROS: u64 = 4_000_000;
/// A device that hears nothing for so long connects anew.
const PATIENCE_MICROS: u64 = 11_000_000;

impl Client {
    /// Does something. `is_calm` is the end of a run: nothing new, only what is owed.
    pub(crate) fn step(&mut self, env: &mut Env, is_calm: bool) {
        match self.phase {
            Phase::Down if env.time >= self.connect_at => {
                if self.is_hostile && is_calm {
                    return;
                }
                return self.connect(env);
            }
            Phase::Down => return,
            _ if env.time > self.heard_at + PATIENCE_MICROS => return self.abort(env),
            Phase::Live => {}
            _ => return,
        }
        if self.is_hostile {
            return self.misbehave(env);
        }
        if env.time >= self.heartbeat_at {
            self.heartbeat_at = env.time + HEARTBEAT_MICROS;
            self.put(Kind::Heartbeat, 0, &[]);
        }
        if env.time >= self.retry_at {
            self.send_unacked(env);
        }
        if is_calm {
            if env.random.chance(50) {
                self.mark(env, false);
            }
            self.read_on(env);
        } else {
            self.do_something(env);
        }
        self.flush(env);
    }

    fn do_something(&mut self, env: &mut Env) {
        match env.random.below(1000) {
            0..350 => self.say(env),
            350..360 => (0..env.random.range(5, 40)).for_each(|_| self.say(env)),
            360..390 => self.say_again(env),
            390..500 => self.mark(env, false),
            500..560 => self.mark(env, true),
            560..620 => self.ask_history(env),
            620..640 => self.ask_list(),
            640..660 => self.ask_sync(env),
            660..670 => self.ask_group(env),
            670..690 => self.create_group(env),
            690..730 => self.change_members(env),
            730..740 => self.rename(env),
            740..746 => self.leave_network(env),
            746..750 if env.options.faults.stalled_readers => {
                env.counters.hit("fault: stalled reader");
                self.stalled_until = env.time + env.random.range(10_000, 3_000_000);
            }
            _ => {}
        }
    }

    fn other(&self, env: &mut Env) -> User {
        // Now and then oneself: a conversation of one.
        env.random.index(env.options.users_count)
    }

    fn some_group(&self, env: &mut Env) -> Option<ConversationId> {
        let groups: Vec<ConversationId> = env.oracle.groups.keys().copied().collect();
        (!groups.is_empty()).then(|| env.random.pick(&groups))
    }

    fn some_conversation(&self, env: &mut Env) -> Option<ConversationId> {
        let user = self.user;
        let directs = env.oracle.directs.iter().filter(|(_, users)| users.contains(&user));
        let mut all: Vec<ConversationId> = directs.map(|(id, _)| *id).collect();
        all.extend(env.oracle.groups.keys());
        (!all.is_empty()).then(|| env.random.pick(&all))
    }

    fn say(&mut self, env: &mut Env) {
        if self.unacked.len() >= IN_FLIGHT_MAX {
            return;
        }
        let group = if env.random.chance(450) { self.some_group(env) } else { None };
        let target = group.map_or_else(|| Target::Direct(self.other(env)), Target::Group);
        let bytes_max = env.random.pick(&[0, 10, 100, 100, 400, CONTENT_LONG_BYTES]);
        let mut length = env.random.index(bytes_max + 1);
        if env.random.chance(2) {
            length = 9000;
        }
        let padding = env.random.bytes(length);
        let id = env.random.id();
        let message = env.oracle.new_message(self.user, target, id, &padding);
        self.unacked.push(message);
        self.send(env, message);
    }

    /// The same message once more, from whichever device of the user this is.
    fn say_again(&mut self, env: &mut Env) {
        let count = env.oracle.messages.len();
        for back in 1..=count.min(30) {
            let message = &env.oracle.messages[count - back];
            if message.sender == self.user && !message.is_refused {
                env.counters.hit("retries on another device");
                return self.send(env, count - back);
            }
        }
    }

    fn send(&mut self, env: &mut Env, message: usize) {
        env.oracle.note_sent(message);
        let reference = self.reference(Asked::Send(message));
        let said = &env.oracle.messages[message];
        let name;
        let target = match said.target {
            Target::Direct(user) => {
                name = name_of(user);
                body::Target::Recipient(&name)
            }
            Target::Group(group) => body::Target::Conversation(group),
        };
        let send = SendMessage {
            target,
            client_message: ClientMessageId(said.client_message),
            message_kind: 0,
            content: &said.content,
        };
        let recipient = match send.target {
            body::Target::Recipient(name) => name,
            body::Target::Conversation(_) => "",
        };
        let parts: [&[u8]; 3] = [&send.head().0, recipient.as_bytes(), send.content];
        frame::encode(&mut self.out, Kind::SendMessage, reference, &parts);
    }

    /// Sends again what is not acknowledged and not on its way on this connection.
    fn send_unacked(&mut self, env: &mut Env) {
        let on_the_way: Vec<usize> = self
            .asked
            .values()
            .filter_map(
                |asked| if let Asked::Send(message) = asked { Some(*message) } else { None },
            )
            .collect();
        let waiting = self.unacked.iter().filter(|message| !on_the_way.contains(message));
        let waiting: Vec<usize> = waiting.take(8).copied().collect();
        for message in waiting {
            env.counters.hit("sends retried");
            self.send(env, message);
        }
    }

    fn mark(&mut self, env: &mut Env, is_read: bool) {
        let Some(conversation) = self.some_stream(env) else { return };
        let last = self.streams[&conversation].last;
        let up_to = if env.random.chance(300) { 1 + env.random.below(last) } else { last };
        let head = body::cursor_head(conversation, Sequence(up_to));
        let kind = if is_read { Kind::MarkRead } else { Kind::MarkDelivered };
        let reference = self.reference(Asked::Other);
        self.put(kind, reference, &[&head.0]);
        let mark = self.marks.entry(conversation).or_default();
        *mark = (*mark).max(up_to);
        let marks = env.oracle.marks.entry((self.user, conversation)).or_default();
        marks.0 = marks.0.max(up_to);
        if is_read {
            marks.1 = marks.1.max(up_to);
        }
    }

    fn some_stream(&self, env: &mut Env) -> Option<ConversationId> {
        let has_any = |(id, stream): (&ConversationId, &crate::client::Stream)| {
            (stream.last > 0).then_some(*id)
        };
        let all: Vec<ConversationId> = self.streams.iter().filter_map(has_any).collect();
        (!all.is_empty()).then(|| env.random.pick(&all))
    }

    fn ask_history(&mut self, env: &mut Env) {
        let Some(conversation) = self.some_conversation(env) else { return };
        let newest = env.oracle.newest.get(&conversation).copied().unwrap_or(0);
        let before =
            if newest > 0 && env.random.chance(500) { env.random.range(1, newest) } else { 0 };
        self.ask_page(env, conversation, before);
    }

    fn ask_page(&mut self, env: &mut Env, conversation: ConversationId, before: u64) {
        let newest_known = env.oracle.newest.get(&conversation).copied().unwrap_or(0);
        let gone_since = env.oracle.gone_since(self.user, conversation);
        let asked = Asked::History { conversation, before, newest_known, gone_since };
        let reference = self.reference(asked);
        let is_last = self.readings.contains_key(&conversation);
        let limit = if is_last { 200 } else { env.random.pick(&[0, 1, 20, 200]) };
        let ask = ReadHistory { conversation, before: Sequence(before), limit };
        self.put(Kind::ReadHistory, reference, &[&ask.head().0]);
    }

    fn ask_list(&mut self) {
        let reference = self.reference(Asked::Other);
        let ask = ListConversations::default();
        self.put(Kind::ListConversations, reference, &[&ask.head().0]);
    }

    fn ask_group(&mut self, env: &mut Env) {
        let Some(group) = self.some_group(env) else { return };
        let reference = self.reference(Asked::Other);
        self.put(Kind::ReadGroup, reference, &[&ReadGroup { group, from: 0 }.head().0]);
    }

    fn ask_sync(&mut self, env: &mut Env) {
        if self.asked.values().any(|asked| matches!(asked, Asked::Sync)) {
            return;
        }
        let mut cursors = Vec::new();
        for (conversation, stream) in &mut self.streams {
            if stream.last > 0 && env.random.chance(600) {
                let back = env.random.below(stream.last.min(20) + 1);
                stream.rewinds_to = Some(stream.last - back);
                cursors.push((*conversation, Sequence(stream.last - back)));
            }
        }
        if cursors.is_empty() {
            return;
        }
        env.trace.say(env.time, format_args!("{}/{} syncs {cursors:?}", self.user, self.device));
        env.counters.hit("explicit syncs");
        let reference = self.reference(Asked::Sync);
        let body = self.tables.sync(&cursors);
        frame::encode(&mut self.out, Kind::Sync, reference, &[body]);
    }

    fn create_group(&mut self, env: &mut Env) {
        if env.oracle.groups.len() >= 6 {
            return;
        }
        let others: Vec<User> =
            (0..env.options.users_count).filter(|user| *user != self.user).collect();
        let mut users: Vec<User> =
            others.iter().copied().filter(|_| env.random.chance(600)).collect();
        if users.is_empty() {
            users.push(env.random.pick(&others));
        }
        let names: Vec<String> = users.iter().map(|user| name_of(*user)).collect();
        let request = ClientMessageId(env.random.id());
        // Asked twice, it is one group all the same.
        for _ in 0..env.random.range(1, 2) {
            let reference = self.reference(Asked::Create { users: users.clone() });
            let names = names.iter().map(String::as_str);
            let body = self.tables.create_group(request, "a group", names);
            frame::encode(&mut self.out, Kind::CreateGroup, reference, &[body]);
        }
    }

    fn change_members(&mut self, env: &mut Env) {
        let Some(group) = self.some_group(env) else { return };
        let change = env.random.pick(&[
            MemberChange::Add,
            MemberChange::Add,
            MemberChange::Remove,
            MemberChange::Leave,
            MemberChange::Promote,
            MemberChange::Demote,
        ]);
        if change == MemberChange::Leave && env.random.chance(700) {
            return;
        }
        let users = match change {
            MemberChange::Leave => vec![self.user],
            _ => vec![self.other(env)],
        };
        let mut asked_at = 0;
        for user in &users {
            match change {
                MemberChange::Add => env.oracle.note_add_asked(group, *user),
                MemberChange::Remove | MemberChange::Leave => {
                    asked_at = env.oracle.note_removal_asked(group, *user);
                }
                _ => {}
            }
        }
        let named = users.iter().filter(|_| change != MemberChange::Leave);
        let names: Vec<String> = named.map(|user| name_of(*user)).collect();
        let reference = self.reference(Asked::Change { group, change, users, asked_at });
        let body = self.tables.change_members(group, change, names.iter().map(String::as_str));
        frame::encode(&mut self.out, Kind::ChangeMembers, reference, &[body]);
    }

    fn rename(&mut self, env: &mut Env) {
        let Some(group) = self.some_group(env) else { return };
        let name = format!("group {}", env.random.below(10));
        let reference = self.reference(Asked::Other);
        let body = self.tables.rename_group(&RenameGroup { group, name: &name });
        frame::encode(&mut self.out, Kind::RenameGroup, reference, &[body]);
    }

    fn leave_network(&mut self, env: &mut Env) {
        let Some(connection) = self.connection else { return };
        self.flush(env);
        match env.random.below(4) {
            0 if env.options.faults.resets => {
                env.counters.hit("fault: reset");
                self.abort(env);
            }
            1 if env.options.faults.half_closes => {
                env.counters.hit("fault: half-close");
                env.end_up(connection);
                self.phase = Phase::Leaving;
            }
            2 => {
                // The device connects again without having ended: the server replaces it.
                self.forget_connection(env);
                self.connect_at = env.time;
            }
            _ => {
                env.end_up(connection);
                self.forget_connection(env);
            }
        }
    }

    /// At the end of a run: reads every history that it is certain to be allowed to.
    fn read_on(&mut self, env: &mut Env) {
        if self.readings.values().any(|reading| reading.is_asked) {
            return;
        }
        let next = self.readings.iter().find(|(_, it)| !it.is_done && !it.is_asked);
        let Some((conversation, reading)) = next else { return };
        let (conversation, before) = (*conversation, reading.before);
        self.readings.get_mut(&conversation).expect("just found").is_asked = true;
        self.ask_page(env, conversation, before);
    }

    fn misbehave(&mut self, env: &mut Env) {
        let group = self.some_group(env).unwrap_or(ConversationId(1));
        match env.random.below(8) {
            0 => {
                let length = env.random.index(300) + 1;
                let noise = env.random.bytes(length);
                self.out.extend_from_slice(&noise);
            }
            1 => self.put(Kind::Hello, 7, &[&Hello::OURS.head().0]),
            2 => {
                let unknown = [4, 0, 0, 0, 0x77, 0x07, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
                self.out.extend_from_slice(&unknown);
            }
            3 => {
                let content = b"from a stranger".as_slice();
                let send = SendMessage {
                    target: body::Target::Conversation(group),
                    client_message: ClientMessageId(1),
                    message_kind: 0,
                    content,
                };
                self.put(Kind::SendMessage, 9, &[&send.head().0, content]);
            }
            4 => {
                let ask = ReadHistory { conversation: group, before: Sequence(0), limit: 0 };
                self.put(Kind::ReadHistory, 9, &[&ask.head().0]);
            }
            5 => self.put(Kind::Deliver, 9, &[&[0; 64]]),
            6 => {
                let length = env.random.index(200);
                let kinds = [Kind::ChangeMembers, Kind::CreateGroup, Kind::Sync, Kind::RenameGroup];
                let (kind, noise) = (env.random.pick(&kinds), env.random.bytes(length));
                self.put(kind, 9, &[&noise]);
            }
            _ => {
                let head = body::cursor_head(group, Sequence(u64::MAX));
                self.put(Kind::MarkRead, 9, &[&head.0]);
            }
        }
        self.flush(env);
    }

    pub(crate) fn hear_as_hostile(&mut self, env: &mut Env, frame: Frame<'_>) {
        match frame.kind {
            Kind::Welcome if self.phase == Phase::Hello => self.intrude(env),
            Kind::Authenticated => {
                if std::mem::take(&mut self.tries_foreign_token) {
                    env.oracle.fail("another's resume token was accepted".to_owned());
                }
                self.phase = Phase::Live;
            }
            Kind::Error => {
                let Ok((head, _)) = body::error(frame.body) else { return };
                match ErrorCode::from_number(head.code()) {
                    Some(ErrorCode::Forbidden) if self.tries_foreign_token => {
                        env.counters.hit("foreign tokens refused");
                        self.tries_foreign_token = false;
                    }
                    Some(ErrorCode::BadRequest | ErrorCode::UnknownType | ErrorCode::TooLarge) => {
                        env.counters.hit("bad frames refused");
                    }
                    Some(ErrorCode::NotAMember | ErrorCode::NotFound | ErrorCode::Gone) => {
                        env.counters.hit("strangers refused");
                    }
                    _ => {}
                }
            }
            Kind::Deliver | Kind::SyncBatch => {
                env.oracle.fail(format!("{} receives messages", self.name()));
            }
            Kind::HistoryPage if !frame.body.is_empty() => {
                env.oracle.fail(format!("{} reads a history", self.name()));
            }
            Kind::GoAway => {
                self.tries_foreign_token = false;
                self.abort(env);
            }
            _ => {}
        }
    }

    fn intrude(&mut self, env: &mut Env) {
        self.phase = Phase::Auth;
        let name = self.name();
        let token = env.some_token.clone().filter(|_| env.random.chance(400));
        self.tries_foreign_token = false;
        if env.random.chance(200) {
            let length = env.random.index(100);
            let noise = env.random.bytes(length);
            self.put(Kind::Authenticate, 1, &[&noise]);
        } else {
            self.tries_foreign_token = token.is_some();
            let body = self.tables.authenticate(&Authenticate {
                user: Some(&name),
                device: Some("intruder"),
                resume_token: token.as_deref(),
                ..Authenticate::default()
            });
            frame::encode(&mut self.out, Kind::Authenticate, 1, &[body]);
        }
        self.flush(env);
    }
}
