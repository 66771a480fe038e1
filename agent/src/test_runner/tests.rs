//! Tests of an image as processes: passing, failing, hanging, noisy, and those that cannot be run.

use std::collections::BTreeMap;
use std::fs;

use contract::registry::Service;

use super::*;

/// The user that runs this.
fn me() -> String {
    let id = std::process::Command::new("id")
        .arg("-un")
        .output()
        .unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

fn shell(script: &str, timeout_seconds: u64) -> serde_json::Value {
    let command = ["/bin/sh", "-c", script];
    serde_json::json!({"command": command, "timeout_seconds": timeout_seconds, "user": me()})
}

fn set_status(dir: &Path, healthy: bool) {
    let service = Service {
        version: String::new(),
        healthy,
        detail: String::new(),
    };
    let waits = Service {
        healthy: false,
        ..service.clone()
    };
    let services = BTreeMap::from([("db".to_owned(), service), ("test.x".to_owned(), waits)]);
    let status = DaemonStatus {
        services,
        ..DaemonStatus::default()
    };
    let text = serde_json::to_string(&status).unwrap();
    fs::write(dir.join(crate::status_file::FILE), text).unwrap();
}

/// The results of these tests, by name.
async fn results(tests: &[(&str, serde_json::Value)]) -> BTreeMap<String, Option<String>> {
    let dir = tempfile::tempdir().unwrap();
    let named = tests.iter().map(|(name, test)| {
        let mut test = test.clone();
        test["name"] = (*name).into();
        test
    });
    let list = serde_json::json!({"schema": 1, "tests": named.collect::<Vec<_>>()});
    let (path, results) = (
        dir.path().join("tests.json"),
        dir.path().join("results.json"),
    );
    fs::write(&path, list.to_string()).unwrap();
    set_status(dir.path(), true);
    run(&path, dir.path(), &results).await.unwrap();
    let found: Results = serde_json::from_str(&fs::read_to_string(&results).unwrap()).unwrap();
    assert!(found.done);
    found.tests
}

#[tokio::test]
async fn each_test_has_its_result_with_the_end_of_its_output() {
    let mut nobody = shell("true", 60);
    nobody["user"] = "no-such-user".into();
    let missing =
        serde_json::json!({"command": ["/no/such/program"], "timeout_seconds": 60, "user": me()});
    let found = results(&[
        ("passing", shell("echo fine; exit 0", 60)),
        (
            "failing",
            shell("echo one; echo two >&2; sleep 0.2; echo three; exit 3", 60),
        ),
        ("hanging", shell("echo before; sleep 1000 & sleep 1000", 1)),
        (
            "noisy",
            shell(
                "yes 0123456789 | head -c 1000000; echo; echo last; exit 1",
                60,
            ),
        ),
        ("killed", shell("kill -9 $$", 60)),
        ("nobody", nobody),
        ("missing", missing),
    ])
    .await;
    for (name, want) in [
        ("failing", "failed: exited with 3: one | two | three"),
        ("hanging", "failed: did not end within 1 s: before"),
        ("killed", "failed: was killed by signal 9"),
        (
            "nobody",
            "failed: this image has no user no-such-user: add [image.users.no-such-user]",
        ),
        ("missing", "failed: cannot run /no/such/program as "),
    ] {
        let why = found[name].as_deref().unwrap();
        assert!(why.starts_with(want), "{name}: {why}");
    }
    assert_eq!(found["passing"], None);
    let noise = found["noisy"].as_deref().unwrap();
    assert!(
        noise.starts_with("failed: exited with 1: ") && noise.ends_with(" | last"),
        "{noise}"
    );
    assert!(noise.chars().count() <= ALL_RESULTS / 7, "{noise}");
}

/// What a test wrote and left running: the result does not wait for it.
#[tokio::test]
async fn what_a_test_leaves_behind_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 1000 & echo $! >{}", pid.display());
    assert_eq!(
        results(&[("leaving", shell(&script, 60))]).await["leaving"],
        None
    );
    let pid = fs::read_to_string(pid).unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // Killed, and then reaped by whatever adopted it.
    while !state().is_empty() && !state().contains(") Z ") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn tests_wait_until_the_services_pass() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!services_pass(dir.path()), "without a status");
    set_status(dir.path(), false);
    assert!(!services_pass(dir.path()));
    set_status(dir.path(), true);
    assert!(services_pass(dir.path()), "tests do not count");
}
