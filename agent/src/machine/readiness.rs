//! Whether the daemon may be restarted for an update.

use super::state::{Machine, Place, State};
use crate::lifecycle::Phase;

/// Whether the daemon may be restarted by the updater now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nothing is in the way here; the group has the last word.
    Settled,
    /// The group has yet to say where it has this box.
    NotKnown,
    /// This is in the way.
    Busy(String),
}

impl Machine {
    /// Whether the daemon may be restarted now, as far as this box knows.
    pub(crate) fn readiness(&self) -> Readiness {
        let busy = |why: &str| Readiness::Busy(why.to_owned());
        match self.state {
            State::Identifying => return Readiness::NotKnown,
            State::Judging { .. } | State::Admitting => {
                return busy("this box is not in service yet");
            }
            State::Refusing | State::Abandoned => return busy("this box is being given up"),
            State::Draining { .. } | State::Departing { .. } | State::Gone => {
                return busy("this box is leaving");
            }
            State::Resting => return busy("the group keeps this box out of service"),
            State::Serving | State::Ailing(_) => {}
        }
        if let Some(notice) = self.notice_in_the_way() {
            return Readiness::Busy(notice);
        }
        match &self.place {
            Place::Unknown => Readiness::NotKnown,
            Place::Nowhere => Readiness::Settled,
            Place::In(member) => match &member.phase {
                Phase::InService => Readiness::Settled,
                phase if phase.is_departing() => busy("this box is leaving"),
                Phase::Other(name) => Readiness::Busy(format!("the group has this box in {name}")),
                _ => busy("this box is not in service yet"),
            },
        }
    }
}
