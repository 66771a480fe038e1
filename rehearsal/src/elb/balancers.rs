//! Load balancers, with one address each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BalancerArn, SubnetId, VpcId};

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoadBalancer {
    /// Its ARN.
    pub(super) arn: BalancerArn,
    /// Its name, unique in the region.
    pub(super) name: String,
    /// Its address.
    pub(super) address: Ipv4Addr,
    pub(super) scheme: String,
    pub(super) vpc: VpcId,
    pub(super) created: Timestamp,
    /// Subnets with their zones.
    pub(super) subnets: BTreeMap<SubnetId, String>,
    pub(super) security_groups: Vec<String>,
    /// The attributes that were set.
    pub(super) attributes: BTreeMap<String, String>,
}

impl LoadBalancer {
    /// `app/name/id`, as in the ARNs of it and its listeners.
    pub(super) fn path(&self) -> &str {
        self.arn
            .as_str()
            .split_once("loadbalancer/")
            .map_or("", |(_, path)| path)
    }
}
