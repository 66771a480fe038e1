//! The machine room's bookkeeping, the same for QEMU guests and puppets: one host process a guest,
//! watched by a thread that reaps it, and its metadata service beside it.
//!
//! What kind of process, and how its power button is pressed, is the [`GuestKind`]'s business.

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
use crate::imds::Serving;

/// How long a guest may take from the power button to power off. EC2 gives some minutes; a guest under
/// emulation that is still booting hears the button only once it is up.
const GRACE: Duration = Duration::from_secs(90);
/// How often the button is pressed until then: a press before the guest listens is lost.
const PRESS_AGAIN: Duration = Duration::from_secs(2);
/// How much of the console is kept for reading, as on EC2.
const CONSOLE_TAIL: u64 = 64 * 1024;
/// The file in a guest's folder that its console goes to.
pub(super) const CONSOLE: &str = "console.log";

/// Reads what the process reports until it ends; hands every change of the guest's failure to its
/// argument. Whether the guest powered itself off.
pub(super) type Watcher = Box<dyn FnOnce(&dyn Fn(Option<Failure>)) -> bool + Send>;
/// Presses a button of a guest's process.
pub(super) type Controls = Box<dyn Fn(Pid, Button) + Send + Sync>;

/// What can be asked of a running guest from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Button {
    /// Power off in order.
    Power,
    /// Go on, after the host stopped it.
    Continue,
}

/// How a guest's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// What became of the guest.
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
    /// What to run for this guest, whose folder exists; `None` when a guest is but a word.
    ///
    /// # Errors
    /// When the guest cannot run here; the message has the cure.
    fn spawn_request(
        &self,
        guest: &GuestSpec,
        folder: &Path,
    ) -> anyhow::Result<Option<SpawnRequest>>;
    /// Serves the guest's metadata, where a guest is more than a word.
    ///
    /// # Errors
    /// When the place to serve it at cannot be had.
    fn serve(&self, guest: &GuestSpec) -> anyhow::Result<Option<Serving>>;
    /// Takes what it needs from a process just started, whose guest has `folder`.
    ///
    /// # Errors
    /// When the process lacks its streams.
    fn attach(&self, child: &mut Child, folder: &Path) -> anyhow::Result<(Watcher, Controls)>;
    /// What became of the guest, from its process's end and the witness's finding.
    fn outcome(&self, status: ExitStatus, powered_off: bool, folder: &Path) -> End;
    /// What guests run under; `None` where they are no virtual machines.
    fn choice(&self) -> Option<&Choice>;
}

/// A room of one kind of machine.
pub(super) struct ProcessHost<M> {
    kind: Arc<M>,
    folder: PathBuf,
    spawner: Spawner,
    guests: Mutex<BTreeMap<String, Guest>>,
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
    /// Set while the process runs and is not reaped, so that it is never another's.
    pid: Option<Pid>,
    remote: Option<Arc<Controls>>,
    pressing: bool,
}

impl<M: GuestKind + 'static> ProcessHost<M> {
    /// A room whose guests have their folders below `folder`.
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

    fn place(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<String, Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self, id: &str) -> Option<Arc<GuestProcess>> {
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
        // Metadata served since an earlier start goes on being served: its place is taken already.
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

    fn power_off(&self, id: &str) {
        if let Some(process) = self.process(id) {
            process.power_off();
        }
    }

    fn kill(&self, id: &str) {
        if let Some(process) = self.process(id) {
            process.kill();
        }
    }

    fn guest(&self, id: &str) -> Observed {
        self.process(id).map_or_else(Observed::default, |process| {
            let now = process.now();
            Observed {
                state: now.state,
                failure: now.failure.clone(),
            }
        })
    }

    fn resume(&self, id: &str) {
        if let Some(process) = self.process(id) {
            process.press(Button::Continue);
        }
    }

    fn choice(&self) -> Option<Choice> {
        self.kind.choice().cloned()
    }

    fn console(&self, id: &str) -> Vec<u8> {
        tail(&self.place(id).join(CONSOLE)).unwrap_or_default()
    }

    fn append_to_console(&self, id: &str, line: &str) {
        let append = || -> std::io::Result<()> {
            let mut options = File::options();
            let mut console = options.append(true).open(self.place(id).join(CONSOLE))?;
            // On a line of its own, whatever the guest was printing.
            console.write_all(format!("\r\n[rehearsal] {line}\r\n").as_bytes())
        };
        if let Err(error) = append() {
            tracing::debug!(id, %error, "a console was not written to");
        }
    }

    fn forget(&self, id: &str) {
        if self.state(id) == GuestState::Running {
            return;
        }
        self.guests().remove(id);
        // Gone already is as good as removed.
        let _ = fs::remove_dir_all(self.place(id));
    }

    fn pid(&self, id: &str) -> Option<u32> {
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
                // Waits without reaping: until `now` is held, the pid stays the guest's own, so that
                // nobody signals a stranger.
                while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(
                    WaitId::Pid(pid),
                    WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
                ) {}
                let mut now = watched.now();
                // A machine that is off runs nothing: what the process started is of its group, and goes too. An error
                // says that there is nothing.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
                now.pid = None;
                now.remote = None;
                let end = match child.wait() {
                    Ok(status) => kind.outcome(status, powered_off, &folder),
                    Err(_) => End::state(GuestState::Dead),
                };
                now.state = end.state;
                // What was seen while it ran is the better reason.
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
                // An error says that it is gone, which was the wish.
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
