//! Listeners: ports of load balancers that forward to target groups.

use serde::{Deserialize, Serialize};

use crate::ids::{BalancerArn, ListenerArn, TargetGroupArn};

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listener {
    /// Its ARN.
    pub(super) arn: ListenerArn,
    /// The ARN of its load balancer.
    pub(super) balancer: BalancerArn,
    /// Its port.
    pub(super) port: u16,
    /// The ARN of the target group it forwards to.
    pub(super) target_group: TargetGroupArn,
}
