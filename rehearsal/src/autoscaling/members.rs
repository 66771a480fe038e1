//! A member of a group: its lifecycle state, and its open lifecycle actions.
//!
//! Owns the types and the arithmetic of heartbeats. Must not reach the cloud; `lifecycle` moves members.

use instance_refresh::{TemplateRef, after};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::groups::{Hook, HookResult};
use crate::ids::{InstanceId, TargetGroupArn};

/// LifecycleState.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LifecycleState {
    /// Launched; `pending` in EC2.
    Pending,
    /// Launch hooks are open.
    PendingWait,
    /// Launch hooks are complete; about to be registered.
    PendingProceed,
    /// In service.
    InService,
    /// Entering standby: targets drain.
    EnteringStandby,
    /// In the group, not in service.
    Standby,
    /// Being terminated: targets drain.
    Terminating,
    /// Termination hooks are open.
    TerminatingWait,
    /// TerminateInstances was called.
    TerminatingProceed,
    /// Kept after an abandoned termination hook.
    TerminatingRetained,
    /// Being detached from the group; the instance stays in EC2.
    Detaching,
}

impl LifecycleState {
    /// Its name in the API.
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

    /// The target lifecycle state in IMDS: the state that it is to reach, not its current one.
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

    /// Whether it counts towards desired capacity.
    pub(crate) fn is_counted(self) -> bool {
        self.is_pending() || self == Self::InService
    }

    /// Whether it is launched and not in service yet.
    pub(crate) fn is_pending(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::PendingWait | Self::PendingProceed
        )
    }

    /// Whether it is being removed; a retained member stays until an operator removes it.
    pub(crate) fn is_being_removed(self) -> bool {
        matches!(
            self,
            Self::Terminating | Self::TerminatingWait | Self::TerminatingProceed | Self::Detaching
        )
    }
}

/// The health of a member, and why it is unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Health {
    /// No problem is known.
    Healthy,
    /// It does not run in EC2.
    BadInstance,
    /// An EC2 status check fails.
    BadChecks,
    /// It is unhealthy in a target group.
    BadTarget,
    /// Set by SetInstanceHealth.
    Reported,
}

impl Health {
    /// Its name in the API.
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
    /// The heartbeat timeout in seconds.
    pub(crate) heartbeat: u32,
    /// When it times out.
    pub(crate) deadline: Timestamp,
    /// The global timeout, which heartbeats do not extend.
    pub(crate) hard_end: Timestamp,
    /// The result after a timeout.
    pub(crate) default_result: HookResult,
    /// The result, once there is one.
    pub(crate) result: Option<HookResult>,
    /// Whether it timed out.
    pub(crate) timed_out: bool,
}

impl LifecycleAction {
    /// Opens an action of a hook now.
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

    /// Records a heartbeat: restarts the timer, but not beyond the global timeout.
    pub(crate) fn beat(&mut self, now: Timestamp) {
        self.deadline = after(now, i64::from(self.heartbeat)).min(self.hard_end);
    }

    /// Sets the default result once the deadline has passed.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        if self.result.is_none() && now >= self.deadline {
            self.result = Some(self.default_result);
            self.timed_out = true;
        }
    }
}

/// The combined result of a member's actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HookVerdict {
    /// At least one action is open.
    Waiting,
    /// All ended with CONTINUE.
    Proceed,
    /// One ended with ABANDON, which ends the others as well; the text is the activity's message.
    Abandoned(String),
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The instance.
    pub(crate) id: InstanceId,
    /// Its zone.
    pub(crate) zone: String,
    /// Its type.
    pub(crate) instance_type: String,
    /// The template it was launched from; the version is a number.
    pub(crate) template: TemplateRef,
    /// Its lifecycle state.
    pub(crate) state: LifecycleState,
    /// HealthStatus.
    pub(crate) health: Health,
    /// ProtectedFromScaleIn.
    pub(crate) protected: bool,
    /// When it was launched.
    pub(crate) launched: Timestamp,
    /// When it came into service, for grace and warm-up.
    pub(crate) in_service_since: Option<Timestamp>,
    /// Lifecycle actions of its current state.
    pub(crate) actions: Vec<LifecycleAction>,
    /// Target groups it was registered with by the group.
    pub(crate) registered: Vec<TargetGroupArn>,
    /// The id of its current activity.
    pub(crate) activity: String,
    /// Whether termination hooks are skipped (failed launches, force delete).
    pub(crate) skip_hooks: bool,
}

impl Member {
    /// Whether it is healthy.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health == Health::Healthy
    }

    /// Whether it has been in service for `warmup` seconds.
    pub(crate) fn is_warm(&self, warmup: u32, now: Timestamp) -> bool {
        self.in_service_since
            .is_some_and(|since| now >= after(since, i64::from(warmup)))
    }

    /// Whether the grace period lasts, in which ELB health does not count.
    pub(crate) fn in_grace(&self, grace: u32, now: Timestamp) -> bool {
        !self.is_warm(grace, now)
    }

    /// The combined result of its actions now, timeouts included.
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
