//! Counts of one ring, added to the run's shared ones as they grow.

use crate::control::Control;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happened on one ring. All counts only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) offered: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) choked: u64,
    pub(crate) delivered: u64,
    pub(crate) redelivered: u64,
    pub(crate) disconnects: u64,
    pub(crate) resumed: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    /// Messages of the measured part: offered, acknowledged, and deliveries made meanwhile.
    pub(crate) measured_offered: u64,
    pub(crate) measured_acked: u64,
    pub(crate) measured_delivered: u64,
    pub(crate) sends: u64,
}

impl Tally {
    /// Adds to `control` what was counted since `before`.
    pub(crate) fn publish(&self, before: &mut Self, control: &Control) {
        let pairs: [(&AtomicU64, u64, u64); 9] = [
            (&control.offered, self.offered, before.offered),
            (&control.sent, self.sent, before.sent),
            (&control.acked, self.acked, before.acked),
            (&control.refused, self.refused, before.refused),
            (&control.choked, self.choked, before.choked),
            (&control.delivered, self.delivered, before.delivered),
            (&control.redelivered, self.redelivered, before.redelivered),
            (&control.disconnects, self.disconnects, before.disconnects),
            (&control.resumed, self.resumed, before.resumed),
        ];
        for (shared, counted, published) in pairs {
            if counted != published {
                shared.fetch_add(counted - published, Ordering::Relaxed);
            }
        }
        *before = *self;
    }

    /// Adds another ring's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.acked += other.acked;
        self.refused += other.refused;
        self.choked += other.choked;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.disconnects += other.disconnects;
        self.resumed += other.resumed;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.measured_offered += other.measured_offered;
        self.measured_acked += other.measured_acked;
        self.measured_delivered += other.measured_delivered;
        self.sends += other.sends;
    }
}
