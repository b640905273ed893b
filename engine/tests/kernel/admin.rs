//! The admin door.

use crate::support::{Folder, Server};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn get(server: &Server, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.admin.unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A metric, over all shards; each has a line of its own.
fn sum(metrics: &str, name: &str, shards_count: usize) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let values: Vec<u64> =
        lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(values.len(), shards_count, "{name}");
    values.iter().sum()
}

#[test]
fn health_and_metrics_tell_of_the_traffic() {
    let folder = Folder::new();
    let server = folder.serve(&["--shards", "2", "--admin", "127.0.0.1:0"]);
    assert_eq!(get(&server, "/healthz").0, 200);
    assert_eq!(get(&server, "/readyz").0, 200);
    assert_eq!(get(&server, "/nothing").0, 404);
    let mut users: Vec<_> = (0..8).map(|n| server.client(&format!("user{n}"))).collect();
    for (n, user) in users.iter_mut().enumerate() {
        let peer = format!("user{}", (n + 1) % 8);
        for _ in 0..10 {
            user.say(&peer, b"hi");
        }
    }
    for user in &mut users {
        for _ in 0..10 {
            user.message();
        }
    }
    let (status, metrics) = get(&server, "/metrics");
    assert_eq!(status, 200);
    let sum = |name| sum(&metrics, name, 2);
    assert_eq!(sum("ringmain_sessions"), 8);
    assert_eq!(sum("ringmain_connections"), 8);
    assert_eq!(sum("ringmain_deliveries_total"), 80);
    assert!(sum("ringmain_appends_total") >= 80);
    assert!(sum("ringmain_commits_total") >= 10);
    // Hello, authenticate and ten messages each.
    assert_eq!(sum("ringmain_frames_in_total"), 8 * 12);
    assert!(sum("ringmain_bytes_in_total") > 8 * 12 * 16);
    assert!(sum("ringmain_accepted_total") >= 8);
    // At least welcome, authenticated, sync done, ten answers and ten messages each.
    assert!(sum("ringmain_frames_out_total") >= 8 * 23, "{}", sum("ringmain_frames_out_total"));
    server.stop();
}
