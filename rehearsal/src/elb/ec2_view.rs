//! What ELB may ask of EC2, and nothing more.

use std::net::Ipv4Addr;

/// How a target's machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceState {
    /// It starts.
    Pending,
    /// It runs.
    Running,
    /// It stops or is stopped, and may come back.
    Stopped,
    /// It is terminated, or on its way there.
    Terminated,
}

/// An instance as its load balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InstanceView {
    /// Where it answers.
    pub(crate) address: Ipv4Addr,
    /// How it stands.
    pub(crate) state: InstanceState,
}

/// The cloud around the load balancers.
pub(crate) trait Ec2View {
    /// `None` when EC2 does not know (any more) of such an instance.
    fn instance_view(&self, instance_id: &str) -> Option<InstanceView>;
    /// The id of the one VPC.
    fn vpc(&self) -> &str;
    /// The zone of a subnet, when it exists.
    fn subnet_zone(&self, subnet_id: &str) -> Option<String>;
    /// A loopback address no instance and no other load balancer has.
    fn balancer_address(&mut self) -> Ipv4Addr;
}
