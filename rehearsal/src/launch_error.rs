//! Reasons for which EC2 refuses a launch although the request is valid.
//!
//! Owns their codes and AWS's texts (`docs/fidelity.md` lists the sources). EC2 itself finds errors in a request.

use serde::{Deserialize, Serialize};

/// One such reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LaunchError {
    /// No capacity for the type in the zone.
    InsufficientInstanceCapacity,
    /// No capacity for a Spot request in any of its pools.
    UnfulfillableCapacity,
    /// The subnet is full.
    InsufficientFreeAddressesInSubnet,
    /// The account's quota of vCPUs.
    VcpuLimitExceeded,
    /// The account's quota of Spot instances.
    MaxSpotInstanceCountExceeded,
    /// EC2 failed.
    InternalError,
}

/// The launch that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    /// The instance type.
    pub(crate) instance_type: &'a str,
    /// The zone.
    pub(crate) zone: &'a str,
    /// The subnet, when the launch names one.
    pub(crate) subnet: &'a str,
}

impl LaunchError {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::InsufficientInstanceCapacity,
        Self::UnfulfillableCapacity,
        Self::InsufficientFreeAddressesInSubnet,
        Self::VcpuLimitExceeded,
        Self::MaxSpotInstanceCountExceeded,
        Self::InternalError,
    ];

    /// EC2's code.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::InsufficientInstanceCapacity => "InsufficientInstanceCapacity",
            Self::UnfulfillableCapacity => "UnfulfillableCapacity",
            Self::InsufficientFreeAddressesInSubnet => "InsufficientFreeAddressesInSubnet",
            Self::VcpuLimitExceeded => "VcpuLimitExceeded",
            Self::MaxSpotInstanceCountExceeded => "MaxSpotInstanceCountExceeded",
            Self::InternalError => "InternalError",
        }
    }

    /// The reason with this code.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }

    /// EC2's message, as a scaling activity gives it. Of Spot requests Auto Scaling gives the code as well.
    pub(crate) fn reason(self, attempt: Attempt<'_>) -> String {
        let Attempt {
            instance_type,
            zone,
            subnet,
        } = attempt;
        let of_spot =
            |text: &str| format!("Could not launch Spot Instances. {} - {text}", self.code());
        match self {
            Self::InsufficientInstanceCapacity => format!(
                "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). Our system will be working on provisioning additional capacity. You can currently get {instance_type} capacity by not specifying an Availability Zone in your request."
            ),
            Self::UnfulfillableCapacity => of_spot(
                "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again.",
            ),
            Self::InsufficientFreeAddressesInSubnet => format!(
                "There are not enough free addresses in subnet '{subnet}' to satisfy the requested number of instances."
            ),
            Self::VcpuLimitExceeded => "You have requested more vCPU capacity than your current vCPU limit of 8 allows for the instance bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.".to_owned(),
            Self::MaxSpotInstanceCountExceeded => of_spot("Max spot instance count exceeded."),
            Self::InternalError => "An internal error has occurred.".to_owned(),
        }
    }
}
