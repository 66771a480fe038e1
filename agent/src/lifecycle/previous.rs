//! The state that the previous daemon left: a restart of the daemon is not a new launch.
//!
//! Self-update restarts the daemon twice. Without this, an instance in service would be judged again, its record
//! would flap, and hooks would be answered twice.

use std::time::Duration;

use contract::registry::Verdict;

use super::event::Judgement;
use crate::health::Round;

/// The life stage that the previous daemon had reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LifeStage {
    /// Fit, at the launch hook.
    Admitting,
    /// In service.
    Serving,
    /// Unfit, at the launch hook.
    Refusing,
    /// Unfit, may recover.
    Ailing,
    /// ABANDON was taken.
    Abandoned,
    /// Draining.
    Draining,
    /// The record is removed, or being removed.
    Departing,
}

/// What the previous daemon left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreviousDaemon {
    /// The stage it had reached.
    pub(crate) stage: LifeStage,
    /// Its verdict and the reason.
    pub(crate) judgement: Judgement,
    /// How long the instance had been draining, if it was.
    pub(crate) drained_for: Duration,
    /// Its group, if known.
    pub(crate) group: Option<String>,
    /// Whether the registry record is up to date and was written by this version.
    pub(crate) recorded: bool,
    /// What the last round found.
    pub(crate) round: Round,
}

impl LifeStage {
    /// Parses a state's name. Any other name (the gate, states of another version), and a verdict that does not
    /// belong to the state, gives `None`: the instance is judged again.
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
