//! Appends, group commit, poison, full disks, rolling and retention.
#![allow(clippy::cast_possible_truncation, reason = "the figures of tests are small")]

mod support;

use storage::{
    AppendError, DiskError, DiskOp, Durability, PageQuery, RetentionPolicy, Settings, Walk,
};
use support::{
    Disk, Fault, append, append_durable, read, settings, settle, snapshot, start, start_one,
    start_with,
};

#[test]
fn a_record_is_durable_only_after_its_write_and_then_its_sync_returned() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    settle(&mut log, &mut disk);
    let position = append(&mut log, 1, b"hello").unwrap();
    let write = log.poll_op().unwrap();
    assert!(matches!(write, DiskOp::Write { offset: 4096, .. }));
    assert_eq!(log.poll_op(), None, "no sync before the write returned");
    let written = disk.perform(write);
    log.handle(written);
    assert!(log.durable() <= position && !log.is_idle());
    let sync = log.poll_op().unwrap();
    assert!(matches!(sync, DiskOp::Sync { .. }));
    assert_eq!(log.poll_op(), None);
    let synced = disk.perform(sync);
    log.handle(synced);
    assert!(log.durable() > position && log.is_idle());
}

#[test]
fn what_is_appended_during_a_commit_goes_together_in_the_next() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    settle(&mut log, &mut disk);
    disk.trace.clear();
    append(&mut log, 1, b"first").unwrap();
    let write = log.poll_op().unwrap();
    for _ in 0..20 {
        append(&mut log, 1, &[7; 100]).unwrap();
    }
    let written = disk.perform(write);
    log.handle(written);
    settle(&mut log, &mut disk);
    // One block of one record, one of twenty, and the mark that says they are durable.
    assert_eq!(
        disk.trace,
        ["write 4096+4096", "sync", "write 8192+4096", "sync", "write 12288+4096"]
    );
    assert_eq!(log.appended(), log.durable());
}

#[test]
fn after_any_failed_write_or_sync_the_log_takes_and_acknowledges_nothing() {
    for fault in [Fault::FailWrite, Fault::ShortWrite, Fault::FailSync] {
        let mut disk = Disk::default();
        let (mut log, _) = start_one(&mut disk);
        append_durable(&mut log, &mut disk, 1, b"good");
        let durable = log.durable();
        disk.faults.push(fault);
        append(&mut log, 1, b"lost").unwrap();
        settle(&mut log, &mut disk);
        assert!(log.poisoned().is_some(), "{fault:?}");
        assert_eq!(append(&mut log, 1, b"more"), Err(AppendError::Poisoned));
        assert_eq!((log.durable(), log.poll_op()), (durable, None));
    }
}

#[test]
fn without_sync_a_record_counts_once_it_is_written_but_a_full_segment_is_synced() {
    let mut disk = Disk::default();
    let memory = Settings { durability: Durability::Memory, ..settings() };
    let mut log = start_with(&mut disk, 1, memory).unwrap().remove(0).0.log;
    settle(&mut log, &mut disk);
    disk.trace.clear();
    append_durable(&mut log, &mut disk, 1, b"one");
    assert_eq!(disk.trace, ["write 4096+4096"]);
    while !disk.trace.contains(&"sync".to_owned()) {
        append_durable(&mut log, &mut disk, 1, &[1; 5000]);
        assert!(disk.trace.len() < 20);
    }
    let (_, seen) = start_one(&mut disk);
    assert_eq!(seen.len() as u64, log.index().chain(1).unwrap().count);
}

#[test]
fn the_commit_window_bounds_what_waits() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    settle(&mut log, &mut disk);
    let mut appended_bytes = 0;
    let mut under_way = None;
    loop {
        match append(&mut log, 1, &[1; 1000]) {
            Ok(_) => appended_bytes += 1064,
            Err(AppendError::Busy) if under_way.is_none() => under_way = log.poll_op(),
            Err(refused) => {
                assert_eq!(refused, AppendError::Busy);
                break;
            }
        }
    }
    assert!(appended_bytes <= settings().commit_window_bytes);
    assert!(appended_bytes > settings().commit_window_bytes / 2, "two batches, one under way");
    let written = disk.perform(under_way.unwrap());
    log.handle(written);
    settle(&mut log, &mut disk);
    assert!(append(&mut log, 1, &[1; 1000]).is_ok());
    assert_eq!(append(&mut log, 1, &[1; 9000]), Err(AppendError::TooLarge));
}

#[test]
fn records_go_on_in_the_next_segment_and_all_come_back() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for number in 0..100_u32 {
        let body = vec![number as u8; (number as usize * 97) % 5000];
        append_durable(&mut log, &mut disk, u128::from(number % 3), &body);
    }
    let segments = disk.files.keys().filter(|path| path.ends_with(".seg")).count();
    assert!(segments >= 4, "{segments} segments");
    let (_, seen) = start_one(&mut disk);
    assert_eq!(seen.len(), 100);
    for (number, (entity, _, body)) in seen.iter().enumerate() {
        assert_eq!(*entity, number as u128 % 3);
        assert_eq!(body, &vec![number as u8; (number * 97) % 5000]);
    }
}

#[test]
fn the_old_segment_is_synced_before_the_new_one_is_written() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    settle(&mut log, &mut disk);
    let mut file_of_last_write = None;
    let mut is_synced = true;
    let mut rolls_count = 0;
    for _ in 0..60 {
        for _ in 0..3 {
            let _refused_while_busy = append(&mut log, 1, &[1; 2000]);
        }
        while let Some(op) = log.poll_op() {
            match &op {
                DiskOp::Write { file, .. } => {
                    if file_of_last_write.is_some_and(|last| last != *file) {
                        assert!(is_synced);
                        rolls_count += 1;
                    }
                    file_of_last_write = Some(*file);
                    is_synced = false;
                }
                DiskOp::Sync { .. } => is_synced = true,
                _ => {}
            }
            let event = disk.perform(op);
            log.handle(event);
        }
    }
    assert!(rolls_count >= 2);
}

#[test]
fn a_full_disk_refuses_and_room_made_takes_again() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    disk.faults = vec![Fault::FailPrepare; 2];
    settle(&mut log, &mut disk);
    assert_eq!(log.prepare_error(), Some(&DiskError::NoSpace));
    let mut count = 0;
    while append(&mut log, 1, &[1; 3000]).is_ok() {
        settle(&mut log, &mut disk);
        count += 1;
    }
    assert!(count >= 3, "the active segment is used up first");
    assert_eq!(append(&mut log, 1, &[1; 3000]), Err(AppendError::Full));
    log.retry_prepare();
    settle(&mut log, &mut disk);
    assert_eq!(append(&mut log, 1, &[1; 3000]), Err(AppendError::Full));
    log.retry_prepare();
    settle(&mut log, &mut disk);
    append_durable(&mut log, &mut disk, 1, &[1; 3000]);
    assert!(log.poisoned().is_none());
    assert_eq!(start_one(&mut disk).1.len(), count + 1);
}

#[test]
fn retention_removes_the_oldest_segments_that_no_start_needs() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for _ in 0..100 {
        append_durable(&mut log, &mut disk, 1, &[1; 2500]);
    }
    let keep = RetentionPolicy { bytes: Some(100_000), before: None };
    assert_eq!(log.retire(keep, log.snapshot_floor()), 0, "there is no snapshot to start from");
    snapshot(&mut log, &mut disk, &[]);
    let retired_count = log.retire(keep, log.snapshot_floor());
    assert!(retired_count >= 2);
    disk.trace.clear();
    settle(&mut log, &mut disk);
    assert_eq!(disk.trace.len() as u32, retired_count);
    assert!(disk.trace.is_sorted(), "oldest first");

    let check = |log: &storage::Log, disk: &mut Disk| {
        let query = |walk| PageQuery { entity: 1, walk, records_max: 200, bytes_max: u32::MAX };
        let newest_first = read(log, disk, query(Walk::Backwards { from: u64::MAX })).unwrap();
        let oldest_first =
            read(log, disk, query(Walk::Forwards { after: 0, through: u64::MAX })).unwrap();
        assert!(newest_first.retired_through > 0);
        assert_eq!(newest_first.retired_through, oldest_first.retired_through);
        let mut turned = newest_first.records;
        turned.reverse();
        assert_eq!(turned, oldest_first.records);
        assert_eq!(turned[0].sequence, oldest_first.retired_through + 1);
        assert_eq!(turned.last().unwrap().sequence, 100);
    };
    check(&log, &mut disk);
    let first = log.first();
    let (log, _) = start_one(&mut disk);
    assert_eq!(log.first(), first);
    check(&log, &mut disk);

    disk.files.retain(|path, _| !path.ends_with(".snap"));
    assert!(start(&mut disk, 1).is_err(), "the snapshot is what made the rest dispensable");
}

#[test]
fn retention_by_age_keeps_a_segment_until_its_last_record_is_old() {
    let mut disk = Disk::default();
    let (mut log, _) = start_one(&mut disk);
    for _ in 0..100 {
        append_durable(&mut log, &mut disk, 1, &[1; 2500]);
    }
    snapshot(&mut log, &mut disk, &[]);
    let (mut log, _) = start_one(&mut disk);
    // A test's stamp is its sequence, so "before 50" may not touch record 50.
    let keep = RetentionPolicy { bytes: None, before: Some(50) };
    assert!(log.retire(keep, log.snapshot_floor()) > 0);
    settle(&mut log, &mut disk);
    let walk = Walk::Backwards { from: u64::MAX };
    let query = PageQuery { entity: 1, walk, records_max: 200, bytes_max: u32::MAX };
    let page = read(&log, &mut disk, query).unwrap();
    assert!(page.retired_through > 10 && page.retired_through < 50);
}
