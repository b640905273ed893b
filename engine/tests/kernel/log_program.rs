//! `ringmain log`, and what a damaged folder does to it and to a start.

use crate::support::{Folder, run};
use std::fs;
use std::path::{Path, PathBuf};

const MARK: &str = "a sentence that is nowhere else";

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// A folder with some traffic in it, the mark in the middle.
fn folder_with_traffic() -> Folder {
    let folder = Folder::new();
    let server = folder.serve(&["--shards", "2"]);
    let mut alice = server.client("alice");
    for n in 0..40 {
        alice.say("bob", format!("message {n}").as_bytes());
        if n == 20 {
            alice.say("bob", MARK.as_bytes());
        }
    }
    let group = alice.create_group(1, "some", &["bob"]);
    alice.say_in(group, b"in a group");
    server.stop();
    folder
}

fn log(words: &[&str], folder: &Folder) -> (Option<i32>, String, String) {
    let data = folder.data();
    run(&[&["log"], words, &["--data", data.to_str().unwrap()]].concat())
}

#[test]
fn a_log_can_be_verified_dumped_and_counted() {
    let folder = folder_with_traffic();
    let (code, out, err) = log(&["verify"], &folder);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("whole\n"), "{out}");

    let (code, out, err) = log(&["dump", "--json", "--content"], &folder);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let rows: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages = rows.iter().filter(|row| row["kind"] == "message");
    assert_eq!(messages.count(), 42);
    assert!(rows.iter().any(|row| row["content"] == MARK && row["sender"] == "alice"));
    assert!(rows.iter().any(|row| row["kind"] == "group_created"));
    // What people say is not shown unless it is asked for.
    let (code, out, _) = log(&["dump"], &folder);
    assert_eq!(code, Some(0));
    assert!(!out.contains(MARK) && out.lines().count() == rows.len(), "{out}");

    let (code, out, err) = log(&["stat", "--json"], &folder);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let rows = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let messages = rows.filter(|row| row["kind"] == "message");
    assert_eq!(messages.map(|row| row["records"].as_u64().unwrap()).sum::<u64>(), 42);

    let (code, _, err) = run(&["log", "verify", "--data", "/nonexistent"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("/nonexistent"), "{err}");
}

#[test]
fn a_flipped_bit_is_found_named_and_never_served() {
    let folder = folder_with_traffic();
    let find = |bytes: &[u8]| bytes.windows(MARK.len()).position(|part| part == MARK.as_bytes());
    let mut hits = files(&folder.data()).into_iter().filter_map(|path| {
        let bytes = fs::read(&path).unwrap();
        find(&bytes).map(|at| (path, bytes, at))
    });
    let (path, mut bytes, at) = hits.next().expect("it was stored");
    assert!(hits.next().is_none(), "and once");
    bytes[at + 3] ^= 0x10;
    fs::write(&path, &bytes).unwrap();

    let (code, out, err) = log(&["verify"], &folder);
    assert_eq!(code, Some(1), "{out}{err}");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(out.contains(name) && out.contains("DAMAGED"), "{out}");
    let digits = |text: &str| -> Vec<u64> {
        text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    };
    let is_near = |place: &u64| *place <= at as u64 && at as u64 - place < 512;
    assert!(digits(&out).iter().any(is_near), "no place near byte {at}: {out}");

    let Err((status, stderr)) = folder.try_serve(&folder.data(), &["--dev-auth"]) else {
        panic!("a damaged log is served")
    };
    assert_eq!(status.code(), Some(1));
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("ringmain: ") && last.contains(name), "{stderr}");
    assert!(last.contains("damaged at byte"), "{last}");
    // Refusing changed nothing: with the bit back, all is as it was.
    bytes[at + 3] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let server = folder.serve(&["--shards", "2"]);
    let mut bob = server.client("bob");
    assert_eq!(bob.listed("alice").last, 41);
    server.stop();
}

#[test]
fn a_torn_tail_is_cut_and_everything_before_it_is_there() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = server.client("alice");
    for _ in 0..10 {
        alice.say("bob", b"kept");
    }
    let conversation = alice.say("bob", MARK.as_bytes()).conversation;
    server.kill();
    let is_hit = |bytes: &[u8]| bytes.windows(MARK.len()).position(|part| part == MARK.as_bytes());
    let (path, mut bytes, at) = files(&folder.data())
        .into_iter()
        .find_map(|path| {
            let bytes = fs::read(&path).unwrap();
            is_hit(&bytes).map(|at| (path, bytes, at))
        })
        .unwrap();
    // As if the power had gone before the last write was whole.
    bytes[at + 5..].fill(0);
    fs::write(&path, &bytes).unwrap();
    let server = folder.serve(&[]);
    let mut bob = server.client("bob");
    assert_eq!(bob.whole_history(conversation).len(), 10);
    assert_eq!(server.client("alice").say("bob", b"next").sequence.0, 11);
    server.kill();
    let server = folder.serve(&[]);
    assert_eq!(server.client("bob").whole_history(conversation).len(), 11);
    server.stop();
}
