//! A client that does not read.

use crate::support::{Bystanders, Folder};
use std::time::Duration;
use wire::Kind;
use wire::body::Target;

#[test]
fn a_client_that_does_not_read_is_cut_off_and_gets_the_rest_when_it_comes_back() {
    const COUNT: u64 = 600;
    let folder = Folder::new();
    let server = folder.serve(&["--send-queue-bytes-max", "160 KiB"]);
    let bystanders = Bystanders::of(&server);
    let mut slow = server.client("slow");
    let mut quick = server.client("quick");
    let mut alice = server.client("alice");
    let group = alice.create_group(1, "both", &["slow", "quick"]);
    slow.expect(Kind::MembersChanged);
    // More than a queue and the kernel's buffers on both ends hold together.
    let content = vec![b'x'; 60 * 1024];
    for n in 1..=COUNT {
        let reference = alice.send(Target::Conversation(group), u128::from(n), &content);
        assert_eq!(alice.reply(reference).sent().sequence.0, n);
        assert_eq!(quick.message().sequence, n);
        if n % 100 == 0 {
            bystanders.expect_talking();
        }
    }
    // It sees the beginning, then the end of the connection.
    slow.end();
    let had: Vec<u64> = slow.drain_messages().iter().map(|message| message.sequence).collect();
    assert_eq!(had, (1..=had.len() as u64).collect::<Vec<_>>());
    assert!((had.len() as u64) < COUNT, "it was never cut off");
    let last = had.last().copied().unwrap_or_default();

    let mut slow = server.login("slow", "phone");
    let mut next = 1;
    while next <= COUNT {
        let batch = slow.expect(Kind::SyncBatch);
        for message in batch.page().0 {
            assert_eq!((message.sequence, message.content.len()), (next, content.len()));
            next += 1;
        }
        slow.mark_delivered(group, next - 1);
    }
    slow.expect(Kind::SyncDone);
    assert!(last < COUNT);
    slow.expect_none(Kind::Deliver, Duration::from_millis(50));
    bystanders.expect_talking();
    bystanders.end();
    server.stop();
}
