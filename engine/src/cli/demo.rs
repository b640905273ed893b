//! `ringmain demo`: a server on a free port and a crowd of clients; a rate it is comfortable at;
//! then a kill in the middle, a restart, and the proof that nothing was lost.

use bench::{Config, Control, Report, Scenario, Watch};
use std::fmt::Write;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

const SECOND_NANOS: u64 = 1_000_000_000;
/// Rates tried one after the other until one is too much.
const RATES: [f64; 7] = [4e3, 8e3, 16e3, 32e3, 64e3, 96e3, 128e3];
/// A trial whose 99th percentile is above this is too much.
const COMFORTABLE_P99_NANOS: u64 = 20_000_000;
/// How much of the last good rate the demo asks for.
const COMFORT: f64 = 0.6;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// What can be asked of the demo.
#[derive(clap::Args)]
pub(super) struct Flags {
    /// Clients, each with a connection of its own; they talk in pairs.
    #[arg(long, default_value_t = 1000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(2..=10_000))]
    connections: u32,
    /// Seconds of each of the two measured parts.
    #[arg(long, default_value_t = 5, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(2..=300))]
    seconds: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// A server process of the demo's own. Killed when dropped.
struct Server {
    child: Child,
    native: SocketAddr,
    ready_after: Duration,
}

/// What the demo found.
#[derive(serde::Serialize)]
struct Outcome {
    rate: f64,
    steady: Report,
    killed: Report,
    recovery_ms: u64,
    /// Of the first trial, on a server that has served nobody before.
    bytes_per_connection: Option<f64>,
    clean: bool,
}

pub(super) fn run(flags: Flags) -> ExitCode {
    match demo(&flags) {
        Ok(outcome) => {
            if flags.json {
                super::print(&format!("{}\n", json(&outcome)));
            } else {
                super::print(&table(&outcome));
            }
            if outcome.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(sentence) => {
            eprintln!("ringmain: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn demo(flags: &Flags) -> Result<Outcome, String> {
    let data = Folder::make()?;
    say("starting a server in a temporary folder");
    let server = Server::start(&data.path)?;
    say(&format!("ready after {} ms on {}", server.ready_after.as_millis(), server.native));
    let (rate, bytes_per_connection) = comfortable_rate(flags, &server)?;
    say(&format!("{rate:.0} messages a second is comfortable; measuring {} s", flags.seconds));
    let steady = measure(flags, &server, rate)?;
    say(&format!("the same again, with a SIGKILL after {} s", flags.seconds.div_ceil(2)));
    let (killed, recovery) = measure_killed(flags, server, (&data.path, rate))?;
    let clean = steady.is_clean() && killed.is_clean();
    let recovery_ms = u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX);
    Ok(Outcome { rate, steady, killed, recovery_ms, bytes_per_connection, clean })
}

fn config(flags: &Flags, server: &Server, rate: f64, name: &str) -> Config {
    let scenario = Scenario::Direct { connections: flags.connections };
    Config {
        rate,
        user_prefix: format!("{name}-"),
        warmup: SECOND_NANOS / 2,
        ..Config::new(server.native, scenario)
    }
}

/// Doubles the rate until the server is no longer at ease, and takes a good part of the last.
fn comfortable_rate(flags: &Flags, server: &Server) -> Result<(f64, Option<f64>), String> {
    let mut comfortable = RATES[0] / 2.0;
    let mut bytes_per_connection = None;
    for (index, rate) in RATES.into_iter().enumerate() {
        let name = format!("trial{index}");
        let trial = Config { duration: SECOND_NANOS, ..config(flags, server, rate, &name) };
        let watch = Watch { server: Some(server.child.id()), progress: false };
        let report = run_bench(trial, &Arc::default(), watch)?;
        if index == 0 {
            bytes_per_connection = report.memory.server_bytes_per_connection;
        }
        let p99 = report.delivered.total.p99;
        let is_good = report.is_clean()
            && report.void.is_none()
            && report.rates.goodput > 0.999
            && p99 < COMFORTABLE_P99_NANOS;
        say(&format!(
            "  {rate:>7.0} messages/s offered, {:>7.0} delivered, p99 {} ms{}",
            report.rates.delivered,
            millis(p99),
            if is_good { "" } else { ": too much" }
        ));
        if !is_good {
            break;
        }
        comfortable = rate;
    }
    Ok((comfortable * COMFORT, bytes_per_connection))
}

fn measure(flags: &Flags, server: &Server, rate: f64) -> Result<Report, String> {
    let config =
        Config { duration: flags.seconds * SECOND_NANOS, ..config(flags, server, rate, "steady") };
    let watch = Watch { server: Some(server.child.id()), progress: false };
    watched(config, watch, |_| Ok(())).map(|(report, ())| report)
}

/// A run whose server dies in the middle and comes back elsewhere.
fn measure_killed(
    flags: &Flags,
    mut server: Server,
    (data, rate): (&Path, f64),
) -> Result<(Report, Duration), String> {
    let config = Config {
        duration: flags.seconds * SECOND_NANOS,
        drain: 20 * SECOND_NANOS,
        survives_restart: true,
        ..config(flags, &server, rate, "killed")
    };
    let half = Duration::from_secs(flags.seconds).div_f64(2.0);
    let data = data.to_owned();
    let (report, (server, recovery)) =
        watched(config, Watch::default(), move |control: &Arc<Control>| {
            wait_for_traffic(control, half)?;
            server.kill()?;
            say("  SIGKILL; starting again on the same folder");
            let server = Server::start(&data)?;
            let recovery = server.ready_after;
            say(&format!("  recovered after {} ms", recovery.as_millis()));
            control.move_target(server.native);
            Ok((server, recovery))
        })?;
    drop(server);
    Ok((report, recovery))
}

/// Runs the generator on threads of its own, shows how it goes, and does `meanwhile` beside it.
fn watched<T>(
    config: Config,
    watch: Watch,
    meanwhile: impl FnOnce(&Arc<Control>) -> Result<T, String>,
) -> Result<(Report, T), String> {
    let control: Arc<Control> = Arc::default();
    let shared = Arc::clone(&control);
    let run = thread::spawn(move || run_bench(config, &shared, watch));
    let shown = Arc::clone(&control);
    let is_shown = io::stderr().is_terminal();
    let show = thread::spawn(move || {
        while is_shown && Arc::strong_count(&shown) > 2 {
            show_progress(&shown);
        }
    });
    let done = meanwhile(&control);
    if done.is_err() {
        control.stop();
    }
    let report = run.join().map_err(|_| "the generator panicked".to_owned())?;
    drop(control);
    show.join().map_err(|_| "the progress thread panicked".to_owned())?;
    Ok((report?, done?))
}

fn show_progress(control: &Control) {
    let before = control.delivered.load(Ordering::Relaxed);
    pause(Duration::from_millis(500));
    let delivered = control.delivered.load(Ordering::Relaxed);
    let acked = control.acked.load(Ordering::Relaxed);
    eprint!("\r  acknowledged {acked:>9}  delivered {delivered:>9}  ");
    eprint!("{:>7} deliveries/s \r", (delivered - before) * 2);
}

fn run_bench(config: Config, control: &Arc<Control>, watch: Watch) -> Result<Report, String> {
    bench::run(config, control, watch).map_err(|error| format!("the generator: {error}"))
}

fn wait_for_traffic(control: &Control, then: Duration) -> Result<(), String> {
    let started = now();
    while control.acked.load(Ordering::Relaxed) == 0 {
        if started.elapsed() > READY_TIME_MAX {
            return Err("no message was acknowledged within a minute".to_owned());
        }
        pause(LOOK_EVERY);
    }
    pause(then);
    Ok(())
}

impl Server {
    /// Starts this program as a server and waits for its ready line.
    fn start(data: &Path) -> Result<Self, String> {
        let started = now();
        let program = std::env::current_exe().map_err(|error| format!("who am I: {error}"))?;
        let mut child = Command::new(program)
            .args(["serve", "--dev-auth", "--native", "127.0.0.1:0", "--log-level", "error"])
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start a server: {error}"))?;
        let mut line = String::new();
        let out = child.stdout.take().expect("piped above");
        let read = BufReader::new(out).read_line(&mut line);
        let ready_after = started.elapsed();
        let native = line.split_whitespace().find_map(|word| word.strip_prefix("native="));
        match native.and_then(|address| address.parse().ok()) {
            Some(native) if read.is_ok() => Ok(Self { child, native, ready_after }),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                Err("the server did not get ready; what it said is above".to_owned())
            }
        }
    }

    fn kill(&mut self) -> Result<(), String> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| format!("cannot kill the server: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed before, perhaps; then there is nothing left to do.
        let _ = self.kill();
    }
}

/// A temporary folder, removed when dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("ringmain-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("ringmain: {} stays behind: {error}", self.path.display());
        }
    }
}

fn table(outcome: &Outcome) -> String {
    let Outcome { steady, killed, recovery_ms, .. } = outcome;
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        writeln!(out, "  {name:<26}{text}").expect("a string takes any text");
    };
    let times = |latency: &bench::report::Latency| {
        let total = &latency.total;
        let (p50, p99, p999) = (millis(total.p50), millis(total.p99), millis(total.p999));
        format!("p50 {p50} ms   p99 {p99} ms   p99.9 {p999} ms")
    };
    row("durable messages", format!("{:.0} a second", steady.rates.acked));
    row("send to sent", times(&steady.sent));
    row("send to delivered", times(&steady.delivered));
    if let Some(bytes) = outcome.bytes_per_connection {
        row("user memory", format!("{bytes:.0} bytes a connection"));
    }
    row("killed and back", format!("{recovery_ms} ms from start to ready"));
    row("across the kill", times(&killed.delivered));
    let counts = [&steady.counts, &killed.counts];
    let sum = |of: fn(&bench::report::Counts) -> u64| counts.into_iter().map(of).sum::<u64>();
    row(
        "checked",
        format!("{} acknowledged, {} delivered", sum(|it| it.acked), sum(|it| it.delivered)),
    );
    let verdicts = [&steady.verdict, &killed.verdict];
    let sum = |of: fn(&bench::verdict::Verdict) -> u64| verdicts.into_iter().map(of).sum::<u64>();
    let (lost, duplicated) = (sum(|it| it.lost), sum(|it| it.duplicated));
    let (reordered, corrupt) = (sum(|it| it.reordered), sum(|it| it.corrupt));
    writeln!(
        out,
        "\nlost={lost} duplicated={duplicated} reordered={reordered} corrupt={corrupt} {}",
        if outcome.clean { "ok" } else { "FAILED" }
    )
    .expect("a string takes any text");
    out
}

fn json(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).expect("plain numbers and strings")
}

fn millis(nanos: u64) -> String {
    format!("{:.2}", std::time::Duration::from_nanos(nanos).as_secs_f64() * 1000.0)
}

fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::disallowed_methods, reason = "the demo is a tool, and waits for a process")]
fn pause(time: Duration) {
    thread::sleep(time);
}

#[expect(clippy::disallowed_methods, reason = "the demo is a tool, and measures")]
fn now() -> Instant {
    Instant::now()
}
