//! Which part of the loopback network is this cloud's: a /16 that no other cloud of this host has while both are up.
//!
//! Instances and load balancers answer at real addresses of this host, so two clouds with the same ones would answer for
//! each other. A cloud claims its network by a socket of that name, which ends with the process. What is done with the
//! addresses is `ec2::network`'s business.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context as _, bail};

use crate::cloud::Cloud;
use crate::ec2::network::SECOND_BYTES;

/// A claimed network; given back when dropped, or when the process dies.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: UnixListener,
}

impl Claim {
    /// Claims 127.`second_byte`.0.0/16; `None` when another cloud has it.
    fn of(second_byte: u8) -> anyhow::Result<Option<Self>> {
        // No file: such a name is known wherever the loopback network is the same, and nowhere else.
        let name = format!("rehearsal 127.{second_byte}.0.0/16");
        let bound =
            SocketAddr::from_abstract_name(&name).and_then(|name| UnixListener::bind_addr(&name));
        match bound {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error).with_context(|| format!("claim the network {name}")),
        }
    }
}

/// Claims the cloud's own network, or another when it is taken and nothing in the cloud has an address yet.
///
/// # Errors
/// When no network can be had.
pub(crate) fn claim(cloud: &Cloud) -> anyhow::Result<Claim> {
    let (own, in_use) = cloud.read(|state, _| {
        let ec2 = &state.region.ec2;
        let machines = ec2.instances.values().any(|instance| instance.is_alive());
        (
            ec2.network.second_byte,
            machines || ec2.network.balancers > 0,
        )
    });
    if let Some(claim) = Claim::of(own)? {
        return Ok(claim);
    }
    if in_use {
        bail!(
            "the addresses of this cloud's machines, 127.{own}.0.0/16, are also those of another cloud that is up\n\
             hint: take that one down first"
        );
    }
    for other in SECOND_BYTES {
        if let Some(claim) = Claim::of(other)? {
            cloud.change(|state, _| state.region.ec2.network.second_byte = other)?;
            return Ok(claim);
        }
    }
    bail!(
        "every network for a cloud is taken: {} clouds are up on this host\nhint: take one down first",
        SECOND_BYTES.count()
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::RealClock;

    #[test]
    fn two_clouds_never_have_the_same_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let cloud =
            |name: &str| Cloud::open(&folder.path().join(name), Arc::new(RealClock)).unwrap();
        let second_byte =
            |cloud: &Cloud| cloud.read(|state, _| state.region.ec2.network.second_byte);
        let (first, second) = (cloud("first"), cloud("second"));
        let of_first = claim(&first).unwrap();
        let shared = second_byte(&first);
        let share = |cloud: &Cloud| {
            let shared = cloud.change(|state, _| state.region.ec2.network.second_byte = shared);
            shared.unwrap();
        };
        share(&second);
        let of_second = claim(&second).unwrap();
        assert_ne!(second_byte(&second), shared);
        drop(of_second);

        // Addresses that were given are kept.
        share(&second);
        let balancer = second.change(|state, _| state.region.ec2.network.allocate_balancer());
        balancer.unwrap();
        let refused = claim(&second).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("127.{shared}.0.0/16")),
            "{refused}"
        );
        drop(of_first);
        drop(claim(&second).unwrap());
        assert_eq!(second_byte(&second), shared);
    }
}
