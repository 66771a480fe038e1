//! An instance in a temporary directory: its slots are real, everything else is played. The updater can be
//! killed at every call that it makes.

use std::collections::BTreeMap;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use contract::layout::BINARY;
use contract::release::{Kind, Release, Rollout, SCHEMA};
use jiff::{SignedDuration, Timestamp};
use semver::Version;
use sha2::{Digest as _, Sha256};
use test_support::write_program;
use tokio::time::Instant;

use crate::attempt::adapters::Clock;
use crate::attempt::{
    ActiveState, Adapters, Daemon, Ended, Health, Probe, TestFailure, Unit, UnitState, Units,
    UpdatePolicy, run,
};
use crate::build::Build;
use crate::channel::{Catalogue, Channel, Digest, Offer};
use crate::channel::{Cause, Refusal};
use crate::permission::PermissionAnswer;
use crate::plan::Windows;
use crate::slots::{Layout, Leads, Link, Lock, Slots};
use crate::state::{FILE, State, Store};
use crate::status::{UpdaterStatus, UpdaterStatusFile};

/// The soak of these tests.
pub(super) const SOAK: Duration = Duration::from_secs(120);

/// The agent of the image, for all tests one file.
static FACTORY: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(BINARY);
    write_program(&path, "#!/bin/sh\necho imagebuilder-agent 1.0.0\n");
    (dir, path)
});

/// What a release does when it is on trial.
#[derive(Clone, Debug)]
pub(super) enum OnTrial {
    Runs,
    FailsToStart,
    /// Ends by itself, with this `Result=` of systemd.
    Dies(Duration, &'static str),
    /// Never shows a status.
    Silent,
    /// Its service fails from the first moment to the second.
    Sickens(Duration, Duration),
    /// The instance is being terminated.
    Leaves(Duration),
    /// Does well, and never answers the updater.
    Mute,
    /// Does well, and answers that it may not be replaced now.
    Refuses,
    /// Its process is another one from this moment on.
    IsRestarted(Duration),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Granted,
    Refused(&'static str),
    Silent,
}

/// Everything that is played.
pub(super) struct Scene {
    pub(super) offers: Vec<Offer>,
    pub(super) bytes: BTreeMap<Digest, Vec<u8>>,
    pub(super) refuses_refresh: Option<Cause>,
    pub(super) refuses_fetch: Option<Cause>,
    /// The channel goes out of reach as a self-test begins.
    pub(super) refuses_after_probe: Option<Cause>,
    pub(super) on_trial: OnTrial,
    pub(super) stable_fails: bool,
    /// How a stable unit that failed did so.
    pub(super) stable_result: &'static str,
    pub(super) probe_fails: Vec<Option<TestFailure>>,
    /// What the stable release's own self-test, and its verbs, come to.
    pub(super) control_fails: Option<TestFailure>,
    pub(super) control_verb_fails: Option<(&'static str, TestFailure)>,
    /// What the verbs of a release come to.
    pub(super) verb_fails: Option<(&'static str, TestFailure)>,
    /// How long the service fails, whatever runs; from the scene's beginning.
    pub(super) outage: Option<(Duration, Duration)>,
    /// `ExecMainStatus=` of what ended.
    pub(super) status: Option<i32>,
    pub(super) answer: Answer,
    pub(super) judged: bool,
    pub(super) stable: ActiveState,
    pub(super) trial: ActiveState,
    pub(super) result: String,
    pub(super) since: Instant,
    pub(super) begun: Instant,
    /// Called at every call; the updater is killed if it returns true.
    pub(super) kill: Option<Kill>,
    pub(super) calls: Vec<String>,
    root: PathBuf,
}

type Kill = Box<dyn FnMut(&str, &Path) -> bool + Send>;

/// What a killed updater unwinds with: no panic hook speaks of it.
struct Killed;

#[derive(Clone)]
pub(super) struct Play(Arc<Mutex<Scene>>, Arc<Mutex<Option<Answer>>>);

pub(super) struct Stage {
    _dir: tempfile::TempDir,
    pub(super) play: Play,
    pub(super) slots: Slots,
    pub(super) store: Store,
    pub(super) instance_id: String,
    pub(super) boot: String,
    pub(super) soak: Duration,
    /// Whether a test holds the lock.
    pub(super) busy: bool,
}

pub(super) fn start() -> Timestamp {
    "2026-03-02T10:00:00Z".parse().unwrap()
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Digest::parse(&hex).unwrap()
}

pub(super) fn offer(version: &str, bytes: &[u8]) -> Offer {
    let version: Version = version.parse().unwrap();
    let rollout = Rollout {
        since: start(),
        waves: Vec::new(),
    };
    Offer {
        target: Release::target_name(&version, std::env::consts::ARCH),
        digest: digest_of(bytes),
        length: bytes.len() as u64,
        release: Release {
            schema: SCHEMA,
            kind: Kind::Agent,
            version,
            arch: std::env::consts::ARCH.to_owned(),
            channels: BTreeMap::from([("stable".to_owned(), rollout)]),
            min_from: None,
            floor: None,
            withdrawn: None,
        },
    }
}

impl Stage {
    /// An instance as its image makes it, on the factory's 1.0.0.
    pub(super) fn new() -> Self {
        // In memory where there is such a place: hundreds of instances fsync everything they do.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        let root = dir.path();
        let layout = Layout {
            factory: root.join("factory"),
            slots: root.join("slots"),
            channel: root.join("channel"),
            state: root.join("state"),
            run: root.join("run"),
        };
        for dir in ["factory", "slots/versions", "slots/staging", "run"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(&FACTORY.1, root.join("factory").join(BINARY)).unwrap();
        std::os::unix::fs::symlink(&layout.factory, root.join("slots/stable")).unwrap();
        let scene = Scene {
            offers: Vec::new(),
            bytes: BTreeMap::new(),
            refuses_refresh: None,
            refuses_fetch: None,
            refuses_after_probe: None,
            on_trial: OnTrial::Runs,
            stable_fails: false,
            stable_result: "exit-code",
            probe_fails: Vec::new(),
            control_fails: None,
            control_verb_fails: None,
            verb_fails: None,
            outage: None,
            status: None,
            answer: Answer::Granted,
            judged: true,
            stable: ActiveState::Active,
            trial: ActiveState::Inactive,
            result: "success".to_owned(),
            since: Instant::now(),
            begun: Instant::now(),
            kill: None,
            calls: Vec::new(),
            root: root.to_owned(),
        };
        Self {
            store: Store::new(&layout.state),
            slots: Slots::new(layout),
            play: Play(Arc::new(Mutex::new(scene)), Arc::default()),
            instance_id: "i-0a".to_owned(),
            boot: "boot-1".to_owned(),
            soak: SOAK,
            busy: false,
            _dir: dir,
        }
    }

    /// Offers a release in the channel.
    pub(super) fn offers(&self, version: &str) -> Build {
        let bytes = format!("the agent, {version}").into_bytes();
        let offer = offer(version, &bytes);
        let build = super::super::actions::build(&offer);
        let mut scene = self.scene();
        scene.bytes.insert(offer.digest.clone(), bytes);
        scene.offers.push(offer);
        build
    }

    pub(super) fn scene(&self) -> MutexGuard<'_, Scene> {
        self.play.0.lock().unwrap()
    }

    pub(super) fn adapters(&self) -> Adapters {
        Adapters {
            policy: UpdatePolicy {
                instance_id: self.instance_id.clone(),
                channel: "stable".to_owned(),
                windows: Windows::default(),
                soak: self.soak,
            },
            channel: Box::new(self.play.clone()),
            slots: self.slots.clone(),
            store: self.store.clone(),
            status_file: UpdaterStatusFile::new(&self.slots.layout().run),
            units: Box::new(self.play.clone()),
            probe: Box::new(self.play.clone()),
            daemon: Box::new(self.play.clone()),
            clock: Box::new(self.play.clone()),
            boot: self.boot.clone(),
        }
    }

    /// One run; `None` when the updater was killed in it.
    pub(super) async fn run(&self) -> Option<Result<Ended>> {
        loop {
            match tokio::spawn(run(self.adapters())).await {
                // A file lock lasts as long as the last copy of its descriptor, and what another test forks
                // has one until it executes.
                Ok(Ok(Ended::Busy)) if !self.busy => std::thread::yield_now(),
                Ok(ended) => return Some(ended),
                Err(died) => {
                    let killed = died.into_panic();
                    if !killed.is::<Killed>() {
                        resume_unwind(killed);
                    }
                    return None;
                }
            }
        }
    }

    /// The lock, waited for: see [`Stage::run`].
    pub(super) fn locked(&self) -> Lock {
        loop {
            if let Some(lock) = self.slots.lock().unwrap() {
                return lock;
            }
            std::thread::yield_now();
        }
    }

    /// Waits until the lock is free: see [`Stage::run`].
    pub(super) fn unlocked(&self) {
        drop(self.locked());
    }

    /// One run that is not killed and comes to an outcome.
    pub(super) async fn ends(&self) -> Ended {
        self.run().await.expect("not killed").unwrap()
    }

    /// The instance reboots: nothing is on trial, stable is started.
    pub(super) fn reboot(&mut self) {
        self.boot = format!("{}+", self.boot);
        let mut scene = self.scene();
        scene.stable = ActiveState::Active;
        scene.trial = ActiveState::Inactive;
        "success".clone_into(&mut scene.result);
    }

    /// The updater's status file.
    pub(super) fn status(&self) -> UpdaterStatus {
        UpdaterStatus::read(&self.slots.layout().run)
    }

    /// The state on disk.
    pub(super) fn state(&self) -> State {
        let bytes = fs::read(self.slots.layout().state.join(FILE)).unwrap();
        let (state, broken) = State::read(&bytes);
        assert_eq!(broken, None);
        state
    }

    /// The state on disk, or that of an instance that never wrote any.
    pub(super) fn state_or_default(&self) -> State {
        fs::read(self.slots.layout().state.join(FILE))
            .map_or_else(|_| State::default(), |bytes| State::read(&bytes).0)
    }

    /// Asserts I1 to I3 of the design: `stable` leads to the factory or to a complete, confirmed slot with
    /// the right bytes; what is armed is a complete slot with the right bytes.
    pub(super) fn assert_sound(&self, at: &str) {
        match self.slots.leads(Link::Stable) {
            Leads::Factory => {}
            Leads::Slot(build) => {
                assert!(self.state().is_confirmed(&build.digest), "{at}: {build:?}");
                self.slots.verify(&build).unwrap();
            }
            other => panic!("{at}: stable leads to {other:?}"),
        }
        if let Leads::Slot(build) = self.slots.leads(Link::Trial) {
            self.slots.verify(&build).unwrap();
        }
    }
}

impl Play {
    /// Changes the daemon's answer with the next call: a scene is locked while it is asked whether to kill.
    pub(super) fn later(&self, answer: Option<Answer>) {
        if answer.is_some() {
            *self.1.lock().unwrap() = answer;
        }
    }

    fn call(&self, name: &str) -> MutexGuard<'_, Scene> {
        let mut scene = self.0.lock().unwrap();
        scene.calls.push(name.to_owned());
        if let Some(answer) = self.1.lock().unwrap().take() {
            scene.answer = answer;
        }
        let root = scene.root.clone();
        if scene.kill.as_mut().is_some_and(|kill| kill(name, &root)) {
            scene.kill = None;
            drop(scene);
            resume_unwind(Box::new(Killed));
        }
        scene
    }
}

impl Scene {
    fn refusal(cause: Cause) -> Refusal {
        Refusal {
            cause,
            detail: "as played".to_owned(),
        }
    }

    /// What became of the trial by now.
    fn settle(&mut self) {
        if let OnTrial::Dies(after, result) = self.on_trial
            && self.trial == ActiveState::Active
            && self.since.elapsed() >= after
        {
            self.trial = ActiveState::Failed;
            result.clone_into(&mut self.result);
            self.stable = ActiveState::Active;
        }
    }

    fn version_at(&self, link: &str) -> String {
        let target = fs::canonicalize(self.root.join("slots").join(link)).unwrap_or_default();
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        match name.rsplit_once('-') {
            Some((version, _)) => version.to_owned(),
            None => "1.0.0".to_owned(),
        }
    }
}

#[async_trait]
impl Channel for Play {
    async fn refresh(&mut self, now: Timestamp) -> Result<Catalogue, Refusal> {
        let scene = self.call("refresh");
        match scene.refuses_refresh {
            Some(cause) => Err(Scene::refusal(cause)),
            None => Ok(Catalogue {
                offers: scene.offers.clone(),
                expires: now + SignedDuration::from_hours(24),
                versions: [1, 2, 3, 4],
            }),
        }
    }

    async fn fetch(&mut self, offer: &Offer, part: &Path) -> Result<(), Refusal> {
        let bytes = {
            let scene = self.call("fetch");
            let bytes = scene.bytes[&offer.digest].clone();
            fs::write(part, &bytes[..bytes.len() / 2]).unwrap();
            match scene.refuses_fetch {
                Some(cause) => return Err(Scene::refusal(cause)),
                None => bytes,
            }
        };
        let _scene = self.call("half fetched");
        fs::write(part, bytes).unwrap();
        Ok(())
    }
}

#[async_trait]
impl Units for Play {
    async fn start(&mut self, unit: Unit) -> Result<()> {
        {
            let mut scene = self.call(match unit {
                Unit::Stable => "start stable",
                Unit::Trial => "start trial",
            });
            scene.since = Instant::now();
            match unit {
                Unit::Stable if scene.stable_fails => {
                    scene.trial = ActiveState::Inactive;
                    scene.stable = ActiveState::Failed;
                    bail!("the job failed");
                }
                Unit::Stable => {
                    // Stopped in order by `Conflicts=`; how it failed before stays until it is forgotten.
                    if scene.trial == ActiveState::Active {
                        scene.trial = ActiveState::Inactive;
                    }
                    scene.stable = ActiveState::Active;
                }
                Unit::Trial if matches!(scene.on_trial, OnTrial::FailsToStart) => {
                    scene.trial = ActiveState::Failed;
                    "exit-code".clone_into(&mut scene.result);
                    scene.stable = ActiveState::Active;
                    bail!("the job failed");
                }
                Unit::Trial => {
                    assert_ne!(scene.version_at("trial"), "1.0.0", "nothing is armed");
                    scene.trial = ActiveState::Active;
                    scene.stable = ActiveState::Inactive;
                }
            }
        }
        let _scene = self.call("started");
        Ok(())
    }

    async fn begin(&mut self, unit: Unit) -> Result<()> {
        self.start(unit).await
    }

    async fn stop(&mut self, unit: Unit) -> Result<()> {
        let mut scene = self.call("stop");
        match unit {
            Unit::Stable => scene.stable = ActiveState::Inactive,
            Unit::Trial => scene.trial = ActiveState::Inactive,
        }
        "success".clone_into(&mut scene.result);
        Ok(())
    }

    async fn state(&mut self, unit: Unit) -> Result<UnitState> {
        let mut scene = self.call("look");
        scene.settle();
        let (active, pid) = match unit {
            Unit::Stable => (scene.stable, 10),
            Unit::Trial => (scene.trial, 20),
        };
        let pid = match scene.on_trial {
            OnTrial::IsRestarted(at) if pid == 20 && scene.since.elapsed() >= at => 21,
            _ => pid,
        };
        Ok(UnitState {
            active,
            pid: (active == ActiveState::Active).then_some(pid),
            result: match unit {
                Unit::Stable if active == ActiveState::Failed => scene.stable_result.to_owned(),
                Unit::Stable => "success".to_owned(),
                Unit::Trial => scene.result.clone(),
            },
            status: scene.status,
        })
    }
}

#[async_trait]
impl Probe for Play {
    async fn probe(&mut self, binary: &Path) -> Result<Version, TestFailure> {
        let mut scene = self.call("probe");
        if scene.refuses_after_probe.is_some() {
            scene.refuses_refresh = scene.refuses_after_probe;
        }
        let Some(version) = version_of(binary, &scene) else {
            let passes = Ok(Version::new(1, 0, 0));
            return scene.control_fails.clone().map_or(passes, Err);
        };
        match (!scene.probe_fails.is_empty()).then(|| scene.probe_fails.remove(0)) {
            Some(Some(TestFailure::Release(why))) if why.starts_with("reports ") => {
                Ok(why["reports ".len()..].parse().unwrap())
            }
            Some(Some(failure)) => Err(failure),
            _ => Ok(version),
        }
    }

    async fn exercise(&mut self, binary: &Path) -> Result<(), (String, TestFailure)> {
        let scene = self.call("exercise");
        let failure = match version_of(binary, &scene) {
            Some(_) => scene.verb_fails.clone(),
            None => scene.control_verb_fails.clone(),
        };
        failure.map_or(Ok(()), |(verb, failure)| Err((verb.to_owned(), failure)))
    }
}

/// The version in a slot; `None` for what is stable.
fn version_of(binary: &Path, scene: &Scene) -> Option<Version> {
    let name = binary.parent()?.file_name()?.to_string_lossy().into_owned();
    let (version, _) = name.rsplit_once('-')?;
    (version != scene.version_at("stable")).then(|| version.parse().unwrap())
}

impl Daemon for Play {
    fn health(&self) -> Option<Health> {
        let mut scene = self.call("health");
        scene.settle();
        let at = scene.since.elapsed();
        let mut health = Health {
            version: scene.version_at("stable"),
            pid: 10,
            judged: scene.judged,
            fit: scene.judged,
            terminating: false,
            passing: vec!["orders".to_owned()],
            permission: None,
        };
        let asked = UpdaterStatus::read(&scene.root.join("run"));
        let answered = |refusal: Option<&str>, at| PermissionAnswer {
            granted: refusal.is_none(),
            reason: refusal.unwrap_or_default().to_owned(),
            at,
        };
        health.permission = asked
            .permission_requested_since
            .and_then(|at| match scene.answer {
                Answer::Granted => Some(answered(None, at)),
                Answer::Refused(reason) => Some(answered(Some(reason), at)),
                // One on trial has ways of its own.
                Answer::Silent
                    if scene.trial == ActiveState::Active
                        && !matches!(scene.on_trial, OnTrial::Mute) =>
                {
                    Some(answered(None, at))
                }
                Answer::Silent => None,
            });
        let since_begun = scene.begun.elapsed();
        if let Some((from, to)) = scene.outage
            && (from..to).contains(&since_begun)
        {
            health.passing.clear();
            health.fit = false;
        }
        if scene.trial == ActiveState::Active {
            health.version = scene.version_at("trial");
            health.pid = 20;
            match scene.on_trial {
                OnTrial::Silent => return None,
                OnTrial::IsRestarted(from) if at >= from => health.pid = 21,
                OnTrial::Sickens(from, to) if (from..to).contains(&at) => health.passing.clear(),
                OnTrial::Leaves(from) => health.terminating = at >= from,
                OnTrial::Mute => health.permission = None,
                OnTrial::Refuses => {
                    let asked = health.permission;
                    health.permission = asked.map(|it| answered(Some("busy"), it.at));
                }
                _ => {}
            }
        }
        Some(health)
    }
}

impl Clock for Play {
    fn now(&self) -> Timestamp {
        let scene = self.call("now");
        start() + SignedDuration::try_from(scene.begun.elapsed()).unwrap()
    }
}
