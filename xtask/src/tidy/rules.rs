//! The rules, and the places that are let off, each with its reason.

use super::Finding;
use super::source::{Source, Tree};

/// Members that must run the same twice from the same seed.
const CORE: [&str; 5] = ["wire", "chat", "storage", "fanout", "engine"];

/// Words that touch the world. An address is a plain value; a socket is not.
const WORLD: [&str; 8] = [
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::thread",
    "io_uring::",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
];

/// Where the engine meets the world: the driver, the start of the process, the operator's tools,
/// and the file of settings, which is read before a shard exists.
const WORLD_ALLOWED: [&str; 4] =
    ["engine/src/driver/", "engine/src/main.rs", "engine/src/cli/", "engine/src/config"];

/// Words of shared state that can change.
const SHARED: [&str; 4] = ["Mutex", "RwLock", "Condvar", "OnceLock"];

/// Members in which not even a handle is shared. (The engine hands each shard its counters so.)
const UNSHARED: [&str; 4] = ["wire", "chat", "storage", "client"];

/// Where threads share state.
const SHARED_ALLOWED: [&str; 10] = [
    "fanout/",
    "engine/src/driver/",
    "engine/src/metrics.rs",
    "engine/src/cli/",
    "engine/src/main.rs",
    "sim/",
    "bench/",
    "perf/",
    "tuning/",
    "xtask/",
];

/// Files and folders that may say `unsafe`.
const UNSAFE_ALLOWED: [(&str, &str); 9] = [
    ("fanout/src/ring.rs", "slots shared by one producer and one consumer"),
    ("fanout/src/block.rs", "buffers shared by reference across shards"),
    ("fanout/src/atomic.rs", "the memory model's cells"),
    ("engine/src/driver/", "system calls"),
    ("engine/src/driver.rs", "the root of the driver"),
    ("perf/src/", "raw probes make raw system calls"),
    ("bench/src/", "the load generator's own ring"),
    ("tuning/src/", "asks the kernel"),
    ("wire/src/generated.rs", "written by flatc"),
];

const FILE_LINES_MAX: usize = 600;
const LINE_COLUMNS_MAX: usize = 100;

/// Files that may be longer.
const LONG_ALLOWED: [(&str, &str); 1] = [("wire/src/generated.rs", "written by flatc")];

/// Names that say nothing of what is inside.
const VAGUE_NAMES: [&str; 9] =
    ["utils", "util", "helpers", "common", "misc", "types", "impls", "base", "manager"];

/// Which of our crates each member may know. Tools know the ends, the ends know the neighbours,
/// the neighbours know the vocabulary alone.
const MAY_KNOW: [(&str, &[&str]); 11] = [
    ("wire", &[]),
    ("chat", &["wire"]),
    ("storage", &["wire"]),
    ("fanout", &["wire"]),
    ("client", &["wire"]),
    ("engine", &["wire", "chat", "storage", "fanout", "client", "bench", "tuning"]),
    ("sim", &["wire", "chat", "storage", "fanout", "engine", "client"]),
    ("bench", &["wire", "client", "tuning"]),
    ("perf", &["wire", "chat", "storage", "fanout", "engine", "client", "bench", "tuning"]),
    ("tuning", &[]),
    ("xtask", &["wire"]),
];

/// Members that forbid or deny `unsafe` at their root.
const SAFE_ROOTS: [&str; 4] = ["wire", "chat", "storage", "client"];

/// Checks every rule on every file.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        check_world(source, &mut findings);
        check_shared(source, &mut findings);
        check_unsafe(source, &mut findings);
        check_size(source, &mut findings);
        check_name(source, &mut findings);
        check_unfinished(source, &mut findings);
        check_root(source, &mut findings);
    }
    for (member, text) in &tree.manifests {
        check_dependencies(member, text, &mut findings);
    }
    for (path, text) in &tree.documents {
        check_links(tree, path, text, &mut findings);
    }
    findings.sort();
    findings
}

fn found(place: String, message: impl Into<String>) -> Finding {
    Finding { place, message: message.into() }
}

fn is_under(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// Whether `word` stands in `line` as itself and not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |letter: char| letter == '_' || letter.is_alphanumeric();
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let opens = !word.starts_with(is_name) || !before.is_some_and(is_name);
        let closes = !word.ends_with(is_name) || !after.is_some_and(is_name);
        opens && closes
    })
}

/// Whether `line` names `word`, also as an item of a braced `use std::{...}`.
fn names(line: &str, word: &str) -> bool {
    let in_braces = word.strip_prefix("std::").is_some_and(|item| {
        line.trim_start().trim_start_matches("pub ").starts_with("use std::{")
            && has_word(line, item)
    });
    in_braces || has_word(line, word)
}

fn check_world(source: &Source, findings: &mut Vec<Finding>) {
    let is_core = CORE.contains(&source.member()) && source.path.contains("/src/");
    if !is_core || is_under(&source.path, &WORLD_ALLOWED) {
        return;
    }
    for (number, line) in source.own_code() {
        for word in WORLD.iter().filter(|word| names(line, word)) {
            let message = format!(
                "`{word}` touches the world: take it as an argument, or ask by an op of \
                 engine/src/driver/"
            );
            findings.push(found(format!("{}:{number}", source.path), message));
        }
    }
}

fn check_shared(source: &Source, findings: &mut Vec<Finding>) {
    if is_under(&source.path, &SHARED_ALLOWED) {
        return;
    }
    for (number, line) in source.own_code() {
        let is_atomic = line.contains("Atomic") || line.contains("sync::atomic");
        let is_handle = UNSHARED.contains(&source.member()) && has_word(line, "Arc");
        if is_atomic || is_handle || SHARED.iter().any(|word| has_word(line, word)) {
            let message = "state has one owner: only fanout/ and the driver share any; \
                           own it and pass a parcel";
            findings.push(found(format!("{}:{number}", source.path), message));
        }
    }
}

fn check_unsafe(source: &Source, findings: &mut Vec<Finding>) {
    if UNSAFE_ALLOWED.iter().any(|(place, _)| source.path.starts_with(place)) {
        return;
    }
    for (number, line) in (1..).zip(source.code.lines()) {
        if has_word(line, "unsafe") {
            let message = "`unsafe` lives behind a fence: use a safe way, or argue for this file \
                           in xtask/src/tidy/rules.rs";
            findings.push(found(format!("{}:{number}", source.path), message));
        }
    }
}

fn check_size(source: &Source, findings: &mut Vec<Finding>) {
    if LONG_ALLOWED.iter().any(|(path, _)| source.path == *path) {
        return;
    }
    if !source.is_test && source.own_lines_count > FILE_LINES_MAX {
        let count = source.own_lines_count;
        let message = format!("{count} lines without tests: split it at a noun ({FILE_LINES_MAX})");
        findings.push(found(source.path.clone(), message));
    }
    for (number, line) in (1..).zip(source.text.lines()) {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let message = format!("{columns} columns: break it at {LINE_COLUMNS_MAX}");
            findings.push(found(format!("{}:{number}", source.path), message));
        }
    }
}

fn check_name(source: &Source, findings: &mut Vec<Finding>) {
    let mut parts = source.path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    if let Some(part) = parts.find(|part| VAGUE_NAMES.contains(part)) {
        let message = format!("`{part}` names nothing: call it by the noun inside");
        findings.push(found(source.path.clone(), message));
    }
}

fn check_unfinished(source: &Source, findings: &mut Vec<Finding>) {
    for (number, (line, code)) in (1..).zip(source.text.lines().zip(source.code.lines())) {
        let place = || format!("{}:{number}", source.path);
        for mark in ["todo!", "unimplemented!", "dbg!"] {
            if has_word(code, mark) {
                findings.push(found(place(), format!("`{mark}` cannot land: finish it")));
            }
        }
        // Marks stand in comments, where the line and its code differ.
        let is_mark = |mark: &str| has_word(line, mark) && !quoted(line, mark);
        if is_mark(concat!("FIX", "ME")) {
            findings.push(found(place(), "fix it before it lands"));
        }
        if is_mark(concat!("TO", "DO")) && !line.contains('#') {
            findings.push(found(place(), "name the issue that it waits for: `#12`"));
        }
    }
}

/// Whether `mark` stands between back quotes or in a string, which speaks of it.
fn quoted(line: &str, mark: &str) -> bool {
    line.contains(&format!("`{mark}`")) || line.contains(&format!("\"{mark}\""))
}

fn check_root(source: &Source, findings: &mut Vec<Finding>) {
    let Some((member, file)) = source.path.split_once("/src/") else { return };
    if !matches!(file, "lib.rs" | "main.rs") {
        return;
    }
    if !source.text.starts_with("//! ") {
        let message = "a crate's root says first what the crate is, and what it is not";
        findings.push(found(source.path.clone(), message));
    }
    let is_safe = source.code.contains("#![forbid(unsafe_code)]")
        || source.code.contains("#![deny(unsafe_code)]");
    if file == "lib.rs" && SAFE_ROOTS.contains(&member) && !is_safe {
        let message = "its root must say #![forbid(unsafe_code)]";
        findings.push(found(source.path.clone(), message));
    }
}

/// The crate behind a name in a manifest: the engine's package is called after the product.
fn member_named(package: &str) -> &str {
    if package == "ringmain" { "engine" } else { package }
}

fn check_dependencies(member: &str, manifest: &str, findings: &mut Vec<Finding>) {
    let place = format!("{member}/Cargo.toml");
    let Some((_, may_know)) = MAY_KNOW.iter().find(|(name, _)| *name == member) else {
        let message = "a new member: say in xtask/src/tidy/rules.rs whom it may know";
        findings.push(found(place, message));
        return;
    };
    let mut is_dependencies = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            is_dependencies = section.trim_end_matches(']').ends_with("dependencies");
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let known = member_named(name);
        let is_ours = MAY_KNOW.iter().any(|(name, _)| *name == known);
        if is_dependencies && is_ours && !may_know.contains(&known) {
            let message = format!(
                "{member} must not know {known}: neighbours meet in engine/src/effects.rs, and \
                 dependencies point from tools to ends to neighbours to wire"
            );
            findings.push(found(place.clone(), message));
        }
    }
}

/// Links of a document to files of the tree.
fn check_links(tree: &Tree, path: &str, text: &str, findings: &mut Vec<Finding>) {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (number, line) in (1..).zip(text.lines()) {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let target = resolve(folder, target);
            let is_folder =
                || tree.paths.iter().any(|path| path.starts_with(&format!("{target}/")));
            if !tree.paths.contains(&target) && !is_folder() {
                let message = format!("links to {target}, which is not there");
                findings.push(found(format!("{path}:{number}"), message));
            }
        }
    }
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules find in one file, as `line message-start`.
    #[track_caller]
    fn check_file(path: &str, text: &str, expected: &[&str]) {
        let tree = Tree { sources: vec![Source::new(path, text)], ..Tree::default() };
        let findings = check(&tree);
        let shown: Vec<_> =
            findings.iter().map(|it| format!("{}: {}", it.place, it.message)).collect();
        assert_eq!(shown.len(), expected.len(), "{shown:#?}");
        for (finding, expected) in shown.iter().zip(expected) {
            assert!(finding.contains(expected), "{finding}\nlacks {expected}");
        }
    }

    #[test]
    fn the_core_does_not_touch_the_world() {
        check_file("chat/src/a.rs", "use std::fs;\n", &["a.rs:1: `std::fs`"]);
        check_file("chat/src/a.rs", "use std::{cmp, fs};\n", &["a.rs:1: `std::fs`"]);
        check_file("wire/src/a.rs", "\nlet t = Instant::now();\n", &["a.rs:2: `Instant::now`"]);
        check_file("engine/src/turn.rs", "use io_uring::opcode;\n", &["`io_uring::`"]);
        check_file("engine/src/driver/uring.rs", "use io_uring::opcode;\n", &[]);
        check_file("sim/src/world.rs", "use std::fs;\n", &[]);
        check_file(
            "chat/src/a.rs",
            "// std::fs is for the driver\nlet x = \"std::thread\";\n",
            &[],
        );
        check_file("chat/src/a.rs", "use std::fmt;\nlet own_io_uring = 1;\n", &[]);
    }

    #[test]
    fn an_address_is_a_value_and_a_socket_is_not() {
        check_file("engine/src/turn.rs", "use std::net::SocketAddr;\n", &[]);
        check_file("engine/src/turn.rs", "use std::net::TcpStream;\n", &["`TcpStream`"]);
    }

    #[test]
    fn tests_may_touch_the_world() {
        check_file("storage/tests/crash.rs", "use std::fs;\n", &[]);
        let inline = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n";
        check_file("fanout/src/ring.rs", inline, &[]);
    }

    #[test]
    fn state_is_shared_only_where_it_may_be() {
        check_file("chat/src/a.rs", "use std::sync::Arc;\n", &["one owner"]);
        check_file("engine/src/turn.rs", "a: AtomicU64,\n", &["one owner"]);
        check_file("engine/src/metrics.rs", "a: AtomicU64,\n", &[]);
        check_file("engine/src/turn.rs", "metrics: Arc<ShardMetrics>,\n", &[]);
        check_file("engine/src/turn.rs", "metrics: Arc<Mutex<u64>>,\n", &["one owner"]);
        check_file("chat/src/a.rs", "struct Archive;\n", &[]);
    }

    #[test]
    fn unsafe_code_stays_behind_its_fence_even_in_tests() {
        check_file("engine/src/turn.rs", "unsafe { x() }\n", &["behind a fence"]);
        let inline = "#[cfg(test)]\nmod tests {\n    unsafe { x() }\n}\n";
        check_file("chat/src/a.rs", inline, &["a.rs:3: `unsafe`"]);
        check_file("fanout/src/ring.rs", "unsafe { x() }\n", &[]);
        check_file("chat/src/a.rs", "#[expect(unsafe_code)]\n", &[]);
    }

    #[test]
    fn files_and_lines_have_a_length() {
        let long = "let x = 1;\n".repeat(601);
        check_file("chat/src/a.rs", &long, &["601 lines"]);
        check_file("chat/tests/a.rs", &long, &[]);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        check_file("chat/src/a.rs", &tested, &[]);
        check_file("chat/src/a.rs", &"x".repeat(101), &["101 columns"]);
        check_file("chat/src/a.rs", &"ü".repeat(100), &[]);
        check_file("wire/src/generated.rs", &long, &[]);
    }

    #[test]
    fn vague_names_and_unfinished_marks_do_not_land() {
        check_file("chat/src/utils.rs", "", &["`utils` names nothing"]);
        check_file("chat/src/types/id.rs", "", &["`types` names nothing"]);
        check_file("chat/src/a.rs", concat!("to", "do!()\n"), &["cannot land"]);
        check_file("chat/src/a.rs", concat!("// FIX", "ME later\n"), &["before it lands"]);
        check_file("chat/src/a.rs", concat!("// TO", "DO: later\n"), &["name the issue"]);
        check_file("chat/src/a.rs", concat!("// TO", "DO(#12): later\n"), &[]);
    }

    #[test]
    fn a_root_says_what_it_is_and_that_it_is_safe() {
        check_file("chat/src/lib.rs", "mod a;\n", &["says first", "forbid"]);
        check_file("chat/src/lib.rs", "//! CHAT\n#![forbid(unsafe_code)]\n", &[]);
        check_file("bench/src/main.rs", "//! LOAD\n", &[]);
    }

    #[test]
    fn neighbours_do_not_know_each_other() {
        let check_manifest = |member: &str, text: &str| {
            let manifests = vec![(member.to_owned(), text.to_owned())];
            check(&Tree { manifests, ..Tree::default() }).len()
        };
        assert_eq!(check_manifest("chat", "[dependencies]\nstorage.workspace = true\n"), 1);
        assert_eq!(check_manifest("chat", "[dev-dependencies]\nengine = { path = \"x\" }\n"), 1);
        assert_eq!(check_manifest("chat", "[dependencies]\nwire.workspace = true\n"), 0);
        assert_eq!(check_manifest("sim", "[dependencies]\nengine.workspace = true\n"), 0);
        assert_eq!(check_manifest("chat", "[features]\nstorage = []\n"), 0);
        assert_eq!(check_manifest("wire", "[target.'cfg(loom)'.dependencies]\nchat = \"1\"\n"), 1);
        assert_eq!(check_manifest("brandnew", ""), 1);
    }

    #[test]
    fn a_link_leads_somewhere() {
        let mut tree = Tree::default();
        tree.paths.insert("wire/src/kind.rs".to_owned());
        let text = "[a](../wire/src/kind.rs) [b](../wire/) [c](https://x.y/z) [d](#here)\n";
        tree.documents.push(("docs/a.md".to_owned(), text.to_owned()));
        assert_eq!(check(&tree), []);
        tree.documents.push(("docs/b.md".to_owned(), "[a](gone.md)\n".to_owned()));
        assert_eq!(check(&tree).len(), 1);
    }
}
