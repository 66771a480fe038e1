//! The daemon's permission to be restarted for an update, and how long it may be withheld.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long the daemon may withhold its permission before a release is taken without it: an instance refresh with its
/// checkpoints is over by then, and a daemon that never permits it would never be replaced.
pub(crate) const LONGEST_WITHHELD: SignedDuration = SignedDuration::from_hours(24);

/// The same for a release that a withdrawal or the floor requires, because the running one is harmful. Longer than a
/// launch's gate.
pub(crate) const LONGEST_WITHHELD_URGENT: SignedDuration = SignedDuration::from_mins(10);

/// After this long it is reported: a launch, a drain or a small fleet's refresh takes less.
pub(super) const WITHHELD_LONG: SignedDuration = SignedDuration::from_hours(1);

/// The daemon's answer to the updater, which requests permission with `asks_leave_since` in its own status.
///
/// It answers the current request only if it is not older than it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionAnswer {
    /// Whether the daemon may be restarted.
    pub granted: bool,
    /// Why not; empty when granted.
    #[serde(default)]
    pub reason: String,
    /// When the answer was given.
    pub at: Timestamp,
}

/// A withheld permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Since when.
    pub since: Timestamp,
    /// The last reason, in one line.
    #[serde(default)]
    pub reason: String,
    /// When it was last refused.
    #[serde(default)]
    pub last: Option<Timestamp>,
    /// For how many seconds it was requested in vain. Times without requests, outside of windows or with the host
    /// off, do not count, nor do clock jumps.
    #[serde(default)]
    pub seconds: u64,
}

/// Longest time between two refusals that counts as withheld: above the updater's timer and the longest attempt.
const NEXT_REFUSAL: SignedDuration = SignedDuration::from_hours(2);

impl Withheld {
    /// Refused at `at`, after `before`.
    #[must_use]
    pub(crate) fn again(before: Option<Self>, reason: String, at: Timestamp) -> Self {
        let Some(before) = before.filter(|before| before.since <= at) else {
            return Self {
                since: at,
                reason,
                last: Some(at),
                seconds: 0,
            };
        };
        let gap = before.last.map(|last| at.duration_since(last));
        let counted = gap.filter(|gap| *gap <= NEXT_REFUSAL);
        let counted = counted.and_then(|gap| u64::try_from(gap.as_secs()).ok());
        Self {
            since: before.since,
            reason,
            last: Some(at),
            seconds: before.seconds.saturating_add(counted.unwrap_or(0)),
        }
    }

    /// For how long it was requested in vain.
    #[must_use]
    pub(crate) fn lasted(&self) -> SignedDuration {
        SignedDuration::from_secs(i64::try_from(self.seconds).unwrap_or(i64::MAX))
    }
}

/// How long the daemon may withhold its permission.
#[must_use]
pub(crate) fn longest_withheld(urgent: bool) -> SignedDuration {
    if urgent {
        LONGEST_WITHHELD_URGENT
    } else {
        LONGEST_WITHHELD
    }
}
