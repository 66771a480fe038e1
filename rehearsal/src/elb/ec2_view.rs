//! What ELB reads from EC2, and nothing more.

use std::net::Ipv4Addr;

use crate::ids::{InstanceId, SubnetId, VpcId};

/// The state of a target's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceState {
    /// Starting.
    Pending,
    /// Running.
    Running,
    /// Stopping or stopped; it may be started again.
    Stopped,
    /// Terminated, or being terminated.
    Terminated,
}

/// An instance, for its load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InstanceView {
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// Its state.
    pub(crate) state: InstanceState,
}

/// EC2, for the load balancers.
pub(crate) trait Ec2View {
    /// The instance; `None` when EC2 does not list it (any more).
    fn instance_view(&self, instance_id: &InstanceId) -> Option<InstanceView>;
    /// The id of the one VPC.
    fn vpc(&self) -> &VpcId;
    /// The zone of a subnet, when it exists.
    fn subnet_zone(&self, subnet_id: &SubnetId) -> Option<String>;
    /// Assigns a loopback address to a load balancer.
    fn balancer_address(&mut self) -> Ipv4Addr;
}
