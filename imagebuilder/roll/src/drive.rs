//! The only loop: observe, [`watch`](super::watch), act; then observe, [`verify`](super::verify), until the fleet is verified.
//!
//! It contains no rules of its own. Detaching from it at any moment leaves the refresh running, and entering it again,
//! from another process, resumes from the refresh's current state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::blame::{self, Codes, Lost};
use super::history::History;
use super::limits::Limits;
use super::observe::{Gaps, Known, Which};
use super::plan::{Direction, Target};
use super::refresh_run::RefreshRun;
use super::smoke::Occasion;
use super::verify::{self, Flaw, Flaws, Rounds, Verification};
use super::view::{FleetView, Lifecycle, Member, Refresh, RefreshStatus, Size};
use super::watch::{self, Cause, Ending, Next, Progress, Seen};
use super::{RollContext, observe, show};
use cloud::ids::InstanceId;
use cloud::{Answer, CloudError, IRREVERSIBLE, Kind, NO_ACTIVE_REFRESH};
use run::ledger::Ledger;
use run::output::Step;

/// How driving a refresh ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Every member is verified to run the target.
    Verified,
    /// The service is done, but the fleet has these flaws.
    Unverified(Flaws),
    /// It did not succeed.
    Ended {
        /// How.
        ending: Ending,
        /// Why we stopped it, if we did.
        stopped: Option<Cause>,
        /// Losses of the new version that the image caused, also when the service stopped the refresh.
        lost: Vec<Lost>,
        /// The service's reason, verbatim.
        reason: String,
    },
    /// The group or the refresh does not exist any more: which of them.
    Missing(String),
    /// We stopped watching; the refresh continues. Why, and its state then.
    Detached(String),
}

/// What one poll of an active refresh found.
enum Observation {
    /// All of it.
    Whole(Box<Refresh>, Size, Vec<Member>),
    /// Something is missing.
    Missing(String),
}

/// How long the service may omit a refresh that it has just started.
const UNLISTED: Duration = Duration::from_secs(120);

/// What the loop remembers between polls.
struct Drive<'a, 'b> {
    context: &'a RollContext<'b>,
    run: &'a RefreshRun,
    ledger: Option<&'a mut Ledger>,
    progress: Progress,
    known: Known,
    history: History,
    codes: Codes,
    listed: bool,
    members: BTreeMap<InstanceId, String>,
    reported: BTreeSet<String>,
}

/// Watches a refresh to its end, acting where the rules require it, and verifies the fleet if it succeeds.
pub(crate) async fn drive(
    context: &RollContext<'_>,
    run: &RefreshRun,
    ledger: Option<&mut Ledger>,
) -> Result<Finish> {
    let mut drive = Drive {
        context,
        run,
        ledger,
        progress: Progress::default(),
        known: Known::default(),
        history: History::default(),
        codes: Codes::new(),
        listed: false,
        members: BTreeMap::new(),
        reported: BTreeSet::new(),
    };
    let group = &context.settings.group;
    // The refresh was named before; a terminal has little space for what the step waits for.
    let step = context.output.step("watch", format!("watch group {group}"));
    match drive.watch(step).await? {
        Some(finish) => Ok(finish),
        None => verify_fleet(context, &run.target, run.limits).await,
    }
}

impl Drive<'_, '_> {
    /// Watches until the refresh is over; `None` when it succeeded and is to be verified.
    async fn watch(&mut self, mut step: Step) -> Result<Option<Finish>> {
        let began = Instant::now();
        loop {
            let context = self.context;
            let Some(observe) = context
                .unless_cancelled(self.observe(&step, began.elapsed()))
                .await
            else {
                step.failed("stopped watching");
                return Ok(Some(detached("stop requested")));
            };
            let (refresh, size, members) = match observe {
                Ok(Observation::Whole(refresh, size, members)) => (*refresh, size, members),
                Ok(Observation::Missing(what)) => {
                    step.failed(&what);
                    return Ok(Some(Finish::Missing(what)));
                }
                Err(error) => match self.retry(&mut step, &error, began.elapsed()).await {
                    Some(finish) => {
                        step.failed("stopped watching");
                        return Ok(Some(finish));
                    }
                    None => continue,
                },
            };
            let lost = blame::losses(refresh.started, self.history.all(), &self.codes);
            self.report_changes(&step, &refresh, &members, &lost);
            let seen = Seen {
                refresh: &refresh,
                lost: &lost,
                desired: size.desired,
                direction: self.run.direction,
            };
            let next = watch::watch(
                &seen,
                self.context.settings,
                &self.progress,
                began.elapsed(),
                self.run.limits.watch,
            );
            match next {
                Next::Poll(what) => {
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
                        return Ok(Some(detached("requested the service to stop the refresh")));
                    }
                }
                Next::Verify => {
                    step.done(refresh.status.to_string());
                    return Ok(None);
                }
                Next::Detach => {
                    step.failed("reached the time limit of watching");
                    return Ok(Some(detached(&format!(
                        "{} after {} s of watching",
                        watch::waiting_for(&refresh),
                        self.run.limits.watch.as_secs()
                    ))));
                }
                Next::End(ending) => {
                    return Ok(Some(self.ended(step, ending, refresh, &lost).await));
                }
            }
        }
    }

    /// Observes the refresh, the fleet, and what happened since the last poll. In this order: the members of a refresh that is
    /// over are its final ones.
    async fn observe(&mut self, step: &Step, watched: Duration) -> Answer<Observation> {
        let RollContext {
            cloud,
            image,
            settings,
            ..
        } = self.context;
        let group = &settings.group;
        let deleted = || Observation::Missing(format!("group {group} was deleted"));
        let id = &self.run.refresh;
        let refresh = match cloud.fleet.refresh(group, id).await {
            // For a deleted group, the service answers this with an error.
            Err(error) if !error.is_transient() => match cloud.fleet.group(group).await? {
                None => return Ok(deleted()),
                Some(_) => return Err(error),
            },
            answer => answer?,
        };
        let Some(refresh) = refresh else {
            let what = format!("the service does not list refresh {id} of group {group}");
            if self.listed || watched > UNLISTED {
                return Ok(Observation::Missing(format!(
                    "{what}: the group was recreated"
                )));
            }
            return Err(CloudError::new(Kind::Other, what, "", ""));
        };
        // All records once, so that every member's first line is complete; then only those of members that are not fit yet.
        let back = match refresh.status {
            RefreshStatus::RollbackInProgress
            | RefreshStatus::RollbackSuccessful
            | RefreshStatus::RollbackFailed => self.run.previous.as_ref(),
            _ => None,
        };
        let which = if self.members.is_empty() {
            Which::All
        } else {
            Which::NotFit(back.unwrap_or(&self.run.target))
        };
        let members = observe::members(cloud, image, group, &mut self.known, which).await?;
        let Some((size, members)) = members else {
            return Ok(deleted());
        };
        self.listed = true;
        match self.history.read(cloud, group, refresh.started).await {
            Err(error) if error.kind == Kind::Denied => {
                if self.reported.insert("activities".into()) {
                    step.info(format!(
                        "{error}: losses are not counted, and the service alone decides"
                    ));
                }
            }
            answer => answer?,
        }
        // As early as it is unhealthy: when the group terminates an instance that shut itself down, EC2 no longer reports who did it.
        let unhealthy = members
            .iter()
            .filter(|member| !member.healthy)
            .map(|member| member.instance.clone());
        let in_doubt = blame::in_doubt(refresh.started, self.history.all());
        for instance in unhealthy.chain(in_doubt) {
            if !self.codes.contains_key(&instance)
                && let Some(found) = cloud.instances.instance(&instance).await?
                && !found.reason_code.is_empty()
            {
                self.codes.insert(instance, found.reason_code);
            }
        }
        if self.known.registry_denied && self.reported.insert("registry".into()) {
            step.info(
                "the registry may not be read (ssm:GetParameters): agent verdicts are not shown",
            );
        }
        Ok(Observation::Whole(Box::new(refresh), size, members))
    }

    /// The end of a refresh that did not succeed, with what the agents of lost instances recorded.
    async fn ended(
        &mut self,
        step: Step,
        ending: Ending,
        refresh: Refresh,
        lost: &[Lost],
    ) -> Finish {
        let blamed = blame::blamed(lost);
        if self.progress.stopped.is_none() {
            for line in agent_reports(self.context, &blamed).await {
                step.info(line);
            }
        }
        // A requested rollback is not a failure.
        match (ending, self.run.direction) {
            (Ending::RolledBack, Direction::Back) => step.done("rolled back"),
            (Ending::RolledBack, Direction::Forward) => step.failed("rolled back"),
            _ => step.failed(refresh.status.to_string()),
        }
        let reason = refresh.rollback_reason.filter(|reason| !reason.is_empty());
        Finish::Ended {
            ending,
            stopped: self.progress.stopped.take(),
            lost: blamed,
            reason: reason.unwrap_or(refresh.reason),
        }
    }

    /// Waits after a poll that failed; `Some` when the watch ends with it.
    async fn retry(
        &self,
        step: &mut Step,
        error: &CloudError,
        watched: Duration,
    ) -> Option<Finish> {
        if let Some(finish) = self.on_poll_error(error, watched) {
            return Some(finish);
        }
        step.waiting(format!("{error}; trying again"));
        self.pause().await.then(|| detached("stop requested"))
    }

    /// What to do when a poll fails: `None` is to poll again, which throttling, time-outs and the
    /// like never end; any other error ends the watch, not the refresh.
    fn on_poll_error(&self, error: &CloudError, watched: Duration) -> Option<Finish> {
        if !error.is_transient() {
            return Some(detached(&error.to_string()));
        }
        if watched >= self.run.limits.watch {
            return Some(detached(&format!("{error}, until the time limit")));
        }
        None
    }

    /// Waits until the next poll; true when the operator requests a stop.
    async fn pause(&self) -> bool {
        let pause = tokio::time::sleep(self.context.settings.poll);
        self.context.unless_cancelled(pause).await.is_none()
    }

    /// Reports changed members, losses, and other failed activities.
    fn report_changes(
        &mut self,
        step: &Step,
        refresh: &Refresh,
        members: &[Member],
        lost: &[Lost],
    ) {
        for member in members {
            let line = show::member(member);
            if self.members.get(&member.instance) != Some(&line) {
                step.info(&line);
                self.members.insert(member.instance.clone(), line);
            }
        }
        let here: BTreeSet<&InstanceId> = members.iter().map(|member| &member.instance).collect();
        self.members.retain(|instance, _| {
            let stays = here.contains(instance);
            if !stays {
                step.info(format!("{instance} removed"));
            }
            stays
        });
        for line in lost.iter().map(ToString::to_string) {
            if self.reported.insert(line.clone()) {
                step.info(line);
            }
        }
        for activity in self.history.all() {
            let recent = refresh.started.is_none() || activity.started >= refresh.started;
            if recent
                && let Some(line) = show::failed_activity(activity)
                && self.reported.insert(activity.id.clone())
            {
                step.info(&line);
            }
        }
    }

    /// Runs the smoke test; a failure stops the refresh.
    async fn test(&mut self, step: &Step, percent: u32) -> Result<()> {
        match smoke(self.context, &self.run.target, percent).await {
            None => return Ok(()),
            Some(Ok(())) => {
                step.info(format!("smoke test passed at {percent} %"));
                self.progress.tested = percent;
            }
            Some(Err(why)) => {
                step.info(format!("smoke test failed at {percent} %: {why}"));
                self.ask_to_stop(step, Cause::SmokeTest(why)).await?;
            }
        }
        Ok(())
    }

    /// Stops the refresh because of losses, and prints what the agents recorded.
    async fn stop(&mut self, step: &mut Step, cause: Cause) -> Result<()> {
        if let Cause::Lost(lost) = &cause {
            step.info(stopped_because(&cause));
            for line in agent_reports(self.context, lost).await {
                step.info(line);
            }
        }
        self.ask_to_stop(step, cause).await
    }

    /// Asks the service to roll back, or where it cannot, to cancel. A transient error is retried
    /// at the next poll, as the cause remains.
    async fn ask_to_stop(&mut self, step: &Step, cause: Cause) -> Result<()> {
        let RollContext {
            cloud, settings, ..
        } = self.context;
        let mut answer = cloud.fleet.roll_back(&settings.group).await;
        let mut asked = "rolling back";
        if let Err(error) = &answer
            && (error.has_code(IRREVERSIBLE) || error.kind == Kind::Invalid)
        {
            step.info(format!("{error}; cancelling instead"));
            answer = cloud.fleet.cancel_refresh(&settings.group).await;
            asked = "cancelling";
        }
        match answer {
            Ok(()) => step.info(asked),
            // It ended between our poll and our call: the next poll shows how.
            Err(error) if error.has_code(NO_ACTIVE_REFRESH) => step.info("it has ended already"),
            Err(error) if error.is_transient() => {
                step.info(format!("{error}; trying again"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.update_roll(|roll| roll.stopped = Some(stopped_because(&cause)))?;
        }
        self.progress.stopped = Some(cause);
        Ok(())
    }
}

/// We stopped watching.
fn detached(why: &str) -> Finish {
    Finish::Detached(why.to_owned())
}

/// Why a refresh was stopped, in one line.
pub(crate) fn stopped_because(cause: &Cause) -> String {
    match cause {
        Cause::Lost(lost) => summary(lost),
        Cause::SmokeTest(why) => format!("the smoke test failed: {why}"),
    }
}

/// How many were lost, and why: one reason for all, or the most recent one.
pub(crate) fn summary(lost: &[Lost]) -> String {
    let Some(last) = lost.last() else {
        return "nothing was lost".into();
    };
    let all = lost.len();
    let launched = lost.iter().filter(|lost| lost.instance.is_some()).count();
    let what = match (launched, all) {
        (0, 1) => "a launch of the new version failed".to_owned(),
        (0, _) => format!("{all} launches of the new version failed"),
        (1, 1) => "an instance of the new version was lost".to_owned(),
        (_, _) if launched == all => format!("{all} instances of the new version were lost"),
        (_, _) => format!("{all} instances of the new version were lost or could not be launched"),
    };
    let because = if all == 1 {
        "because"
    } else if lost.iter().all(|lost| lost.reason == last.reason) {
        "each because"
    } else {
        "the last one because"
    };
    format!("{what}, {because} {}", last.reason)
}

/// Runs the smoke test for a share of the fleet; `None` when there is none.
pub(crate) async fn smoke(
    context: &RollContext<'_>,
    target: &Target,
    percent: u32,
) -> Option<Result<(), String>> {
    let test = context.settings.smoke_test.as_ref()?;
    let occasion = Occasion {
        group: context.settings.group.clone(),
        image: target.image.clone(),
        percent,
    };
    Some(context.smoke.run(test, &occasion).await)
}

/// What the agents of lost instances recorded: in the registry, else on the console.
pub(crate) async fn agent_reports(context: &RollContext<'_>, lost: &[Lost]) -> Vec<String> {
    const AGENT: &str = "imagebuilder-agent:";
    let instances: Vec<&InstanceId> = lost
        .iter()
        .filter_map(|lost| lost.instance.as_ref())
        .collect();
    if instances.is_empty() {
        return Vec::new();
    }
    let records = observe::records(context.cloud, context.image, &instances)
        .await
        .unwrap_or_default();
    let mut lines = Vec::new();
    for instance in instances {
        if let Some(record) = records.get(instance) {
            let reason = if record.reason.is_empty() {
                "no reason given"
            } else {
                &record.reason
            };
            lines.push(format!(
                "{instance} {}: {reason}",
                verify::verdict_text(record.verdict)
            ));
            continue;
        }
        // Best effort: a terminated instance may have no console output.
        let console = context
            .cloud
            .instances
            .console(instance)
            .await
            .unwrap_or_default();
        match console.lines().rev().find(|line| line.contains(AGENT)) {
            Some(line) => lines.push(format!("{instance} on its console: {}", line.trim())),
            None => lines.push(format!("{instance} has no record")),
        }
    }
    lines
}

/// What one poll of a fleet that is to be verified found.
struct Poll {
    flaws: Vec<Flaw>,
    /// Members in service.
    in_service: usize,
    /// Old instances that are still terminating.
    leaving: usize,
}

impl Poll {
    fn of(view: &FleetView, target: &Target) -> Self {
        let in_service = |member: &&Member| member.lifecycle == Lifecycle::InService;
        Self {
            flaws: verify::flaws(view, target),
            in_service: view.members.iter().filter(in_service).count(),
            leaving: verify::leaving(&view.members, target),
        }
    }

    /// The fleet could not be read this time.
    fn failed(error: &CloudError) -> Self {
        Self {
            flaws: vec![Flaw {
                instance: None,
                what: format!("could not be read: {error}"),
                nature: verify::Nature::Settling,
            }],
            in_service: 0,
            leaving: 0,
        }
    }

    /// The text of a verified fleet. `leave` is how long termination may take.
    fn verified(&self, leave: Duration) -> String {
        let verified = self.in_service;
        match self.leaving {
            0 => format!("{verified} of {verified} verified"),
            leaving => format!(
                "{verified} of {verified} verified; {leaving} old instances are still terminating, which may take {}",
                support::duration::elapsed(leave)
            ),
        }
    }
}

/// Polls a fleet that is to be verified.
struct Verifier<'a, 'b> {
    context: &'a RollContext<'b>,
    target: &'a Target,
    known: Known,
    /// Whether there was a poll before.
    polled: bool,
    registry_reported: bool,
}

impl Verifier<'_, '_> {
    /// One poll; `Err` when verifying ends with it. `decides` is whether it may be the last one.
    async fn poll(
        &mut self,
        step: &Step,
        decides: bool,
    ) -> Result<std::result::Result<Poll, Finish>> {
        let RollContext {
            cloud,
            image,
            settings,
            ..
        } = self.context;
        let group = &settings.group;
        // Every record in the first poll and in the one that decides; in between, only those of members that are not fit yet.
        let which = if self.polled && !decides {
            Which::NotFit(self.target)
        } else {
            Which::All
        };
        self.polled = true;
        let mut gaps = Gaps::Refused;
        let observe = observe::find(cloud, image, group, &mut self.known, which, &mut gaps);
        let Some(observe) = self.context.unless_cancelled(observe).await else {
            return Ok(Err(detached(VERIFYING)));
        };
        if self.known.registry_denied && !self.registry_reported {
            self.registry_reported = true;
            step.info(
                "the registry may not be read (ssm:GetParameters): members are verified without it",
            );
        }
        match observe {
            Ok(Some(view)) => Ok(Ok(Poll::of(&view, self.target))),
            Ok(None) => Ok(Err(Finish::Missing(format!("group {group} was deleted")))),
            Err(error) if error.is_transient() => Ok(Ok(Poll::failed(&error))),
            Err(error) => Err(error.into()),
        }
    }
}

/// The state of a refresh whose verification is abandoned.
const VERIFYING: &str = "the refresh is over, its members were being verified";

/// Polls the fleet until it is verified, cannot be, or the time limit is reached.
pub(crate) async fn verify_fleet(
    context: &RollContext<'_>,
    target: &Target,
    limits: Limits,
) -> Result<Finish> {
    let RollContext {
        settings, output, ..
    } = context;
    let mut step = output.step(
        "verify",
        format!(
            "verify every member of group {} on version {}",
            settings.group, target.version
        ),
    );
    let began = Instant::now();
    let mut rounds = Rounds::default();
    let mut verifier = Verifier {
        context,
        target,
        known: Known::default(),
        polled: false,
        registry_reported: false,
    };
    loop {
        let decides = rounds.good() + 1 >= settings.healthy_rounds;
        let poll = match verifier.poll(&step, decides).await? {
            Ok(poll) => poll,
            Err(finish) => {
                step.failed(match &finish {
                    Finish::Missing(what) => what,
                    _ => "stopped watching",
                });
                return Ok(finish);
            }
        };
        let verification = rounds.observe(
            &poll.flaws,
            settings.healthy_rounds,
            limits.verify,
            began.elapsed(),
        );
        let verified = poll.verified(limits.leave);
        match (verification, Flaws::of(poll.flaws)) {
            (Verification::Verified, _) => {
                step.done(verified);
                return Ok(Finish::Verified);
            }
            (Verification::GiveUp, Some(flaws)) => {
                for flaw in flaws.iter() {
                    step.info(flaw.to_string());
                }
                step.failed("not verified");
                return Ok(Finish::Unverified(flaws));
            }
            (Verification::Again | Verification::GiveUp, None) => step.waiting(format!(
                "good {} of {} times",
                rounds.good(),
                settings.healthy_rounds
            )),
            (Verification::Again, Some(flaws)) => step.waiting(flaws.to_string()),
        }
        let pause = tokio::time::sleep(settings.poll);
        if context.unless_cancelled(pause).await.is_none() {
            step.failed("stopped watching");
            return Ok(detached(VERIFYING));
        }
    }
}

/// Waits for another run's refresh to finish; `Some` with its state when that took too long.
pub(crate) async fn until_free(
    context: &RollContext<'_>,
    limit: Duration,
) -> Result<Option<String>> {
    let RollContext {
        cloud,
        settings,
        output,
        ..
    } = context;
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
            Err(error) if error.is_transient() => format!("{error}; trying again"),
            Err(error) => return Err(error.into()),
        };
        step.waiting(waiting.clone());
        let patient = began.elapsed() < limit
            && context
                .unless_cancelled(tokio::time::sleep(settings.poll))
                .await
                .is_some();
        if !patient {
            step.failed("stopped waiting");
            return Ok(Some(waiting));
        }
    }
}
