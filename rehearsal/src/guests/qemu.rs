//! QEMU guests: virtual machines that boot their disks' own loaders, by UEFI or BIOS.
//!
//! Networking is user-mode: no root, no bridge. The guest sees 169.254.0.0/16 with the metadata
//! service at 169.254.169.254, as on EC2; the host sees the guest's ports at its own 127.x address.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rustix::process::Signal;
use support::shell::quoted_path;
use tokio::runtime::Handle;

use super::accelerator::{Accelerator, Choice, Wanted};
use super::failure::error_line;
use super::probe::{Cache, Programs};
use super::process_host::{Button, CONSOLE, Controls, End, GuestKind, Watcher};
use super::qmp::{self, Message, Watch};
use super::spawner::SpawnRequest;
use super::{Failure, FailureKind, GuestSpec, GuestState};
use crate::imds::{self, Serving};
use crate::imds_source::ImdsSource;

const PROGRAM: &str = "qemu-system-x86_64";
/// The file in a guest's folder with QEMU's stderr.
const LOG: &str = "qemu.log";

/// Paths of the UEFI firmware in distributions, as one file with code and variables.
const FIRMWARES: [&str; 6] = [
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/qemu/OVMF.fd",
    "/usr/share/OVMF/OVMF.fd",
    "/usr/share/edk2/ovmf/OVMF.fd",
    "/usr/share/edk2-ovmf/x64/OVMF.fd",
    "/usr/share/edk2/x64/OVMF.4m.fd",
];

/// Finds QEMU and its firmware on this host.
///
/// # Errors
/// When one is not installed; the message names the package.
pub(crate) fn programs() -> anyhow::Result<Programs> {
    Ok(Programs {
        qemu: program()?,
        firmware: firmware()?,
    })
}

/// Finds QEMU.
///
/// # Errors
/// When it is not on `PATH`.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    which::which(PROGRAM)
        .ok()
        .with_context(|| format!("{PROGRAM} is not on PATH\nhint: apt-get install qemu-system-x86"))
}

/// Finds the UEFI firmware.
///
/// # Errors
/// When it is at none of the known paths.
pub(crate) fn firmware() -> anyhow::Result<PathBuf> {
    FIRMWARES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .context("no UEFI firmware (OVMF.fd)\nhint: apt-get install ovmf")
}

/// How guests are run on this host.
pub(super) struct Qemu {
    metadata: Arc<dyn ImdsSource>,
    runtime: Handle,
    programs: Programs,
    choice: Choice,
    /// This program, which is also the metadata relay.
    relay: PathBuf,
}

impl Qemu {
    /// Finds QEMU and its firmware, and decides on the accelerator; that may boot the firmware.
    ///
    /// # Errors
    /// When QEMU or its firmware is not installed, or the requested accelerator does not run guest code.
    pub(super) fn new(metadata: Arc<dyn ImdsSource>, wanted: Wanted) -> anyhow::Result<Self> {
        let programs = programs()?;
        let choice = super::choose_accelerator(&programs, wanted, &Cache::of_user())?;
        tracing::info!(
            accelerator = %choice.accelerator,
            why = choice.why,
            firmware = %programs.firmware.display(),
            "guests can run"
        );
        Ok(Self {
            metadata,
            runtime: Handle::try_current().context("the VM host needs the daemon's runtime")?,
            programs,
            choice,
            relay: std::env::current_exe().context("find this program")?,
        })
    }

    /// The accelerator of a guest.
    fn accelerator(&self, guest: &GuestSpec) -> Accelerator {
        if guest.emulated {
            Accelerator::Tcg
        } else {
            self.choice.accelerator
        }
    }

    fn arguments(&self, guest: &GuestSpec, folder: &Path) -> Vec<OsString> {
        let forwards: String = guest
            .ports
            .iter()
            .map(|port| format!(",hostfwd=tcp:{}:{port}-:{port}", guest.address))
            .collect();
        let relay = format!(
            "{} imds-relay --socket {}",
            quoted_path(&self.relay),
            quoted_path(&guest.imds)
        );
        let accelerator = self.accelerator(guest);
        let mut arguments = self.programs.arguments(accelerator, guest.firmware);
        let mut add = |flag: &str, value: String| {
            arguments.push(flag.into());
            arguments.push(value.into());
        };
        add("-name", guest.id.to_string());
        add("-smp", accelerator.vcpus(guest.vcpus).to_string());
        add("-m", guest.memory_mib.to_string());
        // Linux reports kernel panics to this device.
        add("-device", "pvpanic".to_owned());
        // Flushes stay in the host's page cache: a killed guest loses nothing, and a rehearsal does not survive a crash
        // of its host anyway.
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

impl GuestKind for Qemu {
    fn spawn_request(
        &self,
        guest: &GuestSpec,
        folder: &Path,
    ) -> anyhow::Result<Option<SpawnRequest>> {
        for port in &guest.ports {
            free(guest.address, *port)?;
        }
        let path = folder.join(LOG);
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Some(SpawnRequest {
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

    fn attach(&self, child: &mut Child, folder: &Path) -> anyhow::Result<(Watcher, Controls)> {
        let mut stdin = child.stdin.take().context("QEMU without a stdin")?;
        let stdout = child.stdout.take().context("QEMU without a stdout")?;
        // It may end at once, for example where KVM does not work: then its output ends.
        let _ = stdin.write_all(&[qmp::HELLO, qmp::PANIC_GOES_ON].concat());
        let stdin = Arc::new(Mutex::new(stdin));
        let ask = Arc::clone(&stdin);
        let log = folder.join(LOG);
        let watcher: Watcher = Box::new(move |report| {
            let mut watch = Watch::default();
            // Read to the end: QEMU would block on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Some(message) = qmp::parse(&line) else {
                    continue;
                };
                if message == Message::Stopped {
                    send(&ask, qmp::QUERY_STATUS);
                }
                watch.take(message, || error_line_in(&log));
                report(watch.failure().cloned());
            }
            watch.powered_off
        });
        let remote: Controls = Box::new(move |_, button| {
            send(
                &stdin,
                match button {
                    Button::Power => qmp::POWER_DOWN,
                    Button::Continue => qmp::CONTINUE,
                },
            );
        });
        Ok((watcher, remote))
    }

    fn outcome(&self, status: ExitStatus, powered_off: bool, folder: &Path) -> End {
        if status.success() && powered_off {
            return End::state(GuestState::PoweredOff);
        }
        let mut end = End::state(GuestState::Dead);
        // SIGKILL comes from outside; QEMU itself ends with an exit code, or by another signal.
        if !status.success() && status.signal() != Some(Signal::KILL.as_raw()) {
            let why = error_line_in(&folder.join(LOG)).unwrap_or_else(|| status.to_string());
            let text = format!("QEMU ended: {why}");
            end.failure = Some(Failure::new(FailureKind::Accelerator, &text));
        }
        end
    }

    fn choice(&self) -> Option<&Choice> {
        Some(&self.choice)
    }
}

/// Sends a command to QEMU.
fn send(stdin: &Mutex<ChildStdin>, command: &[u8]) {
    // A broken pipe is a QEMU that has ended.
    let _ = stdin
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .write_all(command);
}

/// QEMU's own reason for its failure or that of a guest.
fn error_line_in(log: &Path) -> Option<String> {
    error_line(&String::from_utf8_lossy(&std::fs::read(log).ok()?))
}

/// Checks that a port can be bound, for a clear error; QEMU would report it in its log only.
fn free(address: Ipv4Addr, port: u16) -> anyhow::Result<()> {
    match TcpListener::bind(SocketAddrV4::new(address, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(error).with_context(|| {
                format!(
                    "listen on {address}:{port}\nhint: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}"
                )
            })
        }
        Err(error) => Err(error).with_context(|| format!("listen on {address}:{port}")),
    }
}

/// Quotes a value for QEMU's option parser, in which a comma ends a value and two are one comma.
fn option_quoted(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive_both_parsers() {
        assert_eq!(option_quoted("a,b"), "a,,b");
        assert_eq!(quoted_path(Path::new("/a b/it's")), r#""/a b/it's""#);
    }
}
