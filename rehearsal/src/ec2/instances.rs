//! Instances: what they are, and how EC2 moves them from state to state.
//!
//! The moves that take a machine (starting it, waiting until it is off) are made by `machines.rs`,
//! which reads the [`Phase`] as what is wanted.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cpu::Credits;
use super::interfaces;
use super::select::absent;
use super::spot::SpotRequest;
use crate::guests::Failure;
use crate::wire::ApiError;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// `i-…`
    pub(crate) id: String,
    /// The RunInstances call that made it.
    pub(crate) reservation: String,
    /// Its place in that call.
    pub(crate) index: usize,
    /// The caller's token for that call.
    pub(crate) token: Option<String>,
    /// The image it was launched from.
    pub(crate) image: String,
    /// Its type.
    pub(crate) kind: String,
    /// Of its image.
    pub(crate) architecture: String,
    /// Of its image.
    pub(crate) root_device: String,
    /// Of its image.
    pub(crate) boot_mode: Option<String>,
    /// Of its image, or as modified since.
    pub(crate) ena: bool,
    /// Likewise.
    pub(crate) sriov: Option<String>,
    /// Where it is.
    pub(crate) subnet: String,
    /// The subnet's zone.
    pub(crate) zone: String,
    /// Its private address.
    pub(crate) address: Ipv4Addr,
    /// The key pair it was launched with.
    pub(crate) key: Option<String>,
    /// That pair's public half; the pair itself may be deleted since.
    pub(crate) public_key: Option<String>,
    /// Security groups.
    pub(crate) groups: Vec<String>,
    /// What its launch said of its network interface.
    #[serde(default)]
    pub(crate) interface: interfaces::Settings,
    /// The name of its instance profile.
    pub(crate) profile: Option<String>,
    /// As given, in base64.
    pub(crate) user_data: Option<String>,
    /// What an operating system's own shutdown means.
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
    /// The request by which it was launched, of a Spot Instance.
    #[serde(default)]
    pub(crate) spot: Option<SpotRequest>,
    /// Of a burstable type, or of one that was.
    #[serde(default)]
    pub(crate) credits: Option<Credits>,
    /// When it was last started.
    pub(crate) launched: Timestamp,
    /// How far it is, and so what is wanted of its machine.
    pub(crate) phase: Phase,
    /// Since when it is.
    pub(crate) since: Timestamp,
    /// Why it is, where EC2 says.
    pub(crate) reason: Option<Reason>,
    /// Whether it is to be powered off and on again.
    pub(crate) reboots: bool,
    /// Whether its plug may be pulled instead of pressing its button.
    pub(crate) forced: bool,
    /// Whether its machine runs under emulation because hardware virtualisation failed it once.
    #[serde(default)]
    pub(crate) emulated: bool,
    /// What is wrong with its machine, or was last.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// What is wrong with an instance's machine, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// What happened.
    pub(crate) failure: Failure,
    /// When it was noticed.
    pub(crate) since: Timestamp,
    /// When it was over; `None` while it is not.
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
    /// It is gone, and remembered for an hour.
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
    /// For people.
    pub(crate) message: String,
}

impl Reason {
    /// Somebody asked for it.
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

    /// Spot took it back.
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

/// What an operating system's own shutdown means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OnShutdown {
    /// The instance is stopped.
    Stop,
    /// The instance is gone.
    Terminate,
}

impl OnShutdown {
    /// Reads EC2's word for it.
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

    /// EC2's word for it.
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
    /// `optional` or `required`: whether a session token is demanded.
    pub(crate) tokens: String,
    /// `enabled` or `disabled`.
    pub(crate) endpoint: String,
    /// Kept and shown.
    pub(crate) hop_limit: i64,
    /// `enabled` or `disabled`: whether the instance sees its own tags.
    pub(crate) tags: String,
}

impl Instance {
    /// Whether it has an address and may have a machine.
    pub(crate) fn is_alive(&self) -> bool {
        self.phase != Phase::Terminated
    }

    /// What is wrong with its machine now, while it should run.
    pub(crate) fn impairment(&self) -> Option<&Fault> {
        let fault = self.fault.as_ref()?;
        (self.phase == Phase::Running && fault.over.is_none()).then_some(fault)
    }

    /// What is or was wrong with its machine and what came of it, for people.
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

/// Refuses what is no instance's id.
///
/// # Errors
/// `InvalidInstanceID.Malformed`.
pub(crate) fn check_id(id: &str) -> Result<(), ApiError> {
    if id.starts_with("i-") {
        return Ok(());
    }
    Err(ApiError::new(
        "InvalidInstanceID.Malformed",
        format!("Invalid id: \"{id}\""),
    ))
}

/// What EC2 says of instances that are not there.
pub(crate) fn not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidInstanceID.NotFound",
        absent("instance ID", "instance IDs", ids),
    )
}
