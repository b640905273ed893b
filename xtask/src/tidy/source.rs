//! The tree as the rules see it: files with comments and strings told apart from code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// All that the rules look at.
#[derive(Default)]
pub(super) struct Tree {
    /// Rust files of the members.
    pub(super) sources: Vec<Source>,
    /// `Cargo.toml` of each member: its folder and its text.
    pub(super) manifests: Vec<(String, String)>,
    /// Markdown files: the path and the text.
    pub(super) documents: Vec<(String, String)>,
    /// Paths of all files, for links.
    pub(super) paths: BTreeSet<String>,
}

impl Tree {
    /// Reads the members of the workspace at `root` and its documents.
    pub(super) fn read(root: &Path) -> Result<Self, String> {
        let mut tree = Self::default();
        tree.walk(root, "")?;
        tree.sources.sort_by(|a, b| a.path.cmp(&b.path));
        mark_test_modules(&mut tree.sources);
        Ok(tree)
    }

    /// How many files there are.
    pub(super) fn files_count(&self) -> usize {
        self.paths.len()
    }

    fn walk(&mut self, root: &Path, folder: &str) -> Result<(), String> {
        let absolute = root.join(folder);
        let entries = fs::read_dir(&absolute)
            .map_err(|error| format!("{}: {error}", absolute.display()))?
            .filter_map(Result::ok);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                let is_ours = !name.starts_with('.') && name != "target";
                if is_ours {
                    self.walk(root, &path)?;
                }
                continue;
            }
            self.take(&entry.path(), path)?;
        }
        Ok(())
    }

    fn take(&mut self, file: &Path, path: String) -> Result<(), String> {
        let read = || fs::read_to_string(file).map_err(|error| format!("{path}: {error}"));
        if path.ends_with(".rs") {
            self.sources.push(Source::new(&path, &read()?));
        } else if let Some(member) = path.strip_suffix("/Cargo.toml") {
            self.manifests.push((member.to_owned(), read()?));
        } else if path.ends_with(".md") {
            self.documents.push((path.clone(), read()?));
        }
        self.paths.insert(path);
        Ok(())
    }
}

/// A Rust file.
pub(super) struct Source {
    /// Path from the workspace's root.
    pub(super) path: String,
    /// As it stands on the disk.
    pub(super) text: String,
    /// The same lines with comments and the insides of strings blanked.
    pub(super) code: String,
    /// Lines before the test module at the file's foot.
    pub(super) own_lines_count: usize,
    /// Whether all of it is tests.
    pub(super) is_test: bool,
}

impl Source {
    /// The file at `path` that holds `text`.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let is_test = path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs");
        let code = code_only(text);
        let own_lines_count = own_lines_count(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, own_lines_count, is_test }
    }

    /// The code that is not tests, line by line with its number.
    pub(super) fn own_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let count = if self.is_test { 0 } else { self.own_lines_count };
        (1..).zip(self.code.lines()).take(count)
    }

    /// The member that it belongs to.
    pub(super) fn member(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }
}

/// A file that its parent declares under `#[cfg(test)]` is a test as a whole.
fn mark_test_modules(sources: &mut [Source]) {
    let mut test_paths = Vec::new();
    for source in &*sources {
        let folder = match source.path.rsplit_once('/') {
            Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder,
            _ => source.path.strip_suffix(".rs").unwrap_or(&source.path),
        };
        let mut is_for_tests = false;
        for line in source.code.lines().map(str::trim) {
            let module = line.trim_start_matches("pub(crate) ").strip_prefix("mod ");
            if let Some(module) = module.and_then(|rest| rest.strip_suffix(';'))
                && is_for_tests
            {
                test_paths.push(format!("{folder}/{module}"));
            }
            is_for_tests = is_test_mark(line) || is_for_tests && line.starts_with("#[");
        }
    }
    for source in sources {
        let path = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        source.is_test |= test_paths.iter().any(|test| {
            path.strip_prefix(test).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
    }
}

fn is_test_mark(line: &str) -> bool {
    line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(test")
}

/// Lines up to the `#[cfg(test)]` of an inline test module; all, where there is none.
fn own_lines_count(code: &str) -> usize {
    let mut mark = None;
    let mut count = 0;
    for (index, line) in code.lines().enumerate() {
        let line_trimmed = line.trim();
        if mark.is_some() && line_trimmed.starts_with("mod ") && line_trimmed.ends_with('{') {
            return mark.unwrap_or(index);
        }
        if is_test_mark(line) {
            mark = mark.or(Some(index));
        } else if !line_trimmed.is_empty() && !line_trimmed.starts_with("#[") {
            mark = None;
        }
        count = index + 1;
    }
    count
}

/// Blanks comments and the insides of strings and characters, keeping every line break.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let bytes = if rest.starts_with("//") {
            blank(&mut out, rest, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            blank(&mut out, rest, block_comment_bytes(rest))
        } else if let Some(bytes) = string_bytes(rest) {
            blank(&mut out, rest, bytes)
        } else if first == '_' || first.is_alphanumeric() {
            let is_word = |letter: char| letter == '_' || letter.is_alphanumeric();
            let bytes = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
            out.push_str(&rest[..bytes]);
            bytes
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[bytes..];
    }
    out
}

fn blank(out: &mut String, rest: &str, bytes: usize) -> usize {
    out.extend(rest[..bytes].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
    bytes
}

fn block_comment_bytes(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Bytes of the string or character literal at the front, if there is one.
fn string_bytes(rest: &str) -> Option<usize> {
    let unprefixed = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - unprefixed.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = unprefixed.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = &raw[hashes + 1..];
            let inside_bytes = inside.find(&close).map_or(inside.len(), |at| at + close.len());
            return Some(prefix + 1 + hashes + 1 + inside_bytes);
        }
    }
    if unprefixed.starts_with('"') {
        return Some(prefix + quoted_bytes(unprefixed, '"'));
    }
    let mut letters = unprefixed.chars();
    if letters.next() != Some('\'') {
        return None;
    }
    // A lifetime has no closing quote one letter on.
    let is_character =
        matches!((letters.next(), letters.next()), (Some('\\'), _) | (_, Some('\'')));
    is_character.then(|| prefix + quoted_bytes(unprefixed, '\''))
}

fn quoted_bytes(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return at + letter.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lines_kept() {
        let code = code_only("a // std::fs\nb \"std::net \\\" x\" c /* d\n/* e */ */ f");
        assert_eq!(code.lines().count(), 3);
        let words: Vec<_> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "f"]);
    }

    #[test]
    fn raw_strings_characters_and_lifetimes_are_told_apart() {
        let code = code_only("r#\"unsafe \" x\"# 'u' b'\\'' fn f<'unsafely>(x: &'unsafely u8)");
        assert!(!code.contains("unsafe "));
        assert_eq!(code.trim(), "fn f<'unsafely>(x: &'unsafely u8)");
    }

    #[test]
    fn a_word_that_ends_in_a_prefix_letter_starts_no_string() {
        assert_eq!(code_only("for b in r { crab!(\"x\") }"), "for b in r { crab!(   ) }");
    }

    #[test]
    fn the_test_module_at_the_foot_is_not_counted() {
        let text = "//! doc\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        let source = Source::new("wire/src/x.rs", text);
        assert_eq!(source.own_lines_count, 3);
        assert_eq!(source.own_code().count(), 3);
        let text = "fn a() {}\n#[cfg(test)]\nfn only_in_tests() {}\nfn c() {}\n";
        assert_eq!(Source::new("wire/src/x.rs", text).own_lines_count, 4);
    }

    #[test]
    fn a_module_declared_for_tests_is_a_test_with_all_below_it() {
        let mut sources = vec![
            Source::new("chat/src/lib.rs", "#[cfg(test)]\nmod script;\nmod owner;\n"),
            Source::new("chat/src/script.rs", ""),
            Source::new("chat/src/script/deep.rs", ""),
            Source::new("chat/src/scripted.rs", ""),
            Source::new("chat/src/owner.rs", ""),
        ];
        mark_test_modules(&mut sources);
        let tests: Vec<_> = sources.iter().map(|source| source.is_test).collect();
        assert_eq!(tests, [false, true, true, false, false]);
    }
}
