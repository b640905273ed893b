//! Users at home: sessions, what they listen to, how far their devices have come.

#![allow(clippy::unwrap_used, reason = "a test may")]

use chat::{Home, Millis, Record, SessionSlot, Settings, Speaker, Walk};
use proptest::prelude::*;
use std::collections::BTreeMap;
use wire::{ClientMessageId, ConversationId, DeviceKey, IdKey, Sequence};

const IDS: IdKey = IdKey(*b"a key of a test!");
const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn settings() -> Settings {
    Settings { devices_user_max: 3, conversations_user_max: 4, ..Settings::standard(IDS, 1) }
}

fn user(name: &str) -> Speaker<'_> {
    Speaker { user: IDS.user(name), name }
}

fn group(number: u128) -> ConversationId {
    IDS.group(IDS.user("alice"), ClientMessageId(number))
}

fn direct(a: &str, b: &str) -> ConversationId {
    IDS.direct(IDS.user(a), IDS.user(b))
}

/// Runs a script; each statement gives a line of effects. Devices and sessions are numbers.
fn run(home: &mut Home, script: &str) -> String {
    let mut now = 0;
    let mut lines = Vec::new();
    for text in script.split(';') {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<u32>().unwrap();
        let place = |index: usize| match words[index].strip_prefix("group") {
            Some(number) => group(number.parse().unwrap()),
            None => direct(words[0], words[index]),
        };
        let device = |index: usize| DeviceKey(number(index).into());
        lines.push(match words[..] {
            [name, "opens", _, "on", _] => {
                match home.open_session(user(name), device(2), SessionSlot(number(4))) {
                    Ok(opened) => {
                        let device = if opened.new_device { "new" } else { "known" };
                        let replaced = opened.replaced.map(|old| format!(", replaces {}", old.0));
                        format!("{device}{}", replaced.unwrap_or_default())
                    }
                    Err(refusal) => refusal.code.name().into(),
                }
            }
            [name, "closes", _] => {
                home.close_session(IDS.user(name), SessionSlot(number(2)));
                sessions(home, name)
            }
            [name, "joins", _] => match home.joined(user(name), place(2)) {
                Ok(is_news) => if is_news { "joined" } else { "nothing" }.into(),
                Err(refusal) => refusal.code.name().into(),
            },
            [name, "leaves", _] => {
                home.left(IDS.user(name), place(2));
                "left".into()
            }
            [name, "device", _, "has", _, _] => {
                let up_to = Sequence(number(5).into());
                let is_news = home.move_cursor(IDS.user(name), device(2), place(4), up_to);
                if is_news { "moved" } else { "nothing" }.into()
            }
            [name, "device", _, "at", _] => {
                let cursor = home.cursor(IDS.user(name), device(2), place(4));
                cursor.map_or("never".into(), |cursor| cursor.0.to_string())
            }
            ["who", "hears", _] => heard(home, place(2)),
            ["flush"] => {
                now += 10_000;
                let mut count = 0;
                home.flush_cursors(Millis(now), usize::MAX, |_| {
                    count += 1;
                    true
                });
                format!("{count} written")
            }
            ["users"] => home.users_count().to_string(),
            _ => panic!("not a sentence of this world: {text}"),
        });
    }
    lines.join("; ")
}

fn sessions(home: &Home, name: &str) -> String {
    let mut slots: Vec<u32> = home.sessions(IDS.user(name)).iter().map(|it| it.0).collect();
    slots.sort_unstable();
    format!("{slots:?}")
}

fn heard(home: &Home, group: ConversationId) -> String {
    let name = |index| home.user_at(index).unwrap().name;
    let listeners = home.listeners(group);
    let mut heard: Vec<String> =
        listeners.iter().map(|it| format!("{} on {}", name(it.user_index), it.session.0)).collect();
    heard.sort();
    if heard.is_empty() { "nobody".into() } else { heard.join(", ") }
}

#[track_caller]
fn check(script: &str, effects: &str) {
    assert_eq!(run(&mut Home::new(settings()), script), effects);
}

#[test]
fn a_group_is_heard_on_every_session_of_its_members() {
    check(
        "alice opens 1 on 10; alice joins group1; bob joins group1; bob opens 1 on 20; \
         bob opens 2 on 21; who hears group1; bob closes 20; who hears group1; \
         alice leaves group1; who hears group1; bob closes 21; who hears group1",
        "new; joined; joined; new; new; alice on 10, bob on 20, bob on 21; [21]; \
         alice on 10, bob on 21; left; bob on 21; []; nobody",
    );
}

#[test]
fn a_device_that_connects_again_replaces_its_session() {
    check(
        "alice joins group1; alice opens 1 on 10; alice opens 2 on 11; alice opens 1 on 12; \
         who hears group1; alice closes 10; who hears group1; alice closes 11; \
         alice opens 1 on 13; who hears group1; alice closes 13",
        "joined; new; new; new, replaces 10; alice on 11, alice on 12; [11, 12]; \
         alice on 11, alice on 12; [12]; new, replaces 12; alice on 13; []",
    );
}

#[test]
fn a_device_is_known_once_it_has_acknowledged() {
    check(
        "alice joins bob; alice opens 1 on 10; alice device 1 at bob; alice device 1 has bob 3; \
         alice closes 10; alice opens 1 on 11; alice opens 2 on 12; alice device 1 at bob; \
         alice device 2 at bob",
        "joined; new; never; moved; []; known; new; 3; never",
    );
}

#[test]
fn a_devices_cursor_never_moves_backwards_and_is_its_own() {
    check(
        "alice joins bob; alice device 1 has bob 3; alice device 1 has bob 2; \
         alice device 2 has bob 1; alice device 1 at bob; alice device 2 at bob; \
         alice device 1 has bob 0",
        "joined; moved; nothing; moved; 3; 1; nothing",
    );
}

#[test]
fn moved_cursors_are_written_once() {
    check(
        "alice joins bob; alice device 1 has bob 3; alice device 1 has bob 4; flush; flush; \
         alice device 1 has bob 5; flush; alice device 1 has bob 6; alice leaves bob; flush",
        "joined; moved; moved; 1 written; 0 written; moved; 1 written; moved; left; 0 written",
    );
}

#[test]
fn a_cursor_that_the_log_does_not_take_comes_again() {
    let mut home = Home::new(settings());
    run(&mut home, "alice joins bob; alice device 1 has bob 3");
    assert_eq!(home.flush_cursors(Millis(5), 9, |_| false), 0);
    assert_eq!((home.cursors_waiting_count(), run(&mut home, "flush").as_str()), (1, "1 written"));
}

#[test]
fn a_user_of_whom_nothing_is_left_is_forgotten() {
    check(
        "alice opens 1 on 10; users; alice closes 10; users; alice opens 1 on 11; alice joins bob; \
         alice closes 11; users; alice device 1 has bob 4; alice leaves bob; users",
        "new; 1; []; 0; new; joined; []; 1; moved; left; 0",
    );
}

#[test]
fn a_device_too_many_takes_the_place_of_the_one_longest_away() {
    check(
        "alice joins bob; alice device 1 has bob 1; alice device 2 has bob 2; \
         alice device 3 has bob 3; alice opens 1 on 10; alice closes 10; \
         alice opens 2 on 11; alice device 4 has bob 4; \
         alice device 1 at bob; alice device 2 at bob; alice device 3 at bob; \
         alice device 4 at bob",
        "joined; moved; moved; moved; known; []; known; moved; 1; 2; never; 4",
    );
}

#[test]
fn more_devices_or_conversations_than_allowed_are_refused() {
    check(
        "alice opens 1 on 10; alice opens 2 on 11; alice opens 3 on 12; alice opens 4 on 13; \
         alice opens 3 on 14",
        "new; new; new; too_large; new, replaces 12",
    );
    check(
        "alice joins group1; alice joins group2; alice joins group3; alice joins bob; \
         alice joins group4; alice joins group1; alice leaves bob; alice joins group4",
        "joined; joined; joined; joined; too_large; nothing; left; joined",
    );
    let mut home = Home::new(Settings { users_max: 1, ..settings() });
    assert_eq!(
        run(
            &mut home,
            "alice opens 1 on 10; bob opens 1 on 11; alice closes 10; bob opens 1 on 11"
        ),
        "new; busy; []; new"
    );
}

#[test]
fn conversations_are_listed_in_order_of_id() {
    let mut home = Home::new(settings());
    run(&mut home, "alice joins group1; alice joins bob; alice joins group2; alice joins carol");
    let mut ids = vec![group(1), group(2), direct("alice", "bob"), direct("alice", "carol")];
    ids.sort();
    let list = |after, limit| -> Vec<ConversationId> {
        home.conversations(IDS.user("alice"), after, limit).collect()
    };
    assert_eq!(list(ConversationId(0), 100), ids);
    assert_eq!(list(ids[1], 1), ids[2..3]);
    assert_eq!(list(ids[3], 9), []);
}

#[test]
fn what_was_left_while_away_is_dropped_when_recovery_settles() {
    let mut home = Home::new(settings());
    run(&mut home, "alice joins bob; alice joins carol; dave joins bob");
    run(&mut home, "alice device 1 has bob 3; alice device 1 has carol 4; dave device 1 has bob 5");
    let mut again = Home::new(settings());
    let keep = |kind: u16, partition: wire::Partition, bytes: &[u8]| {
        assert!(partition.0 < wire::PARTITIONS_COUNT && chat::is_home_entry(kind));
        again.restore(kind, bytes).unwrap();
    };
    assert!(!home.snapshot_bite(&mut Walk::new(), usize::MAX, keep));
    assert_eq!(again.users_count(), 2);
    assert_eq!(run(&mut again, "alice joins bob"), "joined");
    again.settle();
    assert_eq!(
        run(&mut again, "alice device 1 at bob; alice device 1 at carol; users"),
        "3; never; 1"
    );
}

/// What, who, which conversation, which device or session.
type Act = (u8, u8, u8, u8);

/// A naive home: lists of facts.
#[derive(Default)]
struct Facts {
    sessions: BTreeMap<u32, (usize, u64)>,
    places: BTreeMap<(usize, ConversationId), ()>,
    cursors: BTreeMap<(usize, u64, ConversationId), u64>,
    /// What a user had of a conversation that he left: on return he sees only what is newer.
    floors: BTreeMap<(usize, ConversationId), u64>,
}

fn act(home: &mut Home, facts: &mut Facts, (what, who, place, number): Act, next: u32) {
    let index = usize::from(who) % NAMES.len();
    let (who, device) = (user(NAMES[index]), u64::from(number % 3));
    let place = match place % 4 {
        0 => direct(who.name, NAMES[usize::from(number) % NAMES.len()]),
        number => group(number.into()),
    };
    match what % 8 {
        0 | 1 => {
            let opened = home.open_session(who, DeviceKey(device), SessionSlot(next)).unwrap();
            let old = facts.sessions.iter().find(|(_, it)| **it == (index, device));
            let old = old.map(|(slot, _)| *slot);
            assert_eq!(opened.replaced.map(|slot| slot.0), old);
            old.map(|slot| facts.sessions.remove(&slot));
            facts.sessions.insert(next, (index, device));
        }
        2 => {
            let slot = u32::from(number) % next.max(1);
            home.close_session(who.user, SessionSlot(slot));
            if facts.sessions.get(&slot).is_some_and(|it| it.0 == index) {
                facts.sessions.remove(&slot);
            }
        }
        3 | 4 => {
            home.joined(who, place).unwrap();
            facts.places.insert((index, place), ());
        }
        5 => {
            home.left(who.user, place);
            facts.places.remove(&(index, place));
            let floor = facts.floors.entry((index, place)).or_default();
            *floor += 256;
            facts.cursors.retain(|(user, _, other), _| (*user, *other) != (index, place));
        }
        _ if facts.places.contains_key(&(index, place)) => {
            let floor = facts.floors.get(&(index, place)).copied().unwrap_or_default();
            let up_to = floor + u64::from(number) + 1;
            let before = facts.cursors.entry((index, device, place)).or_default();
            let is_news = home.move_cursor(who.user, DeviceKey(device), place, Sequence(up_to));
            assert_eq!(is_news, up_to > *before);
            *before = up_to.max(*before);
        }
        _ => {}
    }
}

fn assert_agree(home: &Home, facts: &Facts) {
    let mut idle = NAMES.len();
    for (index, name) in NAMES.iter().enumerate() {
        let mine = |it: &(&u32, &(usize, u64))| it.1.0 == index;
        let slots: Vec<u32> = facts.sessions.iter().filter(mine).map(|it| *it.0).collect();
        assert_eq!(sessions(home, name), format!("{slots:?}"));
        let places: Vec<ConversationId> =
            facts.places.keys().filter(|it| it.0 == index).map(|it| it.1).collect();
        let listed: Vec<_> = home.conversations(IDS.user(name), ConversationId(0), 99).collect();
        assert_eq!(listed, places);
        let is_known = !slots.is_empty() || !places.is_empty();
        idle -= usize::from(is_known);
        assert_eq!(home.name(IDS.user(name)), is_known.then_some(*name));
    }
    assert_eq!(home.users_count(), NAMES.len() - idle);
    for number in 1..4 {
        let is_in =
            |it: &(&u32, &(usize, u64))| facts.places.contains_key(&(it.1.0, group(number)));
        let listening = facts.sessions.iter().filter(is_in);
        let mut expected: Vec<String> =
            listening.map(|(slot, (user, _))| format!("{} on {slot}", NAMES[*user])).collect();
        expected.sort();
        let expected = if expected.is_empty() { "nobody".into() } else { expected.join(", ") };
        assert_eq!(heard(home, group(number)), expected);
    }
    assert_cursors(home, facts);
}

fn assert_cursors(home: &Home, facts: &Facts) {
    for ((index, device, place), up_to) in &facts.cursors {
        let cursor = home.cursor(IDS.user(NAMES[*index]), DeviceKey(*device), *place);
        assert_eq!(cursor, Some(Sequence(*up_to)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_home_agrees_with_a_naive_one_and_comes_back_from_its_records(
        acts in prop::collection::vec(any::<Act>(), 1..120),
        begin in 0..120_usize,
    ) {
        let mut home = Home::new(Settings { conversations_user_max: 99, ..settings() });
        let mut facts = Facts::default();
        let mut restored = Home::new(Settings { conversations_user_max: 99, ..settings() });
        let mut walk = Walk::new();
        let begin = begin.min(acts.len() - 1);
        for (index, chance) in acts.iter().enumerate() {
            act(&mut home, &mut facts, *chance, u32::try_from(index).unwrap());
            assert_agree(&home, &facts);
            let mut written = Vec::new();
            home.flush_cursors(Millis(index as u64 * 10_000), 2, |record| {
                let mut body = Vec::new();
                record.encode_head(&mut body);
                written.push((record.kind(), record.entity(), body));
                true
            });
            if index >= begin {
                home.snapshot_bite(&mut walk, 1, |kind, _, bytes| {
                    restored.restore(kind, bytes).unwrap();
                });
                for (kind, entity, body) in &written {
                    restored.apply(&Record::decode(*kind, *entity, 0, body).unwrap());
                }
            }
        }
        home.flush_cursors(Millis(u64::MAX / 2), usize::MAX, |record| {
            restored.apply(&record);
            true
        });
        home.flush_cursors(Millis(u64::MAX / 2 + 10_000), usize::MAX, |record| {
            restored.apply(&record);
            true
        });
        while home.snapshot_bite(&mut walk, 1, |kind, _, bytes| {
            restored.restore(kind, bytes).unwrap();
        }) {}
        for (index, place) in facts.places.keys() {
            restored.joined(user(NAMES[*index]), *place).unwrap();
        }
        restored.settle();
        assert_cursors(&restored, &facts);
        prop_assert_eq!(home.cursors_waiting_count(), 0);
    }
}
