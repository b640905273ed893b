//! What a shard counts, and the text a collector reads.
//!
//! One table names everything; the struct, the exposition and the reference follow from its rows.
//! A shard is the only writer of its own metrics, so a counter is a load and a store, never a
//! locked instruction, and a reader may see two counters a moment apart. That is what a graph can
//! bear and a decision cannot: nothing in the engine decides by reading one of these.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wire::{CloseReason, ErrorCode, ShardId};

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Value(AtomicU64);

impl Value {
    /// Adds to a counter. Only the shard's own thread may call it: it is not a locked addition.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Takes from a gauge, down to zero at most.
    pub fn take(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(count), Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Sets a gauge to the larger of `value` and what it holds.
    pub fn raise(&self, value: u64) {
        if value > self.0.load(Relaxed) {
            self.set(value);
        }
    }

    /// What it holds.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets of a histogram: the last takes what is above 2^30 microseconds, some 18 minutes.
pub const BUCKETS_COUNT: usize = 32;

/// How long something took, in microseconds, in buckets that double.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Value; BUCKETS_COUNT],
    sum_micros: Value,
}

impl Histogram {
    /// Counts one that took `micros`.
    pub fn observe(&self, micros: u64) {
        self.buckets[bucket_index(micros)].add(1);
        self.sum_micros.add(micros);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Value::read).sum()
    }
}

/// The first bucket whose upper bound, 2^index, is not below `micros`.
fn bucket_index(micros: u64) -> usize {
    let index = u64::BITS - micros.saturating_sub(1).leading_zeros();
    (index as usize).min(BUCKETS_COUNT - 1)
}

/// What something was refused for, before it changed any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Every connection slot of the shard is taken.
    ServerFull,
    /// The commit window is full.
    CommitWindow,
    /// The log has no segment to write to.
    LogFull,
    /// The ring to another shard is full.
    RingFull,
    /// As many pages are being read as may.
    Readers,
    /// The server is draining.
    Draining,
}

impl Refusal {
    /// Every one, in the order of the array of counters.
    pub const ALL: &[Self] = &[
        Self::ServerFull,
        Self::CommitWindow,
        Self::LogFull,
        Self::RingFull,
        Self::Readers,
        Self::Draining,
    ];

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerFull => "server_full",
            Self::CommitWindow => "commit_window",
            Self::LogFull => "log_full",
            Self::RingFull => "ring_full",
            Self::Readers => "readers",
            Self::Draining => "draining",
        }
    }
}

/// A closed list that a counter is kept for each member of.
pub trait Label: Copy + 'static {
    /// Every member, in the order of [`Label::index`].
    const ALL: &[Self];
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
    /// Its value of the label.
    fn name(self) -> &'static str;
}

impl Label for CloseReason {
    const ALL: &[Self] = CloseReason::ALL;
    fn index(self) -> usize {
        self as usize - 1
    }
    fn name(self) -> &'static str {
        CloseReason::name(self)
    }
}

impl Label for ErrorCode {
    const ALL: &[Self] = ErrorCode::ALL;
    fn index(self) -> usize {
        self as usize - 1
    }
    fn name(self) -> &'static str {
        ErrorCode::name(self)
    }
}

impl Label for Refusal {
    const ALL: &[Self] = Refusal::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn name(self) -> &'static str {
        Refusal::name(self)
    }
}

const LABELS_MAX: usize = 16;

const _: () = {
    assert!(CloseReason::ALL.len() <= LABELS_MAX);
    assert!(ErrorCode::ALL.len() <= LABELS_MAX);
    assert!(Refusal::ALL.len() <= LABELS_MAX);
};

/// A counter for each member of a closed list.
#[derive(Debug)]
pub struct Each<L> {
    values: [Value; LABELS_MAX],
    of: std::marker::PhantomData<L>,
}

impl<L> Default for Each<L> {
    fn default() -> Self {
        Self { values: Default::default(), of: std::marker::PhantomData }
    }
}

impl<L: Label> Each<L> {
    /// The counter of `label`.
    pub fn of(&self, label: L) -> &Value {
        &self.values[label.index()]
    }
}

/// A row of the table, without its place in the struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in the exposition.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// One line.
    pub help: &'static str,
}

macro_rules! kind {
    (Counter) => {
        "counter"
    };
    (EachCounter) => {
        "counter"
    };
    (Gauge) => {
        "gauge"
    };
    (MillisGauge) => {
        "gauge"
    };
    (MicrosHistogram) => {
        "histogram"
    };
}

macro_rules! storage {
    (EachCounter $of:ident) => { Each<$of> };
    (MicrosHistogram) => { Histogram };
    ($kind:ident) => { Value };
}

macro_rules! write_samples {
    (EachCounter $out:ident $name:literal $shards:ident $field:ident $label:literal) => {
        write_each($out, $name, $label, $shards.map(|(shard, metrics)| (shard, &metrics.$field)))
    };
    (MicrosHistogram $out:ident $name:literal $shards:ident $field:ident) => {
        write_histograms($out, $name, $shards.map(|(shard, metrics)| (shard, &metrics.$field)))
    };
    (MillisGauge $out:ident $name:literal $shards:ident $field:ident) => {
        for (shard, metrics) in $shards {
            let value = Decimal { units: metrics.$field.read(), unit: 1000 };
            line($out, format_args!("{}{{shard=\"{shard}\"}} {value}", $name));
        }
    };
    ($kind:ident $out:ident $name:literal $shards:ident $field:ident) => {
        for (shard, metrics) in $shards {
            let value = metrics.$field.read();
            line($out, format_args!("{}{{shard=\"{shard}\"}} {value}", $name));
        }
    };
}

macro_rules! metrics {
    ($($field:ident $kind:ident $(by $of:ident $label:literal)? $name:literal $help:literal;)*) => {
        /// Everything one shard counts. Aligned so that no other thread's writes share a line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $(#[doc = $help] pub $field: storage!($kind $($of)?),)*
        }

        /// Every row of the table, in the order of the exposition.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: $name, kind: kind!($kind), help: $help },)*];

        fn write_all(out: &mut String, shards: &[Arc<ShardMetrics>]) {
            $(
                describe(out, $name, kind!($kind), $help);
                let numbered = shards.iter().enumerate();
                write_samples!($kind out $name numbered $field $($label)?);
            )*
        }
    };
}

metrics! {
    connections Gauge "ringmain_connections" "Open sockets";
    sessions Gauge "ringmain_sessions" "Authenticated devices with a connection";
    accepted Counter "ringmain_accepted_total" "Sockets accepted";
    closed EachCounter by CloseReason "reason" "ringmain_closed_total" "Connections ended";
    refused EachCounter by Refusal "reason" "ringmain_refused_total"
        "Work refused before it changed any state";
    errors EachCounter by ErrorCode "code" "ringmain_errors_total" "Error frames sent";
    frames_in Counter "ringmain_frames_in_total" "Frames received";
    frames_out Counter "ringmain_frames_out_total"
        "Frames queued to be sent; a replayed page with its gap is one";
    bytes_in Counter "ringmain_bytes_in_total" "Bytes received";
    bytes_out Counter "ringmain_bytes_out_total" "Bytes sent";
    recv_enobufs Counter "ringmain_recv_enobufs_total" "Receives that found no provided buffer";
    appends Counter "ringmain_appends_total" "Records appended to the log";
    append_bytes Counter "ringmain_append_bytes_total" "Bytes of records appended";
    commits Counter "ringmain_commits_total" "Syncs of the log that returned";
    sync_micros MicrosHistogram "ringmain_sync_seconds" "How long a sync of the log took";
    log_appended_bytes Gauge "ringmain_log_appended_bytes" "Where the appended watermark stands";
    log_durable_bytes Gauge "ringmain_log_durable_bytes" "Where the durable watermark stands";
    log_segments Gauge "ringmain_log_segments" "Segment files of the log";
    snapshot_age_millis MillisGauge "ringmain_snapshot_age_seconds" "Age of the last snapshot";
    dedup_entries Gauge "ringmain_dedup_entries" "Sends remembered to recognise a retry";
    dedup_window_millis MillisGauge "ringmain_dedup_window_seconds"
        "How far back a retry is recognised";
    turns Counter "ringmain_turns_total" "Passes of the loop";
    turn_micros MicrosHistogram "ringmain_turn_seconds" "How long a pass worked, waiting excluded";
    enters Counter "ringmain_enters_total" "System calls into the kernel's rings";
    cq_overflows Counter "ringmain_cq_overflows_total" "Times the completion queue overflowed";
    deliveries Counter "ringmain_deliveries_total" "Messages queued for a session";
    parcels_sent Counter "ringmain_parcels_sent_total" "Parcels put in rings to other shards";
    requests_sent Counter "ringmain_requests_sent_total" "Commands handed to their owner shard";
    ring_depth_max Gauge "ringmain_ring_depth_max" "Most parcels seen waiting in one ring";
}

/// The metrics of every shard, as the admin thread holds them.
#[derive(Clone, Debug)]
pub struct Metrics {
    shards: Vec<Arc<ShardMetrics>>,
}

impl Metrics {
    /// All at zero, for `shards_count` shards.
    pub fn new(shards_count: u16) -> Self {
        Self { shards: (0..shards_count).map(|_| Arc::default()).collect() }
    }

    /// Those of `shard`, for its thread to write.
    pub fn shard(&self, shard: ShardId) -> Arc<ShardMetrics> {
        Arc::clone(&self.shards[usize::from(shard.0)])
    }

    /// Those of all shards, in order.
    pub fn shards(&self) -> &[Arc<ShardMetrics>] {
        &self.shards
    }

    /// All of them in the Prometheus text format, version 0.0.4.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(4096 * (1 + self.shards.len()));
        describe(&mut out, "ringmain_build_info", "gauge", "Which version runs");
        let version = env!("CARGO_PKG_VERSION");
        line(&mut out, format_args!("ringmain_build_info{{version=\"{version}\"}} 1"));
        write_all(&mut out, &self.shards);
        out
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes any text");
}

fn describe(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {kind}"));
}

fn write_each<'a, L: Label>(
    out: &mut String,
    name: &str,
    label: &str,
    shards: impl Iterator<Item = (usize, &'a Each<L>)>,
) {
    for (shard, each) in shards {
        for member in L::ALL {
            let value = each.of(*member).read();
            let member = member.name();
            line(out, format_args!("{name}{{shard=\"{shard}\",{label}=\"{member}\"}} {value}"));
        }
    }
}

fn write_histograms<'a>(
    out: &mut String,
    name: &str,
    shards: impl Iterator<Item = (usize, &'a Histogram)>,
) {
    for (shard, histogram) in shards {
        let mut below_count = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            below_count += bucket.read();
            let bound = match index {
                _ if index + 1 == BUCKETS_COUNT => "+Inf".to_owned(),
                _ => Decimal { units: 1 << index, unit: 1_000_000 }.to_string(),
            };
            let labels = format_args!("shard=\"{shard}\",le=\"{bound}\"");
            line(out, format_args!("{name}_bucket{{{labels}}} {below_count}"));
        }
        let sum = Decimal { units: histogram.sum_micros.read(), unit: 1_000_000 };
        line(out, format_args!("{name}_sum{{shard=\"{shard}\"}} {sum}"));
        line(out, format_args!("{name}_count{{shard=\"{shard}\"}} {below_count}"));
    }
}

/// Whole units of a thousandth or a millionth, printed as a decimal without loss.
struct Decimal {
    units: u64,
    unit: u64,
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, part) = (self.units / self.unit, self.units % self.unit);
        let width = self.unit.ilog10() as usize;
        write!(formatter, "{whole}.{part:0width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sample_stands_under_its_own_type_line() {
        let text = Metrics::new(2).encode();
        let mut current = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                current = (name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let base = match current.1.as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|suffix| name.strip_suffix(suffix))
                        .unwrap(),
                    _ => name,
                };
                assert_eq!(base, current.0, "{line}");
            }
        }
    }

    #[test]
    fn only_counters_end_in_total_and_no_name_stands_twice() {
        let mut seen = BTreeSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name), "{}", metric.name);
            let ends_in_total = metric.name.ends_with("_total");
            assert_eq!(ends_in_total, metric.kind == "counter", "{}", metric.name);
        }
    }

    #[test]
    fn a_counter_shows_under_its_shard_and_label() {
        let metrics = Metrics::new(2);
        metrics.shard(ShardId(1)).closed.of(CloseReason::SlowConsumer).add(3);
        metrics.shard(ShardId(0)).frames_in.add(7);
        let text = metrics.encode();
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}");
        has("ringmain_closed_total{shard=\"1\",reason=\"slow_consumer\"} 3");
        has("ringmain_closed_total{shard=\"0\",reason=\"slow_consumer\"} 0");
        has("ringmain_frames_in_total{shard=\"0\"} 7");
        has("ringmain_frames_in_total{shard=\"1\"} 0");
    }

    #[test]
    fn a_histogram_counts_each_value_in_every_bucket_that_bounds_it() {
        let metrics = Metrics::new(1);
        let shard = metrics.shard(ShardId(0));
        for micros in [0, 1, 2, 3, 4, u64::from(u32::MAX)] {
            shard.sync_micros.observe(micros);
        }
        let text = metrics.encode();
        let bucket = |bound: &str| {
            let front = format!("ringmain_sync_seconds_bucket{{shard=\"0\",le=\"{bound}\"}} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&front)).unwrap();
            found.parse::<u64>().unwrap()
        };
        assert_eq!(bucket("0.000001"), 2);
        assert_eq!(bucket("0.000002"), 3);
        assert_eq!(bucket("0.000004"), 5);
        assert_eq!(bucket("1073.741824"), 5);
        assert_eq!(bucket("+Inf"), 6);
        assert!(text.contains("ringmain_sync_seconds_count{shard=\"0\"} 6\n"));
        assert!(text.contains("ringmain_sync_seconds_sum{shard=\"0\"} 4294.967305\n"));
    }

    #[test]
    fn every_label_has_a_counter_of_its_own() {
        fn check<L: Label>() {
            let each = Each::<L>::default();
            for label in L::ALL {
                each.of(*label).add(1);
            }
            assert!(L::ALL.iter().all(|label| each.of(*label).read() == 1));
        }
        check::<CloseReason>();
        check::<ErrorCode>();
        check::<Refusal>();
    }

    #[test]
    fn a_gauge_never_goes_below_zero() {
        let value = Value::default();
        value.add(1);
        value.take(2);
        assert_eq!(value.read(), 0);
        value.raise(5);
        value.raise(3);
        assert_eq!(value.read(), 5);
    }
}
