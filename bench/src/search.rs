//! The highest rate that a server keeps up with, by short trials.

use crate::Error;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::config::Config;
use crate::control::Control;
use crate::report::Report;
use crate::run::{Watch, run};
use std::sync::Arc;

/// When a rate counts as kept up with, and how finely it is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Bound of the delivery latency's 99th percentile.
    pub p99_max: Nanos,
    /// Least share of offered messages that must be acknowledged.
    pub goodput_min: f64,
    /// Length of a trial's measured part.
    pub trial: Nanos,
    /// Stops when the good and the bad rate are this close, as a ratio.
    pub resolution: f64,
    /// Most trials.
    pub trials_max: u32,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            p99_max: 50 * MILLISECOND,
            goodput_min: 0.999,
            trial: 3 * SECOND,
            resolution: 1.03,
            trials_max: 24,
        }
    }
}

impl Search {
    /// Why `report` does not count as keeping up; `None` if it does.
    pub fn shortcoming(&self, report: &Report) -> Option<String> {
        let p99 = report.delivered.total.p99;
        let millis = |nanos: Nanos| nanos as f64 / 1e6;
        if !report.is_clean() {
            let verdict = &report.verdict;
            return Some(format!(
                "delivery: lost={} duplicated={} reordered={} corrupt={} holes={} unanswered={}",
                verdict.lost,
                verdict.duplicated,
                verdict.reordered,
                verdict.corrupt,
                verdict.holes,
                verdict.unanswered
            ));
        }
        if let Some(why) = &report.void {
            return Some(why.clone());
        }
        if report.rates.goodput < self.goodput_min {
            return Some(format!("goodput {:.3} %", report.rates.goodput * 100.0));
        }
        (p99 > self.p99_max).then(|| format!("p99 {:.1} ms", millis(p99)))
    }

    /// Looks for the rate, beginning at `config.rate`, then runs it for `config.duration`. Each
    /// trial, and the last run, is told to `tell`.
    pub fn find(
        &self,
        config: &Config,
        watch: Watch,
        tell: &mut dyn FnMut(&Report, Option<&str>),
    ) -> Result<Report, Error> {
        let mut trials_count = 0;
        let mut attempt = |rate: f64, duration: Nanos| {
            trials_count += 1;
            let mut trial = config.clone();
            trial.rate = rate;
            trial.duration = duration;
            trial.seed = config.seed.wrapping_add(u64::from(trials_count) << 40);
            // Users of its own: what an earlier trial has left behind is not this one's burden.
            trial.user_prefix = format!("{}t{trials_count}-", config.user_prefix);
            let report = run(trial, &Arc::new(Control::default()), watch)?;
            let shortcoming = self.shortcoming(&report);
            tell(&report, shortcoming.as_deref());
            Ok::<_, Error>((report, shortcoming.is_none(), trials_count >= self.trials_max))
        };
        let (mut good, mut bad) = (None, None);
        let mut rate = config.rate;
        loop {
            let (_, is_good, is_last) = attempt(rate, self.trial)?;
            if is_good {
                good = Some(rate);
            } else {
                bad = Some(rate);
            }
            rate = match (good, bad) {
                (Some(good), None) => good * 2.0,
                (None, Some(bad)) => bad / 2.0,
                (Some(good), Some(bad)) if bad / good <= self.resolution => break,
                (Some(good), Some(bad)) => f64::sqrt(good * bad),
                (None, None) => unreachable!("the trial was one or the other"),
            };
            if is_last || rate < 1.0 {
                break;
            }
        }
        // What three seconds allow, a longer run may not: then a little less.
        let mut rate = good.unwrap_or(1.0);
        let mut final_runs_left = 5;
        loop {
            let (report, is_good, _) = attempt(rate, config.duration)?;
            final_runs_left -= 1;
            if is_good || final_runs_left == 0 {
                return Ok(report);
            }
            rate *= 0.95;
        }
    }
}
