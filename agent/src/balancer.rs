//! Target groups of Elastic Load Balancing that the agent itself keeps its box in.
//!
//! Types and the trait only; [`crate::elb`] implements it, [`crate::machine`] decides.

use anyhow::Result;
use async_trait::async_trait;

/// How a target group finds this instance, from `DescribeTargetHealth`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TargetHealth {
    /// The target group's ARN.
    pub(crate) target_group: String,
    /// `initial`, `healthy`, `unhealthy`, `unused`, `draining`, …
    pub(crate) state: String,
    /// `Target.FailedHealthChecks` and the like; empty when it is healthy.
    pub(crate) reason: String,
}

impl TargetHealth {
    /// Whether nothing is wrong: healthy, or in a target group that nobody's requests go to.
    pub(crate) fn is_well(&self) -> bool {
        self.state == "healthy" || (self.state == "unused" && !self.is_gone())
    }

    /// Whether the instance is not registered, or not any more: the deregistration delay is over.
    pub(crate) fn is_gone(&self) -> bool {
        self.state == "unused" && self.reason == "Target.NotRegistered"
    }

    /// For people, without the ARN's lead.
    pub(crate) fn words(&self) -> String {
        let name = self.target_group.rsplit(':').next().unwrap_or_default();
        let why = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        format!("{name} finds this box {}{why}", self.state)
    }
}

/// The three calls, by instance id.
#[async_trait]
pub(crate) trait Balancer: Send + Sync {
    /// Puts the instance into a target group; one that is in it stays.
    async fn register(&self, target_group: &str, instance: &str) -> Result<()>;
    /// Takes it out; the deregistration delay begins.
    async fn deregister(&self, target_group: &str, instance: &str) -> Result<()>;
    /// How it fares there.
    async fn health(&self, target_group: &str, instance: &str) -> Result<TargetHealth>;
}
