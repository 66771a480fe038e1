//! Failures to accept connections.
//!
//! Rule: a loop that accepts connections pauses after a failure, longer each time, and reports failures at most once a
//! minute, and the end of a series that it reported. So a process without free file descriptors neither spins nor fills
//! its log, even when every second connection can be accepted.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::Instant;

/// The first pause; it doubles per failure.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause: how late a connection is accepted once there are descriptors again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often failures are reported, across all series.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// Failures of a loop that accepts connections.
#[derive(Debug)]
pub(crate) struct Failures {
    what: &'static str,
    /// Failures in a row.
    count: u64,
    /// Whether this series was reported.
    row_reported: bool,
    /// When failures were reported last.
    reported: Option<Instant>,
    reports: u64,
}

impl Failures {
    /// No failures yet of connections to `what`.
    pub(crate) fn of(what: &'static str) -> Self {
        Self {
            what,
            count: 0,
            row_reported: false,
            reported: None,
            reports: 0,
        }
    }

    /// The accepted connection; or nothing, after a pause, when accepting failed.
    pub(crate) async fn pass<T>(&mut self, taken: io::Result<T>) -> Option<T> {
        let error = match taken {
            Ok(connection) => {
                if self.row_reported {
                    tracing::info!(
                        failures = self.count,
                        "connections to {} are accepted again",
                        self.what
                    );
                }
                self.count = 0;
                self.row_reported = false;
                return Some(connection);
            }
            Err(error) => error,
        };
        // The caller closed its connection before it was accepted: no reason to pause.
        if matches!(
            error.kind(),
            ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
        ) {
            return None;
        }
        let pause = 1_u32
            .checked_shl(u32::try_from(self.count).unwrap_or(u32::MAX))
            .map_or(LONGEST_PAUSE, |times| FIRST_PAUSE.saturating_mul(times));
        self.count += 1;
        let now = Instant::now();
        if self
            .reported
            .is_none_or(|reported| now.duration_since(reported) >= REPORT_EVERY)
        {
            self.reported = Some(now);
            self.row_reported = true;
            self.reports += 1;
            tracing::error!(
                %error,
                failures = self.count,
                "connections to {} cannot be accepted",
                self.what
            );
        }
        tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Result<()> {
        Err(rustix::io::Errno::MFILE.into())
    }

    #[tokio::test(start_paused = true)]
    async fn consecutive_accept_failures_pause_and_are_logged_once() {
        let mut failures = Failures::of("the test");
        let begun = Instant::now();
        let mut tries = 0;
        while begun.elapsed() < Duration::from_secs(600) {
            assert_eq!(failures.pass(full()).await, None);
            tries += 1;
        }
        assert!(tries < 620, "{tries} tries in ten minutes");
        assert_eq!(failures.reports, 10);
        // Once there are descriptors again, nothing is delayed.
        assert_eq!(failures.pass(Ok(7)).await, Some(7));
        assert_eq!(failures.count, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn alternating_accept_failures_do_not_fill_the_log() {
        let mut failures = Failures::of("the test");
        for _ in 0..500 {
            assert_eq!(failures.pass(full()).await, None);
            assert_eq!(failures.pass(Ok(())).await, Some(()));
        }
        assert_eq!(failures.reports, 1);
        tokio::time::sleep(REPORT_EVERY).await;
        failures.pass(full()).await;
        assert_eq!(failures.reports, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_aborted_connection_causes_no_pause() {
        let mut failures = Failures::of("the test");
        let begun = Instant::now();
        for _ in 0..1_000 {
            let gone: io::Result<()> = Err(ErrorKind::ConnectionAborted.into());
            assert_eq!(failures.pass(gone).await, None);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(failures.reports, 0);
    }
}
