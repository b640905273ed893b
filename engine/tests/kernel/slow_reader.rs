//! A client that does not read.

use crate::support::{Bystanders, Folder};
use std::time::Duration;
use wire::Kind;
use wire::body::Target;

#[test]
fn a_client_that_does_not_read_is_cut_off_and_gets_the_rest_when_it_comes_back() {
    const COUNT: u64 = 300;
    let folder = Folder::new();
    let server = folder.serve(&["--send-queue-bytes-max", "160 KiB"]);
    let bystanders = Bystanders::of(&server);
    let mut slow = server.client("slow");
    slow.limit_receive_buffer();
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

    bystanders.end();

    let mut slow = server.login("slow", "phone");
    slow.limit_receive_buffer();
    // It is busy with something else at first; what it missed waits, and costs the server nothing.
    std::thread::sleep(Duration::from_millis(500));
    let spent = server.cpu_ticks();
    std::thread::sleep(Duration::from_secs(1));
    let spent = server.cpu_ticks() - spent;
    assert!(spent < 50, "{spent} of 100 ticks for a client that does not read");
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
    slow.expect_none(Kind::Deliver, Duration::from_millis(50));
    server.stop();
}
