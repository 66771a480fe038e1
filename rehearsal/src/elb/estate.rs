//! What ELB may ask of EC2, and nothing more.

use std::net::Ipv4Addr;

/// How a target's machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MachineState {
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
pub(crate) struct Machine {
    /// Where it answers.
    pub(crate) address: Ipv4Addr,
    /// How it stands.
    pub(crate) state: MachineState,
}

/// The cloud around the load balancers.
pub(crate) trait Estate {
    /// `None` when EC2 does not know (any more) of such an instance.
    fn machine(&self, instance_id: &str) -> Option<Machine>;
    /// The id of the one VPC.
    fn vpc(&self) -> &str;
    /// The zone of a subnet, when it exists.
    fn subnet_zone(&self, subnet_id: &str) -> Option<String>;
    /// A loopback address no instance and no other load balancer has.
    fn balancer_address(&mut self) -> Ipv4Addr;
}
