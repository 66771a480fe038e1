//! The registry: one parameter with the agent's verdict on its instance.
//!
//! The trait, and how a record is made; [`crate::aws`] writes it.

pub(crate) mod pace;

use std::collections::BTreeMap;

use anyhow::Result;
use async_trait::async_trait;
use contract::registry::{Record, SCHEMA, Service, Verdict};
use jiff::Timestamp;

use crate::identity::Identity;

/// Where records are kept.
#[async_trait]
pub(crate) trait Registry: Send + Sync {
    /// Creates or overwrites a parameter.
    async fn put(&self, parameter: &str, value: &str) -> Result<()>;
    /// Reads parameters, at most ten; missing ones are left out.
    async fn get(&self, parameters: &[String]) -> Result<BTreeMap<String, String>>;
    /// Removes a parameter; one that does not exist is no error.
    async fn remove(&self, parameter: &str) -> Result<()>;
}

/// The longest reason or detail a record carries: what makes a standard parameter's 4 KiB enough
/// for a dozen services.
const LONGEST_LINE: usize = 200;

/// Makes the record of this moment.
pub(crate) fn record(
    identity: &Identity,
    verdict: Verdict,
    reason: &str,
    since: Timestamp,
    services: &BTreeMap<String, Service>,
) -> Record {
    let services = services
        .iter()
        .map(|(name, service)| {
            let service = Service {
                version: line(&service.version),
                healthy: service.healthy,
                detail: line(&service.detail),
            };
            (name.clone(), service)
        })
        .collect();
    Record {
        schema: SCHEMA,
        instance_id: identity.instance_id.clone(),
        image_id: identity.image_id.clone(),
        verdict,
        reason: line(reason),
        since: since.to_string(),
        agent: agent_update::version().to_owned(),
        services,
    }
}

/// One line of bounded length.
fn line(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &flat[..end]),
        None => flat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_dozen_services_fits_a_standard_parameter() {
        let identity = Identity {
            instance_id: "i-1".into(),
            image_id: "ami-1".into(),
            host: None,
        };
        let services = (0..12)
            .map(|n| {
                let service = Service {
                    version: "1.0.0".into(),
                    healthy: false,
                    detail: "connection\nrefused ".repeat(100),
                };
                (format!("service-{n}"), service)
            })
            .collect();
        let record = record(
            &identity,
            Verdict::Unfit,
            "why",
            Timestamp::UNIX_EPOCH,
            &services,
        );
        assert_eq!(record.since, "1970-01-01T00:00:00Z");
        let json = serde_json::to_string(&record).unwrap();
        assert!(json.len() < 4096, "{}", json.len());
        assert!(!json.contains("\\n"));
    }
}
