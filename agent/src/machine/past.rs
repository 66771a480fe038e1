//! What a daemon before this one had come to: a restart in mid-life is no new life.
//!
//! Self-update restarts the daemon twice. Without a past a serving box would stand at the gate again,
//! its record would flap, and hooks would be answered twice.

use contract::registry::Verdict;

use super::{Machine, Place, Standing, State};
use crate::health::Round;
use crate::lifecycle::Phase;

/// How far the life before this one had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Fit, at the launch hook.
    Admitting,
    /// In service.
    Serving,
    /// Unfit, at the launch hook.
    Refusing,
    /// Unfit, may recover.
    Ailing,
    /// Given up.
    Abandoned,
    /// Letting the last requests finish.
    Draining,
    /// The record is gone, or going.
    Departing,
}

/// The life before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    /// How far it had come.
    pub(crate) stage: Stage,
    /// The verdict that held, and why.
    pub(crate) standing: Standing,
    /// Its group, if it knew one.
    pub(crate) group: Option<String>,
    /// Whether the registry has all of this, in the words of this very version.
    pub(crate) recorded: bool,
    /// What the last round found.
    pub(crate) round: Round,
}

impl Stage {
    /// Reads a state by its drawn name. Whatever is not here (the gate, states of another version)
    /// starts afresh, as does a verdict that does not belong to the state.
    pub(crate) fn parse(state: &str, verdict: Verdict) -> Option<Self> {
        Some(match (state, verdict) {
            ("admitting", Verdict::Fit) => Self::Admitting,
            ("serving", Verdict::Fit) => Self::Serving,
            ("refusing", Verdict::Unfit) => Self::Refusing,
            ("ailing", Verdict::Unfit) => Self::Ailing,
            ("abandoned", Verdict::Unfit) => Self::Abandoned,
            ("draining", Verdict::Draining | Verdict::Unfit) => Self::Draining,
            ("departing" | "gone", Verdict::Draining | Verdict::Unfit) => Self::Departing,
            _ => return None,
        })
    }
}

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
    /// Goes on from a past once the box is identified, instead of judging it anew.
    pub(crate) fn remember(&mut self, past: Past) {
        self.past = Some(past);
    }

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
