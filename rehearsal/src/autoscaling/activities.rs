//! Scaling activities: the group's diary, in AWS's words.
//!
//! Owns the record and its texts. Must not decide anything.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::table::Series;

/// How many activities a group remembers; AWS keeps six weeks, a rehearsal needs fewer.
const REMEMBERED: usize = 5000;

/// StatusCode of an activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ActivityStatus {
    /// A launch before InService.
    PreInService,
    /// Under way.
    InProgress,
    /// A leaving instance's targets are draining.
    WaitingForELBConnectionDraining,
    /// A lifecycle hook is open.
    MidLifecycleAction,
    /// Done.
    Successful,
    /// Could not be done.
    Failed,
    /// Given up, e.g. by ABANDON.
    Cancelled,
}

impl ActivityStatus {
    /// As the wire has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PreInService => "PreInService",
            Self::InProgress => "InProgress",
            Self::WaitingForELBConnectionDraining => "WaitingForELBConnectionDraining",
            Self::MidLifecycleAction => "MidLifecycleAction",
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    fn ended(self) -> bool {
        matches!(self, Self::Successful | Self::Failed | Self::Cancelled)
    }
}

/// One scaling activity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Activity {
    /// A UUID.
    pub(crate) id: String,
    /// e.g. `Launching a new EC2 instance: i-…`
    pub(crate) description: String,
    /// Why, in AWS's words.
    pub(crate) cause: String,
    /// When it began.
    pub(crate) started: Timestamp,
    /// When it ended.
    pub(crate) ended: Option<Timestamp>,
    /// How it stands.
    pub(crate) status: ActivityStatus,
    /// Why it failed or was cancelled.
    pub(crate) message: Option<String>,
    /// 0 to 100.
    pub(crate) progress: u32,
    /// JSON with subnet and zone.
    pub(crate) details: String,
}

/// A group's activities, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Diary(pub(crate) Series<Activity>);

impl Diary {
    /// Adds one.
    pub(crate) fn add(&mut self, activity: Activity) {
        if self.0.len() >= REMEMBERED {
            self.0.forget_first(REMEMBERED / 5);
        }
        self.0.push(activity);
    }

    /// Moves an open activity on; a closed one stays as it is.
    pub(crate) fn note(
        &mut self,
        id: &str,
        status: ActivityStatus,
        message: Option<String>,
        now: Timestamp,
    ) {
        let place = self.0.last_where(|activity| activity.id == id);
        let open = place.filter(|place| !self.0[*place].status.ended());
        let Some(activity) = open.and_then(|place| self.0.get_mut(place)) else {
            return;
        };
        activity.status = status;
        if message.is_some() {
            activity.message = message;
        }
        activity.progress = match status {
            ActivityStatus::PreInService => 30,
            ActivityStatus::InProgress
            | ActivityStatus::WaitingForELBConnectionDraining
            | ActivityStatus::MidLifecycleAction => 50,
            ActivityStatus::Successful | ActivityStatus::Failed | ActivityStatus::Cancelled => 100,
        };
        if status.ended() {
            activity.ended = Some(now);
        }
    }

    /// Newest first, as the API lists them.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Activity> {
        self.0.iter().rev()
    }

    /// The one with this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Activity> {
        self.0.iter().rev().find(|a| a.id == id)
    }
}

/// A moment as the causes spell it: whole seconds, UTC.
pub(crate) fn moment(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
