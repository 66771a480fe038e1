//! The instance's identity, from the instance metadata service, version 2 only. [`crate::machine`] is for machines
//! without one.
//!
//! No other module calls the metadata service (the SDK's own credential and region providers aside), and this one
//! decides nothing.

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use aws_config::imds::client::Client;
use aws_config::imds::client::error::ImdsError;
use aws_config::provider_config::ProviderConfig;
use aws_smithy_http_client::proxy::ProxyConfig;

use crate::connections::connections;
use crate::notice::{Scheduled, SpotNotices, read_rebalance, read_schedule, read_spot};

mod unreachable;

pub(crate) use self::unreachable::Unreachable;

/// The instance's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `i-…`; on a machine without a metadata service `machine-…`.
    pub(crate) instance_id: String,
    /// `ami-…`; empty on a machine without a metadata service.
    pub(crate) image_id: String,
    /// The host name of a machine without a metadata service.
    pub(crate) host: Option<String>,
}

/// The state that the group has set as the instance's target: `autoscaling/target-lifecycle-state`.
///
/// It is never the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetState {
    /// In service.
    InService,
    /// Terminated, from the group or from its warm pool.
    Terminated,
    /// Out of service: in the warm pool, on standby or detached; as AWS writes it.
    OutOfService(String),
    /// A state that AWS adds later.
    Other(String),
}

impl TargetState {
    pub(crate) fn parse(text: &str) -> Self {
        match text.trim() {
            "InService" => Self::InService,
            "Terminated" | "Warmed:Terminated" => Self::Terminated,
            other if other.starts_with("Warmed:") || matches!(other, "Standby" | "Detached") => {
                Self::OutOfService(other.to_owned())
            }
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The metadata that the agent reads.
#[async_trait]
pub(crate) trait Metadata: Send + Sync {
    /// The instance's ids.
    async fn identity(&self) -> Result<Identity>;
    /// The launch's user data; `None` when there is none, or when it is not text.
    async fn user_data(&self) -> Result<Option<String>>;
    /// The target lifecycle state; `None` outside of groups, or when not yet set.
    async fn target_state(&self) -> Result<Option<TargetState>>;
    /// Spot's notices for this instance.
    async fn spot(&self) -> Result<SpotNotices>;
    /// The scheduled events of this instance.
    async fn schedule(&self) -> Result<Vec<Scheduled>>;
}

/// The real metadata service. Honours `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
#[derive(Debug)]
pub(crate) struct Imds {
    client: Client,
}

impl Imds {
    /// A client with the SDK's own timeouts: one second to connect and to read, four attempts. It never uses a proxy,
    /// which would be given the credentials of the instance's role.
    pub(crate) fn new() -> Self {
        let direct = connections(ProxyConfig::disabled());
        let config = ProviderConfig::without_region().with_http_client(direct);
        Self {
            client: Client::builder().configure(&config).build(),
        }
    }

    /// The same client, with its token, for credentials and region.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    async fn get(&self, path: &str) -> Result<Option<String>> {
        match self.client.get(format!("/latest/{path}")).await {
            Ok(text) => Ok(Some(text.into())),
            Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => {
                Ok(None)
            }
            Err(error) => {
                let cause = Unreachable::of(&error);
                let error = anyhow::Error::from(error)
                    .context(format!("cannot read {path} from the metadata service"));
                Err(match cause {
                    Some(cause) => error.context(cause),
                    None => error,
                })
            }
        }
    }

    async fn require(&self, path: &str) -> Result<String> {
        let answer = self.get(path).await?;
        let text = answer
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty());
        text.map(str::to_owned)
            .ok_or_else(|| anyhow!("the metadata service has no {path}"))
    }
}

#[async_trait]
impl Metadata for Imds {
    async fn identity(&self) -> Result<Identity> {
        Ok(Identity {
            instance_id: self.require("meta-data/instance-id").await?,
            image_id: self.require("meta-data/ami-id").await?,
            host: None,
        })
    }

    async fn user_data(&self) -> Result<Option<String>> {
        match self.get("user-data").await {
            // Compressed cloud-config, for example: the agent's settings are text. The client has no public error
            // type for this case.
            Err(error)
                if error
                    .chain()
                    .any(|cause| cause.to_string().contains("invalid UTF-8")) =>
            {
                Ok(None)
            }
            answer => answer,
        }
    }

    async fn target_state(&self) -> Result<Option<TargetState>> {
        let answer = self
            .get("meta-data/autoscaling/target-lifecycle-state")
            .await?;
        Ok(answer.map(|text| TargetState::parse(&text)))
    }

    async fn spot(&self) -> Result<SpotNotices> {
        let interruption = self.get("meta-data/spot/instance-action").await?;
        let rebalance = self
            .get("meta-data/events/recommendations/rebalance")
            .await?;
        Ok(SpotNotices {
            interruption: interruption.map(|text| read_spot(&text)),
            rebalance: rebalance.and_then(|text| read_rebalance(&text)),
        })
    }

    async fn schedule(&self) -> Result<Vec<Scheduled>> {
        let answer = self.get("meta-data/events/maintenance/scheduled").await?;
        Ok(answer.map_or_else(Vec::new, |text| read_schedule(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_aws_writes_them() {
        let out = |text: &str| TargetState::OutOfService(text.to_owned());
        for (text, target) in [
            ("InService\n", TargetState::InService),
            ("Terminated", TargetState::Terminated),
            ("Warmed:Terminated", TargetState::Terminated),
            ("Warmed:Running", out("Warmed:Running")),
            ("Warmed:Stopped", out("Warmed:Stopped")),
            ("Warmed:Hibernated", out("Warmed:Hibernated")),
            ("Standby", out("Standby")),
            ("Detached", out("Detached")),
            ("Elsewhere", TargetState::Other("Elsewhere".to_owned())),
        ] {
            assert_eq!(TargetState::parse(text), target, "{text}");
        }
    }
}
