//! FROM INSIDE: what this machine's kernel and disk allow, without a chat server in between.
//!
//! Each probe makes the same system calls as one part of the server and nothing else, so that the
//! server's figures can be given as a share of what was possible in the same minute. It is no
//! server, and its figures are no server's.

mod append;
mod dial;
mod relay;
mod ring;
mod serve;
mod sockets;
mod stages;

use bench::clock::{self, SECOND};
use clap::{Parser, Subcommand};
use dial::Habit;
use relay::Relay;
use serde::Serialize;
use serve::{Bounds, Work, serve};
use sockets::{Found, Probe};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Raw probes of what the machine allows. All end by themselves.
#[derive(Debug, Parser)]
#[command(name = "ringmain-perf", version)]
struct Arguments {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Processors: the first for the listening or sending side, the second for the other
    #[arg(long, global = true, value_delimiter = ',')]
    pin: Vec<usize>,
    #[command(subcommand)]
    probe: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Passes frames on, for `ringmain-bench relay-direct` and `relay-group`
    Relay {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:7700")]
        listen: SocketAddr,
        /// Members of each group: group g is the indices from g times this
        #[arg(long, default_value_t = 256)]
        group_members: u32,
        /// Do not answer the sender
        #[arg(long)]
        no_ack: bool,
        /// Seconds until it ends
        #[arg(long, default_value_t = 600.0)]
        seconds: f64,
        /// Connections that it takes
        #[arg(long, default_value_t = 19_900)]
        connections: u32,
    },
    /// Writes and syncs batches of 4 KiB to 1 MiB on a file made ahead
    Append {
        /// On which file system
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Seconds, over all sizes of batch
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Accepts connections and keeps them, armed, both ends in this process
    Accept {
        /// Connections
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// Seconds to keep them
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// One message to and fro on each connection
    Echo {
        /// Connections
        #[arg(long, default_value_t = 64)]
        connections: u32,
        /// Bytes of a message
        #[arg(long, default_value_t = 184)]
        bytes: usize,
        /// Seconds measured
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// One send after the other on each connection
    Send {
        /// Connections
        #[arg(long, default_value_t = 64)]
        connections: u32,
        /// Bytes of a message
        #[arg(long, default_value_t = 200)]
        bytes: usize,
        /// Messages that share a send
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Seconds measured
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Where a running server spends its time, by stage of a message's way
    Stages {
        /// The server's process
        #[arg(long)]
        pid: u32,
        /// Its admin door
        #[arg(long)]
        admin: SocketAddr,
        /// Seconds sampled
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Items through the ring between two shards
    Ring {
        /// Items
        #[arg(long, default_value_t = 100_000_000)]
        items: u64,
    },
}

/// Pins the calling thread, where a processor was named.
pub(crate) fn pin(processor: Option<usize>) {
    if let Some(id) = processor
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        eprintln!("ringmain-perf: cannot pin to processor {id}");
    }
}

fn show(is_json: bool, found: &impl Serialize, text: &str) {
    if is_json {
        println!("{}", serde_json::to_string(found).expect("figures are plain data"));
    } else {
        println!("{text}");
    }
}

fn show_sockets(is_json: bool, name: &str, messages_per_round: usize, found: &Found) {
    let messages = found.rounds_per_second * messages_per_round as f64;
    let mut text = format!(
        "{name}: {} connections ({} failed), {:.0} connects/s\nmemory a connection, both ends: \
         {:.0} B resident, {:.0} B kernel",
        found.connections,
        found.failed,
        found.connects_per_second,
        found.resident_bytes_per_connection,
        found.slab_bytes_per_connection,
    );
    if found.rounds > 0 {
        let (rounds, micros) = (found.rounds_per_second, found.cpu_micros_per_round);
        text += &format!(
            "\n{rounds:.0} rounds/s, {messages:.0} messages/s, {micros:.2} us of processor a \
             round (both ends)"
        );
    }
    show(is_json, found, &text);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest whole number in range"
)]
fn end_after(seconds: f64) -> u64 {
    clock::now() + (seconds * SECOND as f64) as u64
}

fn relay(
    listen: SocketAddr,
    relay: Relay,
    connections: u32,
    seconds: f64,
) -> std::io::Result<serve::Served> {
    let listener = serve::listen(listen)?;
    let (stop, held) = (AtomicBool::new(false), AtomicU64::new(0));
    let until = end_after(seconds);
    let bounds = Bounds { until, connections_max: connections, stop: &stop, held: &held };
    serve(&listener, Work::Relay(relay), bounds)
}

fn run(arguments: &Arguments) -> std::io::Result<()> {
    let is_json = arguments.json;
    let pins = [arguments.pin.first().copied(), arguments.pin.get(1).copied()];
    let sockets =
        |connections, habit, seconds| sockets::run(Probe { connections, habit, seconds, pins });
    match &arguments.probe {
        Command::Relay { listen, group_members, no_ack, seconds, connections } => {
            pin(pins[0]);
            let served =
                relay(*listen, Relay::new(*group_members, !no_ack), *connections, *seconds)?;
            show(is_json, &served, &format!("relay: {served:?}"));
        }
        Command::Append { dir, seconds } => {
            let lines = append::append(dir, *seconds)?;
            let text: Vec<_> = lines.iter().map(line).collect();
            show(is_json, &lines, &format!("append, write and fdatasync:\n{}", text.join("\n")));
        }
        Command::Accept { connections, seconds } => {
            let found = sockets(*connections, Habit::Hold, *seconds)?;
            show_sockets(is_json, "accept", 1, &found);
        }
        Command::Echo { connections, bytes, seconds } => {
            let found = sockets(*connections, Habit::Ping(*bytes), *seconds)?;
            show_sockets(is_json, "echo", 1, &found);
        }
        Command::Send { connections, bytes, batch, seconds } => {
            let found = sockets(*connections, Habit::Flood(bytes * batch), *seconds)?;
            show_sockets(is_json, "send", *batch, &found);
        }
        Command::Stages { pid, admin, seconds } => {
            let found = stages::stages(*pid, *admin, *seconds)?;
            show(is_json, &found, &stage_table(&found));
        }
        Command::Ring { items } => {
            let moved = ring::run(*items, pins);
            let (rate, bytes) = (moved.items_per_second / 1e6, moved.item_bytes);
            show(is_json, &moved, &format!("ring: {rate:.1} M items/s of {bytes} bytes"));
        }
    }
    Ok(())
}

fn stage_table(found: &stages::Stages) -> String {
    let mut text = format!(
        "{:.0} messages/s, {:.2} us of processor a message, {} samples",
        found.messages_per_second, found.micros_per_message, found.samples_count
    );
    for row in &found.rows {
        let (share, micros) = (row.share * 100.0, row.micros_per_message);
        text += &format!("\n{:<40}{share:>6.1} %{micros:>8.2} us", row.stage);
    }
    text
}

fn line(line: &append::Line) -> String {
    format!(
        "{:>8} B  {:>8.0} syncs/s  {:>8.1} MB/s  p50 {:>7.3} ms  p99 {:>7.3} ms  max {:>7.3} ms",
        line.batch_bytes,
        line.syncs_per_second,
        line.megabytes_per_second,
        line.p50 as f64 / 1e6,
        line.p99 as f64 / 1e6,
        line.max as f64 / 1e6,
    )
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmain-perf: {error}");
            ExitCode::from(2)
        }
    }
}
