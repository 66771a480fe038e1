//! Fuzz targets for every parser of what comes from outside: what others wrote, sent or left lying.
//!
//! As ordinary tests they take a second each, on mutated valid answers and on random bytes. As
//! `cargo bolero test fuzz::user_data` the same targets are driven by libFuzzer, AFL or honggfuzz; what
//! those find goes into `src/__fuzz__/` and is tried by every test run from then on.
//!
//! The property of all: no panic, no hang, nothing that grows beyond what came in.

use std::fs;

use agent_update::status::UpdaterStatus;
use bolero::check;
use contract::registry::Record;
use contract::release::Release;
use serde::Serialize;
use serde::de::DeserializeOwned;
use test_support::fuzz::{Mutation, mutated};

use crate::hooks::Phase;
use crate::identity::TargetState;
use crate::lifecycle::LifeStage;
use crate::metrics::Meter;
use crate::notice::{read_rebalance, read_schedule, read_spot};
use crate::settings::{Sources, USER_DATA_MARK};
use crate::status_file::{DaemonStatus, FILE};
use crate::update_permission;

/// Calls a parser with mutated texts.
fn with_text(seeds: &[&str], parse: impl Fn(&str) + std::panic::RefUnwindSafe) {
    with_bytes(seeds, |bytes| parse(&String::from_utf8_lossy(bytes)));
}

/// Calls a parser with mutated bytes, after the seeds as they are.
fn with_bytes(seeds: &[&str], parse: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for seed in seeds {
        parse(seed.as_bytes());
    }
    check!()
        .with_type::<Mutation>()
        .for_each(|mutation| parse(&mutated(seeds, mutation)));
}

/// What was understood is written and understood again, the same.
fn goes_round<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(read: &T) {
    let text = serde_json::to_string(read).expect("plain data");
    let again: T = serde_json::from_str(&text).expect(&text);
    assert_eq!(*read, again);
}

const SETTINGS: &str = r#"
image = "shop"
[gate]
passes = 2
interval_seconds = 1
[serving]
replace = false
[drain]
settle_seconds = 3
[hooks]
launch = "in"
[metrics]
listen = "127.0.0.1:9150"
cloudwatch_namespace = "shop/agents"
[update]
channel = "stable"
url = "https://updates.example.com/agent"
soak_seconds = 60
windows = ["Mon-Fri 09:00-16:00"]
[services.orders]
unit = "orders.service"
health_url = "http://127.0.0.1:8080/gtg"
version_url = "http://127.0.0.1:8080/version"
[services.orders.environment]
STORE = "a secret: Rosebud"
"#;

fn sources(dir: &tempfile::TempDir) -> Sources {
    Sources {
        file: dir.path().join("agent.toml"),
        drop_ins: dir.path().join("agent.d"),
    }
}

#[test]
fn settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let sources = sources(&dir);
    with_bytes(&[SETTINGS], |bytes| {
        fs::write(&sources.file, bytes).unwrap();
        if let Ok(settings) = sources.load(None) {
            assert!(!settings.services.is_empty());
            assert!(
                settings
                    .metrics
                    .listen
                    .is_none_or(|at| at.ip().is_loopback())
            );
        }
    });
}

#[test]
fn user_data() {
    let dir = tempfile::tempdir().unwrap();
    let sources = sources(&dir);
    fs::write(&sources.file, SETTINGS.replace("Rosebud", "x")).unwrap();
    let ours = format!("{USER_DATA_MARK}\n{SETTINGS}");
    with_text(&[&ours, "#cloud-config\nusers: []\n"], |text| {
        if let Err(error) = sources.load(Some(text)) {
            let message = format!("{error:#}");
            assert!(message.len() < 1000 + text.len(), "{message}");
            // Unless it became a key, which is printed.
            assert!(
                !message.contains("Rosebud") || message.contains("key"),
                "{message}"
            );
        }
    });
}

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn with_digest(text: &str) -> String {
    text.replace("DIGEST", DIGEST)
}

#[test]
fn updaters_status() {
    let status = with_digest(
        r#"{"phase": "waiting", "code": "expired", "channel": "stable",
        "stable": {"version": "1.2.0", "digest": "DIGEST"}, "position": 7, "metadata": [1, 2, 3, 4],
        "checked_at": "2026-11-21T09:00:00Z", "asks_leave_since": "2026-11-21T09:00:00Z"}"#,
    );
    let meter = Meter::default();
    with_text(&[&status], |text| {
        update_permission::requested_since(text);
        if let Ok(read) = serde_json::from_str::<UpdaterStatus>(text) {
            goes_round(&read);
            meter.set_updater_status(Some(read));
            let page = meter.exposition(jiff::Timestamp::UNIX_EPOCH);
            assert!(page.len() < 20_000 + 8 * text.len());
        }
    });
}

#[test]
fn daemons_status() {
    let dir = tempfile::tempdir().unwrap();
    let status = r#"{"agent": "0.1.0", "pid": 7, "started_at": "2026-11-21T09:00:00Z",
        "instance_id": "i-1", "image_id": "ami-1", "image": "shop", "group": "fleet", "state": "serving",
        "verdict": "fit", "reason": "", "since": "2026-11-21T09:00:00Z", "waiting_for": "serving",
        "services": {"orders": {"version": "1", "healthy": true, "detail": ""}}, "recorded": true,
        "restarts": {"orders": 1}, "leave": {"granted": true, "at": "2026-11-21T09:00:00Z"}}"#;
    with_bytes(&[status], |bytes| {
        fs::write(dir.path().join(FILE), bytes).unwrap();
        if let Some(read) = DaemonStatus::read_previous(dir.path()) {
            goes_round(&read);
            if let Some(previous) = read.previous_daemon(jiff::Timestamp::UNIX_EPOCH) {
                let state = read.before.as_ref().unwrap_or(&read.state);
                assert_eq!(
                    LifeStage::parse(state, previous.judgement.verdict),
                    Some(previous.stage)
                );
            }
        }
    });
}

#[test]
fn release_metadata() {
    let release = r#"{"schema": 1, "kind": "agent", "version": "1.2.0", "arch": "x86_64",
        "channels": {"stable": {"since": "2026-11-21T09:00:00Z",
            "waves": [{"percent": 5, "at": "2026-11-21T09:00:00Z"}]}},
        "min_from": "1.0.0", "floor": "1.0.0",
        "withdrawn": {"at": "2026-11-21T09:00:00Z", "reason": "x", "rollback_to": "1.1.0"}}"#;
    with_bytes(&[release], |bytes| {
        if let Ok(read) = serde_json::from_slice::<Release>(bytes) {
            let usable = read.check().is_ok();
            goes_round(&read);
            assert_eq!(read.check().is_ok(), usable);
        }
    });
}

#[test]
fn metadata_service() {
    let seeds = [
        r#"{"action": "terminate", "time": "2026-11-21T09:00:00Z"}"#,
        r#"{"noticeTime": "2026-11-21T09:00:00Z"}"#,
        r#"[{"NotBefore": "21 Jan 2099 09:00:43 GMT", "Code": "instance-stop", "Description": "x",
             "EventId": "instance-event-1", "State": "active"}]"#,
        "InService",
        "Warmed:Pending:Wait",
    ];
    with_text(&seeds, |text| {
        read_spot(text);
        read_rebalance(text);
        assert!(read_schedule(text).len() <= text.len());
        TargetState::parse(text);
        Phase::parse(text);
    });
}

#[test]
fn service_versions_and_records_of_others() {
    let record = r#"{"schema":1,"instance_id":"i-1","image_id":"ami-1","verdict":"fit","reason":"",
        "since":"2026-11-21T09:00:00Z","agent":"0.1.0","services":{}}"#;
    with_text(&["1.2.3\n", r#"{"version": "1.2.3"}"#, record], |text| {
        if let Ok(version) = crate::health::read_version(text) {
            assert!(version.len() <= text.len());
        }
        if let Ok(read) = serde_json::from_str::<Record>(text) {
            goes_round(&read);
        }
    });
}
