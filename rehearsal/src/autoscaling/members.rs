//! A member of a group: where it stands in its life, and the lifecycle actions open on it.
//!
//! Owns the types and the arithmetic of heartbeats. Must not reach the cloud; `life` moves members.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::groups::{Hook, HookResult};
use super::refresh::{TemplateRef, after};

/// LifecycleState.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LifecycleState {
    /// Launched; EC2 says `pending`.
    Pending,
    /// Launch hooks are open.
    PendingWait,
    /// Launch hooks are through; about to be registered.
    PendingProceed,
    /// Serving.
    InService,
    /// On its way to standby: targets drain.
    EnteringStandby,
    /// In the group, out of service.
    Standby,
    /// On its way out: targets drain.
    Terminating,
    /// Termination hooks are open.
    TerminatingWait,
    /// EC2 was told to terminate it.
    TerminatingProceed,
    /// Kept after an abandoned termination hook.
    TerminatingRetained,
    /// On its way out of the group, but not of EC2.
    Detaching,
}

impl LifecycleState {
    /// As the wire has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::PendingWait => "Pending:Wait",
            Self::PendingProceed => "Pending:Proceed",
            Self::InService => "InService",
            Self::EnteringStandby => "EnteringStandby",
            Self::Standby => "Standby",
            Self::Terminating => "Terminating",
            Self::TerminatingWait => "Terminating:Wait",
            Self::TerminatingProceed => "Terminating:Proceed",
            Self::TerminatingRetained => "Terminating:Retained",
            Self::Detaching => "Detaching",
        }
    }

    /// What IMDS tells the instance: where it is going, never where it is.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Pending | Self::PendingWait | Self::PendingProceed | Self::InService => {
                "InService"
            }
            Self::EnteringStandby | Self::Standby => "Standby",
            Self::Terminating
            | Self::TerminatingWait
            | Self::TerminatingProceed
            | Self::TerminatingRetained => "Terminated",
            Self::Detaching => "Detached",
        }
    }

    /// Counts towards desired capacity.
    pub(crate) fn is_counted(self) -> bool {
        self.is_pending() || self == Self::InService
    }

    /// Launched and not in service yet.
    pub(crate) fn is_pending(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::PendingWait | Self::PendingProceed
        )
    }

    /// On its way out, but not yet gone; a retained member stays until told otherwise.
    pub(crate) fn is_being_removed(self) -> bool {
        matches!(
            self,
            Self::Terminating | Self::TerminatingWait | Self::TerminatingProceed | Self::Detaching
        )
    }
}

/// Why a member is unhealthy, or that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Health {
    /// As far as anyone knows.
    Healthy,
    /// EC2 says it does not run.
    BadInstance,
    /// A status check of EC2's fails.
    BadChecks,
    /// A target group calls it unhealthy.
    BadTarget,
    /// SetInstanceHealth said so.
    Reported,
}

impl Health {
    /// As the wire has it.
    pub(crate) fn as_str(self) -> &'static str {
        if self == Self::Healthy {
            "Healthy"
        } else {
            "Unhealthy"
        }
    }
}

/// One hook's action on one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LifecycleAction {
    /// The hook's name.
    pub(crate) hook: String,
    /// LifecycleActionToken.
    pub(crate) token: String,
    /// The timer's full length in seconds.
    pub(crate) heartbeat: u32,
    /// When silence becomes the default result.
    pub(crate) deadline: Timestamp,
    /// No heartbeat extends beyond this.
    pub(crate) hard_end: Timestamp,
    /// What silence means.
    pub(crate) default_result: HookResult,
    /// The answer, once there is one.
    pub(crate) result: Option<HookResult>,
    /// Whether the answer was silence.
    pub(crate) timed_out: bool,
}

impl LifecycleAction {
    /// Opens a hook's action now.
    pub(crate) fn open(hook: &Hook, token: String, now: Timestamp) -> Self {
        Self {
            hook: hook.name.clone(),
            token,
            heartbeat: hook.heartbeat,
            deadline: after(now, i64::from(hook.heartbeat)),
            hard_end: after(now, hook.global_timeout()),
            default_result: hook.default_result,
            result: None,
            timed_out: false,
        }
    }

    /// Sets the timer back to its full length, but never beyond the hard end.
    pub(crate) fn beat(&mut self, now: Timestamp) {
        self.deadline = after(now, i64::from(self.heartbeat)).min(self.hard_end);
    }

    /// Lets silence count once the deadline has passed.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        if self.result.is_none() && now >= self.deadline {
            self.result = Some(self.default_result);
            self.timed_out = true;
        }
    }
}

/// What the open actions of a member amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HookVerdict {
    /// Someone has not answered.
    Waiting,
    /// All said CONTINUE.
    Proceed,
    /// One said ABANDON, which ends the wait for the others; the text is the activity's.
    Abandoned(String),
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// `i-…`
    pub(crate) id: String,
    /// Its zone.
    pub(crate) zone: String,
    /// Its type.
    pub(crate) instance_type: String,
    /// The template it was launched from; the version is a number.
    pub(crate) template: TemplateRef,
    /// Where it stands.
    pub(crate) state: LifecycleState,
    /// HealthStatus.
    pub(crate) health: Health,
    /// ProtectedFromScaleIn.
    pub(crate) protected: bool,
    /// When it was launched.
    pub(crate) launched: Timestamp,
    /// When it came into service, for grace and warm-up.
    pub(crate) in_service_since: Option<Timestamp>,
    /// Lifecycle actions of the present wait.
    pub(crate) actions: Vec<LifecycleAction>,
    /// Target groups it was registered with by the group.
    pub(crate) registered: Vec<String>,
    /// The activity that is about it now.
    pub(crate) activity: String,
    /// Leave without asking termination hooks (failed launches, force delete).
    pub(crate) skip_hooks: bool,
}

impl Member {
    /// Whether it may count as a working instance.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health == Health::Healthy
    }

    /// Whether it has been in service for `warmup` seconds.
    pub(crate) fn is_warm(&self, warmup: u32, now: Timestamp) -> bool {
        self.in_service_since
            .is_some_and(|since| now >= after(since, i64::from(warmup)))
    }

    /// Whether ELB findings do not count yet.
    pub(crate) fn in_grace(&self, grace: u32, now: Timestamp) -> bool {
        !self.is_warm(grace, now)
    }

    /// What its actions amount to now, silence included.
    pub(crate) fn hook_verdict(&mut self, now: Timestamp) -> HookVerdict {
        for action in &mut self.actions {
            action.expire(now);
        }
        if let Some(bad) = self
            .actions
            .iter()
            .find(|a| a.result == Some(HookResult::Abandon))
        {
            let how = if bad.timed_out {
                "was abandoned: Heartbeat Timeout"
            } else {
                "was abandoned: Lifecycle Action Completed with ABANDON Result"
            };
            return HookVerdict::Abandoned(format!(
                "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token {} {how}",
                bad.token
            ));
        }
        if self
            .actions
            .iter()
            .all(|a| a.result == Some(HookResult::Continue))
        {
            HookVerdict::Proceed
        } else {
            HookVerdict::Waiting
        }
    }
}
