//! Network interfaces: the primary one of each instance, and those that outlived theirs.
//!
//! An instance's interface is part of its record (address, subnet, groups), so the two cannot differ. Only an interface
//! whose instance is terminated and whose `DeleteOnTermination` is false has a row of its own: it keeps its address and
//! its security groups until DeleteNetworkInterface.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, InterfaceId, SecurityGroupId, SubnetId};
use crate::wire::{ApiError, Params};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    /// Its id.
    pub(crate) id: InterfaceId,
    /// Free text.
    pub(crate) description: String,
    /// Its subnet.
    pub(crate) subnet: SubnetId,
    /// e.g. `us-east-1a`
    pub(crate) zone: String,
    /// Its private address.
    pub(crate) address: Ipv4Addr,
    /// Security groups.
    pub(crate) groups: Vec<SecurityGroupId>,
    /// Its attachment; `None` when its instance is terminated.
    pub(crate) attachment: Option<Attachment>,
}

/// An interface's attachment to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// `eni-attach-…`
    pub(crate) id: String,
    /// The instance.
    pub(crate) instance: InstanceId,
    /// When it was attached.
    pub(crate) since: Timestamp,
    /// Whether it is deleted with the instance.
    pub(crate) delete_on_termination: bool,
    /// Whether it has a public address.
    pub(crate) public: bool,
}

/// Settings of an instance's interface, given at launch, besides subnet and groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Free text.
    pub(crate) description: String,
    /// Whether it is deleted with the instance.
    pub(crate) delete_on_termination: bool,
    /// Whether it has a public address while the instance runs; subnets here assign one by default.
    pub(crate) public: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            description: String::new(),
            delete_on_termination: true,
            public: true,
        }
    }
}

impl Settings {
    /// Reads the only `NetworkInterface` of a launch; returns it as well, for subnet and groups.
    ///
    /// # Errors
    /// For several interfaces, an existing one, and fields that have no effect here.
    pub(crate) fn read(params: &Params) -> Result<(Self, Params), ApiError> {
        let mut all = params.structs("NetworkInterface");
        let interface = match all.len() {
            0 => return Ok((Self::default(), Params::default())),
            1 => all.remove(0),
            _ => {
                return Err(unsupported(
                    "an instance has one network interface here, and several were requested",
                ));
            }
        };
        for (name, value) in interface.iter() {
            let field = name.split('.').next().unwrap_or_default();
            let means_something = match field {
                "SubnetId" | "SecurityGroupId" | "Description" => true,
                "AssociatePublicIpAddress" | "DeleteOnTermination" => true,
                "DeviceIndex" | "NetworkCardIndex" => value == "0",
                "InterfaceType" => value == "interface",
                _ => false,
            };
            if !means_something {
                return Err(unsupported(&format!(
                    "NetworkInterface.{name} ({value}) cannot be honoured here"
                )));
            }
        }
        if !interface.has("DeviceIndex") {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Each network interface requires a device index.",
            ));
        }
        for (name, what) in [
            ("SubnetId", "subnet ID"),
            ("SecurityGroupId", "security groups"),
            ("SecurityGroup", "security groups"),
        ] {
            if params.has(name) {
                return Err(ApiError::new(
                    "InvalidParameterCombination",
                    format!(
                        "Network interfaces and an instance-level {what} may not be specified on the same request"
                    ),
                ));
            }
        }
        let flag = |name: &str| interface.boolean(name);
        let settings = Self {
            description: interface.string("Description").unwrap_or_default(),
            delete_on_termination: flag("DeleteOnTermination")?.unwrap_or(true),
            public: flag("AssociatePublicIpAddress")?.unwrap_or(true),
        };
        Ok((settings, interface))
    }
}

fn unsupported(message: &str) -> ApiError {
    ApiError::new("UnsupportedOperation", message)
}

impl Interface {
    pub(super) fn status(&self) -> &'static str {
        match self.attachment {
            Some(_) => "in-use",
            None => "available",
        }
    }

    /// Its MAC address: locally administered, and always the same for an interface.
    pub(super) fn mac(&self) -> String {
        let digits: Vec<char> = self.id.as_str().chars().rev().take(10).collect();
        digits.chunks(2).fold("02".to_owned(), |mac, pair| {
            format!("{mac}:{}", pair.iter().collect::<String>())
        })
    }

    pub(super) fn public_address(&self) -> Option<Ipv4Addr> {
        let attachment = self.attachment.as_ref()?;
        attachment.public.then_some(self.address)
    }
}
