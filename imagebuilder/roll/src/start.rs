//! From a plan to an active refresh: record, pin, make the version, observe again, start.
//!
//! Every step is recorded before it is taken, and may be taken again by a later run. It must not watch: that is
//! [`drive`](super::drive)'s.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::plan::{Consent, Decision, Goal, Plan, RefusalKind, Target, Version, plan as decide};
use super::refresh_run::RefreshRun;
use super::view::{FleetView, Launches, OURS, Refresh, SavedVersion};
use super::{RollContext, observe};
use cloud::{NewVersion, REFRESH_IN_PROGRESS};
use run::exit::{Exit, Failure};
use run::ledger::{Ledger, RollRecord};

/// A refresh of ours may begin this much before we recorded our intent: clocks differ.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// How often StartInstanceRefresh is tried after transient errors. The SDK has retried each of them already.
const STARTS: u32 = 5;

/// Carries out a plan until its refresh is active.
pub(crate) async fn start(
    context: &RollContext<'_>,
    plan: &Plan,
    goal: &Goal,
    consents: &[Consent],
    ledger: &mut Ledger,
) -> Result<RefreshRun> {
    ledger.begin_roll(record(plan, ledger))?;
    if let Some(number) = plan.pin {
        ledger.step("pin")?;
        let step = context.output.step(
            "pin",
            format!("save group {} on version {number}", plan.group),
        );
        context
            .cloud
            .fleet
            .save_version(&plan.group, &plan.previous.reference())
            .await?;
        step.done(format!("instead of {}", plan.saved));
    }
    let target = Target {
        template_id: plan.template_id.clone(),
        version: version(context, plan, ledger).await?,
        image: plan.image.clone(),
    };
    ledger.update_roll(|roll| roll.target = Some(target.clone()))?;
    still_so(context, plan, &target, goal, consents).await?;
    let refresh = refresh(context, plan, &target, ledger).await?;
    Ok(RefreshRun {
        refresh,
        target,
        previous: Some(plan.previous.clone()),
        direction: plan.direction,
        limits: plan.limits,
    })
}

/// The record of a plan before its first change. It is one write: a record in which a rollback is mixed with the roll before it
/// would be taken for a finished rollback.
fn record(plan: &Plan, ledger: &Ledger) -> RollRecord {
    let target = match plan.version {
        Version::Existing(version) => Some(Target {
            template_id: plan.template_id.clone(),
            version,
            image: plan.image.clone(),
        }),
        Version::From(_) => None,
    };
    // The rollback after a failed smoke test is of the same run, and keeps the reason for it.
    let before = ledger.journal().roll.as_ref();
    RollRecord {
        group: plan.group.clone(),
        direction: plan.direction,
        previous: Some(plan.previous.clone()),
        target,
        intended: None,
        refresh: None,
        stopped: before.and_then(|roll| roll.stopped.clone()),
    }
}

/// The number of the target version, which is made if necessary.
async fn version(context: &RollContext<'_>, plan: &Plan, ledger: &mut Ledger) -> Result<u64> {
    let source = match plan.version {
        Version::Existing(number) => return Ok(number),
        Version::From(source) => source,
    };
    ledger.step("version")?;
    let step = context.output.step(
        "version",
        format!(
            "make a version of template {} with {}",
            plan.template_name, plan.image
        ),
    );
    let run = ledger.run();
    let made = context
        .cloud
        .templates
        .make_version(&NewVersion {
            template_id: plan.template_id.clone(),
            source,
            image: plan.image.clone(),
            description: format!(
                "{OURS} {}, run {run}: {} in place of {}",
                context.image, plan.image, plan.previous.image
            ),
            token: run.to_string(),
        })
        .await?;
    let number = made.id().version;
    step.done(format!("version {number}"));
    // `roll` needs only its number; the record lets a later run remove it.
    ledger.made_version(made)?;
    Ok(number)
}

/// Observes again: the plan was shown and prepared, and the group may have changed since.
async fn still_so(
    context: &RollContext<'_>,
    plan: &Plan,
    target: &Target,
    goal: &Goal,
    consents: &[Consent],
) -> Result<()> {
    let view = observe::fleet(context.cloud, context.image, &plan.group).await?;
    let exact = Goal {
        version: Some(target.version),
        ..goal.clone()
    };
    let mut expected = plan.clone();
    if let Some(number) = plan.pin {
        expected.saved = SavedVersion::Number(number);
    }
    match decide(&view, &exact, context.settings, consents) {
        Decision::Roll(again) if expected.same_assumptions(&again) => {
            same_but_for_the_image(&view, plan, target)
        }
        Decision::Roll(_) | Decision::NothingToDo(_) => Err(Exit::Refused
            .error(format!(
                "group {} was changed while the roll was being prepared",
                plan.group
            ))
            .hint("run `imagebuilder roll` again: it makes a new plan and uses the version that was made")
            .into()),
        Decision::Refuse(refusal) => {
            Err(refused(refusal.kind, refusal.reason, refusal.hint).into())
        }
    }
}

/// Refuses a version that was made and differs from its source in more than the
/// image: its instances would not be what the plan shows.
fn same_but_for_the_image(view: &FleetView, plan: &Plan, target: &Target) -> Result<()> {
    let (Version::From(source), Launches::Template(template)) = (plan.version, &view.launches)
    else {
        return Ok(());
    };
    let shape = |number| {
        template
            .version(number)
            .map(|version| version.shape.as_str())
    };
    if shape(source) == shape(target.version) {
        return Ok(());
    }
    Err(Exit::Refused
        .error(format!(
            "version {} of template {} was made from {source}, yet differs from it in more than the image",
            target.version, plan.template_name
        ))
        .hint("compare them (aws ec2 describe-launch-template-versions); nothing was started")
        .into())
}

/// A refusal as the error that ends the command.
pub(crate) fn refused(kind: RefusalKind, reason: String, hint: String) -> Failure {
    let exit = match kind {
        RefusalKind::Preflight => Exit::Refused,
        RefusalKind::RefreshActive(_) => Exit::RefreshActive,
    };
    exit.error(reason).hint(hint)
}

/// Starts the refresh, once: the call has no client token, so when its answer was lost, the refresh is searched for.
async fn refresh(
    context: &RollContext<'_>,
    plan: &Plan,
    target: &Target,
    ledger: &mut Ledger,
) -> Result<String> {
    let intended = Timestamp::now();
    ledger.step("refresh")?;
    ledger.update_roll(|roll| roll.intended = Some(intended))?;
    let mut step = context.output.step(
        "refresh",
        format!("start a refresh of group {}", plan.group),
    );
    let mut tries = 0;
    let id = loop {
        tries += 1;
        let error = match context
            .cloud
            .fleet
            .start_refresh(&plan.group, &target.reference(), &plan.preferences)
            .await
        {
            Ok(id) => break id,
            Err(error) => error,
        };
        let busy = error.has_code(REFRESH_IN_PROGRESS);
        if !busy && !error.is_transient() {
            return Err(error.into());
        }
        step.waiting(format!("{error}; checking whether it was started"));
        // An ended one blocks nothing: the answers are not always from the same moment.
        let newest = context
            .cloud
            .fleet
            .refreshes(&plan.group)
            .await?
            .into_iter()
            .find(|refresh| !refresh.status.is_over() || ours(refresh, target, intended));
        match newest {
            Some(found) if ours(&found, target, intended) => break found.id,
            other if busy && (other.is_some() || tries >= STARTS) => {
                let id = other.map_or_else(
                    || "another refresh".to_owned(),
                    |other| format!("refresh {}", other.id),
                );
                let reason = format!("{id} of group {} was started first", plan.group);
                let hint = "wait for it with --wait, or watch it with `imagebuilder roll watch`";
                step.failed("another refresh is active");
                return Err(Exit::RefreshActive
                    .error(reason)
                    .hint(hint)
                    .because(error)
                    .into());
            }
            _ if tries >= STARTS => return Err(error.into()),
            _ => tokio::time::sleep(context.settings.poll).await,
        }
    };
    ledger.update_roll(|roll| roll.refresh = Some(id.clone()))?;
    step.done(format!("refresh {id}"));
    Ok(id)
}

/// Whether a refresh is the one we started: to the same version, and not from before our intent.
fn ours(refresh: &Refresh, target: &Target, intended: Timestamp) -> bool {
    refresh.desired.as_ref() == Some(&target.reference())
        && refresh
            .started
            .is_none_or(|started| started >= intended - CLOCK_SKEW)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn our_own_refresh_is_distinguished_from_others() {
        let refresh = sample::refresh("InProgress");
        let target = sample::target(8, "ami-2");
        let began = refresh.started.unwrap();
        assert!(ours(&refresh, &target, began));
        assert!(ours(
            &refresh,
            &target,
            began + SignedDuration::from_secs(200)
        ));
        assert!(!ours(
            &refresh,
            &target,
            began + SignedDuration::from_secs(400)
        ));
        assert!(!ours(&refresh, &sample::target(9, "ami-2"), began));
        let aimless = Refresh {
            desired: None,
            ..refresh
        };
        assert!(!ours(&aimless, &target, began));
    }
}
