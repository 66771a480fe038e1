//! `roll watch`: resumes watching the active refresh, or reports how the last one ended.

use std::path::Path;

use anyhow::Result;

use super::conclude::drive_and_conclude;
use crate::journals;
use crate::plan::Direction;
use crate::refresh_run::RefreshRun;
use crate::view::Launches;
use crate::{RollContext, observe, preflight};
use cloud::ids::ImageId;
use run::exit::Exit;
use run::ledger::RollRecord;
use run::permissions::Verb;

/// Watches the active refresh, or reports how the last one ended.
pub async fn watch(context: &RollContext<'_>, runs: &Path) -> Result<Exit> {
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
    let ledger = journals::journal_of(context, runs, refresh)?;
    let recorded = ledger
        .as_ref()
        .and_then(|ledger| ledger.journal().roll.as_ref());
    let mut run = RefreshRun::of(context, &view, refresh, recorded, Direction::Forward);
    if let Some(run) = &mut run {
        run.direction = direction(context, recorded, &run.target.image).await?;
    }
    if let Launches::Deleted { id, name } = &view.launches {
        return Err(observe::template_gone(group, id, name).into());
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

/// The direction of a refresh to an image: as recorded. If it was not recorded here, a refresh to an image that has served before
/// is a rollback.
async fn direction(
    context: &RollContext<'_>,
    recorded: Option<&RollRecord>,
    image: &ImageId,
) -> Result<Direction> {
    if let Some(recorded) = recorded {
        return Ok(recorded.direction);
    }
    let pointed = observe::pointed(context.cloud, &context.scope()).await;
    let pointed = preflight::explain_denial(context, Verb::Watch, pointed).await?;
    let served = [pointed.current, pointed.previous];
    Ok(if served.iter().flatten().any(|served| served == image) {
        Direction::Back
    } else {
        Direction::Forward
    })
}
