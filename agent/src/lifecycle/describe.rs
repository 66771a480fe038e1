//! The lifecycle's state and what it waits for, as text for the log, systemd and `status`.
//!
//! It changes nothing.

use super::state::{Lifecycle, Place, Replacement, State};
use crate::health::Round;

impl Lifecycle {
    /// The state's name, as drawn.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            State::Identifying => "identifying",
            State::Judging { .. } => "judging",
            State::Admitting => "admitting",
            State::Serving => "serving",
            State::Refusing => "refusing",
            State::Ailing(_) => "ailing",
            State::Resting => "resting",
            State::Abandoned => "abandoned",
            State::Draining { .. } => "draining",
            State::Departing { .. } => "departing",
            State::Released => "gone",
        }
    }

    /// What the agent waits for, in one line.
    pub(crate) fn waiting_for(&self) -> String {
        let trouble = self.problems();
        match &self.state {
            State::Identifying => "waiting for the identity".into(),
            State::Judging { .. } if trouble.is_empty() => {
                format!(
                    "at the gate: {} of {} passes in a row",
                    self.passes, self.terms.gate.passes
                )
            }
            State::Judging { .. } => format!("at the gate: {trouble}"),
            State::Resting => {
                let why = self
                    .out_of_service()
                    .unwrap_or_else(|| "about to return to service".into());
                format!("prepared, not serving; {why}")
            }
            State::Admitting => format!("fit; {}", self.waiting_for_the_hook("CONTINUE")),
            State::Refusing => format!("unfit; {}", self.waiting_for_the_hook("ABANDON")),
            State::Serving if !trouble.is_empty() => format!(
                "serving; {} of {} failures in a row: {trouble}",
                self.failures, self.terms.serving.failures
            ),
            State::Serving => match (
                self.group(),
                self.hooks.as_ref().and_then(|h| h.unclear.as_ref()),
            ) {
                (_, Some(unclear)) => format!("fit; not answering any hook: {unclear}"),
                (Some(group), None) => format!("serving in group {group}"),
                _ => "serving, in no group".into(),
            },
            State::Ailing(_) if self.remedy.held().is_some() => format!(
                "unfit; not asking for a replacement, since {}: {trouble}",
                self.remedy.held().unwrap_or_default()
            ),
            State::Ailing(Replacement::Asking | Replacement::Weighing) => {
                format!("unfit; asking the group for a replacement: {trouble}")
            }
            State::Ailing(_) => format!(
                "unfit; waiting for {} passes in a row: {trouble}",
                self.terms.serving.passes
            ),
            State::Abandoned => "unfit; waiting for the group to terminate this instance".into(),
            State::Draining { .. } => self.drain_waits_for(),
            State::Departing {
                record_removed: false,
            } => "draining; removing the registry record".into(),
            State::Departing {
                record_removed: true,
            } => {
                format!("drained; {}", self.waiting_for_the_hook("CONTINUE"))
            }
            State::Released => "released; waiting for the shutdown".into(),
        }
    }

    /// What is wrong with the instance, in one line: failing services, and unhealthy targets.
    pub(super) fn problems(&self) -> String {
        let services = trouble(&self.round);
        let traffic = self.traffic.trouble().unwrap_or_default();
        let both = [services.as_str(), traffic].into_iter();
        let some: Vec<&str> = both.filter(|text| !text.is_empty()).collect();
        some.join("; ")
    }

    fn waiting_for_the_hook(&self, answer: &str) -> String {
        match (&self.place, &self.hooks) {
            (Place::In(member), Some(_)) => {
                format!("waiting for group {} to take {answer}", member.group)
            }
            (Place::In(member), None) => format!("waiting for the hooks of group {}", member.group),
            _ => "waiting for the membership of the group".into(),
        }
    }
}

/// The details of the failing services, in one line; empty when all pass.
pub(super) fn trouble(round: &Round) -> String {
    let sick = round.values().filter(|service| !service.healthy);
    sick.map(|service| service.detail.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}
