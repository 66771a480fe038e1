//! Whether the daemon may be restarted for an update.

use super::state::{Lifecycle, Place, State};
use crate::hooks::Phase;

/// Whether the daemon may be restarted by the updater now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nothing blocks it on this instance; the group decides.
    Settled,
    /// The membership is not known yet.
    NotKnown,
    /// This blocks it.
    Busy(String),
}

impl Lifecycle {
    /// Whether the daemon may be restarted now, as far as this instance knows.
    pub(crate) fn readiness(&self) -> Readiness {
        let busy = |why: &str| Readiness::Busy(why.to_owned());
        match self.state {
            State::Identifying => return Readiness::NotKnown,
            State::Judging { .. } | State::Admitting => {
                return busy("this instance is not in service yet");
            }
            State::Refusing | State::Abandoned => {
                return busy("the launch of this instance is being abandoned");
            }
            State::Draining { .. } | State::Departing { .. } | State::Released => {
                return busy("this instance is being terminated");
            }
            State::Resting => return busy("the group keeps this instance out of service"),
            State::Serving | State::Ailing(_) => {}
        }
        if let Some(notice) = self.notice_blocking_update() {
            return Readiness::Busy(notice);
        }
        match &self.place {
            Place::Unknown => Readiness::NotKnown,
            Place::Nowhere => Readiness::Settled,
            Place::In(member) => match &member.phase {
                Phase::InService => Readiness::Settled,
                phase if phase.is_terminating() => busy("this instance is being terminated"),
                Phase::Other(name) => {
                    Readiness::Busy(format!("the group has this instance in {name}"))
                }
                _ => busy("this instance is not in service yet"),
            },
        }
    }
}
