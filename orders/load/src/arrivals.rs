//! When orders are due: a schedule that does not depend on responses. Pure.

use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use fastrand::Rng;

/// How arrivals are distributed at a given rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// One every 1/rate seconds.
    Fixed,
    /// At random, like independent customers.
    Poisson,
    /// This many at once, then none until the average rate is reached.
    Burst(u32),
}

/// A larger burst would exceed the orders in progress and count as not sent.
const LARGEST_BURST: u32 = 10_000;

impl FromStr for Arrivals {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match (text, text.strip_prefix("burst=").map(str::parse)) {
            ("fixed", _) => Ok(Self::Fixed),
            ("poisson", _) => Ok(Self::Poisson),
            (_, Some(Ok(size))) if (1..=LARGEST_BURST).contains(&size) => Ok(Self::Burst(size)),
            _ => bail!("expected fixed, poisson, or burst=N with N from 1 to {LARGEST_BURST}"),
        }
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(size) => write!(f, "burst={size}"),
        }
    }
}

impl Arrivals {
    /// The due time of each order from the start, without end, at `rate` orders a second.
    pub(crate) fn at(self, rate: f64, random: Rng) -> Schedule {
        Schedule {
            arrivals: self,
            rate,
            random,
            number: 0,
            seconds: 0.0,
        }
    }
}

/// Due times, never decreasing.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    random: Rng,
    number: u64,
    seconds: f64,
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let number = self.number;
        self.number += 1;
        // Computed from the number instead of summed up, so that they do not drift.
        let seconds = match self.arrivals {
            Arrivals::Fixed => number as f64 / self.rate,
            Arrivals::Burst(size) => (number - number % u64::from(size)) as f64 / self.rate,
            Arrivals::Poisson => {
                // Gaps of a Poisson process are exponential. `f64` is below 1, so the logarithm is finite.
                self.seconds -= (1.0 - self.random.f64()).ln() / self.rate;
                self.seconds
            }
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(arrivals: Arrivals, rate: f64, count: usize) -> Vec<u128> {
        let schedule = arrivals.at(rate, Rng::with_seed(7));
        schedule.take(count).map(|due| due.as_millis()).collect()
    }

    #[test]
    fn fixed_and_burst_keep_the_rate_without_drift() {
        assert_eq!(millis(Arrivals::Fixed, 4.0, 4), [0, 250, 500, 750]);
        assert_eq!(
            millis(Arrivals::Burst(3), 6.0, 7),
            [0, 0, 0, 500, 500, 500, 1000]
        );
        let late = Arrivals::Fixed.at(3.0, Rng::with_seed(7)).nth(3_000_000);
        assert_eq!(late, Some(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn poisson_has_the_rate_and_the_spread_of_random_arrivals() {
        let due: Vec<f64> = Arrivals::Poisson
            .at(50.0, Rng::with_seed(7))
            .take(20_000)
            .map(|due| due.as_secs_f64())
            .collect();
        assert!(due.is_sorted());
        let gaps: Vec<f64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "mean gap {mean}");
        // An exponential's deviation is its mean; evenly spread gaps would have none.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn arrivals_round_trip_as_text() {
        for text in ["fixed", "poisson", "burst=12"] {
            let arrivals = text
                .parse::<Arrivals>()
                .map(|arrivals| arrivals.to_string());
            assert_eq!(arrivals.ok().as_deref(), Some(text));
        }
        for wrong in ["", "burst", "burst=0", "burst=x", "burst=10001", "Poisson"] {
            let error = wrong.parse::<Arrivals>().unwrap_err().to_string();
            assert!(error.contains("expected fixed"), "{wrong}: {error}");
        }
    }
}
