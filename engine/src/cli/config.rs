//! `ringmain config`: the configuration, without a server.

use super::{ServeFlags, print, refuse};
use crate::config::Config;
use std::process::ExitCode;

/// Prints or checks the configuration.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Prints what a server would run with, or what is wrong with it.
    Check(ServeFlags),
    /// Prints a file of all settings, each with its default and what it is for.
    PrintDefault,
}

pub(super) fn run(command: &Command) -> ExitCode {
    match command {
        Command::PrintDefault => print(&Config::default_toml()),
        Command::Check(flags) => match flags.load() {
            Ok(config) => print(&config.to_toml()),
            Err(error) => return refuse(&error.to_string()),
        },
    }
    ExitCode::SUCCESS
}
