//! What a daemon before this one had come to: a restart in mid-life is no new life.
//!
//! Self-update restarts the daemon twice. Without a past a serving box would stand at the gate again,
//! its record would flap, and hooks would be answered twice.

use contract::registry::Verdict;

use super::event::Standing;
use crate::health::Round;

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
