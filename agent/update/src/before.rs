//! The version before: what a host goes back to when its stable release cannot run. Pure, and the only definition.
//!
//! The rule: *every way to an older slot goes through [`Before::choose`], which never returns a release that was
//! withdrawn, is below the floor, or is suspected or skipped on this host.* A revert after a trial is not such a way:
//! it leaves `stable` unchanged. A rollback by the channel takes an offer, which [`super::plan`] chooses by the same
//! floor and withdrawals.

use std::fmt;

use super::build::Build;
use super::state::State;

/// What to go back to. Only [`Before::choose`] creates one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Before(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A slot that was confirmed on this host.
    Slot(Build),
    /// The factory slot: the last resort.
    Factory {
        /// Why it should be replaced soon.
        despite: Option<String>,
    },
}

impl Before {
    /// The previous stable build, else the newest other confirmed one, that is allowed and whose bytes `runs` finds
    /// intact; else the factory's. `failed` is excluded.
    #[must_use]
    pub(crate) fn choose(
        state: &State,
        failed: Option<&Build>,
        factory: Option<&Build>,
        runs: impl Fn(&Build) -> bool,
    ) -> Self {
        let allowed = |build: &&Build| {
            Some(*build) != failed
                && state.is_confirmed(&build.digest)
                && state.barred(build).is_none()
                && runs(build)
        };
        // The previous stable build comes first: it was healthy when it was replaced.
        let slots = state.previous.iter().chain(state.confirmed.iter().rev());
        Self(match slots.into_iter().find(allowed) {
            Some(build) => Place::Slot(build.clone()),
            None => Place::Factory {
                despite: factory.and_then(|factory| state.barred(factory)),
            },
        })
    }

    /// The slot; `None`: the factory's.
    #[must_use]
    pub(crate) fn slot(&self) -> Option<&Build> {
        match &self.0 {
            Place::Slot(build) => Some(build),
            Place::Factory { .. } => None,
        }
    }

    /// Why the factory's agent should be replaced soon.
    #[must_use]
    pub(crate) fn despite(&self) -> Option<&str> {
        match &self.0 {
            Place::Factory { despite } => despite.as_deref(),
            Place::Slot(_) => None,
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Slot(build) => write!(f, "the previous {}", build.version),
            Place::Factory { .. } => f.write_str("the factory's"),
        }
    }
}
