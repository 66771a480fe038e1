//! `roll rollback`: brings the fleet back to the version before; [`before`] has its definition.

use std::path::Path;

use anyhow::{Context as _, Result};
use contract::names::Pointer;

use super::conclude::{Rollback, conclude, end, still_running, verify_rollback};
use super::request::{Extent, Request};
use super::roll::{nothing_to_do, plan_and_start};
use crate::before::{self, Pointed, RollbackTarget};
use crate::drive::{self, Finish};
use crate::journals;
use crate::plan::Direction;
use crate::refresh_run::RefreshRun;
use crate::view::{FleetView, Launches, Refresh, RefreshStatus};
use crate::watch::Ending;
use crate::{RollContext, observe, preflight};
use cloud::{IRREVERSIBLE, Kind, NO_ACTIVE_REFRESH};
use run::exit::Exit;
use run::permissions::Verb;
use support::shell::quoted;

/// How often a rollback starts over because a refresh ended before the call.
const ROLLBACK_ATTEMPTS: u32 = 3;

/// Brings the fleet back to the version before: see [`before`].
pub async fn rollback(context: &RollContext<'_>, request: &Request, runs: &Path) -> Result<Exit> {
    let group = &context.settings.group;
    // A refresh that ends while it is being rolled back is observed again.
    for _ in 0..ROLLBACK_ATTEMPTS {
        let view = observe::fleet(context.cloud, context.image, group).await;
        let view = preflight::explain_denial(context, Verb::Rollback, view).await?;
        let recorded = journals::all_recorded(context, runs)?;
        // An active refresh is rolled back by the service, whatever the pointers are.
        let pointed = match view.active_refresh() {
            Some(_) => Pointed::default(),
            None => {
                let pointed = observe::pointed(context.cloud, &context.scope()).await;
                preflight::explain_denial(context, Verb::RollbackRefresh, pointed).await?
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
                    return Err(observe::template_gone(group, id, name).into());
                }
                return Err(Exit::Refused
                    .error(format!(
                        "it is unknown what group {group} ran before: no refresh is half-way, no run here recorded the \
                         last one, and {} does not exist",
                        context.scope().parameter(Pointer::Previous)
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
    let mut ledger = journals::journal_of(context, runs, active)?;
    let recorded = ledger
        .as_ref()
        .and_then(|ledger| ledger.journal().roll.as_ref());
    let run =
        RefreshRun::of(context, view, active, recorded, Direction::Back).with_context(|| {
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
