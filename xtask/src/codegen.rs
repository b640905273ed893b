//! Writes what is derived: the schema's Rust, and the tables of the documents.

use crate::{flatc, reference};
use std::fs;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "wire/schema/ringmain.fbs";
const GENERATED: &str = "wire/src/generated.rs";
/// Checksums of the two files above as they belong together, for machines without the compiler.
const CHECKSUMS: &str = "wire/schema/generated.sum";

/// A file as it should be.
struct Wanted {
    path: PathBuf,
    text: String,
}

/// Brings all derived files up to date, or with `only_check` fails if one is not.
pub(crate) fn run(root: &Path, only_check: bool) -> Result<(), String> {
    let mut wanted = documents(root)?;
    match flatc::find(root) {
        Ok(flatc) => wanted.extend(generated(root, &flatc)?),
        Err(why) if only_check => {
            println!("skipped: comparing {GENERATED} with the compiler's output: {why}");
            check_checksums(root)?;
        }
        Err(why) => return Err(why),
    }
    let mut stale = Vec::new();
    for Wanted { path, text } in wanted {
        if read(&path).is_ok_and(|is| is == text) {
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if only_check {
            stale.push(name);
        } else {
            println!("wrote {name}");
            fs::write(&path, text).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!("out of date: {}; run `cargo xtask codegen`", stale.join(", ")))
}

/// The schema's Rust, and the checksums that tie the two together.
fn generated(root: &Path, flatc: &Path) -> Result<[Wanted; 2], String> {
    let schema = root.join(SCHEMA);
    let rust = flatc::compile(flatc, &schema, &root.join("target/codegen"))?;
    let sums = checksums(&read(&schema)?, &rust);
    Ok([
        Wanted { path: root.join(GENERATED), text: rust },
        Wanted { path: root.join(CHECKSUMS), text: sums },
    ])
}

fn check_checksums(root: &Path) -> Result<(), String> {
    let sums = checksums(&read(&root.join(SCHEMA))?, &read(&root.join(GENERATED))?);
    if read(&root.join(CHECKSUMS))? == sums {
        return Ok(());
    }
    Err(format!(
        "{SCHEMA} and {GENERATED} are not those that {CHECKSUMS} was made for: \
         run `cargo xtask codegen` where flatc {} can be had",
        flatc::VERSION
    ))
}

fn checksums(schema: &str, rust: &str) -> String {
    format!(
        "flatc {}\n{:016x} {SCHEMA}\n{:016x} {GENERATED}\n",
        flatc::VERSION,
        fnv1a(schema.as_bytes()),
        fnv1a(rust.as_bytes())
    )
}

/// FNV-1a, 64 bits: it guards against forgetting, not against an adversary.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Every document with its generated tables anew.
fn documents(root: &Path) -> Result<Vec<Wanted>, String> {
    let schema = read(&root.join(SCHEMA))?;
    let folder = root.join("docs");
    let entries = fs::read_dir(&folder).map_err(|error| format!("docs: {error}"))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let mut wanted = Vec::new();
    for path in paths {
        let text = read(&path)?;
        let table = |name: &str| reference::table(name, &schema);
        let text = fill(&text, table).map_err(|why| format!("{}: {why}", path.display()))?;
        wanted.push(Wanted { path, text });
    }
    Ok(wanted)
}

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- /generated -->";

/// Replaces what stands between each pair of marks by what `table` gives for the mark's name.
fn fill(text: &str, table: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->\n").ok_or("a mark does not end its line")?;
        let (_, after) =
            after.split_once(END).ok_or_else(|| format!("`{name}` has no closing mark"))?;
        out.push_str(&format!("{before}{BEGIN}{name} -->\n{}{END}", table(name)?));
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Result<String, String> {
        if name == "kinds" { Ok("| new |\n".to_owned()) } else { Err(format!("no `{name}`")) }
    }

    #[test]
    fn what_stands_between_the_marks_is_replaced_and_nothing_else() {
        let text = "a\n<!-- generated: kinds -->\nold\n<!-- /generated -->\nb\n";
        let filled = fill(text, table).unwrap();
        assert_eq!(filled, "a\n<!-- generated: kinds -->\n| new |\n<!-- /generated -->\nb\n");
        assert_eq!(fill(&filled, table).unwrap(), filled, "a second time changes nothing");
    }

    #[test]
    fn an_unknown_or_open_mark_is_an_error() {
        assert!(fill("<!-- generated: x -->\n<!-- /generated -->", table).is_err());
        assert!(fill("<!-- generated: kinds -->\n| row |", table).is_err());
    }

    #[test]
    fn either_file_changes_the_checksums() {
        let sums = checksums("schema", "rust");
        assert_ne!(sums, checksums("schemA", "rust"));
        assert_ne!(sums, checksums("schema", "rusT"));
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c, "FNV's own test vector");
    }
}
