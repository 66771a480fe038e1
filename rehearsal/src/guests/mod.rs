//! VM hosts: where instances run.
//!
//! A host manages processes, disks and sockets, and has no notion of EC2. The cloud starts guests and polls their
//! state.

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

/// What the guests of a cloud are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostKind {
    /// Virtual machines, under the requested accelerator.
    Qemu(Wanted),
    /// Simulated instances: a host process each, or none.
    Puppets {
        /// The command of each instance, split at spaces.
        command: Option<String>,
    },
}

/// Opens the VM host of the cloud in `folder`. It serves each guest's metadata, from `metadata`, at the address that
/// its [`GuestSpec`] names, from the guest's start until [`VmHost::forget`].
///
/// # Errors
/// When a required program is not installed; the message names the package.
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
