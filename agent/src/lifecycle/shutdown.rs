//! The registry record when the daemon is stopped.
//!
//! A restart of the daemon changes nothing. A system that shuts down takes the instance out of service, perhaps
//! permanently and without a termination hook that waits: then the record must not stay `fit`.

use contract::registry::Verdict;

use super::event::Judgement;
use super::state::{Lifecycle, State};
use crate::identity::TargetState;

/// What has to be done about the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinalRecord {
    /// Nothing: it is up to date, or the next daemon will write it.
    Keep,
    /// Write it as it is now.
    Write,
    /// Remove it.
    Remove,
}

impl Lifecycle {
    /// What to do about the record when the system shuts down. `target` is the target lifecycle state at this moment:
    /// the last read is up to two seconds old, and without a hook there are no two seconds.
    pub(crate) fn final_record(&mut self, target: Option<&TargetState>) -> FinalRecord {
        if self.state == State::Identifying {
            return FinalRecord::Keep;
        }
        if target == Some(&TargetState::Terminated) {
            return FinalRecord::Remove;
        }
        match self.state {
            State::Released
            | State::Departing {
                record_removed: true,
            } => FinalRecord::Keep,
            State::Draining { .. }
            | State::Departing {
                record_removed: false,
            } => FinalRecord::Remove,
            // These verdicts also hold for an instance that is off.
            State::Resting | State::Refusing | State::Abandoned | State::Ailing(_) => {
                if self.is_recorded() {
                    FinalRecord::Keep
                } else {
                    FinalRecord::Write
                }
            }
            _ => {
                self.judgement = Some(Judgement {
                    verdict: Verdict::Draining,
                    reason: "the system is shutting down".to_owned(),
                });
                FinalRecord::Write
            }
        }
    }
}
