use super::*;
use client::{Credential, Identity};
use std::collections::VecDeque;
use wire::body::{self, Deliver, Page, SendMessage, error_head};
use wire::fixed::{Durability, Sent, SentStatus, SyncDone};
use wire::handshake::{Hello, negotiate};
use wire::table::{Authenticated, ConversationEntry, GroupHead, Member, TableWriter};
use wire::{Decoded, ErrorCode, Frame, Hlc, Kind, MessageId, frame};

const BOB: ConversationId = ConversationId(0xb0b);
const TEAM: ConversationId = ConversationId(1 << 127 | 0x7ea);
const NOW: Duration = Duration::ZERO;
const AT: u64 = 1_700_000_000_000;

/// A room, a live session, and the server's side of it.
struct Stage {
    room: Room,
    session: Session,
    received: VecDeque<(Kind, u64, Vec<u8>)>,
    writer: TableWriter,
}

impl Stage {
    fn say(&mut self, kind: Kind, reference: u64, parts: &[&[u8]]) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, kind, reference, parts);
        self.session.handle_bytes(NOW, &bytes).unwrap();
        while let Some(event) = self.session.poll_event() {
            self.room.handle_event(&mut self.session, NOW, event);
        }
    }

    /// The reference and body of the next frame, which is of `kind`.
    #[track_caller]
    fn expect(&mut self, kind: Kind) -> (u64, Vec<u8>) {
        let bytes = self.session.poll_transmit(NOW + Duration::from_secs(1)).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Ok(Decoded::Frame(Frame { kind, reference, body }, bytes)) = frame::decode(rest) {
            self.received.push_back((kind, reference, body.to_vec()));
            rest = &rest[bytes..];
        }
        let (found, reference, body) = self.received.pop_front().expect("a frame");
        assert_eq!(found, kind);
        (reference, body)
    }

    fn type_line(&mut self, line: &str) {
        self.room.handle_line(&mut self.session, NOW, line);
    }

    #[track_caller]
    fn check(&mut self, shown: &str) {
        assert_eq!(self.room.take_shown(), shown);
    }

    fn deliver(&mut self, conversation: ConversationId, sequence: u64, text: &[u8]) {
        let entry = message(conversation, sequence, text);
        self.say(Kind::Deliver, 0, &[&entry.head().0, b"bob", text]);
    }

    fn acknowledge(&mut self, conversation: ConversationId, sequence: u64) {
        let (reference, body) = self.expect(Kind::SendMessage);
        let sent = Sent {
            message: MessageId(1),
            conversation,
            client_message: SendMessage::decode(&body).unwrap().client_message,
            sequence: Sequence(sequence),
            status: SentStatus::Sent,
            durability: Durability::LocalFsync,
        };
        self.say(Kind::MessageSent, reference, &[&sent.head().0]);
    }
}

fn message(conversation: ConversationId, sequence: u64, text: &[u8]) -> Deliver<'_> {
    Deliver {
        message: MessageId::new(Hlc(AT << 16), conversation, Sequence(sequence)),
        conversation,
        sequence: Sequence(sequence),
        message_kind: 0,
        sender: "bob",
        content: text,
    }
}

/// A room whose session is authenticated and has asked for the list.
fn connected(target: Option<Target>) -> Stage {
    let credential = Credential::User("alice".to_owned());
    let identity = Identity { credential, device: None, auto_delivered: false };
    let mut stage = Stage {
        room: Room::new(target),
        session: Session::new(identity, 1),
        received: VecDeque::new(),
        writer: TableWriter::default(),
    };
    stage.session.handle_connected(NOW);
    let (hello, _) = stage.expect(Kind::Hello);
    let (authenticate, _) = stage.expect(Kind::Authenticate);
    let welcome = negotiate(&Hello::OURS, 10_000).unwrap();
    stage.say(Kind::Welcome, hello, &[&welcome.head().0]);
    let body = TableWriter::default()
        .authenticated(&Authenticated {
            user: "alice",
            device: "terminal",
            session: 1,
            resume_token: b"later",
            heartbeat_interval_s: 25,
            resumed: false,
            server_time_ms: AT,
        })
        .to_vec();
    stage.say(Kind::Authenticated, authenticate, &[&body]);
    stage.check("-- connected as alice (terminal)\n");
    stage
}

fn listed(stage: &mut Stage) {
    let (reference, _) = stage.expect(Kind::ListConversations);
    let bob = ConversationEntry {
        conversation: BOB,
        peer: Some("bob"),
        last_sequence: Sequence(4),
        unread: 2,
        ..Default::default()
    };
    let team = ConversationEntry { conversation: TEAM, name: Some("team"), ..Default::default() };
    let body = stage.writer.conversations([bob, team], false, 2).to_vec();
    stage.say(Kind::Conversations, reference, &[&body]);
}

/// A room that takes lines.
fn open(target: Option<Target>) -> Stage {
    let mut stage = connected(target);
    listed(&mut stage);
    assert!(!stage.room.takes_lines(), "what was missed comes first");
    stage.say(Kind::SyncDone, 0, &[&SyncDone { conversations_count: 0 }.head().0]);
    assert!(stage.room.takes_lines());
    stage
}

fn to_bob() -> Option<Target> {
    Some(Target::User("bob".to_owned()))
}

fn receipt(stage: &mut Stage, kind: Kind, up_to: u64, user: &str) {
    let up_to = Sequence(up_to);
    let receipt = body::Receipt { conversation: BOB, up_to, at_millis: AT, user };
    stage.say(kind, 0, &[&receipt.head().0, user.as_bytes()]);
}

#[test]
fn marks_follow_a_message_from_sent_to_read_and_nothing_is_shown_twice() {
    let mut stage = open(to_bob());
    stage.type_line("hi");
    stage.acknowledge(BOB, 5);
    stage.check("  ✓ sent to bob: #5\n");
    receipt(&mut stage, Kind::DeliveryReceipt, 5, "bob");
    receipt(&mut stage, Kind::DeliveryReceipt, 5, "bob");
    stage.check("  ✓✓ delivered to bob: up to #5\n");
    receipt(&mut stage, Kind::ReadReceipt, 6, "bob");
    receipt(&mut stage, Kind::DeliveryReceipt, 6, "bob");
    receipt(&mut stage, Kind::ReadReceipt, 6, "alice");
    stage.check("  ✓✓ read by bob: up to #5\n");
}

#[test]
fn what_is_shown_in_the_open_conversation_is_read_and_elsewhere_only_delivered() {
    let mut stage = open(to_bob());
    stage.deliver(TEAM, 1, b"all");
    stage.deliver(BOB, 5, b"hi \x1b[2J");
    stage.check("[22:13] #team bob: all\n[22:13] bob: hi ·[2J\n");
    let (_, here) = stage.expect(Kind::MarkRead);
    assert_eq!(body::cursor(&here).unwrap(), (BOB, Sequence(5)));
    let (_, there) = stage.expect(Kind::MarkDelivered);
    assert_eq!(body::cursor(&there).unwrap(), (TEAM, Sequence(1)));
    stage.type_line("/to #team");
    stage.check("-- talking to #team\n");
    let (_, there) = stage.expect(Kind::MarkRead);
    assert_eq!(body::cursor(&there).unwrap(), (TEAM, Sequence(1)));
}

#[test]
fn a_missed_message_waits_until_it_is_known_where_it_belongs() {
    let mut stage = connected(None);
    let mut page = Page::head(TEAM, 1, false).0.to_vec();
    Page::put_entry(&mut page, &message(TEAM, 3, b"early"));
    stage.say(Kind::SyncBatch, 0, &[&page]);
    let mut page = Page::head(BOB, 1, false).0.to_vec();
    let own = Deliver { sender: "alice", ..message(BOB, 4, b"from my phone") };
    Page::put_entry(&mut page, &own);
    stage.say(Kind::SyncBatch, 0, &[&page]);
    stage.check("");
    listed(&mut stage);
    stage.check("[22:13] #team bob: early\n[22:13] me to bob: from my phone\n");
}

#[test]
fn the_next_line_waits_for_the_answer_to_a_command() {
    let mut stage = open(None);
    stage.type_line("/group new crew bob,carol");
    assert!(!stage.room.takes_lines());
    let (reference, _) = stage.expect(Kind::CreateGroup);
    let head = GroupHead {
        group: ConversationId(1 << 127 | 1),
        name: "crew",
        members_count: 2,
        from: 0,
        last_sequence: Sequence(0),
    };
    let members = [("alice", Role::Admin), ("bob", Role::Member)];
    let members = members.map(|(user, role)| Member { user, role });
    let body = stage.writer.group(&head, members).to_vec();
    stage.say(Kind::Group, reference, &[&body]);
    assert!(stage.room.takes_lines());
    stage.check(
        "-- talking in #crew, whose id is 80000000000000000000000000000001\n  alice (admin)\n  \
         bob\n",
    );
    stage.type_line("hi all");
    stage.acknowledge(head.group, 1);
    stage.check("  ✓ sent to #crew: #1\n");
}

#[test]
fn a_refused_command_is_told_and_counted() {
    let mut stage = open(None);
    stage.type_line("/to #team");
    stage.type_line("/group add dave");
    let (reference, _) = stage.expect(Kind::ChangeMembers);
    stage.say(Kind::Error, reference, &[&error_head(ErrorCode::Forbidden, 0).0, b"not an admin"]);
    stage.check("-- talking to #team\n! refused: forbidden: not an admin\n");
    assert_eq!((stage.room.refusals_count(), stage.room.takes_lines()), (1, true));
}

#[test]
fn history_is_shown_oldest_first() {
    let mut stage = open(to_bob());
    stage.type_line("/history 2");
    let (reference, _) = stage.expect(Kind::ReadHistory);
    let mut page = Page::head(BOB, 2, true).0.to_vec();
    Page::put_entry(&mut page, &message(BOB, 4, b"later"));
    Page::put_entry(&mut page, &message(BOB, 3, b"sooner"));
    stage.say(Kind::HistoryPage, reference, &[&page]);
    stage.check("-- older messages exist\n[22:13] bob: sooner\n[22:13] bob: later\n");
}

#[test]
fn the_list_names_every_conversation_with_what_is_unread() {
    let mut stage = open(None);
    stage.type_line("/list");
    listed(&mut stage);
    let shown = stage.room.take_shown();
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("  bob ") && lines[0].contains("2 unread"), "{shown}");
    assert!(lines[1].starts_with("  #team "), "{shown}");
    assert_eq!(lines[2], "-- 2 unread in all");
}

#[test]
fn a_line_to_nobody_is_refused_and_not_sent() {
    let mut stage = open(None);
    stage.type_line("hello?");
    stage.check("! talk to somebody first: /to USER or /to #GROUP\n");
    assert_eq!(stage.room.refusals_count(), 1);
    assert_eq!(stage.session.unacknowledged_count(), 0);
}
