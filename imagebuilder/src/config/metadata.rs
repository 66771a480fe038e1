//! Keys of `[image]` about firmware and the metadata service.

use serde::{Deserialize, Serialize};

/// The firmware that an image boots by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BootMode {
    /// UEFI.
    Uefi,
    /// BIOS.
    LegacyBios,
    /// UEFI where the instance's type has it.
    UefiPreferred,
}

impl BootMode {
    /// EC2's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Uefi => "uefi",
            Self::LegacyBios => "legacy-bios",
            Self::UefiPreferred => "uefi-preferred",
        }
    }
}

/// Whether instances of the image require IMDSv2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Imds {
    /// They do, unless their launch says otherwise.
    #[default]
    Required,
    /// That is left to their launch.
    Optional,
}

impl Imds {
    /// Whether tokens are required.
    pub(crate) fn is_required(self) -> bool {
        self == Self::Required
    }

    /// As EC2 spells it for an instance (`HttpTokens`).
    pub(crate) fn tokens(self) -> cloud::Tokens {
        match self {
            Self::Required => cloud::Tokens::Required,
            Self::Optional => cloud::Tokens::Optional,
        }
    }
}

/// How many hops an answer of the metadata service may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub(crate) struct Hops(u8);

impl Hops {
    /// The number.
    pub(crate) fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Hops {
    type Error = String;

    fn try_from(hops: u8) -> Result<Self, String> {
        if (1..=64).contains(&hops) {
            Ok(Self(hops))
        } else {
            Err(format!("imds_hops is {hops}; it must be 1 to 64"))
        }
    }
}

/// What systemd-imdsd does with the network of the metadata service (systemd-imdsd@.service(8), systemd 261 and newer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImdsNetwork {
    /// Reachable early in the boot, for every process.
    Unlocked,
    /// Left as it is.
    Off,
    /// Reachable through systemd-imdsd only: refused, see [`Self::findings`].
    Locked,
}

/// The kernel argument, without its value.
const ARGUMENT: &str = "systemd.imds.network=";

impl ImdsNetwork {
    /// The kernel argument that sets it.
    pub(crate) fn kernel_argument(self) -> String {
        let value = match self {
            Self::Unlocked => "unlocked",
            Self::Off => "off",
            Self::Locked => "locked",
        };
        format!("{ARGUMENT}{value}")
    }

    /// What no image can have.
    pub(super) fn findings(self, kernel_arguments: &[String], findings: &mut Vec<String>) {
        if self == Self::Locked {
            findings.push(
                "[image] imds_network = \"locked\" keeps the agent, and every service that uses the instance's role, from \
                 the metadata service: use \"unlocked\" or \"off\""
                    .into(),
            );
        }
        let own = |argument: &String| argument.starts_with(ARGUMENT);
        if kernel_arguments.iter().any(own) {
            findings.push(format!(
                "[image] imds_network and kernel_arguments both set {ARGUMENT}: remove one of them"
            ));
        }
    }
}
