//! The registry record: an agent's report on its own instance.
//!
//! Stored as JSON in the SSM parameter [`registry_parameter`](crate::names::registry_parameter). The agent is
//! its only writer; `imagebuilder` reads it at the gate and when it verifies a roll.

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
    /// The instance's id, from IMDS.
    pub instance_id: String,
    /// The AMI it booted from, from IMDS.
    pub image_id: String,
    /// The agent's verdict.
    pub verdict: Verdict,
    /// The reason, in one line for people; empty while all is well.
    #[serde(default)]
    pub reason: String,
    /// Since when the verdict has held, RFC 3339 in UTC.
    pub since: String,
    /// The agent's own version.
    pub agent: String,
    /// The services the agent checks, by name.
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
}

impl Record {
    /// Whether this reader supports the record's schema.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.schema == SCHEMA
    }
}

/// The agent's report on one service of its instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The version the service reports; empty if it reports none.
    #[serde(default)]
    pub version: String,
    /// Whether its last checks satisfied the gate.
    pub healthy: bool,
    /// The message of the last failed check; empty when healthy.
    #[serde(default)]
    pub detail: String,
}

/// The agent's verdict on its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// Still within the deadline, without enough passes in a row so far.
    Judging,
    /// Every service passed the gate: the instance may serve.
    Fit,
    /// The deadline has passed, or a service that was fit no longer is.
    Unfit,
    /// Every service passed the gate, but the group keeps the instance out of service for now: in the warm
    /// pool, on standby or detached. It must pass the gate again before it serves.
    Resting,
    /// The instance is being terminated and finishes its work.
    Draining,
    /// An unknown verdict of a newer agent: treat it as not fit.
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
