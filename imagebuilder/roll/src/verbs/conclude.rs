//! How a watch ends: pointers, messages and an exit code.

use anyhow::Result;

use crate::blame::{Lost, Reason};
use crate::drive::{self, Finish};
use crate::plan::{Consent, Decision, Direction, plan as decide};
use crate::refresh_run::RefreshRun;
use crate::start::{self, refused};
use crate::watch::{self, Cause, Ending};
use crate::{RollContext, observe, show, versions};
use run::exit::{Exit, Failure};
use run::ledger::Ledger;
use run::pointers::{self, Moved};

/// Drives a refresh and reports how it ended.
pub(super) async fn drive_and_conclude(
    context: &RollContext<'_>,
    run: &RefreshRun,
    mut ledger: Option<Ledger>,
) -> Result<Exit> {
    let finish = drive::drive(context, run, ledger.as_mut()).await?;
    conclude(context, run, finish, ledger).await
}

/// Turns the end of a watch into pointers, messages and an exit code.
pub(super) async fn conclude(
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

/// A verified roll: move the pointers and print the image.
async fn conclude_verified(
    context: &RollContext<'_>,
    run: &RefreshRun,
    mut ledger: Option<Ledger>,
) -> Result<Exit> {
    let RollContext { cloud, output, .. } = context;
    let target = &run.target;
    let before = run.previous.as_ref().map(|previous| &previous.image);
    let step = output.step("pointers", "move the pointers");
    let moved = pointers::advance(
        cloud,
        &context.scope(),
        &target.image,
        before,
        run.direction,
    )
    .await;
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
    let stopped = drive::stopped_because(&Cause::SmokeTest(why.clone()));
    ledger.update_roll(|roll| roll.stopped = Some(stopped))?;
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

/// Whether a fleet that the service rolled back is verified on the version before.
pub(super) enum Rollback {
    /// It is, as text.
    Verified(String),
    /// It is not verified: why.
    Unverified(String),
    /// We stopped watching.
    Detached(String),
}

/// Verifies that the fleet is on the version before.
pub(super) async fn verify_rollback(
    context: &RollContext<'_>,
    run: &RefreshRun,
) -> Result<Rollback> {
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

/// We stopped watching: that is not the end of the run, so its journal stays open.
pub(super) fn still_running<T>(context: &RollContext<'_>, why: &str) -> Result<T> {
    let group = &context.settings.group;
    Err(Exit::WatchTimedOut
        .error(format!(
            "stopped watching group {group}, whose refresh continues: {why}"
        ))
        .hint(show::detached(group))
        .into())
}

/// Records how a run ended.
pub(super) fn end(ledger: Option<Ledger>, outcome: &str) -> Result<()> {
    match ledger {
        Some(mut ledger) => ledger.end(outcome),
        None => Ok(()),
    }
}
