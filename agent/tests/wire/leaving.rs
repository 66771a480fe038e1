//! Load balancers that the agent keeps its instance in, and the ways out, over the wire.

use test_support::write_program;

use super::*;

const GROUP: &str =
    "arn:aws:elasticloadbalancing:eu-west-3:123456789012:targetgroup/ours/0123456789abcdef";

fn with_target_group() -> String {
    format!("[serving]\ntarget_groups = [\"{GROUP}\"]\n")
}

fn traffic(calls: &[String]) -> Vec<&str> {
    let some = calls.iter().filter(|call| call.contains("Targets"));
    some.map(String::as_str).collect()
}

#[tokio::test]
async fn the_instance_is_deregistered_before_its_hook_is_answered() {
    let house = Box::new(&with_target_group()).await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
        facts.faults.insert("RegisterTargets", (1, "Throttling"));
        facts
            .faults
            .insert("DeregisterTargets", (1, "InternalFailure"));
        // Not retried within the call: the daemon calls again.
        facts
            .faults
            .insert("DeleteParameter", (1, "ThrottlingException"));
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    house.cloud.until(|facts| facts.in_target_group).await;
    house.cloud.change(|facts| {
        facts.target = Some("Terminated");
        facts.lifecycle = Some("Terminating:Wait");
    });
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("Terminating:Proceed"))
        .await;
    assert_eq!(
        facts.calls,
        [
            "CompleteLifecycleAction in CONTINUE",
            "RegisterTargets",
            "DeregisterTargets",
            "DeleteParameter",
            "CompleteLifecycleAction out CONTINUE"
        ]
    );
    let (code, log) = stop(agent).await;
    assert_eq!(code, Some(0));
    assert!(
        log.contains("cannot register with")
            && log.contains("answered 400 Throttling: Rate exceeded")
            && log.contains("answered 400 ThrottlingException: Rate exceeded"),
        "{log}"
    );
    for secret in ["s3cr3t-of-the-instance", "t0k3n-of-the-instance"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn a_target_group_of_the_group_is_left_alone() {
    let house = Box::new(&with_target_group()).await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("InService");
        facts.attached = Some(GROUP);
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let mut reported = BufReader::new(agent.stdout.as_mut().unwrap()).lines();
    let left_alone = loop {
        let line = reported.next_line().await.unwrap().unwrap();
        if line.contains("notice") {
            break line;
        }
    };
    assert!(
        left_alone.ends_with("the agent does not manage it"),
        "{left_alone}"
    );
    house.cloud.change(|facts| {
        facts.target = Some("Terminated");
        facts.lifecycle = Some("Terminating:Wait");
    });
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("Terminating:Proceed"))
        .await;
    assert!(traffic(&facts.calls).is_empty(), "{:?}", facts.calls);
    kill(&agent);
    agent.wait().await.unwrap();
}

/// A `systemctl` with this system state.
fn systemctl(house: &Box, state: &str) -> std::path::PathBuf {
    let bin = house.dir.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join("systemctl");
    write_program(&path, &format!("#!/bin/sh\necho {state}\nexit 1\n"));
    bin
}

#[tokio::test]
async fn a_shutdown_without_a_hook_updates_record_and_targets() {
    for (target, state, left) in [
        ("InService", "running", Some(Verdict::Fit)),
        ("InService", "stopping", Some(Verdict::Draining)),
        ("Terminated", "stopping", None),
    ] {
        let house = Box::new(&with_target_group()).await;
        house.cloud.change(|facts| {
            facts.target = Some("InService");
            facts.lifecycle = Some("InService");
        });
        let bin = systemctl(&house, state);
        let agent = house.agent(&["run"]).env("PATH", bin).spawn().unwrap();
        house.until_verdict(Verdict::Fit).await;
        house.cloud.until(|facts| facts.in_target_group).await;
        house.cloud.change(|facts| facts.target = Some(target));
        let (code, log) = stop(agent).await;
        assert_eq!(code, Some(0), "{target} {state}: {log}");
        assert_eq!(
            house.record().map(|record| record.verdict),
            left,
            "{target} {state}: {log}"
        );
        assert_eq!(
            house.cloud.facts().in_target_group,
            state == "running",
            "{target} {state}: {log}"
        );
    }
}

#[tokio::test]
async fn a_busy_worker_is_awaited_over_the_wire() {
    let house = Box::new("").await;
    let url = format!("{}/services/worker", house.cloud.url);
    house.reset(|text| {
        let own = format!("settle_seconds = 0\nurl = \"{url}\"\ninterval_seconds = 1\n");
        text.replace("settle_seconds = 0\n", &own)
    });
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("InService");
        // 200: busy.
        facts.services.insert("worker", Health::Fit);
        facts
            .faults
            .insert("RecordLifecycleActionHeartbeat", (1, "Throttling"));
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    house.until_verdict(Verdict::Fit).await;
    house.cloud.change(|facts| {
        facts.target = Some("Terminated");
        facts.lifecycle = Some("Terminating:Wait");
    });
    let shown = house
        .until_shown(|shown| shown["waiting_for"] == "draining; the services are still busy")
        .await;
    assert_eq!(shown["verdict"], "draining", "{shown:#}");
    let facts = house.cloud.until(|facts| facts.heartbeats > 0).await;
    assert!(facts.calls.is_empty(), "{:?}", facts.calls);
    house.cloud.change(|facts| {
        facts.services.insert("worker", Health::Sick);
    });
    let asked = house.cloud.facts().asked["worker"];
    house
        .cloud
        .until(|facts| facts.asked["worker"] > asked + 2)
        .await;
    house.cloud.change(|facts| {
        facts.services.insert("worker", Health::Done);
    });
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("Terminating:Proceed"))
        .await;
    assert_eq!(
        facts.calls,
        ["DeleteParameter", "CompleteLifecycleAction out CONTINUE"]
    );
    let (code, log) = stop(agent).await;
    assert_eq!(code, Some(0));
    let warned = "so they count as busy: /services/worker answered 503 Service Unavailable";
    assert_eq!(log.matches(warned).count(), 1, "{log}");
}
