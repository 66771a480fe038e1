//! Targets: the effects of health checks, drains and instance states on them.
//!
//! The rules here are pure; time and instances are arguments.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::ec2_view::{Ec2View, InstanceState};
use super::groups::TargetGroup;
use crate::balancer_source::CheckOutcome;
use crate::ids::InstanceId;

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// The instance.
    pub(super) id: InstanceId,
    /// The port on which it receives requests.
    pub(super) port: u16,
    /// Its state according to health checks.
    pub(super) verdict: Verdict,
    /// Consecutive passes, counted up to the threshold.
    pub(super) passes: u32,
    /// Consecutive failures, counted up to the threshold.
    pub(super) failures: u32,
    /// The failure of the last failed check.
    pub(super) failed: Option<Failure>,
    /// When it started draining, if it has.
    pub(super) draining: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    Registering,
    Checking,
    Healthy,
    Unhealthy,
}

/// The failure of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// An answer with this status.
    Status(u16),
    /// No answer in time.
    Timeout,
    /// No connection.
    Refused,
}

/// The health of a target in DescribeTargetHealth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// `healthy`
    Healthy,
    /// `initial`, before the first check's outcome.
    Registering,
    /// `initial`, between first check and verdict.
    Checking,
    /// `unhealthy`
    Unhealthy(Failure),
    /// `draining`
    Draining,
    /// `unused`: no listener forwards to the group.
    NotInUse,
    /// `unused`: the instance does not run.
    NotRunning,
    /// `unused`: it is not registered.
    NotRegistered,
}

impl Health {
    /// ELB's name for it.
    pub(super) fn state(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Registering | Self::Checking => "initial",
            Self::Unhealthy(_) => "unhealthy",
            Self::Draining => "draining",
            Self::NotInUse | Self::NotRunning | Self::NotRegistered => "unused",
        }
    }

    /// Code and description of the reason; none for `healthy`.
    pub(super) fn reason(self) -> Option<(&'static str, String)> {
        let (code, description) = match self {
            Self::Healthy => return None,
            Self::Registering => (
                "Elb.RegistrationInProgress",
                "Target registration is in progress",
            ),
            Self::Checking => (
                "Elb.InitialHealthChecking",
                "Initial health checks in progress",
            ),
            Self::Unhealthy(Failure::Status(status)) => {
                return Some((
                    "Target.ResponseCodeMismatch",
                    format!("Health checks failed with these codes: [{status}]"),
                ));
            }
            Self::Unhealthy(Failure::Timeout) => ("Target.Timeout", "Request timed out"),
            Self::Unhealthy(Failure::Refused) => {
                ("Target.FailedHealthChecks", "Health checks failed")
            }
            Self::Draining => (
                "Target.DeregistrationInProgress",
                "Target deregistration is in progress",
            ),
            Self::NotInUse => (
                "Target.NotInUse",
                "Target group is not configured to receive traffic from the load balancer",
            ),
            Self::NotRunning => ("Target.InvalidState", "Target is in the stopped state"),
            Self::NotRegistered => (
                "Target.NotRegistered",
                "Target is not registered to the target group",
            ),
        };
        Some((code, description.to_owned()))
    }
}

impl Target {
    /// A target registered just now.
    pub(super) fn new(id: &InstanceId, port: u16) -> Self {
        Self {
            id: id.clone(),
            port,
            verdict: Verdict::Registering,
            passes: 0,
            failures: 0,
            failed: None,
            draining: None,
        }
    }

    /// Whether it is draining.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Counts one health check. A new target needs one pass, an unhealthy one as many consecutive passes as its
    /// threshold; a target becomes unhealthy after as many consecutive failures as that threshold.
    pub(super) fn count(
        &mut self,
        outcome: CheckOutcome,
        healthy_after: u32,
        unhealthy_after: u32,
    ) {
        if self.is_draining() {
            return;
        }
        let failure = match outcome {
            CheckOutcome::Pass => None,
            CheckOutcome::WrongStatus(status) => Some(Failure::Status(status)),
            CheckOutcome::Timeout => Some(Failure::Timeout),
            CheckOutcome::Refused => Some(Failure::Refused),
        };
        match failure {
            None => {
                self.failures = 0;
                self.passes = healthy_after.min(self.passes + 1);
                if self.verdict != Verdict::Unhealthy || self.passes == healthy_after {
                    self.verdict = Verdict::Healthy;
                }
            }
            Some(_) => {
                self.passes = 0;
                self.failures = unhealthy_after.min(self.failures + 1);
                self.failed = failure;
                if self.failures == unhealthy_after {
                    self.verdict = Verdict::Unhealthy;
                } else if self.verdict == Verdict::Registering {
                    self.verdict = Verdict::Checking;
                }
            }
        }
    }
}

impl TargetGroup {
    /// The registration of an instance on a port.
    pub(super) fn target(&self, id: &InstanceId, port: u16) -> Option<&Target> {
        self.targets
            .iter()
            .find(|target| target.id == *id && target.port == port)
    }

    /// Registers a target; a draining one starts as new, a registered one is not changed.
    pub(super) fn register(&mut self, id: &InstanceId, port: u16) {
        let fresh = Target::new(id, port);
        let place = self
            .targets
            .first_where(|target| target.id == *id && target.port == port);
        match place {
            Some(place) if self.targets[place].is_draining() => self.targets.put(place, fresh),
            Some(_) => {}
            None => drop(self.targets.push(fresh)),
        }
    }

    /// Deregisters a target from one port, or from all: it drains if requests may be in flight, and is removed at once
    /// if no listener forwards to the group.
    pub(super) fn deregister(
        &mut self,
        id: &InstanceId,
        port: Option<u16>,
        in_use: bool,
        now: Timestamp,
    ) {
        let named =
            |target: &Target| target.id == *id && port.is_none_or(|port| port == target.port);
        if !in_use || self.delay == 0 {
            self.targets.remove_where(named);
        }
        self.targets.update_where(
            |target| named(target) && !target.is_draining(),
            |target| target.draining = Some(now),
        );
    }

    /// The health of a target; `None` when it has drained.
    pub(super) fn health(
        &self,
        target: &Target,
        in_use: bool,
        ec2: &dyn Ec2View,
        now: Timestamp,
    ) -> Option<Health> {
        if let Some(since) = target.draining {
            return (now < self.drained_at(since)).then_some(Health::Draining);
        }
        if !in_use {
            return Some(Health::NotInUse);
        }
        let runs = ec2.instance_view(&target.id).is_some_and(|machine| {
            matches!(
                machine.state,
                InstanceState::Running | InstanceState::Pending
            )
        });
        Some(match (runs, target.verdict) {
            (false, _) => Health::NotRunning,
            (true, Verdict::Registering) => Health::Registering,
            (true, Verdict::Checking) => Health::Checking,
            (true, Verdict::Healthy) => Health::Healthy,
            (true, Verdict::Unhealthy) => {
                Health::Unhealthy(target.failed.unwrap_or(Failure::Refused))
            }
        })
    }

    /// Whether there is anything for [`TargetGroup::forget_departed`] to do.
    pub(super) fn has_departed(&self, ec2: &dyn Ec2View, now: Timestamp) -> bool {
        self.targets.iter().any(|target| {
            let drained = target
                .draining
                .is_some_and(|since| now >= self.drained_at(since));
            let runs = ec2.instance_view(&target.id).is_some_and(|machine| {
                matches!(
                    machine.state,
                    InstanceState::Running | InstanceState::Pending
                )
            });
            drained || !runs
        })
    }

    /// Deregisters targets whose instance is terminated, resets stopped ones, and removes those that have drained.
    pub(super) fn forget_departed(&mut self, in_use: bool, ec2: &dyn Ec2View, now: Timestamp) {
        let mut terminated = Vec::new();
        for place in self.targets.places() {
            let target = &self.targets[place];
            match ec2.instance_view(&target.id).map(|machine| machine.state) {
                None | Some(InstanceState::Terminated) => terminated.push(target.id.clone()),
                Some(InstanceState::Stopped) if !target.is_draining() => {
                    // Its health before the stop does not apply after the next start.
                    let afresh = Target::new(&target.id, target.port);
                    if *target != afresh {
                        self.targets.put(place, afresh);
                    }
                }
                Some(_) => {}
            }
        }
        for id in terminated {
            self.deregister(&id, None, in_use, now);
        }
        let delay = self.delay;
        self.targets.remove_where(|target| {
            target
                .draining
                .is_some_and(|since| now >= since + SignedDuration::from_secs(delay.into()))
        });
    }

    pub(super) fn drained_at(&self, since: Timestamp) -> Timestamp {
        since + SignedDuration::from_secs(self.delay.into())
    }
}
