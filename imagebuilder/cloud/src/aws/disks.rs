//! EC2's block device mappings.

use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice, VolumeType};

use crate::{Disk, LaunchDisk};

/// A volume of an image; `None` for what is not on EBS.
pub(super) fn of_image(mapping: &BlockDeviceMapping) -> Option<Disk> {
    let ebs = mapping.ebs()?;
    let size = ebs.volume_size().and_then(|size| u32::try_from(size).ok());
    let kind = ebs.volume_type().map(VolumeType::as_str);
    Some(Disk {
        device: mapping.device_name()?.to_owned(),
        size_gib: size.unwrap_or_default(),
        kind: kind.unwrap_or_default().to_owned(),
    })
}

/// A device of a launch.
pub(super) fn launched(disk: &LaunchDisk) -> BlockDeviceMapping {
    let number = |value: Option<u32>| value.and_then(|value| i32::try_from(value).ok());
    let ebs = EbsBlockDevice::builder()
        .set_volume_size(number(disk.size_gib))
        .set_volume_type(disk.kind.as_deref().map(VolumeType::from))
        .set_iops(number(disk.iops))
        .set_throughput(number(disk.throughput))
        .delete_on_termination(disk.delete_on_termination)
        .build();
    BlockDeviceMapping::builder()
        .device_name(&disk.device)
        .ebs(ebs)
        .build()
}
