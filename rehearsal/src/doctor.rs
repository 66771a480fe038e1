//! `rehearsal doctor`: checks this host's programs and resources for guests, without a cloud.
//!
//! It changes nothing but the cached probe results of accelerators, which it renews.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::Serialize;

use crate::ec2::network;
use crate::guests::accelerator::{Choice, Wanted};
use crate::guests::probe::{Cache, Programs};
use crate::guests::{self, qemu};
use crate::machines;
use crate::moto;

/// Free disk space in bytes below which a bake is likely to fail: a base image takes 2 GiB.
const MIN_FREE_DISK: u64 = 4 << 30;
const MIB: u64 = 1 << 20;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// No problem.
    Ok,
    /// Works, with limits.
    Odd,
    /// Guests cannot run.
    Wrong,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    subject: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(subject: &'static str, verdict: Verdict, found: String, hint: Option<&str>) -> Self {
        Self {
            subject,
            verdict,
            found,
            hint: hint.map(str::to_owned),
        }
    }

    fn of(subject: &'static str, attempt: anyhow::Result<String>) -> Self {
        match attempt {
            Ok(found) => Self::new(subject, Verdict::Ok, found, None),
            Err(error) => {
                let text = format!("{error:#}");
                let (found, hint) = match text.split_once("\nhint: ") {
                    Some((found, hint)) => (found.to_owned(), Some(hint)),
                    None => (text.clone(), None),
                };
                Self::new(subject, Verdict::Wrong, found, hint)
            }
        }
    }

    /// Whether guests cannot run.
    pub(crate) fn is_wrong(&self) -> bool {
        self.verdict == Verdict::Wrong
    }

    /// As one line, in the form of `imagebuilder doctor`.
    pub(crate) fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Odd => "odd",
            Verdict::Wrong => "WRONG",
        };
        let line = format!("{verdict:<6} {}: {}", self.subject, self.found);
        match &self.hint {
            Some(hint) => format!("{line}; {hint}"),
            None => line,
        }
    }
}

/// Checks this host for a cloud in `folder`, which may not exist yet.
pub(crate) fn check(folder: &Path, wanted: Wanted) -> Vec<Check> {
    let (qemu, firmware) = (qemu::program(), qemu::firmware());
    let programs = match (&qemu, &firmware) {
        (Ok(qemu), Ok(firmware)) => Some(Programs {
            qemu: qemu.clone(),
            firmware: firmware.clone(),
        }),
        _ => None,
    };
    let mut checks = vec![
        Check::of("QEMU", qemu.and_then(|path| version(&path))),
        Check::of("firmware", firmware.map(|path| path.display().to_string())),
    ];
    if let Some(programs) = programs {
        let cache = Cache::of_user();
        // Doctor is run when something is wrong, so cached results must not be used.
        cache.forget();
        let choice = guests::choose_accelerator(&programs, wanted, &cache);
        checks.push(accelerator(choice, wanted));
    }
    checks.push(memory(
        &std::fs::read_to_string("/proc/meminfo").unwrap_or_default(),
    ));
    checks.push(disk(folder));
    checks.push(ports());
    checks.push(moto());
    checks
}

fn version(qemu: &Path) -> anyhow::Result<String> {
    let output = Command::new(qemu)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", qemu.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let version = line.strip_prefix("QEMU emulator version ").unwrap_or(line);
    Ok(format!("{version} ({})", qemu.display()))
}

fn accelerator(choice: anyhow::Result<Choice>, wanted: Wanted) -> Check {
    match choice {
        Ok(choice) if choice.accelerator.is_hardware() || wanted == Wanted::Tcg => Check::of(
            "accelerator",
            Ok(format!("{} ({})", choice.accelerator, choice.why)),
        ),
        Ok(choice) => Check::new(
            "accelerator",
            Verdict::Odd,
            format!("{} ({})", choice.accelerator, choice.why),
            Some("expect guests to boot in 15 to 60 s instead of a few seconds"),
        ),
        Err(error) => Check::of("accelerator", Err(error)),
    }
}

fn memory(meminfo: &str) -> Check {
    let available = meminfo.lines().find_map(|line| {
        let rest = line.strip_prefix("MemAvailable:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let Some(kib) = available else {
        return Check::new(
            "memory",
            Verdict::Odd,
            "the available memory is unknown on this system".to_owned(),
            None,
        );
    };
    let mib = kib / 1024;
    let guests = mib / u64::from(machines::MEMORY_MIB);
    let found = format!("{mib} MiB available, for about {guests} guests");
    match guests {
        0 => Check::new(
            "memory",
            Verdict::Wrong,
            found,
            Some("end other programs first"),
        ),
        1..=2 => Check::new(
            "memory",
            Verdict::Odd,
            found,
            Some("free some memory: a roll needs more than two guests at a time"),
        ),
        _ => Check::of("memory", Ok(found)),
    }
}

fn disk(folder: &Path) -> Check {
    let there = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let existing: PathBuf = there
        .ancestors()
        .find(|path| path.exists())
        .map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let free = machines::free_bytes(&existing);
    let found = format!("{} MiB free in {}", free / MIB, existing.display());
    if free < MIN_FREE_DISK {
        let hint = format!(
            "free some space: a base image and what is baked from it take {} MiB",
            MIN_FREE_DISK / MIB
        );
        return Check::new("disk", Verdict::Odd, found, Some(&hint));
    }
    Check::of("disk", Ok(found))
}

/// Checks whether guests' ports can be bound at loopback addresses, by binding each for a moment.
fn ports() -> Check {
    let address = Ipv4Addr::new(127, *network::SECOND_BYTES.end(), 255, 1);
    for port in machines::PORTS {
        let Err(error) = TcpListener::bind(SocketAddrV4::new(address, port)) else {
            continue;
        };
        let (found, hint) = match error.kind() {
            ErrorKind::PermissionDenied => (
                format!("this user is not permitted to listen on port {port}"),
                format!("sudo sysctl net.ipv4.ip_unprivileged_port_start={port}"),
            ),
            ErrorKind::AddrInUse => (
                format!("another program listens on port {port} of all addresses"),
                format!(
                    "configure it to listen on specific addresses (`ss -ltnp sport = :{port}` shows it)"
                ),
            ),
            _ => (
                format!("listen on {address}:{port}: {error}"),
                String::new(),
            ),
        };
        let hint = Some(hint.as_str()).filter(|hint| !hint.is_empty());
        return Check::new("ports", Verdict::Wrong, found, hint);
    }
    let ports = machines::PORTS.map(|port| port.to_string());
    Check::of("ports", Ok(format!("{} are available", ports.join(", "))))
}

fn moto() -> Check {
    let program = moto::program();
    match which::which(&program) {
        Ok(path) => Check::of("moto", Ok(path.display().to_string())),
        Err(_) => Check::new(
            "moto",
            Verdict::Odd,
            format!(
                "{} not found: S3, IAM and other services that it answers are refused",
                program.display()
            ),
            Some("pip install 'moto[server]', or set REHEARSAL_MOTO to its path"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_guests() {
        for (meminfo, verdict, found) in [
            (
                "MemTotal: 9 kB\nMemAvailable:   20480000 kB\n",
                Verdict::Ok,
                "20000 MiB available, for about 39 guests",
            ),
            (
                "MemAvailable: 1048576 kB",
                Verdict::Odd,
                "1024 MiB available, for about 2 guests",
            ),
            (
                "MemAvailable: 1024 kB",
                Verdict::Wrong,
                "1 MiB available, for about 0 guests",
            ),
            (
                "",
                Verdict::Odd,
                "the available memory is unknown on this system",
            ),
        ] {
            let check = memory(meminfo);
            assert_eq!(
                (check.verdict, check.found.as_str()),
                (verdict, found),
                "{meminfo}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_checked_by_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let check = disk(&folder.path().join("a/b"));
        let place = folder.path().display().to_string();
        assert!(check.found.ends_with(&place), "{}", check.found);
    }

    #[test]
    fn an_error_becomes_a_finding_and_its_hint() {
        let check = Check::of(
            "QEMU",
            Err(anyhow::anyhow!("not on PATH\nhint: install it")),
        );
        assert_eq!(check.line(), "WRONG  QEMU: not on PATH; install it");
        assert!(check.is_wrong());
    }
}
