//! Pages of history against a naive model.
#![allow(clippy::cast_possible_truncation, reason = "the figures of tests are small")]

mod support;

use proptest::prelude::*;
use storage::{DiskOp, PageQuery, ReadError, Readers, Settings, Walk};
use support::{Disk, append, append_durable, read, settings, settle, start_one, start_with};

/// What a page should hold: sequences, from all bodies of the entity.
fn expected(lengths: &[usize], query: &PageQuery) -> Vec<u64> {
    let count = lengths.len() as u64;
    let sequences: Vec<u64> = match query.walk {
        Walk::Backwards { from } => (1..=from.min(count)).rev().collect(),
        Walk::Forwards { after, through } => (after + 1..=through.min(count)).collect(),
    };
    let mut bytes = 0;
    sequences
        .into_iter()
        .take(query.records_max as usize)
        .enumerate()
        .take_while(|(index, sequence)| {
            bytes += lengths[*sequence as usize - 1];
            *index == 0 || bytes <= query.bytes_max as usize
        })
        .map(|(_, sequence)| sequence)
        .collect()
}

fn walks() -> impl Strategy<Value = Walk> {
    prop_oneof![
        (0..120_u64).prop_map(|from| Walk::Backwards { from }),
        (0..120_u64, 0..120_u64).prop_map(|(after, through)| Walk::Forwards { after, through }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn a_page_is_the_models_slice_in_the_models_order(
        appends in prop::collection::vec((0..3_u128, 0..6000_usize, any::<bool>()), 1..150),
        queries in prop::collection::vec((0..4_u128, walks(), 0..40_u32, 0..20000_u32), 1..20),
    ) {
        let mut disk = Disk::default();
        let (mut log, _) = start_one(&mut disk);
        let mut model: [Vec<usize>; 4] = Default::default();
        for (entity, length, is_synced) in appends {
            let body = vec![model[entity as usize].len() as u8; length];
            if is_synced || append(&mut log, entity, &body).is_err() {
                append_durable(&mut log, &mut disk, entity, &body);
            }
            model[entity as usize].push(length);
        }
        settle(&mut log, &mut disk);
        let (restarted, _) = start_one(&mut disk.clone());
        for log in [log, restarted] {
            for (entity, walk, records_max, bytes_max) in queries.clone() {
                let query = PageQuery { entity, walk, records_max, bytes_max };
                let page = read(&log, &mut disk, query).unwrap();
                let lengths = &model[entity as usize];
                let found = page.records.iter().map(|record| record.sequence);
                prop_assert_eq!(found.collect::<Vec<u64>>(), expected(lengths, &query));
                for record in page.records {
                    let index = record.sequence as usize - 1;
                    prop_assert_eq!(record.body, vec![index as u8; lengths[index]]);
                }
            }
        }
    }
}

fn newest(records_max: u32) -> PageQuery {
    let walk = Walk::Backwards { from: u64::MAX };
    PageQuery { entity: 1, walk, records_max, bytes_max: u32::MAX }
}

#[test]
fn what_is_not_durable_is_in_no_page() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for _ in 0..14 {
        append_durable(&mut log, &mut disk, 1, b"durable");
    }
    for _ in 0..20 {
        append(&mut log, 1, b"not yet").unwrap();
    }
    let page = read(&log, &mut disk, newest(3)).unwrap();
    let sequences: Vec<u64> = page.records.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [14, 13, 12]);
    let walk = Walk::Forwards { after: 12, through: 99 };
    let page = read(&log, &mut disk, PageQuery { walk, ..newest(9) }).unwrap();
    assert_eq!(page.records.len(), 2);
    settle(&mut log, &mut disk);
    assert_eq!(read(&log, &mut disk, newest(3)).unwrap().records[0].sequence, 34);
}

#[test]
fn a_damaged_record_is_named_and_not_passed_over() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    let mut positions = Vec::new();
    for number in 0..10_u8 {
        positions.push(append_durable(&mut log, &mut disk, 1, &[number; 200]));
    }
    let (file, offset) = log.locate(positions[4]).unwrap();
    for bit in 0..264 * 8 {
        let mut disk = disk.clone();
        disk.bytes(file)[offset as usize + bit / 8] ^= 1 << (bit % 8);
        let page = read(&log, &mut disk, newest(9));
        assert_eq!(page, Err(ReadError::Corrupt { position: positions[4] }), "bit {bit}");
    }
}

#[test]
fn neighbours_in_the_log_come_with_one_read() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for _ in 0..80 {
        append(&mut log, 1, &[1; 100]).unwrap();
    }
    settle(&mut log, &mut disk);
    let mut readers = Readers::new(2);
    readers.begin(&log, newest(100)).unwrap();
    let mut reads_count = 0;
    while let Some(op) = readers.poll_op() {
        reads_count += 1;
        let event = disk.perform(op);
        readers.handle(&log, event);
    }
    assert_eq!(readers.poll_page().unwrap().1.unwrap().records.len(), 80);
    assert_eq!(reads_count, 1);
}

#[test]
fn a_record_longer_than_a_read_is_read_whole() {
    let mut disk = Disk::default();
    let large = Settings {
        segment_bytes: 1 << 20,
        first_segment_bytes: 1 << 20,
        commit_window_bytes: 1 << 20,
        record_bytes_max: 200 << 10,
        ..settings()
    };
    let mut log = start_with(&mut disk, 1, large).unwrap().remove(0).0.log;
    let lengths = [100_000, 10, 150_000, 8200, 64, 70_000];
    for length in lengths {
        append_durable(&mut log, &mut disk, 1, &vec![3; length]);
    }
    let page = read(&log, &mut disk, newest(10)).unwrap();
    let mut seen: Vec<usize> = page.records.iter().map(|record| record.body.len()).collect();
    seen.reverse();
    assert_eq!(seen, lengths);
}

#[test]
fn readers_are_bounded_and_answer_in_any_order() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    append_durable(&mut log, &mut disk, 1, b"body");
    let mut readers = Readers::new(2);
    let ids = [readers.begin(&log, newest(1)).unwrap(), readers.begin(&log, newest(1)).unwrap()];
    assert_eq!(readers.begin(&log, newest(1)), Err(ReadError::Busy));
    let ops: Vec<DiskOp> = std::iter::from_fn(|| readers.poll_op()).collect();
    for op in ops.into_iter().rev() {
        let event = disk.perform(op);
        readers.handle(&log, event);
    }
    for id in [ids[1], ids[0]] {
        let (done, page) = readers.poll_page().unwrap();
        assert_eq!((done, page.unwrap().records.len()), (id, 1));
    }
    assert!(readers.begin(&log, newest(1)).is_ok());
}
