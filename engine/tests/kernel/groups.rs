//! Groups: who is in, who is told, who may.

use crate::support::{Client, Folder, PATIENCE, Received, wait_for};
use std::time::Duration;
use wire::body::Target;
use wire::fixed::{GroupStatus, ReadGroup};
use wire::table::{
    Group, GroupUpdated, MemberChange, MembersChanged, RenameGroup, Role, TableWriter,
};
use wire::{ConversationId, ErrorCode, Kind};

const A_MOMENT: Duration = Duration::from_millis(50);

/// What a change says: what, by whom, to whom.
fn changed(frame: &Received) -> (MemberChange, String, Vec<String>) {
    assert_eq!(frame.kind, Kind::MembersChanged, "{frame:?}");
    let changed = MembersChanged::decode(&frame.body).unwrap();
    let users = changed.users.iter().map(str::to_owned).collect();
    (changed.change, changed.by.to_owned(), users)
}

fn rename(client: &mut Client, group: ConversationId, name: &str) -> Received {
    let mut tables = TableWriter::default();
    let body = tables.rename_group(&RenameGroup { group, name });
    client.ask(Kind::RenameGroup, &[body])
}

/// The members, sorted, with a star on admins.
fn members(client: &mut Client, group: ConversationId) -> Vec<String> {
    let answer = client.ask(Kind::ReadGroup, &[&ReadGroup { group, from: 0 }.head().0]);
    let group = Group::decode(&answer.body).unwrap();
    let star = |role| if role == Role::Admin { "*" } else { "" };
    let names = group.members.iter().map(|member| format!("{}{}", member.user, star(member.role)));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_group_is_made_once_however_often_it_is_asked_for() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let group = alice.create_group(5, "family", &["bob", "carol"]);
    assert!(group.is_group());
    let added = ["bob".to_owned(), "carol".to_owned()].to_vec();
    let told = changed(&bob.expect(Kind::MembersChanged));
    assert_eq!(told, (MemberChange::Add, "alice".to_owned(), added));
    assert_eq!(alice.create_group(5, "family", &["bob", "carol"]), group);
    assert_ne!(alice.create_group(6, "family", &["bob"]), group);
    bob.expect(Kind::MembersChanged);
    bob.expect_none(Kind::MembersChanged, A_MOMENT);
    assert_eq!(alice.conversations().len(), 2);
    server.kill();

    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    assert_eq!(alice.create_group(5, "family", &["bob", "carol"]), group);
    assert_eq!(members(&mut alice, group), ["alice*", "bob", "carol"]);
    assert_eq!(alice.conversations().len(), 2);
    server.stop();
}

#[test]
fn who_is_added_reads_from_there_on_and_who_is_removed_gets_nothing_more() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let mut carol = server.client("carol");
    let group = alice.create_group(1, "family", &["bob"]);
    alice.say_in(group, b"before carol");
    let answer = alice.change(group, MemberChange::Add, &["carol"]);
    assert_eq!(changed(&answer).2, ["carol"]);
    carol.expect(Kind::MembersChanged);
    assert_eq!(alice.say_in(group, b"with carol").sequence.0, 2);
    assert_eq!(carol.message().text(), "with carol");
    let seen: Vec<u64> = carol.whole_history(group).iter().map(|m| m.sequence).collect();
    assert_eq!(seen, [2]);
    assert_eq!(carol.listed("family").unread, 1);

    let answer = alice.change(group, MemberChange::Remove, &["carol"]);
    assert_eq!(changed(&answer).0, MemberChange::Remove);
    let told = changed(&carol.expect(Kind::MembersChanged));
    assert_eq!(told, (MemberChange::Remove, "alice".to_owned(), vec!["carol".to_owned()]));
    assert_eq!(alice.say_in(group, b"without carol").sequence.0, 3);
    carol.expect_none(Kind::Deliver, A_MOMENT);
    assert_eq!(carol.history(group, 0).error().0, ErrorCode::NotAMember);
    let reference = carol.send(Target::Conversation(group), 0, b"but");
    assert_eq!(carol.reply(reference).error().0, ErrorCode::NotAMember);
    assert_eq!(carol.conversations(), []);
    drop(carol);
    let mut carol = server.login("carol", "phone");
    assert_eq!(carol.missed(), []);
    let texts: Vec<String> =
        (0..3).map(|_| bob.message()).map(|message| message.text().to_owned()).collect();
    assert_eq!(texts, ["before carol", "with carol", "without carol"]);
    server.stop();
}

#[test]
fn only_admins_change_a_group_and_it_is_never_without_one() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let mut carol = server.client("carol");
    let group = alice.create_group(1, "family", &["bob", "carol"]);
    let refused = bob.change(group, MemberChange::Remove, &["alice"]).error().0;
    assert_eq!(refused, ErrorCode::Forbidden);
    assert_eq!(rename(&mut bob, group, "bobs").error().0, ErrorCode::Forbidden);
    changed(&alice.change(group, MemberChange::Promote, &["bob"]));
    let answer = rename(&mut bob, group, "bobs");
    assert_eq!(GroupUpdated::decode(&answer.body).unwrap().name, "bobs");
    let told = carol.expect(Kind::GroupUpdated);
    let told = GroupUpdated::decode(&told.body).unwrap();
    assert_eq!((told.name, told.by, told.group), ("bobs", "bob", group));
    assert_eq!(carol.listed("bobs").conversation, group);
    changed(&bob.change(group, MemberChange::Demote, &["alice"]));
    assert_eq!(members(&mut carol, group), ["alice", "bob*", "carol"]);
    let refused = bob.change(group, MemberChange::Demote, &["bob"]).error().0;
    assert_eq!(refused, ErrorCode::Conflict);

    changed(&bob.change(group, MemberChange::Leave, &[]));
    // The oldest member inherits it.
    assert_eq!(members(&mut carol, group), ["alice*", "carol"]);
    assert_eq!(bob.history(group, 0).error().0, ErrorCode::NotAMember);
    alice.say_in(group, b"bob is gone");
    bob.expect_none(Kind::Deliver, A_MOMENT);
    for client in [&mut alice, &mut carol] {
        changed(&client.change(group, MemberChange::Leave, &[]));
    }
    let code = alice.history(group, 0).error().0;
    assert!(matches!(code, ErrorCode::NotAMember | ErrorCode::Gone), "{code:?}");
    let direct = alice.say("bob", b"hi").conversation;
    let refused = alice.change(direct, MemberChange::Add, &["carol"]).error().0;
    assert_eq!(refused, ErrorCode::Unsupported);
    server.stop();
}

#[test]
fn receipts_in_a_small_group_go_to_everybody() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let (mut alice, mut bob) = (server.client("alice"), server.client("bob"));
    let mut carol = server.client("carol");
    let group = alice.create_group(1, "family", &["bob", "carol"]);
    alice.say_in(group, b"hi");
    bob.message();
    bob.mark_read(group, 1);
    for client in [&mut alice, &mut carol] {
        assert_eq!(client.expect(Kind::ReadReceipt).receipt(), ("bob".to_owned(), 1));
    }
    assert_eq!((bob.listed("family").unread, carol.listed("family").unread), (0, 1));
    server.stop();
}

#[test]
fn a_group_of_a_thousand_counts_instead_of_telling_each() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let names: Vec<String> = (1..1000).map(|n| format!("user{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut alice = server.client("alice");
    let mut few: Vec<Client> = names[..5].iter().map(|user| server.client(user)).collect();
    let group = alice.create_group(1, "everybody", &names);
    let refused = alice.change(group, MemberChange::Add, &["one.too.many"]).error().0;
    assert_eq!(refused, ErrorCode::TooLarge);
    for n in 1..=20 {
        assert_eq!(alice.say_in(group, b"all").sequence.0, n);
    }
    for client in &mut few {
        for n in 1..=20 {
            assert_eq!(client.message().sequence, n);
        }
    }
    for client in &mut few[..3] {
        client.mark_delivered(group, 20);
    }
    for client in &mut few[..2] {
        client.mark_read(group, 20);
    }
    wait_for("counts", PATIENCE, || {
        let frame = alice.expect(Kind::GroupStatus);
        let status = GroupStatus::decode(&frame.body).unwrap();
        assert_eq!((status.conversation, status.sequence.0, status.total), (group, 20, 999));
        assert_eq!(status.pending, status.total - status.delivered);
        ((status.delivered, status.read) == (3, 2)).then_some(())
    });
    alice.expect_none(Kind::ReadReceipt, A_MOMENT);
    few[4].expect_none(Kind::GroupStatus, A_MOMENT);
    // Somebody who was away reads it all.
    let mut late = server.login("user999", "phone");
    assert_eq!(late.missed().len(), 20);
    let ask = ReadGroup { group, from: 999 };
    let answer = late.ask(Kind::ReadGroup, &[&ask.head().0]);
    let rest = Group::decode(&answer.body).unwrap();
    assert_eq!((rest.members_count, rest.members.len()), (1000, 1));
    server.stop();
}
