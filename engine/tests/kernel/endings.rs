//! How a server ends, and what is there when the next one starts.

use crate::support::{Client, Folder, PATIENCE, Received, wait_for};
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};
use wire::body::Target;
use wire::{CloseReason, ErrorCode, Kind};

#[test]
fn a_drain_says_goodbye_to_everybody_and_loses_nothing_acknowledged() {
    let folder = Folder::new();
    let mut server = folder.serve(&["--shards", "2"]);
    let mut idle: Vec<Client> = (0..10).map(|n| server.client(&format!("idle{n}"))).collect();
    let mut unknown = Client::connect(server.native);
    let senders: Vec<_> = (0..4)
        .map(|n| {
            let mut client = server.client(&format!("sender{n}"));
            thread::spawn(move || {
                let mut number = 0;
                loop {
                    number += 1;
                    let text = format!("{number}");
                    if client.try_send("reader", number, text.as_bytes()).is_err() {
                        break;
                    }
                    // Ahead of the answers, but not without end.
                    if number % 16 == 0 && !client.wait_for_answers() {
                        break;
                    }
                }
                client
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    let started = Instant::now();
    server.terminate();
    for client in idle.iter_mut().chain([&mut unknown]) {
        assert_eq!(client.end(), (vec![], Some(CloseReason::Draining)));
    }
    let mut acknowledged = Vec::new();
    for sender in senders {
        let mut client = sender.join().unwrap();
        let (errors, reason) = client.end();
        assert_eq!(reason, Some(CloseReason::Draining));
        assert!(errors.iter().all(|code| *code == ErrorCode::Busy), "{errors:?}");
        let answers = client.answers();
        let sent = answers.iter().filter(|answer| answer.kind == Kind::MessageSent);
        let sent: Vec<_> = sent.map(Received::sent).collect();
        assert!(sent.len() > 16, "{}", sent.len());
        acknowledged.push((client, sent));
    }
    // Every client still holds its socket open.
    assert_eq!(server.wait(PATIENCE).code(), Some(0), "{}", server.log());
    // And is waited for no longer than a moment.
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());

    let server = folder.serve(&["--shards", "2"]);
    let mut reader = server.client("reader");
    for (client, sent) in acknowledged {
        let history = reader.whole_history(sent[0].conversation);
        let numbers: BTreeSet<&str> = history.iter().map(|message| message.text()).collect();
        assert_eq!(numbers.len(), history.len(), "{} twice", client.user);
        for sent in sent {
            let message = &history[usize::try_from(sent.sequence.0).unwrap() - 1];
            assert_eq!(message.id, sent.message);
            assert_eq!(message.text(), sent.client_message.0.to_string());
        }
    }
    server.stop();
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    let other = Folder::new();
    let Err((status, stderr)) = other.try_serve(&folder.data(), &["--dev-auth"]) else {
        panic!("two servers on one folder")
    };
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("in use by another ringmain"), "{stderr}");
    assert_eq!(alice.say("bob", b"still here").sequence.0, 1);
    server.kill();
    // A lock dies with its process.
    let server = folder.serve(&[]);
    assert_eq!(server.client("alice").listed("bob").last, 1);
    server.stop();
}

#[test]
fn a_server_that_nobody_is_connected_to_drains_at_once_and_starts_again_and_again() {
    let folder = Folder::new();
    for round in 1..=5 {
        let server = folder.serve(&[]);
        let mut alice = server.client("alice");
        assert_eq!(alice.say("bob", b"hi").sequence.0, round);
        drop(alice);
        let started = Instant::now();
        server.stop();
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

#[test]
fn unread_counts_and_cursors_outlive_a_kill() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let conversation = (0..9).map(|_| alice.say("bob", b"x").conversation).last().unwrap();
    bob.mark_read(conversation, 4);
    // The receipt is told once it is on the disk.
    assert_eq!(alice.expect(Kind::ReadReceipt).receipt().1, 4);
    server.kill();
    let server = folder.serve(&[]);
    let mut bob = server.login("bob", "tablet");
    assert_eq!(bob.listed("alice").unread, 5);
    // A new device begins where the user had come to.
    let missed: Vec<u64> = bob.missed().iter().map(|message| message.sequence).collect();
    assert_eq!(missed, [5, 6, 7, 8, 9]);
    bob.mark_read(conversation, 9);
    let mut alice = server.client("alice");
    let reference = alice.send(Target::Recipient("bob"), 1, b"y");
    assert_eq!(alice.reply(reference).sent().sequence.0, 10);
    wait_for("bob to have read nine", PATIENCE, || (bob.listed("alice").unread == 1).then_some(()));
    server.stop();
}
