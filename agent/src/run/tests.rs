//! The loop on paused time, against a world in memory.

use std::sync::Mutex;

use anyhow::bail;
use async_trait::async_trait;
use contract::registry::Record;
use tokio::sync::watch;

use super::*;
use crate::fleet::Fleet;
use crate::identity::Target;
use crate::lifecycle::{Answer, Hook, Hooks, Membership, Phase, Receipt};
use crate::notice::{Scheduled, SpotNotices};

/// The state of the fake world. Every change wakes whoever waits for one.
#[derive(Clone, Debug, Default)]
struct Facts {
    instance_known: bool,
    user_data: Option<String>,
    target: Option<Target>,
    spot: SpotNotices,
    slept: u64,
    /// The record of every other box.
    peer: Option<String>,
    reports: usize,
    traffic: Vec<String>,
    shutting_down: bool,
    phase: Option<Phase>,
    api_down: bool,
    healthy: bool,
    record: Option<Record>,
    answers: Vec<(String, &'static str)>,
    beats: usize,
    refresh: Option<String>,
    refresh_questions: usize,
    status: String,
    pings: usize,
    ready: usize,
    stopping: bool,
}

struct Fake {
    facts: watch::Sender<Facts>,
    /// A call that never comes back, when set.
    stuck: Mutex<bool>,
}

impl Fake {
    fn facts(&self) -> Facts {
        self.facts.borrow().clone()
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
        })
    }
    async fn user_data(&self) -> Result<Option<String>> {
        Ok(self.facts().user_data)
    }
    async fn target(&self) -> Result<Option<Target>> {
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
                Phase::Leaving
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
impl Probe for Fake {
    async fn round(&self, services: Arc<[Service]>, _: Duration) -> health::Round {
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
        names
            .map(|name| (name, found.clone()))
            .collect::<BTreeMap<_, _>>()
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

struct House {
    fake: Arc<Fake>,
    dir: tempfile::TempDir,
    stop: tokio::sync::oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<()>>,
}

impl House {
    fn open(facts: Facts) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), facts)
    }

    /// A daemon in the place of one before it.
    fn open_in(dir: tempfile::TempDir, facts: Facts) -> Self {
        std::fs::write(dir.path().join("agent.toml"), SETTINGS).unwrap();
        let fake = Arc::new(Fake {
            facts: watch::Sender::new(facts),
            stuck: Mutex::new(false),
        });
        let world = World {
            metadata: fake.clone(),
            group: fake.clone(),
            registry: fake.clone(),
            balancer: fake.clone(),
            host: fake.clone(),
            probe: fake.clone(),
            sources: Sources {
                file: dir.path().join("agent.toml"),
                drop_ins: dir.path().join("agent.d"),
            },
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
            run(world, notes, &path, async {
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

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        self.fake.facts.send_modify(change);
    }

    /// Lets (paused) time pass until the world looks so, for at most an hour of it.
    async fn until(&self, so: impl FnMut(&Facts) -> bool) -> Facts {
        let mut facts = self.fake.facts.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(3600), facts.wait_for(so)).await;
        match seen {
            Ok(Ok(facts)) => facts.clone(),
            _ => panic!("it never came to that: {:?}", self.fake.facts()),
        }
    }

    fn standing(&self) -> standing::Standing {
        let text = std::fs::read_to_string(self.dir.path().join(standing::FILE)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    async fn close(self) -> Facts {
        self.end().await.1
    }

    /// Ends the daemon, and keeps its runtime directory.
    async fn end(self) -> (tempfile::TempDir, Facts) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
        (self.dir, self.fake.facts())
    }

    /// The updater wishes for leave to restart the daemon.
    fn wish(&self, since: Timestamp) {
        let path = self.dir.path().join("update");
        std::fs::create_dir_all(&path).unwrap();
        let standing = serde_json::json!({ "asks_leave_since": since, "unheard-of": [1] });
        std::fs::write(path.join("status.json"), standing.to_string()).unwrap();
    }

    /// Lets (paused) time pass until the standing looks so.
    async fn until_shown(
        &self,
        mut so: impl FnMut(&standing::Standing) -> bool,
    ) -> standing::Standing {
        let mut facts = self.fake.facts.subscribe();
        for _ in 0..1000 {
            let standing = self.standing();
            if so(&standing) {
                return standing;
            }
            facts.changed().await.unwrap();
        }
        panic!("it never came to that: {:?}", self.standing());
    }
}

fn in_group() -> Facts {
    Facts {
        instance_known: true,
        target: Some(Target::InService),
        phase: Some(Phase::PendingWait),
        healthy: true,
        ..Facts::default()
    }
}

fn verdict(facts: &Facts) -> Option<Verdict> {
    facts.record.as_ref().map(|record| record.verdict)
}

#[tokio::test(start_paused = true)]
async fn a_life_from_the_gate_to_the_end_of_the_box() {
    let house = House::open(in_group());
    let facts = house
        .until(|facts| facts.status.starts_with("serving"))
        .await;
    assert_eq!(facts.answers, [("in".to_owned(), "CONTINUE")]);
    let facts = house
        .until(|facts| verdict(facts) == Some(Verdict::Fit))
        .await;
    let record = facts.record.unwrap();
    assert_eq!(
        (record.image_id.as_str(), record.reason.as_str()),
        ("ami-1", "")
    );
    assert_eq!(record.services["orders"].version, "1.0.0");
    let standing = house.standing();
    assert_eq!(
        (standing.state.as_str(), standing.group.as_deref()),
        ("serving", Some("fleet"))
    );

    house.change(|facts| {
        facts.target = Some(Target::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
    house
        .until(|facts| facts.status.starts_with("draining"))
        .await;
    let facts = house.until(|facts| facts.status.starts_with("gone")).await;
    assert_eq!(facts.record, None);
    assert_eq!(facts.answers[1..], [("out".to_owned(), "CONTINUE")]);
    let facts = house.close().await;
    assert!(facts.stopping && facts.ready == 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_reachable_is_survived_with_readiness_and_watchdog_kept() {
    let house = House::open(Facts {
        api_down: true,
        ..Facts::default()
    });
    let facts = house.until(|facts| facts.pings > 100).await;
    assert_eq!(facts.ready, 1);
    assert!(
        facts.status.contains("waiting for the metadata service"),
        "{}",
        facts.status
    );
    house.change(|facts| {
        *facts = Facts {
            api_down: true,
            ..in_group()
        }
    });
    house
        .until(|facts| facts.status.starts_with("fit; waiting for the group"))
        .await;
    house.change(|facts| facts.api_down = false);
    house
        .until(|facts| verdict(facts) == Some(Verdict::Fit))
        .await;
    house.until(|facts| facts.answers.len() == 1).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_stops_neither_checks_nor_heartbeats_nor_the_end() {
    let house = House::open(in_group());
    *house.fake.stuck.lock().unwrap() = true;
    house
        .until(|facts| facts.beats > 5 && facts.pings > 50)
        .await;
    let record = house.fake.facts().record;
    let asked = Instant::now();
    let facts = house.close().await;
    assert!(facts.stopping);
    assert!(asked.elapsed() <= LAST_CALLS, "{:?}", asked.elapsed());
    assert_eq!(facts.record, record, "stopping removes nothing");
}

#[tokio::test(start_paused = true)]
async fn user_data_that_is_refused_abandons_the_launch_and_names_the_place() {
    let user_data = Some("#imagebuilder-agent\nimmage = \"x\"".to_owned());
    let house = House::open(Facts {
        user_data,
        ..in_group()
    });
    let facts = house
        .until(|facts| facts.record.is_some() && !facts.answers.is_empty())
        .await;
    assert_eq!(facts.answers, [("in".to_owned(), "ABANDON")]);
    let reason = facts.record.unwrap().reason;
    assert_eq!(
        reason,
        "settings refused: user data:2:1: unknown key `immage` hint: did you mean `image`?"
    );
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_mid_life_is_no_news() {
    let house = House::open(in_group());
    house
        .until(|facts| facts.status.starts_with("serving") && verdict(facts) == Some(Verdict::Fit))
        .await;
    let before = house.standing();
    let (dir, facts) = house.end().await;
    let record = facts.record.clone();

    // The metadata service is away at first; that the group still says Pending:Wait is its slowness.
    let house = House::open_in(
        dir,
        Facts {
            instance_known: false,
            phase: Some(Phase::PendingWait),
            status: String::new(),
            ..facts
        },
    );
    house
        .until(|facts| facts.status.contains("waiting for the metadata service"))
        .await;
    let shown = house.standing();
    assert_eq!(
        (shown.state.as_str(), shown.before.as_deref()),
        ("identifying", Some("serving"))
    );
    assert_eq!(
        (shown.verdict, &shown.since, &shown.services),
        (before.verdict, &before.since, &before.services)
    );
    // And once more, before the box was identified.
    let (dir, facts) = house.end().await;
    let house = House::open_in(
        dir,
        Facts {
            instance_known: true,
            status: String::new(),
            ..facts
        },
    );
    let facts = house
        .until(|facts| facts.status.starts_with("serving in group"))
        .await;
    assert_eq!(facts.record, record, "the record flapped");
    let shown = house.standing();
    assert_eq!((shown.verdict, shown.since), (before.verdict, before.since));
    let pings = facts.pings;
    let facts = house.until(|facts| facts.pings > pings + 100).await;
    assert_eq!(facts.answers.len(), 1, "the hook was answered again");
    // From here on the checks decide, as ever.
    house.change(|facts| facts.healthy = false);
    house
        .until(|facts| verdict(facts) == Some(Verdict::Unfit))
        .await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_past_of_another_box_or_half_a_file_is_none() {
    for spoil in [
        |text: String| text.replace("i-1", "i-2"),
        |text: String| text[..text.len() / 2].to_owned(),
        |text: String| text.replace("\"serving\"", "\"of another version\""),
    ] {
        let house = House::open(in_group());
        house
            .until(|facts| facts.status.starts_with("serving"))
            .await;
        let (dir, facts) = house.end().await;
        let path = dir.path().join(standing::FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, spoil(text)).unwrap();
        let house = House::open_in(
            dir,
            Facts {
                record: None,
                ..facts
            },
        );
        house
            .until(|facts| facts.status.starts_with("at the gate"))
            .await;
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn leave_to_be_restarted_follows_the_group_and_the_box() {
    let house = House::open(in_group());
    house
        .until(|facts| facts.status.starts_with("serving in group"))
        .await;
    let pings = house.fake.facts().pings;
    house.until(|facts| facts.pings > pings + 50).await;
    assert_eq!(house.fake.facts().refresh_questions, 0, "nobody wished");
    assert_eq!(house.standing().leave, None);

    house.change(|facts| facts.refresh = Some("r-1".into()));
    house.wish(Timestamp::now());
    let shown = house.until_shown(|shown| shown.leave.is_some()).await;
    let leave = shown.leave.unwrap();
    assert_eq!(
        (leave.granted, leave.reason.as_str()),
        (false, "refresh r-1 of group fleet is under way")
    );
    house.change(|facts| facts.refresh = None);
    house
        .until_shown(|shown| shown.leave.as_ref().is_some_and(|leave| leave.granted))
        .await;
    assert_eq!(house.fake.facts().refresh_questions, 2);

    house.change(|facts| {
        facts.target = Some(Target::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
    let shown = house
        .until_shown(|shown| shown.leave.as_ref().is_some_and(|leave| !leave.granted))
        .await;
    assert_eq!(shown.leave.unwrap().reason, "this box is leaving");
    std::fs::remove_file(house.dir.path().join("update/status.json")).unwrap();
    house.until_shown(|shown| shown.leave.is_none()).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_hibernated_warm_box_wakes_up_to_another_day_and_serves() {
    let house = House::open(Facts {
        target: Some(Target::Aside("Warmed:Hibernated".to_owned())),
        phase: Some(Phase::WarmPendingWait),
        ..in_group()
    });
    let facts = house
        .until(|facts| verdict(facts) == Some(Verdict::Resting) && !facts.answers.is_empty())
        .await;
    assert_eq!(
        facts.record.unwrap().reason,
        "in the warm pool (Warmed:Hibernated)"
    );
    house.change(|facts| {
        facts.slept = 86_400;
        facts.target = Some(Target::InService);
        facts.phase = Some(Phase::PendingWait);
    });
    let facts = house
        .until(|facts| verdict(facts) == Some(Verdict::Fit) && facts.answers.len() == 2)
        .await;
    assert_eq!(facts.answers, vec![("in".to_owned(), "CONTINUE"); 2]);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn notices_are_on_the_board() {
    let house = House::open(in_group());
    house
        .until(|facts| facts.status.starts_with("serving"))
        .await;
    house.change(|facts| facts.spot.rebalance = Some(Timestamp::UNIX_EPOCH));
    let board = || house.standing().notices;
    let pings = house.fake.facts().pings;
    house.until(|facts| facts.pings > pings + 20).await;
    assert_eq!(
        board(),
        ["rebalance recommended since 1970-01-01T00:00:00Z"]
    );
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_sick_service_is_restarted_by_request_and_the_fleet_decides_on_a_replacement() {
    let house = House::open(in_group());
    house
        .until(|facts| facts.status.starts_with("serving"))
        .await;
    let sick = r#"{"schema":1,"instance_id":"i-2","image_id":"a","verdict":"unfit","since":"","agent":""}"#;
    house.change(|facts| {
        facts.peer = Some(sick.to_owned());
        facts.healthy = false;
    });
    let facts = house
        .until(|facts| {
            facts
                .status
                .contains("2 of 2 other boxes looked at are sick as well")
        })
        .await;
    assert_eq!(facts.reports, 0);
    assert!(house.dir.path().join("restart/orders.service").exists());
    assert_eq!(house.standing().restarts["orders"], 1);
    house.change(|facts| facts.peer = Some(sick.replace("unfit", "fit")));
    house.until(|facts| facts.reports == 1).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_system_that_goes_down_is_told_and_nobody_is_sent_there_any_more() {
    let group = "arn:aws:elasticloadbalancing:r:1:targetgroup/ours/1";
    for (target, left) in [
        (Target::InService, Some(Verdict::Draining)),
        (Target::Terminated, None),
    ] {
        let user_data = format!("#imagebuilder-agent\nserving.target_groups = [\"{group}\"]");
        let house = House::open(Facts {
            user_data: Some(user_data),
            ..in_group()
        });
        house
            .until(|facts| facts.traffic.len() == 1 && verdict(facts) == Some(Verdict::Fit))
            .await;
        assert_eq!(house.standing().registered, [group]);
        house.change(|facts| {
            facts.shutting_down = true;
            facts.target = Some(target);
        });
        let facts = house.close().await;
        assert_eq!(verdict(&facts), left);
        assert_eq!(
            facts.traffic,
            [format!("in {group}"), format!("out {group}")]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_daemon_after_it_undoes_what_the_one_before_registered() {
    let group = "arn:aws:elasticloadbalancing:r:1:targetgroup/ours/1";
    let user_data = format!("#imagebuilder-agent\nserving.target_groups = [\"{group}\"]");
    let house = House::open(Facts {
        user_data: Some(user_data),
        ..in_group()
    });
    house.until(|facts| facts.traffic.len() == 1).await;
    house
        .until_shown(|shown| !shown.registered.is_empty())
        .await;
    let (dir, facts) = house.end().await;
    assert_eq!(
        facts.traffic.len(),
        1,
        "a restart of the daemon takes nothing out"
    );
    let house = House::open_in(dir, facts);
    house.until(|facts| facts.pings > 50).await;
    house.change(|facts| {
        facts.target = Some(Target::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
    let facts = house.until(|facts| facts.status.starts_with("gone")).await;
    assert_eq!(
        facts.traffic,
        [format!("in {group}"), format!("out {group}")]
    );
    house.close().await;
}
