//! The known instance types.

use super::network::ZONES;
use super::select::{CallSpec, Filters, Page, one};
use crate::account::REGION;
use crate::wire::{ApiError, Params, Xml};

/// An instance type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InstanceType {
    /// e.g. `t3.micro`
    pub(crate) name: &'static str,
    /// vCPUs, according to AWS.
    pub(crate) vcpus: u32,
    /// Memory, according to AWS.
    pub(crate) memory_mib: u32,
    /// `x86_64` or `arm64`.
    pub(crate) architecture: &'static str,
    /// `nitro` or `xen`.
    pub(crate) hypervisor: &'static str,
}

const fn nitro(name: &'static str, vcpus: u32, memory_mib: u32) -> InstanceType {
    InstanceType {
        name,
        vcpus,
        memory_mib,
        architecture: "x86_64",
        hypervisor: "nitro",
    }
}

const fn arm(name: &'static str, vcpus: u32, memory_mib: u32) -> InstanceType {
    InstanceType {
        architecture: "arm64",
        ..nitro(name, vcpus, memory_mib)
    }
}

const fn xen(name: &'static str, vcpus: u32, memory_mib: u32) -> InstanceType {
    InstanceType {
        hypervisor: "xen",
        ..nitro(name, vcpus, memory_mib)
    }
}

const TYPES: [InstanceType; 34] = [
    xen("t2.nano", 1, 512),
    xen("t2.micro", 1, 1024),
    xen("t2.small", 1, 2048),
    xen("t2.medium", 2, 4096),
    nitro("t3.nano", 2, 512),
    nitro("t3.micro", 2, 1024),
    nitro("t3.small", 2, 2048),
    nitro("t3.medium", 2, 4096),
    nitro("t3.large", 2, 8192),
    nitro("t3a.nano", 2, 512),
    nitro("t3a.micro", 2, 1024),
    nitro("t3a.small", 2, 2048),
    nitro("t3a.medium", 2, 4096),
    arm("t4g.nano", 2, 512),
    arm("t4g.micro", 2, 1024),
    arm("t4g.small", 2, 2048),
    arm("t4g.medium", 2, 4096),
    nitro("m5.large", 2, 8192),
    nitro("m5.xlarge", 4, 16384),
    nitro("m6i.large", 2, 8192),
    nitro("m6i.xlarge", 4, 16384),
    arm("m6g.medium", 1, 4096),
    arm("m6g.large", 2, 8192),
    nitro("m7i.large", 2, 8192),
    arm("m7g.large", 2, 8192),
    nitro("c5.large", 2, 4096),
    nitro("c5.xlarge", 4, 8192),
    nitro("c6i.large", 2, 4096),
    arm("c6g.medium", 1, 2048),
    arm("c6g.large", 2, 4096),
    nitro("c7i.large", 2, 4096),
    arm("c7g.medium", 1, 2048),
    arm("c7g.large", 2, 4096),
    nitro("r5.large", 2, 16384),
];

/// The type of that name.
///
/// # Errors
/// `InvalidParameterValue`, with RunInstances' message.
pub(crate) fn find(name: &str) -> Result<InstanceType, ApiError> {
    TYPES
        .into_iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| {
            ApiError::new(
                "InvalidParameterValue",
                format!("Invalid value '{name}' for InstanceType."),
            )
        })
}

impl InstanceType {
    /// The first value for a type on Nitro, else the second.
    fn on_nitro(self, there: &'static str, elsewhere: &'static str) -> &'static str {
        if self.hypervisor == "nitro" {
            there
        } else {
            elsewhere
        }
    }

    fn boot_modes(self) -> &'static [&'static str] {
        match (self.has_uefi(), self.architecture) {
            (_, "arm64") => &["uefi"],
            (true, _) => &["legacy-bios", "uefi"],
            _ => &["legacy-bios"],
        }
    }

    /// Whether it can boot by UEFI: types on Nitro can.
    pub(crate) fn has_uefi(self) -> bool {
        self.hypervisor == "nitro"
    }

    /// Whether it has CPU credits.
    pub(super) fn burstable(self) -> bool {
        self.name.starts_with('t')
    }

    /// Its physical cores: half of the vCPUs where a core has two threads.
    pub(crate) fn cores(self) -> u32 {
        // x86 types have two threads a core, except the single-threaded ones.
        if self.architecture == "x86_64" && self.vcpus > 1 && self.hypervisor == "nitro" {
            self.vcpus / 2
        } else {
            self.vcpus
        }
    }
}

pub(super) const TAKES: CallSpec = CallSpec {
    page: (5, 100),
    filters: &[
        "auto-recovery-supported",
        "bare-metal",
        "burstable-performance-supported",
        "current-generation",
        "dedicated-hosts-supported",
        "ebs-info.ebs-optimized-support",
        "ebs-info.encryption-support",
        "ebs-info.nvme-support",
        "free-tier-eligible",
        "hibernation-supported",
        "hypervisor",
        "instance-storage-supported",
        "instance-type",
        "memory-info.size-in-mib",
        "network-info.efa-supported",
        "network-info.ena-support",
        "network-info.ipv4-addresses-per-interface",
        "network-info.ipv6-supported",
        "network-info.maximum-network-cards",
        "network-info.maximum-network-interfaces",
        "network-info.network-performance",
        "nitro-enclaves-support",
        "nitro-tpm-support",
        "processor-info.supported-architecture",
        "processor-info.sustained-clock-speed-in-ghz",
        "supported-boot-mode",
        "supported-root-device-type",
        "supported-usage-class",
        "supported-virtualization-type",
        "vcpu-info.default-cores",
        "vcpu-info.default-threads-per-core",
        "vcpu-info.default-vcpus",
    ],
    absent: &[
        "instance-storage-info.disk.count",
        "instance-storage-info.disk.size-in-gb",
        "instance-storage-info.disk.type",
        "instance-storage-info.encryption-support",
        "instance-storage-info.nvme-support",
        "instance-storage-info.total-size-in-gb",
        "network-info.efa-info.maximum-efa-interfaces",
        "nitro-tpm-info.supported-versions",
    ],
    ..CallSpec::USUAL
};

pub(super) const OFFERINGS: CallSpec = CallSpec {
    filters: &["instance-type", "location"],
    ..CallSpec::USUAL
};

/// DescribeInstanceTypes.
pub(crate) fn describe(params: &Params) -> Result<Xml, ApiError> {
    let filters = Filters::read(params, &TAKES)?;
    let wanted = params.list("InstanceType");
    let unknown: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| find(name).is_err())
        .collect();
    if !unknown.is_empty() {
        return Err(ApiError::new(
            "InvalidInstanceType",
            format!(
                "The following supplied instance types do not exist: [{}]",
                unknown.join(", ")
            ),
        ));
    }
    let mut found = Vec::new();
    for kind in TYPES {
        let passes = filters.pass(None, |name| match name {
            "instance-type" => one(kind.name),
            "current-generation" => one(kind.has_uefi()),
            "auto-recovery-supported" | "network-info.ipv6-supported" => one(true),
            "dedicated-hosts-supported" | "hibernation-supported" => one(false),
            "network-info.efa-supported" => one(false),
            "nitro-enclaves-support" | "nitro-tpm-support" => one("unsupported"),
            "ebs-info.encryption-support" => one("supported"),
            "ebs-info.ebs-optimized-support" => one(kind.on_nitro("default", "unsupported")),
            "ebs-info.nvme-support" | "network-info.ena-support" => {
                one(kind.on_nitro("required", "unsupported"))
            }
            "network-info.network-performance" => one("Up to 5 Gigabit"),
            "network-info.maximum-network-interfaces" => one(2),
            "network-info.maximum-network-cards" => one(1),
            "network-info.ipv4-addresses-per-interface" => one(2),
            "processor-info.sustained-clock-speed-in-ghz" => one("2.5"),
            "supported-boot-mode" => {
                Some(kind.boot_modes().iter().map(ToString::to_string).collect())
            }
            "vcpu-info.default-cores" => one(kind.cores()),
            "vcpu-info.default-threads-per-core" => one(kind.vcpus / kind.cores()),
            "processor-info.supported-architecture" => one(kind.architecture),
            "hypervisor" => one(kind.hypervisor),
            "bare-metal" => one(false),
            "burstable-performance-supported" => one(kind.burstable()),
            "free-tier-eligible" => one(["t2.micro", "t3.micro"].contains(&kind.name)),
            "vcpu-info.default-vcpus" => one(kind.vcpus),
            "memory-info.size-in-mib" => one(kind.memory_mib),
            "supported-root-device-type" => one("ebs"),
            "supported-virtualization-type" => one("hvm"),
            "instance-storage-supported" => one(false),
            "supported-usage-class" => Some(vec!["on-demand".to_owned(), "spot".to_owned()]),
            _ => None,
        })?;
        if passes && (wanted.is_empty() || wanted.contains(&kind.name)) {
            found.push((kind.name.to_owned(), kind));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let mut xml = Xml::new();
    Page::read(params, &TAKES)?
        .cut(found)
        .write(&mut xml, "instanceTypeSet", write);
    Ok(xml)
}

fn write(x: &mut Xml, kind: InstanceType) {
    let none = || Vec::<&str>::new();
    x.text("instanceType", kind.name)
        .text("currentGeneration", kind.hypervisor == "nitro")
        .text(
            "freeTierEligible",
            ["t2.micro", "t3.micro"].contains(&kind.name),
        )
        .texts("supportedUsageClasses", "item", ["on-demand", "spot"])
        .texts("supportedRootDeviceTypes", "item", ["ebs"])
        .texts("supportedVirtualizationTypes", "item", ["hvm"])
        .text("bareMetal", false)
        .text("hypervisor", kind.hypervisor)
        .node("processorInfo", |x| {
            x.texts("supportedArchitectures", "item", [kind.architecture])
                .text("sustainedClockSpeedInGhz", "2.5")
                .text(
                    "manufacturer",
                    if kind.architecture == "arm64" {
                        "AWS"
                    } else {
                        "Intel"
                    },
                );
        })
        .node("vCpuInfo", |x| {
            x.text("defaultVCpus", kind.vcpus)
                .text("defaultCores", kind.cores())
                .text("defaultThreadsPerCore", kind.vcpus / kind.cores());
        })
        .node("memoryInfo", |x| {
            x.text("sizeInMiB", kind.memory_mib);
        })
        .text("instanceStorageSupported", false)
        .node("ebsInfo", |x| {
            x.text(
                "ebsOptimizedSupport",
                kind.on_nitro("default", "unsupported"),
            )
            .text("encryptionSupport", "supported")
            .text("nvmeSupport", kind.on_nitro("required", "unsupported"));
        })
        .node("networkInfo", |x| {
            x.text("networkPerformance", "Up to 5 Gigabit")
                .text("maximumNetworkInterfaces", 2)
                .text("maximumNetworkCards", 1)
                .text("ipv4AddressesPerInterface", 2)
                .text("ipv6Supported", true)
                .text("enaSupport", kind.on_nitro("required", "unsupported"))
                .text("efaSupported", false);
        })
        .node("placementGroupInfo", |x| {
            x.texts("supportedStrategies", "item", ["partition", "spread"]);
        })
        .text("hibernationSupported", false)
        .text("burstablePerformanceSupported", kind.burstable())
        .text("dedicatedHostsSupported", false)
        .text("autoRecoverySupported", true)
        .texts("supportedBootModes", "item", kind.boot_modes())
        .text("nitroEnclavesSupport", "unsupported")
        .texts("nitroTpmSupportedVersions", "item", none());
}

/// DescribeInstanceTypeOfferings: every type is offered in every zone.
pub(crate) fn describe_offerings(params: &Params) -> Result<Xml, ApiError> {
    let filters = Filters::read(params, &OFFERINGS)?;
    let location_type = params.text("LocationType").unwrap_or("region");
    let locations: Vec<String> = match location_type {
        "region" => vec![REGION.to_owned()],
        "availability-zone" => ZONES.iter().map(|zone| format!("{REGION}{zone}")).collect(),
        "availability-zone-id" => (1..=ZONES.len())
            .map(|number| format!("use1-az{number}"))
            .collect(),
        other => {
            return Err(ApiError::invalid_value(
                "locationType",
                other,
                "unknown location type",
            ));
        }
    };
    let mut found = Vec::new();
    for kind in TYPES {
        for location in &locations {
            let passes = filters.pass(None, |name| match name {
                "instance-type" => one(kind.name),
                "location" => one(location),
                _ => None,
            })?;
            if passes {
                found.push((format!("{} {location}", kind.name), (kind, location)));
            }
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let mut xml = Xml::new();
    Page::read(params, &OFFERINGS)?.cut(found).write(
        &mut xml,
        "instanceTypeOfferingSet",
        |x, (kind, location)| {
            x.text("instanceType", kind.name)
                .text("locationType", location_type)
                .text("location", location);
        },
    );
    Ok(xml)
}
