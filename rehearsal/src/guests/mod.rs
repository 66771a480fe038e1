//! Machine rooms: where instances really run.
//!
//! A room knows processes, disks and sockets; it does not know EC2. The cloud tells it what to start
//! and asks it what became of it.

use std::path::Path;
use std::sync::Arc;

use self::accelerator::Wanted;
pub(crate) use self::failure::{Failure, FailureKind};
pub(crate) use self::probe::choose_accelerator;
pub(crate) use self::vm_host::{Firmware, Guest, GuestSpec, GuestState, MachineRoom};
use crate::imds_source::ImdsSource;

pub(crate) mod accelerator;
mod failure;
pub(crate) mod probe;
mod puppet;
pub(crate) mod qemu;
mod qmp;
mod room;
mod spawner;
#[cfg(test)]
pub(crate) mod still;
mod vm_host;

/// Which machine room a cloud has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
    kind: &Kind,
    folder: &Path,
    metadata: Arc<dyn ImdsSource>,
) -> anyhow::Result<Arc<dyn MachineRoom>> {
    Ok(match kind {
        Kind::Qemu(wanted) => Arc::new(room::Room::new(
            qemu::Qemu::new(metadata, *wanted)?,
            folder,
        )?),
        Kind::Puppets { command } => Arc::new(room::Room::new(
            puppet::Puppets::new(command.clone(), metadata)?,
            folder,
        )?),
    })
}

#[cfg(test)]
mod tests;
