//! The three verbs, from a request to an exit code: `roll`, `roll watch`, `roll rollback`.
//!
//! Calls the other modules in order; [`plan`](super::plan) decides what is allowed, and what is next is decided in
//! [`watch`](super::watch).

use std::path::Path;

use anyhow::{Context as _, Result};
use contract::names::Pointer;

use super::before::{self, Pointed, Recorded, RollbackTarget};
use super::blame::{Lost, Reason};
use super::drive::{self, Finish};
use super::limits::limits;
use super::plan::{
    Consent, Decision, Direction, Goal, RefusalKind, Target, plan as decide, preferences,
};
use super::pointers::{self, Moved};
use super::preflight;
use super::run::{RefreshRun, fact};
use super::start::{self, refused};
use super::view::{FleetView, Launches, Refresh, RefreshStatus};
use super::watch::{self, Cause, Ending};
use super::{RollContext, observe, show, versions};
use crate::advice::quoted;
use crate::exit::{Exit, Failure};
use crate::ledger::{Found, Journal, Ledger};
use crate::permissions::Verb;
use cloud::ids::{ImageId, RunId};
use cloud::{IRREVERSIBLE, Kind, NO_ACTIVE_REFRESH};

/// The arguments of `roll`.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The image; the pointer `candidate` when left out.
    pub(crate) image: Option<ImageId>,
    /// Risks that were accepted by flags.
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
    /// Watch it as if this run had started it, if its target is the same image.
    Adopt,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Print the plan and stop.
    Plan,
    /// Carry it out.
    Whole,
}

/// Rolls the fleet onto an image.
pub(crate) async fn roll(
    context: &RollContext<'_>,
    request: &Request,
    runs: &Path,
) -> Result<Exit> {
    let image = match &request.image {
        Some(image) => image.clone(),
        None => preflight::explain_denial(context, Verb::Roll, candidate(context).await).await?,
    };
    let goal = observe::goal(context.cloud, &image).await;
    let goal = preflight::explain_denial(context, Verb::Roll, goal).await?;
    plan_and_start(context, &goal, request, runs).await
}

/// The image that was baked last and not rolled yet.
async fn candidate(context: &RollContext<'_>) -> Result<ImageId> {
    crate::pointers::read(context.cloud, context.image, Pointer::Candidate)
        .await?
        .ok_or_else(|| {
            Exit::Refused
                .error(format!(
                    "{} points at no image",
                    Pointer::Candidate.parameter(context.image.as_str())
                ))
                .hint("bake one with `imagebuilder bake`, or name one: imagebuilder roll ami-…")
                .into()
        })
}

/// Plans for a goal and carries the plan out.
async fn plan_and_start(
    context: &RollContext<'_>,
    goal: &Goal,
    request: &Request,
    runs: &Path,
) -> Result<Exit> {
    let RollContext {
        cloud,
        image,
        settings,
        output,
        ..
    } = context;
    loop {
        let step = output.step("look", format!("read group {}", settings.group));
        let observe = observe::fleet(cloud, image, &settings.group);
        let explain_denial = context.unless_cancelled(observe).await.transpose();
        let verb = match goal.direction {
            Direction::Forward => Verb::Roll,
            Direction::Back => Verb::RollbackRefresh,
        };
        let Some(view) = preflight::explain_denial(context, verb, explain_denial).await? else {
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
            Decision::NothingToDo(target) => {
                return nothing_to_do(context, &view, target, goal.direction, request).await;
            }
            Decision::Refuse(refusal) => {
                let active = matches!(refusal.kind, RefusalKind::RefreshActive(_));
                match request.busy {
                    Busy::Wait if active => {
                        let limits = limits(&view, settings, &preferences(&view, settings));
                        if let Some(active) = drive::until_free(context, limits.watch).await? {
                            return Err(wait_timed_out(context, &active).into());
                        }
                        continue;
                    }
                    Busy::Adopt if active => {
                        if let Some(run) = adoptable(context, &view, &goal.image) {
                            output.info(format!("adopting refresh {}", run.refresh));
                            preflight::warn(context, &[Verb::Watch], &view).await;
                            return drive_and_conclude(context, &run, None).await;
                        }
                    }
                    Busy::Refuse | Busy::Wait | Busy::Adopt => {}
                }
                return Err(refused(refusal.kind, refusal.reason, refusal.hint).into());
            }
        };
        for line in show::plan(&plan) {
            output.info(line);
        }
        preflight::refuse(context, &plan).await?;
        if request.extent == Extent::Plan {
            if output.wants_json() {
                output.json(&show::plan_data(&plan))?;
            }
            return Ok(Exit::Done);
        }
        if context.cancel.is_requested() {
            return Err(stopped_early().into());
        }
        let mut ledger = Ledger::begin(runs, run_id()?, "roll", image.as_str(), &cloud.region)?;
        let run = match start::start(context, &plan, goal, &request.consents, &mut ledger).await {
            Ok(run) => run,
            Err(error) => {
                ledger.end(&format!("not started: {error:#}"))?;
                return Err(error);
            }
        };
        return drive_and_conclude(context, &run, Some(ledger)).await;
    }
}

/// The operator requested a stop before a refresh was started.
fn stopped_early() -> Failure {
    Exit::Cancelled.error("stopped before anything was changed")
}

/// Another refresh was still active when the time limit was reached, or a stop was requested.
fn wait_timed_out(context: &RollContext<'_>, active: &str) -> Failure {
    let exit = if context.cancel.is_requested() {
        Exit::Cancelled
    } else {
        Exit::WatchTimedOut
    };
    exit.error(format!(
        "stopped waiting for group {}: {active}; nothing was started",
        context.settings.group
    ))
    .hint("wait again: imagebuilder roll --wait\nwatch it: imagebuilder roll watch")
}

/// The group is on its target: verify it, and move the pointers if they are behind.
async fn nothing_to_do(
    context: &RollContext<'_>,
    view: &FleetView,
    target: Target,
    direction: Direction,
    request: &Request,
) -> Result<Exit> {
    context.output.info(format!(
        "nothing to do: group {} is on version {} with {}, and so is every member that can be replaced",
        view.group, target.version, target.image
    ));
    let current = crate::pointers::read(context.cloud, context.image, Pointer::Current).await;
    if !matches!(current, Ok(Some(current)) if current == target.image) {
        preflight::warn(context, &[Verb::Verify], view).await;
    }
    if request.extent == Extent::Plan {
        if context.output.wants_json() {
            context
                .output
                .json(&show::nothing_to_do(&view.group, &target))?;
        }
        return Ok(Exit::Done);
    }
    let run = RefreshRun {
        refresh: view
            .refresh
            .as_ref()
            .map(|refresh| refresh.id.clone())
            .unwrap_or_default(),
        target,
        previous: None,
        direction,
        limits: limits(view, context.settings, &preferences(view, context.settings)),
    };
    let finish = drive::verify_fleet(context, &run.target, run.limits).await?;
    conclude(context, &run, finish, None).await
}

/// The active refresh as our own, if its target is this image.
fn adoptable(context: &RollContext<'_>, view: &FleetView, image: &ImageId) -> Option<RefreshRun> {
    let run = run_of(
        context,
        view,
        view.active_refresh()?,
        None,
        Direction::Forward,
    )?;
    (run.target.image == *image).then_some(run)
}

/// A refresh as something to watch: its target with the image in it, and the version that it replaces.
fn run_of(
    context: &RollContext<'_>,
    view: &FleetView,
    refresh: &Refresh,
    recorded: Option<&Recorded>,
    direction: Direction,
) -> Option<RefreshRun> {
    let Launches::Template(template) = &view.launches else {
        return None;
    };
    let desired = refresh.desired.as_ref()?;
    let version = template.version(desired.version)?;
    (template.id == desired.id).then_some(())?;
    Some(RefreshRun {
        refresh: refresh.id.clone(),
        target: Target {
            template_id: template.id.clone(),
            version: desired.version,
            image: version.image.literal()?.clone(),
        },
        previous: before::origin(template, refresh, recorded),
        direction,
        limits: limits(view, context.settings, &preferences(view, context.settings)),
    })
}

/// A journal's record of a refresh; `None` when it has no target.
fn recorded_of(journal: &Journal) -> Option<Recorded> {
    Some(Recorded {
        refresh: journal.facts.get(fact::REFRESH).cloned(),
        target: recorded(journal, fact::TARGET)?,
        previous: recorded(journal, fact::PREVIOUS),
        back: journal.facts.contains_key(fact::BACK),
    })
}

/// The pointers that matter to a rollback.
async fn pointed(context: &RollContext<'_>) -> Result<Pointed> {
    Ok(Pointed {
        current: crate::pointers::read(context.cloud, context.image, Pointer::Current).await?,
        previous: crate::pointers::read(context.cloud, context.image, Pointer::Previous).await?,
    })
}

/// A target in a journal.
fn recorded(journal: &Journal, name: &str) -> Option<Target> {
    journal
        .facts
        .get(name)
        .and_then(|text| Target::from_record(text))
}

/// Drives a refresh and reports how it ended.
async fn drive_and_conclude(
    context: &RollContext<'_>,
    run: &RefreshRun,
    mut ledger: Option<Ledger>,
) -> Result<Exit> {
    let finish = drive::drive(context, run, ledger.as_mut()).await?;
    conclude(context, run, finish, ledger).await
}

/// Watches the active refresh, or reports how the last one ended.
pub(crate) async fn watch(context: &RollContext<'_>, runs: &Path) -> Result<Exit> {
    let view = observe::fleet(context.cloud, context.image, &context.settings.group).await;
    let view = preflight::explain_denial(context, Verb::Watch, view).await?;
    let group = &view.group;
    let Some(refresh) = &view.refresh else {
        return Err(Exit::Refused
            .error(format!(
                "group {group} has had no refresh in the last six weeks"
            ))
            .hint("start one with `imagebuilder roll`")
            .into());
    };
    context
        .output
        .info(format!("refresh {} of group {group}", refresh.id));
    let ledger = journal_of(context, runs, refresh)?;
    let recorded = ledger.as_ref().map(Ledger::journal).and_then(recorded_of);
    let mut run = run_of(
        context,
        &view,
        refresh,
        recorded.as_ref(),
        Direction::Forward,
    );
    if let Some(run) = &mut run {
        run.direction = match recorded {
            Some(recorded) if recorded.back => Direction::Back,
            Some(_) => Direction::Forward,
            // Not recorded here: a refresh to an image that has served before is a rollback.
            None => {
                let pointed = pointed(context).await;
                let pointed = preflight::explain_denial(context, Verb::Watch, pointed).await?;
                let served = [pointed.current, pointed.previous];
                if served.contains(&Some(run.target.image.clone())) {
                    Direction::Back
                } else {
                    Direction::Forward
                }
            }
        };
    }
    if let Launches::Deleted { id, name } = &view.launches {
        return Err(template_gone(group.as_str(), id, name).into());
    }
    let Some(run) = run else {
        return Err(Exit::Refused
            .error(format!(
                "refresh {} of group {group} ({}) has no numbered version of its launch template as its target, \
                 so its outcome cannot be verified",
                refresh.id, refresh.status
            ))
            .hint("start a roll of your own with `imagebuilder roll` when it is over")
            .into());
    };
    // With a recorded run, a smoke test that fails at the end starts a rollback.
    let may_go_back = context.settings.smoke_test.is_some()
        && run.direction == Direction::Forward
        && ledger.is_some();
    let verbs = [Verb::Watch, Verb::RollbackRefresh];
    let verbs = if may_go_back { &verbs[..] } else { &verbs[..1] };
    preflight::warn(context, verbs, &view).await;
    drive_and_conclude(context, &run, ledger).await
}

/// The journal of the run that started a refresh, unless its process is running or it ran elsewhere. A
/// run killed before it received the refresh's id is found by the version that was its target.
fn journal_of(context: &RollContext<'_>, runs: &Path, refresh: &Refresh) -> Result<Option<Ledger>> {
    let ours = Ledger::all(runs)?
        .into_iter()
        .rev()
        .find_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => {
                let facts = &ledger.journal().facts;
                let group = facts
                    .get(fact::GROUP)
                    .is_some_and(|group| *group == context.settings.group.as_str());
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

/// Brings the fleet back to the version before: see [`before`].
pub(crate) async fn rollback(
    context: &RollContext<'_>,
    request: &Request,
    runs: &Path,
) -> Result<Exit> {
    let group = &context.settings.group;
    // A refresh that ends while it is being rolled back is observed again.
    for _ in 0..ROLLBACK_ATTEMPTS {
        let view = observe::fleet(context.cloud, context.image, group).await;
        let view = preflight::explain_denial(context, Verb::Rollback, view).await?;
        let recorded = all_recorded(context, runs)?;
        // An active refresh is rolled back by the service, whatever the pointers are.
        let pointed = match view.active_refresh() {
            Some(_) => Pointed::default(),
            None => {
                preflight::explain_denial(context, Verb::RollbackRefresh, pointed(context).await)
                    .await?
            }
        };
        let (image, version) = match before::rollback_target(&view, &recorded, &pointed) {
            RollbackTarget::Service => {
                let Some(active) = view.active_refresh() else {
                    continue;
                };
                match roll_back_active(context, &view, active, request, runs).await? {
                    Some(exit) => return Ok(exit),
                    None => continue,
                }
            }
            RollbackTarget::Saved(to) => {
                context.output.info(format!(
                    "the last refresh of group {group} ended half-way: rolling back to version {}, which the group is saved on",
                    to.version
                ));
                (to.image, Some(to.version))
            }
            RollbackTarget::Recorded(to) => (to.image, Some(to.version)),
            RollbackTarget::Pointed(image) => (image, None),
            RollbackTarget::Done(to) => {
                context
                    .output
                    .info(format!("group {group} was rolled back already"));
                return nothing_to_do(context, &view, to, Direction::Back, request).await;
            }
            RollbackTarget::Unknown => {
                if let Launches::Deleted { id, name } = &view.launches {
                    return Err(template_gone(group.as_str(), id, name).into());
                }
                return Err(Exit::Refused
                    .error(format!(
                        "it is unknown what group {group} ran before: no refresh is half-way, no run here recorded the \
                         last one, and {} does not exist",
                        Pointer::Previous.parameter(context.image.as_str())
                    ))
                    .hint("name the image to roll back to: imagebuilder roll ami-…")
                    .into());
            }
        };
        let goal = observe::goal(context.cloud, &image).await;
        let mut goal = preflight::explain_denial(context, Verb::RollbackRefresh, goal).await?;
        goal.version = version;
        goal.direction = Direction::Back;
        return plan_and_start(context, &goal, request, runs).await;
    }
    Err(Exit::RefreshActive
        .error(format!(
            "group {group} changes faster than it can be rolled back: one refresh follows another"
        ))
        .hint("watch them: imagebuilder roll watch")
        .into())
}

/// The group's launch template was deleted: nothing can be launched, forward or back.
fn template_gone(group: &str, id: &str, name: &str) -> Failure {
    Exit::Refused
        .error(format!(
            "group {group} launches from launch template {name} ({id}), which does not exist any more"
        ))
        .hint(
            "see the members: imagebuilder status\ncreate the template again, and give the group a version of it \
             (aws autoscaling update-auto-scaling-group)",
        )
}

/// How often a rollback starts over because a refresh ended before the call.
const ROLLBACK_ATTEMPTS: u32 = 3;

/// The records of ended runs in this folder about refreshes of this group, newest first.
fn all_recorded(context: &RollContext<'_>, runs: &Path) -> Result<Vec<Recorded>> {
    Ok(Ledger::all(runs)?
        .into_iter()
        .rev()
        .filter_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => Some(ledger),
        })
        .filter(|ledger| {
            let group = ledger.journal().facts.get(fact::GROUP);
            group.is_some_and(|group| *group == context.settings.group.as_str())
        })
        .filter_map(|ledger| recorded_of(ledger.journal()))
        .collect())
}

/// Rolls the active refresh back and watches it; `None` when it ended before it could be.
async fn roll_back_active(
    context: &RollContext<'_>,
    view: &FleetView,
    active: &Refresh,
    request: &Request,
    runs: &Path,
) -> Result<Option<Exit>> {
    let group = &view.group;
    context.output.info(format!(
        "refresh {} of group {group} is active ({}, {} %): rolling it back",
        active.id, active.status, active.percent
    ));
    preflight::warn(context, &[Verb::Rollback], view).await;
    if request.extent == Extent::Plan {
        return Ok(Some(Exit::Done));
    }
    if active.status != RefreshStatus::RollbackInProgress {
        match context.cloud.fleet.roll_back(group).await {
            Ok(()) => {}
            Err(error) if error.has_code(NO_ACTIVE_REFRESH) => return Ok(None),
            Err(error) if error.has_code(IRREVERSIBLE) => {
                return Err(Exit::Refused
                    .error(format!("refresh {} of group {group} cannot be rolled back", active.id))
                    .hint(format!(
                        "cancel it (aws autoscaling cancel-instance-refresh --auto-scaling-group-name {}), \
                         then roll the image you want: imagebuilder roll ami-…",
                        quoted(group.as_str())
                    ))
                    .because(error)
                    .into());
            }
            Err(error) if error.kind == Kind::Denied => {
                return Err(Exit::Refused
                    .error(format!("you are not allowed to roll back refresh {} of group {group}, which continues", active.id))
                    .hint("allow autoscaling:RollbackInstanceRefresh to the caller that `imagebuilder doctor` names")
                    .because(error)
                    .into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut ledger = journal_of(context, runs, active)?;
    let recorded = ledger.as_ref().map(Ledger::journal).and_then(recorded_of);
    let run =
        run_of(context, view, active, recorded.as_ref(), Direction::Back).with_context(|| {
            format!(
                "refresh {} has no numbered version of the group's template as its target",
                active.id
            )
        })?;
    match drive::drive(context, &run, ledger.as_mut()).await? {
        Finish::Ended {
            ending: Ending::RolledBack,
            ..
        } => match verify_rollback(context, &run).await? {
            Rollback::Verified(text) => {
                end(ledger, "rolled back on request")?;
                context.output.info(text);
                Ok(Some(Exit::Done))
            }
            Rollback::Unverified(text) => {
                let failure = Exit::Unverified
                    .error(format!("refresh {} of group {group} was rolled back, but {text}", run.refresh))
                    .hint("see the members: imagebuilder status\nverify again: imagebuilder roll rollback");
                end(ledger, &failure.to_string())?;
                Err(failure.into())
            }
            Rollback::Detached(why) => still_running(context, &why),
        },
        // It ended before our call: roll back from its final state.
        Finish::Verified | Finish::Unverified(_) => Ok(None),
        finish => conclude(context, &run, finish, ledger).await.map(Some),
    }
}

/// Whether a fleet that the service rolled back is verified on the version before.
enum Rollback {
    /// It is, as text.
    Verified(String),
    /// It is not verified: why.
    Unverified(String),
    /// We stopped watching.
    Detached(String),
}

/// Verifies that the fleet is on the version before.
async fn verify_rollback(context: &RollContext<'_>, run: &RefreshRun) -> Result<Rollback> {
    let Some(previous) = &run.previous else {
        return Ok(Rollback::Unverified(
            "the version it was rolled back to is not known here, so it is not verified".into(),
        ));
    };
    let to = format!("version {} with {}", previous.version, previous.image);
    Ok(
        match drive::verify_fleet(context, previous, run.limits).await? {
            Finish::Verified => Rollback::Verified(format!("all members are back on {to}")),
            Finish::Unverified(flaws) => Rollback::Unverified(format!(
                "not every member is verified to be back on {to}: {flaws}"
            )),
            Finish::Missing(what) => Rollback::Unverified(what),
            Finish::Detached(why) => Rollback::Detached(why),
            // Verifying ends no refresh.
            Finish::Ended { reason, .. } => Rollback::Unverified(reason),
        },
    )
}

/// Turns the end of a watch into pointers, messages and an exit code.
async fn conclude(
    context: &RollContext<'_>,
    run: &RefreshRun,
    finish: Finish,
    ledger: Option<Ledger>,
) -> Result<Exit> {
    let group = &context.settings.group;
    let RefreshRun {
        refresh, target, ..
    } = run;
    let failure = match finish {
        Finish::Verified => match drive::smoke(context, target, 100).await {
            None | Some(Ok(())) => return conclude_verified(context, run, ledger).await,
            Some(Err(why)) if run.direction == Direction::Back => Exit::SmokeTestFailed
                .error(format!(
                    "all members of group {group} are back on version {} with {}, and the smoke test fails there too: {why}",
                    target.version, target.image
                ))
                .hint("nothing was rolled back again: the test does not fail because of the release"),
            Some(Err(why)) => return return_after_failed_test(context, run, why, ledger).await,
        },
        Finish::Unverified(flaws) => Exit::Unverified
            .error(format!(
                "refresh {refresh} of group {group} is finished, but the fleet is not verified: {flaws}"
            ))
            .hint(match run.direction {
                Direction::Forward => {
                    "verify again: imagebuilder roll watch\nroll it back: imagebuilder roll rollback"
                }
                Direction::Back => "verify again: imagebuilder roll watch",
            }),
        Finish::Missing(what) => missing(context, run, &what),
        Finish::Detached(why) => return still_running(context, &why),
        Finish::Ended {
            ending: Ending::RolledBack,
            stopped,
            lost,
            reason,
        } => match verify_rollback(context, run).await? {
            Rollback::Verified(text) => {
                context.output.info(text);
                ended(context, run, Ending::RolledBack, stopped.as_ref(), &lost, &reason)
            }
            Rollback::Unverified(text) => Exit::RollbackFailed
                .error(format!(
                    "refresh {refresh} of group {group} to {} was rolled back by the service ({}), but {text}",
                    target.image,
                    why(stopped.as_ref(), &lost, &reason)
                ))
                .hint("see the members: imagebuilder status\nverify again: imagebuilder roll rollback"),
            Rollback::Detached(why) => return still_running(context, &why),
        },
        Finish::Ended {
            ending,
            stopped,
            lost,
            reason,
        } => ended(context, run, ending, stopped.as_ref(), &lost, &reason),
    };
    end(ledger, &failure.to_string())?;
    Err(failure.into())
}

/// We stopped watching: that is not the end of the run, so its journal stays open.
fn still_running<T>(context: &RollContext<'_>, why: &str) -> Result<T> {
    let group = &context.settings.group;
    Err(Exit::WatchTimedOut
        .error(format!(
            "stopped watching group {group}, whose refresh continues: {why}"
        ))
        .hint(show::detached(group))
        .into())
}

/// The group, or the refresh, disappeared while it was watched.
fn missing(context: &RollContext<'_>, run: &RefreshRun, what: &str) -> Failure {
    Exit::RollFailed
        .error(format!(
            "refresh {} to {} cannot be watched any more: {what}",
            run.refresh, run.target.image
        ))
        .hint(format!(
            "nothing is left to roll back; once group {} exists again: imagebuilder roll {}",
            context.settings.group, run.target.image
        ))
}

/// Why a refresh did not succeed: our own reason, else the service's, with what was lost.
fn why(stopped: Option<&Cause>, lost: &[Lost], reason: &str) -> String {
    let reason = reason.trim();
    match stopped {
        Some(cause) => drive::stopped_because(cause),
        None if lost.is_empty() && reason.is_empty() => "the service gives no reason".into(),
        None if lost.is_empty() => reason.to_owned(),
        None if reason.is_empty() => drive::summary(lost),
        None => format!("{reason} ({})", drive::summary(lost)),
    }
}

/// The failure of a refresh that did not succeed, with a hint that fits its cause.
fn ended(
    context: &RollContext<'_>,
    run: &RefreshRun,
    ending: Ending,
    stopped: Option<&Cause>,
    lost: &[Lost],
    reason: &str,
) -> Failure {
    let RefreshRun {
        refresh,
        target,
        previous,
        ..
    } = run;
    let how = match ending {
        Ending::RolledBack => match previous {
            Some(previous) => format!("was rolled back to version {}", previous.version),
            None => "was rolled back".into(),
        },
        Ending::Failed => "failed and was not rolled back".into(),
        Ending::RollbackFailed => "failed, and so did rolling it back".into(),
        Ending::Cancelled => "was cancelled, its members are mixed".into(),
    };
    let failure = watch::exit(ending, stopped).error(format!(
        "refresh {refresh} of group {} to {} {how}: {}",
        context.settings.group,
        target.image,
        why(stopped, lost, reason)
    ));
    let lost = match stopped {
        Some(Cause::Lost(lost)) => lost,
        _ => lost,
    };
    let unlaunchable = lost
        .iter()
        .any(|lost| matches!(lost.reason, Reason::Unlaunchable(_)));
    match ending {
        Ending::RolledBack => failure.hint(match stopped {
            Some(Cause::SmokeTest(_)) => {
                "see what the smoke test fails on, and roll again; the pointers were not touched"
            }
            _ if unlaunchable => {
                "the launch template or the image references something missing or forbidden: see the reason; the pointers were not touched"
            }
            _ if !lost.is_empty() => "fix the image and bake again; the pointers were not touched",
            _ => "no loss was caused by the image: the reason is the service's; the pointers were not touched",
        }),
        Ending::Failed | Ending::Cancelled => failure.hint(
            "see the members: imagebuilder status\nroll them back: imagebuilder roll rollback",
        ),
        Ending::RollbackFailed => failure.hint(
            "see the members: imagebuilder status\nif the old version cannot launch any more, roll one that can",
        ),
    }
}

/// A verified roll: move the pointers and print the image.
async fn conclude_verified(
    context: &RollContext<'_>,
    run: &RefreshRun,
    mut ledger: Option<Ledger>,
) -> Result<Exit> {
    let RollContext {
        cloud,
        image,
        output,
        ..
    } = context;
    let target = &run.target;
    let before = run.previous.as_ref().map(|previous| &previous.image);
    let step = output.step("pointers", "move the pointers");
    let moved = pointers::advance(cloud, image, &target.image, before, run.direction).await;
    let moved = match moved {
        Ok(moved) => moved,
        Err(error) => {
            step.failed("not moved");
            let failure = Exit::Unexpected
                .error(format!(
                    "every member of group {} is verified on {}, but its pointers could not be moved",
                    context.settings.group, target.image
                ))
                .hint(format!(
                    "the fleet is complete; to move the pointers: imagebuilder roll {}",
                    target.image
                ))
                .because(error);
            end(ledger, &failure.to_string())?;
            return Err(failure.into());
        }
    };
    match moved {
        Moved::Unchanged => step.done(format!("current was {} already", target.image)),
        Moved::Moved {
            previous: Some(previous),
        } => {
            step.done(format!("current {}, previous {previous}", target.image));
        }
        Moved::Moved { previous: None } => step.done(format!("current {}", target.image)),
    }
    if let Some(ledger) = &mut ledger
        && run.direction == Direction::Forward
    {
        versions::clean(context, run, ledger).await;
    }
    end(ledger, "done")?;
    output.data(target.image.as_str())?;
    Ok(Exit::Done)
}

/// The last smoke test failed when the refresh was over: rolls back by a refresh of its own.
async fn return_after_failed_test(
    context: &RollContext<'_>,
    run: &RefreshRun,
    why: String,
    ledger: Option<Ledger>,
) -> Result<Exit> {
    let group = &context.settings.group;
    context
        .output
        .info(format!("smoke test failed at the end: {why}"));
    let (Some(previous), Some(mut ledger)) = (&run.previous, ledger) else {
        return Err(Exit::SmokeTestFailed
            .error(format!(
                "the smoke test of group {group} on {} failed: {why}",
                run.target.image
            ))
            .hint("roll the fleet back: imagebuilder roll rollback")
            .into());
    };
    ledger.fact(
        fact::STOPPED,
        drive::stopped_because(&Cause::SmokeTest(why.clone())),
    )?;
    let mut goal = observe::goal(context.cloud, &previous.image).await?;
    goal.version = Some(previous.version);
    goal.direction = Direction::Back;
    let consents: [Consent; 0] = [];
    let view = observe::fleet(context.cloud, context.image, group).await?;
    let finish = match decide(&view, &goal, context.settings, &consents) {
        Decision::Refuse(refusal) => {
            return Err(refused(refusal.kind, refusal.reason, refusal.hint).into());
        }
        Decision::NothingToDo(_) => drive::verify_fleet(context, previous, run.limits).await?,
        Decision::Roll(plan) => {
            let back = start::start(context, &plan, &goal, &consents, &mut ledger).await?;
            drive::drive(context, &back, Some(&mut ledger)).await?
        }
    };
    let failure = match finish {
        Finish::Verified => Exit::SmokeTestFailed.error(format!(
            "the smoke test of group {group} on {} failed ({why}); all members are back on version {} with {}",
            run.target.image, previous.version, previous.image
        )),
        Finish::Detached(why) => return still_running(context, &why),
        finish @ (Finish::Unverified(_) | Finish::Ended { .. } | Finish::Missing(_)) => {
            let how = match finish {
                Finish::Unverified(flaws) => flaws.to_string(),
                Finish::Ended { reason, lost, .. } => self::why(None, &lost, &reason),
                Finish::Missing(what) => what,
                Finish::Verified | Finish::Detached(_) => String::new(),
            };
            Exit::RollbackFailed
                .error(format!(
                    "the smoke test of group {group} on {} failed ({why}), and so did the rollback to {}: {how}",
                    run.target.image, previous.image
                ))
                .hint("see the members: imagebuilder status\ntry again: imagebuilder roll rollback")
        }
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

/// A new run id.
fn run_id() -> Result<RunId> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).context("draw randomness for the run's id")?;
    Ok(crate::image::run_id(
        "roll",
        jiff::Timestamp::now(),
        u32::from_ne_bytes(bytes),
    ))
}
