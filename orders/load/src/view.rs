//! The progress of a load on stderr: a panel redrawn in place on a terminal, a line at intervals elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::ledger::Run;
use crate::plan::{Plan, Until};
use crate::report::{Report, Times};

/// Time between two updates on a terminal, and between two lines elsewhere.
const LIVE: Duration = Duration::from_secs(1);
const PLAIN: Duration = Duration::from_secs(10);
/// Updates shown in the bar chart.
const BARS: usize = 60;
/// Reasons of failure to show; the result has all.
const REASONS: usize = 3;
/// Fits a terminal with 80 columns; longer lines are cut.
const WIDTH: usize = 78;

/// The progress display of one load.
pub(crate) struct View {
    heading: String,
    start: Instant,
    until: Until,
    ticks: Interval,
    live: bool,
    due: Arc<AtomicU64>,
    /// Since the last update.
    window: Times,
    before: Counts,
    bars: VecDeque<f64>,
    drawn: usize,
}

/// The counts at an update.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counts {
    at: Instant,
    due: u64,
    placed: u64,
}

impl View {
    pub(crate) fn new(plan: &Plan, run: &Run, start: Instant) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let live = std::io::stderr().is_terminal() && !dumb;
        let period = if live { LIVE } else { PLAIN };
        let mut ticks = interval_at(start + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            heading: format!(
                "{}  {} {}/s  run {}",
                plan.url,
                plan.arrivals,
                number(plan.rate),
                run.id
            ),
            start,
            until: plan.until,
            ticks,
            live,
            due: Arc::default(),
            window: Times::default(),
            before: Counts {
                at: start,
                due: 0,
                placed: 0,
            },
            bars: VecDeque::new(),
            drawn: 0,
        }
    }

    /// The counter of orders that have come due, updated by the schedule.
    pub(crate) fn due_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.due)
    }

    /// Records the latency of one order.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.window.add(latency);
    }

    /// Waits until the next update.
    pub(crate) async fn next(&mut self) {
        self.ticks.tick().await;
    }

    /// Prints the current progress.
    pub(crate) fn show(&mut self, report: &Report) {
        let now = Counts {
            at: Instant::now(),
            due: self.due.load(Ordering::Relaxed),
            placed: report.placed,
        };
        let mut text = String::new();
        if self.live {
            self.bars.push_back(self.window.millis(0.99));
            if self.bars.len() > BARS {
                self.bars.pop_front();
            }
            let lines = self.panel(now, report);
            // Move to the start of the last panel and erase it.
            if self.drawn > 0 {
                let _ = write!(text, "\x1b[{}A", self.drawn);
            }
            text.push_str("\r\x1b[J");
            self.drawn = lines.len();
            for line in lines {
                text.extend(line.chars().take(WIDTH));
                text.push('\n');
            }
        } else {
            text = self.line(now, report);
            text.push('\n');
        }
        self.window.clear();
        self.before = now;
        // A closed stderr must not end the load.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Keeps the last panel and prints an empty line before the result.
    pub(crate) fn end(&self) {
        if self.live {
            let _ = writeln!(std::io::stderr());
        }
    }

    fn line(&self, now: Counts, report: &Report) -> String {
        format!(
            "{:>5.0} s  due {}  placed {}  failed {}  p50 {:.1} ms  p99 {:.1} ms",
            (now.at - self.start).as_secs_f64(),
            now.due,
            report.placed,
            report.failed(),
            report.latency.millis(0.5),
            report.latency.millis(0.99),
        )
    }

    fn panel(&self, now: Counts, report: &Report) -> Vec<String> {
        let since = (now.at - self.before.at).as_secs_f64().max(0.001);
        let per_second = |now: u64, before: u64| number((now - before) as f64 / since);
        let answered = report.placed + report.failed();
        let mut lines = vec![
            self.heading.clone(),
            self.time(now.at, now.due > answered),
            format!(
                "due {:>9}  {:>7}/s    placed {:>9}  {:>7}/s",
                now.due,
                per_second(now.due, self.before.due),
                report.placed,
                per_second(report.placed, self.before.placed)
            ),
            format!(
                "in flight {:>3}               failed {:>9}   retried {}",
                now.due.saturating_sub(answered),
                report.failed(),
                report.retried
            ),
            format!("ms now   {}", quantiles(&self.window)),
            format!("   all   {}", quantiles(&report.latency)),
            format!("p99      {}", bars(&self.bars)),
        ];
        let reasons = report.reasons().iter().take(REASONS);
        lines.extend(reasons.map(|(reason, times)| format!("failed {times}: {reason}")));
        if report.reasons().len() > REASONS {
            lines.push(format!(
                "failed: {} more reasons",
                report.reasons().len() - REASONS
            ));
        }
        lines
    }

    /// The elapsed time, as a bar if there is an end.
    fn time(&self, now: Instant, waiting: bool) -> String {
        const CELLS: usize = 40;
        let elapsed = now - self.start;
        let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        match self.until {
            Until::Stopped => format!("{}, until stopped", clock(elapsed)),
            Until::Elapsed(limit) if elapsed >= limit && waiting => {
                format!(
                    "{} of {}, waiting for responses",
                    clock(elapsed),
                    clock(limit)
                )
            }
            Until::Elapsed(limit) if elapsed >= limit => format!("{}, all answered", clock(limit)),
            Until::Elapsed(limit) => {
                let full = (elapsed.as_secs_f64() / limit.as_secs_f64() * CELLS as f64) as usize;
                let bar: String = (0..CELLS)
                    .map(|cell| if cell < full { '━' } else { '·' })
                    .collect();
                format!("{bar} {} of {}", clock(elapsed), clock(limit))
            }
        }
    }
}

fn quantiles(times: &Times) -> String {
    if times.is_empty() {
        return "no responses".to_owned();
    }
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)]
        .map(|(name, q)| format!("{name} {:>8.1}", times.millis(q)))
        .join("  ")
}

/// One bar per update, scaled to the highest.
fn bars(values: &VecDeque<f64>) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = values.iter().copied().fold(0.0, f64::max);
    if highest <= 0.0 {
        return String::new();
    }
    let bars: String = values
        .iter()
        .map(|value| LEVELS[((value / highest * 7.0).round() as usize).min(7)])
        .collect();
    format!("{bars} up to {highest:.1}")
}

/// The shortest form: 0.125, 4.5, 200.
fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::Arrivals;

    fn view(until: Until) -> View {
        let plan = Plan {
            url: "http://shop".to_owned(),
            rate: 200.0,
            arrivals: Arrivals::Poisson,
            until,
            timeout: Duration::from_secs(1),
            flower: "spring_tulips".to_owned(),
            retries: 0,
            connections: 1,
            warm: false,
        };
        let run = Run {
            id: "00000000000000ab".to_owned(),
            began: jiff::Timestamp::UNIX_EPOCH,
        };
        View::new(&plan, &run, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn the_panel_has_current_rates_and_all_quantiles() {
        let mut view = view(Until::Elapsed(Duration::from_secs(40)));
        let mut report = Report::default();
        for millis in [1, 2, 3, 400] {
            report.latency.add(Duration::from_millis(millis));
        }
        view.window.add(Duration::from_millis(400));
        view.bars.extend([1.0, 400.0]);
        report.placed = 300;
        report.fail("status 503");
        view.before = Counts {
            at: view.start + Duration::from_secs(9),
            due: 200,
            placed: 200,
        };
        let now = Counts {
            at: view.start + Duration::from_secs(10),
            due: 410,
            placed: 300,
        };
        let lines = view.panel(now, &report);
        let expected = [
            "http://shop  poisson 200/s  run 00000000000000ab",
            "━━━━━━━━━━······························ 0:10 of 0:40",
            "due       410      210/s    placed       300      100/s",
            "in flight 109               failed         1   retried 0",
            "ms now   p50    400.1  p90    400.1  p99    400.1  max    400.1",
            "   all   p50      2.0  p90    400.1  p99    400.1  max    400.1",
            "p99      ▁█ up to 400.0",
            "failed 1: status 503",
        ];
        assert_eq!(lines, expected);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(
            view.line(now, &report),
            "   10 s  due 410  placed 300  failed 1  p50 2.0 ms  p99 400.1 ms"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_line_covers_no_end_and_a_past_end() {
        let forever = view(Until::Stopped);
        let at = |view: &View, seconds, waiting| {
            view.time(view.start + Duration::from_secs(seconds), waiting)
        };
        assert_eq!(at(&forever, 75, true), "1:15, until stopped");
        let short = view(Until::Elapsed(Duration::from_secs(5)));
        assert_eq!(at(&short, 6, true), "0:06 of 0:05, waiting for responses");
        assert_eq!(at(&short, 6, false), "0:05, all answered");
        assert_eq!(quantiles(&Times::default()), "no responses");
        assert_eq!(bars(&VecDeque::from([0.0, 0.0])), "");
    }
}
