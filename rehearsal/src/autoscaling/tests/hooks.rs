//! Lifecycle hooks: who answers, who stays silent, and how long silence may last.

use super::super::activities::ActivityStatus;
use super::super::members::LifecycleState;
use super::super::target_lifecycle_state;
use super::bench::{Bench, TARGETS, launch_hook};

/// A group with one launch hook that no agent completes, and one member waiting.
fn silent(heartbeat: &'static str) -> (Bench, String) {
    let mut bench = Bench::new();
    bench.agent = |_, _| None;
    bench.create(1, &launch_hook(heartbeat));
    bench.settle();
    let id = bench.ids().first().expect("a member").clone();
    assert_eq!(bench.of().members[0].state, LifecycleState::PendingWait);
    (bench, id)
}

fn complete(bench: &mut Bench, id: &str, result: &str) -> Result<String, crate::wire::ApiError> {
    bench.ask(
        "CompleteLifecycleAction",
        &[
            ("LifecycleHookName", "gate"),
            ("InstanceId", id),
            ("LifecycleActionResult", result),
        ],
    )
}

#[test]
fn continue_registers_targets_before_in_service() {
    let mut bench = Bench::new();
    bench.agent = |_, _| None;
    let mut form = launch_hook("60").to_vec();
    form.push(("TargetGroupARNs.member.1", TARGETS));
    bench.create(1, &form);
    bench.settle();
    let id = bench.ids()[0].clone();
    assert_eq!(
        bench.environment.registrations, 0,
        "registered before its gate"
    );
    assert_eq!(
        target_lifecycle_state(&bench.state, &id.as_str().into()).as_deref(),
        Some("InService")
    );
    complete(&mut bench, &id, "CONTINUE").expect("an open action");
    bench.tick();
    assert_eq!(bench.of().members[0].state, LifecycleState::PendingProceed);
    assert_eq!(bench.environment.registrations, 0);
    bench.tick();
    assert_eq!(bench.of().members[0].state, LifecycleState::InService);
    assert_eq!(bench.environment.registrations, 1);
    let activity = bench
        .of()
        .activity_log
        .newest_first()
        .next()
        .expect("an activity");
    assert_eq!(activity.status, ActivityStatus::Successful);
    assert_eq!(activity.what, format!("Launching a new EC2 instance: {id}"));
}

#[test]
fn an_action_can_be_completed_once_and_only_while_open() {
    let (mut bench, id) = silent("60");
    let wrong = bench
        .ask(
            "CompleteLifecycleAction",
            &[
                ("LifecycleHookName", "other"),
                ("InstanceId", &id),
                ("LifecycleActionResult", "CONTINUE"),
            ],
        )
        .expect_err("no such hook");
    assert_eq!(wrong.code, "ValidationError");
    assert_eq!(
        wrong.message,
        format!("No active Lifecycle Action found with instance ID {id}")
    );
    complete(&mut bench, &id, "CONTINUE").expect("an open action");
    let again = complete(&mut bench, &id, "CONTINUE").expect_err("answered already");
    assert_eq!(again.message, wrong.message);
    let bad = complete(&mut bench, &id, "MAYBE").expect_err("not a result");
    assert!(bad.message.contains("CONTINUE, ABANDON"), "{}", bad.message);
}

/// The engine ticks a few times a second; an answer between the deadline and the next tick is late.
#[test]
fn completing_after_the_deadline_is_refused_before_a_tick() {
    let (mut bench, id) = silent("60");
    bench.now += jiff::SignedDuration::from_secs(60);
    complete(&mut bench, &id, "CONTINUE").expect_err("late");
    bench.now -= jiff::SignedDuration::from_secs(1);
    complete(&mut bench, &id, "CONTINUE").expect("in time");
}

#[test]
fn a_token_completes_an_action_like_an_instance_id() {
    let (mut bench, _) = silent("60");
    let token = bench.of().members[0].actions[0].token.clone();
    let by_token = |token: &str| {
        [
            ("LifecycleHookName", "gate".to_owned()),
            ("LifecycleActionToken", token.to_owned()),
            ("LifecycleActionResult", "CONTINUE".to_owned()),
        ]
    };
    let form = by_token("00000000-0000-4000-8000-999999999999");
    let form: Vec<(&str, &str)> = form.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let wrong = bench
        .ask("CompleteLifecycleAction", &form)
        .expect_err("another token");
    assert!(
        wrong
            .message
            .starts_with("No active Lifecycle Action found with token")
    );
    let form = by_token(&token);
    let form: Vec<(&str, &str)> = form.iter().map(|(n, v)| (*n, v.as_str())).collect();
    bench
        .ask("CompleteLifecycleAction", &form)
        .expect("the token");
    bench.settle();
    assert_eq!(bench.in_service(1), 1);
}

#[test]
fn abandon_ends_the_instance_and_relaunch_delays_double() {
    let mut bench = Bench::new();
    bench.agent = |_, _| Some("ABANDON");
    bench.create(1, &launch_hook("60"));
    let mut tries = Vec::new();
    for second in 0..80 {
        bench.settle();
        let made = bench.environment.instances.len();
        if tries.last().is_none_or(|(_, m)| *m != made) {
            tries.push((second, made));
        }
        bench.run(1);
    }
    assert_eq!(tries, [(0, 1), (5, 2), (15, 3), (35, 4), (75, 5)]);
    assert_eq!(bench.in_service(1), 0);
    let message: Vec<&str> = bench
        .of()
        .activity_log
        .newest_first()
        .filter(|a| a.what.starts_with("Launching"))
        .filter_map(|a| a.status.message())
        .collect();
    assert!(
        message[0].ends_with("was abandoned: Lifecycle Action Completed with ABANDON Result"),
        "{message:?}"
    );
    bench.agent = |_, _| Some("CONTINUE");
    bench.run(160);
    assert_eq!(bench.in_service(1), 1);
    assert_eq!(bench.of().launch_failures, 0);
}

#[test]
fn a_timeout_has_the_hooks_default_result() {
    for (default, in_service) in [("ABANDON", 0), ("CONTINUE", 1)] {
        let mut bench = Bench::new();
        bench.agent = |_, _| None;
        let mut form = launch_hook("60").to_vec();
        form.push((
            "LifecycleHookSpecificationList.member.1.DefaultResult",
            default,
        ));
        bench.create(1, &form);
        bench.settle();
        bench.run(59);
        assert_eq!(
            bench.of().members[0].state,
            LifecycleState::PendingWait,
            "{default}"
        );
        bench.run(1);
        assert_eq!(bench.in_service(1), in_service, "{default}");
        if default == "ABANDON" {
            let message = bench
                .of()
                .activity_log
                .newest_first()
                .find_map(|a| a.status.message().map(str::to_owned));
            assert!(
                message.is_some_and(|t| t.ends_with("was abandoned: Heartbeat Timeout")),
                "{default}"
            );
        }
    }
}

/// 30 minutes into an hour, a heartbeat makes it end at 90 minutes.
#[test]
fn a_heartbeat_restarts_the_timer() {
    let (mut bench, id) = silent("3600");
    let beat = [("LifecycleHookName", "gate"), ("InstanceId", id.as_str())];
    bench.run(1800);
    bench
        .ask("RecordLifecycleActionHeartbeat", &beat)
        .expect("open");
    bench.run(3599);
    assert_eq!(bench.of().members[0].state, LifecycleState::PendingWait);
    bench.run(1);
    assert!(
        bench.of().member(&id.as_str().into()).is_none(),
        "still there after 90 minutes"
    );
    let late = bench
        .ask("RecordLifecycleActionHeartbeat", &beat)
        .expect_err("over");
    assert!(late.message.starts_with("No active Lifecycle Action"));
}

#[test]
fn no_heartbeat_extends_beyond_a_hundred_times_the_timeout() {
    let (mut bench, id) = silent("30");
    let beat = [("LifecycleHookName", "gate"), ("InstanceId", id.as_str())];
    for _ in 0..149 {
        bench.run(20);
        bench
            .ask("RecordLifecycleActionHeartbeat", &beat)
            .expect("open");
    }
    bench.run(19);
    assert_eq!(bench.of().members[0].state, LifecycleState::PendingWait);
    bench.run(1);
    assert!(
        bench.of().member(&id.as_str().into()).is_none(),
        "alive after 3000 s"
    );
}

/// A worker that is busy for three minutes keeps a termination hook of 30 s waiting.
#[test]
fn heartbeats_prolong_a_termination_hook() {
    let hook = "LifecycleHookSpecificationList.member.1";
    let keys = [
        "LifecycleHookName",
        "LifecycleTransition",
        "HeartbeatTimeout",
    ]
    .map(|key| format!("{hook}.{key}"));
    let values = ["drain", "autoscaling:EC2_INSTANCE_TERMINATING", "30"];
    let form: Vec<(&str, &str)> = keys.iter().map(String::as_str).zip(values).collect();
    let mut bench = Bench::group(1, &form);
    let id = bench.ids()[0].clone();
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "0")])
        .expect("set");
    bench.run(5);
    let beat = [("LifecycleHookName", "drain"), ("InstanceId", id.as_str())];
    for _ in 0..9 {
        bench.run(20);
        assert_eq!(bench.of().members[0].state, LifecycleState::TerminatingWait);
        bench
            .ask("RecordLifecycleActionHeartbeat", &beat)
            .expect("open");
    }
    assert_eq!(bench.environment.instances[&id].state, "running");
    bench.run(31);
    assert!(bench.of().member(&id.as_str().into()).is_none());
    let late = bench
        .ask("RecordLifecycleActionHeartbeat", &beat)
        .expect_err("over");
    assert_eq!(late.code, "ValidationError");
    assert!(late.message.starts_with("No active Lifecycle Action"));
}

#[test]
fn all_launch_hooks_open_at_once_and_one_abandon_suffices() {
    let mut bench = Bench::new();
    bench.agent = |_, _| None;
    let mut form = launch_hook("60").to_vec();
    form.extend([
        (
            "LifecycleHookSpecificationList.member.2.LifecycleHookName",
            "second",
        ),
        (
            "LifecycleHookSpecificationList.member.2.LifecycleTransition",
            "autoscaling:EC2_INSTANCE_LAUNCHING",
        ),
    ]);
    bench.create(1, &form);
    bench.settle();
    let id = bench.ids()[0].clone();
    assert_eq!(bench.of().members[0].actions.len(), 2);
    complete(&mut bench, &id, "CONTINUE").expect("open");
    bench.settle();
    assert_eq!(bench.of().members[0].state, LifecycleState::PendingWait);
    bench
        .ask(
            "CompleteLifecycleAction",
            &[
                ("LifecycleHookName", "second"),
                ("InstanceId", &id),
                ("LifecycleActionResult", "ABANDON"),
            ],
        )
        .expect("open");
    bench.settle();
    assert!(bench.of().member(&id.as_str().into()).is_none());
}

/// Targets drain first, then the termination hook opens, then the instance is terminated.
#[test]
fn a_removed_member_drains_then_waits_then_terminates() {
    let mut bench = Bench::group(
        1,
        &[
            ("TargetGroupARNs.member.1", TARGETS),
            (
                "LifecycleHookSpecificationList.member.1.LifecycleHookName",
                "drain",
            ),
            (
                "LifecycleHookSpecificationList.member.1.LifecycleTransition",
                "autoscaling:EC2_INSTANCE_TERMINATING",
            ),
        ],
    );
    let id = bench.ids()[0].clone();
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "0")])
        .expect("set");
    bench.settle();
    assert_eq!(bench.of().members[0].state, LifecycleState::Terminating);
    assert_eq!(
        target_lifecycle_state(&bench.state, &id.as_str().into()).as_deref(),
        Some("Terminated")
    );
    bench.run(5);
    assert_eq!(
        bench.of().members[0].state,
        LifecycleState::Terminating,
        "still draining"
    );
    bench.environment.targets.clear();
    bench.settle();
    assert_eq!(bench.of().members[0].state, LifecycleState::TerminatingWait);
    assert_eq!(bench.environment.instances[&id].state, "running");
    bench
        .ask(
            "CompleteLifecycleAction",
            &[
                ("LifecycleHookName", "drain"),
                ("InstanceId", &id),
                ("LifecycleActionResult", "CONTINUE"),
            ],
        )
        .expect("open");
    bench.settle();
    assert!(bench.of().members.is_empty());
    assert_eq!(bench.environment.instances[&id].state, "terminated");
    assert_eq!(
        target_lifecycle_state(&bench.state, &id.as_str().into()),
        None
    );
    let last = bench
        .of()
        .activity_log
        .newest_first()
        .next()
        .expect("an activity");
    assert_eq!(last.status, ActivityStatus::Successful);
    assert!(
        last.cause.contains("shrinking the capacity from 1 to 0"),
        "{}",
        last.cause
    );
    assert!(
        last.cause
            .ends_with(&format!("instance {id} was selected for termination."))
    );
}

#[test]
fn an_abandoned_termination_can_be_retained() {
    let mut bench = Bench::group(
        1,
        &[
            (
                "InstanceLifecyclePolicy.RetentionTriggers.TerminateHookAbandon",
                "retain",
            ),
            (
                "LifecycleHookSpecificationList.member.1.LifecycleHookName",
                "drain",
            ),
            (
                "LifecycleHookSpecificationList.member.1.LifecycleTransition",
                "autoscaling:EC2_INSTANCE_TERMINATING",
            ),
            (
                "LifecycleHookSpecificationList.member.1.HeartbeatTimeout",
                "30",
            ),
        ],
    );
    let id = bench.ids()[0].clone();
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "0")])
        .expect("set");
    bench.run(31);
    assert_eq!(
        bench.of().members[0].state,
        LifecycleState::TerminatingRetained
    );
    assert_eq!(bench.environment.instances[&id].state, "running");
    bench
        .call(
            "TerminateInstanceInAutoScalingGroup",
            &[
                ("InstanceId", &id),
                ("ShouldDecrementDesiredCapacity", "false"),
            ],
        )
        .expect("by hand");
    bench.settle();
    assert!(bench.of().members.is_empty());
}

#[test]
fn a_hook_can_be_changed_and_deleted() {
    let (mut bench, id) = silent("60");
    bench
        .ask(
            "PutLifecycleHook",
            &[("LifecycleHookName", "gate"), ("HeartbeatTimeout", "300")],
        )
        .expect("keeps its transition");
    let message = bench.ask("DescribeLifecycleHooks", &[]).expect("describe");
    assert!(message.contains("<HeartbeatTimeout>300</HeartbeatTimeout><GlobalTimeout>30000</GlobalTimeout><DefaultResult>ABANDON</DefaultResult>"), "{message}");
    for (heartbeat, fits) in [("29", false), ("30", true), ("7200", true), ("7201", false)] {
        let put = bench.ask(
            "PutLifecycleHook",
            &[
                ("LifecycleHookName", "gate"),
                ("HeartbeatTimeout", heartbeat),
            ],
        );
        assert_eq!(put.is_ok(), fits, "{heartbeat}");
    }
    bench
        .ask("DeleteLifecycleHook", &[("LifecycleHookName", "gate")])
        .expect("there");
    bench.settle();
    assert!(
        bench.of().member(&id.as_str().into()).is_none(),
        "its open action was not abandoned"
    );
    bench.run(6);
    assert_eq!(bench.in_service(1), 1, "no hook is left");
    bench
        .ask("DeleteLifecycleHook", &[("LifecycleHookName", "gate")])
        .expect_err("deleted");
}
