//! Instance refreshes as data, and the rules of Auto Scaling for them.
//!
//! Takes nothing from the rest of the crate and does no I/O: `decide` is the pure state machine, `switches` names what
//! AWS leaves open. Outside of this module, `refresh_calls` checks whether a refresh may start, be cancelled or be rolled
//! back, and `refresh_driver` gathers the view, calls `decide` and carries out its moves.
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
    /// As saved: a number, `$Latest` or `$Default`, or nothing, which means `$Default`.
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
    /// `INSUFFICIENT_DATA`, and what an unknown alarm counts as.
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
///
/// The rule: time passes for as long as no further instance counts as updated, also while an instance warms up, since
/// instances of a sick image can come into service, die and be replaced for ever. The first warm-up time after each
/// progress is free: a replacement cannot be ready earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StallClock {
    /// Runs while nothing warms up.
    idle: Stopwatch,
    /// Runs while something does.
    warming: Stopwatch,
}

/// What a refresh without progress does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It is paused, or has just taken an old member out: no time passes.
    #[default]
    Paused,
    /// Nothing is in service that will soon count as updated.
    Idle,
    /// At least one instance warms up.
    Warming,
}

impl StallClock {
    /// Lets the time pass that `pace` asks for.
    pub(crate) fn run(&mut self, pace: Pace, now: Timestamp) {
        self.idle.run(pace == Pace::Idle, now);
        self.warming.run(pace == Pace::Warming, now);
    }

    /// There is progress: the next warm-up is free again, and all is forgotten if `forget`.
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

/// Time that passes now and then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stopwatch {
    /// Running since.
    since: Option<Timestamp>,
    /// Stood still with this much on it.
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

/// The most instances that counted as updated at once, of so many to update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Instances to update; when it changes, the mark starts anew from what is updated then.
    pub(crate) scope: u32,
    /// Instances updated.
    pub(crate) updated: u32,
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
    /// How far it has come.
    pub(crate) mark: Mark,
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
