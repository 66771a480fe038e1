//! The daemon's loop: waits for events, steps the lifecycle, starts its actions, writes the status, notifies systemd.
//!
//! It decides nothing: every event goes through [`Lifecycle::step`], and every action runs as a task whose result is
//! an event, so that no slow call delays a heartbeat, a check or the watchdog.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use contract::console::UNIDENTIFIED;
use contract::names::registry_parameter;
use contract::registry::Verdict;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::aws::Proxies;
use crate::balancer::Balancer;
use crate::bounded::{self, LONGEST_STATUS};
use crate::duty::Duties;
use crate::health::HealthCheck;
use crate::hooks::Group;
use crate::host::Host;
use crate::identity::{Identity, Metadata};
use crate::lifecycle::{Action, Event, FinalRecord, Lifecycle, NoAnswer, Terms};
use crate::metrics::cloudwatch::{self, Sink};
use crate::metrics::{Meter, http};
use crate::notify::Supervisor;
use crate::output;
use crate::registry::Registry;
use crate::settings::{DrainCheck, ImageName, Service, Settings, Sources};
use crate::status_file::{DaemonStatus, DaemonStatusFile};
use crate::update_permission::{self, UpdatePermission};

mod actions;

#[cfg(test)]
mod tests;

/// How long running calls may still take after SIGTERM: the host may be shutting down, and systemd has other units to
/// stop.
const SHUTDOWN_CALLS: Duration = Duration::from_secs(2);

/// How long it may take to read whether the system is shutting down, and the target lifecycle state: an instance that
/// shuts down is busy.
const SHUTDOWN_QUERY: Duration = Duration::from_secs(4);

/// How long the last write of the record may take when the system shuts down. With [`SHUTDOWN_QUERY`] it fits the
/// unit's ten seconds.
const SHUTDOWN_RECORD: Duration = Duration::from_secs(5);

/// Wall-clock jump that is treated as a suspend. A smaller one is the clock being set right after boot.
const SUSPEND_JUMP: Duration = Duration::from_secs(30);

/// Longest wait of the loop, so that the watchdog proves that it runs.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The adapters that the daemon uses.
pub(crate) struct Adapters {
    /// The metadata service.
    pub(crate) metadata: Arc<dyn Metadata>,
    /// The Auto Scaling group.
    pub(crate) group: Arc<dyn Group>,
    /// The registry.
    pub(crate) registry: Arc<dyn Registry>,
    /// The load balancers.
    pub(crate) balancer: Arc<dyn Balancer>,
    /// The operating system.
    pub(crate) host: Arc<dyn Host>,
    /// The services.
    pub(crate) health: Arc<dyn HealthCheck>,
    /// The settings' files.
    pub(crate) sources: Sources,
    /// Where the settings' proxies are handed to AWS's clients.
    pub(crate) proxies: Proxies,
    /// The updater's status file.
    pub(crate) updater: PathBuf,
    /// The time of day.
    pub(crate) clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// The metrics.
    pub(crate) meter: Meter,
    /// CloudWatch.
    pub(crate) sink: Arc<dyn Sink>,
}

/// Detects a suspend: the monotonic clock stops while the instance hibernates, the wall clock does not.
struct SuspendDetector(Instant, Timestamp);

impl SuspendDetector {
    fn new(adapters: &Adapters) -> Self {
        Self(Instant::now(), (adapters.clock)())
    }

    /// Whether the wall clock jumped since the last call.
    fn has_jumped(&mut self, adapters: &Adapters) -> bool {
        let last = std::mem::replace(self, Self::new(adapters));
        let awake = self.0.duration_since(last.0);
        let passed = Duration::try_from(self.1.duration_since(last.1)).unwrap_or_default();
        passed > awake + SUSPEND_JUMP
    }
}

/// The result of a task.
enum Done {
    Event(Event),
    Identified(Identity, Box<Result<Settings>>),
    /// Why the identity could not be read, and whether that lasts until somebody changes it.
    Unidentified {
        why: String,
        lasting: bool,
    },
    Refreshing(Result<Option<String>, NoAnswer>),
}

struct Daemon {
    adapters: Adapters,
    lifecycle: Lifecycle,
    identity: Option<Identity>,
    /// Why the identity could not be read, while it is not known.
    unidentified: Option<String>,
    image: Option<ImageName>,
    services: Arc<[Service]>,
    drain_check: Option<Arc<DrainCheck>>,
    verdict: Option<Verdict>,
    since: Option<Timestamp>,
    started_at: Timestamp,
    /// The previous daemon's status, until the instance is identified.
    left: Option<DaemonStatus>,
    /// How often the agent restarted each service since the boot.
    restarts: BTreeMap<String, u32>,
    run_dir: PathBuf,
    permission: UpdatePermission,
    /// When the updater's status file is next read.
    next_poll: Instant,
    work: JoinSet<Done>,
    /// Tasks that run beside the loop and end with it.
    background: JoinSet<()>,
}

/// Runs until `stop` completes. An unreachable or throttled API never ends it.
pub(crate) async fn run(
    adapters: Adapters,
    mut supervisor: Box<dyn Supervisor>,
    run_dir: &Path,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let mut daemon = Daemon {
        adapters,
        lifecycle: Lifecycle::new(),
        identity: None,
        unidentified: None,
        image: None,
        services: Arc::new([]),
        drain_check: None,
        verdict: None,
        since: None,
        started_at: Timestamp::now(),
        left: DaemonStatus::read_previous(run_dir),
        restarts: BTreeMap::new(),
        run_dir: run_dir.to_owned(),
        permission: UpdatePermission::default(),
        next_poll: Instant::now(),
        work: JoinSet::new(),
        background: JoinSet::new(),
    };
    let mut status_file = DaemonStatusFile::new(run_dir);
    let mut reported = String::new();
    // A third of the deadline: a busy instance may miss two pings.
    let ping = supervisor
        .watchdog()
        .map_or(LONGEST_WAIT, |limit| LONGEST_WAIT.min(limit / 3));
    let mut done = Done::Event(Event::Tick);
    let mut first = true;
    let mut stop = std::pin::pin!(stop);
    let mut suspend = SuspendDetector::new(&daemon.adapters);
    loop {
        if suspend.has_jumped(&daemon.adapters) {
            tracing::info!("the clock jumped: this instance was suspended, or its clock was set");
            daemon.handle(Done::Event(Event::ClockJumped));
        }
        daemon.handle(done);
        daemon.answer_updater();
        let waiting_for = daemon.waiting_for();
        if waiting_for != reported {
            tracing::info!(state = daemon.lifecycle.state_name(), "{waiting_for}");
            supervisor.status(&waiting_for);
            reported = waiting_for;
        }
        let status = daemon.status();
        daemon.adapters.meter.set_status(&status);
        status_file.write_if_changed(status);
        supervisor.alive();
        if std::mem::take(&mut first) {
            supervisor.ready();
        }
        let latest = Instant::now() + ping;
        let wake = daemon
            .lifecycle
            .next_due()
            .map_or(latest, |due| latest.min(Instant::from_std(due)))
            .min(daemon.next_poll);
        done = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(finished) = daemon.work.join_next() => finished.context("a task of the agent panicked")?,
            () = tokio::time::sleep_until(wake) => Done::Event(Event::Tick),
        };
    }
    supervisor.stopping();
    daemon.shut_down().await;
    Ok(())
}

impl Daemon {
    /// Finishes running calls; if the whole system shuts down, writes the final record as well.
    async fn shut_down(mut self) {
        tracing::info!("stopping: finishing {} calls", self.work.len());
        let (host, metadata) = (self.adapters.host.clone(), self.adapters.metadata.clone());
        let query = async move {
            if host.is_shutting_down().await {
                Some(or_no_answer(metadata.target_state().await).ok().flatten())
            } else {
                None
            }
        };
        let last_calls = async { while self.work.join_next().await.is_some() {} };
        let (asked, finished) = tokio::join!(
            tokio::time::timeout(SHUTDOWN_QUERY, query),
            tokio::time::timeout(SHUTDOWN_CALLS, last_calls),
        );
        if finished.is_err() {
            tracing::warn!("calls were still running");
            self.work.shutdown().await;
        }
        let Ok(Some(target)) = asked else {
            return;
        };
        let record = self.lifecycle.final_record(target.as_ref());
        tracing::info!("the system is shutting down; the registry record: {record:?}");
        let registered = self.lifecycle.registered().to_vec();
        if !registered.is_empty() {
            self.act(Action::Deregister(registered));
        }
        match record {
            FinalRecord::Keep => {}
            FinalRecord::Write => {
                self.since = Timestamp::from_second(Timestamp::now().as_second()).ok();
                self.act(Action::WriteRecord);
            }
            FinalRecord::Remove => self.act(Action::RemoveRecord),
        }
        let final_record = async { while self.work.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_RECORD, final_record)
            .await
            .is_err()
        {
            tracing::warn!("the registry record was not written in time");
        }
    }

    fn handle(&mut self, done: Done) {
        let event = match done {
            Done::Event(event) => event,
            Done::Identified(identity, settings) => self.identified(identity, *settings),
            Done::Unidentified { why, lasting } => {
                if lasting && self.unidentified.as_ref() != Some(&why) {
                    output::line(&format!("{UNIDENTIFIED}{why}"));
                }
                self.unidentified = Some(why);
                Event::Identified(Err(NoAnswer))
            }
            Done::Refreshing(refresh) => {
                self.permission.refreshes_seen(refresh);
                Event::Tick
            }
        };
        self.adapters.meter.count_event(&event);
        let now = Instant::now().into_std();
        for action in self.lifecycle.step(event, now) {
            self.act(action);
        }
    }

    fn identified(&mut self, identity: Identity, settings: Result<Settings>) -> Event {
        let instance = identity.instance_id.clone();
        match &identity.host {
            None => tracing::info!("this is {instance} from {}", identity.image_id),
            Some(host) => {
                tracing::info!("this is {instance} on {host}, without a metadata service")
            }
        }
        let left = self
            .left
            .take()
            .filter(|left| (&left.instance_id, &left.image_id) == (&instance, &identity.image_id));
        self.identity = Some(identity);
        self.unidentified = None;
        let terms = match settings {
            Ok(settings) => {
                self.adapters.proxies.set(settings.proxy.clone());
                let terms = Terms::of(&settings);
                if let Some(left) = left {
                    self.resume_from(&left, &settings.services);
                }
                if let Some(namespace) = settings.metrics.cloudwatch_namespace {
                    let dice = Duties::new(&instance).jitter();
                    let (sink, meter) = (self.adapters.sink.clone(), self.adapters.meter.clone());
                    self.background
                        .spawn(cloudwatch::publish(sink, meter, namespace, dice));
                }
                if let Some(address) = settings.metrics.listen {
                    self.background
                        .spawn(http::serve(address, self.adapters.meter.clone()));
                }
                self.image = Some(settings.image);
                self.services = settings.services.into();
                self.drain_check = settings.drain_check.map(Arc::new);
                Ok(terms)
            }
            Err(error) => {
                self.image = self.adapters.sources.image_name();
                let proxy = self.adapters.sources.image_proxy();
                self.adapters.proxies.set(proxy);
                Err(format!("{error:#}"))
            }
        };
        Event::Identified(Ok((instance, terms)))
    }

    /// Continues from the previous daemon's status.
    fn resume_from(&mut self, left: &DaemonStatus, services: &[Service]) {
        self.restarts = left.restarts.clone();
        self.lifecycle
            .adopt(left.registered.clone(), Instant::now().into_std());
        let Some(mut previous) = left.previous_daemon((self.adapters.clock)()) else {
            return;
        };
        previous
            .round
            .retain(|name, _| services.iter().any(|service| service.name.as_str() == name));
        for (name, _) in previous.round.iter().filter(|(_, service)| service.healthy) {
            self.adapters.health.started(name);
        }
        tracing::info!(
            "continuing from {}",
            left.before.as_ref().unwrap_or(&left.state)
        );
        self.verdict = Some(previous.judgement.verdict);
        self.since = left.since.parse().ok();
        self.lifecycle.resume_from(previous);
    }

    /// Reads the updater's status file when it is time, and answers its request.
    fn answer_updater(&mut self) {
        let now = Instant::now();
        if now >= self.next_poll {
            self.next_poll = now + update_permission::POLL_INTERVAL;
            let text = self.read_updater_status();
            let text = text.as_deref();
            self.permission
                .set_request(text.and_then(update_permission::requested_since));
            let update = text.and_then(|text| serde_json::from_str(text).ok());
            self.adapters.meter.set_updater_status(update);
        }
        let query = self.permission.consider(
            self.lifecycle.readiness(),
            self.lifecycle.group(),
            now.into_std(),
            Timestamp::now(),
        );
        if let Some(query) = query {
            let group = self.adapters.group.clone();
            self.work.spawn(async move {
                Done::Refreshing(or_no_answer(group.refreshing(&query.group).await))
            });
        }
    }

    fn read_updater_status(&self) -> Option<String> {
        let path = &self.adapters.updater;
        bounded::read(path, LONGEST_STATUS).unwrap_or_else(|error| {
            tracing::debug!("cannot read {}: {error}", path.display());
            None
        })
    }

    fn parameter(&self) -> Option<String> {
        let (image, identity) = (self.image.as_ref()?, self.identity.as_ref()?);
        Some(registry_parameter(image.as_str(), &identity.instance_id))
    }

    fn instance(&self) -> String {
        self.identity
            .as_ref()
            .map_or_else(String::new, |identity| identity.instance_id.clone())
    }

    /// What the daemon waits for, in one line; while it is not identified, with the reason.
    fn waiting_for(&self) -> String {
        match &self.unidentified {
            Some(why) => format!("waiting for the identity: {why}"),
            None => self.lifecycle.waiting_for(),
        }
    }

    fn status(&self) -> DaemonStatus {
        let process = DaemonStatus {
            agent: agent_update::version().to_owned(),
            pid: std::process::id(),
            started_at: Some(self.started_at),
            state: self.lifecycle.state_name().to_owned(),
            waiting_for: self.waiting_for(),
            permission: self.permission.answer().cloned(),
            ..DaemonStatus::default()
        };
        if let Some(left) = &self.left {
            // Not identified yet: the previous status holds, so that a restart changes nothing.
            return DaemonStatus {
                before: Some(left.before.as_ref().unwrap_or(&left.state).clone()),
                agent: process.agent,
                pid: process.pid,
                started_at: process.started_at,
                state: process.state,
                waiting_for: process.waiting_for,
                permission: process.permission,
                ..left.clone()
            };
        }
        let judgement = self.lifecycle.judgement();
        let host = self.identity.as_ref().and_then(|id| id.host.clone());
        DaemonStatus {
            instance_id: self.instance(),
            image_id: self
                .identity
                .as_ref()
                .map_or_else(String::new, |id| id.image_id.clone()),
            image: self
                .image
                .as_ref()
                .map_or_else(String::new, |image| image.as_str().to_owned()),
            group: self.lifecycle.group().map(str::to_owned),
            verdict: judgement.map(|judgement| judgement.verdict),
            reason: judgement.map_or_else(String::new, |judgement| judgement.reason.clone()),
            since: self
                .since
                .map_or_else(String::new, |since| since.to_string()),
            services: self.lifecycle.round().clone(),
            recorded: self.lifecycle.is_recorded() && host.is_none(),
            host,
            restarts: self.restarts.clone(),
            registered: self.lifecycle.registered().to_vec(),
            notices: self.lifecycle.notices().lines(),
            ..process
        }
    }
}

/// Logs a failed call once, here; the lifecycle only needs to know that there was no answer.
fn or_no_answer<T>(answer: Result<T>) -> Result<T, NoAnswer> {
    answer.map_err(|error| {
        tracing::warn!("{error:#}");
        NoAnswer
    })
}
