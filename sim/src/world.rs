//! One seed's world, from its first start to the verdict.
//!
//! Two parts: in the *storm* faults fire and clients work; in the *calm* everything must heal
//! within a bounded time. Then the power is cut once more, and every member reads every history.

use crate::client::{Client, Phase, Reading};
use crate::counters::Counters;
use crate::disk::SURVIVALS;
use crate::env::{Env, Happening, Place};
use crate::options::Options;
use crate::process::Process;
use crate::random::Random;
use crate::trace::Trace;
use wire::ConversationId;

/// How long healing may take.
const CALM_MICROS_MAX: u64 = 120_000_000;
/// How long a process may go on after its log has failed.
const DEATH_MICROS_MAX: u64 = 1_000_000;
/// How long a drain may take.
const DRAIN_MICROS_MAX: u64 = 10_000_000;
/// More than this in one run is a run that does not end.
const HAPPENINGS_MAX: u64 = 10_000_000;

/// What a run has found.
pub(crate) struct Verdict {
    pub(crate) hash: u128,
    pub(crate) counters: Counters,
    pub(crate) simulated_micros: u64,
    pub(crate) violation: Option<String>,
    pub(crate) shape: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Storm,
    /// Since when.
    Calm(u64),
    Reading(u64),
    Over,
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum Death {
    Process,
    Power,
}

struct World {
    env: Env,
    process: Option<Process>,
    incarnation: u64,
    shards_count: u16,
    clients: Vec<Client>,
    part: Part,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, minutes: Option<u64>, is_shown: bool) -> Verdict {
    let mut random = Random::new(seed);
    let options = Options::draw(&mut random, minutes);
    let mut world = World::new(options, random, Trace::new(is_shown));
    let mut happenings_count = 0;
    while world.part != Part::Over && world.env.oracle.violation.is_none() {
        happenings_count += 1;
        let Some(happening) = world.env.next() else {
            world.env.oracle.fail("nothing happens any more".to_owned());
            break;
        };
        if happenings_count > HAPPENINGS_MAX {
            world.env.oracle.fail("the run does not end".to_owned());
        }
        world.happen(happening);
        world.move_on();
    }
    world.verdict()
}

impl World {
    fn new(options: Options, random: Random, trace: Trace) -> Self {
        let (shards_count, counts) = (options.shards_count, options.devices_counts.clone());
        let hostile_count = options.hostile_count;
        let mut env = Env::new(options, random, trace);
        let mut clients = Vec::new();
        for (user, count) in counts.iter().enumerate() {
            for device in 0..*count {
                let mut client = Client::new(clients.len(), user, format!("device-{device}"));
                client.is_auto_user = env.options.is_auto(user);
                client.is_auto = client.is_auto_user;
                clients.push(client);
            }
        }
        for hostile in 0..hostile_count {
            let mut client = Client::new(clients.len(), hostile, "intruder".to_owned());
            client.is_hostile = true;
            clients.push(client);
        }
        for client in 0..clients.len() {
            let delay = env.random.below(50_000);
            env.after(delay, Happening::ClientStep { client });
        }
        env.trace.say(0, format_args!("{:?}", env.options));
        env.after(1, Happening::Restart);
        env.after(1000, Happening::WriteBack);
        let first = env.random.range(200_000, 3_000_000);
        env.after(first, Happening::Chaos);
        Self { env, process: None, incarnation: 0, shards_count, clients, part: Part::Storm }
    }

    fn happen(&mut self, happening: Happening) {
        let Self { env, process, clients, .. } = self;
        match happening {
            Happening::Turn { incarnation, shard } => {
                if let Some(process) = process.as_mut().filter(|it| it.incarnation == incarnation) {
                    process.turn(env, shard);
                }
            }
            Happening::Socket { incarnation, shard, token } => {
                if let Some(process) = process.as_mut().filter(|it| it.incarnation == incarnation) {
                    process.push_token(env, shard, token);
                }
            }
            Happening::DiskDone { incarnation, shard, op } => {
                if let Some(process) = process.as_mut().filter(|it| it.incarnation == incarnation) {
                    process.drivers[shard].disk.complete(env, op);
                    process.wake(env, shard, 1);
                }
            }
            Happening::Dial { connection } => match process {
                Some(process) if !env.connections[&connection].is_reset => {
                    process.dialed(env, connection);
                }
                _ => env.reset(connection),
            },
            Happening::Up { connection, bytes } => {
                let found = env.connections.get_mut(&connection).expect("dialed");
                if !found.is_reset && found.place != Place::Gone {
                    found.inbox.extend(bytes);
                }
                self.look(connection);
            }
            Happening::UpEnd { connection } => {
                let found = env.connections.get_mut(&connection).expect("dialed");
                found.inbox_ended = true;
                self.look(connection);
            }
            Happening::Down { connection, bytes } => {
                let found = env.connections.get_mut(&connection).expect("dialed");
                found.down_in_flight -= bytes.len();
                if !found.is_reset {
                    found.client_inbox.extend(bytes);
                    self.client_read(connection);
                }
            }
            Happening::DownEnd { connection } => {
                env.connections.get_mut(&connection).expect("dialed").client_ended = true;
                self.client_read(connection);
                self.look(connection);
            }
            Happening::ClientRead { connection } => self.client_read(connection),
            Happening::ClientStep { client } => {
                let is_calm = self.part != Part::Storm;
                clients[client].step(env, is_calm);
                let delay = env.random.delay(env.options.step_micros);
                env.after(delay, Happening::ClientStep { client });
            }
            Happening::WriteBack => {
                env.disk.write_back(&mut env.random);
                let delay = env.random.range(1000, 200_000);
                env.after(delay, Happening::WriteBack);
            }
            Happening::Chaos => self.chaos(),
            Happening::Restart => self.start(),
        }
    }

    /// Something changed at the server's end of a connection.
    fn look(&mut self, connection: u32) {
        let Place::Slot { shard, slot } = self.env.connections[&connection].place else { return };
        if let Some(process) = &mut self.process {
            let at = (process.incarnation, shard);
            process.drivers[shard].sockets.look(&mut self.env, at, slot);
        }
    }

    fn client_read(&mut self, connection: u32) {
        let client = self.env.connections[&connection].client;
        self.clients[client].read(&mut self.env, connection);
        self.look(connection);
    }

    fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        let env = &mut self.env;
        let is_first = self.incarnation == 0;
        let may_change = env.is_stormy && env.options.faults.other_shard_counts;
        if !is_first && may_change && env.random.chance(300) {
            let count = u16::try_from(env.random.range(1, 4)).expect("a few");
            env.counters.add("shard counts changed", u64::from(count != self.shards_count));
            self.shards_count = count;
        }
        if env.is_stormy && env.options.faults.recovery_crashes && env.random.chance(300) {
            env.disk.steps_left = Some(env.random.below(60));
        }
        self.incarnation += 1;
        match Process::start(env, self.incarnation, self.shards_count) {
            Ok(process) => {
                env.disk.steps_left = None;
                env.trace.say(
                    env.time,
                    format_args!("process {} serves with {}", self.incarnation, self.shards_count),
                );
                self.process = Some(process);
            }
            Err(_) if env.disk.steps_left == Some(0) => {
                env.counters.hit("crashes within recovery");
                let survival = env.random.pick(&SURVIVALS);
                env.disk.cut_power(survival, &mut env.random);
                env.after(1000, Happening::Restart);
            }
            Err(sentence) => env.oracle.fail(format!("the folder does not open: {sentence}")),
        }
    }

    fn chaos(&mut self) {
        let env = &mut self.env;
        if !env.is_stormy {
            return;
        }
        let faults = env.options.faults;
        match env.random.below(6) {
            0 if faults.power_cuts => self.die(Death::Power),
            1 if faults.process_crashes => self.die(Death::Process),
            2 if faults.drains => self.drain(),
            3 if faults.wall_jumps => {
                env.counters.hit("fault: wall jump");
                env.wall_offset_millis = env.random.pick(&[-3_600_000, 0, 3_600_000]);
            }
            _ if faults.resets => {
                let open: Vec<u32> = env.open_connections().collect();
                for connection in open {
                    if self.env.random.chance(300) {
                        self.env.counters.hit("fault: reset");
                        self.env.reset(connection);
                        self.look(connection);
                    }
                }
            }
            _ => {}
        }
        let delay = self.env.random.range(200_000, 4_000_000);
        self.env.after(delay, Happening::Chaos);
    }

    fn drain(&mut self) {
        if let Some(process) = self.process.as_mut().filter(|it| it.draining_since.is_none()) {
            self.env.counters.hit("drains");
            self.env.trace.say(self.env.time, format_args!("drain"));
            process.drain(&mut self.env);
        }
    }

    fn die(&mut self, death: Death) {
        let Some(process) = self.process.take() else { return };
        let env = &mut self.env;
        env.trace.say(env.time, format_args!("{death:?} ends"));
        env.trace.note(&[5, env.time]);
        let is_sick = process.failed_at.is_some();
        process.end(env);
        match death {
            Death::Power => {
                env.counters.hit("power cuts");
                let survival = env.random.pick(&SURVIVALS);
                env.disk.cut_power(survival, &mut env.random);
            }
            Death::Process => env.counters.hit("process crashes"),
        }
        if is_sick {
            // A disk that failed is looked after before the next start.
            env.disk.forget_cache();
        }
        let delay = env.random.range(1000, 500_000);
        env.after(delay, Happening::Restart);
    }

    /// What follows from where things stand.
    fn move_on(&mut self) {
        let time = self.env.time;
        if let Some(process) = &self.process {
            if let Some(failed_at) = process.failed_at {
                assert!(time <= failed_at + DEATH_MICROS_MAX, "it is ended below");
                let death = if self.env.random.chance(500) { Death::Power } else { Death::Process };
                return self.die(death);
            }
            if let Some(since) = process.draining_since {
                if process.is_drained() {
                    return self.die(Death::Process);
                }
                if time > since + DRAIN_MICROS_MAX {
                    return self.env.oracle.fail("a drain does not end".to_owned());
                }
            }
        }
        match self.part {
            Part::Storm if time > self.env.options.safety_micros => self.calm_down(),
            Part::Calm(since) => {
                if self.is_healed() {
                    self.begin_reading();
                } else if time > since + CALM_MICROS_MAX {
                    let what = self.what_is_not_healed();
                    self.env.oracle.fail(format!("after the storm it does not heal: {what}"));
                }
            }
            Part::Reading(since) => {
                if self.is_read() {
                    self.judge();
                } else if time > since + CALM_MICROS_MAX {
                    let left: Vec<_> = self
                        .clients
                        .iter()
                        .filter(|client| client.readings.values().any(|it| !it.is_done))
                        .map(|client| (client.name(), client.phase, client.readings.len()))
                        .collect();
                    self.env.oracle.fail(format!("histories are not read to their end: {left:?}"));
                }
            }
            Part::Storm | Part::Over => {}
        }
    }

    fn calm_down(&mut self) {
        self.env.trace.say(self.env.time, format_args!("the storm is over"));
        self.env.is_stormy = false;
        self.env.full_until = 0;
        // Slow networks and small windows are of the storm: what is left is to end in time.
        self.env.options.window_bytes = 65_536;
        self.env.options.network_micros = self.env.options.network_micros.min(500);
        self.part = Part::Calm(self.env.time);
    }

    fn is_healed(&self) -> bool {
        self.clients.iter().filter(|client| !client.is_hostile).all(|client| {
            client.phase == Phase::Live && client.unacked.is_empty() && self.lag(client).is_none()
        })
    }

    /// A conversation of which the device has not received all.
    fn lag(&self, client: &Client) -> Option<(ConversationId, u64)> {
        if client.is_auto {
            return None;
        }
        let oracle = &self.env.oracle;
        let mut all = oracle.newest.iter().filter(|(id, _)| oracle.is_stable(client.user, **id));
        let lagging = all.find(|(id, newest)| {
            let marks = oracle.marks.get(&(client.user, **id)).map_or(0, |marks| marks.0);
            let stream = client.streams.get(*id);
            let last = stream.map_or(0, |stream| stream.last);
            let own = stream.and_then(|stream| stream.own.last().copied()).unwrap_or(0);
            last.max(own).max(marks) < **newest
        });
        lagging.map(|(id, newest)| (*id, *newest))
    }

    fn what_is_not_healed(&self) -> String {
        let state = |client: &Client| {
            format!(
                "{}/{} is {:?}, {} unacknowledged, lags {:?}; ",
                client.name(),
                client.device,
                client.phase,
                client.unacked.len(),
                self.lag(client)
            )
        };
        self.clients.iter().filter(|client| !client.is_hostile).map(state).collect()
    }

    /// The last power cut keeps only what was synced. Then everybody reads everything.
    fn begin_reading(&mut self) {
        self.die(Death::Power);
        self.part = Part::Reading(self.env.time);
        let oracle = &self.env.oracle;
        for client in self.clients.iter_mut().filter(|client| !client.is_hostile) {
            for conversation in oracle.newest.keys() {
                if oracle.is_stable(client.user, *conversation) {
                    client.readings.insert(*conversation, Reading::default());
                }
            }
        }
    }

    fn is_read(&self) -> bool {
        self.clients.iter().all(|client| client.readings.values().all(|reading| reading.is_done))
    }

    fn judge(&mut self) {
        for client in &self.clients {
            for (conversation, reading) in &client.readings {
                let read = (&reading.sequences, reading.gap_through);
                self.env.oracle.check_history(client.user, *conversation, read);
            }
        }
        self.part = Part::Over;
    }

    fn verdict(mut self) -> Verdict {
        if let Some(process) = self.process.take() {
            process.end(&mut self.env);
        }
        let env = self.env;
        let options = &env.options;
        let shape = format!(
            "{} shards, {} users, {} devices, {} messages of which {} acknowledged, {} starts",
            self.shards_count,
            options.users_count,
            self.clients.len(),
            env.oracle.messages.len(),
            env.oracle.acked_count(),
            self.incarnation
        );
        Verdict {
            hash: env.trace.hash(),
            counters: env.counters,
            simulated_micros: env.time,
            violation: env.oracle.violation,
            shape,
        }
    }
}
