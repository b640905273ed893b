//! One ring and its thread: the loop that carries bytes between sockets and a flow.

use crate::Error;
use crate::arrivals::Arrivals;
use crate::clock::{self, MILLISECOND, Nanos};
use crate::config::{Config, Door, Scenario};
use crate::connection::State;
use crate::control::Control;
use crate::flow::Flow;
use crate::tally::Tally;
use crate::uring::{AddressId, Completion, FULL_TURN, Op, Sizes, Uring, Wait, sharpen_timers};
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Sockets of one ring that are being opened at a time: below a listener's usual backlog.
const OPENING_MAX: usize = 256;
/// Longest sleep, so that what other threads say is heard.
const SLEEP_MAX: Nanos = MILLISECOND;
/// From the agreement on a start to the start.
const START_AFTER: Nanos = 20 * MILLISECOND;
/// Kept after the last expected delivery, for those that nobody expects.
const LINGER: Nanos = 100 * MILLISECOND;
/// Completions handled between two looks at the clock.
const COMPLETIONS_PER_LOOK: usize = 64;

/// Where a ring is in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// All own connections are ready; others' are waited for, then the groups.
    Gathering,
    Running,
    /// Nothing more is sent; the rest is waited for until then.
    Draining(Nanos),
    /// Nothing more is expected.
    Lingering(Nanos),
    Done,
}

/// What a ring brings home.
pub(crate) struct Outcome {
    pub(crate) flow: Flow,
    pub(crate) enters_count: u64,
}

struct Lane {
    uring: Uring,
    flow: Flow,
    stage: Stage,
    target: AddressId,
    target_changes: u32,
    opening: usize,
    start: Nanos,
    end: Nanos,
    deadline: Nanos,
    next_offer: Nanos,
    published: Tally,
}

/// Runs the users of one ring from connect to drain.
pub(crate) fn run(
    config: &Arc<Config>,
    control: &Arc<Control>,
    users: Range<u32>,
    pin: Option<usize>,
) -> Result<Outcome, Error> {
    if let Some(id) = pin
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(Error::Config(format!("cannot pin to processor {id}")));
    }
    sharpen_timers();
    let slots_count = u32::try_from(users.len()).expect("below the limit of a ring");
    let is_idle = config.scenario.deliveries_per_message() == 0;
    let (buffers_count, buffer_bytes) = if is_idle { (128, 1024) } else { (1024, 16 * 1024) };
    let mut uring = Uring::new(Sizes { slots_count, buffers_count, buffer_bytes })?;
    let target = uring.learn(config.target);
    let mut lane = Lane {
        uring,
        flow: Flow::new(config, control, users),
        stage: Stage::Connecting,
        target,
        target_changes: 0,
        opening: 0,
        start: 0,
        end: Nanos::MAX,
        deadline: clock::now() + config.connect_timeout,
        next_offer: 0,
        published: Tally::default(),
    };
    lane.work()?;
    Ok(Outcome { enters_count: lane.uring.enters_count(), flow: lane.flow })
}

impl Lane {
    /// The whole run, turn by turn.
    fn work(&mut self) -> Result<(), Error> {
        let mut completions = Vec::new();
        while self.stage != Stage::Done {
            let now = clock::now();
            self.flow.now = now;
            self.advance(now)?;
            if self.stage == Stage::Running && now >= self.next_offer {
                self.flow.roll(now);
                self.flow.offer(now, self.end);
                self.next_offer = now + self.flow.config.turn;
            }
            self.flow.timers(now);
            self.grant_wishes(now);
            self.flow.tally.sends += self.flow.outbox.flush(&mut self.uring) as u64;
            if !self.flow.lags.is_empty() {
                self.flow.note_lags(clock::now());
            }
            let wait = self.wait(completions.len() >= FULL_TURN, now);
            self.uring.enter(wait)?;
            self.uring.reap(&mut completions);
            for batch in completions.chunks(COMPLETIONS_PER_LOOK) {
                let now = clock::now();
                self.flow.now = now;
                for completion in batch {
                    self.complete(completion, now);
                }
            }
            self.flow.tally.publish(&mut self.published, &self.flow.control);
        }
        Ok(())
    }

    /// A turn that was full is followed by one that does not wait.
    fn wait(&self, was_full: bool, now: Nanos) -> Wait {
        if was_full {
            return Wait::Ready;
        }
        let mut due = now + SLEEP_MAX;
        if self.stage == Stage::Running
            && let Some(arrivals) = &self.flow.arrivals
        {
            due = due.min(arrivals.due().max(self.next_offer));
        }
        let now = clock::now();
        if due <= now { Wait::Ready } else { Wait::One(due - now) }
    }

    fn advance(&mut self, now: Nanos) -> Result<(), Error> {
        let control = Arc::clone(&self.flow.control);
        let config = Arc::clone(&self.flow.config);
        if control.stages.has_failed.load(Ordering::Relaxed) {
            return Err(Error::Elsewhere);
        }
        match self.stage {
            Stage::Connecting | Stage::Gathering if now > self.deadline => {
                let ready = control.ready.load(Ordering::Relaxed);
                let cause = control.first_error().unwrap_or_else(|| "no error seen".to_owned());
                let connections = config.scenario.connections();
                return Err(Error::Connect { ready, connections, cause });
            }
            Stage::Connecting => {
                if control.ready.load(Ordering::Acquire) == config.scenario.connections() {
                    self.create_groups(config.scenario, config.door);
                    self.stage = Stage::Gathering;
                }
            }
            Stage::Gathering => self.gather(now, &config, &control),
            Stage::Running => {
                let is_stopped = control.stop.load(Ordering::Relaxed);
                if is_stopped || now >= self.end {
                    self.stage = Stage::Draining(now + config.drain);
                }
            }
            Stage::Draining(until) => {
                if now >= until {
                    self.stage = Stage::Done;
                } else if now >= self.end.min(until) + LINGER && self.is_complete() {
                    self.stage = Stage::Lingering(now + LINGER);
                }
            }
            Stage::Lingering(until) if now >= until => self.stage = Stage::Done,
            Stage::Lingering(_) | Stage::Done => {}
        }
        Ok(())
    }

    /// Asks for the groups whose first member is here.
    fn create_groups(&mut self, scenario: Scenario, door: Door) {
        let Scenario::Group { groups, members, .. } = scenario else { return };
        let here = self.flow.base..self.flow.base + self.users_count();
        for number in (0..groups).filter(|number| here.contains(&(number * members))) {
            if door == Door::Native {
                self.flow.create_group(number);
            } else {
                self.flow.control.stages.groups_made.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    fn users_count(&self) -> u32 {
        u32::try_from(self.flow.connections.len()).expect("below the limit of a ring")
    }

    /// Starts once all groups exist.
    fn gather(&mut self, now: Nanos, config: &Config, control: &Control) {
        if let Scenario::Group { groups, .. } = config.scenario {
            if control.stages.groups_made.load(Ordering::Acquire) < groups {
                return;
            }
            self.flow.learn_groups();
        }
        self.start = control.agree_on_start(now + START_AFTER, config.warmup);
        self.end = self.start + config.warmup + config.duration;
        self.flow.measured = self.start + config.warmup..self.end;
        self.stage = Stage::Running;
        let senders_all = match config.scenario {
            Scenario::Direct { connections } => connections,
            Scenario::Group { groups, senders, .. } => groups * senders,
            Scenario::Idle { .. } => return,
        };
        let senders_count = self.flow.senders.len();
        if senders_count > 0 {
            let rate = config.rate * senders_count as f64 / f64::from(senders_all);
            let seed = config.seed ^ (u64::from(self.flow.base) << 32);
            self.flow.arrivals = Some(Arrivals::new(config.spread, rate, seed, self.start));
        }
    }

    /// Whether all that was sent was answered, and all that was accepted delivered, everywhere.
    fn is_complete(&self) -> bool {
        let control = &self.flow.control;
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let acked = load(&control.acked);
        let answered = acked + load(&control.refused) + load(&control.choked);
        let expected = acked * self.flow.config.scenario.deliveries_per_message();
        answered >= load(&control.offered) && load(&control.delivered) >= expected
    }

    /// Does with the sockets what the flow has asked for.
    fn grant_wishes(&mut self, now: Nanos) {
        if let Some((target, changes)) = self.flow.control.target(self.target_changes) {
            self.target = self.uring.learn(target);
            self.target_changes = changes;
        }
        let wishes = &mut self.flow.wishes;
        for slot in wishes.receives.drain(..) {
            let connection = &mut self.flow.connections[slot as usize];
            if matches!(connection.state, State::Greeting | State::Live) {
                connection.is_receiving = true;
                self.uring.receive(slot);
            }
        }
        for slot in wishes.cancels.drain(..) {
            self.uring.cancel_receive(slot);
        }
        for slot in wishes.closes.drain(..) {
            self.uring.close(slot);
        }
        while self.opening < OPENING_MAX
            && let Some(Reverse((due, slot))) = self.flow.wishes.opens.peek().copied()
            && due <= now
        {
            self.flow.wishes.opens.pop();
            let source = self.flow.config.source(self.flow.base + slot);
            let source = source.map(|source| self.uring.learn_once(source));
            self.flow.connection(slot).state = State::Opening;
            self.uring.open(slot, self.target, source);
            self.opening += 1;
        }
    }

    fn complete(&mut self, completion: &Completion, now: Nanos) {
        let Completion { op, slot, result, .. } = *completion;
        match op {
            Op::Receive => self.receive(completion, now),
            Op::Send => {
                let Some(outcome) = self.uring.sent(slot, result) else { return };
                self.flow.outbox.sent(slot);
                if let Err(error) = outcome {
                    self.flow.end(slot, &format!("send: {error}"));
                }
                self.flow.close_if_quiet(slot);
                if self.flow.config.survives_restart {
                    self.flow.pump(slot);
                }
            }
            Op::Open if result == 0 => {
                self.opening -= 1;
                self.flow.opened(slot);
            }
            Op::Open => {
                self.opening -= 1;
                let error = std::io::Error::from_raw_os_error(-result);
                self.flow.end(slot, &format!("connect: {error}"));
            }
            Op::Close => self.flow.closed(slot, now),
            Op::Prepare if result < 0 && self.flow.connection(slot).state == State::Opening => {
                let error = std::io::Error::from_raw_os_error(-result);
                self.flow.control.note_error(&format!("preparing a socket: {error}"));
            }
            Op::Prepare | Op::Accept => {}
        }
    }

    fn receive(&mut self, completion: &Completion, now: Nanos) {
        let Completion { slot, result, buffer, is_armed, .. } = *completion;
        let mut fault = None;
        if let (Some(id), Ok(bytes_count)) = (buffer, usize::try_from(result)) {
            if self.flow.connections[slot as usize].state != State::Ending {
                let bytes = self.uring.buffers.bytes(id, bytes_count);
                fault = self.flow.received(slot, bytes, now).err();
            }
            self.uring.buffers.recycle(id);
        }
        self.flow.connection(slot).is_receiving = is_armed;
        if let Some(fault) = fault {
            self.flow.control.note_error(&fault.0);
            self.flow.end(slot, &fault.0);
        }
        if is_armed {
            return;
        }
        // Out of buffers is no fault: they are all given back within the turn.
        if result > 0 || completion.is_out_of_buffers() {
            if self.flow.connection(slot).state != State::Ending {
                self.flow.wishes.receives.push(slot);
            }
        } else if result == 0 {
            self.flow.end(slot, "the server closed it");
        } else {
            let error = std::io::Error::from_raw_os_error(-result);
            self.flow.end(slot, &format!("receive: {error}"));
        }
        self.flow.close_if_quiet(slot);
    }
}
