//! What came out: counts, latencies, and the one place that prints them to stdout.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::json;

/// Latencies from a microsecond to ten minutes, to three digits.
const LONGEST_MICROS: u64 = 600_000_000;
/// More lost ids than this are counted, not listed.
const LISTED: usize = 20;

/// What the store has of what was placed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Orders that are there.
    pub(crate) found: u64,
    /// Accepted orders that are not.
    pub(crate) lost: u64,
    /// The ids of those.
    pub(crate) missing: Vec<String>,
}

/// The result of a load or a check.
#[derive(Debug)]
pub(crate) struct Report {
    /// Orders accepted: answered 200, with an id.
    pub(crate) placed: u64,
    /// Orders not accepted, by reason.
    reasons: BTreeMap<String, u64>,
    /// From when an order was due to when it was answered.
    latencies: Histogram<u64>,
    /// What the store has, when it was asked.
    pub(crate) found: Option<Found>,
}

impl Default for Report {
    fn default() -> Self {
        // The bounds are constants that fit; an unbounded histogram is as good.
        let latencies = Histogram::new_with_max(LONGEST_MICROS, 3)
            .or_else(|_| Histogram::new(3))
            .unwrap_or_else(|_| unreachable!("three digits are within the histogram's range"));
        Self {
            placed: 0,
            reasons: BTreeMap::new(),
            latencies,
            found: None,
        }
    }
}

impl Report {
    /// One order was accepted.
    pub(crate) fn place(&mut self) {
        self.placed += 1;
    }

    /// One order was not.
    pub(crate) fn fail(&mut self, reason: String) {
        *self.reasons.entry(reason).or_default() += 1;
    }

    /// How long an answer took, good or bad.
    pub(crate) fn took(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(micros);
    }

    /// How many were not accepted.
    pub(crate) fn failed(&self) -> u64 {
        self.reasons.values().sum()
    }

    /// None failed and none is lost.
    pub(crate) fn is_good(&self) -> bool {
        self.failed() == 0 && self.found.as_ref().is_none_or(|found| found.lost == 0)
    }

    /// Milliseconds at quantile `q`.
    pub(crate) fn millis(&self, q: f64) -> f64 {
        self.latencies.value_at_quantile(q) as f64 / 1000.0
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.latencies.is_empty() {
            lines.push(format!(
                "latency ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}",
                self.millis(0.5),
                self.millis(0.9),
                self.millis(0.99),
                self.millis(1.0)
            ));
        }
        for (reason, times) in &self.reasons {
            lines.push(format!("failed {times}: {reason}"));
        }
        let found = self.found.clone().unwrap_or_else(|| {
            lines.push("the store was not asked; hint: run `orders check`".to_owned());
            Found::default()
        });
        for id in found.missing.iter().take(LISTED) {
            lines.push(format!("lost: {id}"));
        }
        if found.missing.len() > LISTED {
            lines.push(format!("lost: {} more", found.missing.len() - LISTED));
        }
        lines.push(format!(
            "orders: placed {}, failed {}, found {}, lost {}",
            self.placed,
            self.failed(),
            found.found,
            found.lost
        ));
        lines
    }

    fn json(&self) -> serde_json::Value {
        let mut value = json!({
            "placed": self.placed,
            "failed": self.failed(),
            "reasons": self.reasons,
            "found": self.found.as_ref().map(|found| found.found),
            "lost": self.found.as_ref().map(|found| found.lost),
            "missing": self.found.as_ref().map(|found| &found.missing),
        });
        if !self.latencies.is_empty() {
            value["latency_ms"] = json!({
                "p50": self.millis(0.5),
                "p90": self.millis(0.9),
                "p99": self.millis(0.99),
                "max": self.millis(1.0),
            });
        }
        value
    }

    /// Prints the result: data, so to stdout.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        use std::io::Write;
        let text = if json {
            self.json().to_string()
        } else {
            self.lines().join("\n")
        };
        writeln!(std::io::stdout(), "{text}").context("print the result")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_counts_last_and_the_reasons_before() {
        let mut report = Report::default();
        for millis in 1..=100 {
            report.took(Duration::from_millis(millis));
        }
        report.placed = 99;
        report.fail("status 503".to_owned());
        report.found = Some(Found {
            found: 98,
            lost: 1,
            missing: vec!["x".to_owned()],
        });
        assert_eq!(
            report.lines(),
            [
                "latency ms: p50 50.0, p90 90.0, p99 99.0, max 100.0",
                "failed 1: status 503",
                "lost: x",
                "orders: placed 99, failed 1, found 98, lost 1",
            ]
        );
        assert_eq!(report.json()["reasons"]["status 503"], 1);
    }

    #[test]
    fn is_good_only_without_failure_and_loss() {
        let mut report = Report {
            placed: 1,
            ..Report::default()
        };
        assert!(report.is_good());
        report.found = Some(Found {
            found: 1,
            ..Found::default()
        });
        assert!(report.is_good());
        report.found = Some(Found {
            lost: 1,
            ..Found::default()
        });
        assert!(!report.is_good());
        report.found = None;
        report.fail("refused".to_owned());
        assert!(!report.is_good());
    }
}
