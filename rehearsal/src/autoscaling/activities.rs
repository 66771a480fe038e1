//! Scaling activities: a group's activity log, with AWS's texts.
//!
//! Owns the record and its texts. Must not decide anything.
//!
//! The rule: clients distinguish causes by these texts, so each is what AWS writes (`docs/fidelity.md` lists them with
//! their sources), and a failed or cancelled activity has a reason: [`ActivityStatus`] cannot be constructed without.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::table::Series;

/// How many activities a group keeps; AWS keeps six weeks, a rehearsal needs fewer.
const REMEMBERED: usize = 5000;

/// The status of an activity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ActivityStatus {
    /// A launch that has not reached InService.
    PreInService,
    /// Under way.
    InProgress,
    /// The targets of an instance that is being removed are draining.
    WaitingForELBConnectionDraining,
    /// A lifecycle hook is open.
    MidLifecycleAction,
    /// Done.
    Successful,
    /// Failed, for this reason.
    Failed(String),
    /// Cancelled for this reason, e.g. ABANDON.
    Cancelled(String),
}

impl ActivityStatus {
    /// StatusCode.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::PreInService => "PreInService",
            Self::InProgress => "InProgress",
            Self::WaitingForELBConnectionDraining => "WaitingForELBConnectionDraining",
            Self::MidLifecycleAction => "MidLifecycleAction",
            Self::Successful => "Successful",
            Self::Failed(_) => "Failed",
            Self::Cancelled(_) => "Cancelled",
        }
    }

    /// StatusMessage: why it failed or was cancelled.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            Self::Failed(why) | Self::Cancelled(why) => Some(why),
            _ => None,
        }
    }

    /// Progress, 0 to 100.
    pub(crate) fn progress(&self) -> u32 {
        match self {
            Self::PreInService => 30,
            Self::InProgress | Self::WaitingForELBConnectionDraining | Self::MidLifecycleAction => {
                50
            }
            Self::Successful | Self::Failed(_) | Self::Cancelled(_) => 100,
        }
    }

    fn ended(&self) -> bool {
        self.progress() == 100
    }
}

/// One scaling activity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Activity {
    /// A UUID.
    pub(crate) id: String,
    /// The start of its description, e.g. `Launching a new EC2 instance: i-…`; see [`Activity::description`].
    pub(crate) what: String,
    /// Its cause, in AWS's text.
    pub(crate) cause: String,
    /// When it started.
    pub(crate) started: Timestamp,
    /// When it ended.
    pub(crate) ended: Option<Timestamp>,
    /// Its status.
    pub(crate) status: ActivityStatus,
    /// JSON with subnet and zone.
    pub(crate) details: String,
}

impl Activity {
    /// An activity that starts now; one that has failed also ends now.
    pub(crate) fn begin(
        id: String,
        what: String,
        cause: String,
        status: ActivityStatus,
        details: String,
        now: Timestamp,
    ) -> Self {
        let ended = status.ended().then_some(now);
        Self {
            id,
            what,
            cause,
            started: now,
            ended,
            status,
            details,
        }
    }

    /// Description: the activity, and the reason for its failure or what it waits for.
    pub(crate) fn description(&self) -> String {
        let what = &self.what;
        match &self.status {
            ActivityStatus::Failed(why) | ActivityStatus::Cancelled(why) => {
                format!("{what}.  Status Reason: {why}")
            }
            ActivityStatus::WaitingForELBConnectionDraining => {
                format!("{what} - Waiting For ELB Connection Draining.")
            }
            _ => what.clone(),
        }
    }
}

/// The message of a launch that EC2 refused for this reason.
pub(crate) fn launch_refused(reason: &str) -> ActivityStatus {
    let reason = reason.trim_end().trim_end_matches('.');
    ActivityStatus::Failed(format!("{reason}. Launching EC2 instance failed."))
}

/// The message of a launch whose instance went down before it was in service, with EC2's reason when it has one.
pub(crate) fn died(reason: Option<&str>) -> String {
    let why = reason.map(|reason| format!(" Termination Reason: {reason}"));
    format!(
        "Instance became unhealthy while waiting for instance to be in InService state.{}",
        why.unwrap_or_default()
    )
}

/// A group's activities, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActivityLog(pub(crate) Series<Activity>);

impl ActivityLog {
    /// Adds one.
    pub(crate) fn add(&mut self, activity: Activity) {
        if self.0.len() >= REMEMBERED {
            self.0.forget_first(REMEMBERED / 5);
        }
        self.0.push(activity);
    }

    /// Updates an open activity; a closed one is not changed.
    pub(crate) fn update(&mut self, id: &str, status: ActivityStatus, now: Timestamp) {
        let place = self.0.last_where(|activity| activity.id == id);
        let open = place.filter(|place| !self.0[*place].status.ended());
        let Some(activity) = open.and_then(|place| self.0.get_mut(place)) else {
            return;
        };
        activity.ended = status.ended().then_some(now);
        activity.status = status;
    }

    /// Newest first, as the API lists them.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Activity> {
        self.0.iter().rev()
    }

    /// The activity with this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Activity> {
        self.0.iter().rev().find(|a| a.id == id)
    }
}

/// A time in the format of AWS's causes: whole seconds, UTC.
pub(crate) fn moment(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
