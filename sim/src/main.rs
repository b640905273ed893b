//! THE SECOND WORLD: real shards, simulated clients, disk, network and time, all from one seed.
//!
//! `cargo sim --seed N` runs one world and says what it found; `cargo sim ci` runs the range that
//! every change must pass. `docs/testing.md` tells what is simulated and what is checked.
#![forbid(unsafe_code)]

mod random;
mod trace;

mod counters;
mod options;

mod disk;
mod env;
mod shard_disk;
mod sockets;

mod process;

mod client;
mod deeds;
mod hears;

mod oracle;
mod world;

use clap::{Parser, Subcommand};
use counters::{Counters, SOMETIMES};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::{Verdict, run};

const CI_SEEDS: Range<u64> = 0..100;
/// Of so many seeds one is run twice, and must end in the same hash.
const TWICE_EVERY: u64 = 20;
const REGRESSIONS: &str = include_str!("../regressions.txt");

/// The seed under way, for the line that tells how to see a panic again.
static SEED: AtomicU64 = AtomicU64::new(0);

#[derive(Parser)]
#[command(name = "sim", about = "Runs the engine in a simulated world")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// One seed.
    #[arg(long)]
    seed: Option<u64>,
    /// A range of seeds: from..to
    #[arg(long)]
    seeds: Option<String>,
    /// How long the storm of each seed lasts, in simulated minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Tells the turns of fate as they come.
    #[arg(long)]
    trace: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The seeds that every change must pass.
    Ci,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        println!("replay: cargo sim --seed {}", SEED.load(Ordering::Relaxed));
    }));
    let minutes = arguments.minutes;
    match (&arguments.command, arguments.seed, arguments.seeds.as_deref().map(range)) {
        (Some(Command::Ci), None, None) => ci(),
        (None, None, Some(Some(seeds))) => {
            let seeds: Vec<u64> = seeds.collect();
            many(&seeds, minutes, false)
        }
        (None, seed, None) => one(seed.unwrap_or(1), minutes, arguments.trace),
        _ => {
            eprintln!("sim: either `ci`, or --seed N, or --seeds A..B");
            ExitCode::FAILURE
        }
    }
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

fn run_seed(seed: u64, minutes: Option<u64>, is_shown: bool) -> Verdict {
    SEED.store(seed, Ordering::Relaxed);
    run(seed, minutes, is_shown)
}

fn one(seed: u64, minutes: Option<u64>, is_shown: bool) -> ExitCode {
    let verdict = run_seed(seed, minutes, is_shown);
    println!("seed {seed}: {}", verdict.shape);
    for (name, count) in verdict.counters.iter() {
        println!("  {count:>8}  {name}");
    }
    println!("simulated {:.1} s", verdict.simulated_micros as f64 / 1e6);
    println!("trace {:032x}", verdict.hash);
    match verdict.violation {
        None => {
            println!("nothing wrong was seen");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("violation: {violation}");
            println!("replay: cargo sim --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> ExitCode {
    let regressions = REGRESSIONS.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then(|| line.parse().expect("regressions.txt: a seed a line"))
    });
    let seeds: Vec<u64> = regressions.chain(CI_SEEDS).collect();
    many(&seeds, None, true)
}

fn many(seeds: &[u64], minutes: Option<u64>, is_ci: bool) -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "how long a run takes is told, not simulated")]
    let started = Instant::now();
    let mut totals = Counters::default();
    let (mut simulated_micros, mut passed_count) = (0, 0);
    let mut failed = Vec::new();
    for (index, &seed) in seeds.iter().enumerate() {
        let verdict = run_seed(seed, minutes, false);
        totals.merge(&verdict.counters);
        simulated_micros += verdict.simulated_micros;
        let is_twice = (index as u64).is_multiple_of(TWICE_EVERY);
        let violation = verdict.violation.or_else(|| {
            let again = is_twice.then(|| run_seed(seed, minutes, false).hash);
            let differs = again.is_some_and(|again| again != verdict.hash);
            differs.then(|| "a second run of the seed took another course".to_owned())
        });
        match violation {
            None => passed_count += 1,
            Some(violation) => {
                println!("seed {seed}: {violation}\nreplay: cargo sim --seed {seed}");
                failed.push(seed);
            }
        }
        if (index + 1) % 50 == 0 {
            println!("{} of {} seeds, {} failed", index + 1, seeds.len(), failed.len());
        }
    }
    println!("{:.1} simulated minutes", simulated_micros as f64 / 60e6);
    for (name, count) in totals.iter() {
        println!("  {count:>9}  {name}");
    }
    let missing: Vec<&str> =
        SOMETIMES.iter().copied().filter(|name| is_ci && totals.of(name) == 0).collect();
    for name in &missing {
        println!("never happened: {name}");
    }
    let is_ok = failed.is_empty() && missing.is_empty();
    println!(
        "test result: {}. {passed_count} passed; {} failed; 0 ignored; 0 measured; \
         0 filtered out; finished in {:.2}s",
        if is_ok { "ok" } else { "FAILED" },
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    if let Some(seed) = failed.first() {
        println!("replay: cargo sim --seed {seed}");
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
