//! QEMU guests: each a virtual machine that boots its disk's own UEFI loader.
//!
//! Networking is user-mode: no root, no bridge. The guest sees 169.254.0.0/16 with the metadata
//! service at 169.254.169.254, as on EC2; the host sees the guest's ports at its own 127.x address.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;

use super::room::{Button, CONSOLE, Machine, Witness};
use super::spawner::Order;
use super::{GuestSpec, GuestState};
use crate::imds::{self, Serving};
use crate::imds_source::ImdsSource;

const PROGRAM: &str = "qemu-system-x86_64";
/// What QEMU said on stderr, in the guest's folder.
const LOG: &str = "qemu.log";

/// Where distributions keep the UEFI firmware, whole (code and variables in one file).
const FIRMWARES: [&str; 6] = [
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/qemu/OVMF.fd",
    "/usr/share/OVMF/OVMF.fd",
    "/usr/share/edk2/ovmf/OVMF.fd",
    "/usr/share/edk2-ovmf/x64/OVMF.fd",
    "/usr/share/edk2/x64/OVMF.4m.fd",
];

/// How guests are run on this host.
pub(super) struct Qemu {
    metadata: Arc<dyn ImdsSource>,
    runtime: Handle,
    firmware: PathBuf,
    accelerator: Accelerator,
    /// This very program, which is also the metadata relay.
    relay: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Hvf,
    Emulation,
}

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Hvf => ["-accel", "hvf", "-cpu", "host"],
            // A plain CPU: what guests detect, they use, and emulated vector units cost a third more
            // of the host's time for a boot. What is added here is cheap to emulate.
            Self::Emulation => [
                "-accel",
                "tcg,tb-size=512",
                "-cpu",
                "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt",
            ],
        }
    }

    /// How many of the CPUs asked for a guest gets. Emulated ones spend their time waiting for each
    /// other: a guest with two boots half as fast as one with one.
    fn vcpus(self, wanted: u32) -> u32 {
        match self {
            Self::Kvm | Self::Hvf => wanted,
            Self::Emulation => 1,
        }
    }

    /// The best that really works: a device node alone proves nothing.
    fn probe() -> anyhow::Result<Self> {
        let version = Command::new(PROGRAM)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        if version.is_err() {
            bail!("{PROGRAM} is not on PATH\nhint: apt-get install qemu-system-x86");
        }
        Ok([Self::Kvm, Self::Hvf]
            .into_iter()
            .find(|accelerator| accelerator.works())
            .unwrap_or(Self::Emulation))
    }

    fn works(self) -> bool {
        let run = || -> std::io::Result<bool> {
            let mut child = Command::new(PROGRAM)
                .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
                .args(["-machine", "q35", "-m", "64", "-qmp", "stdio"])
                .args(self.arguments())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A broken pipe is an accelerator that did not work; the exit status tells.
                let _ = stdin
                    .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n");
            }
            Ok(child.wait()?.success())
        };
        run().unwrap_or(false)
    }
}

impl Qemu {
    /// Looks at this host.
    ///
    /// # Errors
    /// When QEMU or its firmware is not there.
    pub(super) fn new(metadata: Arc<dyn ImdsSource>) -> anyhow::Result<Self> {
        let accelerator = Accelerator::probe()?;
        let firmware = FIRMWARES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .context("no UEFI firmware (OVMF.fd)\nhint: apt-get install ovmf")?;
        tracing::info!(?accelerator, firmware = %firmware.display(), "the machine room is ready");
        Ok(Self {
            metadata,
            runtime: Handle::try_current()
                .context("the machine room needs the daemon's runtime")?,
            firmware,
            accelerator,
            relay: std::env::current_exe().context("find this program")?,
        })
    }

    fn arguments(&self, guest: &GuestSpec, folder: &Path) -> Vec<OsString> {
        let forwards: String = guest
            .ports
            .iter()
            .map(|port| format!(",hostfwd=tcp:{}:{port}-:{port}", guest.address))
            .collect();
        let relay = format!(
            "{} imds-relay --socket {}",
            shell_quoted(&self.relay),
            shell_quoted(&guest.imds)
        );
        let mut arguments: Vec<OsString> = [
            PROGRAM,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "q35,smbus=off,sata=off,usb=off,vmport=off",
        ]
        .map(OsString::from)
        .to_vec();
        arguments.extend(self.accelerator.arguments().map(OsString::from));
        let mut add = |flag: &str, value: String| {
            arguments.push(flag.into());
            arguments.push(value.into());
        };
        add("-name", guest.id.clone());
        add("-smp", self.accelerator.vcpus(guest.vcpus).to_string());
        add("-m", guest.memory_mib.to_string());
        add("-bios", self.firmware.display().to_string());
        // Flushes stay in the host's page cache: a killed guest loses nothing by it, and a rehearsal
        // does not outlive its host.
        add(
            "-drive",
            format!(
                "if=none,id=root,format=qcow2,cache=unsafe,discard=unmap,file={}",
                option_quoted(&guest.disk.display().to_string())
            ),
        );
        add(
            "-device",
            "virtio-blk-pci,drive=root,bootindex=0".to_owned(),
        );
        add(
            "-netdev",
            format!(
                "user,id=net,net=169.254.0.0/16,dhcpstart=169.254.10.15,host=169.254.0.2,dns=169.254.0.3{forwards},guestfwd=tcp:169.254.169.254:80-cmd:{}",
                option_quoted(&relay)
            ),
        );
        add("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
        add("-device", "virtio-rng-pci".to_owned());
        add(
            "-chardev",
            format!(
                "file,id=console,append=on,path={}",
                option_quoted(&folder.join(CONSOLE).display().to_string())
            ),
        );
        add("-serial", "chardev:console".to_owned());
        add("-qmp", "stdio".to_owned());
        arguments
    }
}

impl Machine for Qemu {
    fn order(&self, guest: &GuestSpec, folder: &Path) -> anyhow::Result<Option<Order>> {
        for port in &guest.ports {
            free(guest.address, *port)?;
        }
        let path = folder.join(LOG);
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Some(Order {
            command: self.arguments(guest, folder),
            finish: Box::new(move |command| {
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(log);
            }),
        }))
    }

    fn serve(&self, guest: &GuestSpec) -> anyhow::Result<Option<Serving>> {
        let _runtime = self.runtime.enter();
        imds::serve_unix(&guest.imds, Arc::clone(&self.metadata), &guest.id).map(Some)
    }

    fn attach(&self, child: &mut Child) -> anyhow::Result<(Witness, Button)> {
        let mut stdin = child.stdin.take().context("QEMU without a stdin")?;
        let stdout = child.stdout.take().context("QEMU without a stdout")?;
        // QMP takes commands after this one; it may be sent ahead of the greeting.
        stdin
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .context("speak to QEMU")?;
        let stdin = Mutex::new(stdin);
        let button: Button = Box::new(move |_| {
            // A broken pipe is a guest that is off.
            let _ = stdin
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(b"{\"execute\":\"system_powerdown\"}\n");
        });
        let witness: Witness = Box::new(move || {
            let mut off = false;
            // To the end, whatever was found: QEMU must not meet a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                off |= is_own_shutdown(&line);
            }
            off
        });
        Ok((witness, button))
    }

    fn judge(&self, status: ExitStatus, powered_off: bool) -> GuestState {
        if status.success() && powered_off {
            GuestState::PoweredOff
        } else {
            GuestState::Dead
        }
    }
}

/// Whether a line of QMP says that the guest switched itself off, rather than somebody QEMU.
fn is_own_shutdown(line: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(line)
        .is_ok_and(|message| message["event"] == "SHUTDOWN" && message["data"]["guest"] == true)
}

/// Says beforehand, and clearly, that a port cannot be had; QEMU would say it to its log.
fn free(address: Ipv4Addr, port: u16) -> anyhow::Result<()> {
    match TcpListener::bind(SocketAddrV4::new(address, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(error).with_context(|| {
                format!(
                    "listen on {address}:{port}\nhint: let every user listen there: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}"
                )
            })
        }
        Err(error) => Err(error).with_context(|| format!("listen on {address}:{port}")),
    }
}

/// For QEMU's option parser, in which a comma ends a value and two stand for one.
fn option_quoted(value: &str) -> String {
    value.replace(',', ",,")
}

/// For the parser of QEMU's `cmd:`, which splits as a shell does.
fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_own_shutdown_is_a_clean_one() {
        let own = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
        let signal = r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#;
        assert!(is_own_shutdown(own));
        assert!(!is_own_shutdown(signal));
        assert!(!is_own_shutdown(r#"{"event": "POWERDOWN"}"#));
        assert!(!is_own_shutdown("no JSON"));
    }

    #[test]
    fn odd_paths_survive_both_parsers() {
        assert_eq!(option_quoted("a,b"), "a,,b");
        assert_eq!(shell_quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
