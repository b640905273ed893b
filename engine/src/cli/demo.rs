//! `ringmain demo`.
/// Flags.
#[derive(clap::Args)]
pub(super) struct Flags {}
pub(super) fn run(_flags: Flags) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
