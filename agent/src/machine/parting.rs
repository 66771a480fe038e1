//! The last word of a daemon that is told to stop.
//!
//! A restart of the daemon is no news and says nothing. A system that goes down takes the box out of
//! service, perhaps for good and without a termination hook to wait for anybody: then the record must
//! not go on saying that the box is fit.

use contract::registry::Verdict;

use super::event::Standing;
use super::state::{Machine, State};
use crate::identity::Target;

/// What is still to be done about the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastWord {
    /// Nothing: it says what is so, or the next daemon will.
    Nothing,
    /// It must be written as it now stands.
    Write,
    /// It must go.
    Erase,
}

impl Machine {
    /// The system goes down. `target` is what the group wants of the box at this very moment: it was last
    /// asked up to two seconds ago, and without a hook there are no two seconds.
    pub(crate) fn last_word(&mut self, target: Option<&Target>) -> LastWord {
        if self.state == State::Identifying {
            return LastWord::Nothing;
        }
        if target == Some(&Target::Terminated) {
            return LastWord::Erase;
        }
        match self.state {
            State::Gone | State::Departing { erased: true } => LastWord::Nothing,
            State::Draining { .. } | State::Departing { erased: false } => LastWord::Erase,
            // What they say is as true of a box that is off.
            State::Resting | State::Refusing | State::Abandoned | State::Ailing(_) => {
                if self.is_recorded() {
                    LastWord::Nothing
                } else {
                    LastWord::Write
                }
            }
            _ => {
                self.standing = Some(Standing {
                    verdict: Verdict::Draining,
                    reason: "the system is going down".to_owned(),
                });
                LastWord::Write
            }
        }
    }
}
