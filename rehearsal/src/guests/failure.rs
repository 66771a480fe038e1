//! Why a guest that should run makes no progress.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many characters of QEMU's or a guest's text are quoted: one or two lines of a terminal.
const QUOTE: usize = 160;

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    /// The accelerator failed, or QEMU with it.
    Accelerator,
    /// The guest's kernel panicked.
    Panic,
    /// The host's disk is full; the guest waits for free space.
    DiskFull,
    /// The host cannot read or write the guest's disk.
    Disk,
    /// QEMU stopped the guest for another reason.
    Stopped,
}

impl FailureKind {
    /// Whether the host or the virtual machine failed, rather than the guest's own system.
    pub(crate) fn is_of_the_host(self) -> bool {
        self != Self::Panic
    }

    /// Whether another accelerator may help. A panic counts: a broken hypervisor may show as one.
    pub(crate) fn may_be_of_the_accelerator(self) -> bool {
        matches!(self, Self::Accelerator | Self::Panic | Self::Stopped)
    }

    /// Whether it ends by itself, once the host has free disk space.
    pub(crate) fn may_pass(self) -> bool {
        self == Self::DiskFull
    }
}

/// Why a guest makes no progress: one printable line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The kind of a failure.
    pub(crate) kind: FailureKind,
    /// What happened.
    text: String,
}

impl Failure {
    /// A failure with a description; only its first line is kept, without control characters and bounded.
    pub(crate) fn new(kind: FailureKind, text: &str) -> Self {
        Self {
            kind,
            text: printable(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The line of QEMU's error stream with the reason for its failure: KVM's own report where there is one, else the first
/// error. QEMU prints registers and warnings around it.
pub(super) fn error_line(errors: &str) -> Option<String> {
    let lines = || {
        errors
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    if let Some(error) = lines().find(|line| line.contains("KVM internal error")) {
        let failure = lines().find(|line| line.ends_with("emulation failure"));
        return Some(match failure {
            Some(failure) if failure != error => format!("{error}: {failure}"),
            _ => error.to_owned(),
        });
    }
    let line = lines()
        .find(|line| line.contains("error: "))
        .or_else(|| lines().find(|line| !line.contains("warning: ")))?;
    let mut text = line;
    for prefix in [
        "qemu-system-x86_64: ",
        "error: ",
        "-accel kvm: ",
        "-accel hvf: ",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    Some(printable(text))
}

fn printable(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars()
        .filter(|c| !c.is_control())
        .take(QUOTE)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_reason_is_found() {
        for (errors, expected) in [
            (
                "qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]\n\
                 KVM internal error. Suberror: 1\nextra data[0]: 0x0000000000000001\nemulation failure\nRAX=0000",
                Some("KVM internal error. Suberror: 1: emulation failure"),
            ),
            (
                "KVM internal error. Suberror: 3\nextra data[0]: 1",
                Some("KVM internal error. Suberror: 3"),
            ),
            (
                "qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69\n\
                 qemu-system-x86_64: ../../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion `ret' failed.",
                Some("failed to set MSR 0x10a to 0x69"),
            ),
            (
                "qemu-system-x86_64: -accel hvf: invalid accelerator hvf\n",
                Some("invalid accelerator hvf"),
            ),
            (
                "qemu-system-x86_64: -accel kvm: Could not access KVM kernel module: No such file or directory\n\
                 qemu-system-x86_64: -accel kvm: failed to initialize kvm: No such file or directory",
                Some("Could not access KVM kernel module: No such file or directory"),
            ),
            ("\n \n", None),
        ] {
            assert_eq!(error_line(errors).as_deref(), expected, "{errors}");
        }
    }

    #[test]
    fn a_reason_is_one_printable_bounded_line() {
        let long = format!("\u{1b}[2Ja{}\nsecond", "b".repeat(500));
        let text = Failure::new(FailureKind::Disk, &long).to_string();
        assert!(text.starts_with("[2Jab"), "{text}");
        assert_eq!(text.chars().count(), QUOTE);
    }
}
