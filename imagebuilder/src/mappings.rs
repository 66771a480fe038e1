//! The devices of the builder, and so of the image: (configuration, source image) → block device mappings. Pure.

use serde::Serialize;

use crate::config::{Config, Encryption, ExtraVolume, KmsKey, RootVolume};
use cloud::{Disk, LaunchDisk};

/// A device as the Packer template shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Mapping {
    device: String,
    delete_on_termination: bool,
    size_gib: Option<u32>,
    #[serde(rename = "type")]
    kind: Option<String>,
    iops: Option<u32>,
    throughput: Option<u32>,
    encrypted: bool,
    kms_key: Option<KmsKey>,
}

/// The devices that are not as the source image has them. `disks` and `root` are the source's; without them, nothing is encrypted
/// here: Packer encrypts the finished image.
pub(crate) fn launch(config: &Config, disks: &[Disk], root: &str) -> Vec<LaunchDisk> {
    let image = &config.image;
    let every = config.bake.encryption().is_some();
    let extra = |device: &str| {
        let mut all = image.volume.iter();
        all.find(|volume| volume.device.as_str() == device)
    };
    let mut all: Vec<LaunchDisk> = disks
        .iter()
        .filter_map(|disk| {
            let device = disk.device.as_str();
            match extra(device) {
                Some(volume) => Some(of_extra(volume)),
                None if device == root && !image.root_volume.is_default() => {
                    Some(of_root(&image.root_volume, root))
                }
                None => every.then(|| of_root(&RootVolume::default(), device)),
            }
        })
        .collect();
    let has = |all: &[LaunchDisk], device: &str| all.iter().any(|disk| disk.device == device);
    if !image.root_volume.is_default() && !has(&all, root) {
        all.push(of_root(&image.root_volume, root));
    }
    for volume in &image.volume {
        if !has(&all, volume.device.as_str()) {
            all.push(of_extra(volume));
        }
    }
    all
}

/// The same, as the Packer template shows them.
pub(crate) fn packer(config: &Config, disks: &[Disk], root: &str) -> Vec<Mapping> {
    let encryption = config.bake.encryption().filter(|_| !disks.is_empty());
    let all = launch(config, disks, root).into_iter();
    all.map(|disk| Mapping {
        device: disk.device,
        delete_on_termination: disk.delete_on_termination,
        size_gib: disk.size_gib,
        kind: disk.kind,
        iops: disk.iops,
        throughput: disk.throughput,
        encrypted: encryption.is_some(),
        kms_key: match &encryption {
            Some(Encryption::Key(key)) => Some(key.clone()),
            Some(Encryption::Default) | None => None,
        },
    })
    .collect()
}

fn of_root(volume: &RootVolume, device: &str) -> LaunchDisk {
    explicit(LaunchDisk {
        device: device.to_owned(),
        size_gib: volume.size_gib,
        kind: volume.kind.map(|kind| kind.as_str().to_owned()),
        iops: volume.iops,
        throughput: volume.throughput,
        delete_on_termination: volume.delete_on_termination,
    })
}

fn of_extra(volume: &ExtraVolume) -> LaunchDisk {
    explicit(LaunchDisk {
        device: volume.device.as_str().to_owned(),
        size_gib: Some(volume.size_gib),
        kind: Some(volume.kind.as_str().to_owned()),
        iops: volume.iops,
        throughput: volume.throughput,
        delete_on_termination: volume.delete_on_termination,
    })
}

/// With EC2's defaults of gp3, which Packer 1.6.6 does not accept to be left out.
fn explicit(mut disk: LaunchDisk) -> LaunchDisk {
    if disk.kind.as_deref() == Some("gp3") {
        disk.iops.get_or_insert(3_000);
        disk.throughput.get_or_insert(125);
    }
    disk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_from_the_source_is_mapped() {
        const ROOT: &str = "[image.root_volume]\nsize_gib = 20\n";
        const MORE: &str = "[[image.volume]]\ndevice = \"/dev/sdf\"\nsize_gib = 9\n";
        const DATA: &str = "[[image.volume]]\ndevice = \"/dev/sdb\"\nsize_gib = 9\n";
        const KEY: &str = "[bake]\nencrypt = true\n";
        let disk = |device: &str| Disk {
            device: device.to_owned(),
            size_gib: 8,
            kind: "gp3".to_owned(),
        };
        let source = [disk("/dev/xvda"), disk("/dev/sdb")];
        for (keys, known, want) in [
            (String::new(), true, ""),
            (ROOT.to_owned(), true, "/dev/xvda 20"),
            (MORE.to_owned(), true, "/dev/sdf 9"),
            (DATA.to_owned(), true, "/dev/sdb 9"),
            (KEY.to_owned(), true, "/dev/xvda 0*, /dev/sdb 0*"),
            (
                [ROOT, MORE, DATA, KEY].concat(),
                true,
                "/dev/xvda 20*, /dev/sdb 9*, /dev/sdf 9*",
            ),
            // As `render` shows it without a cloud.
            (
                [ROOT, MORE, KEY].concat(),
                false,
                "/dev/xvda 20, /dev/sdf 9",
            ),
        ] {
            let text = format!(
                "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"agent\"\n{keys}"
            );
            let config = Config::parse(&text, "test.toml").unwrap();
            let disks = if known { &source[..] } else { &[] };
            let found: Vec<String> = packer(&config, disks, "/dev/xvda")
                .iter()
                .map(|one| {
                    let encrypted = if one.encrypted { "*" } else { "" };
                    format!("{} {}{encrypted}", one.device, one.size_gib.unwrap_or(0))
                })
                .collect();
            assert_eq!(found.join(", "), want, "{keys}");
        }
    }
}
