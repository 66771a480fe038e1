//! The only loop: look, [`watch`](super::watch), act; then look, [`verify`](super::verify), until proven.
//!
//! It holds no rules of its own. Detaching from it at any moment leaves the service at work, and entering it again,
//! from another process, goes on where the refresh is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::plan::Target;
use super::smoke::Occasion;
use super::start::{Course, fact, is, passes};
use super::verify::{self, Flaw, Proof, Rounds};
use super::view::{Activity, Member, Refresh};
use super::watch::{self, Cause, Ending, Next, Progress};
use super::{Crew, look, show};
use crate::cloud::{CloudError, IRREVERSIBLE, Kind, NO_ACTIVE_REFRESH};
use crate::exit::Failure;
use crate::ids::InstanceId;
use crate::ledger::Ledger;
use crate::output::Step;

/// How driving a refresh ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Every member is proven to run the target.
    Proven,
    /// The service is done, but these things are not as they must be.
    Unproven(Vec<Flaw>),
    /// It ended badly.
    Ended {
        /// How.
        ending: Ending,
        /// Why we stopped it, if we did.
        stopped: Option<Cause>,
        /// The service's own reason, verbatim.
        reason: String,
    },
    /// We stopped watching; it goes on. Why, and where it was.
    Detached(String),
}

/// One look at a refresh under way.
struct Sight {
    refresh: Refresh,
    activities: Vec<Activity>,
    members: Vec<Member>,
}

/// The loop's memory.
struct Drive<'a, 'b> {
    crew: &'a Crew<'b>,
    course: &'a Course,
    ledger: Option<&'a mut Ledger>,
    progress: Progress,
    members: BTreeMap<InstanceId, String>,
    told: BTreeSet<String>,
}

/// Watches a refresh to its end, acting where the rules say so, and proves the fleet if it succeeds.
pub(crate) async fn drive(
    crew: &Crew<'_>,
    course: &Course,
    ledger: Option<&mut Ledger>,
) -> Result<Finish> {
    let mut drive = Drive {
        crew,
        course,
        ledger,
        progress: Progress::default(),
        members: BTreeMap::new(),
        told: BTreeSet::new(),
    };
    let group = &crew.settings.group;
    // The refresh was named before; a terminal has little room for what it waits for.
    let step = crew.output.step("watch", format!("watch group {group}"));
    match drive.watch(step).await? {
        Some(finish) => Ok(finish),
        None => prove(crew, &course.target).await,
    }
}

impl Drive<'_, '_> {
    /// Watches until the refresh is over; `None` when it succeeded and is to be proven.
    async fn watch(&mut self, mut step: Step) -> Result<Option<Finish>> {
        let began = Instant::now();
        loop {
            let Some(look) = self.crew.unless_asked(self.look()).await else {
                step.failed("stopped watching");
                return Ok(Some(detached("asked to stop")));
            };
            let sight = match look {
                Ok(sight) => sight,
                Err(error) => {
                    if let Some(finish) = self.blind(&error, began.elapsed())? {
                        step.failed("stopped watching");
                        return Ok(Some(finish));
                    }
                    step.waiting(format!("{error:#}; asking again"));
                    if self.pause().await {
                        step.failed("stopped watching");
                        return Ok(Some(detached("asked to stop")));
                    }
                    continue;
                }
            };
            self.tell(&step, &sight);
            let next = watch::watch(
                &sight.refresh,
                &sight.activities,
                self.crew.settings,
                &self.progress,
                began.elapsed(),
            );
            match next {
                Next::Look(what) => {
                    step.waiting(what.clone());
                    if self.pause().await {
                        step.failed("stopped watching");
                        return Ok(Some(detached(&what)));
                    }
                }
                Next::Test(percent) => self.test(&step, percent).await?,
                Next::Stop(cause) => {
                    self.stop(&mut step, cause).await?;
                    if self.pause().await {
                        step.failed("stopped watching");
                        return Ok(Some(detached("asked the service to stop the refresh")));
                    }
                }
                Next::Verify => {
                    step.done(sight.refresh.status.to_string());
                    return Ok(None);
                }
                Next::Detach => {
                    step.failed("watched long enough");
                    return Ok(Some(detached(&format!(
                        "{} after {} s of watching",
                        watch::waiting_for(&sight.refresh),
                        self.crew.settings.watch_timeout.as_secs()
                    ))));
                }
                Next::End(ending) => {
                    if self.progress.stopped.is_none() {
                        let lost = watch::lost_boxes(&sight.refresh, &sight.activities);
                        for line in last_words(self.crew, &lost).await {
                            step.say(line);
                        }
                    }
                    step.failed(sight.refresh.status.to_string());
                    let reason = sight
                        .refresh
                        .rollback_reason
                        .filter(|reason| !reason.is_empty());
                    return Ok(Some(Finish::Ended {
                        ending,
                        stopped: self.progress.stopped.take(),
                        reason: reason.unwrap_or(sight.refresh.reason),
                    }));
                }
            }
        }
    }

    /// Looks at the refresh, the newest activities and the fleet.
    async fn look(&self) -> Result<Sight> {
        let Crew {
            cloud,
            image,
            settings,
            ..
        } = self.crew;
        let refreshes = cloud.fleet.refreshes(&settings.group).await?;
        let Some(refresh) = refreshes
            .into_iter()
            .find(|refresh| refresh.id == self.course.refresh)
        else {
            anyhow::bail!(
                "the service does not list refresh {} of group {}",
                self.course.refresh,
                settings.group
            );
        };
        Ok(Sight {
            refresh,
            activities: cloud.fleet.activities(&settings.group).await?,
            members: look::members(cloud, image, &settings.group).await?,
        })
    }

    /// What to do when a look fails: `None` is to look again, which throttling, time-outs and the
    /// like never stop; what cannot pass ends the watch, not the refresh.
    fn blind(&self, error: &anyhow::Error, watched: Duration) -> Result<Option<Finish>> {
        let lasting = error
            .downcast_ref::<CloudError>()
            .is_some_and(|error| !passes(error))
            || error.is::<Failure>();
        if lasting {
            return Ok(Some(detached(&format!("{error:#}"))));
        }
        if watched >= self.crew.settings.watch_timeout {
            return Ok(Some(detached(&format!("{error:#}, for too long"))));
        }
        Ok(None)
    }

    /// Waits until the next look; true when the operator wants to go.
    async fn pause(&self) -> bool {
        let pause = tokio::time::sleep(self.crew.settings.poll);
        self.crew.unless_asked(pause).await.is_none()
    }

    /// Tells what is new about members and launches that failed.
    fn tell(&mut self, step: &Step, sight: &Sight) {
        for member in &sight.members {
            let line = show::member(member);
            if self.members.get(&member.instance) != Some(&line) {
                step.say(&line);
                self.members.insert(member.instance.clone(), line);
            }
        }
        let here: BTreeSet<&InstanceId> = sight
            .members
            .iter()
            .map(|member| &member.instance)
            .collect();
        self.members.retain(|instance, _| {
            let stays = here.contains(instance);
            if !stays {
                step.say(format!("{instance} gone"));
            }
            stays
        });
        for activity in sight.activities.iter().rev() {
            let recent =
                sight.refresh.started.is_none() || activity.started >= sight.refresh.started;
            if recent
                && let Some(line) = show::mishap(activity)
                && self.told.insert(activity.id.clone())
            {
                step.say(&line);
            }
        }
    }

    /// Runs the smoke test; failing it stops the refresh at the next turn of the loop.
    async fn test(&mut self, step: &Step, percent: u32) -> Result<()> {
        match smoke(self.crew, &self.course.target, percent).await {
            None => return Ok(()),
            Some(Ok(())) => {
                step.say(format!("smoke test passed at {percent} %"));
                self.progress.tested = percent;
            }
            Some(Err(why)) => {
                step.say(format!("smoke test failed at {percent} %: {why}"));
                self.ask_to_stop(step, Cause::SmokeTest(why)).await?;
            }
        }
        Ok(())
    }

    /// Stops the refresh because of boxes that were lost, with what their agents said.
    async fn stop(&mut self, step: &mut Step, cause: Cause) -> Result<()> {
        if let Cause::LostBoxes(boxes) = &cause {
            step.say(format!(
                "{} boxes of the new version were launched and lost",
                boxes.len()
            ));
            for line in last_words(self.crew, boxes).await {
                step.say(line);
            }
        }
        self.ask_to_stop(step, cause).await
    }

    /// Asks the service to go back, or where it cannot, to leave off. A fault that passes is asked
    /// again at the next turn, as the cause will still be there.
    async fn ask_to_stop(&mut self, step: &Step, cause: Cause) -> Result<()> {
        let Crew {
            cloud, settings, ..
        } = self.crew;
        let mut answer = cloud.fleet.roll_back(&settings.group).await;
        let mut asked = "rolling back";
        if let Err(error) = &answer
            && (is(error, IRREVERSIBLE) || error.kind == Kind::Invalid)
        {
            step.say(format!("{error}; cancelling instead"));
            answer = cloud.fleet.cancel_refresh(&settings.group).await;
            asked = "cancelling";
        }
        match answer {
            Ok(()) => step.say(asked),
            // It ended between our look and our word: the next look tells how.
            Err(error) if is(&error, NO_ACTIVE_REFRESH) => step.say("it has ended already"),
            Err(error) if passes(&error) => {
                step.say(format!("{error}; asking again"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.fact(fact::STOPPED, stopped_because(&cause))?;
        }
        self.progress.stopped = Some(cause);
        Ok(())
    }
}

/// We stopped watching.
fn detached(why: &str) -> Finish {
    Finish::Detached(why.to_owned())
}

/// Why a refresh was stopped, in a few words.
pub(crate) fn stopped_because(cause: &Cause) -> String {
    match cause {
        Cause::LostBoxes(boxes) => {
            format!(
                "{} boxes of the new version were launched and lost",
                boxes.len()
            )
        }
        Cause::SmokeTest(why) => format!("the smoke test failed: {why}"),
    }
}

/// Runs the smoke test for a share of the fleet; `None` when there is none.
pub(crate) async fn smoke(
    crew: &Crew<'_>,
    target: &Target,
    percent: u32,
) -> Option<Result<(), String>> {
    let test = crew.settings.smoke_test.as_ref()?;
    let occasion = Occasion {
        group: crew.settings.group.clone(),
        image: target.image.clone(),
        percent,
    };
    Some(crew.smoke.run(test, &occasion).await)
}

/// What the agents of lost boxes said of themselves: by the registry, else on the console.
pub(crate) async fn last_words(crew: &Crew<'_>, boxes: &[InstanceId]) -> Vec<String> {
    const AGENT: &str = "imagebuilder-agent:";
    let records = look::records(crew.cloud, crew.image)
        .await
        .unwrap_or_default();
    let mut lines = Vec::new();
    for instance in boxes {
        if let Some(record) = records.get(instance) {
            let reason = if record.reason.is_empty() {
                "no reason given"
            } else {
                &record.reason
            };
            lines.push(format!(
                "{instance} {}: {reason}",
                verify::verdict_word(record.verdict)
            ));
            continue;
        }
        // Best effort: a box that is gone may have left nothing.
        let console = crew
            .cloud
            .instances
            .console(instance)
            .await
            .unwrap_or_default();
        match console.lines().rev().find(|line| line.contains(AGENT)) {
            Some(line) => lines.push(format!("{instance} on its console: {}", line.trim())),
            None => lines.push(format!("{instance} left no word")),
        }
    }
    lines
}

/// Looks at the fleet until it is proven, hopeless, or out of time.
pub(crate) async fn prove(crew: &Crew<'_>, target: &Target) -> Result<Finish> {
    let Crew {
        cloud,
        image,
        settings,
        output,
        ..
    } = crew;
    let mut step = output.step(
        "verify",
        format!(
            "verify every member of group {} on version {}",
            settings.group, target.version
        ),
    );
    let began = Instant::now();
    let mut rounds = Rounds::default();
    loop {
        let look = look::fleet(cloud, image, &settings.group);
        let Some(look) = crew.unless_asked(look).await else {
            step.failed("stopped watching");
            return Ok(detached(
                "the refresh is over, its members were being verified",
            ));
        };
        let (flaws, members) = match look {
            Ok(view) => (verify::flaws(&view, target), view.members.len()),
            Err(error) => match error.downcast_ref::<CloudError>() {
                Some(fault) if passes(fault) => {
                    let what = format!("could not be looked at: {fault}");
                    (
                        vec![Flaw {
                            instance: None,
                            what,
                            nature: verify::Nature::Settling,
                        }],
                        0,
                    )
                }
                _ => return Err(error),
            },
        };
        match rounds.observe(&flaws, settings, began.elapsed()) {
            Proof::Proven => {
                step.done(format!("{members} of {members} proven"));
                return Ok(Finish::Proven);
            }
            Proof::GiveUp => {
                for flaw in &flaws {
                    step.say(flaw.to_string());
                }
                step.failed("not proven");
                return Ok(Finish::Unproven(flaws));
            }
            Proof::Again => match flaws.first() {
                None => step.waiting(format!(
                    "good {} of {} times",
                    rounds.good(),
                    settings.healthy_rounds
                )),
                Some(flaw) => step.waiting(flaw.to_string()),
            },
        }
        let pause = tokio::time::sleep(settings.poll);
        if crew.unless_asked(pause).await.is_none() {
            step.failed("stopped watching");
            return Ok(detached(
                "the refresh is over, its members were being verified",
            ));
        }
    }
}

/// Watches somebody else's refresh until the group is free; `Some` when that took too long.
pub(crate) async fn until_free(crew: &Crew<'_>) -> Result<Option<Finish>> {
    let Crew {
        cloud,
        settings,
        output,
        ..
    } = crew;
    let mut step = output.step(
        "wait",
        format!("wait until group {} is free", settings.group),
    );
    let began = Instant::now();
    loop {
        let waiting = match cloud.fleet.refreshes(&settings.group).await {
            Ok(refreshes) => match refreshes.iter().find(|refresh| !refresh.status.is_over()) {
                Some(active) => format!("refresh {}: {}", active.id, watch::waiting_for(active)),
                None => {
                    step.done("free");
                    return Ok(None);
                }
            },
            Err(error) if passes(&error) => format!("{error}; asking again"),
            Err(error) => return Err(error.into()),
        };
        step.waiting(waiting);
        let patient = began.elapsed() < settings.watch_timeout
            && crew
                .unless_asked(tokio::time::sleep(settings.poll))
                .await
                .is_some();
        if !patient {
            step.failed("stopped waiting");
            return Ok(Some(detached(
                "another refresh is still active; nothing was started",
            )));
        }
    }
}
