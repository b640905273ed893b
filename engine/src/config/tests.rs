use super::*;
use clap::{Args, FromArgMatches};

fn flags(words: &[&str]) -> Flags {
    let command = Flags::augment_args(Command::new("serve").no_binary_name(true));
    Flags::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    config.apply_toml("r.toml", text)?;
    config.check()?;
    Ok(config)
}

#[track_caller]
fn check(text: &str, sentence: &str) {
    assert_eq!(from_file(text).unwrap_err().to_string(), sentence);
}

#[test]
fn the_printed_default_file_gives_the_defaults() {
    assert_eq!(from_file(&Config::default_toml()).unwrap(), Config::default());
    assert_eq!(from_file(&Config::default().to_toml()).unwrap(), Config::default());
}

#[test]
fn what_is_printed_as_effective_gives_the_same_configuration_again() {
    let config = from_file(
        "native = '[::1]:99'\nadmin = '127.0.0.1:1'\nshards = 3\npin = '0,2-3'\n\
         jwt_issuer = 'a \"quoted\" one'\nsend_queue_bytes_max = '1 MiB'\nlog_format = 'json'",
    )
    .unwrap();
    assert_eq!(config.pin, Pin::List(vec![0, 2, 3]));
    assert_eq!(config.send_queue_bytes_max, 1 << 20);
    assert_eq!(from_file(&config.to_toml()).unwrap(), config);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_right_name_and_the_line() {
    check(
        "# mine\n\nheartbeat_intervall_s = 3",
        "r.toml, line 3: there is no setting 'heartbeat_intervall_s'; did you mean \
         'heartbeat_interval_s'?",
    );
    check(
        "dev-auth = true",
        "r.toml, line 1: there is no setting 'dev-auth'; did you mean 'dev_auth'?",
    );
    check("xyzzy = 1", "r.toml, line 1: there is no setting 'xyzzy'");
}

#[test]
fn a_wrong_type_says_what_was_expected_and_where() {
    check(
        "\nnative = 7400",
        "r.toml, line 2: native expects an address and port such as 127.0.0.1:7400, not 7400",
    );
    check("dev_auth = 'yes'", "r.toml, line 1: dev_auth expects true or false, not \"yes\"");
    check(
        "auth_timeout_s = 1.5",
        "r.toml, line 1: auth_timeout_s expects a whole number of seconds, from 1 to 600, not a \
         number with a decimal point",
    );
    check(
        "shards = 'many'",
        "r.toml, line 1: shards expects a whole number of shards, from 1 to 1024 or \"auto\", \
         not \"many\"",
    );
    check(
        "durability = 'maybe'",
        "r.toml, line 1: durability expects one of \"fsync\", \"memory\", not \"maybe\"",
    );
    check(
        "pin = '3-1'",
        "r.toml, line 1: pin expects \"auto\", \"none\" or a list of CPUs such as \"0,2,4-7\", \
         not \"3-1\"",
    );
}

#[test]
fn a_number_out_of_range_is_refused_with_the_range() {
    check(
        "commit_window_bytes = '1 MiB'",
        "r.toml, line 1: commit_window_bytes expects a number of bytes such as 4096 or \"4 KiB\", \
         from 4 MiB to 256 MiB, not \"1 MiB\"",
    );
    check(
        "retention_days = -1",
        "r.toml, line 1: retention_days expects a whole number of days, from 0 to 36500, not -1",
    );
    check(
        "dedup_entries_max = 0",
        "r.toml, line 1: dedup_entries_max expects a whole number of sends a shard, from 1 to \
         100000000, not 0",
    );
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let error = from_file("native = '127.0.0.1:1'\nshards = = 2").unwrap_err().to_string();
    assert!(error.starts_with("r.toml, line 2: "), "{error}");
}

#[test]
fn the_topmost_mistake_of_a_file_is_reported() {
    let error = from_file("zzz = 1\naaa = 1").unwrap_err().to_string();
    assert_eq!(error, "r.toml, line 1: there is no setting 'zzz'");
}

#[test]
fn dev_auth_refuses_to_listen_beyond_loopback_unless_told_twice() {
    check(
        "dev_auth = true\nnative = '0.0.0.0:7400'",
        "dev_auth takes every client's word for who it is, and 0.0.0.0:7400 is not a loopback \
         address: listen on 127.0.0.1, or add dev_auth_anywhere if that is meant",
    );
    let told = "dev_auth = true\ndev_auth_anywhere = true\nnative = '0.0.0.0:7400'";
    assert!(from_file(told).unwrap().dev_auth);
    assert!(from_file("dev_auth = true\nnative = '[::1]:7400'").is_ok());
}

#[test]
fn sizes_that_do_not_fit_the_log_are_refused() {
    check(
        "segment_bytes = 16777217",
        "segment_bytes must be whole 4 KiB blocks, such as \"256 MiB\"",
    );
    check("recv_buffers_count = 1000", "recv_buffers_count must be a power of two, such as 4096");
    check("shards = 2\npin = '0'", "pin names 1 CPUs for 2 shards: name one for each");
}

#[test]
fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringmain.toml");
    std::fs::write(&file, "heartbeat_interval_s = 7\nauth_timeout_s = 7\n").unwrap();
    let flags = flags(&["--auth-timeout-s", "9", "--dev-auth", "--segment-bytes", "32 MiB"]);
    let config = Config::load(Some(&file), &flags).unwrap();
    assert_eq!((config.heartbeat_interval_s, config.auth_timeout_s), (7, 9));
    assert_eq!(config.connections_max, None);
    assert_eq!((config.dev_auth, config.segment_bytes), (true, 32 << 20));
}

#[test]
fn a_wrong_flag_is_refused_under_its_own_name() {
    let error = Config::load(None, &flags(&["--shards", "0"])).unwrap_err().to_string();
    assert_eq!(
        error,
        "--shards: shards expects a whole number of shards, from 1 to 1024 or \"auto\", not '0'"
    );
}

#[test]
fn a_missing_file_is_named() {
    let path = Path::new("/nonexistent/ringmain.toml");
    let error = Config::load(Some(path), &Flags::default()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration file /nonexistent/ringmain.toml: "));
}

fn host(cpus_count: usize, open_files_max: u64) -> Host {
    Host { cpus_allowed: (0..cpus_count).collect(), open_files_max }
}

#[test]
fn auto_is_a_shard_for_each_cpu_with_a_table_as_large_as_the_limit() {
    let placement = Config::default().place(&host(4, 5000)).unwrap();
    assert_eq!(
        placement,
        Placement { pins: vec![Some(0), Some(1), Some(2), Some(3)], connections_max: 5000 }
    );
}

#[test]
fn more_shards_than_cpus_are_not_pinned() {
    let placement = from_file("shards = 3").unwrap().place(&host(2, 20_000)).unwrap();
    assert_eq!((placement.shards_count(), placement.pins), (3, vec![None, None, None]));
}

#[test]
fn a_host_that_cannot_give_what_was_asked_is_refused_in_a_sentence() {
    let wrong = |text: &str, host: &Host| from_file(text).unwrap().place(host).unwrap_err();
    assert_eq!(
        wrong("pin = '7'", &host(2, 20_000)).to_string(),
        "pin names CPU 7, which this process may not use; it may use [0, 1]"
    );
    assert_eq!(
        wrong("connections_max = 1025\nshards = 1", &host(2, 1024)).to_string(),
        "connections_max is 1025 a shard, and the limit of 1024 open files allows 1024: raise it \
         (ulimit -n), or set fewer"
    );
}
