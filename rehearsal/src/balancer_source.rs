//! What the load balancer reads from the cloud, and what it reports to it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::ids::{InstanceId, ListenerArn, TargetGroupArn};

/// One target of a target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetView {
    /// The instance.
    pub(crate) instance_id: InstanceId,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The port it was registered on.
    pub(crate) port: u16,
    /// Whether it may get new requests (registered, healthy, not draining).
    pub(crate) in_rotation: bool,
    /// Whether its health is checked (registered and not draining).
    pub(crate) checked: bool,
}

/// A target group with its health check's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetGroupView {
    /// Its ARN.
    pub(crate) arn: TargetGroupArn,
    /// HealthCheckPath.
    pub(crate) path: String,
    /// HealthCheckPort when not `traffic-port`.
    pub(crate) port: Option<u16>,
    /// HealthCheckIntervalSeconds.
    pub(crate) interval: Duration,
    /// HealthCheckTimeoutSeconds.
    pub(crate) timeout: Duration,
    /// Matcher HttpCode, e.g. `200` or `200-299,301`.
    pub(crate) matcher: String,
    /// Its targets.
    pub(crate) targets: Vec<TargetView>,
}

/// A listener to keep open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerView {
    /// Its ARN.
    pub(crate) arn: ListenerArn,
    /// Where it listens: the load balancer's own loopback address and the listener's port.
    pub(crate) bind: SocketAddrV4,
    /// The target group it forwards to.
    pub(crate) target_group_arn: TargetGroupArn,
}

/// Outcome of one health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    /// An answer that fits the matcher.
    Pass,
    /// An answer with another status.
    WrongStatus(u16),
    /// No answer in time.
    Timeout,
    /// Connection refused or broken.
    Refused,
}

/// The cloud, for the load balancer. Calls hold the cloud's lock only briefly.
pub(crate) trait BalancerSource: Send + Sync {
    /// Listeners to keep open now.
    fn listeners(&self) -> Vec<ListenerView>;
    /// Target groups that some listener forwards to (others are not checked: `unused`).
    fn target_groups(&self) -> Vec<TargetGroupView>;
    /// Reports one health check's outcome; the cloud counts thresholds.
    fn report(
        &self,
        target_group_arn: &TargetGroupArn,
        instance_id: &InstanceId,
        outcome: CheckOutcome,
    );
}
