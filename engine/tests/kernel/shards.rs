//! More shards than one: users live on another one than the kernel gave their connection to, and
//! on yet another one after a restart.

use crate::support::{Client, Folder, Server, authenticate, hello};
use std::collections::BTreeMap;
use wire::body::{SendMessage, Target};
use wire::fixed::SentStatus;
use wire::table::Authenticate;
use wire::{ClientMessageId, Kind, frame};

const THREE: &[&str] = &["--shards", "3"];

fn name(n: usize) -> String {
    format!("user{n:02}")
}

#[test]
fn sixty_users_on_three_shards_hear_everything_that_is_said_to_them() {
    const COUNT: usize = 60;
    let folder = Folder::new();
    let server = folder.serve(THREE);
    let mut users: Vec<Client> = (0..COUNT).map(|n| server.client(&name(n))).collect();
    let names: Vec<String> = (1..COUNT).map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let group = users[0].create_group(1, "everybody", &names);
    let mut references = Vec::new();
    for (from, user) in users.iter_mut().enumerate() {
        for step in [1, 7, 30] {
            let to = name((from + step) % COUNT);
            let text = format!("to {to} from {}", name(from));
            references.push((from, user.send(Target::Recipient(&to), 0, text.as_bytes())));
        }
        let text = format!("to all from {}", name(from));
        let target = Target::Conversation(group);
        references.push((from, user.send(target, 0, text.as_bytes())));
    }
    let mut in_group = BTreeMap::new();
    for (from, reference) in references {
        let sent = users[from].reply(reference).sent();
        if sent.conversation == group {
            in_group.insert(sent.sequence.0, from);
        }
    }
    let numbers: Vec<u64> = in_group.keys().copied().collect();
    assert_eq!(numbers, (1..=COUNT as u64).collect::<Vec<_>>());
    for (n, user) in users.iter_mut().enumerate() {
        let mut group_seen = 0;
        let mut direct_seen = 0;
        for _ in 0..COUNT - 1 + 3 {
            let message = user.message();
            if message.conversation == group {
                assert!(message.sequence > group_seen, "in order");
                group_seen = message.sequence;
                assert_eq!(message.sender, name(in_group[&message.sequence]));
            } else {
                direct_seen += 1;
                assert_eq!(message.text(), format!("to {} from {}", name(n), message.sender));
            }
        }
        assert_eq!(direct_seen, 3);
        user.expect_none(Kind::Deliver, std::time::Duration::ZERO);
    }
    server.stop();
}

#[test]
fn what_is_pipelined_behind_authenticate_is_not_lost_on_the_way_to_another_shard() {
    let folder = Folder::new();
    let server = folder.serve(THREE);
    let mut receiver = server.client("receiver");
    for n in 0..24 {
        let user = name(n);
        let claim = Authenticate { user: Some(&user), ..Default::default() };
        let mut bytes = [hello(), authenticate(&claim)].concat();
        let content = user.repeat(1 + 37 * n);
        for reference in 10..13 {
            let message = SendMessage {
                target: Target::Recipient("receiver"),
                client_message: ClientMessageId(0),
                message_kind: 0,
                content: content.as_bytes(),
            };
            let parts = [&message.head().0[..], b"receiver", content.as_bytes()];
            frame::encode(&mut bytes, Kind::SendMessage, reference, &parts);
        }
        let mut client = Client::connect(server.native);
        // The last frame comes apart, so that its front moves with the connection as well.
        let (front, back) = bytes.split_at(bytes.len() - 20 - n);
        client.write(front);
        if n % 2 == 0 {
            client.expect_live();
        }
        client.write(back);
        for (place, reference) in (10..13).enumerate() {
            assert_eq!(client.reply(reference).sent().sequence.0, place as u64 + 1);
            let message = receiver.message();
            assert_eq!((message.text(), &message.sender), (content.as_str(), &user));
        }
    }
    server.stop();
}

/// Everything that a restart must leave as it was, of one user.
fn remembered(server: &Server, user: &str) -> Vec<String> {
    let mut client = server.device(user, "reader");
    let mut lines = Vec::new();
    for entry in client.conversations() {
        lines.push(format!("{entry:?}"));
        for message in client.whole_history(entry.conversation) {
            lines.push(format!("{message:?}"));
        }
    }
    lines
}

#[test]
fn a_folder_opened_with_another_number_of_shards_holds_what_it_held() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let group;
    {
        let mut users: Vec<Client> = (0..8).map(|n| server.client(&name(n))).collect();
        for (from, user) in users.iter_mut().enumerate() {
            for to in 0..8 {
                let id = (from * 8 + to + 1) as u128;
                let text = format!("{from} to {to}");
                let recipient = name(to);
                let target = Target::Recipient(&recipient);
                let reference = user.send(target, id, text.as_bytes());
                user.reply(reference).sent();
            }
        }
        let members: Vec<String> = (1..6).map(name).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        group = users[0].create_group(1, "some", &members);
        for user in &mut users[..6] {
            user.say_in(group, b"in the group");
        }
        let read = users[3].listed(&name(0)).conversation;
        users[3].mark_read(read, 1);
        users[0].expect(Kind::ReadReceipt);
    }
    let before: Vec<_> = (0..8).map(|n| remembered(&server, &name(n))).collect();
    assert!(before.iter().all(|lines| lines.len() > 20));
    server.stop();
    for (round, shards) in ["3", "2", "5", "1"].into_iter().enumerate() {
        let server = folder.serve(&["--shards", shards]);
        let after: Vec<_> = (0..8).map(|n| remembered(&server, &name(n))).collect();
        assert_eq!(before, after, "with {shards} shards");
        let mut client = server.client(&name(5));
        let recipient = name(2);
        let reference = client.send(Target::Recipient(&recipient), 5 * 8 + 2 + 1, b"5 to 2");
        assert_eq!(client.reply(reference).sent().status, SentStatus::Duplicate);
        // However it ended.
        if round % 2 == 0 { server.kill() } else { server.stop() }
    }
    let server = folder.serve(&["--shards", "2"]);
    let mut writer = server.client(&name(1));
    let mut reader = server.client(&name(4));
    assert_eq!(writer.say_in(group, b"it goes on").sequence.0, 7);
    assert_eq!(reader.message().text(), "it goes on");
    server.stop();
}
