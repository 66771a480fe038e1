//! The VM host for QEMU guests and puppets alike: one host process per guest, with a thread that observes and reaps it,
//! and its metadata service.
//!
//! What the process is, and how it is powered off, is up to the [`GuestKind`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::accelerator::Choice;
use super::spawner::{SpawnRequest, Spawner};
use super::{Failure, Guest as Observed, GuestSpec, GuestState, VmHost};
use crate::ids::InstanceId;
use crate::imds::Serving;

/// How long a guest may take to power off. EC2 allows some minutes; a guest under emulation that is still booting
/// reacts only once it is up.
const GRACE: Duration = Duration::from_secs(90);
/// How often the power button is pressed meanwhile: a press before the guest listens is lost.
const PRESS_AGAIN: Duration = Duration::from_secs(2);
/// How much of the console is kept for reading, as on EC2.
const CONSOLE_TAIL: u64 = 64 * 1024;
/// The file in a guest's folder that its console goes to.
pub(super) const CONSOLE: &str = "console.log";

/// Reads the process's messages until it ends, and passes every change of the guest's failure to its argument. Returns
/// whether the guest powered itself off.
pub(super) type Watcher = Box<dyn FnOnce(&dyn Fn(Option<Failure>)) -> bool + Send>;
/// Sends a request to a guest's process.
pub(super) type Controls = Box<dyn Fn(Pid, Button) + Send + Sync>;

/// A request to a running guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Button {
    /// Power off cleanly.
    Power,
    /// Continue, after the host stopped it.
    Continue,
}

/// How a guest's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The guest's final state.
    pub(super) state: GuestState,
    /// Why, when the machine under it failed.
    pub(super) failure: Option<Failure>,
}

impl End {
    /// An end without a failure.
    pub(super) fn state(state: GuestState) -> Self {
        Self {
            state,
            failure: None,
        }
    }
}

/// One kind of guest.
pub(super) trait GuestKind: Send + Sync {
    /// The process to start for this guest, whose folder exists; `None` for a guest without a process.
    ///
    /// # Errors
    /// When the guest cannot run here; the message has a hint.
    fn spawn_request(
        &self,
        guest: &GuestSpec,
        folder: &Path,
    ) -> anyhow::Result<Option<SpawnRequest>>;
    /// Serves the guest's metadata, unless the guest has no process.
    ///
    /// # Errors
    /// When its address or socket is not available.
    fn serve(&self, guest: &GuestSpec) -> anyhow::Result<Option<Serving>>;
    /// Connects to a process just started, whose guest has `folder`.
    ///
    /// # Errors
    /// When the process lacks its streams.
    fn attach(&self, child: &mut Child, folder: &Path) -> anyhow::Result<(Watcher, Controls)>;
    /// How the guest ended, from its process's exit status and the watcher's result.
    fn outcome(&self, status: ExitStatus, powered_off: bool, folder: &Path) -> End;
    /// The accelerator of guests; `None` for puppets.
    fn choice(&self) -> Option<&Choice>;
}

/// A host for one kind of guest.
pub(super) struct ProcessHost<M> {
    kind: Arc<M>,
    folder: PathBuf,
    spawner: Spawner,
    guests: Mutex<BTreeMap<InstanceId, Guest>>,
}

struct Guest {
    process: Arc<GuestProcess>,
    metadata: Option<Serving>,
}

/// A guest's process from start to end.
struct GuestProcess {
    now: Mutex<Now>,
    ended: Condvar,
}

struct Now {
    state: GuestState,
    /// Why it makes no progress, or ended.
    failure: Option<Failure>,
    /// Set while the process is not reaped, so that it never names another process.
    pid: Option<Pid>,
    remote: Option<Arc<Controls>>,
    pressing: bool,
}

impl<M: GuestKind + 'static> ProcessHost<M> {
    /// A host whose guests have their folders below `folder`.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub(super) fn new(kind: M, folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            kind: Arc::new(kind),
            folder: folder.join("guests"),
            spawner: Spawner::new()?,
            guests: Mutex::default(),
        })
    }

    fn place(&self, id: &InstanceId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self, id: &InstanceId) -> Option<Arc<GuestProcess>> {
        self.guests()
            .get(id)
            .map(|guest| Arc::clone(&guest.process))
    }
}

impl<M: GuestKind + 'static> VmHost for ProcessHost<M> {
    fn start(&self, guest: &GuestSpec) -> anyhow::Result<()> {
        let mut guests = self.guests();
        if let Some(there) = guests.get(&guest.id)
            && there.process.now().state == GuestState::Running
        {
            return Ok(());
        }
        // Metadata that is served since an earlier start stays: its address is bound already.
        let served = guests.remove(&guest.id).and_then(|guest| guest.metadata);
        let start = move || -> anyhow::Result<Guest> {
            let folder = self.place(&guest.id);
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            let metadata = match served {
                Some(serving) => Some(serving),
                None => self.kind.serve(guest)?,
            };
            let process = match self.kind.spawn_request(guest, &folder)? {
                None => GuestProcess::without_process(),
                Some(request) => {
                    let mut child = self.spawner.spawn(request)?;
                    match self.kind.attach(&mut child, &folder) {
                        Ok((watcher, remote)) => GuestProcess::of(
                            child,
                            watcher,
                            remote,
                            Arc::clone(&self.kind),
                            folder,
                        )?,
                        Err(error) => {
                            let _ = child.kill();
                            let _ = child.wait();
                            return Err(error);
                        }
                    }
                }
            };
            Ok(Guest { process, metadata })
        };
        let started = start().with_context(|| format!("start guest {}", guest.id))?;
        guests.insert(guest.id.clone(), started);
        Ok(())
    }

    fn power_off(&self, id: &InstanceId) {
        if let Some(process) = self.process(id) {
            process.power_off();
        }
    }

    fn kill(&self, id: &InstanceId) {
        if let Some(process) = self.process(id) {
            process.kill();
        }
    }

    fn guest(&self, id: &InstanceId) -> Observed {
        self.process(id).map_or_else(Observed::default, |process| {
            let now = process.now();
            Observed {
                state: now.state,
                failure: now.failure.clone(),
            }
        })
    }

    fn resume(&self, id: &InstanceId) {
        if let Some(process) = self.process(id) {
            process.press(Button::Continue);
        }
    }

    fn choice(&self) -> Option<Choice> {
        self.kind.choice().cloned()
    }

    fn console(&self, id: &InstanceId) -> Vec<u8> {
        tail(&self.place(id).join(CONSOLE)).unwrap_or_default()
    }

    fn append_to_console(&self, id: &InstanceId, line: &str) {
        let append = || -> std::io::Result<()> {
            let mut options = File::options();
            let mut console = options.append(true).open(self.place(id).join(CONSOLE))?;
            // On a line of its own, whatever the guest has just printed.
            console.write_all(format!("\r\n[rehearsal] {line}\r\n").as_bytes())
        };
        if let Err(error) = append() {
            tracing::debug!(%id, %error, "a line could not be added to a console");
        }
    }

    fn forget(&self, id: &InstanceId) {
        if self.state(id) == GuestState::Running {
            return;
        }
        self.guests().remove(id);
        // It may have been removed already.
        let _ = fs::remove_dir_all(self.place(id));
    }

    fn pid(&self, id: &InstanceId) -> Option<u32> {
        let pid = self.process(id)?.now().pid?;
        u32::try_from(pid.as_raw_nonzero().get()).ok()
    }
}

impl GuestProcess {
    fn without_process() -> Arc<Self> {
        Arc::new(Self {
            now: Mutex::new(Now {
                state: GuestState::Running,
                failure: None,
                pid: None,
                remote: None,
                pressing: false,
            }),
            ended: Condvar::new(),
        })
    }

    fn of<M: GuestKind + 'static>(
        mut child: Child,
        watcher: Watcher,
        remote: Controls,
        kind: Arc<M>,
        folder: PathBuf,
    ) -> anyhow::Result<Arc<Self>> {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process without a pid")?;
        let process = Self::without_process();
        {
            let mut now = process.now();
            now.pid = Some(pid);
            now.remote = Some(Arc::new(remote));
        }
        let watched = Arc::clone(&process);
        std::thread::Builder::new()
            .name(format!("guest {pid:?}"))
            .spawn(move || {
                let powered_off = watcher(&|failure| watched.now().failure = failure);
                // Waits without reaping: until `now` is locked, the pid stays the guest's own, so that no other process
                // can be signalled.
                while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(
                    WaitId::Pid(pid),
                    WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
                ) {}
                let mut now = watched.now();
                // A machine that is off runs nothing: the children of the process are in its group, and are killed too.
                // An error means that there are none.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
                now.pid = None;
                now.remote = None;
                let end = match child.wait() {
                    Ok(status) => kind.outcome(status, powered_off, &folder),
                    Err(_) => End::state(GuestState::Dead),
                };
                now.state = end.state;
                // A failure observed while it ran is the better reason.
                now.failure = now.failure.take().or(end.failure);
                watched.ended.notify_all();
            })
            .context("start the thread that watches a guest")?;
        Ok(process)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        let mut now = self.now();
        match now.pid {
            Some(pid) => {
                // An error means that it has ended, as wanted.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
            None if now.state == GuestState::Running => now.state = GuestState::Dead,
            None => {}
        }
    }

    fn press(&self, button: Button) {
        let now = self.now();
        if let (Some(pid), Some(remote)) = (now.pid, &now.remote) {
            remote(pid, button);
        }
    }

    fn power_off(self: Arc<Self>) {
        let mut now = self.now();
        if now.state != GuestState::Running || now.pressing {
            return;
        }
        if now.pid.is_none() {
            now.state = GuestState::PoweredOff;
            return;
        }
        now.pressing = true;
        drop(now);
        let process = Arc::clone(&self);
        let thread = std::thread::Builder::new()
            .name("power button".to_owned())
            .spawn(move || process.press_until_off());
        if thread.is_err() {
            self.kill();
        }
    }

    fn press_until_off(&self) {
        let end = Instant::now() + GRACE;
        let mut now = self.now();
        while let (Some(pid), Some(remote)) = (now.pid, now.remote.clone()) {
            if Instant::now() >= end {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
                return;
            }
            remote(pid, Button::Power);
            now = self
                .ended
                .wait_timeout(now, PRESS_AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
