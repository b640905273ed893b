//! What comes back after a restart: whole logs, snapshots taken while work went on, any bytes.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use chat::record::kind;
use chat::{Command, MemberChange, Millis, Owner, Record, Settings, Speaker, Walk, WallMillis};
use proptest::prelude::*;
use wire::{ClientMessageId, ConversationId, Sequence};
use world::{IDS, World, replay, settings, state, user};

/// People of the random world; groups of them need several entries of a snapshot each.
const PEOPLE: usize = 700;

struct Crowd(Vec<String>);

impl Crowd {
    fn new(count: usize) -> Self {
        Self((0..count).map(|index| format!("user{index}")).collect())
    }

    /// `count` people from `from` on, round and round.
    fn slice(&self, from: usize, count: usize) -> Vec<Speaker<'_>> {
        (from..from + count).map(|index| user(&self.0[index % self.0.len()])).collect()
    }
}

/// What happens at random: numbers that `act` makes a command of.
type Act = (u8, u8, u16, u16);

fn group_of(number: u8) -> ConversationId {
    IDS.group(IDS.user("user0"), ClientMessageId(u128::from(number % 2) + 1))
}

fn act(world: &mut World, crowd: &Crowd, (what, place, from, count): Act) {
    let (from, count) = (usize::from(from), usize::from(count) % 400 + 1);
    // Mostly few people, so that the same ones meet again.
    let who = crowd.0[if what % 3 == 0 { 0 } else { from % 6 }].clone();
    let other = crowd.slice(count % 6, 1)[0];
    let group = group_of(place);
    let direct = IDS.direct(IDS.user(&who), other.user);
    let conversation = if place.is_multiple_of(3) { direct } else { group };
    let users = crowd.slice(from, if what.is_multiple_of(2) { count } else { 3 });
    let client_message = ClientMessageId(u128::from(from as u64 % 40));
    let recipient = (conversation == direct).then_some(other);
    let (content, message_kind) = (&b"words"[..], 1);
    let up_to = Sequence(count as u64 % 30);
    let name = if count.is_multiple_of(2) { "even" } else { "odd" };
    let change = |change| Command::ChangeMembers { conversation: group, change, users: &users };
    let command = match what % 16 {
        0 => Command::CreateGroup { conversation: group, name, members: &users },
        1 | 2 => change(MemberChange::Add),
        3 => change(MemberChange::Remove),
        4 => change(MemberChange::Leave),
        5 => change(MemberChange::Promote),
        6 => change(MemberChange::Demote),
        7 => Command::Rename { conversation: group, name },
        8 | 9 => Command::MarkRead { conversation, up_to },
        10 => Command::MarkDelivered { conversation, up_to },
        11 => return drop(world.flush(usize::MAX)),
        _ => Command::Send { conversation, recipient, client_message, message_kind, content },
    };
    // A group's first maker is fixed, so that its id fits.
    let who = if what % 16 == 0 { "user0" } else { &who };
    world.wall += 60;
    world.say(who, command);
}

fn assert_same(one: &Owner, other: &Owner) {
    assert_eq!(state(one), state(other));
    let mut walk = Walk::new();
    let mut count = 0;
    one.announce_bite(&mut walk, usize::MAX, |conversation, _| {
        count += 1;
        // Beyond what a snapshot holds: homes, admins, counts.
        assert_eq!(one.conversation(conversation), other.conversation(conversation));
    });
    assert_eq!(one.conversations_count(), other.conversations_count());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_and_the_tail_behind_it_are_the_whole_log(
        acts in prop::collection::vec(any::<Act>(), 20..160),
        begin in 0..80_usize,
        budget in 1..20_000_usize,
    ) {
        let settings = Settings { receipts_group_max: 4, ..settings() };
        let crowd = Crowd::new(PEOPLE);
        let mut world = World::new(settings);
        world.is_replayed = false;
        let mut restored = Owner::new(settings);
        let mut walk = Walk::new();
        let mut replay_from = 0;
        for (index, chance) in acts.iter().enumerate() {
            if index == begin.min(acts.len() - 1) {
                replay_from = world.log.len();
            }
            if index >= begin {
                bite(&world.owner, &mut walk, budget, &mut restored);
            }
            act(&mut world, &crowd, *chance);
        }
        if begin >= acts.len() {
            replay_from = world.log.len();
        }
        while bite(&world.owner, &mut walk, budget, &mut restored) {}
        for logged in &world.log[replay_from..] {
            restored.apply(&logged.record(), logged.stamp);
        }
        restored.release_all();
        let replayed = replay(settings, &world.log);
        prop_assert_eq!(state(&world.owner), state(&replayed));
        assert_same(&replayed, &restored);
        prop_assert_eq!(restored.orphans_count(), 0);
    }

    #[test]
    fn replaying_a_part_twice_changes_nothing(
        acts in prop::collection::vec(any::<Act>(), 5..60),
        cut in 0..60_usize,
    ) {
        let crowd = Crowd::new(8);
        let mut world = World::new(settings());
        world.is_replayed = false;
        acts.iter().for_each(|chance| act(&mut world, &crowd, *chance));
        let mut twice = replay(settings(), &world.log);
        for logged in &world.log[cut.min(world.log.len())..] {
            let record = logged.record();
            twice.apply(&record, logged.stamp);
        }
        twice.release_all();
        assert_same(&replay(settings(), &world.log), &twice);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(
        number in prop_oneof![Just(0x0180_u16), 0x00fe..0x0110_u16],
        entity in any::<u128>(),
        sequence in 0..3_u64,
        mut body in prop::collection::vec(any::<u8>(), 0..200),
        is_current in any::<bool>(),
    ) {
        if is_current && !body.is_empty() {
            body[0] = 1;
        }
        if let Ok(record) = Record::decode(number, entity, sequence, &body) {
            let mut again = Vec::new();
            record.encode_head(&mut again);
            again.extend_from_slice(record.payload());
            prop_assert_eq!(again, body);
        }
    }

    #[test]
    fn any_bytes_restore_or_are_refused(
        number in prop_oneof![Just(0x0280_u16), 0x01ff..0x0204_u16],
        mut body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        if let Some(version) = body.first_mut() {
            *version = 1;
        }
        _ = Owner::new(settings()).restore(number, &body);
        _ = chat::Home::new(settings()).restore(number, &body);
    }
}

fn bite(owner: &Owner, walk: &mut Walk, budget: usize, restored: &mut Owner) -> bool {
    owner.snapshot_bite(walk, budget, |kind, partition, bytes| {
        assert!(partition.0 < wire::PARTITIONS_COUNT && !chat::is_home_entry(kind));
        restored.restore(kind, bytes).expect("a snapshot restores");
    })
}

#[test]
fn a_record_that_is_included_already_changes_nothing() {
    let mut world = World::new(settings());
    world.run(
        "alice creates team with bob; alice -> team: hi #7; alice adds carol in team; \
         alice renames team to crew; bob reads team 1; flush; bob -> team: hi; \
         alice removes carol in team; alice renames team to gang",
    );
    let before = state(&world.owner);
    for logged in &world.log {
        world.owner.apply(&logged.record(), logged.stamp);
        assert_eq!(state(&world.owner), before, "after kind {:#x}", logged.kind);
    }
}

#[test]
fn every_cut_of_a_record_is_an_error_or_a_shorter_message() {
    let mut world = World::new(settings());
    world.run(
        "alice creates team with bob; alice adds carol in team; alice renames team to crew; \
         alice -> bob: hi #7; bob reads alice 1; flush",
    );
    assert_eq!(world.log.len(), 5);
    for logged in &world.log {
        let is_message = logged.kind == kind::MESSAGE;
        let head_bytes = logged.body.len() - if is_message { 2 } else { 0 };
        for cut in 0..head_bytes {
            let body = &logged.body[..cut];
            let read = Record::decode(logged.kind, logged.entity, logged.stamp.sequence.0, body);
            assert!(read.is_err(), "kind {:#x} cut at {cut}", logged.kind);
        }
    }
}

#[test]
fn every_cut_of_a_snapshot_entry_is_an_error() {
    let mut world = World::new(settings());
    world.run("alice creates team with bob; alice -> team: hi #7; alice -> bob: hi");
    for (kind, _, bytes) in state(&world.owner) {
        for cut in 0..bytes.len() {
            assert!(Owner::new(settings()).restore(kind, &bytes[..cut]).is_err());
        }
    }
}

fn grow_a_group(members_count: usize) {
    let settings = Settings { group_members_max: 100_000, ..settings() };
    let crowd = Crowd::new(members_count);
    let mut world = World::new(settings);
    world.is_replayed = false;
    let id = group_of(0);
    let first = crowd.slice(1, 999.min(members_count - 1));
    world.say("user0", Command::CreateGroup { conversation: id, name: "all", members: &first });
    for from in (1000..members_count).step_by(1000) {
        let users = crowd.slice(from, 1000.min(members_count - from));
        let change = MemberChange::Add;
        world.say("user0", Command::ChangeMembers { conversation: id, change, users: &users });
    }
    let (content, client_message) = (&b"hello"[..], ClientMessageId(1));
    let (recipient, message_kind) = (None, 1);
    let send = Command::Send { conversation: id, recipient, client_message, message_kind, content };
    assert_eq!(world.say("user0", send), "sent 1");
    for name in &crowd.0[1..] {
        let up_to = Sequence(1);
        assert_eq!(world.say(name, Command::MarkRead { conversation: id, up_to }), "moved");
    }
    let mut told = Vec::new();
    let mut out_count = 0;
    while out_count < members_count - 1 {
        out_count += world.owner.flush_receipts(Millis(5), 1000, |flush| {
            if let chat::Tell::Sender { status, .. } = flush.tell {
                told.push((status.total, status.delivered, status.read));
            }
            true
        });
    }
    let others_count = u32::try_from(members_count - 1).unwrap();
    assert_eq!(told, [(others_count, others_count, others_count)]);
    let mut restored = Owner::new(settings);
    while bite(&world.owner, &mut Walk::new(), usize::MAX, &mut restored) {}
    assert_eq!(state(&world.owner), state(&restored));
    assert_eq!(restored.members(id, 0, usize::MAX).len(), members_count);
    assert_eq!(restored.members(id, members_count - 3, 100).len(), 3);
    assert!(restored.next_hlc(WallMillis(0)) > world.log.last().unwrap().stamp.hlc);
}

#[test]
fn a_group_may_have_a_thousand_members() {
    grow_a_group(1000);
}

#[test]
fn a_group_may_have_a_hundred_thousand_members() {
    grow_a_group(100_000);
}
