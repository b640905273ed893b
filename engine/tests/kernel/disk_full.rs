//! A full disk: sends are refused, reading goes on, and room makes it all work again.

use crate::support::{Client, Folder, PATIENCE, Received, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wire::body::Target;
use wire::fixed::Sent;
use wire::{ErrorCode, Kind};

/// A file system of its own, in memory. Dropped, it is gone.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path, size: &str) -> Result<Self, String> {
        fs::create_dir(place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "ringmain"]).arg(place);
        let output = mount.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self(place.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Sends until it is refused for want of room: what was stored.
fn fill(client: &mut Client, next_id: &mut u128) -> Vec<Sent> {
    let content = vec![b'x'; 60 * 1024];
    let mut stored = Vec::new();
    loop {
        *next_id += 1;
        let reference = client.send(Target::Recipient("bob"), *next_id, &content);
        let answer = client.reply(reference);
        if answer.kind == Kind::MessageSent {
            stored.push(answer.sent());
            assert!(stored.len() < 2000, "the disk is not small");
            continue;
        }
        let (code, text) = answer.error();
        assert_eq!(code, ErrorCode::Busy);
        if text.contains("insufficient storage") {
            return stored;
        }
    }
}

#[test]
fn a_full_disk_refuses_sends_serves_reads_and_recovers_by_itself() {
    let folder = Folder::new();
    let disk = match SmallDisk::mount(&folder.path("small"), "72m") {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: no tmpfs may be mounted here: {why}");
            return;
        }
    };
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 36 << 20]).unwrap();
    let data = disk.0.join("data");
    let server = folder.try_serve(&data, &["--dev-auth"]).unwrap();
    let mut alice = server.client("alice");
    let mut next_id = 0;
    let mut stored = fill(&mut alice, &mut next_id);
    let conversation = stored[0].conversation;
    assert!(stored.len() > 100, "{}", stored.len());
    // Reading goes on, for who is there and for who comes.
    let check = |client: &mut Client, stored: &[Sent]| {
        let history = client.whole_history(conversation);
        let kept: Vec<_> = history.iter().map(|message| message.id).collect();
        assert_eq!(kept, stored.iter().map(|sent| sent.message).collect::<Vec<_>>());
    };
    check(&mut alice, &stored);
    let mut bob = server.client("bob");
    check(&mut bob, &stored);
    // What was refused was not stored under its id either.
    let refused = next_id;
    fs::remove_file(&ballast).unwrap();
    let again = wait_for("room to be found", PATIENCE, || {
        let reference = alice.send(Target::Recipient("bob"), refused, b"again");
        let answer: Received = alice.reply(reference);
        (answer.kind == Kind::MessageSent).then(|| answer.sent())
    });
    assert_eq!(again.sequence.0, stored.len() as u64 + 1);
    assert_eq!(bob.message().text(), "again");
    stored.push(again);
    stored.extend(fill(&mut alice, &mut next_id));
    check(&mut bob, &stored);
    server.kill();
    // A start needs no room for what it cannot write yet.
    let server = folder.try_serve(&data, &["--dev-auth"]).unwrap();
    let mut bob = server.client("bob");
    check(&mut bob, &stored);
    server.stop();
}
