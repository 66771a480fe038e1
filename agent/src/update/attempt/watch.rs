//! The soak: a trial is watched until it proved itself, or worsened the box.
//!
//! At its end the trial is asked what the stable agent was asked before: for its leave to be replaced. Whatever
//! it answers will do now; one that never answers could never be replaced once it is stable.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Attempt;
use super::acts::{Fault, LEAVE};
use super::world::{Active, Health, Unit};
use crate::update::board::Build;

/// Between two looks at a trial: a crash is systemd's to catch, within milliseconds.
const LOOKS: Duration = Duration::from_secs(2);

/// How long a box may look worse than before the trial: a service fails a round now and then, and a daemon
/// needs a moment to its first standing.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// Looks at systemd that may fail in a row.
const BLIND: u32 = 5;

impl Attempt {
    /// Until it soaked: the same process all the time, this build's, on a box no worse than before.
    pub(super) async fn watch(&mut self, build: &Build) -> Result<(), Fault> {
        let end = Instant::now() + self.world.course.soak;
        let mut pid = None;
        let mut worse_since = None;
        let mut blind = 0;
        let mut asked = None;
        loop {
            match self.world.units.look(Unit::Trial).await {
                Ok(it) if it.active != Active::Active => {
                    return Err(Fault::release(
                        "trial",
                        format!("the trial ended with {}", it.result),
                    ));
                }
                Ok(it) if pid.is_some() && it.pid != pid => {
                    return Err(Fault::release(
                        "trial",
                        "the trial was restarted".to_owned(),
                    ));
                }
                Ok(it) => {
                    pid = it.pid;
                    blind = 0;
                }
                Err(error) => {
                    blind += 1;
                    if blind >= BLIND {
                        return Err(Fault::world("systemd", format!("{error:#}")));
                    }
                }
            }
            let health = self.world.daemon.health();
            if health.as_ref().is_some_and(|it| it.leaving) {
                let reason = "the box was told to leave".to_owned();
                return Err(Fault::world("leaving", reason));
            }
            match worse(build, pid, self.before.as_ref(), health.as_ref()) {
                None => worse_since = None,
                Some(how) => {
                    let since = *worse_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= GRACE {
                        return Err(Fault::release("worse", how));
                    }
                }
            }
            if Instant::now() >= end && worse_since.is_none() && blind == 0 {
                let (since, deadline) = *asked.get_or_insert_with(|| {
                    let since = self.world.clock.now();
                    self.wish(Some(since));
                    (since, Instant::now() + LEAVE)
                });
                // The wish goes from the board with the next step.
                match self.world.daemon.health().and_then(|it| it.leave) {
                    Some((_, _, at)) if at >= since => return Ok(()),
                    // It may be the metadata service or the group that keeps it from answering: no reason to
                    // blame the release for good.
                    _ if Instant::now() >= deadline => {
                        return Err(Fault::world(
                            "mute",
                            format!(
                                "the trial did not say within {} s whether it may be replaced",
                                LEAVE.as_secs()
                            ),
                        ));
                    }
                    _ => {}
                }
            }
            sleep(LOOKS).await;
        }
    }
}

/// How a box is worse than before the trial; `None` when it is not.
fn worse(
    build: &Build,
    pid: Option<u32>,
    before: Option<&Health>,
    now: Option<&Health>,
) -> Option<String> {
    let ours = |it: &&Health| Some(it.pid) == pid && it.version == build.version.to_string();
    let Some(now) = now.filter(ours) else {
        return Some("the trial shows no standing of its own".to_owned());
    };
    let before = before?;
    if before.fit && !now.fit {
        return Some("the box was fit before the trial and is not now".to_owned());
    }
    let failing = |name: &&String| !now.passing.contains(name);
    before
        .passing
        .iter()
        .find(failing)
        .map(|name| format!("service {name} was healthy before the trial and is not now"))
}
