//! Guests, and the interface of the hosts that run them.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::accelerator::Choice;
use super::failure::Failure;
use crate::ids::{ImageId, InstanceId};

/// What boots a guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// SeaBIOS, which runs the disk's first sector.
    Bios,
    /// EDK II, which runs a loader of the disk's EFI system partition.
    Uefi,
}

/// One guest to start.
#[derive(Clone, Debug)]
pub(crate) struct GuestSpec {
    /// The instance id; also names the guest's folder.
    pub(crate) id: InstanceId,
    /// The guest's address in 127.0.0.0/8, in place of its private IP.
    pub(crate) address: Ipv4Addr,
    /// Ports of the guest that are forwarded to `address` (22, the service's, …).
    pub(crate) ports: Vec<u16>,
    /// Virtual CPUs.
    pub(crate) vcpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// The root volume's disk (qcow2 overlay of its snapshot).
    pub(crate) disk: PathBuf,
    /// What boots that disk.
    pub(crate) firmware: Firmware,
    /// Unix socket on which the cloud serves this instance's metadata over plain HTTP/1.1.
    pub(crate) imds: PathBuf,
    /// The AMI it was launched from (puppets get it in their environment; QEMU guests read it from IMDS).
    pub(crate) image_id: ImageId,
    /// Whether it runs under emulation, whatever accelerator the host has.
    pub(crate) emulated: bool,
}

/// The state of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GuestState {
    /// Never started, or removed.
    #[default]
    Absent,
    /// Its process runs.
    Running,
    /// It powered off, by itself or on request: the disk is consistent.
    PoweredOff,
    /// Its process died or was killed.
    Dead,
}

/// A guest as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guest {
    /// Its state.
    pub(crate) state: GuestState,
    /// Why it makes no progress while its process runs, or why the process ended.
    pub(crate) failure: Option<Failure>,
}

/// Starts, stops and observes guests. Every call returns at once; [`VmHost::guest`] shows the result.
pub(crate) trait VmHost: Send + Sync {
    /// Starts the guest (again, after a stop).
    ///
    /// # Errors
    /// When the process cannot be started; the message names the program and a fix.
    fn start(&self, guest: &GuestSpec) -> anyhow::Result<()>;
    /// Powers the guest off; a guest that ignores this for the grace period is killed.
    fn power_off(&self, id: &InstanceId);
    /// Kills the guest.
    fn kill(&self, id: &InstanceId);
    /// The guest as it is now.
    fn guest(&self, id: &InstanceId) -> Guest;
    /// Its state.
    fn state(&self, id: &InstanceId) -> GuestState {
        self.guest(id).state
    }
    /// Resumes a guest that the host stopped.
    fn resume(&self, id: &InstanceId);
    /// The accelerator of guests; `None` for puppets.
    fn choice(&self) -> Option<Choice>;
    /// Appends a line to the guest's serial console output.
    fn append_to_console(&self, id: &InstanceId, line: &str);
    /// The output of its serial console, the last 64 KiB.
    fn console(&self, id: &InstanceId) -> Vec<u8>;
    /// Removes the files of a guest that is not running.
    fn forget(&self, id: &InstanceId);
    /// The pid of the guest's process, for operators and for tests that kill it.
    fn pid(&self, id: &InstanceId) -> Option<u32>;
}
