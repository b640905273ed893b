//! A server just good enough to be loaded: everything in one lock, one thread a connection. It can
//! be told to misbehave, and to lose all its connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use wire::body::{Deliver, Page, SendMessage, Target, cursor};
use wire::fixed::{Durability, Sent, SentStatus};
use wire::frame::{self, Decoded, Frame};
use wire::generated::{ErrorHead, SyncDoneHead};
use wire::handshake::{Hello, negotiate};
use wire::table::{Authenticate, Authenticated, CreateGroup, GroupHead, TableWriter};
use wire::{ConversationId, ErrorCode, IdKey, Kind, MessageId, Sequence};

const KEY: IdKey = IdKey([7; 16]);
const PAGE: usize = 20;

/// What a server does wrong, on every so many-th message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lose: Option<usize>,
    pub(crate) repeat: Option<usize>,
    pub(crate) refuse: Option<usize>,
}

#[derive(Default)]
struct User {
    stream: Option<TcpStream>,
    cursors: BTreeMap<u128, u64>,
}

struct Message {
    sender: String,
    client_message: u128,
    content: Vec<u8>,
}

#[derive(Default)]
struct Conversation {
    members: Vec<String>,
    log: Vec<Message>,
}

#[derive(Default)]
struct State {
    users: BTreeMap<String, User>,
    conversations: BTreeMap<u128, Conversation>,
    faults: Faults,
    messages_count: usize,
}

#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    is_down: Arc<AtomicBool>,
    pub(crate) address: SocketAddr,
}

impl World {
    pub(crate) fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { faults, ..State::default() }));
        let world = Self { state, is_down: Arc::default(), address };
        let accepting = world.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = accepting.clone();
                let stream = stream.unwrap();
                if !serving.is_down.load(Ordering::SeqCst) {
                    std::thread::spawn(move || serving.serve(stream));
                }
            }
        });
        world
    }

    /// Cuts all connections, and takes none until `rise`.
    pub(crate) fn fall(&self) {
        self.is_down.store(true, Ordering::SeqCst);
        let mut state = self.state.lock().unwrap();
        for user in state.users.values_mut() {
            if let Some(stream) = user.stream.take() {
                drop(stream.shutdown(Shutdown::Both));
            }
        }
    }

    pub(crate) fn rise(&self) {
        self.is_down.store(false, Ordering::SeqCst);
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut bytes, mut chunk, mut who) = (Vec::new(), [0; 4096], String::new());
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            let mut taken = 0;
            while let Ok(Decoded::Frame(frame, frame_bytes)) = frame::decode(&bytes[taken..]) {
                let mut state = self.state.lock().unwrap();
                if self.is_down.load(Ordering::SeqCst) {
                    return drop(stream.shutdown(Shutdown::Both));
                }
                state.handle(&mut who, &stream, &frame);
                taken += frame_bytes;
            }
            bytes.drain(..taken);
        }
    }
}

fn say(mut stream: &TcpStream, kind: Kind, reference: u64, parts: &[&[u8]]) {
    let mut out = Vec::new();
    frame::encode(&mut out, kind, reference, parts);
    drop(stream.write_all(&out));
}

fn every(count: Option<usize>, number: usize) -> bool {
    count.is_some_and(|count| number.is_multiple_of(count))
}

impl State {
    fn handle(&mut self, who: &mut String, stream: &TcpStream, frame: &Frame<'_>) {
        let reference = frame.reference;
        match frame.kind {
            Kind::Hello => {
                let welcome = negotiate(&Hello::decode(frame.body).unwrap(), 1_000).unwrap();
                say(stream, Kind::Welcome, reference, &[&welcome.head().0]);
            }
            Kind::Authenticate => {
                *who = Authenticate::decode(frame.body).unwrap().user.unwrap().to_owned();
                self.log_in(who, stream, reference);
            }
            Kind::SendMessage => self.send(who, stream, frame),
            Kind::MarkDelivered => {
                let (conversation, up_to) = cursor(frame.body).unwrap();
                let user = self.users.get_mut(who).unwrap();
                let known = user.cursors.entry(conversation.0).or_default();
                *known = up_to.0.max(*known);
            }
            Kind::CreateGroup => {
                let asked = CreateGroup::decode(frame.body).unwrap();
                let group = KEY.group(KEY.user(who), asked.request);
                let mut members: Vec<_> = asked.members.iter().map(str::to_owned).collect();
                members.push(who.clone());
                self.conversations.entry(group.0).or_default().members = members;
                let mut writer = TableWriter::default();
                let head = GroupHead {
                    group,
                    name: "g",
                    members_count: 0,
                    from: 0,
                    last_sequence: Sequence(0),
                };
                let body = writer.group(&head, std::iter::empty());
                say(stream, Kind::Group, reference, &[body]);
            }
            _ => {}
        }
    }

    fn log_in(&mut self, who: &str, stream: &TcpStream, reference: u64) {
        let user = self.users.entry(who.to_owned()).or_default();
        user.stream = stream.try_clone().ok();
        let body = Authenticated {
            user: who,
            device: "d0",
            session: 1,
            resume_token: b"t",
            heartbeat_interval_s: 1,
            resumed: false,
            server_time_ms: 0,
        };
        let mut writer = TableWriter::default();
        say(stream, Kind::Authenticated, reference, &[writer.authenticated(&body)]);
        for (id, conversation) in &self.conversations {
            if !conversation.members.iter().any(|member| member == who) {
                continue;
            }
            let mut from = user.cursors.get(id).map_or(0, |at| usize::try_from(*at).unwrap());
            while from < conversation.log.len() {
                let entries = &conversation.log[from..];
                let entries = &entries[..entries.len().min(PAGE)];
                let mut body = Vec::new();
                for (at, message) in (from..).zip(entries) {
                    Page::put_entry(&mut body, &deliver(*id, at, message));
                }
                let head = Page::head(ConversationId(*id), entries.len() as u16, false);
                say(stream, Kind::SyncBatch, 0, &[&head.0, &body]);
                from += entries.len();
            }
        }
        say(stream, Kind::SyncDone, 0, &[&SyncDoneHead::new(1, 0).0]);
    }

    fn send(&mut self, who: &str, stream: &TcpStream, frame: &Frame<'_>) {
        let asked = SendMessage::decode(frame.body).unwrap();
        self.messages_count += 1;
        if every(self.faults.refuse, self.messages_count) {
            let head = ErrorHead::new(ErrorCode::Busy as u16, 0, 5);
            return say(stream, Kind::Error, frame.reference, &[&head.0, b"busy"]);
        }
        let id = match asked.target {
            Target::Conversation(id) => id,
            Target::Recipient(peer) => {
                let id = KEY.direct(KEY.user(who), KEY.user(peer));
                let members = vec![who.to_owned(), peer.to_owned()];
                self.conversations.entry(id.0).or_default().members = members;
                id
            }
        };
        let conversation = self.conversations.get_mut(&id.0).unwrap();
        let client_message = asked.client_message.0;
        let same = |message: &Message| message.client_message == client_message;
        let known = conversation.log.iter().position(same);
        if known.is_none() {
            let (sender, content) = (who.to_owned(), asked.content.to_vec());
            conversation.log.push(Message { sender, client_message, content });
        }
        let at = known.unwrap_or(conversation.log.len() - 1);
        let sent = Sent {
            message: MessageId(1),
            conversation: id,
            client_message: asked.client_message,
            sequence: Sequence(at as u64 + 1),
            status: if known.is_some() { SentStatus::Duplicate } else { SentStatus::Sent },
            durability: Durability::Memory,
        };
        say(stream, Kind::MessageSent, frame.reference, &[&sent.head().0]);
        if known.is_some() || every(self.faults.lose, self.messages_count) {
            return;
        }
        let deliver = deliver(id.0, at, &conversation.log[at]);
        let times = 1 + usize::from(every(self.faults.repeat, self.messages_count));
        for member in conversation.members.iter().filter(|member| *member != who) {
            if let Some(stream) = self.users.get(member).and_then(|user| user.stream.as_ref()) {
                for _ in 0..times {
                    let parts: [&[u8]; 3] = [&deliver.head().0, who.as_bytes(), deliver.content];
                    say(stream, Kind::Deliver, 0, &parts);
                }
            }
        }
    }
}

fn deliver(conversation: u128, at: usize, message: &Message) -> Deliver<'_> {
    Deliver {
        message: MessageId(1),
        conversation: ConversationId(conversation),
        sequence: Sequence(at as u64 + 1),
        message_kind: 0,
        sender: &message.sender,
        content: &message.content,
    }
}
