//! When messages are due: an open loop that waits for nobody.

use crate::clock::{Nanos, SECOND};
use crate::content::mix;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// As independent users do: exponential gaps.
    Poisson,
    /// One every so often.
    Fixed,
}

/// A stream of due times. The same seed gives the same stream.
#[derive(Debug)]
pub struct Arrivals {
    spread: Spread,
    gap_nanos: f64,
    state: u64,
    /// Kept as a fraction, so that rounding does not bend the rate.
    next: f64,
}

impl Arrivals {
    /// `per_second` messages a second from `start` on.
    pub fn new(spread: Spread, per_second: f64, seed: u64, start: Nanos) -> Self {
        assert!(per_second > 0.0, "a rate of nothing has no arrivals");
        let mut arrivals =
            Self { spread, gap_nanos: SECOND as f64 / per_second, state: mix(seed), next: 0.0 };
        // A random phase keeps the rings of a run from sending in step.
        arrivals.next = start as f64 + arrivals.unit() * arrivals.gap_nanos;
        arrivals
    }

    /// A number above 0 and at most 1.
    fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = mix(self.state) >> 11;
        (bits + 1) as f64 / (1_u64 << 53) as f64
    }

    /// When the next message is due.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive time, whose fraction of a nanosecond is dropped"
    )]
    pub fn due(&self) -> Nanos {
        self.next as Nanos
    }

    /// Goes on to the message after it.
    pub fn advance(&mut self) {
        let share = match self.spread {
            Spread::Poisson => -self.unit().ln(),
            Spread::Fixed => 1.0,
        };
        self.next += share * self.gap_nanos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(spread: Spread, seed: u64) -> usize {
        let mut arrivals = Arrivals::new(spread, 50_000.0, seed, 1_000);
        let mut count = 0;
        while arrivals.due() < 1_000 + SECOND {
            arrivals.advance();
            count += 1;
        }
        count
    }

    #[test]
    fn both_spreads_keep_the_rate() {
        assert_eq!(count(Spread::Fixed, 1), 50_000);
        assert!((49_000..51_000).contains(&count(Spread::Poisson, 1)));
    }

    #[test]
    fn a_seed_repeats_its_stream() {
        assert_eq!(count(Spread::Poisson, 9), count(Spread::Poisson, 9));
        assert_ne!(count(Spread::Poisson, 9), count(Spread::Poisson, 10));
    }
}
