//! The blocking shell against a server that closes on it.
#![expect(clippy::unwrap_used, reason = "a test stops where the world is not as it set it up")]

use client::blocking::{Client, Notice};
use client::{Credential, Event, Identity, Target};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use wire::body::SendMessage;
use wire::fixed::{Durability, Sent, SentStatus};
use wire::handshake::{Hello, negotiate};
use wire::table::{Authenticated, TableWriter};
use wire::{ClientMessageId, ConversationId, Decoded, Kind, MessageId, Sequence, frame};

struct Peer {
    stream: TcpStream,
    window: Vec<u8>,
}

impl Peer {
    fn read(&mut self) -> (Kind, u64, Vec<u8>) {
        loop {
            if let Ok(Decoded::Frame(frame, bytes)) = frame::decode(&self.window) {
                let read = (frame.kind, frame.reference, frame.body.to_vec());
                self.window.drain(..bytes);
                return read;
            }
            let mut bytes = [0; 1024];
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "the client closed");
            self.window.extend_from_slice(&bytes[..count]);
        }
    }

    fn say(&mut self, kind: Kind, reference: u64, body: &[u8]) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, kind, reference, &[body]);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Shakes hands and returns the first message that comes.
    fn first_send(listener: &TcpListener) -> (Self, u64, ClientMessageId) {
        let (stream, _) = listener.accept().unwrap();
        let mut peer = Self { stream, window: Vec::new() };
        let (_, hello, body) = peer.read();
        let welcome = negotiate(&Hello::decode(&body).unwrap(), 10_000).unwrap();
        peer.say(Kind::Welcome, hello, &welcome.head().0);
        let (_, authenticate, _) = peer.read();
        let mut writer = TableWriter::default();
        let body = writer.authenticated(&Authenticated {
            user: "alice",
            device: "phone",
            session: 1,
            resume_token: b"later",
            heartbeat_interval_s: 25,
            resumed: false,
            server_time_ms: 5,
        });
        peer.say(Kind::Authenticated, authenticate, body);
        let (kind, reference, body) = peer.read();
        assert_eq!(kind, Kind::SendMessage);
        (peer, reference, SendMessage::decode(&body).unwrap().client_message)
    }
}

#[test]
fn a_message_whose_acknowledgement_was_lost_is_sent_again_on_the_next_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (lost, _, first) = Peer::first_send(&listener);
        drop(lost);
        let (mut peer, reference, second) = Peer::first_send(&listener);
        assert_eq!(first, second);
        let sent = Sent {
            message: MessageId(1),
            conversation: ConversationId(2),
            client_message: second,
            sequence: Sequence(3),
            status: SentStatus::Duplicate,
            durability: Durability::LocalFsync,
        };
        peer.say(Kind::MessageSent, reference, &sent.head().0);
        peer
    });
    let credential = Credential::User("alice".to_owned());
    let identity = Identity { credential, device: None, auto_delivered: false };
    let mut client = Client::new(&address, identity, 7);
    let id = client.session().send(Target::User("bob".to_owned()), 0, b"hi").unwrap();
    let mut disconnects_count = 0;
    let sent = loop {
        match client.poll(Duration::from_secs(20)).expect("an answer within the time") {
            Notice::Disconnected { .. } => disconnects_count += 1,
            Notice::Event(Event::Sent { client_message, is_duplicate, .. }) => {
                break (client_message, is_duplicate);
            }
            Notice::Event(_) => {}
            Notice::Ended { why } => panic!("{why}"),
        }
    };
    assert_eq!((sent, disconnects_count), ((id, true), 1));
    assert!(client.session().is_idle());
    drop(server.join().unwrap());
}

#[test]
fn a_server_that_is_not_there_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let credential = Credential::User("alice".to_owned());
    let identity = Identity { credential, device: None, auto_delivered: false };
    let mut client = Client::new(&address, identity, 7);
    for _ in 0..2 {
        let notice = client.poll(Duration::from_secs(5));
        assert!(matches!(notice, Some(Notice::Disconnected { .. })), "{notice:?}");
    }
    assert_eq!(client.poll(Duration::ZERO), None);
}
