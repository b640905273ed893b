use super::*;
use crate::event::Message;
use wire::body::{Deliver, Page, Receipt, error_head, go_away_head};
use wire::fixed::{Durability, Gap, Sent, SentStatus, SyncDone};
use wire::handshake::negotiate;
use wire::table::Authenticated;
use wire::{CloseReason, Decoded, ErrorCode, MessageId};

const HERE: ConversationId = ConversationId(0xc0);

/// The other end: reads what the session sends, and answers as a script says.
struct Server {
    now: Duration,
    session: Session,
    received: VecDeque<(Kind, u64, Vec<u8>)>,
}

fn server() -> Server {
    let credential = Credential::User("alice".to_owned());
    let identity = Identity { credential, device: Some("phone".to_owned()), auto_delivered: false };
    assert!(identity.is_valid());
    Server { now: Duration::ZERO, session: Session::new(identity, 42), received: VecDeque::new() }
}

impl Server {
    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn answer(&mut self, kind: Kind, reference: u64, parts: &[&[u8]]) -> Result<(), ProtocolError> {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, kind, reference, parts);
        self.session.handle_bytes(self.now, &bytes)
    }

    fn say(&mut self, kind: Kind, reference: u64, parts: &[&[u8]]) {
        self.answer(kind, reference, parts).unwrap();
    }

    fn read(&mut self) {
        while let Some(bytes) = self.session.poll_transmit(self.now) {
            let mut rest = bytes.as_slice();
            while let Ok(Decoded::Frame(frame, bytes)) = frame::decode(rest) {
                self.received.push_back((frame.kind, frame.reference, frame.body.to_vec()));
                rest = &rest[bytes..];
            }
            assert!(rest.is_empty());
        }
    }

    /// The next frame of the session, which is of `kind`: its reference and body.
    #[track_caller]
    fn expect(&mut self, kind: Kind) -> (u64, Vec<u8>) {
        self.read();
        let (found, reference, body) = self.received.pop_front().expect("a frame");
        assert_eq!(found, kind);
        (reference, body)
    }

    #[track_caller]
    fn expect_silence(&mut self) {
        self.read();
        assert_eq!(self.received, []);
    }

    fn expect_send(&mut self) -> (u64, ClientMessageId, Vec<u8>) {
        let (reference, body) = self.expect(Kind::SendMessage);
        let send = SendMessage::decode(&body).unwrap();
        (reference, send.client_message, send.content.to_vec())
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn open(&mut self) {
        self.session.handle_connected(self.now);
        let (hello, body) = self.expect(Kind::Hello);
        let welcome = negotiate(&Hello::decode(&body).unwrap(), 10_000).unwrap();
        let (authenticate, body) = self.expect(Kind::Authenticate);
        let asked = Authenticate::decode(&body).unwrap();
        assert_eq!((asked.user, asked.device), (Some("alice"), Some("phone")));
        let resumed = asked.resume_token == Some(b"later");
        self.say(Kind::Welcome, hello, &[&welcome.head().0]);
        let mut writer = TableWriter::default();
        let body = writer.authenticated(&Authenticated {
            user: "alice",
            device: "phone",
            session: 1,
            resume_token: b"later",
            heartbeat_interval_s: 25,
            resumed,
            server_time_ms: 5,
        });
        self.say(Kind::Authenticated, authenticate, &[body]);
    }

    fn live() -> Self {
        let mut server = server();
        server.open();
        server.events();
        server
    }

    fn acknowledge(&mut self, reference: u64, client_message: ClientMessageId, sequence: u64) {
        let sent = Sent {
            message: MessageId(sequence.into()),
            conversation: HERE,
            client_message,
            sequence: Sequence(sequence),
            status: SentStatus::Sent,
            durability: Durability::LocalFsync,
        };
        self.say(Kind::MessageSent, reference, &[&sent.head().0]);
    }

    fn refuse(&mut self, reference: u64, code: ErrorCode, retry_after_ms: u32) {
        self.say(Kind::Error, reference, &[&error_head(code, retry_after_ms).0, b"no"]);
    }
}

fn entry(sequence: u64) -> Deliver<'static> {
    Deliver {
        message: MessageId(sequence.into()),
        conversation: HERE,
        sequence: Sequence(sequence),
        message_kind: 0,
        sender: "bob",
        content: b"hi",
    }
}

fn sequences(events: &[Event]) -> Vec<(u64, bool)> {
    let of = |event: &Event| match event {
        Event::Message { message: Message { sequence, .. }, is_replay } => {
            Some((sequence.0, *is_replay))
        }
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

fn to_bob() -> Target {
    Target::User("bob".to_owned())
}

#[test]
fn hello_and_authenticate_go_in_one_and_lead_to_a_live_session() {
    let mut server = server();
    server.open();
    assert!(server.session.is_live() && server.session.is_idle());
    let events = server.events();
    assert_eq!(events[0], Event::Connected);
    let user = "alice".to_owned();
    let device = "phone".to_owned();
    let live = Event::Authenticated { user, device, resumed: false, server_time_millis: 5 };
    assert_eq!(events[1..], [live]);
}

#[test]
fn a_frame_may_come_a_byte_at_a_time() {
    let mut server = Server::live();
    let mut bytes = Vec::new();
    let deliver = entry(1);
    frame::encode(&mut bytes, Kind::Deliver, 0, &[&deliver.head().0, b"bob", b"hi"]);
    for byte in &bytes[..bytes.len() - 1] {
        server.session.handle_bytes(server.now, &[*byte]).unwrap();
    }
    assert_eq!(server.events(), []);
    server.session.handle_bytes(server.now, &bytes[bytes.len() - 1..]).unwrap();
    assert_eq!(sequences(&server.events()), [(1, false)]);
}

#[test]
fn a_message_is_sent_until_it_is_acknowledged_and_always_under_one_id() {
    let mut server = Server::live();
    let id = server.session.send(to_bob(), 0, b"one").unwrap();
    assert_eq!(server.expect_send().1, id);
    let wait = server.session.handle_disconnected(server.now).expect("to come back");
    assert!(wait > Duration::ZERO && wait <= BACKOFF_FIRST);
    let later = server.session.send(to_bob(), 0, b"two").unwrap();
    server.expect_silence();
    server.open();
    let (reference, again, content) = server.expect_send();
    assert_eq!((again, content.as_slice()), (id, b"one".as_slice()));
    assert_eq!(server.expect_send().1, later);
    server.acknowledge(reference, id, 1);
    assert_eq!(server.session.unacknowledged_count(), 1);
    let events = server.events();
    let [.., Event::Sent { client_message, sequence, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((*client_message, *sequence), (id, Sequence(1)));
    server.acknowledge(reference, id, 1);
    assert_eq!(server.events(), [], "a second acknowledgement is no news");
}

#[test]
fn a_busy_server_is_asked_again_after_the_time_it_gave() {
    let mut server = Server::live();
    let id = server.session.send(to_bob(), 0, b"one").unwrap();
    let (reference, _, _) = server.expect_send();
    server.refuse(reference, ErrorCode::Busy, 400);
    assert_eq!(server.events(), []);
    server.wait(399);
    server.expect_silence();
    let due = server.session.poll_timeout().unwrap();
    assert!(due >= Duration::from_millis(400) && due <= Duration::from_millis(800));
    server.now = due;
    assert_eq!(server.expect_send().1, id);
}

#[test]
fn a_message_refused_for_good_leaves_the_outbox_and_says_why() {
    let mut server = Server::live();
    let client_message = server.session.send(to_bob(), 0, b"one").unwrap();
    let (reference, _, _) = server.expect_send();
    server.refuse(reference, ErrorCode::NotAMember, 0);
    let text = "no".to_owned();
    let refusal = Refusal { code: Some(ErrorCode::NotAMember), text, retry_after_ms: 0 };
    assert_eq!(server.events(), [Event::SendRefused { client_message, refusal }]);
    assert_eq!(server.session.unacknowledged_count(), 0);
}

#[test]
fn a_full_outbox_refuses_the_next_message_and_keeps_the_others() {
    let mut session = server().session;
    for _ in 0..crate::OUTBOX_ENTRIES_MAX {
        session.send(to_bob(), 0, b"x").unwrap();
    }
    assert_eq!(session.send(to_bob(), 0, b"x"), Err(SendError::Full));
    assert_eq!(session.unacknowledged_count(), crate::OUTBOX_ENTRIES_MAX);
    let mut session = server().session;
    let long = vec![0; CONTENT_BYTES_MAX];
    while session.send(to_bob(), 0, &long).is_ok() {}
    assert_eq!(session.unacknowledged_count(), crate::OUTBOX_BYTES_MAX / CONTENT_BYTES_MAX);
    let too_long = vec![0; CONTENT_BYTES_MAX + 1];
    assert_eq!(session.send(to_bob(), 0, &too_long), Err(SendError::TooLarge));
    assert_eq!(session.send(Target::User("b b".into()), 0, b""), Err(SendError::Name));
}

#[test]
fn what_was_missed_comes_before_what_is_new_and_nothing_comes_twice() {
    let mut server = Server::live();
    let mut page = Page::head(HERE, 2, false).0.to_vec();
    Page::put_entry(&mut page, &entry(4));
    Page::put_entry(&mut page, &entry(5));
    server.say(Kind::SyncBatch, 0, &[&page]);
    server.say(Kind::SyncDone, 0, &[&SyncDone { conversations_count: 1 }.head().0]);
    server.say(Kind::Deliver, 0, &[&entry(5).head().0, b"bob", b"hi"]);
    server.say(Kind::Deliver, 0, &[&entry(6).head().0, b"bob", b"hi"]);
    let events = server.events();
    assert_eq!(sequences(&events), [(4, true), (5, true), (6, false)]);
    assert!(events.contains(&Event::CaughtUp { conversations_count: 1 }));
    server.wait(50);
    let (_, body) = server.expect(Kind::MarkDelivered);
    assert_eq!(body::cursor(&body), Ok((HERE, Sequence(6))));
    server.expect_silence();
}

#[test]
fn a_gap_is_told_and_acknowledged_like_a_message() {
    let mut server = Server::live();
    let gap = Gap { conversation: HERE, from: Sequence(1), to: Sequence(9) };
    server.say(Kind::Gap, 0, &[&gap.head().0]);
    assert_eq!(server.events(), [Event::Gap(gap)]);
    server.wait(50);
    let (_, body) = server.expect(Kind::MarkDelivered);
    assert_eq!(body::cursor(&body), Ok((HERE, Sequence(9))));
}

#[test]
fn receipts_are_passed_on() {
    let mut server = Server::live();
    let receipt = Receipt { conversation: HERE, up_to: Sequence(3), at_millis: 9, user: "bob" };
    server.say(Kind::ReadReceipt, 0, &[&receipt.head().0, b"bob"]);
    let events = server.events();
    let [Event::Read(read)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((read.up_to, read.user.as_str()), (Sequence(3), "bob"));
}

#[test]
fn a_quiet_session_sends_heartbeats_and_a_silent_server_is_left() {
    let mut server = Server::live();
    assert_eq!(server.session.poll_timeout(), Some(Duration::from_secs(25)));
    server.wait(25_000);
    server.session.handle_timeout(server.now).unwrap();
    server.expect(Kind::Heartbeat);
    server.say(Kind::HeartbeatAck, 0, &[]);
    server.wait(51_999);
    server.session.handle_timeout(server.now).unwrap();
    server.wait(1);
    assert_eq!(server.session.handle_timeout(server.now), Err(TimedOut));
}

#[test]
fn a_request_names_its_answer_and_a_lost_connection_refuses_it() {
    let mut server = Server::live();
    let asked = server.session.read_history(HERE, Sequence(0), 10).unwrap();
    let (reference, body) = server.expect(Kind::ReadHistory);
    assert_eq!(ReadHistory::decode(&body).unwrap().limit, 10);
    let mut page = Page::head(HERE, 1, true).0.to_vec();
    Page::put_entry(&mut page, &entry(4));
    server.say(Kind::HistoryPage, reference, &[&page]);
    let events = server.events();
    let [Event::History { reference, messages, has_more: true, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((*reference, messages.len()), (asked, 1));
    let lost = server.session.list_conversations(ConversationId(0)).unwrap();
    server.session.handle_disconnected(server.now);
    let events = server.events();
    let [Event::Refused { reference, refusal: Refusal { code: None, .. } }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*reference, lost);
    assert_eq!(server.session.read_group(HERE, 0), Err(RequestError::Offline));
}

#[test]
fn a_resume_token_goes_with_the_next_connection() {
    let mut server = Server::live();
    server.session.handle_disconnected(server.now);
    server.open();
    let resumed = |event: &Event| matches!(event, Event::Authenticated { resumed: true, .. });
    assert!(server.events().iter().any(resumed));
}

#[test]
fn a_server_that_goes_away_says_when_to_come_back() {
    let mut server = Server::live();
    let head = go_away_head(CloseReason::Draining, 1234);
    server.say(Kind::GoAway, 0, &[&head.0, b"token"]);
    let back = server.session.handle_disconnected(server.now).unwrap();
    assert_eq!(back, server.now + Duration::from_millis(1234));
}

#[test]
fn a_session_that_was_refused_or_replaced_does_not_come_back() {
    let mut replaced = Server::live();
    replaced.say(Kind::GoAway, 0, &[&go_away_head(CloseReason::Replaced, 0).0]);
    assert_eq!(replaced.session.handle_disconnected(replaced.now), None);
    let mut refused = server();
    refused.session.handle_connected(refused.now);
    refused.expect(Kind::Hello);
    let (reference, _) = refused.expect(Kind::Authenticate);
    refused.refuse(reference, ErrorCode::Unauthenticated, 0);
    let events = refused.events();
    assert!(matches!(&events[..], [Event::AuthenticationRefused(_)]), "{events:?}");
    assert!(refused.session.is_refused());
    assert_eq!(refused.session.handle_disconnected(refused.now), None);
}

#[test]
fn waits_between_tries_grow_to_a_bound() {
    let mut session = server().session;
    let waits: Vec<_> =
        (0..20).map(|_| session.handle_disconnected(Duration::ZERO).unwrap()).collect();
    assert!(waits[0] <= BACKOFF_FIRST);
    assert!(waits[19] >= BACKOFF_MAX / 2 && waits.iter().all(|wait| *wait <= BACKOFF_MAX));
}

#[test]
fn a_server_that_breaks_the_protocol_is_an_error_and_never_a_panic() {
    #[track_caller]
    fn check(kind: Kind, body: &[u8], error: ProtocolError) {
        assert_eq!(Server::live().answer(kind, 0, &[body]), Err(error));
    }
    check(Kind::Welcome, b"", ProtocolError::Unexpected(Kind::Welcome));
    check(Kind::SendMessage, b"", ProtocolError::Unexpected(Kind::SendMessage));
    check(Kind::Deliver, b"short", ProtocolError::Body(Kind::Deliver, BodyError::Length));
    let mut server = Server::live();
    let garbage = server.session.handle_bytes(server.now, &[0xff; 16]);
    assert_eq!(garbage, Err(ProtocolError::Frame(FrameError::Malformed)));
}

#[test]
fn a_kind_of_a_later_version_is_stepped_over() {
    let mut server = Server::live();
    let mut bytes = vec![2, 0, 0, 0, 0xee, 0x9e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7];
    frame::encode(&mut bytes, Kind::HeartbeatAck, 0, &[]);
    assert_eq!(server.session.handle_bytes(server.now, &bytes), Ok(()));
    assert!(server.session.window.is_empty());
}
