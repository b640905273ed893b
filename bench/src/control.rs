//! What a run shows while it goes on, and what it can be told.

use crate::clock::Nanos;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Shared by a run's threads and whoever watches it. All counts only grow.
#[derive(Debug, Default)]
pub struct Control {
    /// Connections that were authenticated at least once.
    pub ready: AtomicU32,
    /// Messages that were due.
    pub offered: AtomicU64,
    /// Messages written to a socket's queue.
    pub sent: AtomicU64,
    /// Messages that the server said it has.
    pub acked: AtomicU64,
    /// Messages that the server refused.
    pub refused: AtomicU64,
    /// Messages that never left, because their socket's queue was full.
    pub choked: AtomicU64,
    /// Deliveries, each counted once.
    pub delivered: AtomicU64,
    /// Deliveries seen again in a later session.
    pub redelivered: AtomicU64,
    /// Connections that ended before the run did.
    pub disconnects: AtomicU64,
    /// Sessions begun again after a disconnect.
    pub resumed: AtomicU64,
    /// Set to end the sending early; what is under way is still waited for.
    pub stop: AtomicBool,
    /// When the measured part begins, by `clock::now`; zero before that is known.
    pub measured_from: AtomicU64,
    target: Mutex<Option<SocketAddr>>,
    target_changes: AtomicU32,
    pub(crate) stages: Stages,
}

/// Where the rings wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    /// Groups that exist.
    pub(crate) groups_made: AtomicU32,
    /// When traffic starts; set once, by the first to see that all is ready.
    pub(crate) start: AtomicU64,
    /// Some ring could not go on, so the run is over.
    pub(crate) has_failed: AtomicBool,
    /// Ids of the groups, by number.
    pub(crate) groups: Mutex<Vec<u128>>,
    /// The first thing that went wrong.
    pub(crate) first_error: Mutex<Option<String>>,
}

impl Control {
    /// Tells a running run that the server now listens elsewhere.
    pub fn move_target(&self, target: SocketAddr) {
        *self.target.lock().expect("nobody panics while holding it") = Some(target);
        self.target_changes.fetch_add(1, Ordering::Release);
    }

    /// Ends the sending early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// The target that replaced the first one, and how often it has changed.
    pub(crate) fn target(&self, changes_seen: u32) -> Option<(SocketAddr, u32)> {
        let changes = self.target_changes.load(Ordering::Acquire);
        if changes == changes_seen {
            return None;
        }
        let target = *self.target.lock().expect("nobody panics while holding it");
        target.map(|target| (target, changes))
    }

    /// Notes what went wrong, if it is the first thing.
    pub(crate) fn note_error(&self, text: &str) {
        let mut first = self.stages.first_error.lock().expect("nobody panics while holding it");
        if first.is_none() {
            *first = Some(text.to_owned());
        }
    }

    /// The first thing that went wrong.
    pub fn first_error(&self) -> Option<String> {
        self.stages.first_error.lock().expect("nobody panics while holding it").clone()
    }

    /// The start of traffic, agreed by whoever comes first.
    pub(crate) fn agree_on_start(&self, proposal: Nanos, warmup: Nanos) -> Nanos {
        let (order, start) = (Ordering::AcqRel, &self.stages.start);
        let start = match start.compare_exchange(0, proposal, order, Ordering::Acquire) {
            Ok(_) => proposal,
            Err(agreed) => agreed,
        };
        self.measured_from.store(start + warmup, Ordering::Release);
        start
    }
}
