//! Values of settings: what may be written, and how it is written back.

use super::{ConfigError, Key};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::de::DeValue;

/// A value as it was written, before its setting says what it should have been.
pub(super) enum Raw<'a> {
    /// Text in the file.
    Text(&'a str),
    /// A whole number in the file.
    Whole(i128),
    /// `true` or `false` in the file.
    Bool(bool),
    /// Another type of TOML, by its name.
    Other(&'static str),
    /// The value of a flag: text that may stand for any type.
    Flag(&'a str),
}

impl<'a> Raw<'a> {
    pub(super) fn from_toml(value: &'a DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text),
            DeValue::Boolean(value) => Self::Bool(*value),
            DeValue::Integer(whole) => {
                let digits = whole.as_str().replace('_', "");
                match i128::from_str_radix(&digits, whole.radix()) {
                    Ok(value) => Self::Whole(value),
                    Err(_) => Self::Other("a number out of range"),
                }
            }
            DeValue::Float(_) => Self::Other("a number with a decimal point"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Array(_) => Self::Other("an array"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) | Self::Flag(text) => Some(text),
            Self::Whole(_) | Self::Bool(_) | Self::Other(_) => None,
        }
    }

    /// As an error names it.
    fn found(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Flag(text) => format!("'{text}'"),
            Self::Whole(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Other(what) => (*what).to_owned(),
        }
    }
}

/// A type of value that a setting may have.
pub(super) trait Setting: Sized {
    /// What the help calls it.
    const TAKES: &'static str;
    /// Whether its flag may stand without a value.
    const IS_SWITCH: bool = false;
    /// What an error says was expected.
    fn expected(key: &Key) -> String;
    /// The value, if `raw` is one.
    fn read(raw: &Raw<'_>, key: &Key) -> Option<Self>;
    /// As it would be written in the file.
    fn written(&self) -> String;
}

pub(super) fn parse<T: Setting>(key: &Key, raw: &Raw<'_>, place: &str) -> Result<T, ConfigError> {
    T::read(raw, key).ok_or_else(|| ConfigError::Value {
        place: place.to_owned(),
        key: key.name,
        expected: T::expected(key),
        found: raw.found(),
    })
}

/// The default of `key`. Stops where the table's own default is not valid: that is our bug.
pub(super) fn parse_default<T: Setting>(key: &Key) -> T {
    let raw = match key.default {
        "true" => Raw::Bool(true),
        "false" => Raw::Bool(false),
        text => match text.parse() {
            Ok(value) => Raw::Whole(value),
            Err(_) => Raw::Text(text.trim_matches('"')),
        },
    };
    T::read(&raw, key).unwrap_or_else(|| panic!("{}: the default is not valid", key.name))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Setting for SocketAddr {
    const TAKES: &'static str = "ADDR";
    fn expected(_: &Key) -> String {
        "an address and port such as 127.0.0.1:7400".to_owned()
    }
    fn read(raw: &Raw<'_>, _: &Key) -> Option<Self> {
        raw.text()?.parse().ok()
    }
    fn written(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for PathBuf {
    const TAKES: &'static str = "PATH";
    fn expected(_: &Key) -> String {
        "a path".to_owned()
    }
    fn read(raw: &Raw<'_>, _: &Key) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(PathBuf::from)
    }
    fn written(&self) -> String {
        quoted(&self.display().to_string())
    }
}

impl Setting for String {
    const TAKES: &'static str = "TEXT";
    fn expected(_: &Key) -> String {
        "a text in quotes".to_owned()
    }
    fn read(raw: &Raw<'_>, _: &Key) -> Option<Self> {
        raw.text().map(str::to_owned)
    }
    fn written(&self) -> String {
        quoted(self)
    }
}

impl Setting for bool {
    const TAKES: &'static str = "true|false";
    const IS_SWITCH: bool = true;
    fn expected(_: &Key) -> String {
        "true or false".to_owned()
    }
    fn read(raw: &Raw<'_>, _: &Key) -> Option<Self> {
        match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Flag(text) => text.parse().ok(),
            Raw::Text(_) | Raw::Whole(_) | Raw::Other(_) => None,
        }
    }
    fn written(&self) -> String {
        self.to_string()
    }
}

/// A type with a word that stands for no value.
trait Absent: Setting {
    const WORD: &'static str;
}

impl Absent for SocketAddr {
    const WORD: &'static str = "";
}
impl Absent for PathBuf {
    const WORD: &'static str = "";
}
impl Absent for String {
    const WORD: &'static str = "";
}
impl Absent for u16 {
    const WORD: &'static str = "auto";
}
impl Absent for u32 {
    const WORD: &'static str = "auto";
}

impl<T: Absent> Setting for Option<T> {
    const TAKES: &'static str = T::TAKES;
    fn expected(key: &Key) -> String {
        match T::WORD {
            "" => T::expected(key),
            word => format!("{} or \"{word}\"", T::expected(key)),
        }
    }
    fn read(raw: &Raw<'_>, key: &Key) -> Option<Self> {
        if raw.text() == Some(T::WORD) {
            return Some(None);
        }
        T::read(raw, key).map(Some)
    }
    fn written(&self) -> String {
        self.as_ref().map_or_else(|| quoted(T::WORD), T::written)
    }
}

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes as people write it: digits, and perhaps a unit.
fn bytes_of(text: &str) -> Option<u64> {
    for (unit, bytes) in UNITS {
        if let Some(digits) = text.strip_suffix(unit) {
            return digits.trim_end().parse::<u64>().ok()?.checked_mul(bytes);
        }
    }
    text.parse().ok()
}

fn whole_of(raw: &Raw<'_>, key: &Key) -> Option<u64> {
    let is_bytes = key.unit.starts_with("bytes");
    let value = match raw {
        Raw::Whole(value) => u64::try_from(*value).ok()?,
        Raw::Flag(text) | Raw::Text(text) if is_bytes => bytes_of(text)?,
        Raw::Flag(text) => text.parse().ok()?,
        Raw::Text(_) | Raw::Bool(_) | Raw::Other(_) => return None,
    };
    (key.range.0..=key.range.1).contains(&value).then_some(value)
}

fn whole_expected(key: &Key, type_max: u64) -> String {
    let (low, high) = (key.range.0, key.range.1.min(type_max));
    let what = if key.unit.starts_with("bytes") {
        "a number of bytes such as 4096 or \"4 KiB\"".to_owned()
    } else {
        format!("a whole number of {}", key.unit)
    };
    match (low, high) {
        (0, u64::MAX) => what,
        (low, u64::MAX) => format!("{what}, {} or more", number(key, low)),
        (low, high) => format!("{what}, from {} to {}", number(key, low), number(key, high)),
    }
}

/// A bound as a person would write it.
fn number(key: &Key, value: u64) -> String {
    let unit = UNITS.iter().find(|(_, bytes)| value > 0 && value.is_multiple_of(*bytes));
    match unit {
        Some((name, bytes)) if key.unit.starts_with("bytes") => format!("{} {name}", value / bytes),
        _ => value.to_string(),
    }
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {$(
        impl Setting for $type {
            const TAKES: &'static str = "N";
            fn expected(key: &Key) -> String {
                whole_expected(key, u64::from(<$type>::MAX))
            }
            fn read(raw: &Raw<'_>, key: &Key) -> Option<Self> {
                whole_of(raw, key)?.try_into().ok()
            }
            fn written(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_numbers! { u16 u32 u64 }

/// A setting that is one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$word_doc:meta])* $name:ident $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$word_doc])* $name,)* }

        impl $type {
            /// As it is written.
            pub fn name(self) -> &'static str { match self { $(Self::$name => $word,)* } }
        }

        impl Setting for $type {
            const TAKES: &'static str = "WORD";
            fn expected(_: &Key) -> String {
                format!("one of {}", [$(concat!("\"", $word, "\"")),*].join(", "))
            }
            fn read(raw: &Raw<'_>, _: &Key) -> Option<Self> {
                match raw.text()? { $($word => Some(Self::$name),)* _ => None }
            }
            fn written(&self) -> String { quoted(self.name()) }
        }
    };
}

words! {
    /// When a message counts as sent.
    Durability {
        /// When a sync that covers it returned.
        Fsync "fsync";
        /// When the kernel took the write.
        Memory "memory";
    }
}

words! {
    /// How the process logs.
    LogFormat {
        /// A line for people.
        Text "text";
        /// An object a line, for collectors.
        Json "json";
    }
}

words! {
    /// How much the process logs.
    LogLevel {
        /// What stops something.
        Error "error";
        /// What may.
        Warn "warn";
        /// What an operator wants to have seen.
        Info "info";
        /// What a developer looks for.
        Debug "debug";
        /// Everything.
        Trace "trace";
    }
}

/// Which CPU each shard keeps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// One each of those the process may use, in order.
    Auto,
    /// The kernel decides.
    None,
    /// The first shard to the first, and so on.
    List(Vec<usize>),
}

/// More CPUs than any machine this runs on has.
const CPUS_MAX: usize = 1024;

/// CPUs as in `0,2,4-7`: each at most once.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return None;
            }
            cpus.push(cpu);
        }
    }
    Some(cpus)
}

impl Setting for Pin {
    const TAKES: &'static str = "auto|none|LIST";
    fn expected(_: &Key) -> String {
        "\"auto\", \"none\" or a list of CPUs such as \"0,2,4-7\"".to_owned()
    }
    fn read(raw: &Raw<'_>, _: &Key) -> Option<Self> {
        match raw.text()? {
            "auto" => Some(Self::Auto),
            "none" => Some(Self::None),
            list => cpu_list(list).map(Self::List),
        }
    }
    fn written(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::None => quoted("none"),
            Self::List(cpus) => {
                let cpus: Vec<_> = cpus.iter().map(ToString::to_string).collect();
                quoted(&cpus.join(","))
            }
        }
    }
}
