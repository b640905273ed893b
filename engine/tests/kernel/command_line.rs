//! Mistakes of operators: one sentence, and an exit code for scripts.

use crate::support::{Folder, run};
use std::fs;
use std::net::TcpListener;

/// A mistake is told in one line, and nothing runs.
#[track_caller]
fn check(arguments: &[&str], code: i32, words: &[&str]) {
    let (exit, stdout, stderr) = run(arguments);
    assert_eq!((exit, stdout.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
    let sentence = stderr.strip_prefix("ringmain: ").expect("it says who speaks");
    assert_eq!(sentence.trim_end().lines().count(), 1, "{stderr}");
    for word in words {
        assert!(sentence.contains(word), "{arguments:?}: no '{word}' in: {sentence}");
    }
}

#[test]
fn a_wrong_flag_is_a_sentence_and_exit_code_2() {
    check(&["serve", "--shrads", "2"], 2, &["--shrads", "'--shards'"]);
    check(&["serve", "--shards", "0"], 2, &["--shards", "expects", "0"]);
    check(&["serve", "--shards", "many"], 2, &["--shards", "many"]);
    check(&["serve", "--native", "localhost"], 2, &["--native", "localhost"]);
    check(&["serve", "--segment-bytes", "1 KiB"], 2, &["--segment-bytes", "16 MiB"]);
    check(&["serve", "--send-queue-bytes-max", "12 bananas"], 2, &["bananas"]);
    check(&["serve", "--heartbeat-interval-s=-1"], 2, &["--heartbeat-interval-s", "-1"]);
    check(&["serve", "--durability", "hope"], 2, &["--durability", "fsync", "memory", "hope"]);
    check(&["serve", "--dev-auth=perhaps"], 2, &["--dev-auth", "perhaps"]);
    check(&["serve", "--recv-buffers-count", "100"], 2, &["power of two"]);
    check(&["serve", "--dev-auth", "--native", "0.0.0.0:0"], 2, &["loopback"]);
    check(&["serve", "--shards", "2", "--pin", "0"], 2, &["pin"]);
    check(&["serve"], 2, &["nobody could log in", "jwt_hs256_secret_file", "dev_auth"]);
    check(&["serve", "stray"], 2, &["stray"]);
    check(&["swerve"], 2, &["swerve", "serve"]);
    check(&["chat"], 2, &["--user"]);
    check(&["chat", "--user", "a b"], 2, &["user"]);
    check(&["chat", "--user", "alice", "--group", "xyz"], 2, &["xyz"]);
    check(&["log", "dump", "--limit", "few"], 2, &["few"]);
}

#[test]
fn a_wrong_configuration_is_a_sentence_with_its_place_and_exit_code_2() {
    let folder = Folder::new();
    let file = folder.path("ringmain.toml");
    let name = file.to_str().unwrap();
    let check_file = |text: &str, words: &[&str]| {
        fs::write(&file, text).unwrap();
        for command in [&["serve", "--config", name][..], &["config", "check", "--config", name]] {
            check(command, 2, words);
        }
    };
    check_file("shrads = 2\n", &["line 1", "'shrads'", "'shards'"]);
    check_file("\n\nshards = \"two\"\n", &["line 3", "shards", "two"]);
    check_file("shards = \n", &["line 1"]);
    check_file("segment_bytes = 4097\n", &["segment_bytes"]);
    check_file("dev_auth = true\nnative = \"0.0.0.0:7400\"\n", &["loopback"]);
    check_file("dev_auth = true\njwt_hs256_secret_file = \"x\"\n", &["exclude"]);
    let missing = folder.path("missing.toml");
    check(&["serve", "--config", missing.to_str().unwrap()], 2, &["missing.toml"]);
}

#[test]
fn what_the_world_refuses_is_a_sentence_and_exit_code_1() {
    let folder = Folder::new();
    let data = folder.data();
    let data = data.to_str().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let serve = |flags: &[&str]| {
        let (code, stdout, stderr) =
            run(&[&["serve", "--log-level", "error", "--shards", "1"], flags].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{flags:?}: {stderr}");
        stderr
    };
    let stderr = serve(&["--dev-auth", "--data", data, "--native", &address]);
    assert!(stderr.contains(&address), "{stderr}");
    let stderr = serve(&["--dev-auth", "--data", "/proc/nowhere", "--native", "127.0.0.1:0"]);
    assert!(stderr.contains("/proc/nowhere"), "{stderr}");
    let missing = folder.path("no-secret");
    let missing = missing.to_str().unwrap();
    let secret = ["--jwt-hs256-secret-file", missing, "--data", data, "--native", "127.0.0.1:0"];
    assert!(serve(&secret).contains("no-secret"));
}

#[test]
fn the_default_configuration_is_one_that_is_accepted() {
    let (code, text, _) = run(&["config", "print-default"]);
    assert_eq!(code, Some(0));
    let folder = Folder::new();
    let file = folder.path("default.toml");
    fs::write(&file, &text).unwrap();
    let (code, checked, stderr) = run(&["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let (_, plain, _) = run(&["config", "check"]);
    assert_eq!(checked, plain);
    for flag in ["--help", "--version"] {
        let (code, stdout, stderr) = run(&[flag]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.contains("ringmain"), "{stdout}");
    }
}
