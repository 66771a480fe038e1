//! Starts and stops virtual machines, and copies and removes disks, until they match the state.
//!
//! Each step reads the state and the VM host, decides, and acts, all outside the cloud's lock. Long work runs in the
//! background; meanwhile its instance or snapshot is `busy` and skipped. Nothing is remembered here beyond the state:
//! after a crash the next step starts over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

use crate::cloud::{Cloud, State};
use crate::disks::DiskStore;
use crate::ec2::disks::{SnapshotState, Source};
use crate::ec2::instances::{Fault, Instance, OnShutdown, Phase, Reason};
use crate::guests::{Failure, Firmware, Guest, GuestSpec, GuestState, VmHost};
use crate::ids::{Id as _, InstanceId, SnapshotId, VolumeId};

/// The CPUs and memory of every guest, whatever its type: many must fit on a small host.
const VCPUS: u32 = 2;
pub(crate) const MEMORY_MIB: u32 = 512;
/// Ports of every guest that are forwarded, besides those of target groups.
pub(crate) const PORTS: [u16; 4] = [22, 80, 443, 8080];
/// How long a terminating instance may take to power off.
const TERMINATION_PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// How long guests may take to power off when the cloud shuts down: enough for a booted one. One that is still booting
/// ignores the power button, and has nothing to lose.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How often they are polled then.
const END_POLL: Duration = Duration::from_millis(20);

/// The virtual machines of a cloud.
pub(crate) struct Machines {
    cloud: Arc<Cloud>,
    host: Arc<dyn VmHost>,
    disks: Arc<dyn DiskStore>,
    /// Further forwarded ports.
    ports: Vec<u16>,
    busy: Mutex<BTreeSet<String>>,
}

/// How often a guest that waits for free disk space is resumed: each failed attempt shows as a new error of its disk.
const RESUME_EVERY: SignedDuration = SignedDuration::from_secs(5);
/// Free space on the host's disk that such an attempt requires, in bytes.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// An action for an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Create its disks and start its machine.
    Start,
    /// Power off its machine.
    PowerOff,
    /// Kill its machine.
    PullPlug,
    /// Its machine is off, as wanted.
    Off,
    /// Its machine powered itself off.
    OwnShutdown,
    /// Its machine died.
    Died,
    /// Its machine fails under hardware virtualisation: kill it, and start it again under emulation.
    Emulate(Failure),
    /// Its machine makes no progress, and the state does not show it yet.
    Impaired(Failure),
    /// Its machine makes progress again.
    Recovered,
    /// Its machine waits for free disk space: resume it.
    Resume,
}

/// The disk work that the state asks for.
#[derive(Default)]
struct DiskWork {
    copies: Vec<Copy>,
    discarded: Vec<String>,
}

/// A snapshot to take.
struct Copy {
    id: SnapshotId,
    source: Source,
    /// The instance that its volume is attached to.
    instance: Option<InstanceId>,
}

impl DiskWork {
    fn of(state: &State) -> Self {
        let ec2 = &state.region.ec2;
        let copies = ec2
            .snapshots
            .values()
            .filter(|snapshot| snapshot.state == SnapshotState::Pending)
            .map(|snapshot| Copy {
                id: snapshot.id.clone(),
                source: snapshot.source.clone(),
                instance: match &snapshot.source {
                    Source::Volume(id) => ec2
                        .volumes
                        .get(id)
                        .and_then(|volume| Some(volume.attachment.as_ref()?.instance.clone())),
                    Source::Snapshot(_) | Source::File(_) | Source::Nothing => None,
                },
            })
            .collect();
        Self {
            copies,
            discarded: ec2
                .discarded
                .keys()
                .filter(|id| ec2.is_free(id))
                .cloned()
                .collect(),
        }
    }
}

/// The action for an instance whose machine is `guest`, with hardware virtualisation or not; `copied` while its disks
/// are being copied.
fn decide(
    instance: &Instance,
    guest: &Guest,
    hardware: bool,
    copied: bool,
    now: Timestamp,
) -> Option<Action> {
    let runs = guest.state == GuestState::Running;
    // A machine that makes no progress ignores its power button.
    let off = if guest.failure.is_some() {
        Action::PullPlug
    } else {
        Action::PowerOff
    };
    match instance.phase {
        Phase::Pending => (!copied).then_some(Action::Start),
        Phase::Running if runs && instance.reboots => Some(off),
        Phase::Running if runs => progress(instance, guest.failure.as_ref(), hardware, now),
        Phase::Running if instance.reboots => (!copied).then_some(Action::Start),
        Phase::Running => Some(match (guest.state, &guest.failure) {
            // The cloud was down and has been started again.
            (GuestState::Absent, _) => Action::Start,
            (GuestState::PoweredOff, _) => Action::OwnShutdown,
            (_, Some(failure)) if hardware && failure.kind.may_be_of_the_accelerator() => {
                Action::Emulate(failure.clone())
            }
            (GuestState::Running | GuestState::Dead, _) => Action::Died,
        }),
        Phase::Stopping if runs && instance.forced => Some(Action::PullPlug),
        Phase::Stopping if runs => Some(off),
        Phase::ShuttingDown if runs => {
            let late = now.duration_since(instance.since) > TERMINATION_PATIENCE;
            Some(if late { Action::PullPlug } else { off })
        }
        Phase::Stopping | Phase::ShuttingDown => Some(Action::Off),
        Phase::Stopped | Phase::Terminated => runs.then_some(Action::PullPlug),
    }
}

/// The action for an instance whose machine runs as it should, with or without a failure.
fn progress(
    instance: &Instance,
    failure: Option<&Failure>,
    hardware: bool,
    now: Timestamp,
) -> Option<Action> {
    let Some(failure) = failure else {
        return instance.impairment().map(|_| Action::Recovered);
    };
    if hardware && failure.kind.may_be_of_the_accelerator() {
        return Some(Action::Emulate(failure.clone()));
    }
    match instance.impairment() {
        Some(known) if known.failure == *failure => {
            // A failed attempt shows as a new failure, with a time of its own.
            let due = now.duration_since(known.since) >= RESUME_EVERY;
            (failure.kind.may_pass() && due).then_some(Action::Resume)
        }
        _ => Some(Action::Impaired(failure.clone())),
    }
}

/// Whether the start of a new machine is delayed by the dial `slow-boot`.
fn is_delayed(instance: &Instance, slow_boot: u32, now: Timestamp) -> bool {
    instance.phase == Phase::Pending
        && now.duration_since(instance.since) < SignedDuration::from_secs(slow_boot.into())
}

impl Machines {
    /// The machines of `cloud`, on `host`, with their disks in `disks`; `ports` are forwarded besides the usual ones.
    pub(crate) fn new(
        cloud: Arc<Cloud>,
        host: Arc<dyn VmHost>,
        disks: Arc<dyn DiskStore>,
        ports: Vec<u16>,
    ) -> Arc<Self> {
        Arc::new(Self {
            cloud,
            host,
            disks,
            ports,
            busy: Mutex::default(),
        })
    }

    /// Moves every instance, snapshot and discarded disk one step on. Blocks briefly; to be called from inside the
    /// runtime.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub(crate) fn step(self: &Arc<Self>) -> anyhow::Result<()> {
        let (state, now) = self.cloud.read(|state, now| (state.clone(), now));
        let work = DiskWork::of(&state);
        let slow_boot = state.region.faults.slow_boot;
        // A failure to write the state (a full disk) must not keep other instances from their step.
        let mut written = Ok(());
        let choice = self.host.choice();
        let has_hardware = choice.is_some_and(|choice| choice.accelerator.is_hardware());
        let copied: BTreeSet<&InstanceId> = work
            .copies
            .iter()
            .filter_map(|copy| copy.instance.as_ref())
            .collect();
        let instances = &state.region.ec2.instances;
        for instance in instances.values().filter(|instance| instance.is_alive()) {
            if self.is_busy(&instance.id) || is_delayed(instance, slow_boot, now) {
                continue;
            }
            let copied = copied.contains(&instance.id);
            let guest = self.host.guest(&instance.id);
            let hardware = has_hardware && !instance.emulated;
            if let Some(action) = decide(instance, &guest, hardware, copied, now) {
                written = written.and(self.act(instance, &guest, &action));
            }
        }
        for copy in work.copies {
            let off = copy
                .instance
                .as_ref()
                .is_none_or(|id| !self.is_busy(id) && self.host.state(id) != GuestState::Running);
            if off && !self.is_busy(&copy.id) {
                self.in_background(copy.id.clone(), move |machines| machines.snapshot(&copy));
            }
        }
        let discarded: Vec<String> = work
            .discarded
            .into_iter()
            .filter(|id| !self.is_busy(id))
            .collect();
        if discarded.is_empty() {
            return written;
        }
        for id in &discarded {
            match id.split_once('-') {
                Some(("vol", _)) => self.disks.delete_volume(&VolumeId::unchecked(id)),
                Some(("snap", _)) => self.disks.delete_snapshot(&SnapshotId::unchecked(id)),
                _ => self.host.forget(&InstanceId::unchecked(id)),
            }
        }
        let forgotten = self.cloud.change(|state, _| {
            for id in &discarded {
                state.region.ec2.discarded.remove(id);
            }
        });
        written.and(forgotten)
    }

    fn act(
        self: &Arc<Self>,
        instance: &Instance,
        guest: &Guest,
        action: &Action,
    ) -> anyhow::Result<()> {
        let id = &instance.id;
        match action {
            Action::Start => {
                let id = id.clone();
                self.in_background(id.clone(), move |machines| machines.start(&id));
                Ok(())
            }
            Action::PowerOff => {
                self.host.power_off(id);
                Ok(())
            }
            Action::PullPlug => {
                self.host.kill(id);
                Ok(())
            }
            Action::Off => self.cloud.change(|state, now| {
                let ec2 = &mut state.region.ec2;
                let Some(current) = ec2.instances.get_mut(id) else {
                    return;
                };
                match current.phase {
                    Phase::ShuttingDown => ec2.finish_termination(id, None, now),
                    Phase::Stopping => {
                        let reason = current.reason.take();
                        current.enter(Phase::Stopped, reason, now);
                    }
                    _ => {}
                }
            }),
            Action::OwnShutdown => self.record_end(instance, &Reason::own()),
            Action::Died => {
                let why = guest.failure.as_ref().map(ToString::to_string);
                let why = why.unwrap_or_else(|| "the instance's machine died".to_owned());
                self.record_end(instance, &Reason::fault(&why))
            }
            Action::Emulate(failure) => self.emulate(id, failure),
            Action::Impaired(failure) => {
                tracing::warn!(instance = %id, %failure, "an instance is impaired");
                self.host
                    .append_to_console(id, &format!("this machine makes no progress: {failure}"));
                self.cloud.change(|state, now| {
                    if let Some(current) = state.region.ec2.instances.get_mut(id) {
                        current.fault = Some(Fault {
                            failure: failure.clone(),
                            since: now,
                            over: None,
                        });
                    }
                })
            }
            Action::Recovered => {
                tracing::info!(instance = %id, "an instance is no longer impaired");
                self.host.append_to_console(id, "this machine continues");
                self.cloud.change(|state, now| {
                    let current = state.region.ec2.instances.get_mut(id);
                    if let Some(fault) = current.and_then(|current| current.fault.as_mut()) {
                        fault.over = Some(now);
                    }
                })
            }
            Action::Resume => {
                if free_bytes(self.cloud.folder()) >= MIN_FREE_BYTES {
                    self.host.resume(id);
                }
                Ok(())
            }
        }
    }

    /// Kills a machine that failed under hardware virtualisation; the next step starts it again under emulation. At
    /// most once: a machine that fails under emulation stays as it is.
    fn emulate(&self, id: &InstanceId, failure: &Failure) -> anyhow::Result<()> {
        tracing::error!(
            instance = %id,
            %failure,
            "an instance failed under hardware virtualisation and starts again under emulation"
        );
        let line = format!("{failure}; this machine starts again under emulation");
        self.host.append_to_console(id, &line);
        self.cloud.change(|state, now| {
            let Some(current) = state.region.ec2.instances.get_mut(id) else {
                return;
            };
            if current.phase != Phase::Running {
                return;
            }
            current.emulated = true;
            current.reboots = true;
            current.fault = Some(Fault {
                failure: failure.clone(),
                since: now,
                over: Some(now),
            });
        })?;
        self.host.kill(id);
        Ok(())
    }

    /// Records that a machine that should run has ended.
    fn record_end(&self, instance: &Instance, reason: &Reason) -> anyhow::Result<()> {
        tracing::warn!(
            instance = %instance.id,
            reason = reason.message,
            "an instance ended"
        );
        self.cloud.change(|state, now| {
            let ec2 = &mut state.region.ec2;
            let Some(current) = ec2.instances.get_mut(&instance.id) else {
                return;
            };
            if current.phase != instance.phase || current.reboots {
                return;
            }
            match current.on_shutdown {
                OnShutdown::Stop => current.enter(Phase::Stopped, Some(reason.clone()), now),
                OnShutdown::Terminate => {
                    ec2.finish_termination(&instance.id, Some(reason.clone()), now)
                }
            }
        })
    }

    /// Creates an instance's disks and starts its machine.
    fn start(&self, id: &InstanceId) -> anyhow::Result<()> {
        let Some(plan) = self.cloud.read(|state, _| Plan::of(state, id, &self.ports)) else {
            return Ok(());
        };
        let started = self.try_start(&plan);
        if let Err(error) = &started {
            tracing::error!(
                instance = %id,
                error = format!("{error:#}"),
                "an instance did not start"
            );
        }
        let new = plan.is_new();
        self.cloud.change(|state, now| {
            let ec2 = &mut state.region.ec2;
            for disk in &plan.disks {
                if started.is_ok() {
                    ec2.volumes.made(&disk.volume);
                }
            }
            let Some(instance) = ec2.instances.get_mut(id) else {
                return;
            };
            instance.reboots = false;
            if !matches!(instance.phase, Phase::Pending | Phase::Running) {
                return;
            }
            match &started {
                Ok(()) if instance.phase == Phase::Pending => {
                    instance.enter(Phase::Running, None, now)
                }
                Ok(()) => {}
                Err(error) => {
                    let reason = Some(Reason::fault(&format!("{error:#}")));
                    if new {
                        ec2.finish_termination(id, reason, now);
                    } else {
                        instance.enter(Phase::Stopped, reason, now);
                    }
                }
            }
        })
    }

    fn try_start(&self, plan: &Plan) -> anyhow::Result<()> {
        for disk in &plan.disks {
            self.disks
                .create_volume(&disk.volume, disk.snapshot.as_ref(), disk.size)
                .with_context(|| format!("create volume {}", disk.volume))?;
        }
        let root = plan.disks.first().context("it has no root volume")?;
        let firmware = plan.instance.firmware();
        if firmware == Firmware::Bios && !self.disks.has_boot_code(&root.volume)? {
            let Instance { kind, image, .. } = &plan.instance;
            // On EC2 it would run and never boot.
            anyhow::bail!(
                "a {kind} boots {image} by BIOS, for which its disk has no boot code: it boots by UEFI only, as do images made with an \
                 earlier release's base image\nhint: rebuild the image, or use a type that has UEFI, such as t3.micro"
            );
        }
        self.host.start(&GuestSpec {
            id: plan.instance.id.clone(),
            address: plan.instance.address,
            ports: plan.ports.iter().copied().collect(),
            vcpus: VCPUS,
            memory_mib: MEMORY_MIB,
            disk: self.disks.volume_path(&root.volume),
            firmware,
            imds: self.socket(&plan.instance.id),
            image_id: plan.instance.image.clone(),
            emulated: plan.instance.emulated,
        })
    }

    fn socket(&self, id: &InstanceId) -> PathBuf {
        self.cloud
            .folder()
            .join("guests")
            .join(id.as_str())
            .join("imds")
    }

    /// Takes a snapshot.
    fn snapshot(&self, copy: &Copy) -> anyhow::Result<()> {
        let taken = self.import(copy);
        if let Err(error) = &taken {
            tracing::error!(
                snapshot = %copy.id,
                error = format!("{error:#}"),
                "a snapshot failed"
            );
        }
        let outcome = taken.map_err(|error| format!("{error:#}"));
        let wanted = self
            .cloud
            .change(|state, now| state.region.ec2.finish_copy(&copy.id, outcome, now))?;
        if !wanted {
            self.disks.delete_snapshot(&copy.id);
        }
        Ok(())
    }

    /// Imports the disk images that a new cloud starts with, before its endpoint opens.
    ///
    /// # Errors
    /// When one cannot be read or written; the image is not registered then.
    pub(crate) fn import_base_images(&self) -> anyhow::Result<()> {
        let work = self.cloud.read(|state, _| DiskWork::of(state));
        for copy in work.copies {
            if matches!(copy.source, Source::Volume(_) | Source::Snapshot(_)) {
                continue;
            }
            if let Err(error) = self.import(&copy) {
                self.cloud
                    .change(|state, _| state.region.ec2.remove_base_image(&copy.id))?;
                return Err(error);
            }
            self.cloud
                .change(|state, now| state.region.ec2.finish_copy(&copy.id, Ok(()), now))?;
        }
        Ok(())
    }

    fn import(&self, copy: &Copy) -> anyhow::Result<()> {
        match &copy.source {
            Source::Volume(volume) => self.disks.capture(volume, &copy.id),
            Source::Snapshot(snapshot) => self.disks.duplicate(snapshot, &copy.id),
            Source::File(file) => self.disks.import(&copy.id, file),
            Source::Nothing => self.disks.import(&copy.id, Path::new("/dev/null")),
        }
    }

    /// Ends all machines; their instances stay `running` in the state, so that the next `up` starts them again.
    pub(crate) async fn end(&self) {
        let ids: Vec<InstanceId> = self
            .cloud
            .read(|state, _| state.region.ec2.instances.keys().cloned().collect());
        let running = |id: &InstanceId| self.host.state(id) == GuestState::Running;
        for id in ids.iter().filter(|id| running(id)) {
            self.host.power_off(id);
        }
        let patience = Instant::now() + END_PATIENCE;
        while ids.iter().any(running) && Instant::now() < patience {
            tokio::time::sleep(END_POLL).await;
        }
        for id in ids.iter().filter(|id| running(id)) {
            self.host.kill(id);
        }
    }

    /// Runs `job` on a thread of its own; `id` is busy until it is done.
    fn in_background(
        self: &Arc<Self>,
        id: impl AsRef<str>,
        job: impl FnOnce(&Self) -> anyhow::Result<()> + Send + 'static,
    ) {
        let (machines, id) = (Arc::clone(self), id.as_ref().to_owned());
        self.busy().insert(id.clone());
        Handle::current().spawn_blocking(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&machines)));
            machines.busy().remove(&id);
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(
                        id,
                        error = format!("{error:#}"),
                        "the result of a job could not be recorded"
                    )
                }
                Err(_) => tracing::error!(id, "a job on a machine panicked"),
            }
        });
    }

    fn is_busy(&self, id: impl AsRef<str>) -> bool {
        self.busy().contains(id.as_ref())
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The free space of the disk under `folder`, in bytes; 0 when it cannot be queried.
pub(crate) fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |found| found.f_bavail * found.f_frsize)
}

/// An instance to start.
struct Plan {
    instance: Instance,
    /// The root disk first.
    disks: Vec<Disk>,
    ports: BTreeSet<u16>,
}

struct Disk {
    volume: VolumeId,
    snapshot: Option<SnapshotId>,
    size: u32,
    made: bool,
}

impl Plan {
    fn of(state: &State, id: &InstanceId, more_ports: &[u16]) -> Option<Self> {
        let ec2 = &state.region.ec2;
        let mut ports = state.region.elb.ports();
        ports.extend(PORTS);
        ports.extend(more_ports);
        Some(Self {
            instance: ec2.instances.get(id)?.clone(),
            disks: ec2
                .volumes_of(id)
                .map(|(volume, _)| Disk {
                    volume: volume.id.clone(),
                    snapshot: volume.snapshot.clone(),
                    size: volume.size,
                    made: volume.made,
                })
                .collect(),
            ports,
        })
    }

    /// Whether the instance never ran.
    fn is_new(&self) -> bool {
        self.disks.iter().any(|disk| !disk.made)
    }
}

#[cfg(test)]
mod tests;
