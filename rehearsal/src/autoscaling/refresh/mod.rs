//! Instance refreshes as data, and the rules of Auto Scaling for them.
//!
//! Takes nothing from the rest of the crate and does no I/O: `decide` is the pure state machine, `switches` names what
//! AWS leaves open. Outside of this module, `refresh_calls` checks whether a refresh may start, be cancelled or be
//! rolled back, and `refresh_driver` gathers the view, calls `decide` and carries out its moves.
//!
//! ```text
//!        refresh_calls::start
//!                 │            nothing to replace
//!              Pending ─────────────────────────────────────┐
//!                 │ Begin                                   │
//!                 ▼                 Bake                    ▼
//!            InProgress ──────────────────▶ Baking ────▶ Successful   (the group is saved with the target)
//!             │   │  ▲ Checkpoint, hold       │  ▲ End
//!             │   └──┘                        │
//!             │ alarm, stall, 14 days         │ alarm
//!             ├───────────────────────────────┤
//!             │ no auto-rollback              │ auto-rollback, or refresh_calls::roll_back
//!             ▼                               ▼
//!          Failed                     RollbackInProgress ────▶ RollbackSuccessful
//!                                             │ stall
//!                                             ▼
//!                                      RollbackFailed
//!
//! any of the active ones ── refresh_calls::cancel ──▶ Cancelling ──▶ Cancelled
//! ```

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) mod decide;
pub(crate) mod switches;

/// A launch-template version as a group or a refresh names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TemplateRef {
    /// `lt-…`; always filled once resolved.
    pub(crate) id: String,
    /// The template's name; always filled once resolved.
    pub(crate) name: String,
    /// As saved: a number, `$Latest` or `$Default`; empty means `$Default`.
    pub(crate) version: String,
}

/// State of a CloudWatch alarm named in a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum AlarmState {
    /// `OK`
    Ok,
    /// `ALARM`
    Alarm,
    /// `INSUFFICIENT_DATA`, also the state of an unknown alarm.
    InsufficientData,
}

/// `now` plus whole seconds, never overflowing.
pub(crate) fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// Status of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RefreshStatus {
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

    /// Whether the refresh is not over.
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
    /// Skip them.
    Ignore,
    /// Wait until the protection is removed.
    Wait,
}

/// What to do with members in standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InStandby {
    /// Terminate them.
    Terminate,
    /// Skip them.
    Ignore,
    /// Wait until they leave standby.
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
    /// How many instances the rollback replaces.
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

/// Measures the time without progress; its state does not change while nothing else does.
///
/// The rule: the clock runs while no further instance counts as updated, also while an instance warms up, because
/// instances of a broken image can come into service, die and be replaced endlessly. The first warm-up time after each
/// progress is free: a replacement cannot be ready earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StallClock {
    /// Runs while nothing warms up.
    idle: Stopwatch,
    /// Runs while something does.
    warming: Stopwatch,
}

/// How the stall clock of a refresh without progress runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It stands: the refresh is paused, or has just removed an old member.
    #[default]
    Paused,
    /// It runs, and no instance is warming up.
    Idle,
    /// It runs, and at least one instance is warming up.
    Warming,
}

impl StallClock {
    /// Runs or stops the clock according to `pace`.
    pub(crate) fn run(&mut self, pace: Pace, now: Timestamp) {
        self.idle.run(pace == Pace::Idle, now);
        self.warming.run(pace == Pace::Warming, now);
    }

    /// Records progress: the next warm-up is free again, and the clock is reset if `forget`.
    pub(crate) fn progress(&mut self, warmup: u32, forget: bool, now: Timestamp) {
        let stood = self.reading(warmup, now);
        *self = Self::default();
        if !forget {
            self.idle.banked = stood;
        }
    }

    /// Time without progress, less one warm-up of `warmup` seconds.
    pub(crate) fn reading(&self, warmup: u32, now: Timestamp) -> SignedDuration {
        let free = SignedDuration::from_secs(warmup.into());
        let beyond = self.warming.reading(now) - free;
        self.idle.reading(now) + beyond.max(SignedDuration::ZERO)
    }
}

/// A stopwatch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stopwatch {
    /// Running since.
    since: Option<Timestamp>,
    /// The time measured before.
    banked: SignedDuration,
}

impl Stopwatch {
    fn run(&mut self, on: bool, now: Timestamp) {
        match (on, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.banked += now.duration_since(since);
                self.since = None;
            }
            _ => {}
        }
    }

    fn reading(&self, now: Timestamp) -> SignedDuration {
        self.since
            .map_or(self.banked, |since| self.banked + now.duration_since(since))
    }
}

/// The highest number of instances that counted as updated at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Instances to update; when it changes, the mark restarts from the number updated then.
    pub(crate) scope: u32,
    /// Instances updated.
    pub(crate) updated: u32,
}

/// One instance refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refresh {
    /// InstanceRefreshId.
    pub(crate) id: String,
    /// Its status.
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
    /// The template of new instances while it is active.
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
    /// Those of them that have been healthy and warm.
    pub(crate) seen_ready: BTreeSet<String>,
    /// The index of the next checkpoint.
    pub(crate) next_checkpoint: usize,
    /// The end of a checkpoint's delay.
    pub(crate) hold_until: Option<Timestamp>,
    /// The end of the bake time.
    pub(crate) bake_until: Option<Timestamp>,
    /// The time without progress.
    pub(crate) stall: StallClock,
    /// Its highest progress so far.
    pub(crate) mark: Mark,
    /// PercentageComplete.
    pub(crate) percent: u32,
    /// InstancesToUpdate.
    pub(crate) to_update: u32,
    /// RollbackDetails.
    pub(crate) rollback: Option<RollbackDetails>,
    /// Whether a cancellation waits for replacements in progress.
    pub(crate) cancel_waits: bool,
    /// Events so far.
    pub(crate) events: Vec<RefreshEvent>,
}

impl Refresh {
    /// Adds a member that was just launched to its own.
    pub(crate) fn adopt(&mut self, id: &str) {
        self.launched.insert(id.to_owned());
    }

    /// Records an event.
    pub(crate) fn event(&mut self, what: impl Into<String>, at: Timestamp) {
        let what = what.into();
        tracing::info!(refresh = %self.id, "instance refresh {what}");
        self.events.push(RefreshEvent { at, what });
    }
}
