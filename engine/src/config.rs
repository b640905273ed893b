//! What an operator may set, from one table.
//!
//! Defaults, then the file, then flags: the later wins. The struct, the flags with their help, the
//! commented default file and the errors all follow from the rows of `settings!`. A wrong setting
//! is refused in one sentence that says what was expected and where; it is never guessed at.

mod host;
mod value;

pub use host::{Host, Placement};
pub use value::{Durability, LogFormat, LogLevel, Pin};

use clap::{Arg, ArgMatches, Command};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use value::{Raw, Setting};

/// Why a configuration was refused. Each is a whole sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {file}: {error}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        error: String,
    },
    /// The file is not TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// What the parser said.
        message: String,
    },
    /// There is no such key.
    #[error("{place}: there is no setting '{key}'{}", suggestion(.nearest))]
    Unknown {
        /// File and line.
        place: String,
        /// As written.
        key: String,
        /// The right name it is nearest to.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong type, or outside its range.
    #[error("{place}: {key} expects {expected}, not {found}")]
    Value {
        /// File and line, or the flag.
        place: String,
        /// Which setting.
        key: &'static str,
        /// What it takes.
        expected: String,
        /// What was written.
        found: String,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Conflict(String),
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file; with hyphens, its flag.
    pub name: &'static str,
    /// What it counts, where it is a number.
    pub unit: &'static str,
    /// As it would be written in the file.
    pub default: &'static str,
    /// One or two sentences.
    pub about: &'static str,
    /// What kind of value it takes, for the help.
    pub takes: &'static str,
    range: (u64, u64),
    is_switch: bool,
}

impl Key {
    /// Its flag, without the leading hyphens.
    pub fn flag(&self) -> &'static str {
        static FLAGS: LazyLock<Vec<String>> =
            LazyLock::new(|| KEYS.iter().map(|key| key.name.replace('_', "-")).collect());
        let index = KEYS.iter().position(|key| key.name == self.name);
        &FLAGS[index.expect("keys are made by the table alone")]
    }
}

macro_rules! settings {
    ($($field:ident: $type:ty, $default:literal, $unit:literal, $range:expr, $about:literal;)*) => {
        /// Everything that can be set. Made by [`Config::load`], which has checked it.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $(#[doc = $about] pub $field: $type,)*
        }

        /// Every row of the table, in the order of the reference.
        pub const KEYS: &[Key] = &[$(Key {
            name: stringify!($field),
            unit: $unit,
            default: $default,
            about: $about,
            takes: <$type as Setting>::TAKES,
            range: $range,
            is_switch: <$type as Setting>::IS_SWITCH,
        },)*];

        impl Default for Config {
            fn default() -> Self {
                let mut keys = KEYS.iter();
                Config {
                    $($field: {
                        let key = keys.next().expect("a key for each field");
                        value::parse_default::<$type>(key)
                    },)*
                }
            }
        }

        impl Config {
            /// Sets `key` from what was written at `place`.
            fn set(&mut self, key: &Key, raw: &Raw<'_>, place: &str) -> Result<(), ConfigError> {
                match key.name {
                    $(stringify!($field) => {
                        self.$field = value::parse::<$type>(key, raw, place)?;
                    })*
                    _ => unreachable!("every key has a field"),
                }
                Ok(())
            }

            /// What `key` is set to, as it would be written in the file.
            fn written(&self, key: &Key) -> String {
                match key.name {
                    $(stringify!($field) => self.$field.written(),)*
                    _ => unreachable!("every key has a field"),
                }
            }
        }
    };
}

const ANY: (u64, u64) = (0, u64::MAX);

settings! {
    native: SocketAddr, "\"127.0.0.1:7400\"", "", ANY,
        "Address of the native binary door.";
    admin: Option<SocketAddr>, "\"\"", "", ANY,
        "Address for /metrics, /healthz and /readyz. Empty: not served.";
    data: PathBuf, "\"./ringmain-data\"", "", ANY,
        "Folder of the log. Made where it does not exist.";
    shards: Option<u16>, "\"auto\"", "shards", (1, 1024),
        "Threads that serve. auto: one for each CPU the process may use.";
    pin: Pin, "\"auto\"", "", ANY,
        "Which CPU each shard keeps to: auto (one each), none, or a list such as \"0,2,4-7\".";
    durability: Durability, "\"fsync\"", "", ANY,
        "When a message counts as sent: fsync (on disk) or memory (survives the process only).";
    dev_auth: bool, "false", "", ANY,
        "Take a client's word for its user id. For development: only loopback may be listened on.";
    dev_auth_anywhere: bool, "false", "", ANY,
        "Allow dev_auth on every address. Anybody who can connect can then be anybody.";
    jwt_hs256_secret_file: Option<PathBuf>, "\"\"", "", ANY,
        "File with the secret that tokens are signed with. Empty: tokens are refused.";
    jwt_audience: Option<String>, "\"\"", "", ANY,
        "Audience a token must name. Empty: not checked.";
    jwt_issuer: Option<String>, "\"\"", "", ANY,
        "Issuer a token must name. Empty: not checked.";
    heartbeat_interval_s: u32, "25", "seconds", (1, 3600),
        "How often a client says that it lives; after two missed it is closed.";
    auth_timeout_s: u32, "10", "seconds", (1, 600),
        "How long a connection may take to authenticate.";
    connections_max: Option<u32>, "\"auto\"", "connections a shard", (1, 4_000_000),
        "Connections a shard takes. auto: what the limit on open files allows.";
    accept_budget: u32, "1024", "connections a turn", (1, 65_536),
        "Connections a shard takes in one turn, so that a storm of them leaves room for the rest.";
    send_queue_bytes_max: u64, "\"1 MiB\"", "bytes a connection", (160 << 10, 64 << 20),
        "What may wait for a slow reader before it is closed, to resume later.";
    recv_buffers_count: u32, "4096", "buffers a shard", (16, 32_768),
        "Receive buffers, a power of two.";
    recv_buffer_bytes: u32, "\"4 KiB\"", "bytes a buffer", (512, 1 << 20),
        "Size of a receive buffer.";
    segment_bytes: u64, "\"256 MiB\"", "bytes", (16 << 20, 1 << 30),
        "Size of a segment file of the log, whole 4 KiB blocks.";
    commit_window_bytes: u64, "\"32 MiB\"", "bytes a shard", (4 << 20, 256 << 20),
        "What may wait for the disk before sends are refused as busy, whole 8 KiB.";
    retention_bytes: u64, "0", "bytes a shard", ANY,
        "Log kept, at least; older segments go. 0: everything is kept.";
    retention_days: u32, "0", "days", (0, 36_500),
        "How long messages are kept. 0: for ever.";
    snapshot_every_bytes: u64, "\"256 MiB\"", "bytes a shard", (16 << 20, 1 << 40),
        "Log written between snapshots; a start replays at most about this much.";
    dedup_entries_max: u32, "1000000", "sends a shard", (1, 100_000_000),
        "Sends remembered to recognise a retry; beyond it the oldest go before their 24 hours.";
    group_members_max: u32, "1000", "members", (2, 100_000),
        "Members a group may have.";
    spin_us: u32, "0", "microseconds", (0, 1_000_000),
        "How long a shard looks for work before it sleeps. 0: it sleeps at once.";
    log_format: LogFormat, "\"text\"", "", ANY,
        "How the process logs to stderr: text or json.";
    log_level: LogLevel, "\"info\"", "", ANY,
        "How much it logs: error, warn, info, debug or trace. RINGMAIN_LOG goes before it.";
}

impl Config {
    /// Defaults, then `file`, then `flags`; checked as a whole.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
                file: name.clone(),
                error: error.to_string(),
            })?;
            config.apply_toml(&name, &text)?;
        }
        for (key, text) in &flags.given {
            config.set(key, &Raw::Flag(text), &format!("--{}", key.flag()))?;
        }
        config.check()?;
        Ok(config)
    }

    /// Sets what `text`, the content of `file`, says.
    fn apply_toml(&mut self, file: &str, text: &str) -> Result<(), ConfigError> {
        let place = |offset: usize| format!("{file}, line {}", line_of(text, offset));
        let table = toml::de::DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: place(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        // The table is sorted by key; the operator reads the file from the top.
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let place = place(name.span().start);
            let name = name.get_ref().as_ref();
            let key =
                KEYS.iter().find(|key| key.name == name).ok_or_else(|| ConfigError::Unknown {
                    place: place.clone(),
                    key: name.to_owned(),
                    nearest: nearest(name),
                })?;
            self.set(key, &Raw::from_toml(value.get_ref()), &place)?;
        }
        Ok(())
    }

    /// What no single setting can know.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: &str| Err(ConfigError::Conflict(text.to_owned()));
        if !self.recv_buffers_count.is_power_of_two() {
            return refuse("recv_buffers_count must be a power of two, such as 4096");
        }
        if !self.segment_bytes.is_multiple_of(4096) {
            return refuse("segment_bytes must be whole 4 KiB blocks, such as \"256 MiB\"");
        }
        if !self.commit_window_bytes.is_multiple_of(8192) {
            return refuse("commit_window_bytes must be a multiple of 8 KiB, such as \"8 MiB\"");
        }
        if self.dev_auth && !self.dev_auth_anywhere && !self.native.ip().is_loopback() {
            return Err(ConfigError::Conflict(format!(
                "dev_auth takes every client's word for who it is, and {} is not a loopback \
                 address: listen on 127.0.0.1, or add dev_auth_anywhere if that is meant",
                self.native
            )));
        }
        if self.dev_auth && self.jwt_hs256_secret_file.is_some() {
            return refuse("dev_auth and jwt_hs256_secret_file exclude each other: set one");
        }
        if let (Some(shards), Pin::List(cpus)) = (self.shards, &self.pin)
            && cpus.len() != usize::from(shards)
        {
            return Err(ConfigError::Conflict(format!(
                "pin names {} CPUs for {shards} shards: name one for each",
                cpus.len()
            )));
        }
        Ok(())
    }

    /// The configuration in force, as a file that would give it.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for key in KEYS {
            writeln!(out, "{} = {}", key.name, self.written(key)).expect("a string takes any text");
        }
        out
    }

    /// The commented file of all defaults.
    pub fn default_toml() -> String {
        let mut out = String::from(
            "# Ringmain's settings and their defaults. A flag of the same name, with hyphens,\n\
             # goes before a line here: --heartbeat-interval-s 10.\n",
        );
        for key in KEYS {
            let unit = if key.unit.is_empty() { String::new() } else { format!(" ({})", key.unit) };
            writeln!(out, "\n# {}{unit}\n{} = {}", key.about, key.name, key.default)
                .expect("a string takes any text");
        }
        out
    }
}

/// The line, from 1, that byte `offset` of `text` is on.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The right name that `wrong` most likely meant, if one is near enough to be meant at all.
fn nearest(wrong: &str) -> Option<&'static str> {
    let wrong = wrong.replace('-', "_");
    let score = |key: &&Key| strsim::jaro_winkler(&wrong, key.name);
    let best = KEYS.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(&best) > 0.8).then_some(best.name)
}

/// What the command line set, before it is parsed and checked.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    given: Vec<(&'static Key, String)>,
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let text = |key: &'static Key| matches.get_one::<String>(key.name).cloned();
        let given = KEYS.iter().filter_map(|key| Some((key, text(key)?))).collect();
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| command.arg(flag_argument(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag_argument(key: &Key) -> Arg {
    let default = key.default.trim_matches('"');
    let default = if default.is_empty() { "none" } else { default };
    let unit = if key.unit.is_empty() { String::new() } else { format!("{}; ", key.unit) };
    let argument = Arg::new(key.name)
        .long(key.flag())
        .value_name(key.takes)
        .help(format!("{} [{unit}default: {default}]", key.about));
    if key.is_switch {
        argument.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        argument
    }
}

#[cfg(test)]
mod tests;
