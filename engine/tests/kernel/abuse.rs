//! Clients that are broken or malicious: each is told why and sent away, or answered, and nobody
//! else notices.

use crate::support::{Bystanders, Client, Dice, Folder, Server, authenticate, hello};
use std::time::Duration;
use wire::body::{SendMessage, Target};
use wire::handshake::Hello;
use wire::limits::CONTENT_BYTES_MAX;
use wire::table::Authenticate;
use wire::{ClientMessageId, CloseReason, ConversationId, ErrorCode, Kind, Sender, frame};

/// A header that no honest encoder makes.
fn header(length: u32, kind: u16, reference: u64) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&reference.to_le_bytes());
    bytes
}

fn claim(user: &str) -> Authenticate<'_> {
    Authenticate { user: Some(user), device: Some("phone"), ..Default::default() }
}

/// What a server makes of bytes at the start of a connection: it must close.
#[track_caller]
fn check_first(server: &Server, bytes: &[u8], expected: (&[ErrorCode], CloseReason)) {
    let mut client = Client::connect(server.native);
    // The server may have closed before it was all written.
    let _ = client.try_write(bytes);
    let (errors, reason) = client.end();
    assert_eq!((errors.as_slice(), reason), (expected.0, Some(expected.1)));
}

/// The same, of a live session.
#[track_caller]
fn check_live(server: &Server, bytes: &[u8], expected: (&[ErrorCode], CloseReason)) {
    let mut client = server.client("mallory");
    let _ = client.try_write(bytes);
    let (errors, reason) = client.end();
    assert_eq!((errors.as_slice(), reason), (expected.0, Some(expected.1)));
}

#[test]
fn random_bytes_are_told_off_and_closed_and_nobody_else_notices() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    for seed in 1..=4 {
        let mut dice = Dice::new(seed);
        let bytes = dice.bytes(64 * 1024);
        check_first(&server, &bytes, (&[ErrorCode::BadRequest], CloseReason::BadFrame));
        check_live(&server, &bytes, (&[ErrorCode::BadRequest], CloseReason::BadFrame));
        // Behind a header that passes, they must fail further in.
        let mut framed = header(16, Kind::Hello as u16, 1);
        framed.extend_from_slice(&bytes);
        check_first(&server, &framed, (&[ErrorCode::BadRequest], CloseReason::BadFrame));
        bystanders.expect_talking();
    }
    let browser = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    check_first(&server, browser, (&[ErrorCode::BadRequest], CloseReason::BadFrame));
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn a_body_of_random_bytes_is_refused_and_the_session_lives() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let mut client = server.client("mallory");
    let mut dice = Dice::new(7);
    let kinds = Kind::ALL.iter().copied().filter(|kind| {
        let is_command = !matches!(kind, Kind::Hello | Kind::Authenticate | Kind::Heartbeat);
        kind.sender() == Sender::Client && is_command
    });
    for kind in kinds {
        for round in 0..6 {
            let longest = kind.body_bytes_max();
            let length = if round == 0 { 0 } else { dice.below(longest as u64 + 1) };
            let body = dice.bytes(usize::try_from(length).unwrap());
            client.put(kind, &[&body]);
        }
        client.expect_alive();
    }
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn a_length_of_zero_is_refused_and_lengths_beyond_reason_end_the_connection() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let send = Kind::SendMessage as u16;
    let mut client = server.client("mallory");
    client.write(&header(0, send, 9));
    assert_eq!(client.reply(9).error().0, ErrorCode::BadRequest);
    client.expect_alive();

    let too_large = (&[ErrorCode::TooLarge][..], CloseReason::TooLarge);
    for length in [1 << 31, u32::MAX, 65_729] {
        check_live(&server, &header(length, send, 9), too_large);
        check_first(&server, &header(length, Kind::Hello as u16, 9), too_large);
        bystanders.expect_talking();
    }
    // A length of 2^64-1 where an other protocol has eight bytes for it.
    let all = [0xff; 16];
    check_live(&server, &all, (&[ErrorCode::BadRequest], CloseReason::BadFrame));
    check_first(&server, &all, (&[ErrorCode::BadRequest], CloseReason::BadFrame));
    check_first(&server, &header(0, Kind::Hello as u16, 9), {
        (&[ErrorCode::BadRequest], CloseReason::BadFrame)
    });
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn a_message_of_a_mebibyte_is_too_large_and_one_over_64_kib_is_refused() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let mut megabyte = header(1 << 20, Kind::SendMessage as u16, 9);
    megabyte.resize(megabyte.len() + (1 << 20), b'x');
    check_live(&server, &megabyte, (&[ErrorCode::TooLarge], CloseReason::TooLarge));
    bystanders.expect_talking();

    let mut client = server.client("mallory");
    let content = vec![b'x'; CONTENT_BYTES_MAX + 1];
    let reference = client.send(Target::Recipient("bob"), 0, &content);
    assert_eq!(client.reply(reference).error().0, ErrorCode::TooLarge);
    assert_eq!(client.say("bob", &content[1..]).sequence.0, 1);
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn truncated_frames_disturb_nobody_and_slow_ones_are_understood() {
    let folder = Folder::new();
    let server = folder.serve(&["--auth-timeout-s", "1"]);
    let bystanders = Bystanders::of(&server);
    let first = [hello(), authenticate(&claim("alice"))].concat();
    // Cut off at every place, then the client is gone.
    for end in 0..first.len() {
        let mut client = Client::connect(server.native);
        client.write(&first[..end]);
        client.finish();
        assert_eq!(client.end().1, None, "cut at {end}");
    }
    // Cut off, and the client stays.
    let mut stuck = Client::connect(server.native);
    stuck.write(&first[..first.len() - 1]);
    assert_eq!(stuck.end(), (vec![], Some(CloseReason::AuthTimeout)));
    // A byte at a time is a client like any other.
    let mut slow = Client::connect(server.native);
    for byte in &first {
        slow.write(&[*byte]);
    }
    slow.expect_live();
    let content = vec![b'x'; 5000];
    let message = SendMessage {
        target: Target::Recipient("bob"),
        client_message: ClientMessageId(1),
        message_kind: 0,
        content: &content,
    };
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, Kind::SendMessage, 7, &[&message.head().0, b"bob", &content]);
    for part in bytes.chunks(501) {
        slow.write(part);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(slow.reply(7).sent().sequence.0, 1);
    // A live session that goes in the middle of a frame has sent nothing.
    slow.write(&bytes[..bytes.len() - 1]);
    slow.finish();
    assert_eq!(slow.end().1, None);
    let mut bob = server.client("bob");
    assert_eq!(bob.listed("alice").last, 1);
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn frames_out_of_turn_end_the_connection() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let unexpected = |code| (vec![code], CloseReason::Unexpected);
    let command = header(0, Kind::ListConversations as u16, 1);
    let cases = [
        (authenticate(&claim("alice")), unexpected(ErrorCode::BadRequest)),
        (command.clone(), unexpected(ErrorCode::BadRequest)),
        (header(0, Kind::HeartbeatAck as u16, 1), unexpected(ErrorCode::BadRequest)),
        (header(0, 0x7777, 1), unexpected(ErrorCode::BadRequest)),
        ([hello(), hello()].concat(), unexpected(ErrorCode::Unauthenticated)),
        ([hello(), command].concat(), unexpected(ErrorCode::Unauthenticated)),
        ([hello(), header(0, 0x7777, 1)].concat(), unexpected(ErrorCode::BadRequest)),
    ];
    for (bytes, (errors, reason)) in cases {
        check_first(&server, &bytes, (&errors, reason));
        bystanders.expect_talking();
    }
    let refused = (&[ErrorCode::BadRequest][..], CloseReason::Unexpected);
    check_live(&server, &hello(), refused);
    check_live(&server, &authenticate(&claim("alice")), refused);
    check_live(&server, &header(0, Kind::SyncDone as u16, 1), refused);
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn a_hello_of_another_protocol_or_version_is_refused() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let check = |hello: Hello, errors: &[ErrorCode], reason| {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, Kind::Hello, 1, &[&hello.head().0]);
        check_first(&server, &bytes, (errors, reason));
    };
    let newer = Hello { version_min: 2, version_max: 9, ..Hello::OURS };
    check(newer, &[ErrorCode::Unsupported], CloseReason::Unexpected);
    check(Hello { magic: 7, ..Hello::OURS }, &[ErrorCode::BadRequest], CloseReason::BadFrame);
    server.stop();
}

#[test]
fn a_session_outlives_kinds_that_the_server_does_not_know() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut client = server.client("alice");
    for number in [0x0000, 0x0004, 0x7fff, 0x8fff, 0xffff] {
        let mut bytes = header(5, number, 40 + u64::from(number));
        bytes.extend_from_slice(b"12345");
        client.write(&bytes);
        assert_eq!(client.reply(40 + u64::from(number)).error().0, ErrorCode::UnknownType);
    }
    assert_eq!(client.say("bob", b"still here").sequence.0, 1);
    server.stop();
}

#[test]
fn a_resume_token_is_good_for_its_own_device_and_for_no_other() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let token = server.client("alice").resume_token.clone();
    let with = |user, device| Authenticate {
        user: Some(user),
        device: Some(device),
        resume_token: Some(&token),
        ..Default::default()
    };
    let refused = (&[ErrorCode::Forbidden][..], CloseReason::Unauthenticated);
    for stranger in [with("mallory", "phone"), with("alice", "laptop")] {
        check_first(&server, &[hello(), authenticate(&stranger)].concat(), refused);
    }
    let forged = Authenticate { resume_token: Some(b"made up"), ..claim("alice") };
    check_first(&server, &[hello(), authenticate(&forged)].concat(), refused);
    bystanders.expect_talking();
    let alice = server.login_with(&with("alice", "phone"));
    assert!(alice.is_resumed);
    assert_ne!(alice.resume_token, token);
    bystanders.end();
    server.stop();
}

#[test]
fn strangers_get_nothing_into_or_out_of_a_conversation() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let mut alice = server.client("alice");
    let mut bob = server.client("bob");
    let mut mallory = server.client("mallory");
    let group = alice.create_group(1, "family", &["bob"]);
    let direct = alice.say("bob", b"hi").conversation;
    alice.say_in(group, b"secret");
    for conversation in [group, direct] {
        let reference = mallory.send(Target::Conversation(conversation), 0, b"let me in");
        assert_eq!(mallory.reply(reference).error().0, ErrorCode::NotAMember);
        assert_eq!(mallory.history(conversation, 0).error().0, ErrorCode::NotAMember);
        mallory.mark_read(conversation, 1);
        mallory.mark_delivered(conversation, 1);
        mallory.ask_sync(&[(conversation, wire::Sequence(0))]);
        mallory.expect(Kind::SyncDone);
        mallory.expect_none(Kind::SyncBatch, Duration::from_millis(20));
    }
    let read_group = wire::fixed::ReadGroup { group, from: 0 };
    let answer = mallory.ask(Kind::ReadGroup, &[&read_group.head().0]);
    assert_eq!(answer.error().0, ErrorCode::NotAMember);
    let nowhere = ConversationId(group.0 ^ 1);
    let reference = mallory.send(Target::Conversation(nowhere), 0, b"anybody?");
    assert_eq!(mallory.reply(reference).error().0, ErrorCode::NotFound);
    mallory.expect_none(Kind::Deliver, Duration::from_millis(100));
    assert_eq!((bob.message().content, bob.message().content), (b"hi".into(), b"secret".into()));
    bob.expect_none(Kind::Deliver, Duration::from_millis(50));
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}

#[test]
fn a_group_of_oneself_is_refused_and_a_talk_with_oneself_is_not() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let bystanders = Bystanders::of(&server);
    let mut phone = server.device("alice", "phone");
    let mut laptop = server.device("alice", "laptop");
    for members in [&[][..], &["alice"], &["alice", "alice"]] {
        let answer = phone.ask_group(members.len() as u128 + 1, "me", members);
        assert_eq!(answer.error().0, ErrorCode::BadRequest);
    }
    assert_eq!(phone.conversations(), []);
    assert_eq!(phone.say("alice", b"to myself").sequence.0, 1);
    assert_eq!(laptop.message().text(), "to myself");
    phone.expect_none(Kind::Deliver, Duration::from_millis(50));
    assert_eq!(phone.listed("alice").unread, 0);
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}
