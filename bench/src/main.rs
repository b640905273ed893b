//! `ringmain-bench`: the load generator's command line.

use bench::arrivals::Spread;
use bench::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use bench::config::rings_for;
use bench::search::Search;
use bench::{Config, Control, Door, Report, Scenario, Watch};
use clap::{Args, Parser, Subcommand};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Open-loop load for a Ringmain server. Latency runs from the time a message was due; every
/// delivery is checked for loss, repetition, order and content. Exits 1 if the check fails, 2 if
/// there was no run.
#[derive(Debug, Parser)]
#[command(name = "ringmain-bench", version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pairs of users, each sending to the other
    Direct(Pairs),
    /// Groups: some members send, all receive
    Group(Groups),
    /// Connections that are made, authenticated and kept
    Idle(Idle),
    /// The traffic of `direct` against the raw relay probe
    RelayDirect(Pairs),
    /// The traffic of `group` against the raw relay probe
    RelayGroup(Groups),
}

#[derive(Args, Debug)]
struct Pairs {
    /// Connections, an even number
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    #[command(flatten)]
    traffic: Traffic,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct Groups {
    /// Groups
    #[arg(long, default_value_t = 1)]
    groups: u32,
    /// Members of each group
    #[arg(long, default_value_t = 256)]
    members: u32,
    /// Members of each group that send
    #[arg(long, default_value_t = 1)]
    senders: u32,
    #[command(flatten)]
    traffic: Traffic,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct Idle {
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// Seconds to keep them
    #[arg(long, default_value_t = 10.0)]
    hold: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct Traffic {
    /// Messages a second in total; with --find-rate, where the search begins
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// How arrivals are spread
    #[arg(long, value_enum, default_value_t = Spread::Poisson)]
    arrivals: Spread,
    /// Shortest time, in microseconds, between two turns that send; messages due meanwhile share
    /// sends, as those of a gateway do
    #[arg(long, default_value_t = 0.0)]
    turn_us: f64,
    /// Bytes of a message's content
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Seconds measured
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that, left out of the figures
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Longest wait, in seconds, for what is under way at the end
    #[arg(long, default_value_t = 5.0)]
    drain: f64,
    /// Whether receivers acknowledge deliveries
    #[arg(long, value_enum, default_value_t = Receipts::Coalesced)]
    receipts: Receipts,
    /// Offer lag (p99.9, in milliseconds) above which a run is void
    #[arg(long, default_value_t = 10.0)]
    offer_lag_ms: f64,
    /// Come back after lost connections and retry what was not acknowledged
    #[arg(long)]
    survive_restart: bool,
    /// Search the highest rate that is kept up with, then run it
    #[arg(long)]
    find_rate: bool,
    /// With --find-rate: bound of the delivery latency's 99th percentile, in milliseconds
    #[arg(long, default_value_t = 50.0)]
    p99_ms: f64,
    /// With --find-rate: seconds measured of a trial
    #[arg(long, default_value_t = 3.0)]
    trial: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Receipts {
    /// Never
    Off,
    /// After 256 messages or 200 ms, a cursor for all of them
    Coalesced,
}

#[derive(Args, Debug)]
struct Common {
    /// The server's native door, or the relay
    #[arg(long, default_value = "127.0.0.1:7400")]
    target: SocketAddr,
    /// Makes the run repeatable
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// First part of every user id [default: from the seed and the time]
    #[arg(long)]
    user_prefix: Option<String>,
    /// Threads with a ring each [default: as few as can hold the connections]
    #[arg(long)]
    rings: Option<u16>,
    /// Processors to pin the rings to, such as 1 or 2,3
    #[arg(long, value_delimiter = ',')]
    pin: Vec<usize>,
    /// The server's process id, for its processor time and memory
    #[arg(long)]
    server_pid: Option<u32>,
    /// Longest wait, in seconds, for the connections
    #[arg(long, default_value_t = 60.0)]
    connect_timeout: f64,
    /// Log in by user id alone, which the server must allow; the only way there is
    #[arg(long, default_value_t = true)]
    dev_auth: bool,
    /// Allow a target that is not this machine
    #[arg(long)]
    i_own_this_target: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// A line a second on the standard error, also where that is no terminal
    #[arg(long)]
    progress: bool,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest whole number in range"
)]
fn nanos(count: f64, unit: Nanos) -> Nanos {
    (count * unit as f64) as Nanos
}

/// Users that no earlier run has had, unless they are named.
#[expect(clippy::disallowed_methods, reason = "a run's users are named after its time")]
fn prefix(common: &Common) -> String {
    common.user_prefix.clone().unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = time.map_or(0, |time| time.as_millis());
        format!("b{:x}-{millis:x}-", common.seed)
    })
}

fn configure(common: &Common, scenario: Scenario, door: Door) -> Config {
    let mut config = Config::new(common.target, scenario);
    config.door = door;
    config.seed = common.seed;
    config.user_prefix = prefix(common);
    config.rings_count = common.rings.unwrap_or(rings_for(scenario.connections()));
    config.pins.clone_from(&common.pin);
    config.connect_timeout = nanos(common.connect_timeout, SECOND);
    config.any_target = common.i_own_this_target;
    config
}

fn add_traffic(config: &mut Config, traffic: &Traffic) -> Option<Search> {
    config.rate = traffic.rate;
    config.spread = traffic.arrivals;
    config.turn = nanos(traffic.turn_us, MICROSECOND);
    config.content_bytes = traffic.size;
    config.duration = nanos(traffic.duration, SECOND);
    config.warmup = nanos(traffic.warmup, SECOND);
    config.drain = nanos(traffic.drain, SECOND);
    config.receipts = traffic.receipts == Receipts::Coalesced && config.door == Door::Native;
    config.offer_lag_max = nanos(traffic.offer_lag_ms, MILLISECOND);
    config.survives_restart = traffic.survive_restart;
    traffic.find_rate.then(|| Search {
        p99_max: nanos(traffic.p99_ms, MILLISECOND),
        trial: nanos(traffic.trial, SECOND),
        ..Search::default()
    })
}

fn pairs(pairs: &Pairs, door: Door) -> (Config, Option<Search>) {
    let scenario = Scenario::Direct { connections: pairs.connections };
    let mut config = configure(&pairs.common, scenario, door);
    let search = add_traffic(&mut config, &pairs.traffic);
    (config, search)
}

fn groups(groups: &Groups, door: Door) -> (Config, Option<Search>) {
    let Groups { groups: count, members, senders, .. } = *groups;
    let scenario = Scenario::Group { groups: count, members, senders };
    let mut config = configure(&groups.common, scenario, door);
    let search = add_traffic(&mut config, &groups.traffic);
    (config, search)
}

fn idle(idle: &Idle) -> (Config, Option<Search>) {
    let scenario = Scenario::Idle { connections: idle.connections };
    let mut config = configure(&idle.common, scenario, Door::Native);
    config.warmup = SECOND;
    config.duration = nanos(idle.hold, SECOND);
    config.drain = 0;
    (config, None)
}

fn tell_trial(report: &Report, shortcoming: Option<&str>) {
    eprintln!(
        "trial {:>10.0}/s  delivered {:>10.0}/s  p50 {:>8.3} ms  p99 {:>8.3} ms  {}",
        report.config.rate,
        report.rates.delivered,
        report.delivered.total.p50 as f64 / 1e6,
        report.delivered.total.p99 as f64 / 1e6,
        shortcoming.unwrap_or("kept up"),
    );
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (common, (config, search)) = match &arguments.scenario {
        Command::Direct(flags) => (&flags.common, pairs(flags, Door::Native)),
        Command::RelayDirect(flags) => (&flags.common, pairs(flags, Door::Relay)),
        Command::Group(flags) => (&flags.common, groups(flags, Door::Native)),
        Command::RelayGroup(flags) => (&flags.common, groups(flags, Door::Relay)),
        Command::Idle(flags) => (&flags.common, idle(flags)),
    };
    let progress = common.progress || (std::io::stderr().is_terminal() && search.is_none());
    let watch = Watch { server: common.server_pid, progress };
    let outcome = match search {
        Some(search) => search.find(&config, watch, &mut tell_trial),
        None => bench::run(config, &Arc::new(Control::default()), watch),
    };
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            eprintln!("ringmain-bench: {error}");
            return ExitCode::from(2);
        }
    };
    if common.json {
        println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
    } else {
        print!("{report}");
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
