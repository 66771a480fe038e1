//! The built binary with a cloud on loopback: every subcommand, over HTTP.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;
#[path = "wire/leaving.rs"]
mod leaving;
#[path = "wire/machine.rs"]
mod machine;
#[path = "wire/places.rs"]
mod places;
#[path = "wire/proxied.rs"]
mod proxied;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use cloud::{Cloud, Health};
use contract::registry::{Record, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

/// How long anything is waited for: more than the slowest host needs, and than the minute within which
/// the agent spreads what it has to say to the registry.
const PATIENCE: Duration = Duration::from_secs(180);

/// A service may take five seconds to answer, which one on a busy host may need.
const GATE: &str = "[gate]\npasses = 1\ninterval_seconds = 8\ndeadline_seconds = 120\n";

/// An instance with settings on disk and a cloud around it.
struct Box {
    cloud: Cloud,
    dir: tempfile::TempDir,
}

impl Box {
    async fn new(extra: &str) -> Self {
        let cloud = Cloud::open().await;
        let dir = tempfile::tempdir().unwrap();
        let url = &cloud.url;
        let settings = format!(
            "image = \"shop\"\n{GATE}[drain]\nsettle_seconds = 0\n\
             [services.orders]\nunit = \"orders.service\"\nhealth_url = \"{url}/gtg\"\n\
             version_url = \"{url}/version\"\n[services.orders.environment]\nSTORE = \"image\"\n{extra}"
        );
        fs::write(dir.path().join("agent.toml"), settings).unwrap();
        Self { cloud, dir }
    }

    /// Changes the settings.
    fn reset(&self, change: impl FnOnce(String) -> String) {
        let path = self.dir.path().join("agent.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, change(text)).unwrap();
    }

    /// Closes the gate early: for an instance that is sick, since a well one on a busy host may need more.
    fn gate_closes_after(&self, seconds: u32) {
        let closes = format!("deadline_seconds = {seconds}");
        self.reset(|text| text.replace("deadline_seconds = 120", &closes));
    }

    /// The agent without this host's own AWS configuration.
    fn agent(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebuilder-agent"));
        let run_dir = self.dir.path().join("run");
        fs::create_dir_all(&run_dir).unwrap();
        command
            .args(arguments)
            .env_clear()
            .env("AWS_ENDPOINT_URL", &self.cloud.url)
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.cloud.url)
            .env(
                "IMAGEBUILDER_AGENT_SETTINGS",
                self.dir.path().join("agent.toml"),
            )
            .env(
                "IMAGEBUILDER_AGENT_DROP_INS",
                self.dir.path().join("agent.d"),
            )
            .env("IMAGEBUILDER_AGENT_RUN_DIR", &run_dir)
            .env("IMAGEBUILDER_AGENT_STATUS_DIR", &run_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn output(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.agent(arguments).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join("run").join(name)).unwrap()
    }

    fn record(&self) -> Option<Record> {
        let facts = self.cloud.facts();
        let json = facts
            .parameters
            .get("/imagebuilder/shop/instances/i-0abc")?;
        Some(serde_json::from_str(json).unwrap())
    }

    /// Waits until the daemon's status fulfils the condition.
    async fn until_shown(&self, so: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let path = self.dir.path().join("run/status.json");
        let look = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()
        };
        let patience = tokio::time::Instant::now() + PATIENCE;
        loop {
            let shown = look();
            if so(&shown) {
                return shown;
            }
            assert!(
                tokio::time::Instant::now() < patience,
                "it never came to that: {shown:#}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_verdict(&self, verdict: Verdict) -> Record {
        self.cloud
            .until(|_| {
                self.record()
                    .is_some_and(|record| record.verdict == verdict)
            })
            .await;
        self.record().unwrap()
    }
}

async fn line(child: &mut Child) -> String {
    let mut line = String::new();
    let reading = BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .await;
    reading.unwrap();
    line
}

/// Whether a line reports that the instance is fit; a version that a busy host held up is reported later.
fn reports_fit(line: &str) -> bool {
    let fit = "imagebuilder-agent: fit i-0abc: orders";
    [fit, &format!("{fit} 1.2.3")].contains(&line.trim_end())
}

fn kill(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// Stops the daemon as systemd does and returns its exit code and its log.
async fn stop(mut child: Child) -> (Option<i32>, String) {
    kill(&child);
    let mut log = String::new();
    child
        .stderr
        .as_mut()
        .unwrap()
        .read_to_string(&mut log)
        .await
        .unwrap();
    (child.wait().await.unwrap().code(), log)
}

#[tokio::test]
async fn an_instance_in_a_group_is_judged_admitted_and_released() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
        facts
            .faults
            .insert("PutParameter", (1, "ThrottlingException"));
        facts
            .faults
            .insert("CompleteLifecycleAction", (1, "Throttling"));
        facts
            .faults
            .insert("DescribeAutoScalingInstances", (1, "InternalFailure"));
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let reported = line(&mut agent).await;
    assert!(reports_fit(&reported), "{reported}");
    let record = house.until_verdict(Verdict::Fit).await;
    assert_eq!(record.image_id, "ami-0abc");
    house
        .cloud
        .until(|_| {
            let record = house.record();
            record.is_some_and(|record| record.services["orders"].version == "1.2.3")
        })
        .await;
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("InService"))
        .await;
    assert_eq!(facts.calls, ["CompleteLifecycleAction in CONTINUE"]);

    let (code, json, _) = house.output(&["status", "--json"]).await;
    assert_eq!(code, Some(0), "{json}");
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&status["verdict"], &status["group"]),
        (&"fit".into(), &"fleet".into())
    );

    house.cloud.change(|facts| {
        facts.target = Some("Terminated");
        facts.lifecycle = Some("Terminating:Wait");
    });
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("Terminating:Proceed"))
        .await;
    assert_eq!(
        facts.calls[1..],
        ["DeleteParameter", "CompleteLifecycleAction out CONTINUE"]
    );
    assert!(facts.parameters.is_empty());
    let (code, log) = stop(agent).await;
    assert_eq!(code, Some(0));
    assert!(!facts.ipv1_asked, "IMDSv1 was asked");
    for secret in ["s3cr3t-of-the-instance", "t0k3n-of-the-instance"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn updates_are_permitted_only_between_refreshes() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("InService");
        facts.refresh = Some("RollbackInProgress");
    });
    let update = house.dir.path().join("update");
    fs::create_dir_all(&update).unwrap();
    let wish = || {
        let since = jiff::Timestamp::now();
        fs::write(
            update.join("status.json"),
            serde_json::json!({ "asks_leave_since": since }).to_string(),
        )
        .unwrap();
    };
    wish();
    let daemon = || {
        let mut command = house.agent(&["run"]);
        command.env("IMAGEBUILDER_AGENT_UPDATE_DIR", &update);
        command
    };
    let agent = daemon().spawn().unwrap();
    let first = agent.id();
    let granted = |shown: &serde_json::Value| shown["leave"]["granted"].as_bool();
    // Before the gate "not in service yet" is the answer; then the group decides.
    let shown = house
        .until_shown(|shown| shown["leave"]["reason"] == "refresh r-1 of group fleet is under way")
        .await;
    assert_eq!(granted(&shown), Some(false));
    assert_eq!(shown["pid"].as_u64(), first.map(u64::from));
    house.until_verdict(Verdict::Fit).await;
    stop(agent).await;

    house.cloud.change(|facts| {
        facts.refresh = Some("RollbackSuccessful");
        facts.parameters.clear();
    });
    let mut agent = daemon().spawn().unwrap();
    let again = house
        .until_shown(|shown| granted(shown) == Some(true))
        .await;
    assert_eq!(again["pid"].as_u64(), agent.id().map(u64::from));
    assert_eq!(
        (&again["state"], &again["since"]),
        (&"serving".into(), &shown["since"])
    );
    assert!(house.cloud.facts().calls.is_empty());
    assert!(house.record().is_none(), "the record was written again");
    agent.kill().await.unwrap();
}

#[tokio::test]
async fn metrics_are_served_on_loopback() {
    let house = Box::new("[metrics]\nlisten = \"127.0.0.1:0\"\n").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
        facts
            .faults
            .insert("PutParameter", (9, "AccessDeniedException"));
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let mut log = BufReader::new(agent.stderr.take().unwrap()).lines();
    let address = loop {
        let line = log.next_line().await.unwrap().unwrap();
        if let Some((_, address)) = line.split_once("metrics on http://") {
            break address.trim_end_matches("/metrics").to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    house
        .cloud
        .until(|facts| facts.lifecycle == Some("InService"))
        .await;
    house
        .until_shown(|shown| {
            let version = &shown["services"]["orders"]["version"];
            shown["state"] == "serving" && version == "1.2.3"
        })
        .await;
    // The second call comes when the first is counted.
    house
        .cloud
        .until(|facts| facts.faults["PutParameter"].0 < 8)
        .await;
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    for line in [
        "imagebuilder_agent_verdict{verdict=\"fit\"} 1",
        "imagebuilder_agent_state_info{state=\"serving\"} 1",
        "imagebuilder_agent_service_info{service=\"orders\",version=\"1.2.3\"} 1",
        "imagebuilder_agent_hook_answers_total{answer=\"CONTINUE\",outcome=\"accepted\"} 1",
        "imagebuilder_agent_api_calls_total{call=\"CompleteLifecycleAction\"} 1",
    ] {
        assert!(
            text.lines().any(|reported| reported == line),
            "{line} in {text}"
        );
    }
    let denied = "imagebuilder_agent_api_errors_total{call=\"PutParameter\",kind=\"denied\"}";
    assert!(text.contains(denied), "{text}");
    agent.kill().await.unwrap();
}

#[tokio::test]
async fn all_services_must_be_fit_and_each_has_its_detail() {
    let house = Box::new("").await;
    let url = &house.cloud.url;
    let more = format!(
        "[serving]\ninterval_seconds = 4\nfailures = 3\npasses = 1\n\
         [services.proxy]\nunit = \"nginx.service\"\nhealth_url = \"{url}/services/proxy\"\n\
         [services.search]\nhealth_url = \"{url}/services/search\"\n"
    );
    let gate = "passes = 2\ninterval_seconds = 4\n";
    house.reset(|text| text.replace("passes = 1\ninterval_seconds = 8\n", gate) + &more);
    house.cloud.change(|facts| {
        facts.services = [("proxy", Health::Fit), ("search", Health::Slow)].into();
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    let slow = "at the gate: search.service: no answer within 3.0 s";
    let shown = house
        .until_shown(|shown| {
            // A late version is reported by the next round.
            shown["waiting_for"] == slow && shown["services"]["orders"]["version"] != ""
        })
        .await;
    assert_eq!(shown["verdict"], "judging");
    for (name, healthy, version) in [
        ("orders", true, "1.2.3"),
        ("proxy", true, ""),
        ("search", false, ""),
    ] {
        let service = &shown["services"][name];
        assert_eq!(
            (&service["healthy"], &service["version"]),
            (&healthy.into(), &version.into()),
            "{name}"
        );
    }
    house.cloud.change(|facts| {
        facts.services.insert("search", Health::Fit);
    });
    house.until_shown(|shown| shown["state"] == "serving").await;

    // Ill every other time is not ill three times in a row.
    house.cloud.change(|facts| {
        facts.services.insert("proxy", Health::Flapping);
        facts.asked.clear();
    });
    house
        .cloud
        .until(|facts| facts.asked.get("proxy").is_some_and(|asked| *asked >= 6))
        .await;
    let shown = house.until_shown(|shown| shown["state"] == "serving").await;
    assert_eq!(shown["verdict"], "fit");

    house.cloud.change(|facts| {
        facts.services.insert("proxy", Health::Sick);
    });
    let shown = house.until_shown(|shown| shown["verdict"] == "unfit").await;
    let reason = shown["reason"].as_str().unwrap();
    let why = "nginx.service: /services/proxy answered 503 Service Unavailable";
    assert!(reason.contains(why), "{reason}");
    stop(agent).await;
}

#[tokio::test]
async fn an_unfit_instance_abandons_its_launch_with_a_reason() {
    let house = Box::new("").await;
    // Time for a first check in any case: its answer is the reason.
    house.gate_closes_after(30);
    house.cloud.change(|facts| {
        facts.healthy = false;
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let why = "not fit within 30 s: orders.service: /gtg answered 503 Service Unavailable";
    assert_eq!(
        line(&mut agent).await,
        format!("imagebuilder-agent: unfit i-0abc: {why}\n")
    );
    let facts = house.cloud.until(|facts| !facts.calls.is_empty()).await;
    assert_eq!(facts.calls, ["CompleteLifecycleAction in ABANDON"]);
    assert_eq!(house.until_verdict(Verdict::Unfit).await.reason, why);
    let (code, screen, _) = house.output(&["status"]).await;
    assert_eq!(code, Some(3));
    assert!(screen.starts_with("verdict   unfit\n"), "{screen}");
}

#[tokio::test]
async fn without_a_group_it_recovers_and_sigterm_removes_nothing() {
    let house = Box::new("[serving]\npasses = 1\ninterval_seconds = 1\n").await;
    house.gate_closes_after(10);
    house.cloud.change(|facts| facts.healthy = false);
    let agent = house.agent(&["run"]).spawn().unwrap();
    house.until_verdict(Verdict::Unfit).await;
    house.cloud.change(|facts| facts.healthy = true);
    // The record follows within a minute.
    house.until_shown(|shown| shown["verdict"] == "fit").await;
    let (code, log) = stop(agent).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(house.record().is_some() && house.cloud.facts().calls.is_empty());
}

#[tokio::test]
async fn a_warm_instance_is_prepared_and_serves_after_its_start() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("Warmed:Stopped");
        facts.lifecycle = Some("Warmed:Pending:Wait");
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    assert_eq!(
        line(&mut agent).await,
        "imagebuilder-agent: resting i-0abc: in the warm pool (Warmed:Stopped)\n"
    );
    house
        .cloud
        .until(|facts| facts.lifecycle == Some("Warmed:Stopped"))
        .await;
    house.until_verdict(Verdict::Resting).await;
    stop(agent).await;
    assert_eq!(house.record().unwrap().verdict, Verdict::Resting);
    fs::remove_dir_all(house.dir.path().join("run")).unwrap();

    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("InService"))
        .await;
    assert_eq!(facts.calls, ["CompleteLifecycleAction in CONTINUE"; 2]);
    house.until_verdict(Verdict::Fit).await;
    stop(agent).await;
}

#[tokio::test]
async fn a_root_volume_replacement_records_the_new_image() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("InService");
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    assert_eq!(house.until_verdict(Verdict::Fit).await.image_id, "ami-0abc");
    stop(agent).await;
    house.gate_closes_after(10);
    // The same instance boots from another image: its runtime directory is new, the record is not.
    fs::remove_dir_all(house.dir.path().join("run")).unwrap();
    house.cloud.change(|facts| {
        facts.image = "ami-0def";
        facts.healthy = false;
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    house
        .cloud
        .until(|_| {
            house
                .record()
                .is_some_and(|record| record.image_id == "ami-0def")
        })
        .await;
    assert_ne!(house.record().unwrap().verdict, Verdict::Fit);
    house.cloud.change(|facts| facts.healthy = true);
    let shown = house.until_shown(|shown| shown["verdict"] == "fit").await;
    assert_eq!(shown["image_id"], "ami-0def");
    stop(agent).await;
}

#[tokio::test]
async fn a_spot_notice_drains_the_instance_and_removes_its_record() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("InService");
        let event = r#"[{"NotBefore":"21 Jan 2099 09:00:43 GMT","Code":"instance-stop",
            "Description":"x","EventId":"instance-event-1","State":"active"}]"#;
        facts
            .leaves
            .insert("events/maintenance/scheduled", event.to_owned());
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    house.until_verdict(Verdict::Fit).await;
    house.cloud.change(|facts| {
        let notice = r#"{"action":"terminate","time":"2099-01-01T00:00:00Z"}"#;
        facts
            .leaves
            .insert("spot/instance-action", notice.to_owned());
    });
    house.cloud.until(|facts| facts.parameters.is_empty()).await;
    kill(&agent);
    let mut reported = String::new();
    let stdout = agent.stdout.as_mut().unwrap();
    stdout.read_to_string(&mut reported).await.unwrap();
    let mut lines: Vec<&str> = reported.lines().collect();
    // Schedule and services are asked at the same time.
    lines[..2].sort_unstable();
    assert!(reports_fit(lines[0]), "{lines:?}");
    assert_eq!(
        lines[1..],
        [
            "imagebuilder-agent: notice i-0abc: scheduled event instance-stop (instance-event-1) not before \
             2099-01-21T09:00:43Z",
            "imagebuilder-agent: notice i-0abc: Spot interruption: terminate at 2099-01-01T00:00:00Z",
            "imagebuilder-agent: draining i-0abc: Spot interruption: terminate at 2099-01-01T00:00:00Z",
        ]
    );
}

#[tokio::test]
async fn a_replacement_is_requested_only_in_a_healthy_fleet() {
    // Three in a row, so that an answer that a busy host held up is not an illness.
    let serving = "[serving]\nfailures = 3\ninterval_seconds = 2\nreplace_after_seconds = 10\n";
    let house = Box::new(serving).await;
    let peer = |verdict: &str| {
        format!(
            r#"{{"schema":1,"instance_id":"i-0def","image_id":"a","verdict":"{verdict}","since":"","agent":""}}"#
        )
    };
    let name = "/imagebuilder/shop/instances/i-0def";
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("InService");
        facts.parameters.insert(name.to_owned(), peer("unfit"));
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    house.until_verdict(Verdict::Fit).await;
    house.cloud.change(|facts| facts.healthy = false);
    house.until_verdict(Verdict::Unfit).await;
    assert!(house.dir.path().join("run/restart/orders.service").exists());
    let mut reported = BufReader::new(agent.stdout.as_mut().unwrap()).lines();
    let held = loop {
        let line = reported.next_line().await.unwrap().unwrap();
        if line.contains("notice") {
            break line;
        }
    };
    assert!(
        held.ends_with(
            "does not ask to be replaced: 1 of 2 other instances checked are unfit as well"
        ),
        "{held}"
    );
    assert!(house.cloud.facts().calls.is_empty());
    kill(&agent);
    agent.wait().await.unwrap();

    // The daemon after it goes on from there, in a fleet that is well again.
    house.cloud.change(|facts| {
        facts.parameters.insert(name.to_owned(), peer("fit"));
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    let facts = house.cloud.until(|facts| !facts.calls.is_empty()).await;
    assert_eq!(facts.calls, ["SetInstanceHealth Unhealthy"]);
    stop(agent).await;
}

#[tokio::test]
async fn the_root_face_restarts_what_the_image_lists_and_nothing_else() {
    let house = Box::new("").await;
    let requests = house.dir.path().join("run/restart");
    fs::create_dir_all(&requests).unwrap();
    for unit in ["orders.service", "sshd.service"] {
        fs::write(requests.join(unit), "").unwrap();
    }
    let state = house.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let (state, echo) = (state.to_str().unwrap(), "/bin/echo");
    let face = ["restart-requested", "--state", state, "--systemctl", echo];
    let (code, _, log) = house.output(&face).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("restarting orders.service"), "{log}");
    assert!(log.contains("not restarting sshd.service"), "{log}");
}

#[tokio::test]
async fn systemd_is_notified_of_readiness_status_and_watchdog() {
    let house = Box::new("").await;
    let socket = house.dir.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    let agent = house
        .agent(&["run"])
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "1500000")
        .spawn()
        .unwrap();
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    let enough = |heard: &[String]| {
        heard
            .iter()
            .filter(|reported| *reported == "WATCHDOG=1")
            .count()
            >= 6
            && ["READY=1", "STATUS=serving, in no group"]
                .iter()
                .all(|wanted| heard.iter().any(|reported| reported == wanted))
    };
    while !enough(&heard) {
        let reported = tokio::time::timeout(PATIENCE, systemd.recv(&mut buffer)).await;
        let length = reported
            .unwrap_or_else(|_| panic!("no more than {heard:?}"))
            .unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        heard.extend(text.lines().map(str::to_owned));
    }
    stop(agent).await;
}

#[tokio::test]
async fn configure_takes_user_data_from_the_metadata_service() {
    let house = Box::new("").await;
    let data = "#imagebuilder-agent\nservices.orders.environment.STORE = \"s3://hush-hush\"\n";
    house
        .cloud
        .change(|facts| facts.user_data = Some(data.into()));
    let (code, out, log) = house.output(&["configure"]).await;
    assert_eq!((code, out.as_str()), (Some(0), ""), "{log}");
    assert!(
        house
            .file("orders.env")
            .ends_with("\nSTORE=\"s3://hush-hush\"\n")
    );
    assert!(!log.contains("hush-hush"), "{log}");
    let path = house.dir.path().join("run/orders.env");
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[tokio::test]
async fn configure_ignores_foreign_user_data_and_missing_metadata() {
    let house = Box::new("").await;
    let gzip = vec![0x1f, 0x8b, 0x08, 0x00, 0xff, 0xfe];
    for (row, foreign) in [
        ("gzip", gzip),
        ("cloud-config", b"#cloud-config\nusers: []\n".to_vec()),
    ] {
        house.cloud.change(|facts| facts.user_data = Some(foreign));
        let (code, _, log) = house.output(&["configure"]).await;
        assert_eq!(code, Some(0), "{row}: {log}");
        assert!(
            house.file("orders.env").ends_with("\nSTORE=\"image\"\n"),
            "{row}"
        );
    }
    let unreachable = house
        .agent(&["configure", "--patience", "1"])
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
        .output();
    assert_eq!(unreachable.await.unwrap().status.code(), Some(0));
}

#[tokio::test]
async fn refused_settings_exit_with_two_and_the_error() {
    let house = Box::new("").await;
    house
        .cloud
        .change(|facts| facts.user_data = Some(b"#imagebuilder-agent\n[gat]\n".to_vec()));
    let (code, _, log) = house.output(&["configure"]).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("user data:2:2: unknown key `gat`"), "{log}");
    assert!(log.contains("hint: did you mean `gate`?"), "{log}");
    fs::remove_file(house.dir.path().join("agent.toml")).unwrap();
    let (code, _, log) = house.output(&["configure"]).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("agent.toml: no such file"), "{log}");
}

#[tokio::test]
async fn status_without_a_daemon_is_an_error() {
    let house = Box::new("").await;
    let (code, out, log) = house.output(&["status"]).await;
    let screen = "updates   the updater has not run yet\n";
    assert_eq!((code, out.as_str()), (Some(3), screen));
    let (code, json, _) = house.output(&["status", "--json"]).await;
    assert_eq!(
        (code, json.as_str()),
        (Some(3), "{\n  \"update\": null\n}\n")
    );
    assert!(log.contains("the agent is not running here"), "{log}");
    assert!(!Path::new(&house.dir.path().join("run/status.json")).exists());
}
