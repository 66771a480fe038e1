//! Target groups: whom the balancer sends traffic to.

use async_trait::async_trait;

use super::Answer;
use crate::ids::InstanceId;

/// A member's health in one target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetHealth {
    /// AWS's own word, `healthy` being the good one.
    pub(crate) state: String,
    /// AWS's reason code and text when it is not.
    pub(crate) reason: String,
}

impl TargetHealth {
    /// Whether the balancer sends it traffic.
    pub(crate) fn is_healthy(&self) -> bool {
        self.state == "healthy"
    }
}

/// Target groups.
#[async_trait]
pub(crate) trait TargetGroups: Send + Sync {
    /// The health of every instance a target group knows.
    async fn health(&self, target_group_arn: &str) -> Answer<Vec<(InstanceId, TargetHealth)>>;
}
