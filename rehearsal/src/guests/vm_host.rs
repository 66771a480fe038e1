//! Guests, and what can be asked of the host that runs them.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::accelerator::Choice;
use super::failure::Failure;

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
    pub(crate) id: String,
    /// The guest's address in 127.0.0.0/8, which stands for its private IP.
    pub(crate) address: Ipv4Addr,
    /// Ports of the guest that answer at `address` (22, the service's, …).
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
    /// The AMI it was launched from (puppets are told it; QEMU guests find out by IMDS).
    pub(crate) image_id: String,
    /// Whether it runs under emulation, whatever the host has.
    pub(crate) emulated: bool,
}

/// What became of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GuestState {
    /// Never started, or forgotten.
    #[default]
    Absent,
    /// Its process runs.
    Running,
    /// It powered itself off, or did as asked: the disk is consistent.
    PoweredOff,
    /// Its process died or was killed.
    Dead,
}

/// A guest as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guest {
    /// What became of it.
    pub(crate) state: GuestState,
    /// Why it makes no progress although its process runs, or why that ended.
    pub(crate) failure: Option<Failure>,
}

/// Starts, stops and watches guests. Every call returns at once; [`VmHost::guest`] shows how it
/// went.
pub(crate) trait VmHost: Send + Sync {
    /// Starts the guest (again, after a stop).
    ///
    /// # Errors
    /// When the process cannot be started; the message names the program and the cure.
    fn start(&self, guest: &GuestSpec) -> anyhow::Result<()>;
    /// Presses the power button; a guest that ignores it for the room's grace period is killed.
    fn power_off(&self, id: &str);
    /// Pulls the plug.
    fn kill(&self, id: &str);
    /// The guest as it is now.
    fn guest(&self, id: &str) -> Guest;
    /// What became of it.
    fn state(&self, id: &str) -> GuestState {
        self.guest(id).state
    }
    /// Lets a guest that the host stopped go on.
    fn resume(&self, id: &str);
    /// What guests run under; `None` where they are no virtual machines.
    fn choice(&self) -> Option<Choice>;
    /// Appends a line of the cloud's own to its serial console.
    fn append_to_console(&self, id: &str, line: &str);
    /// Everything its serial console has said, most recent 64 KiB.
    fn console(&self, id: &str) -> Vec<u8>;
    /// Removes what is left of a guest that is not running.
    fn forget(&self, id: &str);
    /// The pid of the guest's process, for people and for tests that pull the plug.
    fn pid(&self, id: &str) -> Option<u32>;
}
