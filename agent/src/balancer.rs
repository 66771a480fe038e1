//! Target groups of Elastic Load Balancing in which the agent registers its instance.
//!
//! Types and the trait only; [`crate::elb`] implements it, [`crate::lifecycle`] decides.

use anyhow::Result;
use async_trait::async_trait;

/// The health of this instance in a target group, from `DescribeTargetHealth`.
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
    /// Whether nothing is wrong: healthy, or in a target group that no load balancer uses.
    pub(crate) fn is_well(&self) -> bool {
        self.state == "healthy" || (self.state == "unused" && !self.is_not_registered())
    }

    /// Whether the instance is not registered: the deregistration delay has ended.
    pub(crate) fn is_not_registered(&self) -> bool {
        self.state == "unused" && self.reason == "Target.NotRegistered"
    }

    /// For messages, without the ARN's prefix.
    pub(crate) fn describe(&self) -> String {
        let name = self.target_group.rsplit(':').next().unwrap_or_default();
        let why = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        format!(
            "target group {name} reports this instance as {}{why}",
            self.state
        )
    }
}

/// The three calls, by instance id.
#[async_trait]
pub(crate) trait Balancer: Send + Sync {
    /// Registers the instance; a registered one stays registered.
    async fn register(&self, target_group: &str, instance: &str) -> Result<()>;
    /// Deregisters it; the deregistration delay begins.
    async fn deregister(&self, target_group: &str, instance: &str) -> Result<()>;
    /// Reads its health there.
    async fn health(&self, target_group: &str, instance: &str) -> Result<TargetHealth>;
}
