//! The program on a real kernel, a real disk and real sockets: what clients, operators and
//! accidents do to it. Every server here is a process of its own on a folder of its own.
//!
//! `RINGMAIN_KILLS=100` runs the loop of kills for that many rounds.

#![expect(clippy::disallowed_methods, reason = "what is tested lives by the real clock")]
#![expect(clippy::unwrap_used, reason = "a test stops where the world is not as it set it up")]

mod support;

mod abuse;
mod admin;
mod chat_program;
mod command_line;
mod direct;
mod disk_full;
mod endings;
mod groups;
mod kill_loop;
mod log_program;
mod retention;
mod shards;
mod slow_reader;
mod timeouts;
mod tokens;
