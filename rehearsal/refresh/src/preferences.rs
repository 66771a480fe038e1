//! The preferences of a refresh.

use serde::{Deserialize, Serialize};

/// What to do with members protected from scale-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protected {
    /// Replace them like the others.
    Refresh,
    /// Skip them.
    Ignore,
    /// Wait until the protection is removed.
    Wait,
}

/// What to do with members in standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InStandby {
    /// Terminate them.
    Terminate,
    /// Skip them.
    Ignore,
    /// Wait until they leave standby.
    Wait,
}

/// Preferences of a refresh, defaults filled in: RefreshPreferences of the API.
///
/// The defaults are those of the API without an instance maintenance policy, and a warm-up of zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preferences {
    /// MinHealthyPercentage.
    pub min: u32,
    /// MaxHealthyPercentage; omitted is not the same as 100.
    pub max: Option<u32>,
    /// InstanceWarmup in seconds.
    pub warmup: u32,
    /// CheckpointPercentages, ascending.
    pub checkpoints: Vec<u32>,
    /// CheckpointDelay in seconds.
    pub checkpoint_delay: u32,
    /// BakeTime in seconds.
    pub bake: u32,
    /// SkipMatching.
    pub skip_matching: bool,
    /// AutoRollback.
    pub auto_rollback: bool,
    /// AlarmSpecification.
    pub alarms: Vec<String>,
    /// ScaleInProtectedInstances.
    pub protected: Protected,
    /// StandbyInstances.
    pub standby: InStandby,
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
