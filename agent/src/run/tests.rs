//! The loop on paused time, with adapters in memory.

mod draining;
mod fakes;

use super::actions::{verdict_line, versions};
use super::*;
use crate::health::Round;
use crate::hooks::Phase;
use crate::identity::TargetState;
use fakes::{Facts, Harness, in_group, verdict};

#[tokio::test(start_paused = true)]
async fn an_instance_from_the_gate_to_its_termination() {
    let harness = Harness::open(in_group());
    let facts = harness
        .until(|facts| facts.status.starts_with("serving"))
        .await;
    assert_eq!(facts.answers, [("in".to_owned(), "CONTINUE")]);
    let facts = harness
        .until(|facts| verdict(facts) == Some(Verdict::Fit))
        .await;
    let record = facts.record.unwrap();
    assert_eq!(
        (record.image_id.as_str(), record.reason.as_str()),
        ("ami-1", "")
    );
    assert_eq!(record.services["orders"].version, "1.0.0");
    let status = harness.status();
    assert_eq!(
        (status.state.as_str(), status.group.as_deref()),
        ("serving", Some("fleet"))
    );

    harness.change(|facts| {
        facts.target = Some(TargetState::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
    harness
        .until(|facts| facts.status.starts_with("draining"))
        .await;
    let facts = harness
        .until(|facts| facts.status.starts_with("released"))
        .await;
    assert_eq!(facts.record, None);
    assert_eq!(facts.answers[1..], [("out".to_owned(), "CONTINUE")]);
    let facts = harness.close().await;
    assert!(facts.stopping && facts.ready == 1);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_network_keeps_readiness_and_watchdog() {
    let harness = Harness::open(Facts {
        api_down: true,
        ..Facts::default()
    });
    let facts = harness.until(|facts| facts.pings > 100).await;
    assert_eq!(facts.ready, 1);
    assert!(
        facts.status.contains("waiting for the identity"),
        "{}",
        facts.status
    );
    harness.change(|facts| {
        *facts = Facts {
            api_down: true,
            ..in_group()
        }
    });
    harness
        .until(|facts| facts.status.starts_with("fit; waiting for the membership"))
        .await;
    harness.change(|facts| facts.api_down = false);
    harness
        .until(|facts| verdict(facts) == Some(Verdict::Fit))
        .await;
    harness.until(|facts| facts.answers.len() == 1).await;
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_blocks_no_check_heartbeat_or_shutdown() {
    let harness = Harness::open(in_group());
    *harness.fake.stuck.lock().unwrap() = true;
    harness
        .until(|facts| facts.beats > 5 && facts.pings > 50)
        .await;
    let record = harness.fake.facts().record;
    let asked = Instant::now();
    let facts = harness.close().await;
    assert!(facts.stopping);
    assert!(asked.elapsed() <= SHUTDOWN_CALLS, "{:?}", asked.elapsed());
    assert_eq!(facts.record, record, "stopping removes nothing");
}

#[tokio::test(start_paused = true)]
async fn refused_user_data_abandons_the_launch_with_its_place() {
    let user_data = Some("#imagebuilder-agent\nimmage = \"x\"".to_owned());
    let harness = Harness::open(Facts {
        user_data,
        ..in_group()
    });
    let facts = harness
        .until(|facts| facts.record.is_some() && !facts.answers.is_empty())
        .await;
    assert_eq!(facts.answers, [("in".to_owned(), "ABANDON")]);
    let reason = facts.record.unwrap().reason;
    assert_eq!(
        reason,
        "settings refused: user data:2:1: unknown key `immage` hint: did you mean `image`?"
    );
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_mid_life_is_no_news() {
    let harness = Harness::open(in_group());
    harness
        .until(|facts| facts.status.starts_with("serving") && verdict(facts) == Some(Verdict::Fit))
        .await;
    let before = harness.status();
    let (dir, facts) = harness.end().await;
    let record = facts.record.clone();

    // The metadata service is away at first; that the group still reports Pending:Wait is its slowness.
    let harness = Harness::open_in(
        dir,
        Facts {
            instance_known: false,
            phase: Some(Phase::PendingWait),
            status: String::new(),
            ..facts
        },
    );
    harness
        .until(|facts| facts.status.contains("waiting for the identity"))
        .await;
    let shown = harness.status();
    assert_eq!(
        (shown.state.as_str(), shown.before.as_deref()),
        ("identifying", Some("serving"))
    );
    assert_eq!(
        (shown.verdict, &shown.since, &shown.services),
        (before.verdict, &before.since, &before.services)
    );
    // And once more, before the instance was identified.
    let (dir, facts) = harness.end().await;
    let harness = Harness::open_in(
        dir,
        Facts {
            instance_known: true,
            status: String::new(),
            ..facts
        },
    );
    let facts = harness
        .until(|facts| facts.status.starts_with("serving in group"))
        .await;
    assert_eq!(facts.record, record, "the record flapped");
    let shown = harness.status();
    assert_eq!((shown.verdict, shown.since), (before.verdict, before.since));
    let pings = facts.pings;
    let facts = harness.until(|facts| facts.pings > pings + 100).await;
    assert_eq!(facts.answers.len(), 1, "the hook was answered again");
    // From here on the checks decide, as ever.
    harness.change(|facts| facts.healthy = false);
    harness
        .until(|facts| verdict(facts) == Some(Verdict::Unfit))
        .await;
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_or_broken_status_file_is_ignored() {
    for spoil in [
        |text: String| text.replace("i-1", "i-2"),
        |text: String| text[..text.len() / 2].to_owned(),
        |text: String| text.replace("\"serving\"", "\"of another version\""),
    ] {
        let harness = Harness::open(in_group());
        harness
            .until(|facts| facts.status.starts_with("serving"))
            .await;
        let (dir, facts) = harness.end().await;
        let path = dir.path().join(crate::status_file::FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, spoil(text)).unwrap();
        let harness = Harness::open_in(
            dir,
            Facts {
                record: None,
                ..facts
            },
        );
        harness
            .until(|facts| facts.status.starts_with("at the gate"))
            .await;
        harness.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn permission_follows_the_group_and_the_instance() {
    let harness = Harness::open(in_group());
    harness
        .until(|facts| facts.status.starts_with("serving in group"))
        .await;
    let pings = harness.fake.facts().pings;
    harness.until(|facts| facts.pings > pings + 50).await;
    assert_eq!(harness.fake.facts().refresh_questions, 0, "nobody wished");
    assert_eq!(harness.status().permission, None);

    harness.change(|facts| facts.refresh = Some("r-1".into()));
    harness.wish(Timestamp::now());
    let shown = harness
        .until_shown(|shown| shown.permission.is_some())
        .await;
    let leave = shown.permission.unwrap();
    assert_eq!(
        (leave.granted, leave.reason.as_str()),
        (false, "refresh r-1 of group fleet is under way")
    );
    harness.change(|facts| facts.refresh = None);
    harness
        .until_shown(|shown| shown.permission.as_ref().is_some_and(|leave| leave.granted))
        .await;
    assert_eq!(harness.fake.facts().refresh_questions, 2);

    harness.change(|facts| {
        facts.target = Some(TargetState::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
    let shown = harness
        .until_shown(|shown| {
            shown
                .permission
                .as_ref()
                .is_some_and(|leave| !leave.granted)
        })
        .await;
    assert_eq!(
        shown.permission.unwrap().reason,
        "this instance is being terminated"
    );
    std::fs::remove_file(harness.dir.path().join("update/status.json")).unwrap();
    harness
        .until_shown(|shown| shown.permission.is_none())
        .await;
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_hibernated_warm_instance_resumes_and_serves() {
    let harness = Harness::open(Facts {
        target: Some(TargetState::OutOfService("Warmed:Hibernated".to_owned())),
        phase: Some(Phase::WarmPendingWait),
        ..in_group()
    });
    let facts = harness
        .until(|facts| verdict(facts) == Some(Verdict::Resting) && !facts.answers.is_empty())
        .await;
    assert_eq!(
        facts.record.unwrap().reason,
        "in the warm pool (Warmed:Hibernated)"
    );
    harness.change(|facts| {
        facts.slept = 86_400;
        facts.target = Some(TargetState::InService);
        facts.phase = Some(Phase::PendingWait);
    });
    let facts = harness
        .until(|facts| verdict(facts) == Some(Verdict::Fit) && facts.answers.len() == 2)
        .await;
    assert_eq!(facts.answers, vec![("in".to_owned(), "CONTINUE"); 2]);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn notices_are_in_the_status_file() {
    let harness = Harness::open(in_group());
    harness
        .until(|facts| facts.status.starts_with("serving"))
        .await;
    harness.change(|facts| facts.spot.rebalance = Some(Timestamp::UNIX_EPOCH));
    let notices = || harness.status().notices;
    let pings = harness.fake.facts().pings;
    harness.until(|facts| facts.pings > pings + 20).await;
    assert_eq!(
        notices(),
        ["rebalance recommended since 1970-01-01T00:00:00Z"]
    );
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_fleet_decides_whether_a_replacement_is_requested() {
    let harness = Harness::open(in_group());
    harness
        .until(|facts| facts.status.starts_with("serving"))
        .await;
    let sick = r#"{"schema":1,"instance_id":"i-2","image_id":"a","verdict":"unfit","since":"","agent":""}"#;
    harness.change(|facts| {
        facts.peer = Some(sick.to_owned());
        facts.healthy = false;
    });
    let facts = harness
        .until(|facts| {
            facts
                .status
                .contains("2 of 2 other instances checked are unfit as well")
        })
        .await;
    assert_eq!(facts.reports, 0);
    assert!(harness.dir.path().join("restart/orders.service").exists());
    assert_eq!(harness.status().restarts["orders"], 1);
    harness.change(|facts| facts.peer = Some(sick.replace("unfit", "fit")));
    harness.until(|facts| facts.reports == 1).await;
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_system_shutdown_updates_the_record_and_deregisters() {
    let group = "arn:aws:elasticloadbalancing:r:1:targetgroup/ours/1";
    for (target, left) in [
        (TargetState::InService, Some(Verdict::Draining)),
        (TargetState::Terminated, None),
    ] {
        let user_data = format!("#imagebuilder-agent\nserving.target_groups = [\"{group}\"]");
        let harness = Harness::open(Facts {
            user_data: Some(user_data),
            ..in_group()
        });
        harness
            .until(|facts| facts.traffic.len() == 1 && verdict(facts) == Some(Verdict::Fit))
            .await;
        assert_eq!(harness.status().registered, [group], "{left:?}");
        harness.change(|facts| {
            facts.shutting_down = true;
            facts.target = Some(target);
        });
        let facts = harness.close().await;
        assert_eq!(verdict(&facts), left, "{left:?}");
        assert_eq!(
            facts.traffic,
            [format!("in {group}"), format!("out {group}")],
            "{left:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_daemon_after_it_undoes_what_the_one_before_registered() {
    let group = "arn:aws:elasticloadbalancing:r:1:targetgroup/ours/1";
    let user_data = format!("#imagebuilder-agent\nserving.target_groups = [\"{group}\"]");
    let harness = Harness::open(Facts {
        user_data: Some(user_data),
        ..in_group()
    });
    harness.until(|facts| facts.traffic.len() == 1).await;
    harness
        .until_shown(|shown| !shown.registered.is_empty())
        .await;
    let (dir, facts) = harness.end().await;
    assert_eq!(
        facts.traffic.len(),
        1,
        "a restart of the daemon takes nothing out"
    );
    let harness = Harness::open_in(dir, facts);
    harness.until(|facts| facts.pings > 50).await;
    harness.change(|facts| {
        facts.target = Some(TargetState::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
    let facts = harness
        .until(|facts| facts.status.starts_with("released"))
        .await;
    assert_eq!(
        facts.traffic,
        [format!("in {group}"), format!("out {group}")]
    );
    harness.close().await;
}

/// Any service or reason gives one line of the console, which begins with the agent's own text.
#[test]
fn a_line_of_the_console_cannot_be_forged() {
    for version in [
        "1.2\nimagebuilder-agent: unfit i-1: x",
        "imagebuilder-agent: fit i-2: orders 9",
        "\u{1b}[2K",
        "1.2 (release)",
    ] {
        let service = contract::registry::Service {
            version: version.to_owned(),
            healthy: true,
            detail: String::new(),
        };
        let round = Round::from([("orders".to_owned(), service)]);
        let line = verdict_line("fit", "i-1", &versions(&round));
        assert_eq!(line, "imagebuilder-agent: fit i-1: orders", "{version:?}");
    }
    let service = contract::registry::Service {
        version: "1.2.0-rc.1+b".to_owned(),
        healthy: true,
        detail: String::new(),
    };
    let round = Round::from([("orders".to_owned(), service)]);
    assert_eq!(versions(&round), "orders 1.2.0-rc.1+b");
}
