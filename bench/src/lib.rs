//! FROM OUTSIDE: open-loop load on a real server, every delivery checked, latency from the time a
//! message was due.
//!
//! It meets the server only through sockets, and knows nothing of how it works inside; it is not
//! a client for programs to build on. [`uring`] and [`outbox`] also carry the raw probes of
//! `perf/`, which are what the server's figures are compared to.

pub mod arrivals;
pub mod clock;
pub mod config;
mod connection;
mod content;
pub mod control;
mod flow;
pub mod frames;
mod lane;
pub mod latency;
mod offer;
mod oracle;
mod order;
pub mod outbox;
pub mod process;
pub mod report;
mod run;
pub mod search;
mod tally;
pub mod uring;
pub mod verdict;

pub use config::{Config, Door, Scenario};
pub use control::Control;
pub use report::Report;
pub use run::{Watch, run};

/// Why a run came to no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run as described is impossible.
    #[error("{0}")]
    Config(String),
    /// The kernel refused something that a run cannot do without.
    #[error("the kernel refused: {0}")]
    Io(#[from] std::io::Error),
    /// Not all connections became ready in time.
    #[error("{ready} of {connections} connections became ready in time; first error: {cause}")]
    Connect {
        /// How many did.
        ready: u32,
        /// How many had to.
        connections: u32,
        /// The first thing that went wrong.
        cause: String,
    },
    /// Another ring of the run failed.
    #[error("another ring of the run failed")]
    Elsewhere,
}
