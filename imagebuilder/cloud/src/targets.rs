//! Target groups: which instances the load balancer sends traffic to.

use async_trait::async_trait;

use super::Answer;
use crate::ids::InstanceId;

/// A member's health in one target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    /// AWS's state; `healthy` is the good one.
    pub state: String,
    /// AWS's reason code and text when it is not.
    pub reason: String,
}

impl TargetHealth {
    /// Whether the load balancer sends it traffic.
    pub fn is_healthy(&self) -> bool {
        self.state == "healthy"
    }
}

/// The default deregistration delay of a target group
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html>).
pub const DEFAULT_DRAIN_SECONDS: u32 = 300;

/// Target groups.
#[async_trait]
pub trait TargetGroups: Send + Sync {
    /// The health of every instance in a target group.
    async fn health(&self, target_group_arn: &str) -> Answer<Vec<(InstanceId, TargetHealth)>>;
    /// How long a terminating instance keeps its open connections, in seconds (`deregistration_delay.timeout_seconds`).
    async fn drain_seconds(&self, target_group_arn: &str) -> Answer<u32>;
}
