//! `roll`: from a request to an exit code.
//!
//! [`plan`](crate::plan) decides what is allowed; a rollback to an earlier version is planned and started here too.

use std::path::Path;

use anyhow::{Context as _, Result};
use contract::names::{Pointer, release_parameter};

use super::conclude::{conclude, drive_and_conclude};
use super::request::{Busy, Extent, Request};
use crate::limits::limits;
use crate::plan::{
    Decision, Direction, Goal, Plan, Refusal, RefusalKind, Target, plan as decide, preferences,
};
use crate::refresh_run::RefreshRun;
use crate::show::Preview;
use crate::start::{self, refused};
use crate::view::FleetView;
use crate::{RollContext, drive, observe, preflight, show};
use cloud::ids::{ImageId, RunId};
use run::exit::{Exit, Failure};
use run::ledger::Ledger;
use run::permissions::Verb;
use run::{image_release, pointers};

/// Rolls the fleet onto an image.
pub async fn roll(context: &RollContext<'_>, request: &Request, runs: &Path) -> Result<Exit> {
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
    let scope = context.scope();
    let (found, what) = match context.arch {
        None => (
            pointers::read(context.cloud, &scope, Pointer::Candidate).await?,
            format!("{} points at no image", scope.parameter(Pointer::Candidate)),
        ),
        Some(arch) => {
            let release = image_release::read(context.cloud, context.image).await?;
            (
                release.and_then(|mut images| images.remove(&arch)),
                format!(
                    "{} names no image for {arch}",
                    release_parameter(context.image.as_str())
                ),
            )
        }
    };
    found.ok_or_else(|| {
        Exit::Refused
            .error(what)
            .hint("bake one with `imagebuilder bake`, or name one: imagebuilder roll ami-…")
            .into()
    })
}

/// Plans for a goal and carries the plan out.
pub(super) async fn plan_and_start(
    context: &RollContext<'_>,
    goal: &Goal,
    request: &Request,
    runs: &Path,
) -> Result<Exit> {
    loop {
        let view = view(context, goal.direction).await?;
        match decide(&view, goal, context.settings, &request.consents) {
            Decision::Roll(plan) => return carry_out(context, &plan, goal, request, runs).await,
            Decision::NothingToDo(target) => {
                return nothing_to_do(context, &view, target, goal.direction, request).await;
            }
            Decision::Refuse(refusal) => {
                if let Some(exit) = on_refusal(context, &view, goal, refusal, request.busy).await? {
                    return Ok(exit);
                }
            }
        }
    }
}

/// Reads the fleet that is to be planned for.
async fn view(context: &RollContext<'_>, direction: Direction) -> Result<FleetView> {
    let RollContext {
        cloud,
        image,
        settings,
        output,
        ..
    } = context;
    let step = output.step("look", format!("read group {}", settings.group));
    let observe = observe::fleet(cloud, image, &settings.group);
    let view = context.unless_cancelled(observe).await.transpose();
    let verb = match direction {
        Direction::Forward => Verb::Roll,
        Direction::Back => Verb::RollbackRefresh,
    };
    let Some(view) = preflight::explain_denial(context, verb, view).await? else {
        step.failed("stopped");
        return Err(stopped_early().into());
    };
    step.done(format!(
        "{} members, {} desired",
        view.members.len(),
        view.size.desired
    ));
    Ok(view)
}

/// Waits for an active refresh, or adopts it, as was asked for; `None` when the group is free and is to be planned for again.
async fn on_refusal(
    context: &RollContext<'_>,
    view: &FleetView,
    goal: &Goal,
    refusal: Refusal,
    busy: Busy,
) -> Result<Option<Exit>> {
    let active = matches!(refusal.kind, RefusalKind::RefreshActive(_));
    match busy {
        Busy::Wait if active => {
            let limits = limits(view, context.settings, &preferences(view, context.settings));
            return match drive::until_free(context, limits.watch).await? {
                Some(active) => Err(wait_timed_out(context, &active).into()),
                None => Ok(None),
            };
        }
        Busy::Adopt if active => {
            if let Some(run) = adoptable(context, view, &goal.image) {
                context
                    .output
                    .info(format!("adopting refresh {}", run.refresh));
                preflight::warn(context, &[Verb::Watch], view).await;
                return drive_and_conclude(context, &run, None).await.map(Some);
            }
        }
        Busy::Refuse | Busy::Wait | Busy::Adopt => {}
    }
    Err(refused(refusal.kind, refusal.reason, refusal.hint).into())
}

/// Shows a plan, and starts and drives its refresh unless only the plan is wanted.
async fn carry_out(
    context: &RollContext<'_>,
    plan: &Plan,
    goal: &Goal,
    request: &Request,
    runs: &Path,
) -> Result<Exit> {
    let output = context.output;
    for line in show::plan(plan) {
        output.info(line);
    }
    preflight::refuse(context, plan).await?;
    if request.extent == Extent::Plan {
        if output.wants_json() {
            output.json(&Preview::plan(plan))?;
        }
        return Ok(Exit::Done);
    }
    if context.cancel.is_requested() {
        return Err(stopped_early().into());
    }
    let image = context.image.as_str();
    let mut ledger = Ledger::begin(runs, run_id()?, "roll", image, &context.cloud.region)?;
    match start::start(context, plan, goal, &request.consents, &mut ledger).await {
        Ok(run) => drive_and_conclude(context, &run, Some(ledger)).await,
        Err(error) => {
            ledger.end(&format!("not started: {error:#}"))?;
            Err(error)
        }
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
pub(super) async fn nothing_to_do(
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
    let current = pointers::read(context.cloud, &context.scope(), Pointer::Current).await;
    if !matches!(current, Ok(Some(current)) if current == target.image) {
        preflight::warn(context, &[Verb::Verify], view).await;
    }
    if request.extent == Extent::Plan {
        if context.output.wants_json() {
            context
                .output
                .json(&Preview::nothing_to_do(&view.group, &target))?;
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
    let run = RefreshRun::of(
        context,
        view,
        view.active_refresh()?,
        None,
        Direction::Forward,
    )?;
    (run.target.image == *image).then_some(run)
}

/// A new run id.
fn run_id() -> Result<RunId> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).context("draw randomness for the run's id")?;
    Ok(run::id::run_id(
        "roll",
        jiff::Timestamp::now(),
        u32::from_ne_bytes(bytes),
    ))
}
