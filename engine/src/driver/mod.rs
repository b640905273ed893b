//! THE DRIVER: the only place that names descriptors, clocks, files or entropy on a message's way.
//!
//! One thread a shard runs `run`: hand the shard what happened, let it take a turn, carry out what
//! it asks, and make one system call that submits and waits. Everything else is `Shard`'s.

pub mod admin;
mod buffers;
mod disk;
mod doorbell;
mod folder;
mod listen;
pub mod probe;
mod sockets;
mod uring;

use crate::metrics::ShardMetrics;
use crate::op::{Clock, Event, Op};
use crate::shard::{Failure, Shard};
use buffers::Buffers;
use crossbeam_channel::Sender;
use disk::{Disk, RareWork};
pub use doorbell::Doorbell;
pub use folder::{DiskFolder, FolderLock};
pub use listen::{expect_free, listen, raise_open_files};
use sockets::Sockets;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime};
use uring::{Completion, Kind, Uring};
use wire::ShardId;

/// Completions asked of one enter while the shard is busy.
const COMPLETIONS_PER_TURN: usize = 512;
/// Disk answers taken in one turn.
const DISK_EVENTS_PER_TURN: usize = 256;
/// The longest a shard sleeps: what is due later waits for the next look.
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// Sizes of one shard's driver.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Slots in the uring's file table.
    pub connections_max: u32,
    /// Provided buffers; a power of two.
    pub buffers_count: u16,
    /// Bytes of each.
    pub buffer_bytes: usize,
    /// Accepts armed at once.
    pub accepts_max: u32,
    /// How long to look for work before sleeping.
    pub spin: Duration,
}

/// What the shards of one process share, and nothing else.
#[derive(Clone)]
pub struct House {
    doorbells: Arc<[Doorbell]>,
    urings: Arc<[AtomicI32]>,
    all_started: Arc<Barrier>,
    draining: Arc<AtomicBool>,
    rare: Sender<RareWork>,
}

impl House {
    /// What `shards_count` shards share, with the thread for rare disk work running.
    pub fn new(shards_count: u16, folder: DiskFolder) -> io::Result<Self> {
        let bells = (0..shards_count).map(|_| Doorbell::new()).collect::<io::Result<Vec<_>>>()?;
        let (rare, work) = crossbeam_channel::bounded(1024);
        std::thread::Builder::new()
            .name("disk".into())
            .spawn(move || disk::rare_work(folder, &work))?;
        Ok(Self {
            doorbells: bells.into(),
            urings: (0..shards_count).map(|_| AtomicI32::new(-1)).collect(),
            all_started: Arc::new(Barrier::new(usize::from(shards_count))),
            draining: Arc::new(AtomicBool::new(false)),
            rare,
        })
    }

    /// Asks every shard to take no new work and finish the old.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        for bell in self.doorbells.iter() {
            bell.ring();
        }
    }
}

/// One shard's part of the world.
pub struct Place {
    /// Who it is.
    pub shard: ShardId,
    /// Where its connections come from; a shard without one only gets them passed.
    pub listener: Option<TcpListener>,
    /// The CPU to run on.
    pub cpu: Option<usize>,
    /// CPUs for the kernel's disk workers, where they should not be the shard's.
    pub worker_cpus: Vec<usize>,
    /// Where its data lies.
    pub folder: DiskFolder,
    /// How large things are.
    pub sizes: Sizes,
    /// What it counts into.
    pub metrics: Arc<ShardMetrics>,
}

struct Driver {
    sockets: Sockets,
    disk: Disk,
    house: House,
    place: Place,
    started: Instant,
    completions: Vec<Completion>,
    is_draining: bool,
}

/// Runs a shard on the calling thread until it has drained or failed.
pub fn run(mut shard: Shard, place: Place, house: House) -> Result<(), Failure> {
    if let Some(id) = place.cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let mut driver = Driver::new(place, house).map_err(Failure::Driver)?;
    loop {
        let clock = driver.clock();
        let outcome = driver.turn(clock, &mut shard);
        if let Some(failure) = shard.failure() {
            return Err(failure);
        }
        outcome.map_err(Failure::Driver)?;
        if shard.is_drained() {
            return Ok(());
        }
    }
}

impl Driver {
    fn new(place: Place, house: House) -> io::Result<Self> {
        let sizes = place.sizes;
        let mut uring = Uring::new(sizes.connections_max)?;
        let index = usize::from(place.shard.0);
        house.urings[index].store(uring.as_raw_fd(), Ordering::Release);
        let doorbell = house.doorbells[index].clone();
        uring.watch_doorbell(doorbell.as_raw_fd())?;
        let buffers = Buffers::new(sizes.buffers_count, sizes.buffer_bytes)?;
        let listener = place.listener.as_ref().map(AsRawFd::as_raw_fd);
        let sockets =
            Sockets::new(uring, buffers, listener, sizes.connections_max, sizes.accepts_max)?;
        let cpus = disk::cpu_set(&place.worker_cpus);
        let disk = Disk::new(place.folder.clone(), house.rare.clone(), doorbell, cpus.as_ref())?;
        // A connection may be passed as soon as somebody accepts.
        house.all_started.wait();
        Ok(Self {
            sockets,
            disk,
            house,
            place,
            #[expect(clippy::disallowed_methods, reason = "the driver owns the clock")]
            started: Instant::now(),
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN),
            is_draining: false,
        })
    }

    fn clock(&self) -> Clock {
        let elapsed = self.started.elapsed();
        #[expect(clippy::disallowed_methods, reason = "the driver owns the clock")]
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("fits for ages");
        Clock {
            now: millis(elapsed),
            wall: millis(wall),
            micros: u64::try_from(elapsed.as_micros()).expect("fits for ages"),
        }
    }

    fn turn(&mut self, clock: Clock, shard: &mut Shard) -> io::Result<()> {
        self.hear_sockets(clock, shard)?;
        let heard_disk = self.hear_disk(clock, shard);
        if !self.is_draining && self.house.draining.load(Ordering::Acquire) {
            self.is_draining = true;
            self.sockets.stop_accepting();
            shard.handle(clock, Event::Drain);
        }
        let is_busy = shard.turn(clock) | heard_disk;
        self.perform(shard)?;
        let has_answers = self.disk.has_ready();
        let doorbells = &self.house.doorbells;
        shard.publish(|target| doorbells[usize::from(target.0)].ring());
        self.note(clock);
        self.wait(shard, is_busy || has_answers)
    }

    fn hear_sockets(&mut self, clock: Clock, shard: &mut Shard) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        self.sockets.uring.reap(&mut completions);
        for completion in completions.drain(..) {
            if completion.key.kind == Kind::Doorbell {
                let doorbell = &self.house.doorbells[usize::from(self.place.shard.0)];
                self.sockets.uring.watch_doorbell(doorbell.as_raw_fd())?;
            } else {
                self.sockets.complete(clock, completion, shard)?;
            }
        }
        self.completions = completions;
        self.sockets.return_buffers()
    }

    fn hear_disk(&mut self, clock: Clock, shard: &mut Shard) -> bool {
        let mut events_count = 0;
        while events_count < DISK_EVENTS_PER_TURN
            && let Some(event) = self.disk.next_event()
        {
            events_count += 1;
            shard.handle(clock, Event::Disk(event));
        }
        events_count > 0
    }

    fn perform(&mut self, shard: &mut Shard) -> io::Result<()> {
        while let Some(op) = shard.poll_op() {
            match op {
                Op::Receive { connection, repeat } => self.sockets.receive(connection, repeat)?,
                Op::Send { connection } => self.sockets.send(connection, shard)?,
                Op::Shutdown { connection } => self.sockets.shutdown(connection)?,
                Op::Close { connection } => self.sockets.close(connection)?,
                Op::Pass { connection, to, ticket } => {
                    let target: RawFd =
                        self.house.urings[usize::from(to.0)].load(Ordering::Acquire);
                    self.sockets.pass(connection, target, self.place.shard, ticket)?;
                }
            }
        }
        while self.disk.has_room()
            && let Some(op) = shard.poll_disk_op()
        {
            self.disk.perform(op)?;
        }
        self.disk.flush()?;
        self.sockets.top_up_accepts()
    }

    /// One system call, or none where there is nothing to submit or to run.
    fn wait(&mut self, shard: &mut Shard, is_busy: bool) -> io::Result<()> {
        let uring = &mut self.sockets.uring;
        if is_busy {
            if uring.has_work() {
                uring.enter(COMPLETIONS_PER_TURN, Duration::ZERO)?;
            }
            return Ok(());
        }
        if !self.place.sizes.spin.is_zero() {
            uring.enter(COMPLETIONS_PER_TURN, Duration::ZERO)?;
            let started = self.started.elapsed();
            while self.started.elapsed() - started < self.place.sizes.spin {
                if uring.has_work() || uring.has_completions() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
        }
        if uring.has_completions() {
            return Ok(());
        }
        if shard.prepare_sleep() {
            let sleep = shard.millis_to_next_deadline().map_or(SLEEP_MAX, Duration::from_millis);
            let slept = uring.enter(1, sleep.min(SLEEP_MAX));
            shard.awake();
            slept?;
        }
        Ok(())
    }

    fn note(&mut self, clock: Clock) {
        let metrics = &self.place.metrics;
        let spent = u64::try_from(self.started.elapsed().as_micros()).expect("fits for ages");
        metrics.turn_micros.observe(spent - clock.micros);
        metrics.turns.add(1);
        metrics.enters.set(self.sockets.uring.enters);
        metrics.recv_enobufs.set(self.sockets.receives_without_buffer);
        metrics.cq_overflows.set(u64::from(self.sockets.uring.overflows()));
    }
}
