//! The three verbs, from a request to an exit code: `roll`, `roll watch`, `roll rollback`.
//!
//! Strings the rooms together; what is allowed is decided in [`plan`](super::plan), what is next in
//! [`watch`](super::watch).

use std::path::Path;

use anyhow::{Context as _, Result};
use contract::names::Pointer;

use super::drive::{self, Finish};
use super::plan::{Consent, Decision, Goal, RefusalKind, Target, plan as decide};
use super::pointers::{self, Moved};
use super::start::{self, Course, fact, is, refused};
use super::view::{FleetView, Launches, Refresh, RefreshStatus, SavedVersion};
use super::watch::{self, Cause, Ending};
use super::{Crew, look, show};
use crate::cloud::{IRREVERSIBLE, NO_ACTIVE_REFRESH};
use crate::exit::{Exit, Failure};
use crate::ids::{ImageId, RunId};
use crate::ledger::{Found, Journal, Ledger};

/// What `roll` was asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The image; the pointer `candidate` when left out.
    pub(crate) image: Option<ImageId>,
    /// Dangers that were accepted.
    pub(crate) consents: Vec<Consent>,
    /// What to do when another refresh is active.
    pub(crate) busy: Busy,
    /// How far to go.
    pub(crate) extent: Extent,
}

/// What to do when another refresh is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// End with exit code 16.
    Refuse,
    /// Wait until it is over, then plan.
    Wait,
    /// Watch it as if it were ours, if it goes to the same image.
    Adopt,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Print the plan and stop.
    Plan,
    /// All the way.
    Whole,
}

/// Rolls the fleet onto an image.
pub(crate) async fn roll(crew: &Crew<'_>, request: &Request, runs: &Path) -> Result<Exit> {
    let image = match &request.image {
        Some(image) => image.clone(),
        None => candidate(crew).await?,
    };
    let goal = look::goal(crew.cloud, &image).await?;
    go(crew, &goal, request, runs).await
}

/// The image that was baked last and not rolled yet.
async fn candidate(crew: &Crew<'_>) -> Result<ImageId> {
    crate::pointers::read(crew.cloud, crew.image, Pointer::Candidate)
        .await?
        .ok_or_else(|| {
            Exit::Refused
                .error(format!(
                    "{} points at no image",
                    Pointer::Candidate.parameter(crew.image.as_str())
                ))
                .hint("bake one with `imagebuilder bake`, or name one: imagebuilder roll ami-…")
                .into()
        })
}

/// Plans for a goal and carries the plan out.
async fn go(crew: &Crew<'_>, goal: &Goal, request: &Request, runs: &Path) -> Result<Exit> {
    let Crew {
        cloud,
        image,
        settings,
        output,
        ..
    } = crew;
    loop {
        let step = output.step("look", format!("look at group {}", settings.group));
        let look = look::fleet(cloud, image, &settings.group);
        let Some(view) = crew.unless_asked(look).await.transpose()? else {
            step.failed("stopped");
            return Err(stopped_early().into());
        };
        step.done(format!(
            "{} members, {} desired",
            view.members.len(),
            view.size.desired
        ));
        let plan = match decide(&view, goal, settings, &request.consents) {
            Decision::Roll(plan) => *plan,
            Decision::NothingToDo(target) => return already(crew, &view, target, request).await,
            Decision::Refuse(refusal) => {
                let active = matches!(refusal.kind, RefusalKind::RefreshActive(_));
                match request.busy {
                    Busy::Wait if active => {
                        if let Some(finish) = drive::until_free(crew).await? {
                            return conclude_undriven(crew, finish);
                        }
                        continue;
                    }
                    Busy::Adopt if active => {
                        if let Some(course) = adoptable(&view, &goal.image) {
                            output.say(format!("adopting refresh {}", course.refresh));
                            return onward(crew, &course, None).await;
                        }
                    }
                    Busy::Refuse | Busy::Wait | Busy::Adopt => {}
                }
                return Err(refused(refusal.kind, refusal.reason, refusal.hint).into());
            }
        };
        for line in show::plan(&plan) {
            output.say(line);
        }
        if request.extent == Extent::Plan {
            if output.wants_json() {
                output.json(&show::plan_data(&plan))?;
            }
            return Ok(Exit::Done);
        }
        if crew.cancel.is_asked() {
            return Err(stopped_early().into());
        }
        let mut ledger = Ledger::begin(runs, run_id()?, "roll", image.as_str(), &cloud.region)?;
        let course = match start::start(crew, &plan, goal, &request.consents, &mut ledger).await {
            Ok(course) => course,
            Err(error) => {
                ledger.end(&format!("not started: {error:#}"))?;
                return Err(error);
            }
        };
        return onward(crew, &course, Some(ledger)).await;
    }
}

/// The operator asked to stop while there was nothing to detach from.
fn stopped_early() -> Failure {
    Exit::Cancelled.error("stopped before anything was changed")
}

/// The group is where it should be: prove it, and mend the pointers if they lag.
async fn already(
    crew: &Crew<'_>,
    view: &FleetView,
    target: Target,
    request: &Request,
) -> Result<Exit> {
    crew.output.say(format!(
        "nothing to do: group {} is on version {} with {}, and so is every member that can be replaced",
        view.group, target.version, target.image
    ));
    if request.extent == Extent::Plan {
        if crew.output.wants_json() {
            crew.output
                .json(&show::nothing_to_do(&view.group, &target))?;
        }
        return Ok(Exit::Done);
    }
    let finish = drive::prove(crew, &target).await?;
    let refresh = view
        .refresh
        .as_ref()
        .map(|refresh| refresh.id.clone())
        .unwrap_or_default();
    let course = Course {
        refresh,
        target,
        previous: None,
    };
    conclude(crew, &course, finish, None).await
}

/// The active refresh as our own, if it goes to this image.
fn adoptable(view: &FleetView, image: &ImageId) -> Option<Course> {
    let course = course_of(view, view.active_refresh()?, None)?;
    (course.target.image == *image).then_some(course)
}

/// A refresh as something to watch: its target with the image in it, and where it came from by the
/// journal, else by how the group is still saved while it runs.
fn course_of(view: &FleetView, refresh: &Refresh, journal: Option<&Journal>) -> Option<Course> {
    let Launches::Template(template) = &view.launches else {
        return None;
    };
    let target_of = |id: &str, version: u64| {
        let image = template.version(version)?.image.literal()?.clone();
        (template.id == id).then(|| Target {
            template_id: id.to_owned(),
            version,
            image,
        })
    };
    let desired = refresh.desired.as_ref()?;
    let saved = match template.saved {
        SavedVersion::Number(number) if number != desired.version => {
            target_of(&template.id, number)
        }
        SavedVersion::Number(_) | SavedVersion::Latest | SavedVersion::Default => None,
    };
    Some(Course {
        refresh: refresh.id.clone(),
        target: target_of(&desired.id, desired.version)?,
        previous: journal
            .and_then(|journal| recorded(journal, fact::PREVIOUS))
            .or(saved),
    })
}

/// A target in a journal.
fn recorded(journal: &Journal, name: &str) -> Option<Target> {
    journal
        .facts
        .get(name)
        .and_then(|text| Target::from_record(text))
}

/// Drives a refresh and says how it ended.
async fn onward(crew: &Crew<'_>, course: &Course, mut ledger: Option<Ledger>) -> Result<Exit> {
    let finish = drive::drive(crew, course, ledger.as_mut()).await?;
    conclude(crew, course, finish, ledger).await
}

/// Goes on with the active refresh, or looks what became of the last one.
pub(crate) async fn watch(crew: &Crew<'_>, runs: &Path) -> Result<Exit> {
    let view = look::fleet(crew.cloud, crew.image, &crew.settings.group).await?;
    let group = &view.group;
    let Some(refresh) = &view.refresh else {
        return Err(Exit::Refused
            .error(format!(
                "group {group} has had no refresh in the last six weeks"
            ))
            .hint("start one with `imagebuilder roll`")
            .into());
    };
    crew.output
        .say(format!("refresh {} of group {group}", refresh.id));
    let ledger = journal_of(crew, runs, refresh)?;
    let Some(course) = course_of(&view, refresh, ledger.as_ref().map(Ledger::journal)) else {
        return Err(Exit::Refused
            .error(format!(
                "refresh {} of group {group} ({}) goes to no numbered version of its launch template, \
                 so its outcome cannot be proven",
                refresh.id, refresh.status
            ))
            .hint("start a roll of your own with `imagebuilder roll` when it is over")
            .into());
    };
    onward(crew, &course, ledger).await
}

/// The journal of the run that started a refresh, unless its process lives or it ran elsewhere. A
/// run killed before it heard the refresh's id is known by the version it was going to.
fn journal_of(crew: &Crew<'_>, runs: &Path, refresh: &Refresh) -> Result<Option<Ledger>> {
    let ours = Ledger::all(runs)?
        .into_iter()
        .rev()
        .find_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => {
                let facts = &ledger.journal().facts;
                let group = facts
                    .get(fact::GROUP)
                    .is_some_and(|group| *group == crew.settings.group.as_str());
                let id = match facts.get(fact::REFRESH) {
                    Some(id) => *id == refresh.id,
                    None => {
                        let target = recorded(ledger.journal(), fact::TARGET);
                        facts.contains_key(fact::INTENDED)
                            && target.map(|target| target.reference()) == refresh.desired
                    }
                };
                (group && id).then_some(ledger)
            }
        });
    let Some(mut ledger) = ours else {
        return Ok(None);
    };
    ledger.fact(fact::REFRESH, refresh.id.as_str())?;
    Ok(Some(*ledger))
}

/// Brings the fleet back: by the active refresh if there is one, else by a new one.
pub(crate) async fn rollback(crew: &Crew<'_>, request: &Request, runs: &Path) -> Result<Exit> {
    let view = look::fleet(crew.cloud, crew.image, &crew.settings.group).await?;
    if let Some(active) = view.active_refresh()
        && let Some(exit) = turn_around(crew, &view, active, request, runs).await?
    {
        return Ok(exit);
    }
    let mut goal = way_back(crew, &view, runs).await?;
    // It has served before: that is proof enough to go back to.
    goal.proof = super::plan::Proof::Fit;
    go(crew, &goal, request, runs).await
}

/// Rolls the active refresh back and watches it; `None` when it ended before it could be.
async fn turn_around(
    crew: &Crew<'_>,
    view: &FleetView,
    active: &Refresh,
    request: &Request,
    runs: &Path,
) -> Result<Option<Exit>> {
    let group = &view.group;
    crew.output.say(format!(
        "refresh {} of group {group} is active ({}, {} %): rolling it back",
        active.id, active.status, active.percent
    ));
    if request.extent == Extent::Plan {
        return Ok(Some(Exit::Done));
    }
    if active.status != RefreshStatus::RollbackInProgress {
        match crew.cloud.fleet.roll_back(group).await {
            Ok(()) => {}
            Err(error) if is(&error, NO_ACTIVE_REFRESH) => return Ok(None),
            Err(error) if is(&error, IRREVERSIBLE) => {
                return Err(Exit::Refused
                    .error(format!("refresh {} of group {group} cannot be rolled back", active.id))
                    .hint(format!(
                        "cancel it (aws autoscaling cancel-instance-refresh --auto-scaling-group-name {group}), \
                         then roll the image you want back: imagebuilder roll ami-…"
                    ))
                    .because(error)
                    .into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut ledger = journal_of(crew, runs, active)?;
    let course =
        course_of(view, active, ledger.as_ref().map(Ledger::journal)).with_context(|| {
            format!(
                "refresh {} goes to no numbered version of the group's template",
                active.id
            )
        })?;
    match drive::drive(crew, &course, ledger.as_mut()).await? {
        Finish::Ended {
            ending: Ending::RolledBack,
            ..
        } => {
            let back = back_on(crew, &course).await?;
            end(ledger, "rolled back on request")?;
            crew.output.say(back);
            Ok(Some(Exit::Done))
        }
        // It was faster than our word: go back from where it ended.
        Finish::Proven | Finish::Unproven(_) => Ok(None),
        finish => conclude(crew, &course, finish, ledger).await.map(Some),
    }
}

/// What to go back to: by the newest journal of a roll to what the group is on now, else by the
/// pointer `previous`.
async fn way_back(crew: &Crew<'_>, view: &FleetView, runs: &Path) -> Result<Goal> {
    let now = match &view.launches {
        Launches::Template(template) => Some((template.id.as_str(), template.number())),
        Launches::Configuration { .. } | Launches::Mixed { .. } => None,
    };
    let recorded = Ledger::all(runs)?
        .into_iter()
        .rev()
        .find_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => {
                let target = recorded(ledger.journal(), fact::TARGET)?;
                let here = Some((target.template_id.as_str(), target.version)) == now;
                here.then(|| recorded(ledger.journal(), fact::PREVIOUS))
                    .flatten()
            }
        });
    if let Some(previous) = recorded {
        let mut goal = look::goal(crew.cloud, &previous.image).await?;
        goal.version = Some(previous.version);
        return Ok(goal);
    }
    match crate::pointers::read(crew.cloud, crew.image, Pointer::Previous).await? {
        Some(image) => look::goal(crew.cloud, &image).await,
        None => Err(Exit::Refused
            .error(format!(
                "nothing is known of what group {} ran before: no run recorded it, and {} does not exist",
                view.group,
                Pointer::Previous.parameter(crew.image.as_str())
            ))
            .hint("name the image to go back to: imagebuilder roll ami-…")
            .into()),
    }
}

/// Proves that the fleet is back, and says so.
async fn back_on(crew: &Crew<'_>, course: &Course) -> Result<String> {
    let Some(previous) = &course.previous else {
        return Ok(
            "the service has rolled back; where to is not known here, so it was not verified"
                .into(),
        );
    };
    Ok(match drive::prove(crew, previous).await? {
        Finish::Proven => {
            format!(
                "all members are back on version {} with {}",
                previous.version, previous.image
            )
        }
        _ => format!(
            "not every member could be proven to be back on version {} with {}",
            previous.version, previous.image
        ),
    })
}

/// Turns the end of a drive into pointers, words and an exit code.
async fn conclude(
    crew: &Crew<'_>,
    course: &Course,
    finish: Finish,
    ledger: Option<Ledger>,
) -> Result<Exit> {
    let group = &crew.settings.group;
    let Course {
        refresh,
        target,
        previous,
    } = course;
    let failure = match finish {
        Finish::Proven => match drive::smoke(crew, target, 100).await {
            None | Some(Ok(())) => return proven(crew, course, ledger).await,
            Some(Err(why)) => return go_back(crew, course, why, ledger).await,
        },
        Finish::Unproven(flaws) => Exit::Unverified
            .error(format!(
                "refresh {refresh} of group {group} is finished, but the fleet is not proven: {}",
                flaws.first().map(ToString::to_string).unwrap_or_default()
            ))
            .hint(
                "verify again: imagebuilder roll watch\nbring it back: imagebuilder roll rollback",
            ),
        Finish::Detached(_) => return conclude_undriven(crew, finish),
        Finish::Ended {
            ending,
            stopped,
            reason,
        } => {
            let back = match ending {
                Ending::RolledBack => Some(back_on(crew, course).await?),
                Ending::Failed | Ending::RollbackFailed | Ending::Cancelled => None,
            };
            if let Some(back) = back {
                crew.output.say(back);
            }
            ended(
                course,
                group.as_str(),
                ending,
                stopped.as_ref(),
                &reason,
                previous.as_ref(),
            )
        }
    };
    end(ledger, &failure.to_string())?;
    Err(failure.into())
}

/// We stopped watching: that is not the end of the run, so its journal stays open.
fn conclude_undriven(crew: &Crew<'_>, finish: Finish) -> Result<Exit> {
    let group = &crew.settings.group;
    let why = match finish {
        Finish::Detached(why) => why,
        _ => String::new(),
    };
    Err(Exit::WatchTimedOut
        .error(format!(
            "stopped watching group {group}, which goes on by itself: {why}"
        ))
        .hint(show::detached(group))
        .into())
}

/// The failure of a refresh that ended badly.
fn ended(
    course: &Course,
    group: &str,
    ending: Ending,
    stopped: Option<&Cause>,
    reason: &str,
    previous: Option<&Target>,
) -> Failure {
    let Course {
        refresh, target, ..
    } = course;
    let how = match ending {
        Ending::RolledBack => match previous {
            Some(previous) => format!("was rolled back to version {}", previous.version),
            None => "was rolled back".into(),
        },
        Ending::Failed => "failed and was not rolled back".into(),
        Ending::RollbackFailed => "failed, and so did rolling it back".into(),
        Ending::Cancelled => "was cancelled, its members are mixed".into(),
    };
    let why = match stopped {
        Some(cause) => drive::stopped_because(cause),
        None if reason.trim().is_empty() => "the service gives no reason".into(),
        None => reason.trim().to_owned(),
    };
    let failure = watch::exit(ending, stopped).error(format!(
        "refresh {refresh} of group {group} to {} {how}: {why}",
        target.image
    ));
    match ending {
        Ending::RolledBack => failure.hint("mend the image and bake again; the pointers were not touched"),
        Ending::Failed | Ending::Cancelled => {
            failure.hint("see the members: imagebuilder status\nbring them back: imagebuilder roll rollback")
        }
        Ending::RollbackFailed => failure.hint(
            "see the members: imagebuilder status\nif the old version cannot launch any more, roll one that can",
        ),
    }
}

/// A proven roll: move the pointers and print the image.
async fn proven(crew: &Crew<'_>, course: &Course, ledger: Option<Ledger>) -> Result<Exit> {
    let Crew {
        cloud,
        image,
        output,
        ..
    } = crew;
    let target = &course.target;
    let before = course.previous.as_ref().map(|previous| &previous.image);
    let step = output.step("pointers", "move the pointers");
    match pointers::advance(cloud, image, &target.image, before).await? {
        Moved::Unchanged => step.done(format!("current was {} already", target.image)),
        Moved::Moved {
            previous: Some(previous),
        } => {
            step.done(format!("current {}, previous {previous}", target.image));
        }
        Moved::Moved { previous: None } => step.done(format!("current {}", target.image)),
    }
    end(ledger, "done")?;
    output.data(target.image.as_str())?;
    Ok(Exit::Done)
}

/// The last smoke test failed when the refresh was over: go back by a refresh of its own.
async fn go_back(
    crew: &Crew<'_>,
    course: &Course,
    why: String,
    ledger: Option<Ledger>,
) -> Result<Exit> {
    let group = &crew.settings.group;
    crew.output
        .say(format!("smoke test failed at the end: {why}"));
    let (Some(previous), Some(mut ledger)) = (&course.previous, ledger) else {
        return Err(Exit::SmokeTestFailed
            .error(format!(
                "the smoke test of group {group} on {} failed: {why}",
                course.target.image
            ))
            .hint("bring the fleet back: imagebuilder roll rollback")
            .into());
    };
    ledger.fact(
        fact::STOPPED,
        drive::stopped_because(&Cause::SmokeTest(why.clone())),
    )?;
    let mut goal = look::goal(crew.cloud, &previous.image).await?;
    goal.version = Some(previous.version);
    let consents = [Consent::Unproven, Consent::Irreversible, Consent::NoGate];
    let view = look::fleet(crew.cloud, crew.image, group).await?;
    let finish = match decide(&view, &goal, crew.settings, &consents) {
        Decision::Refuse(refusal) => {
            return Err(refused(refusal.kind, refusal.reason, refusal.hint).into());
        }
        Decision::NothingToDo(_) => drive::prove(crew, previous).await?,
        Decision::Roll(plan) => {
            let back = start::start(crew, &plan, &goal, &consents, &mut ledger).await?;
            drive::drive(crew, &back, Some(&mut ledger)).await?
        }
    };
    let failure = match finish {
        Finish::Proven => Exit::SmokeTestFailed.error(format!(
            "the smoke test of group {group} on {} failed ({why}); all members are back on version {} with {}",
            course.target.image, previous.version, previous.image
        )),
        Finish::Detached(_) => return conclude_undriven(crew, finish),
        Finish::Unproven(_) | Finish::Ended { .. } => Exit::RollbackFailed
            .error(format!(
                "the smoke test of group {group} on {} failed ({why}), and so did bringing it back to {}",
                course.target.image, previous.image
            ))
            .hint("see the members: imagebuilder status"),
    };
    end(Some(ledger), &failure.to_string())?;
    Err(failure.into())
}

/// Records how a run ended.
fn end(ledger: Option<Ledger>, outcome: &str) -> Result<()> {
    match ledger {
        Some(mut ledger) => ledger.end(outcome),
        None => Ok(()),
    }
}

/// A fresh run id.
fn run_id() -> Result<RunId> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).context("draw randomness for the run's id")?;
    Ok(crate::image::run_id(
        "roll",
        jiff::Timestamp::now(),
        u32::from_ne_bytes(bytes),
    ))
}
