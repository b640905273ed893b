//! Two people, their devices, and what each of them sees.

use crate::support::{Folder, PATIENCE, wait_for};
use std::time::Duration;
use wire::body::Target;
use wire::fixed::{Durability, SentStatus};
use wire::table::Authenticate;
use wire::{Kind, Sequence};

const A_MOMENT: Duration = Duration::from_millis(300);

#[test]
fn a_message_is_sent_delivered_and_read_on_every_device() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut phone = server.device("alice", "phone");
    let mut laptop = server.device("alice", "laptop");
    let mut bob = server.device("bob", "phone");
    let mut bobs_tablet = server.device("bob", "tablet");

    let sent = phone.say("bob", b"hello");
    assert_eq!((sent.sequence, sent.status), (Sequence(1), SentStatus::Sent));
    assert_eq!(sent.durability, Durability::LocalFsync);
    for device in [&mut laptop, &mut bob, &mut bobs_tablet] {
        let message = device.message();
        assert_eq!((message.text(), message.sender.as_str()), ("hello", "alice"));
        assert_eq!((message.id, message.sequence), (sent.message, 1));
    }
    phone.expect_none(Kind::Deliver, Duration::from_millis(20));

    let conversation = sent.conversation;
    assert_eq!((bob.listed("alice").unread, phone.listed("bob").unread), (1, 0));
    bob.mark_delivered(conversation, 1);
    for device in [&mut phone, &mut laptop] {
        assert_eq!(device.expect(Kind::DeliveryReceipt).receipt(), ("bob".to_owned(), 1));
    }
    bobs_tablet.mark_read(conversation, 1);
    for device in [&mut phone, &mut laptop] {
        assert_eq!(device.expect(Kind::ReadReceipt).receipt(), ("bob".to_owned(), 1));
    }
    // What was read on one device is read on the other.
    assert_eq!(bob.expect(Kind::UnreadUpdate).unread(), (conversation, 0));
    assert_eq!((bob.listed("alice").unread, bobs_tablet.listed("alice").unread), (0, 0));
    server.stop();
}

#[test]
fn a_read_receipt_never_moves_backwards_and_never_beyond_the_newest() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let conversation = (1..=5).map(|_| alice.say("bob", b"x").conversation).last().unwrap();
    bob.mark_read(conversation, 3);
    assert_eq!(alice.expect(Kind::ReadReceipt).receipt().1, 3);
    assert_eq!(bob.listed("alice").unread, 2);
    bob.mark_read(conversation, 2);
    alice.expect_none(Kind::ReadReceipt, A_MOMENT);
    bob.mark_read(conversation, 1000);
    assert_eq!(alice.expect(Kind::ReadReceipt).receipt().1, 5);
    assert_eq!(alice.say("bob", b"x").sequence.0, 6);
    alice.expect_none(Kind::ReadReceipt, A_MOMENT);
    assert_eq!(bob.listed("alice").unread, 1);
    server.stop();
}

#[test]
fn with_auto_delivered_what_is_handed_to_the_socket_is_delivered() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    alice.say("bob", b"before");
    let claim = Authenticate { user: Some("bob"), auto_delivered: true, ..Default::default() };
    let mut bob = server.login_with(&claim);
    assert_eq!(bob.missed().len(), 1);
    alice.say("bob", b"after");
    let seen = |receipt: (String, u64)| {
        assert_eq!(receipt.0, "bob");
        receipt.1
    };
    let mut up_to = seen(alice.expect(Kind::DeliveryReceipt).receipt());
    while up_to < 2 {
        up_to = seen(alice.expect(Kind::DeliveryReceipt).receipt());
    }
    // It needs to be brought to this device no more.
    std::thread::sleep(Duration::from_millis(20));
    drop(bob);
    let mut bob = server.login_with(&claim);
    assert_eq!(bob.missed(), []);
    server.stop();
}

#[test]
fn each_device_gets_what_it_missed_whatever_the_others_had() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    let mut carol = server.client("carol");
    let direct = alice.say("bob", b"a1").conversation;
    let carols = carol.say("bob", b"c1").conversation;
    for device in ["phone", "tablet"] {
        let mut bob = server.device("bob", device);
        bob.mark_delivered(direct, 1);
        bob.mark_delivered(carols, 1);
        bob.expect_alive();
    }
    for n in 2..=450 {
        alice.send(Target::Recipient("bob"), 0, format!("a{n}").as_bytes());
    }
    carol.say("bob", b"c2");
    let last = alice.say("bob", b"a451");
    assert_eq!(last.sequence.0, 451);
    for device in ["phone", "tablet"] {
        let mut bob = server.login("bob", device);
        let missed = bob.missed();
        let of = |sender| missed.iter().filter(move |message| message.sender == sender);
        let numbers: Vec<u64> = of("alice").map(|message| message.sequence).collect();
        assert_eq!(numbers, (2..=451).collect::<Vec<_>>(), "{device}");
        assert!(of("alice").all(|message| message.text() == format!("a{}", message.sequence)));
        assert_eq!(of("carol").count(), 1);
        bob.mark_delivered(last.conversation, 451);
        bob.expect_alive();
        drop(bob);
        // What was not marked comes again, and nothing else.
        let mut again = server.login("bob", device);
        let missed = again.missed();
        assert_eq!(missed.iter().map(|message| message.text()).collect::<Vec<_>>(), ["c2"]);
        again.mark_delivered(carols, 2);
        again.expect_alive();
    }
    wait_for("the receipt", PATIENCE, || {
        let receipt = alice.expect(Kind::DeliveryReceipt).receipt();
        (receipt == ("bob".to_owned(), 451)).then_some(())
    });
    server.stop();
}

#[test]
fn a_client_that_knows_better_names_its_cursors() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let conversation = (0..10).map(|_| alice.say("bob", b"x").conversation).last().unwrap();
    for from in [0, 4, 9, 10, 11] {
        let reference = bob.ask_sync(&[(conversation, Sequence(from))]);
        let done = bob.reply(reference);
        assert_eq!(done.kind, Kind::SyncDone);
        let mut numbers = Vec::new();
        while let Some(batch) =
            bob.next("a batch", Duration::ZERO, |frame| frame.kind == Kind::SyncBatch)
        {
            numbers.extend(batch.page().0.iter().map(|message| message.sequence));
        }
        assert_eq!(numbers, (from + 1..=10).collect::<Vec<_>>());
    }
    server.stop();
}

#[test]
fn a_retry_across_a_restart_names_the_first_message_and_is_delivered_once() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    let mut bob = server.client("bob");
    let reference = alice.send(Target::Recipient("bob"), 77, b"once");
    let first = alice.reply(reference).sent();
    let reference = alice.send(Target::Recipient("bob"), 77, b"once");
    let again = alice.reply(reference).sent();
    assert_eq!((first.status, again.status), (SentStatus::Sent, SentStatus::Duplicate));
    assert_eq!(bob.message().text(), "once");
    bob.expect_none(Kind::Deliver, Duration::from_millis(50));
    bob.mark_delivered(first.conversation, 1);
    alice.expect(Kind::DeliveryReceipt);
    // Devices' cursors are written once a second.
    std::thread::sleep(Duration::from_millis(1300));
    server.kill();

    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    let mut bob = server.login("bob", "phone");
    assert_eq!(bob.missed(), []);
    for target in [Target::Recipient("bob"), Target::Conversation(first.conversation)] {
        let reference = alice.send(target, 77, b"once");
        let again = alice.reply(reference).sent();
        assert_eq!(again.status, SentStatus::Duplicate);
        assert_eq!((again.message, again.sequence), (first.message, first.sequence));
        assert_eq!(again.client_message.0, 77);
    }
    // Another user's id is another id.
    let reference = bob.send(Target::Recipient("alice"), 77, b"mine");
    assert_eq!(bob.reply(reference).sent().sequence.0, 2);
    bob.expect_none(Kind::Deliver, Duration::from_millis(50));
    let texts: Vec<_> = alice.whole_history(first.conversation);
    assert_eq!(texts.iter().map(|message| message.text()).collect::<Vec<_>>(), ["once", "mine"]);
    server.stop();
}

#[test]
fn history_goes_back_to_the_first_message_and_numbers_have_no_holes() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let mut conversation = None;
    for n in 0..300 {
        alice.send(Target::Recipient("bob"), 0, format!("alice {n}").as_bytes());
        bob.send(Target::Recipient("alice"), 0, format!("bob {n}").as_bytes());
        if n % 50 == 0 {
            conversation = Some(alice.say("bob", b"alice").conversation);
        }
    }
    let conversation = conversation.unwrap();
    alice.say_in(conversation, b"alice");
    bob.say_in(conversation, b"bob");
    let history = alice.whole_history(conversation);
    assert_eq!(history, bob.whole_history(conversation));
    let numbers: Vec<u64> = history.iter().map(|message| message.sequence).collect();
    assert_eq!(numbers, (1..=608).collect::<Vec<_>>());
    assert!(history.is_sorted_by_key(|message| message.id));
    for sender in ["alice", "bob"] {
        let own = history.iter().filter(|message| message.sender == sender);
        let counts = own.filter_map(|message| message.text().split_once(' ')?.1.parse().ok());
        assert_eq!(counts.collect::<Vec<u32>>(), (0..300).collect::<Vec<_>>(), "{sender}");
    }
    // A page before the first message is empty, and one beyond the newest is the newest.
    assert_eq!(alice.history(conversation, 1).page(), (vec![], false));
    let newest = alice.history(conversation, u64::MAX).page();
    assert_eq!((newest.0[0].sequence, newest.0.len(), newest.1), (608, 200, true));
    server.stop();
}

#[test]
fn pages_of_long_messages_are_shorter_and_miss_nothing() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    let mut conversation = None;
    for n in 0..40_u8 {
        let content = vec![n; 1 + usize::from(n) * 1600];
        conversation = Some(alice.say("bob", &content).conversation);
    }
    let history = alice.whole_history(conversation.unwrap());
    assert_eq!(history.len(), 40);
    let mut bob = server.login("bob", "phone");
    assert_eq!(bob.missed(), history);
    for (n, message) in history.iter().enumerate() {
        assert_eq!(message.content, vec![u8::try_from(n).unwrap(); 1 + n * 1600]);
    }
    server.stop();
}

#[test]
fn a_device_that_connects_again_takes_its_own_place() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut first = server.device("bob", "phone");
    let mut other = server.device("bob", "tablet");
    let mut second = server.device("bob", "phone");
    assert_eq!(first.end().1, Some(wire::CloseReason::Replaced));
    server.client("alice").say("bob", b"hi");
    assert_eq!((second.message().text(), other.message().text()), ("hi", "hi"));
    server.stop();
}

#[test]
fn many_sends_in_flight_are_answered_in_order() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let references: Vec<u64> = (0..500_u32)
        .map(|n| alice.send(Target::Recipient("bob"), u128::from(n) + 1, &n.to_le_bytes()))
        .collect();
    for (n, reference) in references.iter().enumerate() {
        let answer = alice.next("answers in order", PATIENCE, |frame| frame.reference != 0);
        let answer = answer.unwrap();
        assert_eq!((answer.reference, answer.sent().sequence.0), (*reference, n as u64 + 1));
    }
    for n in 0..500_u32 {
        assert_eq!(bob.message().content, n.to_le_bytes());
    }
    server.stop();
}
