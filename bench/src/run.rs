//! A run: the rings' threads, and the one that watches them.

use crate::Error;
use crate::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::config::{Config, Scenario};
use crate::control::Control;
use crate::lane::{self, Outcome};
use crate::latency::Recorder;
use crate::process::{Machine, cpu_micros, resident_bytes, slab_bytes};
use crate::report::{Connects, Counts, Cpu, Latency, Memory, Rates, Report};
use crate::tally::Tally;
use crate::verdict::verdict;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// How often the watching thread looks.
const LOOK_EVERY: Nanos = 2 * MILLISECOND;

/// What the watching thread does besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// The server's process, to measure.
    pub server: Option<u32>,
    /// A line a second on the standard error.
    pub progress: bool,
}

/// Runs `config` to its end. `control` shows how it goes, and may be shared with others.
pub fn run(config: Config, control: &Arc<Control>, watch: Watch) -> Result<Report, Error> {
    config.check()?;
    if let Scenario::Group { groups, .. } = config.scenario {
        let mut ids = control.stages.groups.lock().expect("nobody panics while holding it");
        *ids = vec![0; groups as usize];
    }
    let config = Arc::new(config);
    let mut watcher = Watcher::new(&config, control, watch);
    let mut threads = Vec::new();
    for (number, users) in shares(&config).into_iter().enumerate() {
        threads.push(spawn(&config, control, users, number)?);
    }
    while threads.iter().any(|thread| !thread.is_finished()) {
        clock::pause(LOOK_EVERY);
        watcher.look(clock::now());
    }
    let mut outcomes = Vec::new();
    let mut failure = None;
    for thread in threads {
        match thread.join().expect("a ring's thread does not panic") {
            Ok(outcome) => outcomes.push(outcome),
            Err(Error::Elsewhere) if failure.is_some() => {}
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(watcher.report(outcomes)),
    }
}

/// The users of each ring: equal shares, pairs kept together.
fn shares(config: &Config) -> Vec<Range<u32>> {
    let (connections, block) = (config.scenario.connections(), config.scenario.block());
    let blocks = (connections / block).div_ceil(u32::from(config.rings_count));
    let share = blocks * block;
    let starts = (0..connections).step_by(share as usize);
    starts.map(|start| start..(start + share).min(connections)).collect()
}

fn spawn(
    config: &Arc<Config>,
    control: &Arc<Control>,
    users: Range<u32>,
    number: usize,
) -> Result<JoinHandle<Result<Outcome, Error>>, Error> {
    let (config, control) = (Arc::clone(config), Arc::clone(control));
    let pin = (!config.pins.is_empty()).then(|| config.pins[number % config.pins.len()]);
    let thread = std::thread::Builder::new().name(format!("bench-{number}"));
    let work = move || {
        let outcome = lane::run(&config, &control, users, pin);
        if outcome.is_err() {
            control.stages.has_failed.store(true, Ordering::Relaxed);
        }
        outcome
    };
    Ok(thread.spawn(work)?)
}

/// Samples taken at the borders of the measured part.
#[derive(Clone, Copy, Default)]
struct Sample {
    own_micros: u64,
    server_micros: Option<u64>,
}

#[derive(Clone, Copy, Default)]
struct MemorySample {
    own: Option<u64>,
    server: Option<u64>,
    slab: Option<u64>,
}

struct Watcher {
    config: Arc<Config>,
    control: Arc<Control>,
    watch: Watch,
    began: Nanos,
    ready_at: Option<Nanos>,
    memory_before: MemorySample,
    memory_ready: Option<MemorySample>,
    from: Option<Sample>,
    until: Option<Sample>,
    next_line: Nanos,
    acked_before: u64,
    delivered_before: u64,
}

impl Watcher {
    fn new(config: &Arc<Config>, control: &Arc<Control>, watch: Watch) -> Self {
        let began = clock::now();
        let mut watcher = Self {
            config: Arc::clone(config),
            control: Arc::clone(control),
            watch,
            began,
            ready_at: None,
            memory_before: MemorySample::default(),
            memory_ready: None,
            from: None,
            until: None,
            next_line: began + SECOND,
            acked_before: 0,
            delivered_before: 0,
        };
        watcher.memory_before = watcher.memory_sample();
        watcher
    }

    fn server(&self) -> Option<String> {
        self.watch.server.map(|pid| pid.to_string())
    }

    fn sample(&self) -> Sample {
        let own_micros = cpu_micros("self").unwrap_or(0);
        Sample { own_micros, server_micros: self.server().and_then(|pid| cpu_micros(&pid)) }
    }

    fn memory_sample(&self) -> MemorySample {
        let server = self.server().and_then(|pid| resident_bytes(&pid));
        MemorySample { own: resident_bytes("self"), server, slab: slab_bytes() }
    }

    fn look(&mut self, now: Nanos) {
        let ready = self.control.ready.load(Ordering::Relaxed);
        if self.ready_at.is_none() && ready == self.config.scenario.connections() {
            self.ready_at = Some(now);
        }
        let measured_from = self.control.measured_from.load(Ordering::Acquire);
        if measured_from > 0 && now >= measured_from && self.from.is_none() {
            self.from = Some(self.sample());
        }
        if measured_from > 0 && now >= measured_from + self.config.duration && self.until.is_none()
        {
            self.until = Some(self.sample());
            self.memory_ready = Some(self.memory_sample());
        }
        if self.watch.progress && now >= self.next_line {
            self.next_line += SECOND;
            self.write_line(now, ready);
        }
    }

    fn write_line(&mut self, now: Nanos, ready: u32) {
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let control = &self.control;
        let (acked, delivered) = (load(&control.acked), load(&control.delivered));
        let seconds = (now - self.began) / SECOND;
        eprintln!(
            "{seconds:>4} s  ready {ready}  acked {}/s  delivered {}/s  refused {}  disconnects {}",
            acked - self.acked_before,
            delivered - self.delivered_before,
            load(&control.refused),
            load(&control.disconnects),
        );
        (self.acked_before, self.delivered_before) = (acked, delivered);
    }

    fn report(mut self, mut outcomes: Vec<Outcome>) -> Report {
        self.look(clock::now());
        outcomes.sort_by_key(|outcome| outcome.flow.base);
        let verdict = verdict(&self.config, &outcomes);
        let mut tally = Tally::default();
        let mut enters = 0;
        let [mut sent, mut delivered, mut lag] = [(); 3].map(|()| Recorder::default());
        for outcome in outcomes {
            tally.merge(&outcome.flow.tally);
            enters += outcome.enters_count;
            sent.merge(outcome.flow.recorders.sent);
            delivered.merge(outcome.flow.recorders.delivered);
            lag.merge(outcome.flow.recorders.offer_lag);
        }
        let latency = |recorder: &mut Recorder| Latency {
            total: recorder.figures(),
            seconds: recorder.windows(),
        };
        let offer_lag = latency(&mut lag);
        Report {
            command_line: std::env::args().collect(),
            machine: Machine::here(),
            connects: self.connects(),
            counts: counts(&tally, enters),
            rates: self.rates(&tally),
            sent: latency(&mut sent),
            delivered: latency(&mut delivered),
            cpu: self.cpu(&tally),
            memory: self.memory(),
            verdict,
            void: self.void(offer_lag.total.p999),
            offer_lag,
            first_error: self.control.first_error(),
            config: Config::clone(&self.config),
        }
    }

    fn connects(&self) -> Connects {
        let seconds = self.ready_at.map_or(0.0, |at| (at - self.began) as f64 / SECOND as f64);
        let per_second = f64::from(self.config.scenario.connections()) / seconds.max(1e-3);
        Connects { seconds, per_second }
    }

    fn seconds(&self) -> f64 {
        self.config.duration as f64 / SECOND as f64
    }

    fn rates(&self, tally: &Tally) -> Rates {
        let a_second = |count: u64| count as f64 / self.seconds();
        Rates {
            offered: a_second(tally.measured_offered),
            acked: a_second(tally.measured_acked),
            delivered: a_second(tally.measured_delivered),
            goodput: tally.measured_acked as f64 / tally.measured_offered.max(1) as f64,
        }
    }

    fn cpu(&self, tally: &Tally) -> Cpu {
        let (Some(from), Some(until)) = (self.from, self.until) else { return Cpu::default() };
        let server_micros = from.server_micros.zip(until.server_micros);
        let server_micros = server_micros.map(|(from, until)| (until - from) as f64);
        let each = |count: u64| server_micros.filter(|_| count > 0).map(|all| all / count as f64);
        Cpu {
            own: (until.own_micros - from.own_micros) as f64 / 1e6 / self.seconds(),
            server: server_micros.map(|micros| micros / 1e6 / self.seconds()),
            server_micros_per_message: each(tally.measured_acked),
            server_micros_per_delivery: each(tally.measured_delivered),
        }
    }

    fn memory(&self) -> Memory {
        let Some(ready) = self.memory_ready else { return Memory::default() };
        let connections = f64::from(self.config.scenario.connections());
        let each = |before: Option<u64>, with: Option<u64>| {
            let (before, with) = before.zip(with)?;
            Some((with as f64 - before as f64) / connections)
        };
        Memory {
            server_bytes_per_connection: each(self.memory_before.server, ready.server),
            own_bytes_per_connection: each(self.memory_before.own, ready.own),
            slab_bytes_per_connection: each(self.memory_before.slab, ready.slab),
        }
    }

    fn void(&self, lag: Nanos) -> Option<String> {
        let bound = self.config.offer_lag_max;
        let millis = |nanos: Nanos| nanos as f64 / 1e6;
        (lag > bound).then(|| {
            let (lag, bound) = (millis(lag), millis(bound));
            format!("the generator was late: offer lag p99.9 {lag:.3} ms, bound {bound:.3} ms")
        })
    }
}

fn counts(tally: &Tally, enters: u64) -> Counts {
    Counts {
        offered: tally.offered,
        sent: tally.sent,
        acked: tally.acked,
        refused: tally.refused,
        choked: tally.choked,
        delivered: tally.delivered,
        redelivered: tally.redelivered,
        disconnects: tally.disconnects,
        resumed: tally.resumed,
        sends: tally.sends,
        enters,
    }
}
