//! The registry record: what an agent says of its own box.
//!
//! Stored as JSON in the SSM parameter [`registry_parameter`](crate::names::registry_parameter).
//! The agent is its only writer; `imagebuilder` reads it at the gate and when it verifies a roll.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The one schema number this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// One instance's record. Well under the 4 KiB of a standard parameter with a dozen services.
///
/// Unknown fields are ignored, so that a newer agent may add some; an unknown `schema` is refused
/// by the reader ([`Record::readable`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The instance, from IMDS.
    pub instance_id: String,
    /// The AMI it booted from, from IMDS.
    pub image_id: String,
    /// The agent's judgement.
    pub verdict: Verdict,
    /// Why, in one line for people; empty while all is well.
    #[serde(default)]
    pub reason: String,
    /// Since when the verdict holds, RFC 3339 in UTC.
    pub since: String,
    /// The agent's own version.
    pub agent: String,
    /// The services the agent judges, by name.
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
}

impl Record {
    /// Whether this reader understands the record's schema.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.schema == SCHEMA
    }
}

/// What the agent knows of one service on its box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The version the service itself reports, empty when it reports none.
    #[serde(default)]
    pub version: String,
    /// Whether its last checks satisfied the gate.
    pub healthy: bool,
    /// What the last failed check said; empty when healthy.
    #[serde(default)]
    pub detail: String,
}

/// The agent's judgement of its box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// Still within the deadline, not enough passes in a row yet.
    Judging,
    /// Every service passed the gate: the box may serve.
    Fit,
    /// The deadline went by, or a service that was fit is not any more.
    Unfit,
    /// Every service passed the gate, and the group keeps the box out of service for now: in the warm
    /// pool, on standby or detached. It must not serve before it passes the gate again.
    Resting,
    /// The box was told to go and is finishing its work.
    Draining,
    /// A verdict of a newer schema-1 agent that this reader does not know: treat it as not fit.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips_and_ignores_unknown_fields() {
        let json = r#"{"schema":1,"instance_id":"i-1","image_id":"ami-1","verdict":"fit",
            "since":"2026-01-01T00:00:00Z","agent":"0.1.0","new_field":7,
            "services":{"orders":{"version":"1.0.0","healthy":true}}}"#;
        let record: Record = serde_json::from_str(json).unwrap();
        assert_eq!(record.verdict, Verdict::Fit);
        assert!(record.readable());
        assert!(record.services["orders"].healthy);
        let again: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(again, record);
    }

    #[test]
    fn an_unknown_verdict_does_not_count_as_fit() {
        let verdict: Verdict = serde_json::from_str("\"splendid\"").unwrap();
        assert_eq!(verdict, Verdict::Unknown);
    }
}
