//! Target groups and their settings.

use serde::{Deserialize, Serialize};

use super::targets::Target;
use crate::ids::{TargetGroupArn, VpcId};
use crate::table::Series;

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TargetGroup {
    /// Its ARN.
    pub(super) arn: TargetGroupArn,
    /// Its name, unique in the region.
    pub(super) name: String,
    /// The port of targets, unless they are registered on another.
    pub(super) port: u16,
    /// Its VPC.
    pub(super) vpc: VpcId,
    /// Its health check.
    pub(super) check: HealthCheck,
    /// The health check's port, when it is not the traffic port.
    pub(super) check_port: Option<u16>,
    /// `deregistration_delay.timeout_seconds`
    pub(super) delay: u32,
    /// Its targets, in the order of their registration.
    #[serde(skip)]
    pub(super) targets: Series<Target>,
}

impl TargetGroup {
    /// The group without its targets.
    pub(super) fn settings(&self) -> Self {
        Self {
            targets: Series::default(),
            ..self.clone()
        }
    }
}

/// How a target group's health is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HealthCheck {
    /// HealthCheckPath
    pub(super) path: String,
    /// HealthCheckIntervalSeconds
    pub(super) interval: u32,
    /// HealthCheckTimeoutSeconds
    pub(super) timeout: u32,
    /// HealthyThresholdCount
    pub(super) healthy_after: u32,
    /// UnhealthyThresholdCount
    pub(super) unhealthy_after: u32,
    /// Matcher's HttpCode
    pub(super) matcher: String,
}
