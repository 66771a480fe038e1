//! Instances as EC2 records them.
//!
//! Changes that need the machine (starting it, waiting until it is off) are made by `machines.rs`, which reads the
//! [`Phase`] as the wanted state.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cpu::Credits;
use super::interfaces;
use super::select::absent;
use super::spot::SpotRequest;
use crate::guests::Failure;
use crate::ids::{ImageId, InstanceId, SecurityGroupId, SubnetId};
use crate::wire::ApiError;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// Its id.
    pub(crate) id: InstanceId,
    /// The RunInstances call that created it.
    pub(crate) reservation: String,
    /// Its place in that call.
    pub(crate) index: usize,
    /// The caller's token for that call.
    pub(crate) token: Option<String>,
    /// The image it was launched from.
    pub(crate) image: ImageId,
    /// Its type.
    pub(crate) kind: String,
    /// As of its image.
    pub(crate) architecture: String,
    /// As of its image.
    pub(crate) root_device: String,
    /// As of its image.
    pub(crate) boot_mode: Option<String>,
    /// As of its image, or as modified since.
    pub(crate) ena: bool,
    /// Likewise.
    pub(crate) sriov: Option<String>,
    /// Its subnet.
    pub(crate) subnet: SubnetId,
    /// The subnet's zone.
    pub(crate) zone: String,
    /// Its private address.
    pub(crate) address: Ipv4Addr,
    /// The key pair it was launched with.
    pub(crate) key: Option<String>,
    /// That pair's public half; the pair itself may be deleted since.
    pub(crate) public_key: Option<String>,
    /// Security groups.
    pub(crate) groups: Vec<SecurityGroupId>,
    /// Its network interface's settings, as of its launch.
    #[serde(default)]
    pub(crate) interface: interfaces::Settings,
    /// The name of its instance profile.
    pub(crate) profile: Option<String>,
    /// As given, in base64.
    pub(crate) user_data: Option<String>,
    /// The effect of a shutdown by the operating system.
    pub(crate) on_shutdown: OnShutdown,
    /// Whether TerminateInstances is refused.
    pub(crate) protected: bool,
    /// Whether StopInstances is refused.
    #[serde(default)]
    pub(crate) stop_protected: bool,
    /// Kept and shown.
    pub(crate) ebs_optimized: bool,
    /// Kept and shown.
    pub(crate) monitored: bool,
    /// How its metadata is served.
    pub(crate) metadata: MetadataOptions,
    /// The Spot request that launched it, if it is a Spot Instance.
    #[serde(default)]
    pub(crate) spot: Option<SpotRequest>,
    /// The CPU credits of a burstable type; kept when the type changes.
    #[serde(default)]
    pub(crate) credits: Option<Credits>,
    /// When it was last started.
    pub(crate) launched: Timestamp,
    /// Its state, which is also the wanted state of its machine.
    pub(crate) phase: Phase,
    /// When it entered this state.
    pub(crate) since: Timestamp,
    /// Why it is in this state, where EC2 gives a reason.
    pub(crate) reason: Option<Reason>,
    /// Whether it is being rebooted.
    pub(crate) reboots: bool,
    /// Whether its machine may be killed instead of powered off.
    pub(crate) forced: bool,
    /// Whether its machine runs under emulation because it failed under hardware virtualisation.
    #[serde(default)]
    pub(crate) emulated: bool,
    /// The current or last fault of its machine.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// A fault of an instance's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// What happened.
    pub(crate) failure: Failure,
    /// When it was detected.
    pub(crate) since: Timestamp,
    /// When it ended; `None` while it lasts.
    pub(crate) over: Option<Timestamp>,
}

/// EC2's instance states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Its machine is being started.
    Pending,
    /// Its machine runs.
    Running,
    /// Its machine is to be powered off for good.
    ShuttingDown,
    /// It is terminated, and shown for an hour.
    Terminated,
    /// Its machine is to be powered off.
    Stopping,
    /// Its machine is off and its disks are kept.
    Stopped,
}

impl Phase {
    /// As EC2 writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// EC2's number for it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }
}

/// Why an instance is in its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reason {
    /// e.g. `Client.UserInitiatedShutdown`
    pub(crate) code: String,
    /// The message.
    pub(crate) message: String,
}

impl Reason {
    /// Requested by a caller.
    pub(crate) fn user() -> Self {
        Self {
            code: "Client.UserInitiatedShutdown".to_owned(),
            message: "Client.UserInitiatedShutdown: User initiated shutdown".to_owned(),
        }
    }

    /// Its own operating system powered it off.
    pub(crate) fn own() -> Self {
        Self {
            code: "Client.InstanceInitiatedShutdown".to_owned(),
            message: "Client.InstanceInitiatedShutdown: Instance initiated shutdown".to_owned(),
        }
    }

    /// Reclaimed by Spot.
    pub(crate) fn spot() -> Self {
        Self {
            code: "Server.SpotInstanceTermination".to_owned(),
            message: "Server.SpotInstanceTermination: Spot instance termination".to_owned(),
        }
    }

    /// Its machine failed.
    pub(crate) fn fault(why: &str) -> Self {
        Self {
            code: "Server.InternalError".to_owned(),
            message: format!("Server.InternalError: {why}"),
        }
    }
}

/// The effect of a shutdown by the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OnShutdown {
    /// The instance is stopped.
    Stop,
    /// The instance is terminated.
    Terminate,
}

impl OnShutdown {
    /// Parses EC2's name for it.
    ///
    /// # Errors
    /// `InvalidParameterValue`.
    pub(crate) fn read(text: &str) -> Result<Self, ApiError> {
        match text {
            "stop" => Ok(Self::Stop),
            "terminate" => Ok(Self::Terminate),
            other => Err(ApiError::invalid_value(
                "instanceInitiatedShutdownBehavior",
                other,
                "expecting stop or terminate",
            )),
        }
    }

    /// EC2's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Terminate => "terminate",
        }
    }
}

/// How an instance's metadata is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetadataOptions {
    /// `optional` or `required`: whether a session token is required.
    pub(crate) tokens: String,
    /// `enabled` or `disabled`.
    pub(crate) endpoint: String,
    /// Kept and shown.
    pub(crate) hop_limit: i64,
    /// `enabled` or `disabled`: whether the instance sees its own tags.
    pub(crate) tags: String,
}

impl Instance {
    /// Whether it is not terminated: it has an address and may have a machine.
    pub(crate) fn is_alive(&self) -> bool {
        self.phase != Phase::Terminated
    }

    /// The current fault of its machine, while it should run.
    pub(crate) fn impairment(&self) -> Option<&Fault> {
        let fault = self.fault.as_ref()?;
        (self.phase == Phase::Running && fault.over.is_none()).then_some(fault)
    }

    /// The current or last fault of its machine and its outcome, as text.
    pub(crate) fn fault_text(&self) -> Option<String> {
        let fault = self.fault.as_ref()?;
        Some(if self.emulated && fault.over.is_some() {
            format!("{}; started again under emulation", fault.failure)
        } else {
            fault.failure.to_string()
        })
    }

    /// Moves it to another state.
    pub(crate) fn enter(&mut self, phase: Phase, reason: Option<Reason>, now: Timestamp) {
        self.phase = phase;
        self.reason = reason;
        self.since = now;
    }
}

/// EC2's error for unknown instances.
pub(crate) fn not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidInstanceID.NotFound",
        absent("instance ID", "instance IDs", ids),
    )
}
