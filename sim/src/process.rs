//! A process of the simulated world: real shards, each with a simulated driver, from a start on
//! what the disk holds to a crash, a drain, or a log that fails.

use crate::env::{Env, Happening, Place, Token};
use crate::shard_disk::ShardDisk;
use crate::sockets::Sockets;
use engine::auth::Verifier;
use engine::metrics::Metrics;
use engine::op::{Event, Op};
use engine::parcel::ShardPort;
use engine::recovery::{introduce, recover};
use engine::shard::{Shard, Surroundings};
use fanout::mesh;
use wire::{CloseReason, IdKey, ShardId};

/// The longest a shard sleeps, as in the real driver.
const SLEEP_MICROS_MAX: u64 = 250_000;
const ID_KEY: [u8; 16] = *b"a simulated key.";

/// What a shard's driver knows.
pub(crate) struct Station {
    pub(crate) sockets: Sockets,
    pub(crate) disk: ShardDisk,
    pub(crate) tokens: Vec<Token>,
    /// When the next turn is; earlier ones that were planned are void.
    turn_at: u64,
    pub(crate) turns_count: u64,
    is_drained: bool,
}

/// All shards of one process.
pub(crate) struct Process {
    pub(crate) incarnation: u64,
    pub(crate) shards: Vec<Shard>,
    pub(crate) drivers: Vec<Station>,
    pub(crate) metrics: Metrics,
    started_at: u64,
    /// Since when, where somebody asked.
    pub(crate) draining_since: Option<u64>,
    /// A log failed then: the process is to end.
    pub(crate) failed_at: Option<u64>,
    /// When rare disk work that was asked for is done: one thread does it all.
    pub(crate) rare_until: u64,
}

impl Process {
    /// Opens what the disk holds. An error is a sentence.
    pub(crate) fn start(
        env: &mut Env,
        incarnation: u64,
        shards_count: u16,
    ) -> Result<Self, String> {
        let settings = env.options.storage;
        let opened = storage::open(&mut env.disk, shards_count, settings, ID_KEY)
            .map_err(|error| error.to_string())?;
        let ids = IdKey(opened.manifest.id_key);
        let plan = env.options.plan(ids, shards_count);
        let metrics = Metrics::new(shards_count);
        let session_base = env.wall_millis() << 20;
        let ports: Vec<ShardPort> = mesh(shards_count, env.options.lanes);
        let mut shards = Vec::new();
        for (start, port) in opened.shards.iter().zip(ports) {
            let (parts, found) =
                recover(&mut env.disk, start, plan.chat).map_err(|error| error.to_string())?;
            env.trace.note(&[found.entries_count, found.records_count]);
            env.counters.add("torn tails cut", u64::from(found.cut.is_some()));
            env.counters.add("snapshots restored", u64::from(found.entries_count > 0));
            let surroundings = Surroundings {
                shard: start.shard,
                shards_count,
                ids,
                plan,
                port,
                verifier: Verifier { dev_auth: true, tokens: None },
                metrics: metrics.shard(start.shard),
                session_base,
            };
            let mut shard = Shard::new(parts, surroundings);
            shard.poison_freed_blocks();
            shards.push(shard);
        }
        introduce(&mut shards);
        let drivers = (0..shards.len())
            .map(|_| Station {
                sockets: Sockets::new(plan.connections_max),
                disk: ShardDisk::default(),
                tokens: Vec::new(),
                turn_at: u64::MAX,
                turns_count: 0,
                is_drained: false,
            })
            .collect();
        let mut process = Self {
            incarnation,
            shards,
            drivers,
            metrics,
            started_at: env.time,
            draining_since: None,
            failed_at: None,
            rare_until: env.time,
        };
        for shard in 0..process.shards.len() {
            process.wake(env, shard, 1);
        }
        Ok(process)
    }

    /// Plans a turn, unless one comes sooner.
    pub(crate) fn wake(&mut self, env: &mut Env, shard: usize, micros: u64) {
        let at = env.time + micros;
        let driver = &mut self.drivers[shard];
        if at < driver.turn_at {
            driver.turn_at = at;
            env.at(at, Happening::Turn { incarnation: self.incarnation, shard });
        }
    }

    pub(crate) fn push_token(&mut self, env: &mut Env, shard: usize, token: Token) {
        self.drivers[shard].tokens.push(token);
        let delay = env.random.range(1, 50);
        self.wake(env, shard, delay);
    }

    /// One turn of one shard, as the real driver does it.
    pub(crate) fn turn(&mut self, env: &mut Env, index: usize) {
        if self.drivers[index].turn_at != env.time || self.failed_at.is_some() {
            return;
        }
        self.drivers[index].turn_at = u64::MAX;
        let clock = env.clock(self.started_at);
        env.trace.note(&[1, env.time, index as u64]);
        self.shards[index].awake();
        for token in std::mem::take(&mut self.drivers[index].tokens) {
            self.complete(env, index, token);
        }
        while let Some(event) = self.drivers[index].disk.answers.pop_front() {
            self.shards[index].handle(clock, Event::Disk(event));
        }
        let is_busy = self.shards[index].turn(clock);
        self.drivers[index].turns_count += 1;
        self.perform(env, index);
        let mut rung = Vec::new();
        self.shards[index].publish(|shard| rung.push(usize::from(shard.0)));
        for shard in rung {
            env.trace.note(&[2, shard as u64]);
            let delay = env.random.range(1, 20);
            self.wake(env, shard, delay);
        }
        if self.shards[index].failure().is_some() {
            env.counters.hit("logs poisoned");
            env.trace.say(env.time, format_args!("the log of shard {index} failed"));
            self.failed_at = Some(env.time);
            return;
        }
        self.drivers[index].is_drained = self.shards[index].is_drained();
        if is_busy {
            let delay = env.random.range(2, 40);
            self.wake(env, index, delay);
        } else if self.shards[index].prepare_sleep() {
            let sleep = self.shards[index].millis_to_next_deadline();
            let sleep = sleep.map_or(SLEEP_MICROS_MAX, |millis| millis * 1000);
            self.wake(env, index, sleep.min(SLEEP_MICROS_MAX));
        } else {
            self.wake(env, index, 2);
        }
    }

    fn perform(&mut self, env: &mut Env, index: usize) {
        while let Some(op) = self.shards[index].poll_op() {
            env.trace.bytes(format!("{op:?}").as_bytes());
            if let Op::Pass { connection, to, ticket } = op {
                self.pass(env, index, (connection, to, ticket));
            } else {
                let Self { shards, drivers, incarnation, .. } = self;
                drivers[index].sockets.perform(env, (*incarnation, index), op, &shards[index]);
            }
        }
        while let Some(op) = self.shards[index].poll_disk_op() {
            let driver = &mut self.drivers[index];
            driver.disk.submit(env, (self.incarnation, index), op, &mut self.rare_until);
        }
    }

    /// Turns one completion into what the shard hears.
    fn complete(&mut self, env: &mut Env, index: usize, token: Token) {
        let clock = env.clock(self.started_at);
        env.trace.bytes(format!("{token:?}").as_bytes());
        let Self { shards, drivers, incarnation, .. } = self;
        let driver = &mut drivers[index];
        let turns_count = driver.turns_count;
        let at = (*incarnation, index);
        driver.sockets.complete(env, at, token, (clock, turns_count, &mut shards[index]));
    }

    fn pass(&mut self, env: &mut Env, index: usize, (slot, to, ticket): (u32, ShardId, u32)) {
        let target = usize::from(to.0);
        let connection = self.drivers[index].sockets.take_for_pass(slot);
        let is_lost = env.is_stormy && env.random.chance(20);
        let free = self.drivers[target].sockets.reserve();
        let (error, delay) = (Some(23), env.random.delay(30));
        let (incarnation, source) = (self.incarnation, index);
        let passed = |error| Token::Passed { slot, error };
        let Some(free) = free.filter(|_| !is_lost) else {
            if let Some(free) = free {
                self.drivers[target].sockets.release(free);
            }
            env.counters.hit("passes refused");
            env.connections.get_mut(&connection).expect("open").place = Place::Gone;
            env.end_down(connection);
            let token = passed(error);
            env.after(delay, Happening::Socket { incarnation, shard: source, token });
            return;
        };
        env.counters.hit("connections passed");
        env.connections.get_mut(&connection).expect("open").place = Place::Moving;
        let token = passed(None);
        env.after(delay, Happening::Socket { incarnation, shard: source, token });
        let from = u16::try_from(index).expect("a few shards");
        let turns = self.drivers[target].turns_count;
        let token = Token::Arrive { connection, slot: free, from, ticket, turns };
        let delay = env.random.delay(60);
        env.after(delay, Happening::Socket { incarnation, shard: target, token });
    }

    /// A connection reached the listening socket of some shard.
    pub(crate) fn dialed(&mut self, env: &mut Env, connection: u32) {
        if self.draining_since.is_some() || self.failed_at.is_some() {
            env.reset(connection);
            return;
        }
        let shard = env.random.index(self.shards.len());
        self.push_token(env, shard, Token::Accept { connection });
    }

    pub(crate) fn drain(&mut self, env: &mut Env) {
        let clock = env.clock(self.started_at);
        self.draining_since = Some(env.time);
        for index in 0..self.shards.len() {
            self.shards[index].handle(clock, Event::Drain);
            self.wake(env, index, 1);
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.draining_since.is_some() && self.drivers.iter().all(|driver| driver.is_drained)
    }

    /// The end, at whatever instant this is. What the disk had in hand may be done by half.
    pub(crate) fn end(mut self, env: &mut Env) {
        for driver in &mut self.drivers {
            driver.disk.abandon(env);
        }
        let open: Vec<u32> = env
            .connections
            .iter()
            .filter(|(_, connection)| !matches!(connection.place, Place::Dialing | Place::Gone))
            .map(|(id, _)| *id)
            .collect();
        for connection in open {
            env.connections.get_mut(&connection).expect("listed").place = Place::Gone;
            if env.random.chance(500) {
                env.reset(connection);
            } else {
                env.end_down(connection);
            }
        }
        self.count(env);
        env.oracle.note_restart();
    }

    fn count(&self, env: &mut Env) {
        use engine::metrics::Refusal;
        for shard in self.metrics.shards() {
            let refused = |why: Refusal| shard.refused.of(why).read();
            env.counters.add("full: commit window", refused(Refusal::CommitWindow));
            env.counters.add("full: ring", refused(Refusal::RingFull));
            env.counters.add("full: readers", refused(Refusal::Readers));
            env.counters.add("full: log", refused(Refusal::LogFull));
            let closed = |why: CloseReason| shard.closed.of(why).read();
            env.counters.add("slow consumers cut off", closed(CloseReason::SlowConsumer));
            env.counters.add("sessions replaced", closed(CloseReason::Replaced));
            env.counters.add("commits", shard.commits.read());
            env.counters.add("appends", shard.appends.read());
            env.counters.add("deliveries", shard.deliveries.read());
        }
    }
}
