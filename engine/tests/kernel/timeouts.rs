//! Silence, and what the server makes of it.

use crate::support::{Client, Folder, hello};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use wire::CloseReason;

#[test]
fn who_does_not_authenticate_in_time_is_sent_away() {
    let folder = Folder::new();
    let server = folder.serve(&["--auth-timeout-s", "1"]);
    for first in [vec![], hello(), hello()[..7].to_vec()] {
        let started = Instant::now();
        let mut client = Client::connect(server.native);
        client.write(&first);
        assert_eq!(client.end(), (vec![], Some(CloseReason::AuthTimeout)));
        assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    }
    // A trickle does not buy time.
    let started = Instant::now();
    let mut client = Client::connect(server.native);
    for byte in hello() {
        if client.try_write(&[byte]).is_err() {
            break;
        }
        sleep(Duration::from_millis(150));
    }
    assert_eq!(client.end(), (vec![], Some(CloseReason::AuthTimeout)));
    assert!(started.elapsed() < Duration::from_secs(6));
    server.stop();
}

#[test]
fn two_missed_heartbeats_end_a_session_and_heartbeats_keep_it() {
    let folder = Folder::new();
    let server = folder.serve(&["--heartbeat-interval-s", "1"]);
    let mut silent = server.client("silent");
    let mut beating = server.client("beating");
    let mut talking = server.client("talking");
    let started = Instant::now();
    let beating = thread::spawn(move || {
        while started.elapsed() < Duration::from_secs(5) {
            beating.expect_alive();
            // Anything at all says that a client lives.
            talking.conversations();
            sleep(Duration::from_millis(300));
        }
        talking
    });
    assert_eq!(silent.end(), (vec![], Some(CloseReason::Idle)));
    let silent_for = started.elapsed();
    assert!(silent_for >= Duration::from_millis(1900), "{silent_for:?}");
    assert!(silent_for <= Duration::from_millis(4000), "{silent_for:?}");
    let mut talking = beating.join().unwrap();
    // Who was idle and comes back is as before.
    assert_eq!(talking.say("silent", b"psst").sequence.0, 1);
    let mut silent = server.login("silent", "phone");
    assert_eq!(silent.missed().len(), 1);
    server.stop();
}
