//! The `ringmain` program: what can be typed, and which function does it.
//!
//! A wrong flag or setting is one sentence and exit code 2; what failed is exit code 1.

mod chat;
mod config;
mod demo;
mod log;
mod serve;

use crate::config::{Config, ConfigError, Flags, LogFormat};
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

const USAGE_ERROR: u8 = 2;
/// Goes before the level of the configuration; takes `tracing`'s filter syntax.
const LOG_VARIABLE: &str = "RINGMAIN_LOG";

/// A durable chat engine: one thread a core, every message on disk before it is called sent.
#[derive(Parser)]
#[command(name = "ringmain", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a server.
    Serve(ServeFlags),
    /// Opens a chat in this terminal, or sends the lines of a pipe.
    Chat(chat::Flags),
    /// Shows the engine at work: a server, a crowd of clients, a kill in between.
    Demo(demo::Flags),
    /// Looks into the log of a data folder; changes nothing.
    #[command(subcommand)]
    Log(log::Command),
    /// Prints or checks the configuration.
    #[command(subcommand)]
    Config(config::Command),
}

/// The configuration: a file, and a flag for each of its keys.
#[derive(clap::Args)]
struct ServeFlags {
    /// TOML file with any of the settings below, named with underscores.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

impl ServeFlags {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), &self.flags)
    }
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse_arguments(&error),
    };
    match arguments.command {
        Command::Serve(flags) => match flags.load().map_err(|error| error.to_string()) {
            Ok(config) => match start_logging(config.log_format, config.log_level.name()) {
                Ok(()) => serve::run(config),
                Err(sentence) => refuse(&sentence),
            },
            Err(sentence) => refuse(&sentence),
        },
        Command::Chat(flags) => chat::run(&flags),
        Command::Demo(flags) => demo::run(flags),
        Command::Log(command) => log::run(&command),
        Command::Config(command) => config::run(&command),
    }
}

/// Says in one sentence why nothing was done.
fn refuse(sentence: &str) -> ExitCode {
    eprintln!("ringmain: {sentence}");
    ExitCode::from(USAGE_ERROR)
}

/// Prints to stdout. A reader that has gone, such as `head`, has seen enough.
fn print(text: &str) {
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// Help and version are printed as they are; an error becomes one sentence.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let wants_help = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == wants_help {
        print(&error.to_string());
        return ExitCode::from(if error.use_stderr() { USAGE_ERROR } else { 0 });
    }
    refuse(&sentence_of(&error.to_string()))
}

/// The error itself and the tip, out of the paragraphs that `clap` makes of them.
fn sentence_of(paragraphs: &str) -> String {
    let mut lines = paragraphs.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut sentence = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    for line in lines.take_while(|line| !line.starts_with("Usage:")) {
        let is_detail = !line.starts_with("For more information");
        if is_detail {
            sentence.push(if sentence.ends_with(':') { ' ' } else { ';' });
            if sentence.ends_with(';') {
                sentence.push(' ');
            }
            sentence.push_str(line.strip_prefix("tip: ").unwrap_or(line));
        }
    }
    sentence
}

/// Sends log lines to stderr.
fn start_logging(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        format!("{LOG_VARIABLE} is '{filter}', which is not a filter such as 'debug': {error}")
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| format!("cannot start logging: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[track_caller]
    fn check(words: &[&str], sentence: &str) {
        let words = std::iter::once("ringmain").chain(words.iter().copied());
        let error = Arguments::try_parse_from(words).err().expect("a mistake");
        assert_eq!(sentence_of(&error.to_string()), sentence);
    }

    #[test]
    fn a_mistyped_flag_is_one_sentence_with_the_right_one() {
        check(
            &["serve", "--shrads", "2"],
            "unexpected argument '--shrads' found; a similar argument exists: '--shards'",
        );
        check(
            &["chat"],
            "the following required arguments were not provided: <--user <NAME>|--token <FILE>>",
        );
    }

    #[test]
    fn every_setting_has_a_flag_in_the_help_of_serve() {
        let mut command = Arguments::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for key in crate::config::KEYS {
            assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
        }
    }
}
