//! Rules that the compiler does not know, each with a message that says what to do.

mod rules;
mod source;

use source::Tree;
use std::path::Path;

/// One place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the workspace's root, and a line where there is one.
    pub(crate) place: String,
    /// What is wrong and what to do instead.
    pub(crate) message: String,
}

/// Checks the workspace at `root`.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let tree = Tree::read(root)?;
    let findings = rules::check(&tree);
    println!("{} files, {} findings", tree.files_count(), findings.len());
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = findings.iter().map(|it| format!("{}: {}", it.place, it.message)).collect();
    Err(lines.join("\n"))
}
