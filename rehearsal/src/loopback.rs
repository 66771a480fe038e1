//! The part of the loopback network that this cloud uses: a /16 that no other running cloud of this host has.
//!
//! Instances and load balancers have real addresses of this host, so two clouds with the same ones would answer for
//! each other. A cloud claims its network by an abstract socket of that name, which ends with the process.
//! `ec2::network` assigns the addresses.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context as _, bail};

use crate::cloud::Cloud;
use crate::ec2::network::SECOND_BYTES;

/// A claimed network; released when dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: UnixListener,
}

impl Claim {
    /// Claims 127.`second_byte`.0.0/16; `None` when another cloud has it.
    fn of(second_byte: u8) -> anyhow::Result<Option<Self>> {
        // An abstract name, not a file: it is visible exactly where the loopback network is shared.
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
/// When no network is free.
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
            "the addresses of this cloud's machines, 127.{own}.0.0/16, are in use by another running cloud\n\
             hint: run `rehearsal down` for that one first"
        );
    }
    for other in SECOND_BYTES {
        if let Some(claim) = Claim::of(other)? {
            cloud.change(|state, _| state.region.ec2.network.second_byte = other)?;
            return Ok(claim);
        }
    }
    bail!(
        "all networks for clouds are in use: {} clouds are up on this host\nhint: run `rehearsal down` for one of them first",
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
