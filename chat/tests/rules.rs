//! What chat means, a rule a test. The scripts are sentences; see `world`.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use chat::{Audience, Settings};
use wire::Sequence;
use world::{IDS, World, check, messages, settings};

#[test]
fn messages_of_a_conversation_are_numbered_from_one() {
    check(
        "alice -> bob: hi; bob -> alice: hello; alice -> carol: hi; alice -> bob: how are you",
        "sent 1; sent 2; sent 1; sent 3",
    );
}

#[test]
fn a_retry_appears_once() {
    check(
        "alice -> bob: hi #7; alice -> bob: hi #7; alice -> bob: more #8; alice -> bob: hi #7",
        "sent 1; duplicate of 1; sent 2; duplicate of 1",
    );
}

#[test]
fn a_retry_is_the_same_only_for_one_user_in_one_conversation() {
    check(
        "alice -> bob: hi #7; bob -> alice: hi #7; alice -> carol: hi #7; alice -> bob: hi #7",
        "sent 1; sent 2; sent 1; duplicate of 1",
    );
}

#[test]
fn a_message_without_a_name_cannot_be_retried() {
    check("alice -> bob: hi #0; alice -> bob: hi #0", "sent 1; sent 2");
}

#[test]
fn a_retry_is_recognised_for_a_day() {
    check(
        "alice -> bob: hi #7; wait 23h; alice -> bob: hi #7; wait 2h; alice -> bob: hi #7; \
         alice -> bob: hi #7",
        "sent 1; waited; duplicate of 1; waited; sent 2; duplicate of 2",
    );
}

#[test]
fn when_memory_for_retries_is_full_the_oldest_goes() {
    let mut world = World::new(Settings { dedup_entries_max: 4, ..settings() });
    for number in 1..=5 {
        world.run(&format!("alice -> bob: hi #{number}"));
    }
    assert_eq!(world.owner.dedup_entries_count(), 4);
    assert_eq!(
        world.run("alice -> bob: hi #2; alice -> bob: hi #1; alice -> bob: hi #2"),
        "duplicate of 2; sent 6; sent 7"
    );
    assert!(world.owner.window_held_ms(chat::WallMillis(world.wall)) < 100);
}

#[test]
fn notes_to_oneself_are_a_conversation_of_one() {
    check(
        "alice -> alice: milk; alice -> alice: eggs; alice lists alice; bob -> alice: hi; \
         alice lists bob",
        "sent 1; sent 2; alice last 2 has 0 read 0 unread 0; sent 1; \
         bob last 1 has 0 read 0 unread 1",
    );
    let mut world = World::new(settings());
    world.run("alice -> alice: milk");
    let alice = IDS.user("alice");
    let audience = world.owner.audience(IDS.direct(alice, alice));
    assert_eq!(audience, Some(Audience::Direct([alice, alice])));
}

#[test]
fn a_read_receipt_never_moves_backwards() {
    check(
        "alice -> bob: 1; alice -> bob: 2; alice -> bob: 3; bob reads alice 2; bob reads alice 1; \
         flush; bob reads alice 2; bob has alice 1; bob lists alice; flush",
        "sent 1; sent 2; sent 3; moved; nothing; bob has 2 read 2 to both; nothing; nothing; \
         alice last 3 has 2 read 2 unread 1; nothing",
    );
}

#[test]
fn reading_implies_having() {
    check(
        "alice -> bob: 1; alice -> bob: 2; bob has alice 1; bob reads alice 2; flush",
        "sent 1; sent 2; moved; moved; bob has 2 read 2 to both",
    );
}

#[test]
fn a_receipt_beyond_the_newest_message_is_one_for_the_newest() {
    check(
        "alice -> bob: 1; bob reads alice 99; bob lists alice; alice -> bob: 2; bob lists alice; \
         bob has alice 99; alice -> bob: 3; bob lists alice",
        "sent 1; moved; alice last 1 has 1 read 1 unread 0; sent 2; \
         alice last 2 has 1 read 1 unread 1; moved; sent 3; alice last 3 has 2 read 1 unread 2",
    );
}

#[test]
fn receipts_coalesce_for_a_while() {
    check(
        "alice -> bob: 1; alice -> bob: 2; bob has alice 1; flush; bob has alice 2; flush; \
         bob reads alice 2; wait 1h; flush; flush",
        "sent 1; sent 2; moved; bob has 1 to both; moved; nothing; moved; waited; \
         bob has 2 read 2 to both; nothing",
    );
}

#[test]
fn receipts_that_the_log_does_not_take_come_again() {
    let mut world = World::new(settings());
    world.run("alice -> bob: 1; bob reads alice 1");
    let now = chat::Millis(world.wall);
    assert_eq!(world.owner.flush_receipts(now, usize::MAX, |_| false), 0);
    assert_eq!(world.owner.receipts_waiting_count(), 1);
    assert_eq!(
        world.run("flush; bob lists alice"),
        "bob has 1 read 1 to both; alice last 1 has 1 read 1 unread 0"
    );
}

#[test]
fn receipts_beyond_their_bound_are_refused() {
    let mut world = World::new(Settings { receipts_pending_max: 1, ..settings() });
    assert_eq!(
        world.run("a -> b: 1; c -> b: 1; b reads a 1; b reads c 1; b has a 1; flush"),
        "sent 1; sent 1; moved; busy; nothing; b has 1 read 1 to both"
    );
}

#[test]
fn nobody_sees_or_acknowledges_what_is_not_durable() {
    check(
        "alice -> bob: 1; hold; alice -> bob: 2; bob sees alice; bob lists alice; \
         bob reads alice 2; flush; release; bob sees alice; bob reads alice 2",
        "sent 1; held; sent 2; 1..1; alice last 1 has 0 read 0 unread 1; moved; \
         bob has 1 read 1 to both; released; 1..2; moved",
    );
}

#[test]
fn who_writes_has_read_what_stands_above() {
    check(
        "alice -> bob: 1; alice -> bob: 2; bob -> alice: 3; bob lists alice; alice lists bob",
        "sent 1; sent 2; sent 3; alice last 3 has 0 read 0 unread 0; \
         bob last 3 has 0 read 0 unread 1",
    );
}

#[test]
fn a_group_begins_with_its_maker_as_admin() {
    check(
        "alice creates team with bob carol bob alice; bob -> team: hi; alice lists team; \
         carol lists team",
        "alice* bob carol; sent 1; team last 1 has 0 read 0 unread 1; \
         team last 1 has 0 read 0 unread 1",
    );
}

#[test]
fn a_group_of_only_oneself_is_refused() {
    check("alice creates team with alice", "bad_request");
    check("alice creates team with", "bad_request");
}

#[test]
fn asking_for_a_group_twice_gives_the_same_group() {
    check(
        "alice creates team with bob; alice adds carol in team; alice creates team with bob; \
         who team",
        "alice* bob; alice* bob carol; exists; alice* bob carol",
    );
}

#[test]
fn only_admins_change_a_group() {
    check(
        "alice creates team with bob; bob adds carol in team; bob removes alice in team; \
         bob promotes bob in team; bob renames team to crew; alice promotes bob in team; \
         bob adds carol in team; bob renames team to crew; alice lists team",
        "alice* bob; forbidden; forbidden; forbidden; forbidden; alice* bob*; \
         alice* bob* carol; called crew; crew last 0 has 0 read 0 unread 0",
    );
}

#[test]
fn strangers_may_nothing() {
    check(
        "alice creates team with bob; eve -> team: hi; eve adds eve in team; eve leaves team; \
         eve sees team; eve lists team; eve reads team 1; alice -> bob: hi; \
         eve renames bob to x; eve reads bob 1",
        "alice* bob; not_a_member; not_a_member; not_a_member; not_a_member; not_a_member; \
         not_a_member; sent 1; not_found; not_found",
    );
}

#[test]
fn a_conversation_of_two_has_no_members_to_change() {
    check(
        "alice -> bob: hi; alice adds alice in bob; alice renames bob to x; alice leaves bob",
        "sent 1; unsupported; unsupported; unsupported",
    );
}

#[test]
fn what_is_so_already_is_nothing() {
    check(
        "alice creates team with bob; alice adds bob in team; alice removes carol in team; \
         alice promotes alice in team; alice demotes bob in team; alice renames team to team; \
         alice adds bob carol carol in team",
        "alice* bob; nothing; nothing; nothing; nothing; nothing; alice* bob carol",
    );
}

#[test]
fn a_change_happens_to_all_it_names_or_to_none() {
    check(
        "alice creates team with bob; alice promotes bob carol in team; who team",
        "alice* bob; not_a_member; alice* bob",
    );
    let mut world = World::new(Settings { group_members_max: 3, ..settings() });
    assert_eq!(
        world.run(
            "alice creates team with bob; alice adds carol dave in team; who team; \
             alice adds bob carol in team; alice adds dave in team; \
             alice creates crew with b c d; alice creates crew with b c c alice"
        ),
        "alice* bob; too_large; alice* bob; alice* bob carol; too_large; too_large; alice* b c"
    );
}

#[test]
fn the_last_admins_leaving_promotes_who_was_there_longest() {
    check(
        "alice creates team with zoe; alice adds bob in team; alice leaves team; zoe leaves team; \
         bob -> team: alone",
        "alice* zoe; alice* bob zoe; bob zoe*; bob*; sent 1",
    );
    check(
        "alice creates team with bob; alice promotes bob in team; alice leaves team",
        "alice* bob; alice* bob*; bob*",
    );
    check(
        "alice creates team with bob carol; alice removes alice bob in team; carol leaves team",
        "alice* bob carol; carol*; nobody",
    );
}

#[test]
fn the_last_admin_is_not_demoted() {
    check(
        "alice creates team with bob; alice demotes alice in team; alice promotes bob in team; \
         alice demotes alice bob in team; bob demotes alice in team",
        "alice* bob; conflict; alice* bob*; conflict; alice bob*",
    );
}

#[test]
fn an_empty_group_has_ended_for_good() {
    check(
        "alice creates team with bob; bob leaves team; alice -> team: bye; alice leaves team; \
         alice -> team: hi; alice creates team with bob; alice sees team",
        "alice* bob; alice*; sent 1; nobody; gone; gone; gone",
    );
}

#[test]
fn newcomers_see_only_from_their_joining_on() {
    check(
        "alice creates team with bob; alice -> team: 1; alice -> team: 2; \
         alice adds carol in team; carol sees team; carol lists team; bob -> team: 3; \
         carol sees team; carol lists team; \
         bob sees team; bob lists team",
        "alice* bob; sent 1; sent 2; alice* bob carol; 3..2; team last 2 has 0 read 0 unread 0; \
         sent 3; 3..3; team last 3 has 0 read 0 unread 1; 1..3; team last 3 has 0 read 0 unread 0",
    );
}

#[test]
fn who_was_removed_sees_nothing_and_on_return_only_what_is_new() {
    check(
        "alice creates team with bob carol; bob -> team: 1; bob reads team 1; \
         alice removes bob in team; bob sees team; bob lists team; bob -> team: 2; \
         bob reads team 1; flush; alice -> team: 2; alice adds bob in team; bob sees team; \
         bob lists team; alice -> team: 3; bob sees team; flush",
        "alice* bob carol; sent 1; moved; alice* carol; not_a_member; not_a_member; not_a_member; \
         not_a_member; nothing; sent 2; alice* bob carol; 3..2; \
         team last 2 has 0 read 0 unread 0; sent 3; 3..3; nothing",
    );
}

#[test]
fn receipts_of_before_a_removal_are_not_those_of_after_the_return() {
    check(
        "alice creates team with bob carol; alice -> team: 1; bob reads team 1; \
         alice removes bob in team; alice adds bob in team; flush; bob lists team",
        "alice* bob carol; sent 1; moved; alice* carol; alice* bob carol; nothing; \
         team last 1 has 0 read 0 unread 0",
    );
}

#[test]
fn small_groups_tell_each_receipt_to_all() {
    check(
        "alice creates team with bob carol; alice -> team: 1; bob reads team 1; carol has team 1; \
         flush",
        "alice* bob carol; sent 1; moved; moved; bob has 1 read 1 to all, carol has 1 to all",
    );
}

#[test]
fn large_groups_tell_counts_to_the_sender_of_the_newest_once_a_round() {
    let mut world = World::new(Settings { receipts_group_max: 3, ..settings() });
    assert_eq!(
        world.run(
            "alice creates team with bob carol dave; bob -> team: 1; alice reads team 1; \
             carol has team 1; bob reads team 1; flush; wait 1h; dave reads team 1; \
             dave reads team 1; flush; wait 1h; flush; carol -> team: 2; dave has team 2; \
             alice reads team 1; wait 1h; flush"
        ),
        "alice* bob carol dave; sent 1; moved; moved; moved; \
         alice has 1 read 1, carol has 1, bob has 1 read 1 to bob: 2 have, 1 read of 3; waited; \
         moved; nothing; dave has 1 read 1 to bob: 3 have, 2 read of 3; waited; nothing; sent 2; \
         moved; nothing; waited; dave has 2 to carol: 1 have, 0 read of 3"
    );
}

#[test]
fn counts_follow_who_leaves_and_newcomers_are_not_asked_for_old_messages() {
    let mut world = World::new(Settings { receipts_group_max: 2, ..settings() });
    assert_eq!(
        world.run(
            "alice creates team with bob carol dave; alice -> team: 1; bob reads team 1; flush; \
             alice adds eve in team; alice removes bob in team; eve reads team 1; \
             carol has team 1; wait 1h; flush"
        ),
        "alice* bob carol dave; sent 1; moved; bob has 1 read 1 to alice: 1 have, 1 read of 3; \
         alice* bob carol dave eve; alice* carol dave eve; moved; moved; waited; \
         eve has 1 read 1, carol has 1 to alice: 1 have, 0 read of 2"
    );
    let team = world.place("alice", "team");
    let (alice, first) = (IDS.user("alice"), Sequence(1));
    let status = world.owner.status(team, alice, (first, alice)).unwrap();
    assert_eq!((status.total, status.delivered, status.read, status.pending()), (2, 1, 0, 1));
}

#[test]
fn a_full_server_refuses_new_conversations_and_keeps_the_old() {
    let mut world = World::new(Settings { conversations_max: 2, ..settings() });
    assert_eq!(
        world.run("a -> b: 1; a creates t with b; a -> c: 1; b creates u with a; a -> b: 2"),
        "sent 1; a* b; busy; busy; sent 2"
    );
}

#[test]
fn stamps_never_repeat_nor_step_back() {
    let mut world = World::new(settings());
    world.run("alice -> bob: 1; alice -> bob: 2");
    world.wall -= 3_600_000;
    world.run("alice -> bob: 3; alice -> carol: 1");
    let stamps: Vec<_> = world.log.iter().map(|logged| logged.stamp.hlc).collect();
    assert!(stamps.is_sorted_by(|one, next| one < next), "{stamps:?}");
    let mut again = world::replay(settings(), &world.log);
    assert!(again.next_hlc(chat::WallMillis(0)) > *stamps.last().unwrap());
}

#[test]
fn a_delivery_carries_what_was_sent() {
    let mut world = World::new(settings());
    world.run("alice -> bob: hi there #7");
    let message = messages(&world.log).next().unwrap();
    let deliver = message.deliver(world.log[0].stamp.hlc);
    assert_eq!((deliver.sender, deliver.content), ("alice", &b"hi there"[..]));
    assert_eq!(deliver.sequence, Sequence(1));
    let conversation = world.owner.conversation(deliver.conversation).unwrap();
    assert_eq!(conversation.newest(), Some(deliver.message));
}

#[test]
fn a_group_counts_its_members_by_home() {
    let mut world = World::new(settings());
    world.run("a creates t with b c d e f g h; a removes b c in t; a adds i j k b in t");
    let id = world.place("a", "t");
    let Some(Audience::Group { homes }) = world.owner.audience(id) else { panic!("a group") };
    let mut expected = [0; 4];
    for member in world.owner.members(id, 0, 100) {
        expected[usize::from(member.speaker.user.partition().shard(4).0)] += 1;
    }
    assert_eq!(homes.iter().map(|(_, count)| count).sum::<u32>(), 10);
    assert!(homes.iter().all(|(shard, count)| expected[usize::from(shard.0)] == *count));
}
