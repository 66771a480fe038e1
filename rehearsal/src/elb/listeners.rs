//! Listeners: ports of load balancers that forward to target groups.

use serde::{Deserialize, Serialize};

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listener {
    /// Its ARN.
    pub(super) arn: String,
    /// The ARN of its load balancer.
    pub(super) balancer: String,
    /// Its port.
    pub(super) port: u16,
    /// The ARN of the target group it forwards to.
    pub(super) target_group: String,
}
