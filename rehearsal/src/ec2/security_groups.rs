//! Security groups: kept and described exactly, but not enforced (loopback has no firewall).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::SecurityGroupId;

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SecurityGroup {
    /// Its id.
    pub(crate) id: SecurityGroupId,
    /// Unique in the VPC.
    pub(crate) name: String,
    /// Free text.
    pub(crate) description: String,
    /// Inbound rules.
    pub(crate) ingress: BTreeSet<Rule>,
    /// Outbound rules.
    pub(crate) egress: BTreeSet<Rule>,
}

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// `tcp`, `udp`, `icmp`, a number, or `-1` for all.
    pub(crate) protocol: String,
    /// First port.
    pub(crate) from: Option<i64>,
    /// Last port.
    pub(crate) to: Option<i64>,
    /// The other side.
    pub(crate) peer: Peer,
    /// Free text.
    pub(crate) description: Option<String>,
}

/// The other side of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Peer {
    /// An IPv4 range.
    Cidr(String),
    /// An IPv6 range.
    Cidr6(String),
    /// Members of a group.
    Group(SecurityGroupId),
}

/// A rule's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Ingress.
    Ingress,
    /// Egress.
    Egress,
}

impl SecurityGroup {
    pub(super) fn rules(&mut self, way: Direction) -> &mut BTreeSet<Rule> {
        match way {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

pub(super) fn everything() -> Rule {
    Rule {
        protocol: "-1".to_owned(),
        from: None,
        to: None,
        peer: Peer::Cidr("0.0.0.0/0".to_owned()),
        description: None,
    }
}
