//! Probes of sockets with both ends in this process: echo, send, hold.

use crate::dial::{Dialed, Dialing, Habit, dial};
use crate::serve::{Bounds, Served, Work, listen, serve};
use bench::clock::{self, MILLISECOND, Nanos, SECOND};
use bench::process::{cpu_micros, resident_bytes, slab_bytes};
use serde::Serialize;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Connections of one ring; the rest of the usual file limit is for accepts.
const CONNECTIONS_PER_RING_MAX: u32 = 19_900;
const CONNECT_TIMEOUT: Nanos = 120 * SECOND;

/// A probe of both ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) connections: u32,
    pub(crate) habit: Habit,
    pub(crate) seconds: f64,
    /// Where the listening and the connecting threads are pinned.
    pub(crate) pins: [Option<usize>; 2],
}

/// What it found.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Found {
    pub(crate) connections: u64,
    pub(crate) failed: u64,
    pub(crate) connects_per_second: f64,
    /// Round trips or sends.
    pub(crate) rounds: u64,
    pub(crate) rounds_per_second: f64,
    pub(crate) seconds: f64,
    /// Of this process, both ends.
    pub(crate) cpu_micros_per_round: f64,
    pub(crate) resident_bytes_per_connection: f64,
    /// Of the kernel, both ends.
    pub(crate) slab_bytes_per_connection: f64,
    pub(crate) received_bytes: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    held: AtomicU64,
    open: AtomicU64,
    until: AtomicU64,
}

/// Memory and processor time at one moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Nanos,
    cpu: u64,
    resident: u64,
    slab: u64,
}

impl Sample {
    fn now() -> Self {
        Self {
            at: clock::now(),
            cpu: cpu_micros("self").unwrap_or(0),
            resident: resident_bytes("self").unwrap_or(0),
            slab: slab_bytes().unwrap_or(0),
        }
    }
}

/// Runs `probe` on a listener of its own.
pub(crate) fn run(probe: Probe) -> io::Result<Found> {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let target = listener.local_addr()?;
    let rings = probe.connections.div_ceil(CONNECTIONS_PER_RING_MAX).max(1);
    let share = probe.connections.div_ceil(rings);
    let shared = Shared::default();
    shared.until.store(clock::now() + CONNECT_TIMEOUT, Ordering::Relaxed);
    let before = Sample::now();
    let dialing = Dialing {
        target,
        until: &shared.until,
        stop: &shared.stop,
        open: &shared.open,
        connections_all: u64::from(probe.connections),
    };
    std::thread::scope(|scope| {
        let (mut servers, mut dialers) = (Vec::new(), Vec::new());
        for ring in 0..rings {
            let (listener, shared) = (&listener, &shared);
            servers.push(scope.spawn(move || {
                crate::pin(probe.pins[0]);
                let work = match probe.habit {
                    Habit::Ping(_) => Work::Echo,
                    Habit::Hold | Habit::Flood(_) => Work::Sink,
                };
                serve(listener, work, bounds(shared))
            }));
            let indices = ring * share..((ring + 1) * share).min(probe.connections);
            dialers.push(scope.spawn(move || {
                crate::pin(probe.pins[1]);
                dial(indices, probe.habit, dialing)
            }));
        }
        let samples = watch(&probe, &shared);
        shared.stop.store(true, Ordering::Relaxed);
        let joined = |thread: std::thread::ScopedJoinHandle<'_, io::Result<Dialed>>| {
            thread.join().expect("a probe's thread does not panic")
        };
        let dialed: Vec<_> = dialers.into_iter().map(joined).collect::<io::Result<_>>()?;
        let mut served = Served::default();
        for server in servers {
            let one = server.join().expect("a probe's thread does not panic")?;
            served.received_bytes += one.received_bytes;
        }
        Ok(found(&probe, before, samples, (&dialed, served)))
    })
}

fn bounds(shared: &Shared) -> Bounds<'_> {
    Bounds {
        until: Nanos::MAX,
        connections_max: CONNECTIONS_PER_RING_MAX,
        stop: &shared.stop,
        held: &shared.held,
    }
}

/// Waits for the connections, then for the probe's time. Samples at both ends of it.
fn watch(probe: &Probe, shared: &Shared) -> (Sample, Sample) {
    let all = u64::from(probe.connections);
    let deadline = shared.until.load(Ordering::Relaxed);
    let is_missing =
        || shared.open.load(Ordering::Relaxed) < all || shared.held.load(Ordering::Relaxed) < all;
    while is_missing() && clock::now() < deadline {
        clock::pause(MILLISECOND);
    }
    let from = Sample::now();
    shared.until.store(Nanos::MAX, Ordering::Relaxed);
    while (clock::now() - from.at) as f64 / (SECOND as f64) < probe.seconds {
        clock::pause(MILLISECOND);
    }
    (from, Sample::now())
}

fn found(
    probe: &Probe,
    before: Sample,
    (from, until): (Sample, Sample),
    (dialed, served): (&[Dialed], Served),
) -> Found {
    let rounds: u64 = dialed.iter().map(|one| one.rounds).sum();
    let failed: u64 = dialed.iter().map(|one| one.failed).sum();
    let connections = u64::from(probe.connections) - failed;
    let seconds = (until.at - from.at) as f64 / SECOND as f64;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
    Found {
        connections,
        failed,
        connects_per_second: connections as f64 / ((from.at - before.at) as f64 / SECOND as f64),
        rounds,
        rounds_per_second: rounds as f64 / seconds,
        seconds,
        cpu_micros_per_round: (until.cpu - from.cpu) as f64 / rounds.max(1) as f64,
        resident_bytes_per_connection: each(before.resident, from.resident),
        slab_bytes_per_connection: each(before.slab, from.slab),
        received_bytes: served.received_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(habit: Habit) -> Found {
        run(Probe { connections: 4, habit, seconds: 0.1, pins: [None, None] }).unwrap()
    }

    #[test]
    fn what_is_sent_comes_back() {
        let found = probe(Habit::Ping(100));
        assert_eq!((found.connections, found.failed), (4, 0));
        assert!(found.rounds > 0 && found.received_bytes >= found.rounds * 100);
    }

    #[test]
    fn a_flood_is_taken_in() {
        let found = probe(Habit::Flood(4000));
        assert!(found.rounds > 0 && found.received_bytes > 0);
    }
}
