//! Who this box is, from the instance metadata service, version 2 only.
//!
//! Nothing else of the agent speaks to the metadata service (the SDK's own credential and region
//! providers aside), and nothing here decides anything.

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use aws_config::imds::client::Client;
use aws_config::imds::client::error::ImdsError;

use crate::notice::{Scheduled, SpotNotices, read_rebalance, read_schedule, read_spot};

/// What the metadata service says of this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `i-…`
    pub(crate) instance_id: String,
    /// `ami-…`
    pub(crate) image_id: String,
}

/// What the group wants this instance to become: `autoscaling/target-lifecycle-state`.
///
/// It is never the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To serve.
    InService,
    /// To go, out of the group or out of its warm pool.
    Terminated,
    /// To keep out of service for now: in the warm pool, on standby or detached; as AWS writes it.
    Aside(String),
    /// Anything AWS may add.
    Other(String),
}

impl Target {
    pub(crate) fn parse(text: &str) -> Self {
        match text.trim() {
            "InService" => Self::InService,
            "Terminated" | "Warmed:Terminated" => Self::Terminated,
            aside if aside.starts_with("Warmed:") || matches!(aside, "Standby" | "Detached") => {
                Self::Aside(aside.to_owned())
            }
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The questions the agent has for the metadata service.
#[async_trait]
pub(crate) trait Metadata: Send + Sync {
    /// Who this box is.
    async fn identity(&self) -> Result<Identity>;
    /// The launch's user data; `None` when there is none, or when it is not text.
    async fn user_data(&self) -> Result<Option<String>>;
    /// The group's target for this instance; `None` outside of groups, or when not yet set.
    async fn target(&self) -> Result<Option<Target>>;
    /// What Spot announces of this instance.
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
    /// A client with the SDK's own timeouts: one second to connect and to read, four attempts.
    pub(crate) fn new() -> Self {
        Self {
            client: Client::builder().build(),
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
                Err(error).with_context(|| format!("cannot read {path} from the metadata service"))
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
        })
    }

    async fn user_data(&self) -> Result<Option<String>> {
        match self.get("user-data").await {
            // Compressed cloud-config and the like: not ours, since ours is text. The client has no type for it that
            // could be told apart from outside.
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

    async fn target(&self) -> Result<Option<Target>> {
        let answer = self
            .get("meta-data/autoscaling/target-lifecycle-state")
            .await?;
        Ok(answer.map(|text| Target::parse(&text)))
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
        let aside = |text: &str| Target::Aside(text.to_owned());
        for (text, target) in [
            ("InService\n", Target::InService),
            ("Terminated", Target::Terminated),
            ("Warmed:Terminated", Target::Terminated),
            ("Warmed:Stopped", aside("Warmed:Stopped")),
            ("Warmed:Hibernated", aside("Warmed:Hibernated")),
            ("Standby", aside("Standby")),
            ("Detached", aside("Detached")),
            ("Elsewhere", Target::Other("Elsewhere".to_owned())),
        ] {
            assert_eq!(Target::parse(text), target, "{text}");
        }
    }
}
