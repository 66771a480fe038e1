//! The firmware by which an instance boots.
//!
//! Rule: an instance is booted by the firmware that is shown, and that EC2 would use: both use [`firmware`], and
//! nothing else decides.

use super::instance_types::{self, InstanceType};
use super::instances::Instance;
use crate::guests::Firmware;

/// The firmware of a type for an image of that boot mode, as
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-boot.html> has it: `uefi-preferred` is UEFI where the type
/// has it, and an image without a boot mode boots by its type's default, which is BIOS on x86 and UEFI on Graviton.
pub(crate) fn firmware(mode: Option<&str>, kind: InstanceType) -> Firmware {
    let is_uefi = match mode {
        Some("uefi") => true,
        Some("uefi-preferred") => kind.has_uefi(),
        _ => kind.architecture == "arm64",
    };
    if is_uefi {
        Firmware::Uefi
    } else {
        Firmware::Bios
    }
}

impl Instance {
    /// Its firmware.
    pub(crate) fn firmware(&self) -> Firmware {
        let mode = self.boot_mode.as_deref();
        // An unknown type, of another release, is treated like most types.
        instance_types::find(&self.kind).map_or(Firmware::Uefi, |kind| firmware(mode, kind))
    }
}

/// EC2's name for a firmware.
pub(super) fn name(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => "legacy-bios",
        Firmware::Uefi => "uefi",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_and_type_decide_on_the_firmware() {
        for (mode, on_t2, on_t3, on_t4g) in [
            (None, "legacy-bios", "legacy-bios", "uefi"),
            (Some("legacy-bios"), "legacy-bios", "legacy-bios", "uefi"),
            (Some("uefi-preferred"), "legacy-bios", "uefi", "uefi"),
            // On a t2 it is refused at its launch.
            (Some("uefi"), "uefi", "uefi", "uefi"),
        ] {
            for (kind, expected) in [
                ("t2.micro", on_t2),
                ("t2.medium", on_t2),
                ("t3.micro", on_t3),
                ("m5.large", on_t3),
                ("t4g.micro", on_t4g),
            ] {
                let found = firmware(mode, instance_types::find(kind).unwrap());
                assert_eq!(name(found), expected, "{mode:?} on {kind}");
            }
        }
    }
}
