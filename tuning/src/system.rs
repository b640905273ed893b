//! The files in which a Linux host describes itself.

use std::path::{Path, PathBuf};

/// The host's `/proc` and `/sys`, or another folder laid out like them.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// This host.
    pub fn here() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A host described by the files under `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The text of `path`, without the space around it. None where the host does not show it.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path.trim_start_matches('/'))).ok()?;
        Some(text.trim().to_owned())
    }

    /// The numbers of `path`, as far as they are numbers.
    pub(crate) fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        self.text(path)?.split_whitespace().map(|word| word.parse().ok()).collect()
    }

    /// The first number of `path`.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.numbers(path)?.first().copied()
    }

    /// The value after `name:` in `path`.
    pub(crate) fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let value =
            |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        text.lines().find_map(value)
    }

    /// The soft and hard limit called `name`, as the kernel words it.
    pub fn limit(&self, name: &str) -> Option<(u64, u64)> {
        let text = self.text("/proc/self/limits")?;
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut words = rest.split_whitespace().map(|word| match word {
            "unlimited" => Some(u64::MAX),
            digits => digits.parse().ok(),
        });
        Some((words.next()??, words.next()??))
    }

    /// The CPUs that this process may use, in order. Empty where the host does not say.
    pub fn cpus_allowed(&self) -> Vec<usize> {
        let list = self.field("/proc/self/status", "Cpus_allowed_list").unwrap_or_default();
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        };
        list.split(',').filter_map(range).flatten().collect()
    }
}
