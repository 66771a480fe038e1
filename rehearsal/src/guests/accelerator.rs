//! Which accelerator guests run under: hardware virtualisation or emulation.
//!
//! Rule: a host's virtualisation is used only after it has run guest code. `/dev/kvm` may open, and QEMU may start with
//! it, on a host that cannot run a guest (a para-virtual KVM without VMX or SVM). [`choose`] decides;
//! [`probe`](super::probe) runs the guest code.

use std::fmt;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::Failure;

/// The requested accelerator, by `--accelerator` or `REHEARSAL_ACCELERATOR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wanted {
    /// Hardware virtualisation where it runs guest code, else emulation
    #[default]
    Auto,
    /// Linux's KVM; refused where it does not run guest code
    Kvm,
    /// macOS's Hypervisor.framework; refused where it does not run guest code
    Hvf,
    /// Emulation (QEMU's TCG), on every host
    Tcg,
}

impl Wanted {
    /// Whether a cloud with this accelerator matches the request.
    pub(crate) fn allows(self, accelerator: Accelerator) -> bool {
        self.named().is_none_or(|named| named == accelerator)
    }

    /// The accelerator requested by name.
    fn named(self) -> Option<Accelerator> {
        match self {
            Self::Auto => None,
            Self::Kvm => Some(Accelerator::Kvm),
            Self::Hvf => Some(Accelerator::Hvf),
            Self::Tcg => Some(Accelerator::Tcg),
        }
    }
}

/// What executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accelerator {
    /// Linux's hardware virtualisation.
    Kvm,
    /// macOS's hardware virtualisation.
    Hvf,
    /// Emulation.
    Tcg,
}

impl Accelerator {
    /// QEMU's options for it.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Hvf => ["-accel", "hvf", "-cpu", "host"],
            // A plain CPU: guests use what they detect, and emulated vector units cost a third more of the host's time
            // for a boot. The features added here are cheap to emulate.
            Self::Tcg => [
                "-accel",
                "tcg,tb-size=512",
                "-cpu",
                "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt",
            ],
        }
    }

    /// How many CPUs a guest gets of those requested. Emulated CPUs spend their time waiting for each other: a guest
    /// with two boots half as fast as one with one.
    pub(super) fn vcpus(self, wanted: u32) -> u32 {
        match self {
            Self::Kvm | Self::Hvf => wanted,
            Self::Tcg => 1,
        }
    }

    /// Whether the host's processor executes guest code itself.
    pub(crate) fn is_hardware(self) -> bool {
        self != Self::Tcg
    }

    /// QEMU's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Tcg => "tcg",
        }
    }

    /// The hardware accelerators this operating system can have, best first.
    fn candidates() -> &'static [Self] {
        if cfg!(target_os = "macos") {
            &[Self::Hvf]
        } else {
            &[Self::Kvm]
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The accelerator of a cloud's guests, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Choice {
    /// The accelerator of all guests but those it failed for.
    pub(crate) accelerator: Accelerator,
    /// Why, in one line.
    pub(crate) why: String,
}

/// Decides from the request and from what `probe` finds when it runs guest code.
///
/// # Errors
/// When an accelerator was requested by name and does not run guest code.
pub(super) fn choose(
    wanted: Wanted,
    mut probe: impl FnMut(Accelerator) -> Result<(), Failure>,
) -> anyhow::Result<Choice> {
    if let Some(accelerator) = wanted.named() {
        if accelerator == Accelerator::Tcg {
            return Ok(Choice {
                accelerator,
                why: "requested".to_owned(),
            });
        }
        return match probe(accelerator) {
            Ok(()) => Ok(Choice {
                accelerator,
                why: "requested; it runs guest code".to_owned(),
            }),
            Err(failure) => bail!(
                "{accelerator} does not run guest code on this host: {failure}\nhint: `--accelerator auto` uses emulation instead"
            ),
        };
    }
    let mut failures = Vec::new();
    for &accelerator in Accelerator::candidates() {
        match probe(accelerator) {
            Ok(()) => {
                return Ok(Choice {
                    accelerator,
                    why: "it runs guest code".to_owned(),
                });
            }
            Err(failure) => failures.push(format!("{accelerator}: {failure}")),
        }
    }
    Ok(Choice {
        accelerator: Accelerator::Tcg,
        why: failures.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::FailureKind;

    #[test]
    fn only_an_accelerator_that_ran_guest_code_is_chosen() {
        let failure = || Failure::new(FailureKind::Accelerator, "emulation failure");
        for (wanted, works, expected) in [
            (
                Wanted::Auto,
                true,
                Ok((Accelerator::Kvm, "it runs guest code")),
            ),
            (
                Wanted::Auto,
                false,
                Ok((Accelerator::Tcg, "kvm: emulation failure")),
            ),
            (
                Wanted::Kvm,
                true,
                Ok((Accelerator::Kvm, "requested; it runs guest code")),
            ),
            (
                Wanted::Kvm,
                false,
                Err(
                    "kvm does not run guest code on this host: emulation failure\nhint: `--accelerator auto` uses emulation instead",
                ),
            ),
            (
                Wanted::Hvf,
                false,
                Err(
                    "hvf does not run guest code on this host: emulation failure\nhint: `--accelerator auto` uses emulation instead",
                ),
            ),
        ] {
            let chosen = choose(wanted, |_| if works { Ok(()) } else { Err(failure()) });
            let chosen = chosen
                .as_ref()
                .map(|choice| (choice.accelerator, choice.why.as_str()))
                .map_err(ToString::to_string);
            assert_eq!(
                chosen,
                expected.map_err(ToOwned::to_owned),
                "{wanted:?} {works}"
            );
        }
    }

    #[test]
    fn emulation_that_is_asked_for_is_not_probed() {
        let chosen = choose(Wanted::Tcg, |_| panic!("probed")).unwrap();
        assert_eq!(chosen.accelerator, Accelerator::Tcg);
    }
}
