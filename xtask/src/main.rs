//! THE WORKSHOP: what keeps the tree in order, and what a newcomer and CI run.
//!
//! It checks and writes files of this repository and starts cargo. Nothing here is part of the
//! server, and the server knows nothing of it.

mod codegen;
mod flatc;
mod measure;
mod reference;
mod steps;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use steps::Steps;

/// Keeps the tree in order.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes wire/src/generated.rs and the generated tables of the documents.
    Codegen {
        /// Writes nothing and fails where something would change.
        #[arg(long)]
        check: bool,
    },
    /// Checks the rules that the compiler does not know.
    Tidy,
    /// Runs every test: the workspace's, the memory model's, the simulator's.
    Test,
    /// Measures the server beside a raw relay, on two cores; takes some ten minutes.
    Measure {
        /// Only the loads whose name contains this.
        #[arg(default_value = "")]
        only: String,
    },
    /// Runs what CI runs: format, lints, tidy, codegen --check, and every test.
    Ci,
}

fn main() -> ExitCode {
    let root = workspace_root();
    let mut steps = Steps::new(&root);
    match Arguments::parse().task {
        Task::Codegen { check } => steps.run("codegen", |_| codegen::run(&root, check)),
        Task::Tidy => steps.run("tidy", |_| tidy::run(&root)),
        Task::Test => test(&mut steps),
        Task::Measure { only } => {
            let target = steps.target_folder();
            steps.run("measure", |_| measure::run(&root, &target, &only));
        }
        Task::Ci => ci(&root, &mut steps),
    }
    steps.finish()
}

fn test(steps: &mut Steps) {
    steps.tests("tests", &[], &["test", "--workspace", "--no-fail-fast", "--", "--quiet"]);
    let loom_folder = steps.target_folder().join("loom");
    let loom_folder = loom_folder.to_str().expect("cargo's folders have UTF-8 names");
    steps.tests(
        "memory model",
        &[("RUSTFLAGS", "--cfg loom")],
        &["test", "--package", "fanout", "--release", "--target-dir", loom_folder, "--", "loom_"],
    );
    steps.cargo("simulator", &["run", "--release", "--package", "sim", "--", "ci"]);
}

fn ci(root: &Path, steps: &mut Steps) {
    steps.cargo("format", &["fmt", "--all", "--", "--check"]);
    steps.cargo("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.run("tidy", |_| tidy::run(root));
    steps.run("codegen", |_| codegen::run(root, true));
    test(steps);
}

fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a folder of the workspace").to_path_buf()
}
