//! A refresh as data, as it can be stored between two steps.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::preferences::Preferences;
use crate::stall::StallClock;

/// A launch-template version as a group or a refresh names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRef {
    /// `lt-…`; always filled once resolved.
    pub id: String,
    /// The template's name; always filled once resolved.
    pub name: String,
    /// As saved: a number, `$Latest` or `$Default`; empty means `$Default`.
    pub version: String,
}

/// State of a CloudWatch alarm named in a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AlarmState {
    /// `OK`
    Ok,
    /// `ALARM`
    Alarm,
    /// `INSUFFICIENT_DATA`, also the state of an unknown alarm.
    InsufficientData,
}

/// Status of a refresh, by its name in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshStatus {
    /// Accepted, not started yet.
    Pending,
    /// Replacing members.
    InProgress,
    /// All replaced; the bake time runs.
    Baking,
    /// Completed.
    Successful,
    /// Failed; replaced members stay.
    Failed,
    /// Waiting for replacements in progress.
    Cancelling,
    /// Stopped on request.
    Cancelled,
    /// Replacing the new members by ones with the saved configuration.
    RollbackInProgress,
    /// The rollback failed.
    RollbackFailed,
    /// The rollback completed.
    RollbackSuccessful,
}

impl RefreshStatus {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Baking => "Baking",
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::Cancelling => "Cancelling",
            Self::Cancelled => "Cancelled",
            Self::RollbackInProgress => "RollbackInProgress",
            Self::RollbackFailed => "RollbackFailed",
            Self::RollbackSuccessful => "RollbackSuccessful",
        }
    }

    /// Whether the refresh is not over.
    pub fn is_active(self) -> bool {
        matches!(
            self,
            Self::Pending
                | Self::InProgress
                | Self::Baking
                | Self::Cancelling
                | Self::RollbackInProgress
        )
    }
}

/// Details of a rollback: RollbackDetails of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackDetails {
    /// RollbackReason.
    pub reason: String,
    /// RollbackStartTime.
    pub started: Timestamp,
    /// PercentageCompleteOnRollback.
    pub percent: u32,
    /// InstancesToUpdateOnRollback.
    pub to_update: u32,
    /// How many instances the rollback replaces.
    pub to_undo: u32,
}

/// An event of those that AWS sends to EventBridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshEvent {
    /// When.
    pub at: Timestamp,
    /// What follows `EC2 Auto Scaling Instance Refresh ` in the detail type.
    pub what: String,
}

/// The highest number of instances that counted as updated at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Instances to update; when it changes, the mark restarts from the number updated then.
    pub scope: u32,
    /// Instances updated.
    pub updated: u32,
}

/// An instance refresh. Percentages are whole numbers; ids are those of EC2 instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// InstanceRefreshId.
    pub id: String,
    /// Its status.
    pub status: RefreshStatus,
    /// StatusReason.
    pub reason: Option<String>,
    /// StartTime.
    pub started: Timestamp,
    /// EndTime.
    pub ended: Option<Timestamp>,
    /// Preferences in force.
    pub preferences: Preferences,
    /// DesiredConfiguration, when given.
    pub desired: Option<TemplateRef>,
    /// The template of new instances while it is active.
    pub target: TemplateRef,
    /// The group's saved template when it started.
    pub previous: TemplateRef,
    /// Why it cannot be rolled back, when it cannot.
    pub irreversible: Option<String>,
    /// Members to replace.
    pub todo: BTreeSet<String>,
    /// Members left alone because they match.
    pub matching: BTreeSet<String>,
    /// Members launched since it began (or since its rollback began).
    pub launched: BTreeSet<String>,
    /// Those of them that have been healthy and warm.
    pub seen_ready: BTreeSet<String>,
    /// The index of the next checkpoint.
    pub next_checkpoint: usize,
    /// The end of a checkpoint's delay.
    pub hold_until: Option<Timestamp>,
    /// The end of the bake time.
    pub bake_until: Option<Timestamp>,
    /// The time without progress.
    pub stall: StallClock,
    /// Its highest progress so far.
    pub mark: Mark,
    /// PercentageComplete.
    pub percent: u32,
    /// InstancesToUpdate.
    pub to_update: u32,
    /// RollbackDetails.
    pub rollback: Option<RollbackDetails>,
    /// Whether a cancellation waits for replacements in progress.
    pub cancel_waits: bool,
    /// Events so far.
    pub events: Vec<RefreshEvent>,
}
