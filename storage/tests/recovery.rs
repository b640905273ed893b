//! Torn tails, damage, crashes during a start, snapshots, other shard counts.
#![allow(clippy::cast_possible_truncation, reason = "the figures of tests are small")]

mod support;

use std::collections::BTreeMap;
use storage::{
    DiskOp, DumpFilter, Durability, FileId, OpenError, Recovered, Settings, SnapshotWriter,
};
use support::{
    Disk, KEY, Seen, append, append_durable, complete, settings, settle, snapshot, start,
    start_one, start_with,
};
use wire::Partition;

const FIRST: FileId = FileId::Segment { log: 0, base: 0 };

/// A log of a few durable records and the bytes of one more batch, not yet written.
fn disk_with_pending_batch() -> (Disk, Vec<Seen>, u64, Vec<u8>) {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for number in 0..2_u8 {
        append_durable(&mut log, &mut disk, 1, &[number; 300]);
    }
    for number in 0..5_u8 {
        append(&mut log, 2, &[number; 700]).expect("it fits a batch");
    }
    let Some(DiskOp::Write { offset, bytes, .. }) = log.poll_op() else { panic!("a batch waits") };
    let seen = (1..=2).map(|sequence| (1, sequence, vec![sequence as u8 - 1; 300])).collect();
    (disk, seen, offset, bytes)
}

#[test]
fn a_tail_torn_at_any_byte_leaves_all_that_was_durable() {
    let (disk, durable, offset, bytes) = disk_with_pending_batch();
    for torn_at in 0..=bytes.len() {
        let mut disk = disk.clone();
        let at = offset as usize;
        disk.bytes(FIRST)[at..at + torn_at].copy_from_slice(&bytes[..torn_at]);
        let (recovery, seen) = start(&mut disk, 1).unwrap().remove(0);
        // The zeros behind the pad are there already, whether they were written or not.
        let is_whole = bytes[torn_at..].iter().all(|byte| *byte == 0);
        let batch_count = if is_whole { 5 } else { 0 };
        assert_eq!(seen.len(), durable.len() + batch_count, "torn at {torn_at}");
        assert_eq!(seen[..2], durable);
        assert_eq!(recovery.cut.is_some(), torn_at > 0 && !is_whole);
        let end = recovery.log.durable().offset() as usize;
        let behind = &disk.bytes(FIRST)[end..];
        assert!(behind == vec![0; behind.len()], "nothing may resurface");
    }
}

#[test]
fn a_tail_whose_blocks_arrived_in_any_order_is_cut() {
    let (disk, durable, offset, bytes) = disk_with_pending_batch();
    let blocks = bytes.len() / 512;
    for missing in 0..blocks {
        if bytes[missing * 512..(missing + 1) * 512].iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut disk = disk.clone();
        let at = offset as usize;
        disk.bytes(FIRST)[at..at + bytes.len()].copy_from_slice(&bytes);
        disk.bytes(FIRST)[at + missing * 512..at + (missing + 1) * 512].fill(0);
        let (mut log, seen) = start_one(&mut disk);
        assert_eq!(seen, durable, "block {missing}");
        append_durable(&mut log, &mut disk, 2, b"new");
        assert_eq!(start_one(&mut disk).1.len(), durable.len() + 1);
    }
}

/// Three blocks of records a segment, so that every kind of place is within a few kilobytes.
fn tiny() -> Settings {
    Settings {
        segment_bytes: 16 << 10,
        first_segment_bytes: 16 << 10,
        commit_window_bytes: 16 << 10,
        record_bytes_max: 2 << 10,
        durability: Durability::Fsync,
    }
}

/// Every bit of the words that are not zero, and one of each line of words that are.
fn bits_worth_flipping(bytes: &[u8]) -> Vec<usize> {
    let words = bytes.chunks_exact(8).enumerate();
    words
        .flat_map(|(index, word)| {
            let is_zero = word.iter().all(|byte| *byte == 0);
            let bits_count = if is_zero { usize::from(index % 8 == 3) } else { 64 };
            (0..bits_count).map(move |bit| index * 64 + bit * (index % 63 + 1) % 64)
        })
        .collect()
}

#[test]
fn every_flipped_bit_of_what_was_synced_is_refused() {
    let mut disk = Disk::default();
    let mut log = start_with(&mut disk, 1, tiny()).unwrap().remove(0).0.log;
    append_durable(&mut log, &mut disk, 1, b"first");
    append_durable(&mut log, &mut disk, 1, b"the last of its segment");
    assert_eq!(log.durable().offset(), (16 << 10) + 8192, "its mark is in the next");
    let whole = disk.bytes(FIRST).clone();
    for bit in bits_worth_flipping(&whole) {
        let mut disk = disk.clone();
        disk.bytes(FIRST)[bit / 8] ^= 1 << (bit % 8);
        match start_with(&mut disk, 1, tiny()) {
            Err(OpenError::Damage { file, .. }) => assert_eq!(file, FIRST),
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_flipped_bit_behind_what_was_synced_loses_nothing() {
    let mut disk = Disk::default();
    let mut log = start_with(&mut disk, 1, tiny()).unwrap().remove(0).0.log;
    append_durable(&mut log, &mut disk, 1, b"first");
    let whole = disk.bytes(FIRST).clone();
    for bit in bits_worth_flipping(&whole) {
        let mut disk = disk.clone();
        disk.bytes(FIRST)[bit / 8] ^= 1 << (bit % 8);
        match start_with(&mut disk, 1, tiny()) {
            Err(OpenError::Damage { file: FIRST, .. }) => assert!(bit / 8 < 8192, "bit {bit}"),
            Err(other) => panic!("bit {bit}: {other}"),
            Ok(shards) => {
                assert!(bit / 8 >= 8192, "bit {bit} passed");
                assert_eq!(shards[0].1, [(1, 1, b"first".to_vec())]);
            }
        }
    }
}

#[test]
fn damage_in_a_full_segment_is_refused_with_its_place() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    let mut third = None;
    for number in 0..40_u8 {
        let position = append_durable(&mut log, &mut disk, 1, &[number; 3000]);
        third = third.or((number == 2).then_some(position));
    }
    let third = third.unwrap();
    disk.bytes(FIRST)[third.offset() as usize + 100] ^= 4;
    match start(&mut disk, 1) {
        Err(OpenError::Damage { position, file: FIRST, .. }) => assert_eq!(position, third),
        other => panic!("{other:?}"),
    }
    let report = storage::verify(&mut disk).unwrap().remove(0);
    let Some(storage::Damage { error: OpenError::Damage { position, .. } }) = report.damage else {
        panic!("{report:?}")
    };
    assert_eq!(position, third);
}

#[test]
fn the_last_batch_of_a_full_segment_is_refused_if_it_is_bad() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    let mut last_of_first = None;
    loop {
        let position = append_durable(&mut log, &mut disk, 1, &[1; 3000]);
        if position.offset() > settings().first_segment_bytes {
            break;
        }
        last_of_first = Some(position);
    }
    // Nothing in the second segment but this one record: it alone tells.
    disk.bytes(FIRST)[last_of_first.unwrap().offset() as usize + 70] ^= 1;
    assert!(matches!(start(&mut disk, 1), Err(OpenError::Damage { .. })));
}

#[test]
fn a_missing_segment_is_refused() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for _ in 0..60 {
        append_durable(&mut log, &mut disk, 1, &[1; 5000]);
    }
    let segments: Vec<String> =
        disk.files.keys().filter(|path| path.ends_with("seg")).cloned().collect();
    for gone in &segments[..2] {
        let mut disk = disk.clone();
        disk.files.remove(gone);
        assert!(matches!(start(&mut disk, 1), Err(OpenError::Missing { .. })), "{gone}");
    }
    let mut disk = disk.clone();
    disk.files.remove("ringmain.manifest");
    assert!(matches!(start(&mut disk, 1), Err(OpenError::ManifestMissing { .. })));
}

/// Everything in the log, whatever the shard count: per entity in order, each record once.
fn check_kept(shards: &[(storage::Recovery, Vec<Seen>)], expected: &BTreeMap<u128, Vec<Vec<u8>>>) {
    let mut kept: BTreeMap<u128, Vec<Vec<u8>>> = BTreeMap::new();
    for (index, (_, seen)) in shards.iter().enumerate() {
        for (entity, sequence, body) in seen {
            assert_eq!(*entity as usize % shards.len(), index, "the owner gets it");
            let bodies = kept.entry(*entity).or_default();
            bodies.push(body.clone());
            assert_eq!(bodies.len() as u64, *sequence);
        }
    }
    assert_eq!(&kept, expected);
}

#[test]
fn any_row_of_shard_counts_keeps_every_record_once() {
    let mut disk = Disk::default();
    let mut expected: BTreeMap<u128, Vec<Vec<u8>>> = BTreeMap::new();
    for (round, shards_count) in [1, 2, 3, 3, 1, 2].into_iter().enumerate() {
        let mut shards = start(&mut disk, shards_count).unwrap();
        check_kept(&shards, &expected);
        for entity in 0..7_u128 {
            let log = &mut shards[entity as usize % usize::from(shards_count)].0.log;
            for number in 0..3 {
                let body = format!("{entity} {round} {number}").into_bytes();
                append_durable(log, &mut disk, entity, &body);
                expected.entry(entity).or_default().push(body);
            }
        }
        for (recovery, _) in &shards {
            check_pages(&recovery.log, &mut disk, &expected);
        }
    }
    assert_eq!(storage::read_manifest(&mut disk).unwrap().unwrap().epochs.len(), 5);
}

/// The pages of the entities this log knows reach back through all epochs.
fn check_pages(log: &storage::Log, disk: &mut Disk, expected: &BTreeMap<u128, Vec<Vec<u8>>>) {
    for chain in log.index().chains() {
        let walk = storage::Walk::Forwards { after: 0, through: u64::MAX };
        let query =
            storage::PageQuery { entity: chain.entity, walk, records_max: 99, bytes_max: 9999 };
        let page = support::read(log, disk, query).expect("nothing is damaged");
        let bodies: Vec<Vec<u8>> = page.records.into_iter().map(|record| record.body).collect();
        assert_eq!(bodies[..], expected[&chain.entity][..chain.count as usize]);
    }
}

#[test]
fn a_crash_between_any_two_steps_of_a_start_leaves_a_folder_that_opens() {
    let mut before = Disk::default();
    let mut expected = BTreeMap::new();
    for shards_count in [2, 3] {
        let mut whole = before.clone();
        whole.steps_taken = 0;
        let _all_steps = start(&mut whole, shards_count).unwrap();
        for steps in 0..whole.steps_taken {
            let mut disk = before.clone();
            disk.steps_left = Some(steps);
            assert!(start(&mut disk, shards_count).is_err(), "cut off after {steps}");
            disk.steps_left = None;
            // Whoever comes next may even have changed his mind.
            let shards = start(&mut disk, 5).unwrap();
            check_kept(&shards, &expected);
        }
        let mut shards = start(&mut before, shards_count).unwrap();
        let log = &mut shards[1].0.log;
        append_durable(log, &mut before, 1, b"kept");
        expected.entry(1).or_insert_with(Vec::new).push(b"kept".to_vec());
    }
}

#[test]
fn a_prepared_file_that_was_cut_off_is_made_again() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    append_durable(&mut log, &mut disk, 1, b"kept");
    let next = FileId::Segment { log: 0, base: settings().first_segment_bytes };
    for content in [vec![], vec![0; 4096], vec![0; 64 << 10]] {
        *disk.bytes(next) = content;
        let (mut log, seen) = start_one(&mut disk);
        assert_eq!(seen.len(), 1);
        settle(&mut log, &mut disk);
        assert_eq!(disk.bytes(next).len() as u64, settings().segment_bytes);
        assert!(log.prepare_error().is_none());
    }
}

#[test]
fn a_snapshot_and_the_tail_give_what_a_full_replay_gives() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for number in 0..200_u128 {
        append_durable(&mut log, &mut disk, number % 5, &[number as u8; 50]);
    }
    let entries = [(Partition(3), vec![1; 5000]), (Partition(4), b"state".to_vec())];
    let at = snapshot(&mut log, &mut disk, &entries);
    for number in 0..30_u128 {
        append_durable(&mut log, &mut disk, number % 7, &[number as u8; 50]);
    }
    let mut bare = disk.clone();
    bare.files.retain(|path, _| !path.ends_with(".snap"));
    let (full, seen_full) = start_one(&mut bare);
    let opened = storage::open(&mut disk, 1, settings(), KEY).unwrap();
    let mut tail = Vec::new();
    let mut restored = Vec::new();
    let recovery =
        storage::recover(&mut disk, &opened.shards[0], &mut |recovered| match recovered {
            Recovered::Entry { partition, body, .. } => restored.push((partition, body.to_vec())),
            Recovered::Record(record) => {
                assert!(record.position >= at);
                tail.push((record.entity, record.sequence, record.body.to_vec()));
            }
        })
        .unwrap();
    assert_eq!(restored, entries);
    assert_eq!(tail, seen_full[200..]);
    let chains = |log: &storage::Log| {
        let mut chains = log.index().chains().to_vec();
        chains.sort_by_key(|chain| chain.entity);
        chains
    };
    assert_eq!(chains(&recovery.log), chains(&full));
}

#[test]
fn what_is_appended_while_a_snapshot_is_taken_counts_once() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for number in 0..40_u128 {
        append_durable(&mut log, &mut disk, number % 2, b"before");
    }
    let mut writer = SnapshotWriter::begin(&log).unwrap();
    let created = disk.perform(writer.poll_op(&log).unwrap());
    writer.handle(created, &mut log);
    append_durable(&mut log, &mut disk, 0, b"between");
    assert!(writer.push_index(log.index()));
    append_durable(&mut log, &mut disk, 1, b"behind");
    append(&mut log, 5, b"not durable when the snapshot is finished").unwrap();
    writer.finish(&log);
    while let Some(op) = writer.poll_op(&log) {
        let event = disk.perform(op);
        writer.handle(event, &mut log);
    }
    assert_eq!(writer.outcome(), None, "it waits for what it may have seen");
    complete(writer, (&mut log, &mut disk), &[]);
    append_durable(&mut log, &mut disk, 0, b"after");
    let (restarted, seen) = start_one(&mut disk);
    assert_eq!(seen.len(), 4);
    assert_eq!(restarted.index().chains(), log.index().chains());
}

#[test]
fn a_broken_snapshot_gives_way_to_the_one_before() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for _ in 0..3 {
        for number in 0..20 {
            append_durable(&mut log, &mut disk, number % 3, b"body");
        }
        snapshot(&mut log, &mut disk, &[(Partition(1), vec![7; 100])]);
    }
    let names: Vec<String> =
        disk.files.keys().filter(|path| path.ends_with(".snap")).cloned().collect();
    assert_eq!(names.len(), 2, "the newest and one before");
    let whole = disk.files[&names[1]].clone();
    for bit in (0..whole.len() * 8).step_by(5) {
        let mut disk = disk.clone();
        disk.files.get_mut(&names[1]).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let (log, seen) = start_one(&mut disk);
        assert_eq!(seen.len(), 20, "bit {bit}: replayed from the one before");
        assert_eq!(log.index().chain(0).unwrap().count, 21);
    }
    for name in &names {
        let file = disk.files.get_mut(name).unwrap();
        file.truncate(file.len() - 9);
    }
    assert_eq!(start_one(&mut disk).1.len(), 60, "all segments are there, so all is replayed");
}

#[test]
fn a_snapshot_of_records_that_are_gone_is_damage() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    append_durable(&mut log, &mut disk, 1, b"one");
    let before = disk.bytes(FIRST).clone();
    let writer = SnapshotWriter::begin(&log).unwrap();
    append_durable(&mut log, &mut disk, 1, b"two");
    complete(writer, (&mut log, &mut disk), &[]);
    *disk.bytes(FIRST) = before;
    assert!(matches!(start(&mut disk, 1), Err(OpenError::Damage { .. })));
}

#[test]
fn the_tools_count_what_is_there() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for number in 0..30_u128 {
        append(&mut log, number % 3, &[0; 10]).unwrap();
    }
    settle(&mut log, &mut disk);
    let end = log.appended().offset() as usize;
    disk.bytes(FIRST)[end + 9] = 1;
    let report = storage::verify(&mut disk).unwrap().remove(0);
    assert_eq!((report.records_count, report.torn_bytes, report.damage), (30, 10, None));
    assert_eq!(report.records_bytes, 30 * 74);
    let stat = &storage::stat(&mut disk).unwrap()[&0];
    assert_eq!(stat.kinds[&support::KIND], (30, 30 * 74));
    let mut shown = Vec::new();
    let filter = DumpFilter { entity: Some(2), records_max: 4 };
    storage::dump(&mut disk, filter, &mut |record| shown.push(record.sequence)).unwrap();
    assert_eq!(shown, [1, 2, 3, 4]);
}
