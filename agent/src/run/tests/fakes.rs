//! Adapters in memory for the loop. Every change wakes the tests that wait for one.

use std::sync::Mutex;

use anyhow::bail;
use async_trait::async_trait;
use contract::registry::Record;
use tokio::sync::watch;

use super::super::*;
use crate::balancer::TargetHealth;
use crate::fleet::{Fleet, Member};
use crate::health::{Checked, Checks, DrainAnswer, Round};
use crate::hooks::{Answer, Hook, Hooks, Membership, Phase, Receipt};
use crate::identity::TargetState;
use crate::notice::{Scheduled, SpotNotices};

/// The state of the fakes. Every change wakes the tests that wait for one.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) instance_known: bool,
    pub(super) user_data: Option<String>,
    pub(super) target: Option<TargetState>,
    pub(super) spot: SpotNotices,
    pub(super) slept: u64,
    /// The record of every other instance.
    pub(super) peer: Option<String>,
    pub(super) reports: usize,
    pub(super) traffic: Vec<String>,
    pub(super) shutting_down: bool,
    pub(super) phase: Option<Phase>,
    pub(super) api_down: bool,
    pub(super) healthy: bool,
    /// The settings' own drain check is made.
    pub(super) real_drain: bool,
    /// How long the services are busy after the start, and how often they were asked.
    pub(super) busy_for: Duration,
    pub(super) asked_busy: usize,
    pub(super) record: Option<Record>,
    pub(super) answers: Vec<(String, &'static str)>,
    pub(super) beats: usize,
    pub(super) refresh: Option<String>,
    pub(super) refresh_questions: usize,
    pub(super) status: String,
    pub(super) pings: usize,
    pub(super) ready: usize,
    pub(super) stopping: bool,
}

pub(super) struct Fake {
    facts: watch::Sender<Facts>,
    opened: Instant,
    /// A call that never comes back, when set.
    pub(super) stuck: Mutex<bool>,
}

impl Fake {
    pub(super) fn facts(&self) -> Facts {
        self.facts.borrow().clone()
    }

    /// Time since the daemon's start.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    fn api(&self) -> Result<()> {
        if self.facts().api_down {
            bail!("the API is away");
        }
        Ok(())
    }
}

#[async_trait]
impl Metadata for Fake {
    async fn identity(&self) -> Result<Identity> {
        if !self.facts().instance_known {
            bail!("no metadata service yet");
        }
        Ok(Identity {
            instance_id: "i-1".into(),
            image_id: "ami-1".into(),
            host: None,
        })
    }
    async fn user_data(&self) -> Result<Option<String>> {
        Ok(self.facts().user_data)
    }
    async fn target_state(&self) -> Result<Option<TargetState>> {
        Ok(self.facts().target)
    }
    async fn spot(&self) -> Result<SpotNotices> {
        Ok(self.facts().spot)
    }
    async fn schedule(&self) -> Result<Vec<Scheduled>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Group for Fake {
    async fn membership(&self, _: &str) -> Result<Option<Membership>> {
        self.api()?;
        Ok(self.facts().phase.map(|phase| Membership {
            group: "fleet".into(),
            phase,
        }))
    }
    async fn fleet(&self, _: &str) -> Result<Fleet> {
        self.api()?;
        let member = |instance: &str| Member {
            instance: instance.to_owned(),
            reported: false,
        };
        Ok(Fleet {
            members: ["i-1", "i-2", "i-3"].map(member).to_vec(),
            target_groups: Vec::new(),
        })
    }
    async fn hooks(&self, _: &str) -> Result<Hooks> {
        self.api()?;
        let hook = |name: &str| {
            vec![Hook {
                name: name.into(),
                timeout: Duration::from_secs(60),
            }]
        };
        Ok(Hooks {
            launching: hook("in"),
            terminating: hook("out"),
        })
    }
    async fn complete(
        &self,
        _: &str,
        hook: &str,
        instance: &str,
        answer: Answer,
    ) -> Result<Receipt> {
        let stuck = *self.stuck.lock().unwrap();
        if stuck {
            std::future::pending::<()>().await;
        }
        self.api()?;
        assert_eq!(instance, "i-1");
        self.facts.send_modify(|facts| {
            facts.answers.push((hook.to_owned(), answer.as_str()));
            facts.phase = Some(if hook == "in" {
                Phase::InService
            } else {
                Phase::TerminatingProceed
            });
        });
        Ok(Receipt::Accepted)
    }
    async fn heartbeat(&self, _: &str, _: &str, _: &str) -> Result<Receipt> {
        self.api()?;
        self.facts.send_modify(|facts| facts.beats += 1);
        Ok(Receipt::Accepted)
    }
    async fn report_unhealthy(&self, _: &str) -> Result<()> {
        self.api()?;
        self.facts.send_modify(|facts| facts.reports += 1);
        Ok(())
    }
    async fn refreshing(&self, group: &str) -> Result<Option<String>> {
        self.api()?;
        assert_eq!(group, "fleet");
        self.facts.send_modify(|facts| facts.refresh_questions += 1);
        Ok(self.facts().refresh)
    }
}

#[async_trait]
impl Registry for Fake {
    async fn put(&self, parameter: &str, value: &str) -> Result<()> {
        self.api()?;
        assert_eq!(parameter, "/imagebuilder/shop/instances/i-1");
        let record = serde_json::from_str(value).unwrap();
        self.facts.send_modify(|facts| facts.record = Some(record));
        Ok(())
    }
    async fn get(&self, parameters: &[String]) -> Result<BTreeMap<String, String>> {
        self.api()?;
        let record = self.facts().peer.unwrap_or_default();
        Ok(parameters
            .iter()
            .map(|name| (name.clone(), record.clone()))
            .collect())
    }
    async fn remove(&self, _: &str) -> Result<()> {
        self.api()?;
        self.facts.send_modify(|facts| facts.record = None);
        Ok(())
    }
}

#[async_trait]
impl Sink for Fake {
    async fn put(&self, _: String) -> Result<()> {
        self.api()
    }
}

#[async_trait]
impl Balancer for Fake {
    async fn register(&self, name: &str, _: &str) -> Result<()> {
        self.api()?;
        self.facts
            .send_modify(|facts| facts.traffic.push(format!("in {name}")));
        Ok(())
    }
    async fn deregister(&self, name: &str, _: &str) -> Result<()> {
        self.api()?;
        self.facts
            .send_modify(|facts| facts.traffic.push(format!("out {name}")));
        Ok(())
    }
    async fn health(&self, name: &str, _: &str) -> Result<TargetHealth> {
        self.api()?;
        let last = self.facts().traffic.pop().unwrap_or_default();
        let (state, reason) = if last.starts_with("in") {
            ("healthy", "")
        } else {
            ("unused", "Target.NotRegistered")
        };
        Ok(TargetHealth {
            target_group: name.to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

#[async_trait]
impl Host for Fake {
    async fn is_shutting_down(&self) -> bool {
        self.facts().shutting_down
    }
}

#[async_trait]
impl HealthCheck for Fake {
    async fn round(&self, services: Arc<[Service]>, _: Duration) -> Checked {
        let healthy = self.facts().healthy;
        let found = contract::registry::Service {
            version: "1.0.0".into(),
            healthy,
            detail: if healthy {
                String::new()
            } else {
                "answered 503".into()
            },
        };
        let names = services
            .iter()
            .map(|service| service.name.as_str().to_owned());
        let round: Round = names.map(|name| (name, found.clone())).collect();
        round.into()
    }

    async fn still_busy(&self, check: Arc<DrainCheck>) -> DrainAnswer {
        self.facts.send_modify(|facts| facts.asked_busy += 1);
        if self.facts().real_drain {
            return Checks::default().still_busy(check).await;
        }
        match self.opened.elapsed() < self.facts().busy_for {
            true => DrainAnswer::Busy,
            false => DrainAnswer::Done,
        }
    }
}

struct Notes(Arc<Fake>);

impl Supervisor for Notes {
    fn ready(&mut self) {
        self.0.facts.send_modify(|facts| facts.ready += 1);
    }
    fn status(&mut self, text: &str) {
        self.0
            .facts
            .send_modify(|facts| facts.status = text.to_owned());
    }
    fn alive(&mut self) {
        self.0.facts.send_modify(|facts| facts.pings += 1);
    }
    fn stopping(&mut self) {
        self.0.facts.send_modify(|facts| facts.stopping = true);
    }
    fn watchdog(&self) -> Option<Duration> {
        Some(Duration::from_secs(30))
    }
}

const SETTINGS: &str =
    "image = \"shop\"\n[services.orders]\nhealth_url = \"http://127.0.0.1:1/\"\n";

pub(super) struct Harness {
    pub(super) fake: Arc<Fake>,
    pub(super) dir: tempfile::TempDir,
    stop: tokio::sync::oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<()>>,
}

impl Harness {
    pub(super) fn open(facts: Facts) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), facts)
    }

    /// A daemon in the place of one before it.
    pub(super) fn open_in(dir: tempfile::TempDir, facts: Facts) -> Self {
        std::fs::write(dir.path().join("agent.toml"), SETTINGS).unwrap();
        let fake = Arc::new(Fake {
            facts: watch::Sender::new(facts),
            opened: Instant::now(),
            stuck: Mutex::new(false),
        });
        let adapters = Adapters {
            metadata: fake.clone(),
            group: fake.clone(),
            registry: fake.clone(),
            balancer: fake.clone(),
            host: fake.clone(),
            health: fake.clone(),
            sources: Sources {
                file: dir.path().join("agent.toml"),
                drop_ins: dir.path().join("agent.d"),
            },
            proxies: Proxies::default(),
            updater: dir.path().join("update/status.json"),
            clock: {
                let (fake, opened) = (fake.clone(), Instant::now());
                Arc::new(move || {
                    let seconds = opened.elapsed().as_secs() + fake.facts().slept;
                    Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
                })
            },
            meter: Meter::default(),
            sink: fake.clone(),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let notes = Box::new(Notes(fake.clone()));
        let path = dir.path().to_owned();
        let ended = tokio::spawn(async move {
            run(adapters, notes, &path, async {
                let _ = stopped.await;
            })
            .await
        });
        Self {
            fake,
            dir,
            stop,
            ended,
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Facts)) {
        self.fake.facts.send_modify(change);
    }

    /// Lets (paused) time pass until the condition holds, for at most an hour of it.
    pub(super) async fn until(&self, so: impl FnMut(&Facts) -> bool) -> Facts {
        let mut facts = self.fake.facts.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(3600), facts.wait_for(so)).await;
        match seen {
            Ok(Ok(facts)) => facts.clone(),
            _ => panic!("it never came to that: {:?}", self.fake.facts()),
        }
    }

    pub(super) fn status(&self) -> DaemonStatus {
        let text = std::fs::read_to_string(self.dir.path().join(crate::status_file::FILE)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(super) async fn close(self) -> Facts {
        self.end().await.1
    }

    /// Ends the daemon, and keeps its runtime directory.
    pub(super) async fn end(self) -> (tempfile::TempDir, Facts) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
        (self.dir, self.fake.facts())
    }

    /// The updater requests permission to restart the daemon.
    pub(super) fn wish(&self, since: Timestamp) {
        let path = self.dir.path().join("update");
        std::fs::create_dir_all(&path).unwrap();
        let status = serde_json::json!({ "asks_leave_since": since, "unheard-of": [1] });
        std::fs::write(path.join("status.json"), status.to_string()).unwrap();
    }

    /// Lets (paused) time pass until the status fulfils the condition.
    pub(super) async fn until_shown(
        &self,
        mut so: impl FnMut(&DaemonStatus) -> bool,
    ) -> DaemonStatus {
        let mut facts = self.fake.facts.subscribe();
        for _ in 0..1000 {
            let status = self.status();
            if so(&status) {
                return status;
            }
            facts.changed().await.unwrap();
        }
        panic!("it never came to that: {:?}", self.status());
    }
}

pub(super) fn in_group() -> Facts {
    Facts {
        instance_known: true,
        target: Some(TargetState::InService),
        phase: Some(Phase::PendingWait),
        healthy: true,
        ..Facts::default()
    }
}

pub(super) fn verdict(facts: &Facts) -> Option<Verdict> {
    facts.record.as_ref().map(|record| record.verdict)
}
