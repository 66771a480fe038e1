//! Puppets: simulated instances. Each is a host process, or, without a command, has no process at all.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddrV4;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::runtime::Handle;

use super::accelerator::Choice;
use super::process_host::{Button, CONSOLE, Controls, End, GuestKind, Watcher};
use super::spawner::SpawnRequest;
use super::{GuestSpec, GuestState};
use crate::imds::{self, Serving};
use crate::imds_source::ImdsSource;

/// The port of a puppet's metadata service, at its own address.
const METADATA_PORT: u16 = 1338;

/// How puppets are run.
pub(super) struct Puppets {
    command: Option<String>,
    metadata: Arc<dyn ImdsSource>,
    runtime: Handle,
}

impl Puppets {
    /// Puppets that run `command`, split at spaces.
    ///
    /// # Errors
    /// When called outside the daemon's runtime.
    pub(super) fn new(
        command: Option<String>,
        metadata: Arc<dyn ImdsSource>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            command,
            metadata,
            runtime: Handle::try_current().context("the VM host needs the daemon's runtime")?,
        })
    }
}

impl GuestKind for Puppets {
    fn spawn_request(
        &self,
        guest: &GuestSpec,
        folder: &Path,
    ) -> anyhow::Result<Option<SpawnRequest>> {
        let Some(command) = &self.command else {
            return Ok(None);
        };
        let command: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
        anyhow::ensure!(!command.is_empty(), "the puppets' command is empty");
        let path = folder.join(CONSOLE);
        let console = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let also = console.try_clone().context("open the console twice")?;
        let facts = self
            .metadata
            .facts(&guest.id)
            .with_context(|| format!("no metadata of {}", guest.id))?;
        let environment = [
            (
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                format!("http://{}:{METADATA_PORT}/", guest.address),
            ),
            (
                "AWS_ENDPOINT_URL",
                format!("http://127.0.0.1:{}", facts.endpoint_port),
            ),
            ("AWS_REGION", facts.region),
            ("REHEARSAL_INSTANCE_ID", guest.id.to_string()),
            ("REHEARSAL_IMAGE_ID", guest.image_id.to_string()),
            ("REHEARSAL_ADDRESS", guest.address.to_string()),
        ];
        let folder = folder.to_owned();
        Ok(Some(SpawnRequest {
            command,
            finish: Box::new(move |command| {
                // An instance must not inherit the operator's credentials.
                for (name, _) in std::env::vars_os() {
                    if name.to_string_lossy().starts_with("AWS_") {
                        command.env_remove(name);
                    }
                }
                command
                    .current_dir(folder)
                    .envs(environment)
                    .stdout(console)
                    .stderr(also);
            }),
        }))
    }

    fn serve(&self, guest: &GuestSpec) -> anyhow::Result<Option<Serving>> {
        if self.command.is_none() {
            return Ok(None);
        }
        let _runtime = self.runtime.enter();
        imds::serve_tcp(
            SocketAddrV4::new(guest.address, METADATA_PORT),
            Arc::clone(&self.metadata),
            &guest.id,
        )
        .map(Some)
    }

    fn attach(&self, _child: &mut Child, _folder: &Path) -> anyhow::Result<(Watcher, Controls)> {
        Ok((
            Box::new(|_| true),
            Box::new(|pid, button| {
                if button == Button::Power {
                    // An error means that it has ended, as wanted.
                    let _ = rustix::process::kill_process(pid, Signal::TERM);
                }
            }),
        ))
    }

    fn outcome(&self, status: ExitStatus, _powered_off: bool, _folder: &Path) -> End {
        let off = status.success() || status.signal() == Some(Signal::TERM.as_raw());
        End::state(if off {
            GuestState::PoweredOff
        } else {
            GuestState::Dead
        })
    }

    fn choice(&self) -> Option<&Choice> {
        None
    }
}
