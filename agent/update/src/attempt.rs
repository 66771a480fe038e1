//! Runs an update attempt from check to commit, each step persisted before its effect.
//!
//! It decides nothing: [`super::phases`] decides what comes next, [`super::plan`] which release. A failure to persist
//! ends the run, after the instance was put back on its stable agent.

mod actions;
mod adapters;
mod compare;
mod repair;
mod soak;

use std::fs;

use anyhow::{Context, Result, bail};
use support::text;
use tracing::{error, info, warn};

pub(crate) use self::adapters::{
    ActiveState, Adapters, Probe, System, TestFailure, Unit, UnitState, Units, UpdatePolicy,
};
pub use self::adapters::{Daemon, Health};
pub(crate) use self::repair::repair;
use super::before::Before;
use super::blame;
use super::build::Build;
use super::phases::{
    self, Action, Event, NOT_PERMITTED, Observation, Outcome, Phase, Step, TrialResult,
};
use super::plan::{self, Decision, Why};
use super::slots::{Leads, Link, Slots};
use super::state::{Found, State};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Another updater is running.
    Busy,
    /// With an outcome.
    With(Outcome),
}

impl Ended {
    /// Whether no operator needs to act: done, nothing to do, or waiting as intended.
    #[must_use]
    pub(crate) fn is_well(&self) -> bool {
        match self {
            Self::Busy | Self::With(Outcome::Settled(_) | Outcome::Updated { .. }) => true,
            Self::With(Outcome::Postponed { code, .. }) => code == NOT_PERMITTED,
            Self::With(Outcome::Failed { .. }) => false,
        }
    }
}

/// Runs one attempt, from where the last run stopped to an outcome.
///
/// # Errors
/// The updater's own state or the links cannot be read or written because of the disk. The instance is then on its
/// stable agent, or systemd puts it there.
pub(crate) async fn run(adapters: Adapters) -> Result<Ended> {
    let Some(_lock) = adapters.slots.lock()? else {
        info!("another updater is running");
        return Ok(Ended::Busy);
    };
    let mut attempt = Attempt::open(adapters).await?;
    let outcome = attempt.drive().await?;
    attempt.start_failed_stable().await;
    Ok(Ended::With(outcome))
}

/// A run: its adapters and its state.
struct Attempt {
    adapters: Adapters,
    state: State,
    stable: Build,
    factory: Option<Build>,
    decision: Option<Decision>,
    before: Option<Health>,
}

impl Attempt {
    /// Loads the state and makes sure that `stable` points to a release that can run.
    async fn open(mut adapters: Adapters) -> Result<Self> {
        let led = adapters.slots.leads(Link::Stable);
        let known = match &led {
            Leads::Slot(build) => Some(build.clone()),
            Leads::Factory | Leads::Nowhere => None,
            Leads::Unreadable(why) => bail!("cannot read the link stable: {why}"),
        };
        let (mut state, found) = adapters
            .store
            .load(&adapters.policy.instance_id, known.as_ref())?;
        let overrides = adapters.store.overrides(&adapters.policy.instance_id);
        state.forgive(&overrides.forgiven);
        match found {
            Found::Whole => {}
            Found::Nothing => info!("first run on this instance"),
            Found::Broken { aside, why } => warn!(
                "the state could not be read and was rebuilt ({why}); the old file is {}",
                aside.display()
            ),
            Found::Foreign { instance_id } => warn!(
                "the state belongs to {instance_id}, of which this instance is a copy: starting over, with its floor"
            ),
        }
        if let Some(build) = &known
            && let Err(error) = adapters.slots.let_run(build)
        {
            warn!("{error:#}");
        }
        let factory = adapters
            .slots
            .factory()
            .inspect_err(|error| warn!("{error:#}"))
            .ok();
        let broken = match &led {
            Leads::Nowhere => Some("stable points nowhere".to_owned()),
            Leads::Slot(build) => match adapters.slots.verify(build) {
                Ok(()) => None,
                // Leave the link alone: a failing disk would not return the other slots either.
                Err(error) if Slots::is_the_disks(&error) => return Err(error),
                Err(error) => Some(format!("{error:#}")),
            },
            Leads::Factory | Leads::Unreadable(_) => None,
        };
        if let Some(why) = broken {
            let to = Before::choose(&state, known.as_ref(), factory.as_ref(), |build| {
                adapters.slots.verify(build).is_ok()
            });
            repair::go_to(&adapters.slots, &to)?;
            warn!("{why}: stable is now {to}");
            if let Err(error) = adapters.units.start(Unit::Stable).await {
                error!("cannot start the stable unit: {error:#}");
            }
        }
        let stable = match (adapters.slots.leads(Link::Stable), &factory) {
            (Leads::Slot(build), _) => build,
            (_, Some(factory)) => factory.clone(),
            (_, None) => bail!("stable points to a factory slot that cannot run"),
        };
        Ok(Self {
            adapters,
            state,
            stable,
            factory,
            decision: None,
            before: None,
        })
    }

    /// Logs which of the operator's orders a release overrides.
    fn log_overrides(&self, step: &Step) {
        let Phase::Fetching(job) = &step.phase else {
            return;
        };
        if let Some(Decision::Update {
            why: why @ Why::BelowFloor { overrides, .. },
            ..
        }) = &self.decision
            && !overrides.is_empty()
        {
            warn!(
                code = "floor",
                version = %job.build.version,
                "taking {}: {why}",
                job.build.version
            );
        }
    }

    async fn drive(&mut self) -> Result<Outcome> {
        let trial = self.trial_result().await;
        if self.state.phase.job().is_none() && trial != TrialResult::Running {
            self.adapters.slots.disarm()?;
        }
        let mut event = Event::Started(Observation {
            boot: self.adapters.boot.clone(),
            stable: self.stable.clone(),
            trial,
            at: self.adapters.clock.now(),
        });
        loop {
            let from = std::mem::take(&mut self.state.phase);
            let step = phases::step(from.clone(), event);
            if step.phase.name() != from.name() {
                let phase = step.phase.name();
                info!(phase, "{} -> {phase}", from.name());
            }
            self.log_overrides(&step);
            if let Phase::Armed(job) = &step.phase
                && job.overruled
            {
                warn!(
                    code = phases::WITHHELD,
                    version = %job.build.version,
                    "updating without the agent's permission, withheld for too long: {}",
                    job.why
                );
            }
            if let Err(error) = self.remember(&step) {
                self.abandon(&from, &step).await;
                return Err(error);
            }
            let mut next = None;
            for action in step.actions {
                match action {
                    Action::Report(outcome) => {
                        self.report(&outcome);
                        return Ok(outcome);
                    }
                    Action::Revert => self.revert().await,
                    action => next = Some(self.act(action).await),
                }
            }
            event = next.context("no action follows from the event: a bug")?;
        }
    }

    /// Stores a step's phase and notes, in one write.
    fn remember(&mut self, step: &Step) -> Result<()> {
        self.state.phase = step.phase.clone();
        for note in &step.notes {
            self.state.note(note);
        }
        match &step.phase {
            // Before the rename, so that `stable` only ever points to a confirmed build.
            Phase::Confirmed(job) => self.state.confirm(&job.build),
            // A release that was withdrawn or is below the floor is nothing to go back to: the previous one is kept
            // then.
            Phase::Committed(job) if job.from != job.build => {
                if self.state.barred(&job.from).is_none() {
                    self.state.previous = Some(job.from.clone());
                } else if self.state.previous.as_ref() == Some(&job.build) {
                    self.state.previous = None;
                }
            }
            _ => {}
        }
        for action in &step.actions {
            if let Action::Report(outcome) = action {
                let (code, reason) = code_and_reason(outcome);
                (self.state.code, self.state.reason) = (code, text::line(&reason, text::REASON));
            }
        }
        if step.phase.job().is_none() {
            self.forget_unslotted();
        }
        let saved = self.adapters.store.save(&self.state);
        if let Err(error) = &saved {
            // It cannot be stored, but it is shown.
            "disk".clone_into(&mut self.state.code);
            self.state.reason = text::line(&format!("{error:#}"), text::REASON);
        }
        self.show();
        saved
    }

    /// Removes builds without a slot from the list of those that may be stable.
    fn forget_unslotted(&mut self) {
        let mut kept = self.adapters.slots.complete();
        kept.push(self.stable.clone());
        kept.extend(self.state.previous.clone());
        self.state
            .confirmed
            .retain(|known| kept.iter().any(|build| build.digest == known.digest));
    }

    /// The state cannot be written: the instance goes back to stable, and a part that only fills the disk is removed.
    async fn abandon(&mut self, from: &Phase, step: &Step) {
        let live = |phase: &Phase| {
            matches!(
                phase,
                Phase::Armed(_)
                    | Phase::Trial(_)
                    | Phase::Comparing(_)
                    | Phase::Proving(_)
                    | Phase::Confirmed(_)
                    | Phase::Committed(_)
            )
        };
        if live(from) || live(&step.phase) || step.actions.contains(&Action::Revert) {
            self.revert().await;
        }
        if let Some(job) = from.job().or(step.phase.job()) {
            self.drop_part(&job.build);
        }
    }

    /// How the trial unit ended in this boot.
    async fn trial_result(&mut self) -> TrialResult {
        match self.adapters.units.state(Unit::Trial).await {
            Ok(UnitState {
                active,
                result,
                status,
                ..
            }) => match active {
                ActiveState::Inactive => TrialResult::NotRun,
                ActiveState::Failed if result == "timeout" => TrialResult::Deadline,
                ActiveState::Failed => TrialResult::Failed {
                    kind: blame::of_unit(&result, status),
                    reason: format!("the trial ended with {result}"),
                },
                ActiveState::Active | ActiveState::Activating | ActiveState::Deactivating => {
                    TrialResult::Running
                }
            },
            Err(error) => {
                warn!("cannot read the state of the trial unit: {error:#}");
                TrialResult::NotRun
            }
        }
    }

    /// Starts a stable agent that systemd gave up on: after the last repair nothing else would start it before the
    /// next boot. Last in a run, since a release that fixes it needs no permission.
    async fn start_failed_stable(&mut self) {
        let units = &mut self.adapters.units;
        match units.state(Unit::Stable).await {
            Ok(it) if it.active == ActiveState::Failed => {
                warn!(
                    "the stable agent had failed with {}: starting it",
                    it.result
                );
                if let Err(error) = units.start(Unit::Stable).await {
                    error!("{error:#}");
                }
            }
            Ok(_) => {}
            Err(error) => warn!("cannot read the state of the stable unit: {error:#}"),
        }
    }

    /// Goes back to stable. No failure stops this: systemd has its own way back.
    async fn revert(&mut self) {
        let units = &mut self.adapters.units;
        // Starting the stable unit stops the trial: the instance is without a daemon as briefly as possible.
        if let Err(error) = units.start(Unit::Stable).await {
            error!("cannot start the stable unit: {error:#}");
        }
        if let Err(error) = units.stop(Unit::Trial).await {
            error!("cannot stop the trial unit: {error:#}");
        }
        if let Err(error) = self.adapters.slots.disarm() {
            error!("{error:#}");
        }
    }

    fn report(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Settled(decision) => info!("{decision}"),
            Outcome::Updated { to, from } => {
                info!(
                    version = %to.version,
                    digest = %to.digest,
                    "updated from {} to {} ({})",
                    from.version,
                    to.version,
                    to.digest
                );
            }
            // As intended; no operator needs to act.
            Outcome::Postponed { code, reason } if code == NOT_PERMITTED => {
                info!(code = %code, "not now ({code}): {reason}");
            }
            Outcome::Postponed { code, reason } => {
                warn!(code = %code, "not now ({code}): {reason}");
            }
            Outcome::Failed {
                build,
                code,
                reason,
                skipped,
            } => {
                let again = if *skipped {
                    "is not tried again until it is forgiven"
                } else {
                    "is tried again after a pause"
                };
                error!(
                    code = %code,
                    version = %build.version,
                    digest = %build.digest,
                    "{} ({}) failed here and {again} ({code}): {reason}",
                    build.version, build.digest
                );
            }
        }
        // A part is kept only if the next run continues with it.
        let wanted = match outcome {
            Outcome::Settled(decision) => decision.offer().map(actions::build),
            Outcome::Updated { .. } => None,
            Outcome::Failed { build, skipped, .. } => (!skipped).then(|| build.clone()),
            Outcome::Postponed { .. } => return,
        };
        self.collect(wanted.as_ref());
    }

    fn collect(&self, wanted: Option<&Build>) {
        let keep: Vec<Build> = self.state.previous.iter().chain(wanted).cloned().collect();
        let part = wanted.map(|build| &build.digest);
        if let Err(error) = self.adapters.slots.collect(&keep, part) {
            warn!("{error:#}");
        }
    }

    /// Writes the status file.
    fn show(&mut self) {
        let offer = self.decision.as_ref().and_then(Decision::offer);
        let trial = match &self.state.phase {
            Phase::Armed(job) | Phase::Trial(job) | Phase::Proving(job) | Phase::Confirmed(job) => {
                Some(job.build.clone())
            }
            _ => None,
        };
        let overrides = self
            .adapters
            .store
            .overrides(&self.adapters.policy.instance_id);
        let status_file = &mut self.adapters.status_file;
        status_file.change(|status| {
            self.state.phase.name().clone_into(&mut status.phase);
            status.reason = match self.state.phase.job() {
                Some(job) => format!("{} ({})", job.build.version, job.why),
                None => self.state.reason.clone(),
            };
            status.code.clone_from(&self.state.code);
            status.channel.clone_from(&self.adapters.policy.channel);
            status.stable = Some(match self.adapters.slots.leads(Link::Stable) {
                Leads::Slot(build) => build,
                _ => self.stable.clone(),
            });
            status.factory.clone_from(&self.factory);
            status.trial = trial;
            // An earlier run that requested permission has ended.
            status.permission_requested_since = None;
            if let Some(decision) = &self.decision {
                status.wanted = offer.map(actions::build);
                status.wanted_at = match decision {
                    Decision::WaitWave { at, .. }
                    | Decision::WaitWindow { at, .. }
                    | Decision::WaitBackoff { at, .. } => Some(*at),
                    _ => None,
                };
                status.position = offer
                    .map(|offer| plan::position(&offer.digest, &self.adapters.policy.instance_id));
            }
            status.hold = overrides.hold;
            status.pin = overrides.pin;
            status.floor = self.state.floor().cloned();
            status.skipped.clone_from(&self.state.skipped);
            status.failures.clone_from(&self.state.failures);
            status.withheld.clone_from(&self.state.withheld);
            status.metadata = self.state.metadata;
            status.metadata_expires = self.state.metadata_expires;
            status.checked_at = self.state.checked_at;
            status.verified_at = self.state.verified_at;
            status.updated_at = self.state.updated_at;
        });
    }

    fn drop_part(&self, build: &Build) {
        let part = self.adapters.slots.part(&build.digest);
        if let Err(error) = fs::remove_file(&part)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!("cannot remove {}: {error}", part.display());
        }
    }
}

/// The code and the reason of an outcome; empty while all is well.
fn code_and_reason(outcome: &Outcome) -> (String, String) {
    match outcome {
        Outcome::Settled(decision) => (decision.code().to_owned(), decision.to_string()),
        Outcome::Updated { to, from } => (
            String::new(),
            format!("updated from {} to {}", from.version, to.version),
        ),
        Outcome::Postponed { code, reason } => (code.clone(), reason.clone()),
        Outcome::Failed {
            build,
            code,
            reason,
            ..
        } => (code.clone(), format!("{} failed: {reason}", build.version)),
    }
}

#[cfg(test)]
mod tests;
