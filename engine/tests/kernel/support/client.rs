//! A client with nothing in between: frames in, frames out, and a limit to its patience.

use super::PATIENCE;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use wire::body::{self, Deliver, Page, Receipt, SendMessage, Target};
use wire::fixed::{ListConversations, ReadHistory, Sent, Unread};
use wire::handshake::Hello;
use wire::table::{Authenticate, Authenticated, Conversations, Group, MemberChange, TableWriter};
use wire::{
    ClientMessageId, CloseReason, ConversationId, Decoded, ErrorCode, Kind, MessageId, Sequence,
    frame,
};

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: Kind,
    pub(crate) reference: u64,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// The code of an error frame.
    pub(crate) fn error(&self) -> (ErrorCode, String) {
        assert_eq!(self.kind, Kind::Error, "{self:?}");
        let (head, text) = body::error(&self.body).unwrap();
        (ErrorCode::from_number(head.code()).unwrap(), text.to_owned())
    }

    pub(crate) fn sent(&self) -> Sent {
        assert_eq!(self.kind, Kind::MessageSent, "{:?}", self.error());
        Sent::decode(&self.body).unwrap()
    }

    pub(crate) fn message(&self) -> Message {
        Deliver::decode(&self.body).unwrap().into()
    }

    /// Who moved how far in a receipt.
    pub(crate) fn receipt(&self) -> (String, u64) {
        let receipt = Receipt::decode(&self.body).unwrap();
        (receipt.user.to_owned(), receipt.up_to.0)
    }

    pub(crate) fn unread(&self) -> (ConversationId, u64) {
        let unread = Unread::decode(&self.body).unwrap();
        (unread.conversation, unread.unread)
    }

    /// The messages of a page, and whether there are more.
    pub(crate) fn page(&self) -> (Vec<Message>, bool) {
        let page = Page::decode(&self.body).unwrap();
        let has_more = page.has_more;
        (page.map(|entry| Message::from(entry.unwrap())).collect(), has_more)
    }
}

/// A message as it was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) conversation: ConversationId,
    pub(crate) sequence: u64,
    pub(crate) sender: String,
    pub(crate) content: Vec<u8>,
}

impl Message {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.content).unwrap()
    }
}

impl From<Deliver<'_>> for Message {
    fn from(deliver: Deliver<'_>) -> Self {
        Self {
            id: deliver.message,
            conversation: deliver.conversation,
            sequence: deliver.sequence.0,
            sender: deliver.sender.to_owned(),
            content: deliver.content.to_vec(),
        }
    }
}

/// An entry of a list of conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) conversation: ConversationId,
    pub(crate) title: String,
    pub(crate) last: u64,
    pub(crate) unread: u64,
}

/// A hello frame.
pub(crate) fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, Kind::Hello, 1, &[&Hello::OURS.head().0]);
    bytes
}

/// An authenticate frame.
pub(crate) fn authenticate(claim: &Authenticate<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tables = TableWriter::default();
    frame::encode(&mut bytes, Kind::Authenticate, 2, &[tables.authenticate(claim)]);
    bytes
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    inbox: VecDeque<Received>,
    reference: u64,
    tables: TableWriter,
    pub(crate) user: String,
    pub(crate) resume_token: Vec<u8>,
    pub(crate) is_resumed: bool,
}

impl Client {
    /// A connection on which nothing was said yet.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            bytes: Vec::new(),
            inbox: VecDeque::new(),
            reference: 100,
            tables: TableWriter::default(),
            user: String::new(),
            resume_token: Vec::new(),
            is_resumed: false,
        }
    }

    /// A connection that has said hello and who it is, where the server may be gone.
    pub(crate) fn try_login(address: SocketAddr, user: &str) -> io::Result<Self> {
        let mut client = Self::over(TcpStream::connect_timeout(&address, PATIENCE)?);
        client.user = user.to_owned();
        let claim = Authenticate { user: Some(user), device: Some("phone"), ..Default::default() };
        client.try_write(&[hello(), authenticate(&claim)].concat())?;
        Ok(client)
    }

    /// Takes the answers to hello and authenticate.
    pub(crate) fn expect_live(&mut self) {
        self.expect(Kind::Welcome);
        let answer = self.expect(Kind::Authenticated);
        let authenticated = Authenticated::decode(&answer.body).unwrap();
        self.user = authenticated.user.to_owned();
        self.resume_token = authenticated.resume_token.to_vec();
        self.is_resumed = authenticated.resumed;
    }

    /// Its socket, for somebody else to close.
    pub(crate) fn socket(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// Keeps the kernel from reading ahead for a client that does not read.
    pub(crate) fn limit_receive_buffer(&self) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(64 * 1024).unwrap();
    }

    /// Sends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).unwrap();
    }

    /// The same, where the server may have closed.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a frame; the answer will carry the reference.
    pub(crate) fn put(&mut self, kind: Kind, parts: &[&[u8]]) -> u64 {
        self.reference += 1;
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, kind, self.reference, parts);
        self.write(&bytes);
        self.reference
    }

    /// Sends a frame and waits for its answer.
    pub(crate) fn ask(&mut self, kind: Kind, parts: &[&[u8]]) -> Received {
        let reference = self.put(kind, parts);
        self.reply(reference)
    }

    /// The next frame that `wanted` likes; the others wait.
    pub(crate) fn next(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&Received) -> bool,
    ) -> Option<Received> {
        if let Some(index) = self.inbox.iter().position(&wanted) {
            return self.inbox.remove(index);
        }
        let until = Instant::now() + patience;
        loop {
            let seen = self.inbox.len();
            if !self.read_until(until) {
                return None;
            }
            self.decode();
            if let Some(index) = self.inbox.iter().skip(seen).position(&wanted) {
                return self.inbox.remove(seen + index);
            }
            let is_over = self.inbox.iter().any(|frame| frame.kind == Kind::GoAway);
            assert!(!is_over, "waiting for {what}, {} got {:?}", self.user, self.inbox);
        }
    }

    /// Reads once; false when time is up.
    fn read_until(&mut self, until: Instant) -> bool {
        self.try_read(until)
            .unwrap_or_else(|error| panic!("{}: {error}; it had {:?}", self.user, self.inbox))
    }

    fn try_read(&mut self, until: Instant) -> io::Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.bytes.extend_from_slice(&bytes[..count]),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// The next frame whatever it is; none when time is up, an error once the connection is over.
    pub(crate) fn try_next(&mut self, patience: Duration) -> io::Result<Option<Received>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(frame) = self.inbox.pop_front() {
                return Ok(Some(frame));
            }
            if !self.try_read(until)? {
                return Ok(None);
            }
            self.decode();
        }
    }

    fn decode(&mut self) {
        let mut start = 0;
        while let Decoded::Frame(frame, used) = frame::decode(&self.bytes[start..]).unwrap() {
            let (kind, reference) = (frame.kind, frame.reference);
            self.inbox.push_back(Received { kind, reference, body: frame.body.to_vec() });
            start += used;
        }
        self.bytes.drain(..start);
    }

    /// The next frame of a kind.
    pub(crate) fn expect(&mut self, kind: Kind) -> Received {
        let what = format!("{kind:?}");
        self.next(&what, PATIENCE, |frame| frame.kind == kind)
            .unwrap_or_else(|| panic!("{} waited for {what}, had {:?}", self.user, self.inbox))
    }

    /// Nothing of a kind comes, for a while.
    pub(crate) fn expect_none(&mut self, kind: Kind, patience: Duration) {
        let came = self.next("nothing", patience, |frame| frame.kind == kind);
        assert_eq!(came, None, "{} was sent what it must not get", self.user);
    }

    /// The answer to a frame of ours.
    pub(crate) fn reply(&mut self, reference: u64) -> Received {
        self.next("an answer", PATIENCE, |frame| frame.reference == reference)
            .unwrap_or_else(|| panic!("no answer for {}; had {:?}", self.user, self.inbox))
    }

    /// Reads to the end of the connection: the errors on the way and the reason given.
    pub(crate) fn end(&mut self) -> (Vec<ErrorCode>, Option<CloseReason>) {
        let until = Instant::now() + PATIENCE;
        let mut bytes = [0; 16 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} was never closed; had {:?}", self.user, self.inbox);
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.bytes.extend_from_slice(&bytes[..count]),
                Err(error) if is_timeout(&error) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{}: {error}", self.user),
            }
        }
        self.decode();
        let errors = self.inbox.iter().filter(|frame| frame.kind == Kind::Error);
        let errors = errors.map(|frame| frame.error().0).collect();
        let away = self.inbox.iter().find(|frame| frame.kind == Kind::GoAway);
        let reason = away.map(|frame| {
            let (head, _) = body::go_away(&frame.body).unwrap();
            CloseReason::from_number(head.reason()).unwrap()
        });
        (errors, reason)
    }

    /// The same for a client that sends heartbeats meanwhile.
    pub(crate) fn end_while_beating(&mut self) -> (Vec<ErrorCode>, Option<CloseReason>) {
        let mut heart = self.stream.try_clone().unwrap();
        let beat = move || {
            let beat = frame::header(Kind::Heartbeat, 1, 0);
            while heart.write_all(&beat).is_ok() {
                thread::sleep(Duration::from_millis(300));
            }
        };
        let beating = thread::spawn(beat);
        let end = self.end();
        let _ = self.stream.shutdown(Shutdown::Both);
        beating.join().unwrap();
        end
    }

    /// Every message that came before the end of the connection.
    pub(crate) fn drain_messages(&mut self) -> Vec<Message> {
        let inbox = std::mem::take(&mut self.inbox);
        let messages = inbox.iter().filter(|frame| frame.kind == Kind::Deliver);
        messages.map(Received::message).collect()
    }

    /// Whether the session answers.
    pub(crate) fn expect_alive(&mut self) {
        assert_eq!(self.ask(Kind::Heartbeat, &[]).kind, Kind::HeartbeatAck);
    }

    /// Sends a message and does not wait.
    pub(crate) fn send(&mut self, target: Target<'_>, client_message: u128, text: &[u8]) -> u64 {
        let client_message = ClientMessageId(client_message);
        let message = SendMessage { target, client_message, message_kind: 0, content: text };
        let name = match target {
            Target::Recipient(name) => name,
            Target::Conversation(_) => "",
        };
        self.put(Kind::SendMessage, &[&message.head().0, name.as_bytes(), text])
    }

    /// The same, where the server may be gone.
    pub(crate) fn try_send(&mut self, recipient: &str, id: u128, text: &[u8]) -> io::Result<u64> {
        let message = SendMessage {
            target: Target::Recipient(recipient),
            client_message: ClientMessageId(id),
            message_kind: 0,
            content: text,
        };
        self.reference += 1;
        let mut bytes = Vec::new();
        let parts = [&message.head().0[..], recipient.as_bytes(), text];
        frame::encode(&mut bytes, Kind::SendMessage, self.reference, &parts);
        self.try_write(&bytes)?;
        Ok(self.reference)
    }

    /// Reads until everything asked so far is answered; false if the connection ended before.
    pub(crate) fn wait_for_answers(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.inbox.iter().any(|frame| frame.reference == self.reference) {
                return true;
            }
            if !matches!(self.try_read(until), Ok(true)) {
                return false;
            }
            self.decode();
        }
    }

    /// Every answer that was read and not taken yet.
    pub(crate) fn answers(&self) -> Vec<Received> {
        self.inbox.iter().filter(|frame| frame.reference != 0).cloned().collect()
    }

    /// Sends a message to a user and waits until it is stored.
    pub(crate) fn say(&mut self, recipient: &str, text: &[u8]) -> Sent {
        let reference = self.send(Target::Recipient(recipient), 0, text);
        self.reply(reference).sent()
    }

    /// The same, to a conversation.
    pub(crate) fn say_in(&mut self, conversation: ConversationId, text: &[u8]) -> Sent {
        let reference = self.send(Target::Conversation(conversation), 0, text);
        self.reply(reference).sent()
    }

    /// The next message delivered.
    pub(crate) fn message(&mut self) -> Message {
        self.expect(Kind::Deliver).message()
    }

    /// What was missed, up to the end of the replay.
    pub(crate) fn missed(&mut self) -> Vec<Message> {
        self.expect(Kind::SyncDone);
        let inbox = std::mem::take(&mut self.inbox).into_iter();
        let (batches, rest): (Vec<Received>, Vec<Received>) =
            inbox.partition(|frame| frame.kind == Kind::SyncBatch);
        self.inbox = rest.into();
        batches.iter().flat_map(|batch| batch.page().0).collect()
    }

    pub(crate) fn mark_delivered(&mut self, conversation: ConversationId, up_to: u64) {
        let head = body::cursor_head(conversation, Sequence(up_to));
        self.put(Kind::MarkDelivered, &[&head.0]);
    }

    pub(crate) fn mark_read(&mut self, conversation: ConversationId, up_to: u64) {
        let head = body::cursor_head(conversation, Sequence(up_to));
        self.put(Kind::MarkRead, &[&head.0]);
    }

    /// The answer to a question for history.
    pub(crate) fn history(&mut self, conversation: ConversationId, before: u64) -> Received {
        let query = ReadHistory { conversation, before: Sequence(before), limit: 200 };
        self.ask(Kind::ReadHistory, &[&query.head().0])
    }

    /// All of a conversation, oldest first, page by page.
    pub(crate) fn whole_history(&mut self, conversation: ConversationId) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        loop {
            let before = messages.last().map_or(0, |message| message.sequence);
            let answer = self.history(conversation, before);
            assert_eq!(answer.kind, Kind::HistoryPage, "{answer:?}");
            let (page, has_more) = answer.page();
            messages.extend(page);
            if !has_more {
                messages.reverse();
                return messages;
            }
        }
    }

    /// The user's conversations.
    pub(crate) fn conversations(&mut self) -> Vec<Listed> {
        let query = ListConversations { after: ConversationId(0), limit: 200 };
        let answer = self.ask(Kind::ListConversations, &[&query.head().0]);
        assert_eq!(answer.kind, Kind::Conversations, "{answer:?}");
        let list = Conversations::decode(&answer.body).unwrap();
        let entries = list.entries().map(|entry| Listed {
            conversation: entry.conversation,
            title: entry.name.or(entry.peer).unwrap_or_default().to_owned(),
            last: entry.last_sequence.0,
            unread: entry.unread,
        });
        entries.collect()
    }

    /// The one entry that a user or group of this name has in the list.
    pub(crate) fn listed(&mut self, title: &str) -> Listed {
        let mut list = self.conversations();
        list.retain(|entry| entry.title == title);
        assert_eq!(list.len(), 1, "{title}: {list:?}");
        list.remove(0)
    }

    /// Asks for a group and waits for the answer.
    pub(crate) fn ask_group(&mut self, request: u128, name: &str, members: &[&str]) -> Received {
        let mut tables = std::mem::take(&mut self.tables);
        let members = members.iter().copied();
        let body = tables.create_group(ClientMessageId(request), name, members);
        let answer = self.ask(Kind::CreateGroup, &[body]);
        self.tables = tables;
        answer
    }

    /// Makes a group: its id.
    pub(crate) fn create_group(
        &mut self,
        request: u128,
        name: &str,
        members: &[&str],
    ) -> ConversationId {
        let answer = self.ask_group(request, name, members);
        assert_eq!(answer.kind, Kind::Group, "{answer:?}");
        Group::decode(&answer.body).unwrap().group
    }

    /// Changes a group's members: the answer.
    pub(crate) fn change(
        &mut self,
        group: ConversationId,
        change: MemberChange,
        users: &[&str],
    ) -> Received {
        let mut tables = std::mem::take(&mut self.tables);
        let body = tables.change_members(group, change, users.iter().copied());
        let answer = self.ask(Kind::ChangeMembers, &[body]);
        self.tables = tables;
        answer
    }

    /// Asks for what was missed since these cursors.
    pub(crate) fn ask_sync(&mut self, cursors: &[(ConversationId, Sequence)]) -> u64 {
        let mut tables = std::mem::take(&mut self.tables);
        let reference = self.put(Kind::Sync, &[tables.sync(cursors)]);
        self.tables = tables;
        reference
    }
}

impl Drop for Client {
    /// Whoever else holds the socket: the client is gone.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
