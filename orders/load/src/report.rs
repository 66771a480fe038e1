//! The result: counts and latencies, printed to stdout.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::json;

/// Latencies from a microsecond to ten minutes, to three digits.
const LONGEST_MICROS: u64 = 600_000_000;
/// Lost or duplicate orders beyond this many are counted instead of listed.
const LISTED: usize = 20;
/// The quantiles to report.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

/// The result of a check.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Acknowledged orders that are stored.
    pub(crate) found: u64,
    /// Acknowledged orders that are missing, by their ids.
    pub(crate) missing: Vec<String>,
    /// Orders stored more than once: the order, and the ids beyond the first.
    pub(crate) twice: Vec<String>,
    /// Stored orders that were not acknowledged, because their responses were lost.
    pub(crate) unacknowledged: u64,
}

impl Found {
    /// The number of missing orders.
    pub(crate) fn lost(&self) -> u64 {
        self.missing.len() as u64
    }
}

/// A histogram of times.
#[derive(Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        // These constants are valid bounds; an unbounded histogram would do as well.
        let histogram = Histogram::new_with_max(LONGEST_MICROS, 3)
            .or_else(|_| Histogram::new(3))
            .unwrap_or_else(|_| unreachable!("three digits are within the histogram's range"));
        Self(histogram)
    }
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// The value at quantile `q`, in milliseconds.
    pub(crate) fn millis(&self, q: f64) -> f64 {
        self.0.value_at_quantile(q) as f64 / 1000.0
    }

    fn line(&self) -> String {
        let parts = QUANTILES.map(|(name, q)| format!("{name} {:.1}", self.millis(q)));
        parts.join(", ")
    }

    fn json(&self) -> serde_json::Value {
        let mut value: serde_json::Map<String, serde_json::Value> = QUANTILES
            .iter()
            .map(|(name, q)| ((*name).to_owned(), json!(self.millis(*q))))
            .collect();
        value.insert("mean".to_owned(), json!(self.0.mean() / 1000.0));
        value.into()
    }

    /// Writes the distribution in the format of HdrHistogram's plotter, in milliseconds.
    /// <http://hdrhistogram.github.io/HdrHistogram/plotFiles.html>
    pub(crate) fn write_to(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = format!(
            "{:>12} {:>14} {:>10} {:>14}\n\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        let mut count = 0;
        for step in self.0.iter_quantiles(5) {
            count += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            let inverse = if quantile < 1.0 {
                format!("{:>14.2}", 1.0 / (1.0 - quantile))
            } else {
                String::new()
            };
            let value = step.value_iterated_to() as f64 / 1000.0;
            text.push_str(&format!(
                "{value:>12.3} {quantile:>14.12} {count:>10} {inverse}\n"
            ));
        }
        text.push_str(&format!(
            "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n\
             #[Max     = {:>12.3}, Total count    = {:>12}]\n",
            self.0.mean() / 1000.0,
            self.0.stdev() / 1000.0,
            self.0.max() as f64 / 1000.0,
            self.0.len(),
        ));
        std::fs::write(path, text)
            .with_context(|| format!("write the histogram {}", path.display()))
    }
}

/// The result of a load or a check.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Accepted orders: any 2xx status.
    pub(crate) placed: u64,
    /// Orders that failed, by reason.
    reasons: BTreeMap<String, u64>,
    /// Attempts after the first.
    pub(crate) retried: u64,
    /// Repeated responses.
    pub(crate) replayed: u64,
    /// Time from due to answered.
    pub(crate) latency: Times,
    /// Time from last sent to answered.
    pub(crate) service: Times,
    /// The result of the check, if there was one.
    pub(crate) found: Option<Found>,
    /// Whether the check failed because the source did not respond.
    pub(crate) store_unavailable: bool,
}

impl Report {
    /// Counts an accepted order.
    pub(crate) fn place(&mut self) {
        self.placed += 1;
    }

    /// Counts a failed order.
    pub(crate) fn fail(&mut self, reason: &str) {
        match self.reasons.get_mut(reason) {
            Some(times) => *times += 1,
            None => {
                self.reasons.insert(reason.to_owned(), 1);
            }
        }
    }

    /// The reasons of failed orders, with counts.
    pub(crate) fn reasons(&self) -> &BTreeMap<String, u64> {
        &self.reasons
    }

    /// The number of failed orders.
    pub(crate) fn failed(&self) -> u64 {
        self.reasons.values().sum()
    }

    /// Whether every checked order is stored exactly once.
    pub(crate) fn is_kept_once(&self) -> bool {
        let lost = |found: &Found| !found.missing.is_empty() || !found.twice.is_empty();
        !self.found.as_ref().is_some_and(lost)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.latency.is_empty() {
            lines.push(format!("latency ms: {}", self.latency.line()));
            lines.push(format!("service ms: {}", self.service.line()));
        }
        if self.retried > 0 {
            lines.push(format!(
                "retried {}, repeated responses {}",
                self.retried, self.replayed
            ));
        }
        for (reason, times) in &self.reasons {
            lines.push(format!("failed {times}: {reason}"));
        }
        let counts = format!("orders: placed {}, failed {}", self.placed, self.failed());
        let Some(found) = &self.found else {
            let why = if self.store_unavailable {
                "could not be checked"
            } else {
                "was not checked"
            };
            lines.push(format!("{counts}; the store {why}"));
            return lines;
        };
        if found.unacknowledged > 0 {
            lines.push(format!(
                "stored, not acknowledged: {}",
                found.unacknowledged
            ));
        }
        for (label, which) in [("lost", &found.missing), ("twice", &found.twice)] {
            for one in which.iter().take(LISTED) {
                lines.push(format!("{label}: {one}"));
            }
            if which.len() > LISTED {
                lines.push(format!("{label}: {} more", which.len() - LISTED));
            }
        }
        lines.push(format!(
            "{counts}, found {}, lost {}, twice {}",
            found.found,
            found.lost(),
            found.twice.len()
        ));
        lines
    }

    fn json(&self) -> serde_json::Value {
        let found = self.found.as_ref();
        let mut value = json!({
            "placed": self.placed,
            "failed": self.failed(),
            "reasons": self.reasons,
            "retried": self.retried,
            "replayed": self.replayed,
            "found": found.map(|found| found.found),
            "lost": found.map(Found::lost),
            "missing": found.map(|found| &found.missing),
            "twice": found.map(|found| &found.twice),
            "unacknowledged": found.map(|found| found.unacknowledged),
        });
        if !self.latency.is_empty() {
            value["latency_ms"] = self.latency.json();
            value["service_ms"] = self.service.json();
        }
        value
    }

    /// Prints the result to stdout.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
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
    fn reasons_are_printed_before_the_counts() {
        let mut report = Report::default();
        for millis in 1..=100 {
            report.latency.add(Duration::from_millis(millis));
            report.service.add(Duration::from_millis(1));
        }
        report.placed = 99;
        report.fail("status 503");
        report.retried = 3;
        report.replayed = 1;
        assert_eq!(
            report.lines()[4],
            "orders: placed 99, failed 1; the store was not checked"
        );
        assert_eq!(report.json()["found"], serde_json::Value::Null);
        report.store_unavailable = true;
        assert!(report.lines()[4].ends_with("; the store could not be checked"));
        report.found = Some(Found {
            found: 98,
            missing: vec!["x".to_owned()],
            twice: vec!["y".to_owned()],
            unacknowledged: 2,
        });
        assert_eq!(
            report.lines(),
            [
                "latency ms: p50 50.0, p90 90.0, p99 99.0, p99.9 100.0, max 100.0",
                "service ms: p50 1.0, p90 1.0, p99 1.0, p99.9 1.0, max 1.0",
                "retried 3, repeated responses 1",
                "failed 1: status 503",
                "stored, not acknowledged: 2",
                "lost: x",
                "twice: y",
                "orders: placed 99, failed 1, found 98, lost 1, twice 1",
            ]
        );
        assert_eq!(report.json()["reasons"]["status 503"], 1);
        assert_eq!(report.json()["lost"], 1);
    }

    #[test]
    fn lost_or_duplicate_orders_are_a_failure() {
        let mut report = Report::default();
        assert!(report.is_kept_once(), "nothing known is nothing wrong");
        report.found = Some(Found {
            unacknowledged: 1,
            ..Found::default()
        });
        assert!(report.is_kept_once());
        report.found = Some(Found {
            missing: vec!["x".to_owned()],
            ..Found::default()
        });
        assert!(!report.is_kept_once());
        report.found = Some(Found {
            twice: vec!["x".to_owned()],
            ..Found::default()
        });
        assert!(!report.is_kept_once());
    }

    #[test]
    fn the_histogram_file_has_the_plotters_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load.hgrm");
        let mut times = Times::default();
        for millis in 1..=1000 {
            times.add(Duration::from_millis(millis));
        }
        times.write_to(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                line.split_whitespace()
                    .map(|cell| cell.parse().unwrap())
                    .collect()
            })
            .collect();
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        assert!(
            rows.windows(2).all(|pair| pair[0][0] <= pair[1][0]),
            "{text}"
        );
        let half = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!(
            (half[0] - 500.0).abs() < 2.0 && (half[2] - 500.0).abs() < 2.0,
            "{half:?}"
        );
        let last = rows.last().unwrap();
        assert!(
            last[1] == 1.0 && last[2] == 1000.0 && (last[0] - 1000.0).abs() < 2.0,
            "{last:?}"
        );
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }
}
