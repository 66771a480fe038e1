//! The soak: a trial is watched until it has run long enough, or the host is worse than before.
//!
//! At its end the trial is asked for permission to be replaced, as the stable agent was. One that withholds it, or
//! never answers, could never be replaced once it is stable. [`super::compare`] finds out whether the release is to
//! blame.

use std::time::Duration;

use support::text;
use tokio::time::{Instant, sleep};

use super::Attempt;
use super::actions::{Fault, PERMISSION_TIMEOUT};
use super::adapters::{ActiveState, Health, Unit};
use crate::blame::{self, FailureKind};
use crate::build::Build;
use crate::phases::Event;
use crate::regression::Regression;

/// Poll interval of a trial. A crash is handled by systemd, within milliseconds.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How long an instance may be worse than before the trial: a service fails a round now and then, and a daemon needs
/// a moment to write its first status.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// Most consecutive failures to read the unit's state.
const POLL_FAILURES: u32 = 5;

impl Attempt {
    /// Succeeds when it has soaked: the same process all the time, of this build, on a host no worse than before.
    pub(super) async fn watch(&mut self, build: &Build, asks: bool) -> Event {
        match self.soak(build, asks).await {
            Ok(None) => Event::Done {
                at: self.adapters.clock.now(),
            },
            Ok(Some(worse)) => Event::Worsened(worse),
            Err(fault) => Event::Failed(fault.failure(self.adapters.clock.now())),
        }
    }

    /// How the host is worse at the end; `None` if it is not.
    async fn soak(&mut self, build: &Build, asks: bool) -> Result<Option<Regression>, Fault> {
        let end = Instant::now() + self.adapters.policy.soak;
        let mut pid = None;
        let mut worse_since = None;
        let mut failed_polls = 0;
        let mut asked = None;
        loop {
            match self.adapters.units.state(Unit::Trial).await {
                Ok(it) if it.active != ActiveState::Active => {
                    return Err(Fault::of(
                        blame::of_unit(&it.result, it.status),
                        "trial",
                        format!("the trial ended with {}", it.result),
                    ));
                }
                // The unit never restarts it, so another process did.
                Ok(it) if pid.is_some() && it.pid != pid => {
                    return Err(Fault::of(
                        FailureKind::Interrupted,
                        "trial",
                        "the trial was restarted".to_owned(),
                    ));
                }
                Ok(it) => {
                    pid = it.pid;
                    failed_polls = 0;
                }
                Err(error) => {
                    failed_polls += 1;
                    if failed_polls >= POLL_FAILURES {
                        return Err(Fault::environment("systemd", format!("{error:#}")));
                    }
                }
            }
            let health = self.adapters.daemon.health();
            if health.as_ref().is_some_and(|it| it.terminating) {
                let reason = "the instance is being terminated".to_owned();
                return Err(Fault::environment("leaving", reason));
            }
            match worse(build, pid, self.before.as_ref(), health.as_ref()) {
                None => worse_since = None,
                Some(how) => {
                    let since = *worse_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= GRACE {
                        return Ok(Some(how));
                    }
                }
            }
            if Instant::now() >= end && worse_since.is_none() && failed_polls == 0 {
                if !asks {
                    return Ok(None);
                }
                let (since, deadline) = *asked.get_or_insert_with(|| {
                    let since = self.adapters.clock.now();
                    self.request_permission(Some(since));
                    (since, Instant::now() + PERMISSION_TIMEOUT)
                });
                // The next step withdraws the request.
                let answer = self.adapters.daemon.health().and_then(|it| it.permission);
                match answer.filter(|answer| answer.at >= since) {
                    Some(answer) if answer.granted => return Ok(None),
                    // It may change its answer until the deadline: a group answers once a minute.
                    Some(answer) if Instant::now() >= deadline => {
                        let reason = text::line(&answer.reason, text::REASON);
                        return Ok(Some(Regression::Busy(reason)));
                    }
                    _ if Instant::now() >= deadline => return Ok(Some(Regression::Mute)),
                    _ => {}
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// How a host is worse than before the trial; `None` if it is not.
pub(super) fn worse(
    build: &Build,
    pid: Option<u32>,
    before: Option<&Health>,
    now: Option<&Health>,
) -> Option<Regression> {
    let Some(now) = now.filter(|now| is_of(now, build, pid)) else {
        return Some(Regression::NoStatus);
    };
    let before = before?;
    let failing = |name: &&String| !now.passing.contains(name);
    let sick: Vec<String> = before.passing.iter().filter(failing).cloned().collect();
    if !sick.is_empty() {
        return Some(Regression::Sick(sick));
    }
    (before.fit && !now.fit).then_some(Regression::Unfit)
}

/// Whether a status is of this build's process.
pub(super) fn is_of(health: &Health, build: &Build, pid: Option<u32>) -> bool {
    Some(health.pid) == pid && health.version == build.version.to_string()
}
