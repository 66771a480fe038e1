//! The data of an Auto Scaling group: its settings, hooks, members, activity log and refreshes.
//!
//! Owns the types and what can be derived from them alone. Must not reach the cloud and must not change state.

use std::collections::{BTreeMap, BTreeSet};

use instance_refresh::{Refresh, RefreshStatus, TemplateRef};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::activities::{ActivityLog, ActivityStatus};
use super::environment::Place;
use super::members::Member;
use crate::ids::{GroupName, InstanceId, SubnetId, TargetGroupArn};
use crate::table::Series;

/// The longest time that a lifecycle action may stay open, with any number of heartbeats, in seconds.
const LONGEST_ACTION: i64 = 48 * 3600;

/// The processes of SuspendProcesses.
pub(crate) const PROCESSES: [&str; 9] = [
    "Launch",
    "Terminate",
    "AddToLoadBalancer",
    "AlarmNotification",
    "AZRebalance",
    "HealthCheck",
    "InstanceRefresh",
    "ReplaceUnhealthy",
    "ScheduledActions",
];

/// The transition that a hook applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Transition {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`
    Launching,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`
    Terminating,
}

impl Transition {
    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "autoscaling:EC2_INSTANCE_LAUNCHING",
            Self::Terminating => "autoscaling:EC2_INSTANCE_TERMINATING",
        }
    }
}

/// The result of a lifecycle action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HookResult {
    /// `CONTINUE`
    Continue,
    /// `ABANDON`
    Abandon,
}

impl HookResult {
    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
        }
    }
}

/// A lifecycle hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// Unique in the group.
    pub(crate) name: String,
    /// Launching or terminating.
    pub(crate) transition: Transition,
    /// HeartbeatTimeout in seconds.
    pub(crate) heartbeat: u32,
    /// The result after a timeout.
    pub(crate) default_result: HookResult,
    /// NotificationMetadata, kept and shown.
    pub(crate) metadata: Option<String>,
    /// NotificationTargetARN, kept and shown; nothing is sent.
    pub(crate) notify: Option<String>,
    /// RoleARN, kept and shown.
    pub(crate) role: Option<String>,
}

impl Hook {
    /// GlobalTimeout: the hard end of an action, in seconds.
    pub(crate) fn global_timeout(&self) -> i64 {
        LONGEST_ACTION.min(100 * i64::from(self.heartbeat))
    }
}

/// A tag of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupTag {
    /// Its value.
    pub(crate) value: String,
    /// Whether it is added to new instances.
    pub(crate) propagate: bool,
}

/// InstanceMaintenancePolicy; `None` is the wire's -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MaintenancePolicy {
    /// MinHealthyPercentage.
    pub(crate) min: u32,
    /// MaxHealthyPercentage.
    pub(crate) max: u32,
}

/// What decides whether a member is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HealthType {
    /// Only EC2's own state.
    Ec2,
    /// EC2 and the attached target groups.
    Elb,
}

/// An Auto Scaling group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: GroupName,
    /// Its ARN.
    pub(crate) arn: String,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// The saved launch template; a refresh changes it only when it succeeds.
    pub(crate) template: TemplateRef,
    /// MinSize.
    pub(crate) min_size: u32,
    /// MaxSize.
    pub(crate) max_size: u32,
    /// DesiredCapacity.
    pub(crate) desired: u32,
    /// DefaultCooldown, kept and shown (there are no scaling policies).
    pub(crate) cooldown: u32,
    /// AvailabilityZones.
    pub(crate) zones: Vec<String>,
    /// Subnets of VPCZoneIdentifier.
    pub(crate) subnets: Vec<SubnetId>,
    /// Attached target groups.
    pub(crate) target_groups: Vec<TargetGroupArn>,
    /// HealthCheckType.
    pub(crate) health_type: HealthType,
    /// HealthCheckGracePeriod in seconds.
    pub(crate) grace: u32,
    /// DefaultInstanceWarmup in seconds.
    pub(crate) default_warmup: Option<u32>,
    /// TerminationPolicies.
    pub(crate) termination_policies: Vec<String>,
    /// NewInstancesProtectedFromScaleIn.
    pub(crate) protect_new: bool,
    /// CapacityRebalance, kept and shown.
    pub(crate) capacity_rebalance: bool,
    /// InstanceMaintenancePolicy.
    pub(crate) maintenance: Option<MaintenancePolicy>,
    /// InstanceLifecyclePolicy: TerminateHookAbandon=retain.
    pub(crate) retain_abandoned: bool,
    /// Tags by key.
    pub(crate) tags: BTreeMap<String, GroupTag>,
    /// Lifecycle hooks by name.
    pub(crate) hooks: BTreeMap<String, Hook>,
    /// Suspended processes.
    pub(crate) suspended: BTreeSet<String>,
    /// Members, oldest first, including those that are being removed.
    #[serde(skip)]
    pub(crate) members: Series<Member>,
    /// Scaling activities.
    #[serde(skip)]
    pub(crate) activity_log: ActivityLog,
    /// Instance refreshes, oldest first.
    #[serde(skip)]
    pub(crate) refreshes: Series<Refresh>,
    /// Whether it is being force-deleted: it is removed with the last member.
    pub(crate) deleting: bool,
    /// Why desired capacity is what it is, for the next activities' causes.
    pub(crate) capacity_cause: Option<String>,
    /// Launches that failed in a row.
    pub(crate) launch_failures: u32,
    /// The earliest time of the next launch, after failed launches.
    pub(crate) launch_not_before: Option<Timestamp>,
    /// Unhealthy members that were removed and whose replacement was not launched yet.
    pub(crate) unreplaced: u32,
}

impl Group {
    /// The group without its members, activities and refreshes.
    pub(crate) fn settings(&self) -> Self {
        Self {
            members: Series::default(),
            activity_log: ActivityLog::default(),
            refreshes: Series::default(),
            ..self.clone()
        }
    }

    /// Whether a process is suspended.
    pub(crate) fn is_suspended(&self, process: &str) -> bool {
        self.suspended.contains(process)
    }

    /// The active refresh, if any.
    pub(crate) fn active_refresh(&self) -> Option<&Refresh> {
        self.refreshes.iter().rev().find(|r| r.status.is_active())
    }

    /// The active refresh, to change it.
    pub(crate) fn active_refresh_mut(&mut self) -> Option<&mut Refresh> {
        let place = self.refreshes.last_where(|r| r.status.is_active())?;
        self.refreshes.get_mut(place)
    }

    /// The places where it may have instances.
    pub(crate) fn places(&self) -> Vec<Place> {
        if self.subnets.is_empty() {
            self.zones.iter().cloned().map(Place::Zone).collect()
        } else {
            self.subnets.iter().cloned().map(Place::Subnet).collect()
        }
    }

    /// The template of all new launches: an active refresh's target, else the saved template.
    pub(crate) fn launch_template(&self) -> &TemplateRef {
        self.active_refresh()
            .filter(|r| r.status != RefreshStatus::Cancelling)
            .map_or(&self.template, |r| &r.target)
    }

    /// Members that count towards desired capacity: Pending and InService.
    pub(crate) fn counted(&self) -> u32 {
        let counted = self.members.iter().filter(|m| m.state.is_counted()).count();
        u32::try_from(counted).unwrap_or(u32::MAX)
    }

    /// The member with this instance id.
    pub(crate) fn member(&self, id: &InstanceId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == *id)
    }

    /// The position of the member with this instance id.
    pub(crate) fn position(&self, id: &InstanceId) -> Option<usize> {
        self.members.first_where(|m| m.id == *id)
    }

    /// Updates the activity of the member at `position`.
    pub(crate) fn update_activity(
        &mut self,
        position: usize,
        status: ActivityStatus,
        now: Timestamp,
    ) {
        self.activity_log
            .update(&self.members[position].activity, status, now);
    }
}
