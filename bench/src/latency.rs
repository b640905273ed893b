//! Latencies: one histogram for the whole, and the distribution of each second beside it.

use crate::clock::{Nanos, SECOND};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Latencies above a minute are recorded as a minute.
const NANOS_MAX: u64 = 60 * SECOND;
/// Three digits: a value is off by at most one in a thousand.
const DIGITS: u8 = 3;
/// Most windows kept: a day's.
const WINDOWS_MAX: usize = 86_400;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("constant bounds that are in order")
}

/// The figures of a distribution, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// How many values.
    pub count: u64,
    /// Median.
    pub p50: Nanos,
    /// 90th percentile.
    pub p90: Nanos,
    /// 99th percentile.
    pub p99: Nanos,
    /// 99.9th percentile.
    pub p999: Nanos,
    /// 99.99th percentile; absent below 100,000 values, where it would be an accident.
    pub p9999: Option<Nanos>,
    /// The largest.
    pub max: Nanos,
}

impl Figures {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: (histogram.len() >= 100_000).then(|| at(0.9999)),
            max: histogram.max(),
        }
    }
}

/// Records values now, windows by the second.
#[derive(Debug)]
pub struct Recorder {
    total: Histogram<u64>,
    window: Histogram<u64>,
    window_number: u64,
    /// Each window's counts by value: few values of a second differ.
    windows: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Default for Recorder {
    fn default() -> Self {
        let (total, window) = (histogram(), histogram());
        Self { total, window, window_number: 0, windows: BTreeMap::new() }
    }
}

impl Recorder {
    /// Records `nanos`.
    pub fn record(&mut self, nanos: Nanos) {
        self.window.saturating_record(nanos);
    }

    /// Moves on to the window of second `number`, if another is open.
    pub fn roll(&mut self, number: u64) {
        if number != self.window_number {
            self.close_window();
            self.window_number = number;
        }
    }

    fn close_window(&mut self) {
        if self.window.is_empty() {
            return;
        }
        self.total.add(&self.window).expect("made with the same bounds");
        let counts = self.window.iter_recorded();
        let counts = counts.map(|at| (at.value_iterated_to(), at.count_at_value()));
        if self.windows.len() < WINDOWS_MAX {
            self.windows.entry(self.window_number).or_default().extend(counts);
        }
        self.window.reset();
    }

    /// Adds what another thread has recorded.
    pub fn merge(&mut self, mut other: Self) {
        other.close_window();
        self.close_window();
        self.total.add(&other.total).expect("made with the same bounds");
        for (number, counts) in other.windows {
            self.windows.entry(number).or_default().extend(counts);
        }
    }

    /// The figures of everything recorded.
    pub fn figures(&mut self) -> Figures {
        self.close_window();
        Figures::of(&self.total)
    }

    /// The figures of each second, by number.
    pub fn windows(&mut self) -> Vec<(u64, Figures)> {
        self.close_window();
        let mut scratch = histogram();
        let mut figures = |counts: &[(u64, u64)]| {
            scratch.reset();
            for (value, count) in counts {
                scratch.saturating_record_n(*value, *count);
            }
            Figures::of(&scratch)
        };
        self.windows.iter().map(|(number, counts)| (*number, figures(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_merged_values_not_from_averages() {
        let (mut fast, mut slow) = (Recorder::default(), Recorder::default());
        for _ in 0..990 {
            fast.record(1_000);
        }
        for _ in 0..10 {
            slow.record(1_000_000);
        }
        fast.merge(slow);
        let figures = fast.figures();
        assert_eq!(figures.count, 1_000);
        assert!((999..=1_001).contains(&figures.p99), "{figures:?}");
        assert!(figures.p999 > 990_000, "{figures:?}");
        assert_eq!(figures.p9999, None);
    }

    #[test]
    fn each_second_has_its_own_figures() {
        let mut recorder = Recorder::default();
        recorder.roll(4);
        recorder.record(10_000);
        recorder.roll(5);
        recorder.record(20_000);
        recorder.record(20_000);
        let counts: Vec<_> = recorder.windows().iter().map(|(n, f)| (*n, f.count)).collect();
        assert_eq!(counts, [(4, 1), (5, 2)]);
        assert_eq!(recorder.figures().count, 3);
    }
}
