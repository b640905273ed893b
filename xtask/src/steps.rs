//! Steps of a task: each says what it runs and how long it took; the last lines sum up.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Tests that passed and failed, as the test runners reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// That passed.
    pub(crate) passed: u64,
    /// That failed.
    pub(crate) failed: u64,
}

struct Done {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

/// The steps of one task, run one after the other whether or not earlier ones failed.
pub(crate) struct Steps {
    root: PathBuf,
    done: Vec<Done>,
    tally: Tally,
    has_tests: bool,
}

impl Steps {
    /// Steps in the workspace at `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            done: Vec::new(),
            tally: Tally::default(),
            has_tests: false,
        }
    }

    /// Where cargo builds.
    pub(crate) fn target_folder(&self) -> PathBuf {
        let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        self.root.join(folder)
    }

    /// Runs `step`, timed.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Tally) -> Result<(), String>,
    ) {
        println!("== {name}");
        let (started, before) = (now(), self.tally);
        let failure = step(&mut self.tally).err();
        let took = started.elapsed();
        if let Some(failure) = &failure {
            eprintln!("{failure}");
            // A step that fails without a failing test (it did not compile, say) counts as one.
            if self.tally.failed == before.failed {
                self.tally.failed += 1;
            }
        }
        let verdict = if failure.is_some() { "failed" } else { "ok" };
        println!("== {name}: {verdict} after {:.1} s\n", took.as_secs_f64());
        self.done.push(Done { name, took, failure });
    }

    /// Runs cargo with `arguments`.
    pub(crate) fn cargo(&mut self, name: &'static str, arguments: &[&str]) {
        let command = self.command(&[], arguments);
        self.run(name, |tally| stream(command, tally));
    }

    /// Runs cargo with `arguments` in `environment`; that no test ran is a failure.
    pub(crate) fn tests(
        &mut self,
        name: &'static str,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) {
        self.has_tests = true;
        let command = self.command(environment, arguments);
        self.run(name, |tally| {
            let before = *tally;
            stream(command, tally)?;
            if *tally == before { Err("no test ran".to_owned()) } else { Ok(()) }
        });
    }

    /// Prints the steps and the sum of their tests.
    pub(crate) fn finish(self) -> ExitCode {
        if self.done.len() > 1 {
            for Done { name, took, failure } in &self.done {
                let verdict = if failure.is_some() { "FAILED" } else { "ok" };
                println!("{name:<16}{:>8.1} s  {verdict}", took.as_secs_f64());
            }
        }
        if self.has_tests {
            println!("{} passed, {} failed", self.tally.passed, self.tally.failed);
        }
        let is_good = self.done.iter().all(|done| done.failure.is_none());
        if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn command(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).envs(environment.iter().copied()).args(arguments);
        command
    }
}

#[expect(clippy::disallowed_methods, reason = "a tool that times its steps")]
fn now() -> Instant {
    Instant::now()
}

/// Runs `command`, echoes what it prints, and counts the tests that it reports.
fn stream(mut command: Command, tally: &mut Tally) -> Result<(), String> {
    println!("$ {}", shown(&command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", shown(&command)))?;
    let output = child.stdout.take().expect("it was asked for");
    for line in BufReader::new(output).split(b'\n') {
        let line = line.map_err(|error| format!("cannot read what it prints: {error}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        count(&line, tally);
    }
    let status = child.wait().map_err(|error| format!("cannot wait for it: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(&command))) }
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default().to_string_lossy();
        words.push(format!("{}='{value}'", name.to_string_lossy()));
    }
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    words.push(program.to_string_lossy().into_owned());
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Adds a runner's closing line (`test result: ok. 3 passed; 0 failed; ...`) to `tally`.
///
/// In quiet mode the dots of the tests stand on a line of their own, so a line begins with it.
fn count(line: &str, tally: &mut Tally) {
    let Some(result) = line.strip_prefix("test result: ") else { return };
    let number = |unit: &str| {
        let words = result.split([' ', ';']).filter(|word| !word.is_empty()).collect::<Vec<_>>();
        let at = words.iter().position(|word| *word == unit)?;
        words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
    };
    tally.passed += number("passed").unwrap_or(0);
    tally.failed += number("failed").unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed_and_other_lines_are_not() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 19 passed; 0 failed; 0 ignored; 0 measured; finished in 0.11s",
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; finished in 0.11s",
            "running 9 tests: 9 passed; 9 failed",
            "test result: unreadable",
        ] {
            count(line, &mut tally);
        }
        assert_eq!(tally, Tally { passed: 22, failed: 2 });
    }

    #[test]
    fn a_failing_step_without_a_failing_test_counts_as_one() {
        let mut steps = Steps::new(Path::new("."));
        steps.run("broken", |_| Err("it does not compile".to_owned()));
        steps.run("red", |tally| {
            tally.failed += 4;
            Err("four tests failed".to_owned())
        });
        assert_eq!(steps.tally, Tally { passed: 0, failed: 5 });
        assert_eq!(steps.done.iter().filter(|done| done.failure.is_some()).count(), 2);
    }

    #[test]
    fn a_command_that_fails_is_an_error_that_shows_it() {
        let mut command = Command::new("false");
        command.arg("--loudly");
        let error = stream(command, &mut Tally::default()).unwrap_err();
        assert!(error.starts_with("false --loudly: "), "{error}");
    }
}
