//! Machine rooms: where instances really run.
//!
//! A room knows processes, disks and sockets; it does not know EC2. The cloud tells it what to start
//! and asks it what became of it.

use std::path::Path;
use std::sync::Arc;

use self::accelerator::Wanted;
pub(crate) use self::failure::{Failure, FailureKind};
pub(crate) use self::probe::choose_accelerator;
pub(crate) use self::vm_host::{Firmware, Guest, GuestSpec, GuestState, VmHost};
use crate::imds_source::ImdsSource;

pub(crate) mod accelerator;
mod failure;
#[cfg(test)]
pub(crate) mod fake_host;
pub(crate) mod probe;
mod process_host;
mod puppet;
pub(crate) mod qemu;
mod qmp;
mod spawner;
mod vm_host;

/// Which machine room a cloud has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostKind {
    /// Real boots, under the accelerator asked for.
    Qemu(Wanted),
    /// Scripted instances: a host process each, or nothing but the word that they run.
    Puppets {
        /// What each instance runs, split at spaces.
        command: Option<String>,
    },
}

/// Opens the machine room of the cloud in `folder`. The room serves each guest's metadata, from
/// `metadata`, at the place its [`GuestSpec`] names, from its start until it is forgotten.
///
/// # Errors
/// When a program the room needs is not there; the message names the package.
pub(crate) fn open(
    kind: &HostKind,
    folder: &Path,
    metadata: Arc<dyn ImdsSource>,
) -> anyhow::Result<Arc<dyn VmHost>> {
    Ok(match kind {
        HostKind::Qemu(wanted) => Arc::new(process_host::ProcessHost::new(
            qemu::Qemu::new(metadata, *wanted)?,
            folder,
        )?),
        HostKind::Puppets { command } => Arc::new(process_host::ProcessHost::new(
            puppet::Puppets::new(command.clone(), metadata)?,
            folder,
        )?),
    })
}

#[cfg(test)]
mod tests;
