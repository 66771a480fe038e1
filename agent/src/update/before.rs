//! The version before: what a host goes back to when its stable release cannot run. Pure, and the only definition.
//!
//! The rule: *every way to an older slot goes through [`Before::choose`]; a release that was withdrawn, is below the
//! floor, or is suspected or condemned on this host is never it.* A revert after a trial is no such way: it leads to
//! what `stable` has led to all along. A rollback of the channel's takes an offer, which [`super::plan`] chooses by
//! the same floor and withdrawals.

use std::fmt;

use super::build::Build;
use super::state::State;

/// What to go back to. Only [`Before::choose`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A slot that was confirmed on this host.
    Slot(Build),
    /// What came with the image: the last resort, whatever it is.
    Factory {
        /// Why it should not stay.
        despite: Option<String>,
    },
}

impl Before {
    /// The newest of what was stable before, then of what else was confirmed here, that is none of the above and of
    /// which `runs` says that its bytes are there; else the image's own. `failed` is what is left.
    #[must_use]
    pub fn choose(
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
        // What was stable right before comes first: it was left in good health, for something newer.
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
    pub fn slot(&self) -> Option<&Build> {
        match &self.0 {
            Place::Slot(build) => Some(build),
            Place::Factory { .. } => None,
        }
    }

    /// Why what it leads to should not stay, where there is nothing better.
    #[must_use]
    pub fn despite(&self) -> Option<&str> {
        match &self.0 {
            Place::Factory { despite } => despite.as_deref(),
            Place::Slot(_) => None,
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Slot(build) => write!(f, "{} of before", build.version),
            Place::Factory { .. } => f.write_str("the factory's"),
        }
    }
}
