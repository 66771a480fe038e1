//! `[image.root_volume]` and `[[image.volume]]`: the volumes that an image's instances get.
//!
//! What no volume can be is refused here; what depends on the source image, in `bake/volumes.rs`. The limits are those of EC2's
//! volume types as Packer checks them (`launch_block_device_mappings`): it refuses more than 16000 IOPS and 1000 MiB/s of gp3.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// EC2's volume types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VolumeType {
    /// General purpose SSD, with performance of its own.
    Gp3,
    /// General purpose SSD, whose performance grows with its size.
    Gp2,
    /// Provisioned IOPS SSD.
    Io1,
    /// Provisioned IOPS SSD, durable.
    Io2,
    /// Throughput optimised HDD.
    St1,
    /// Cold HDD.
    Sc1,
    /// Magnetic, of the first generation.
    Standard,
}

impl VolumeType {
    /// EC2's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gp3 => "gp3",
            Self::Gp2 => "gp2",
            Self::Io1 => "io1",
            Self::Io2 => "io2",
            Self::St1 => "st1",
            Self::Sc1 => "sc1",
            Self::Standard => "standard",
        }
    }

    /// The least and the largest size, GiB.
    fn sizes(self) -> (u32, u32) {
        match self {
            Self::Gp3 | Self::Gp2 => (1, 16_384),
            Self::Io1 => (4, 16_384),
            Self::Io2 => (4, 65_536),
            Self::St1 | Self::Sc1 => (125, 16_384),
            Self::Standard => (1, 1_024),
        }
    }

    /// The least and the most IOPS that can be set, and the most for each GiB.
    fn iops(self) -> Option<(u32, u32, u32)> {
        match self {
            Self::Gp3 => Some((3_000, 16_000, 500)),
            Self::Io1 => Some((100, 64_000, 50)),
            Self::Io2 => Some((100, 64_000, 500)),
            Self::Gp2 | Self::St1 | Self::Sc1 | Self::Standard => None,
        }
    }

    /// Whether it needs IOPS.
    fn is_provisioned(self) -> bool {
        matches!(self, Self::Io1 | Self::Io2)
    }

    /// Whether an instance boots from it.
    fn boots(self) -> bool {
        !matches!(self, Self::St1 | Self::Sc1)
    }
}

/// IOPS of a gp3 volume for which none are set.
const GP3_IOPS: u32 = 3_000;

/// `[image.root_volume]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RootVolume {
    /// GiB; the source image's when left out.
    pub(crate) size_gib: Option<u32>,
    /// The source image's when left out.
    #[serde(rename = "type")]
    pub(crate) kind: Option<VolumeType>,
    /// IOPS.
    pub(crate) iops: Option<u32>,
    /// MiB/s.
    pub(crate) throughput: Option<u32>,
    /// Whether it is deleted with its instance.
    pub(crate) delete_on_termination: bool,
}

impl Default for RootVolume {
    fn default() -> Self {
        Self {
            size_gib: None,
            kind: None,
            iops: None,
            throughput: None,
            delete_on_termination: true,
        }
    }
}

impl RootVolume {
    /// Whether it is as the source image has it.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn findings(&self) -> Vec<String> {
        const PLACE: &str = "[image.root_volume]";
        let mut findings = performance(PLACE, self.kind, self.size_gib, self.iops, self.throughput);
        if let Some(kind) = self.kind.filter(|kind| !kind.boots()) {
            findings.push(format!(
                "{PLACE} type is {}: no instance boots from such a volume",
                kind.as_str()
            ));
        }
        findings
    }
}

/// `[[image.volume]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtraVolume {
    /// The device, such as `/dev/sdf`.
    pub(crate) device: Device,
    /// GiB.
    pub(crate) size_gib: u32,
    /// Its type.
    #[serde(rename = "type", default = "ExtraVolume::usual")]
    pub(crate) kind: VolumeType,
    /// IOPS.
    pub(crate) iops: Option<u32>,
    /// MiB/s.
    pub(crate) throughput: Option<u32>,
    /// Whether it is deleted with its instance.
    #[serde(default = "yes")]
    pub(crate) delete_on_termination: bool,
}

fn yes() -> bool {
    true
}

impl ExtraVolume {
    fn usual() -> VolumeType {
        VolumeType::Gp3
    }

    fn findings(&self) -> Vec<String> {
        let place = format!("[[image.volume]] {}:", self.device.as_str());
        performance(
            &place,
            Some(self.kind),
            Some(self.size_gib),
            self.iops,
            self.throughput,
        )
    }
}

/// The name of a device, as EC2 proposes them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Device(String);

impl Device {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rest = text
            .strip_prefix("/dev/sd")
            .or_else(|| text.strip_prefix("/dev/xvd"));
        let letters = rest.map(|rest| rest.trim_end_matches(|c: char| c.is_ascii_digit()));
        let named = letters.is_some_and(|letters| {
            (1..=2).contains(&letters.len())
                && letters.bytes().all(|byte| byte.is_ascii_lowercase())
        });
        if named && text.len() <= 12 {
            return Ok(Self(text));
        }
        Err(format!(
            "`{}` is not the name of a device: use /dev/sdf to /dev/sdp",
            text.escape_debug()
        ))
    }
}

/// What no volume of an image can be.
pub(super) fn findings(root: &RootVolume, extra: &[ExtraVolume]) -> Vec<String> {
    let mut findings = root.findings();
    let mut devices = BTreeSet::new();
    for volume in extra {
        findings.extend(volume.findings());
        if !devices.insert(&volume.device) {
            findings.push(format!(
                "two [[image.volume]] have the device `{}`",
                volume.device.as_str()
            ));
        }
    }
    findings
}

fn performance(
    place: &str,
    kind: Option<VolumeType>,
    size: Option<u32>,
    iops: Option<u32>,
    throughput: Option<u32>,
) -> Vec<String> {
    let Some(kind) = kind else {
        let of_unknown = iops.is_some() || throughput.is_some();
        let mut findings = Vec::new();
        if size == Some(0) {
            findings.push(format!("{place} size_gib is 0"));
        }
        if of_unknown {
            findings.push(format!(
                "{place} iops and throughput need type: the source image's type may not have them"
            ));
        }
        return findings;
    };
    let name = kind.as_str();
    let mut findings = Vec::new();
    let mut wrong = |is: bool, what: String| {
        if is {
            findings.push(format!("{place} {what}"));
        }
    };
    let (least, largest) = kind.sizes();
    wrong(
        size.is_some_and(|size| !(least..=largest).contains(&size)),
        format!(
            "size_gib is {}: a volume of type {name} has {least} to {largest}",
            size.unwrap_or_default()
        ),
    );
    match (iops, kind.iops()) {
        (Some(iops), None) => wrong(
            true,
            format!("iops is {iops}: type {name} has no such setting"),
        ),
        (Some(iops), Some((least, most, each))) => {
            wrong(
                !(least..=most).contains(&iops),
                format!("iops is {iops}: a volume of type {name} has {least} to {most}"),
            );
            let by_size = size.map(|size| size.saturating_mul(each).max(least));
            wrong(
                by_size.is_some_and(|by_size| iops > by_size && iops <= most),
                format!(
                    "iops is {iops}: a volume of type {name} has at most {each} for each GiB, so {} here",
                    by_size.unwrap_or_default()
                ),
            );
        }
        (None, _) => wrong(kind.is_provisioned(), format!("type {name} needs iops")),
    }
    if let Some(throughput) = throughput {
        let of_gp3 = kind == VolumeType::Gp3;
        wrong(
            !of_gp3,
            format!("throughput is {throughput}: only type gp3 has such a setting"),
        );
        wrong(
            of_gp3 && !(125..=1_000).contains(&throughput),
            format!("throughput is {throughput}: a volume of type gp3 has 125 to 1000"),
        );
        let least = throughput.saturating_mul(4);
        wrong(
            of_gp3 && throughput <= 1_000 && least > iops.unwrap_or(GP3_IOPS),
            format!("throughput is {throughput}: that needs iops of at least {least}"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_volumes_are_refused() {
        for (keys, want) in [
            ("", ""),
            (
                "type = 'gp3'\nsize_gib = 20\niops = 4000\nthroughput = 1000",
                "",
            ),
            ("type = 'io2'\nsize_gib = 20\niops = 10000", ""),
            ("size_gib = 20", ""),
            ("size_gib = 0", "size_gib is 0"),
            ("iops = 4000", "iops and throughput need type"),
            (
                "type = 'gp2'\niops = 3000",
                "iops is 3000: type gp2 has no such setting",
            ),
            (
                "type = 'gp2'\nthroughput = 200",
                "only type gp3 has such a setting",
            ),
            (
                "type = 'gp3'\nthroughput = 1001",
                "throughput is 1001: a volume of type gp3 has 125 to 1000",
            ),
            ("type = 'gp3'\nthroughput = 100", "has 125 to 1000"),
            (
                "type = 'gp3'\nthroughput = 1000",
                "needs iops of at least 4000",
            ),
            ("type = 'gp3'\niops = 2999", "has 3000 to 16000"),
            (
                "type = 'gp3'\nsize_gib = 8\niops = 5000",
                "at most 500 for each GiB, so 4000 here",
            ),
            ("type = 'gp3'\nsize_gib = 20000", "has 1 to 16384"),
            ("type = 'io1'", "type io1 needs iops"),
            ("type = 'io1'\nsize_gib = 10\niops = 1000", "so 500 here"),
            (
                "type = 'st1'\nsize_gib = 200",
                "no instance boots from such a volume",
            ),
            ("type = 'standard'\nsize_gib = 2000", "has 1 to 1024"),
        ] {
            let root: RootVolume = toml::from_str(keys).unwrap();
            let found = findings(&root, &[]).join("; ");
            assert!(
                found.contains(want) && found.is_empty() == want.is_empty(),
                "{keys}: {found}"
            );
        }
    }

    #[test]
    fn a_device_is_named_as_ec2_names_it_and_once() {
        for (name, fits) in [
            ("/dev/sdf", true),
            ("/dev/xvdba", true),
            ("/dev/sda1", true),
            ("sdf", false),
            ("/dev/nvme1n1", false),
            ("/dev/sd", false),
            ("/dev/sdf x", false),
        ] {
            assert_eq!(Device::try_from(name.to_owned()).is_ok(), fits, "{name}");
        }
        let volume = |device: &str| -> ExtraVolume {
            toml::from_str(&format!("device = '{device}'\nsize_gib = 200")).unwrap()
        };
        let root = RootVolume::default();
        assert_eq!(
            findings(&root, &[volume("/dev/sdf"), volume("/dev/sdg")]),
            [""; 0]
        );
        let found = findings(&root, &[volume("/dev/sdf"), volume("/dev/sdf")]);
        assert_eq!(found, ["two [[image.volume]] have the device `/dev/sdf`"]);
    }
}
