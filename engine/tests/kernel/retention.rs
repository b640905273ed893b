//! Old segments go, and who asks for what was in them is told so.

use crate::support::{Client, Folder, PATIENCE};
use wire::body::Target;
use wire::fixed::Gap;
use wire::{ConversationId, Kind};

const COUNT: u64 = 1500;
const FLAGS: &[&str] = &["--retention-bytes", "16 MiB", "--snapshot-every-bytes", "16 MiB"];

/// Reads back until there is no more: the oldest message kept.
fn oldest_kept(client: &mut Client, conversation: ConversationId) -> u64 {
    let mut before = 0;
    loop {
        let answer = client.history(conversation, before);
        if answer.kind == Kind::Gap {
            let gap = Gap::decode(&answer.body).unwrap();
            assert_eq!((gap.conversation, gap.from.0), (conversation, 1));
            let page = client.reply(answer.reference);
            assert_eq!(page.kind, Kind::HistoryPage);
            let (messages, has_more) = page.page();
            assert!(!has_more);
            let oldest = messages.last().map_or(before, |message| message.sequence);
            assert_eq!(oldest, gap.to.0 + 1, "the gap ends where the messages begin");
            return oldest;
        }
        let (messages, has_more) = answer.page();
        let top = if before == 0 { COUNT + 1 } else { before };
        for (n, message) in messages.iter().enumerate() {
            assert_eq!(message.sequence, top - 1 - n as u64, "no silent hole");
        }
        before = messages.last().unwrap().sequence;
        assert!(has_more, "the beginning was to be gone, and {before} is there");
    }
}

#[test]
fn what_retention_removed_is_a_gap_for_history_and_for_who_comes_late() {
    let folder = Folder::new();
    let server = folder.serve(FLAGS);
    let mut alice = server.client("alice");
    let content = vec![b'x'; 60 * 1024];
    let mut conversation = ConversationId(0);
    let mut flying = std::collections::VecDeque::new();
    for n in 1..=COUNT {
        flying.push_back(alice.send(Target::Recipient("bob"), u128::from(n), &content));
        if flying.len() == 16 || n == COUNT {
            while flying.len() > 8 || (n == COUNT && !flying.is_empty()) {
                let sent = alice.reply(flying.pop_front().unwrap()).sent();
                conversation = sent.conversation;
            }
        }
    }
    let oldest = oldest_kept(&mut alice, conversation);
    // 90 MB were written, 16 to 64 or so are kept.
    assert!((300..=1250).contains(&oldest), "{oldest}");
    server.kill();

    let server = folder.serve(FLAGS);
    let mut alice = server.client("alice");
    let kept = oldest_kept(&mut alice, conversation);
    assert!(kept >= oldest);
    let mut bob = server.login("bob", "phone");
    let gap = bob.expect(Kind::Gap);
    let gap = Gap::decode(&gap.body).unwrap();
    assert_eq!((gap.from.0, gap.to.0 + 1), (1, kept));
    let mut next = kept;
    while next <= COUNT {
        let batch = bob.next("a batch", PATIENCE, |frame| frame.kind == Kind::SyncBatch).unwrap();
        for message in batch.page().0 {
            assert_eq!(message.sequence, next);
            next += 1;
        }
    }
    bob.expect(Kind::SyncDone);
    // A retry of what is gone is recognised all the same.
    let reference = alice.send(Target::Recipient("bob"), 1, &content);
    assert_eq!(alice.reply(reference).sent().sequence.0, 1);
    assert_eq!(alice.say("bob", b"on").sequence.0, COUNT + 1);
    assert_eq!(bob.message().text(), "on");
    server.stop();
}
