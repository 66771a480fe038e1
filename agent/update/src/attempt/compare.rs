//! The comparison after a revert: a release is blamed for an unhealthy host only if the host recovers without it.
//!
//! The stable release runs again. Only what made the host worse on trial is checked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Attempt;
use super::actions::Fault;
use super::adapters::{Health, Unit};
use super::soak::is_of;
use crate::blame;
use crate::phases::Event;
use crate::regression::Regression;

/// How long a host may take to recover without the release that was on trial. Well above the time of the default
/// number of consecutive passes.
pub(super) const RECOVERY: Duration = Duration::from_secs(90);

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

impl Attempt {
    /// Succeeds if the host is as it was on trial: then the release is not the cause.
    pub(super) async fn compare(&mut self, worse: &Regression) -> Result<(), Fault> {
        let same = match worse {
            Regression::Mute | Regression::Busy(_) => {
                matches!(self.ask_permission().await, Event::NotPermitted { .. })
            }
            Regression::NoStatus | Regression::Unfit | Regression::Sick(_) => {
                self.stays(worse).await
            }
        };
        if same {
            return Ok(());
        }
        let (kind, reason) = blame::compared(worse, false);
        Err(Fault::of(kind, worse.code(), reason))
    }

    /// Whether the host stays as it was for the whole recovery time.
    async fn stays(&mut self, worse: &Regression) -> bool {
        let end = Instant::now() + RECOVERY;
        loop {
            let pid = match self.adapters.units.state(Unit::Stable).await {
                Ok(it) => it.pid,
                Err(_) => None,
            };
            let health = self.adapters.daemon.health();
            let health = health.filter(|it| is_of(it, &self.stable, pid));
            if health.is_some_and(|it| is_over(worse, &it)) {
                return false;
            }
            if Instant::now() >= end {
                return true;
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Whether the problem of the trial is over.
fn is_over(worse: &Regression, health: &Health) -> bool {
    match worse {
        Regression::NoStatus | Regression::Mute | Regression::Busy(_) => true,
        Regression::Unfit => health.fit,
        Regression::Sick(names) => names.iter().all(|name| health.passing.contains(name)),
    }
}
