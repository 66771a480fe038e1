//! What `[image]` asks for, against the source image: volumes and the boot mode. Pure.

use crate::config::Config;
use crate::packer::Version;
use cloud::{Disk, Image};
use run::preflight::Findings;

/// What cannot be had from `source`.
pub(super) fn findings(config: &Config, source: &Image) -> Findings {
    let mut findings = Findings::default();
    let image = &config.image;
    let of = |device: &str| source.disks.iter().find(|disk| disk.device == device);
    let too_small = |asked: u32, disk: &Disk| {
        (asked < disk.size_gib).then(|| {
            format!(
                "{} of {} has {} GiB, and size_gib is {asked}: a volume cannot be smaller than its snapshot",
                disk.device, source.id, disk.size_gib
            )
        })
    };
    if let (Some(size), Some(disk)) = (image.root_volume.size_gib, of(&source.root_device))
        && let Some(what) = too_small(size, disk)
    {
        let fix = format!(
            "set `size_gib` in [image.root_volume] to {} or more, or remove it",
            disk.size_gib
        );
        findings.wrong(what, fix);
    }
    for volume in &image.volume {
        let device = volume.device.as_str();
        if device == source.root_device {
            findings.wrong(
                format!("{device} is the root device of {}", source.id),
                "configure it in [image.root_volume]; name another `device` in [[image.volume]]",
            );
        } else if let Some(what) = of(device).and_then(|disk| too_small(volume.size_gib, disk)) {
            findings.wrong(
                what,
                format!("set a larger `size_gib` for {device} in [[image.volume]]"),
            );
        }
    }
    if let Some(asked) = image.boot_mode
        && source.boot_mode.as_deref() != Some(asked.as_str())
    {
        let has = match &source.boot_mode {
            Some(mode) => format!("has boot mode {mode}"),
            None => "has no boot mode: its instances boot by the default of their type".to_owned(),
        };
        findings.wrong(
            format!(
                "{} {has}, and [image] boot_mode is {}: CreateImage, by which Packer makes the image, cannot change it",
                source.id,
                asked.as_str()
            ),
            format!(
                "name a source image with boot mode {}, or remove `boot_mode`",
                asked.as_str()
            ),
        );
    }
    findings
}

/// What the finished image has not of what was asked for: a template of the user's own may leave it out.
pub(super) fn missing(config: &Config, made: &Image) -> Vec<String> {
    let image = &config.image;
    let root = &image.root_volume;
    let root = (made.root_device.as_str(), root.size_gib, root.kind);
    let extra = image.volume.iter();
    let extra = extra.map(|one| (one.device.as_str(), Some(one.size_gib), Some(one.kind)));
    let mut missing = Vec::new();
    for (device, size, kind) in std::iter::once(root).chain(extra) {
        let Some(disk) = made.disks.iter().find(|disk| disk.device == device) else {
            missing.push(format!("it has no {device}"));
            continue;
        };
        if let Some(size) = size.filter(|size| *size != disk.size_gib) {
            missing.push(format!(
                "its {device} has {} GiB, not {size}",
                disk.size_gib
            ));
        }
        if let Some(kind) = kind.filter(|kind| kind.as_str() != disk.kind) {
            let kind = kind.as_str();
            missing.push(format!("its {device} is of type {}, not {kind}", disk.kind));
        }
    }
    missing
}

/// What this release of Packer cannot do.
pub(crate) fn of_packer(config: &Config, packer: Version) -> Findings {
    let mut findings = Findings::default();
    if let Some(hops) = config.image.imds_hops
        && !packer.has_plugins()
    {
        findings.wrong(
            format!(
                "Packer {packer} cannot launch the builder with `imds_hops = {}`",
                hops.get()
            ),
            "install Packer 1.7 or newer, or remove `imds_hops` from [image]",
        );
    }
    findings
}
