//! A stable version that cannot run is stepped down from, in the end to the factory's.

use crate::container::{Container, Disk, FACTORY, STABLE, UPDATE, agent, digest, left_out};

/// What the updater of an instance keeps: these versions were confirmed, the last but one before the last.
fn remembers(disk: &Disk, confirmed: &[(&str, &str)]) {
    let builds: Vec<serde_json::Value> = confirmed
        .iter()
        .map(|(version, behaviour)| {
            serde_json::json!({"version": version, "digest": digest(&agent(version, behaviour))})
        })
        .collect();
    let previous = builds.iter().rev().nth(1);
    let state = serde_json::json!({
        "schema": 1, "instance_id": "i-1", "confirmed": builds, "previous": previous,
    });
    disk.file(
        "/var/lib/imagebuilder-update/state.json",
        &state.to_string(),
        0o600,
    );
    disk.file(
        "/etc/imagebuilder/update.json",
        r#"{"instance_id": "i-1"}"#,
        0o644,
    );
}

/// Makes a slot the stable one of a running instance, whose daemon is started anew.
fn make_stable(container: &Container, slot: &str) {
    container.point("stable", slot);
    container.run(&["systemctl", "restart", STABLE]);
}

/// The releases that are held responsible for not running as stable.
fn crashed(container: &Container) -> Vec<String> {
    let state = container
        .read("/var/lib/imagebuilder-update/state.json")
        .unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let failures = state["failures"].as_array().unwrap().iter();
    let crashed = failures.filter(|it| it["causes"]["crashed"]["count"] == 1);
    let version = |it: &serde_json::Value| it["build"]["version"].as_str().unwrap().to_owned();
    crashed.map(version).collect()
}

#[test]
fn a_boot_without_a_stable_slot_serves_from_the_factory() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    let slot = disk.slot("1.1.0", "good");
    let mut container = disk.boot();
    make_stable(&container, &slot);
    container.serves("1.1.0");
    container.ok(&["rm", "-r", &format!("/opt/imagebuilder-agent/{slot}")]);
    container.power_cut();
    container.boot();
    container.serves("1.0.0");
    assert_eq!(
        container.read("/run/imagebuilder/configured").as_deref(),
        Some("1.0.0\n"),
        "the services have no environment"
    );
    // At its first try: the services had waited for it, and would have started without.
    let log = container.journal();
    assert!(
        !log.contains("imagebuilder-agent-configure.service: Failed"),
        "{log}"
    );
    assert_eq!(
        container.leads("stable"),
        "/usr/lib/imagebuilder-agent/factory"
    );
}

#[test]
fn a_vanished_slot_is_replaced_at_the_next_start() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    let slot = disk.slot("1.1.0", "good");
    let container = disk.boot();
    make_stable(&container, &slot);
    container.serves("1.1.0");
    // The whole tree: also what no updater ever made can be made anew.
    container.ok(&["rm", "-r", "/opt/imagebuilder-agent"]);
    assert_eq!(container.serving().as_deref(), Some("1.1.0"));
    container.ok(&["systemctl", "kill", "--signal=KILL", STABLE]);
    container.serves("1.0.0");
    assert_eq!(
        container.leads("stable"),
        "/usr/lib/imagebuilder-agent/factory"
    );
}

#[test]
fn a_stable_version_that_fails_is_replaced_by_the_previous() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    let (good, bad) = (disk.slot("1.1.0", "good"), disk.slot("1.2.0", "crashes"));
    remembers(&disk, &[("1.1.0", "good"), ("1.2.0", "crashes")]);
    let container = disk.boot();
    make_stable(&container, &bad);
    container.serves("1.1.0");
    assert_eq!(container.leads("stable"), good);
    assert_eq!(crashed(&container), ["1.2.0"]);
}

#[test]
fn broken_stable_and_previous_versions_end_at_the_factory() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    let bad = disk.slot("1.2.0", "hangs");
    disk.slot("1.1.0", "crashes");
    // Ample for an agent that does get ready, which is started with the same.
    disk.drop_in(STABLE, "[Service]\nTimeoutStartSec=2\n");
    remembers(&disk, &[("1.1.0", "crashes"), ("1.2.0", "hangs")]);
    let container = disk.boot();
    container.ok(&["systemctl", "stop", STABLE]);
    container.point("stable", &bad);
    container.run(&["systemctl", "start", "--no-block", STABLE]);
    container.serves("1.0.0");
    assert_eq!(
        container.leads("stable"),
        "/usr/lib/imagebuilder-agent/factory"
    );
    let mut crashed = crashed(&container);
    crashed.sort();
    assert_eq!(crashed, ["1.1.0", "1.2.0"]);
    let log = container.log(FACTORY);
    for line in [
        "1.2.0 did not run as stable",
        "1.1.0 did not run as stable",
        "stable is now the factory's",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn without_a_working_agent_repairs_end_in_failed() {
    if left_out() {
        return;
    }
    let container = Disk::with_factory("crashes").boot();
    container.wait("the repairs to end", |it| {
        it.journal()
            .contains("imagebuilder-agent-factory.service: Start request repeated too quickly")
    });
    assert_eq!(container.state(STABLE).0, "failed");
    // The updater is still there for it.
    assert_ne!(container.state(UPDATE).0, "failed");
    assert_eq!(
        container.state("imagebuilder-agent-update.timer").0,
        "active"
    );
}
