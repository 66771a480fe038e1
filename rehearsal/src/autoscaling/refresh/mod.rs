//! Instance refreshes: what one remembers of itself.
//!
//! Owns the types. `begin` says whether one may start (or be cancelled or rolled back), `decide` is
//! the pure state machine, `drive` looks, asks it and carries out what it says.
//!
//! ```text
//!            begin::start
//!                 │            nothing to replace
//!              Pending ─────────────────────────────────────┐
//!                 │ Begin                                   │
//!                 ▼                 Bake                    ▼
//!            InProgress ──────────────────▶ Baking ────▶ Successful   (the group is saved on the target)
//!             │   │  ▲ Checkpoint, hold       │  ▲ End
//!             │   └──┘                        │
//!             │ alarm, stall, 14 days         │ alarm
//!             ├───────────────────────────────┤
//!             │ no auto-rollback              │ auto-rollback, or begin::roll_back
//!             ▼                               ▼
//!          Failed                     RollbackInProgress ────▶ RollbackSuccessful
//!                                             │ stall
//!                                             ▼
//!                                      RollbackFailed
//!
//! any of the active ones ── begin::cancel ──▶ Cancelling ──▶ Cancelled
//! ```

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::world::TemplateRef;

pub(crate) mod begin;
pub(crate) mod decide;
pub(crate) mod drive;

/// Status of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RefreshStatus {
    /// Accepted, not looked at yet.
    Pending,
    /// Replacing.
    InProgress,
    /// All replaced; the bake time runs.
    Baking,
    /// Done.
    Successful,
    /// Gave up; what was replaced stays.
    Failed,
    /// Finishing what is under way.
    Cancelling,
    /// Stopped on request.
    Cancelled,
    /// Replacing what it launched by the saved configuration.
    RollbackInProgress,
    /// The rollback gave up.
    RollbackFailed,
    /// Everything is as it was.
    RollbackSuccessful,
}

impl RefreshStatus {
    /// As the wire has it.
    pub(crate) fn as_str(self) -> &'static str {
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

    /// Not over.
    pub(crate) fn is_active(self) -> bool {
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

/// What to do with members protected from scale-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protected {
    /// Replace them like the others.
    Refresh,
    /// Leave them as they are.
    Ignore,
    /// Wait until someone lifts the protection.
    Wait,
}

/// What to do with members in standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InStandby {
    /// Terminate them.
    Terminate,
    /// Leave them as they are.
    Ignore,
    /// Wait until someone takes them out of standby.
    Wait,
}

/// Preferences of a refresh, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Preferences {
    /// MinHealthyPercentage.
    pub(crate) min: u32,
    /// MaxHealthyPercentage; omitted is not the same as 100.
    pub(crate) max: Option<u32>,
    /// InstanceWarmup in seconds.
    pub(crate) warmup: u32,
    /// CheckpointPercentages, ascending.
    pub(crate) checkpoints: Vec<u32>,
    /// CheckpointDelay in seconds.
    pub(crate) checkpoint_delay: u32,
    /// BakeTime in seconds.
    pub(crate) bake: u32,
    /// SkipMatching.
    pub(crate) skip_matching: bool,
    /// AutoRollback.
    pub(crate) auto_rollback: bool,
    /// AlarmSpecification.
    pub(crate) alarms: Vec<String>,
    /// ScaleInProtectedInstances.
    pub(crate) protected: Protected,
    /// StandbyInstances.
    pub(crate) standby: InStandby,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            min: 90,
            max: None,
            warmup: 0,
            checkpoints: Vec::new(),
            checkpoint_delay: 3600,
            bake: 0,
            skip_matching: false,
            auto_rollback: false,
            alarms: Vec::new(),
            protected: Protected::Wait,
            standby: InStandby::Wait,
        }
    }
}

/// RollbackDetails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RollbackDetails {
    /// RollbackReason.
    pub(crate) reason: String,
    /// RollbackStartTime.
    pub(crate) started: Timestamp,
    /// PercentageCompleteOnRollback.
    pub(crate) percent: u32,
    /// InstancesToUpdateOnRollback.
    pub(crate) to_update: u32,
    /// How many instances the rollback set out to replace.
    pub(crate) to_undo: u32,
}

/// One event AWS would send to EventBridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefreshEvent {
    /// When.
    pub(crate) at: Timestamp,
    /// What follows `EC2 Auto Scaling Instance Refresh ` in the detail type.
    pub(crate) what: String,
}

/// How long nothing has moved, without writing anything down while nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StallClock {
    /// Running since.
    since: Option<Timestamp>,
    /// Stood still with this much on it.
    banked: SignedDuration,
}

impl StallClock {
    /// Lets it run or stand.
    pub(crate) fn run(&mut self, stalled: bool, now: Timestamp) {
        match (stalled, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.banked += now.duration_since(since);
                self.since = None;
            }
            _ => {}
        }
    }

    /// What it shows.
    pub(crate) fn reading(&self, now: Timestamp) -> SignedDuration {
        self.since
            .map_or(self.banked, |since| self.banked + now.duration_since(since))
    }
}

/// One instance refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refresh {
    /// InstanceRefreshId.
    pub(crate) id: String,
    /// Where it stands.
    pub(crate) status: RefreshStatus,
    /// StatusReason.
    pub(crate) reason: Option<String>,
    /// StartTime.
    pub(crate) started: Timestamp,
    /// EndTime.
    pub(crate) ended: Option<Timestamp>,
    /// Preferences in force.
    pub(crate) preferences: Preferences,
    /// DesiredConfiguration, when given.
    pub(crate) desired: Option<TemplateRef>,
    /// What new instances use while it is active.
    pub(crate) target: TemplateRef,
    /// The group's saved template when it started.
    pub(crate) previous: TemplateRef,
    /// Why it cannot be rolled back, when it cannot.
    pub(crate) irreversible: Option<String>,
    /// Members to replace.
    pub(crate) todo: BTreeSet<String>,
    /// Members left alone because they match.
    pub(crate) matching: BTreeSet<String>,
    /// Members launched since it began (or since its rollback began).
    pub(crate) launched: BTreeSet<String>,
    /// Of these, the ones that were seen healthy and warm.
    pub(crate) seen_ready: BTreeSet<String>,
    /// The checkpoint it works towards.
    pub(crate) next_checkpoint: usize,
    /// A checkpoint's delay runs until then.
    pub(crate) hold_until: Option<Timestamp>,
    /// The bake time runs until then.
    pub(crate) bake_until: Option<Timestamp>,
    /// How long it has been getting nowhere.
    pub(crate) stall: StallClock,
    /// PercentageComplete.
    pub(crate) percent: u32,
    /// InstancesToUpdate.
    pub(crate) to_update: u32,
    /// RollbackDetails.
    pub(crate) rollback: Option<RollbackDetails>,
    /// A cancel waits for instances under way.
    pub(crate) cancel_waits: bool,
    /// Events so far.
    pub(crate) events: Vec<RefreshEvent>,
}

impl Refresh {
    /// Counts a member launched now as one of its own.
    pub(crate) fn adopt(&mut self, id: &str) {
        self.launched.insert(id.to_owned());
    }

    /// Writes an event down.
    pub(crate) fn event(&mut self, what: impl Into<String>, at: Timestamp) {
        let what = what.into();
        tracing::info!(refresh = %self.id, "instance refresh {what}");
        self.events.push(RefreshEvent { at, what });
    }
}
