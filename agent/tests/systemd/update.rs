//! Whole updates by the real updater, from a signed channel in a folder: what is good becomes stable, and
//! whatever is not leaves the instance as it was.

use serde_json::{Value, json};

use crate::container::{Container, Disk, STABLE, TRIAL, UPDATE, agent, digest, left_out};
use crate::repository::{ROLES, Repository};

/// Where the channel is served.
const CHANNEL: &str = "/srv/channel";

/// A channel's releases, each by its version and behaviour.
fn channel(releases: &[(&str, &str)]) -> Repository {
    let mut channel = Repository::new();
    channel.targets.clear();
    for (version, behaviour) in releases {
        let name = channel.add_release(version, agent(version, behaviour).as_bytes());
        let arch = json!(std::env::consts::ARCH);
        channel.targets.get_mut(&name).unwrap()["custom"]["arch"] = arch;
    }
    for role in ROLES {
        // These containers have the real time.
        channel.role(role).expires = "2040-01-01T00:00:00Z".parse().unwrap();
    }
    channel.sign("root");
    channel.publish();
    channel
}

fn serve(disk: &Disk, channel: &Repository) {
    for (path, bytes) in &channel.files {
        let text = std::str::from_utf8(bytes).unwrap();
        disk.file(&format!("{CHANNEL}/{path}"), text, 0o644);
    }
}

/// An instance on 1.0.0 that follows a channel with these releases.
fn following(releases: &[(&str, &str)], soak: u32) -> Disk {
    follows(Disk::new(), releases, soak)
}

/// What `configure` hands on.
fn terms(soak: u32) -> Value {
    json!({"instance_id": "i-1", "channel": "stable", "url": format!("file://{CHANNEL}"),
           "soak_seconds": soak})
}

fn follows(disk: Disk, releases: &[(&str, &str)], soak: u32) -> Disk {
    let channel = channel(releases);
    serve(&disk, &channel);
    disk.file(
        "/usr/share/imagebuilder-agent/channel/root.json",
        std::str::from_utf8(channel.root()).unwrap(),
        0o644,
    );
    let terms = terms(soak).to_string();
    disk.file("/etc/imagebuilder/update.json", &terms, 0o644);
    disk
}

/// A soak that no trial comes to the end of: systemd ends one after a quarter of an hour.
const FOR_EVER: u32 = 3600;

/// One run of the updater, as its timer starts it; to its end.
fn update(container: &Container) {
    container.run(&["systemctl", "start", UPDATE]);
}

fn status(container: &Container) -> Value {
    let status = container.read("/run/imagebuilder-update/status.json");
    status.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

/// What failed here, by cause and with how often: `2.0.0 crashed 1`.
fn failures(container: &Container) -> Vec<String> {
    let failures = status(container)["failures"].clone();
    let mut lines = Vec::new();
    for it in failures.as_array().unwrap() {
        for (kind, count) in it["causes"].as_object().unwrap() {
            let version = it["build"]["version"].as_str().unwrap();
            lines.push(format!("{version} {kind} {}", count["count"]));
        }
    }
    lines
}

/// How often a trial was started in this boot.
fn trials(container: &Container) -> usize {
    container.log(TRIAL).matches(": Starting ").count()
}

#[test]
fn a_good_release_becomes_stable_and_can_update_again() {
    if left_out() {
        return;
    }
    let disk = following(&[("2.0.0", "good")], 3);
    let mut container = disk.boot();
    container.serves("1.0.0");
    update(&container);
    assert_eq!(
        container.serving().as_deref(),
        Some("2.0.0"),
        "{}",
        container.journal()
    );
    assert!(container.leads("stable").starts_with("versions/2.0.0-"));
    assert_eq!(container.leads("trial"), "");
    assert_eq!(container.state(TRIAL).0, "inactive");
    let seen = status(&container);
    assert_eq!(seen["phase"], "idle");
    assert_eq!(seen["stable"]["version"], "2.0.0");
    assert_eq!(
        container.ok(&["imagebuilder-agent", "--version"]),
        "imagebuilder-agent 2.0.0\n"
    );
    // It survives a power cut, and is the one that checks from now on.
    container.power_cut();
    container.boot();
    container.serves("2.0.0");
    let mut next = channel(&[("2.0.0", "good"), ("2.1.0", "good")]);
    next.next();
    for (path, bytes) in &next.files {
        container.write(&format!("{CHANNEL}/{path}"), bytes);
    }
    update(&container);
    assert_eq!(
        container.serving().as_deref(),
        Some("2.1.0"),
        "{}",
        container.journal()
    );
}

/// The instance stays on 1.0.0, and does not take this release again before a pause.
fn is_counted(behaviour: &str, trial: &str, tried: usize, kind: &str) {
    if left_out() {
        return;
    }
    // What ends by itself does so before the soak, however busy the container.
    let soak = if behaviour == "turns-blind" {
        1
    } else {
        FOR_EVER
    };
    let disk = following(&[("2.0.0", behaviour)], soak);
    disk.drop_in(TRIAL, trial);
    let container = disk.boot();
    container.serves("1.0.0");
    update(&container);
    container.serves("1.0.0");
    assert_eq!(
        container.leads("stable"),
        "/usr/lib/imagebuilder-agent/factory"
    );
    let counted = [format!("2.0.0 {kind} 1")];
    assert_eq!(failures(&container), counted, "{}", container.journal());
    assert_eq!(trials(&container), tried, "{}", container.journal());
    // A clean end may be an operator's stop: once more at once, and from then on later.
    let tried = if kind == "interrupted" {
        update(&container);
        assert_eq!(
            failures(&container),
            ["2.0.0 interrupted 2"],
            "{}",
            container.journal()
        );
        tried + 1
    } else {
        tried
    };
    container.serves("1.0.0");
    let daemon = container.show(STABLE)["MainPID"].clone();
    update(&container);
    assert_eq!(trials(&container), tried, "{}", container.journal());
    assert_eq!(container.show(STABLE)["MainPID"], daemon);
    assert_eq!(container.leads("trial"), "");
}

#[test]
fn a_release_that_crashes_at_once_is_counted() {
    is_counted("crashes", "", 1, "crashed");
}

#[test]
fn a_release_that_crashes_while_it_soaks_is_counted() {
    is_counted("crashes-later", "", 1, "crashed");
}

#[test]
fn a_release_that_ends_without_being_asked_is_counted() {
    is_counted("leaves", "", 1, "interrupted");
}

#[test]
fn a_release_that_never_gets_ready_is_counted() {
    is_counted("hangs", "[Service]\nTimeoutStartSec=1\n", 1, "crashed");
}

#[test]
fn a_release_that_misses_its_watchdog_is_counted() {
    is_counted("stalls", "[Service]\nWatchdogSec=1\n", 1, "crashed");
}

#[test]
fn a_release_that_cannot_update_never_gets_its_trial() {
    is_counted("blind", "", 0, "crashed");
}

#[test]
fn a_release_that_can_no_longer_update_is_not_confirmed() {
    is_counted("turns-blind", "", 1, "crashed");
}

#[test]
fn a_release_that_makes_the_service_fail_is_reverted() {
    is_counted("sickens", "", 1, "unhealthy");
}

#[test]
fn the_journal_has_reason_and_release_of_a_failed_run() {
    if left_out() {
        return;
    }
    let container = following(&[("2.0.0", "crashes")], 3).boot();
    container.serves("1.0.0");
    update(&container);
    container.write(&format!("{CHANNEL}/metadata/timestamp.json"), b"{}");
    update(&container);
    container.ok(&["journalctl", "--sync"]);
    let output = container.ok(&[
        "journalctl",
        "--boot",
        "--no-pager",
        "--output=json",
        "--priority=warning",
        "--unit",
        UPDATE,
        "SYSLOG_IDENTIFIER=imagebuilder-agent",
    ]);
    let reported: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|it: &Value| it["IMAGEBUILDER_CODE"].is_string())
        .collect();
    let [failed, refused] = &reported[..] else {
        panic!("{reported:#?}\n{}", container.journal())
    };
    assert_eq!(failed["PRIORITY"], "3");
    assert_eq!(failed["IMAGEBUILDER_VERSION"], "2.0.0");
    assert_eq!(
        failed["IMAGEBUILDER_DIGEST"],
        digest(&agent("2.0.0", "crashes"))
    );
    assert!(
        failed["IMAGEBUILDER_CODE"]
            .as_str()
            .unwrap()
            .starts_with("trial")
    );
    assert_eq!(refused["PRIORITY"], "4");
    assert_eq!(refused["IMAGEBUILDER_CODE"], "malformed");
}

#[test]
fn without_its_updater_a_trial_ends_and_is_retried() {
    if left_out() {
        return;
    }
    let container = following(&[("2.0.0", "good")], FOR_EVER).boot();
    container.serves("1.0.0");
    // The deadline is set short.
    let deadline = |drop_in: &str| {
        let path = format!("/run/systemd/system/{TRIAL}.d/deadline.conf");
        container.write(&path, drop_in.as_bytes());
        container.ok(&["systemctl", "daemon-reload"]);
    };
    for _ in 0..2 {
        container.run(&["systemctl", "start", "--no-block", UPDATE]);
        container.wait("the trial to soak", |it| {
            it.on_trial().is_some() && status(it)["phase"] == "trial"
        });
        container.ok(&["systemctl", "kill", "--signal=KILL", UPDATE]);
        container.wait("the updater to end", |it| it.state(UPDATE).0 == "failed");
        assert_eq!(container.on_trial().as_deref(), Some("2.0.0"));
        deadline("[Service]\nRuntimeMaxSec=1\n");
        container.serves("1.0.0");
        assert_eq!(container.state(TRIAL), ("failed".into(), "timeout".into()));
        deadline("");
    }
    // The second time it is tried later, and is never given up for it.
    update(&container);
    assert_eq!(
        failures(&container),
        ["2.0.0 interrupted 2"],
        "{}",
        container.journal()
    );
    assert_eq!(trials(&container), 2);
    assert_eq!(container.serving().as_deref(), Some("1.0.0"));
    // Until it is forgiven.
    let terms = terms(3).to_string();
    container.write("/run/imagebuilder/update.json", terms.as_bytes());
    container.ok(&["imagebuilder-agent", "update", "forgive", "2.0.0"]);
    update(&container);
    assert_eq!(
        container.serving().as_deref(),
        Some("2.0.0"),
        "{}",
        container.journal()
    );
}

#[test]
fn a_trial_that_a_power_cut_ended_is_tried_once_more() {
    if left_out() {
        return;
    }
    let mut container = following(&[("2.0.0", "good")], FOR_EVER).boot();
    container.serves("1.0.0");
    container.run(&["systemctl", "start", "--no-block", UPDATE]);
    container.wait("the trial to soak", |it| status(it)["phase"] == "trial");
    container.power_cut();
    container.boot();
    container.serves("1.0.0");
    let terms = terms(3).to_string();
    container.write("/run/imagebuilder/update.json", terms.as_bytes());
    update(&container);
    assert_eq!(
        container.serving().as_deref(),
        Some("2.0.0"),
        "{}",
        container.journal()
    );
}

/// Boots an instance on which nothing runs, and waits until systemd gave it up.
fn given_up(releases: &[(&str, &str)]) -> Container {
    let disk = follows(Disk::with_factory("crashes-until-well"), releases, 3);
    let container = disk.boot();
    container.wait("the repairs to end", |it| {
        it.journal()
            .contains("imagebuilder-agent-factory.service: Start request repeated too quickly")
    });
    assert_eq!(container.state(STABLE).0, "failed");
    container
}

#[test]
fn without_a_working_agent_a_working_release_is_taken() {
    if left_out() {
        return;
    }
    let container = given_up(&[("2.0.0", "good")]);
    update(&container);
    assert_eq!(
        container.serving().as_deref(),
        Some("2.0.0"),
        "{}",
        container.journal()
    );
}

#[test]
fn every_run_starts_a_given_up_agent_again() {
    if left_out() {
        return;
    }
    let container = given_up(&[]);
    container.write("/etc/well", b"");
    update(&container);
    container.serves("1.0.0");
}
