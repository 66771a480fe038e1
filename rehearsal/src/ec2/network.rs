//! The default VPC: one network of loopback addresses, a subnet in each zone.
//!
//! Nothing is routed or filtered: an instance's private address is an address of this host's loopback network, to which
//! its ports are forwarded.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::account::REGION;
use crate::ids::{Id as _, SubnetId, VpcId};
use crate::wire::ApiError;

/// The region's zones.
pub(crate) const ZONES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Addresses of a subnet: a /20.
pub(super) const SUBNET_SIZE: u32 = 4096;
/// The addresses that AWS reserves at a subnet's start.
pub(super) const RESERVED: u32 = 4;
/// The /16 networks of 127.0.0.0/8 for clouds: those below are for this host's own servers, those above for tests.
pub(crate) const SECOND_BYTES: RangeInclusive<u8> = 64..=127;
/// The /20 of the VPC for load balancers, the last one.
const BALANCER_BLOCK: u32 = 15;

/// The default VPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Network {
    /// Its id.
    pub(crate) vpc: VpcId,
    /// The second byte of every address, one of [`SECOND_BYTES`]: from the folder's path, or another when a running
    /// cloud uses that one (`loopback.rs`).
    pub(crate) second_byte: u8,
    /// One subnet per zone, in order.
    pub(crate) subnets: Vec<Subnet>,
    /// How many addresses were assigned to load balancers.
    pub(crate) balancers: u32,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    /// Its id.
    pub(crate) id: SubnetId,
    /// e.g. `us-east-1a`
    pub(crate) zone: String,
    /// Its index among the subnets, which determines its /20.
    pub(crate) index: u32,
    /// How many addresses were assigned: the next instance gets the next one, so that an address is not reused soon.
    pub(crate) given: u32,
}

impl Default for Network {
    fn default() -> Self {
        let subnets = ZONES
            .iter()
            .zip(0..)
            .map(|(zone, index)| Subnet {
                id: SubnetId::fresh(),
                zone: format!("{REGION}{zone}"),
                index,
                given: 0,
            })
            .collect();
        Self {
            vpc: VpcId::fresh(),
            second_byte: *SECOND_BYTES.start(),
            subnets,
            balancers: 0,
        }
    }
}

impl Network {
    /// The subnet of that id.
    ///
    /// # Errors
    /// `InvalidSubnetID.NotFound`.
    pub(crate) fn subnet(&self, id: &SubnetId) -> Result<&Subnet, ApiError> {
        self.subnets
            .iter()
            .find(|subnet| subnet.id == *id)
            .ok_or_else(|| SubnetId::malformed(id.as_str()))
    }

    /// Refuses any VPC but the default one.
    ///
    /// # Errors
    /// `InvalidVpcID.NotFound`.
    pub(crate) fn check_vpc(&self, id: &str) -> Result<(), ApiError> {
        if self.vpc == id {
            return Ok(());
        }
        Err(VpcId::malformed(id))
    }

    /// The default subnet of a zone.
    ///
    /// # Errors
    /// `InvalidParameterValue` for an unknown zone.
    pub(crate) fn subnet_of_zone(&self, zone: &str) -> Result<&Subnet, ApiError> {
        self.subnets
            .iter()
            .find(|subnet| subnet.zone == zone)
            .ok_or_else(|| {
                ApiError::new(
                    "InvalidParameterValue",
                    format!("Invalid availability zone: [{zone}]"),
                )
            })
    }

    /// Assigns a free address in a subnet: one that is not `taken`, and not one that was just released.
    ///
    /// # Errors
    /// `InsufficientFreeAddressesInSubnet`.
    pub(crate) fn allocate(
        &mut self,
        subnet_id: &SubnetId,
        taken: impl Fn(Ipv4Addr) -> bool,
    ) -> Result<Ipv4Addr, ApiError> {
        let second_byte = self.second_byte;
        let subnet = self
            .subnets
            .iter_mut()
            .find(|subnet| subnet.id == *subnet_id)
            .ok_or_else(|| SubnetId::malformed(subnet_id.as_str()))?;
        // The last address of a subnet is its broadcast address.
        let usable = SUBNET_SIZE - RESERVED - 1;
        for _ in 0..usable {
            let address = address(second_byte, subnet.index, RESERVED + subnet.given % usable);
            subnet.given += 1;
            if !taken(address) {
                return Ok(address);
            }
        }
        Err(ApiError::new(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "There are not enough free addresses in subnet '{subnet_id}' to satisfy the requested number of instances."
            ),
        ))
    }

    /// Assigns an address to a load balancer.
    pub(crate) fn allocate_balancer(&mut self) -> Ipv4Addr {
        let address = address(
            self.second_byte,
            BALANCER_BLOCK,
            RESERVED + self.balancers % (SUBNET_SIZE - RESERVED - 1),
        );
        self.balancers += 1;
        address
    }

    pub(super) fn cidr(&self) -> String {
        format!("127.{}.0.0/16", self.second_byte)
    }
}

pub(super) fn address(second_byte: u8, block: u32, host: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, second_byte, 0, 0)) + block * SUBNET_SIZE + host)
}

/// The id of a zone, e.g. `use1-az1`.
pub(super) fn zone_id(zone: &str) -> String {
    let number = ZONES
        .iter()
        .position(|letter| zone.ends_with(letter))
        .map_or(0, |at| at + 1);
    format!("use1-az{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_reused_soon_and_exhaustion_is_an_error() {
        let mut network = Network {
            second_byte: 70,
            ..Network::default()
        };
        let id = network.subnets[1].id.clone();
        assert_eq!(
            network.allocate(&id, |_| false).unwrap(),
            Ipv4Addr::new(127, 70, 16, 4)
        );
        assert_eq!(
            network.allocate(&id, |_| false).unwrap(),
            Ipv4Addr::new(127, 70, 16, 5)
        );
        let busy = Ipv4Addr::new(127, 70, 16, 6);
        assert_eq!(
            network.allocate(&id, |at| at == busy).unwrap(),
            Ipv4Addr::new(127, 70, 16, 7)
        );
        assert_eq!(
            network.allocate(&id, |_| true).unwrap_err().code,
            "InsufficientFreeAddressesInSubnet"
        );
        assert_eq!(network.allocate_balancer(), Ipv4Addr::new(127, 70, 240, 4));
    }
}
