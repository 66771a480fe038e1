//! Lifecycle hooks: who answers, who stays silent, and how long silence may last.

use super::super::activities::ActivityStatus;
use super::super::members::LifecycleState;
use super::super::target_lifecycle_state;
use super::bench::{Bench, TARGETS, launch_hook};

/// A group with one launch hook whose agents say nothing, and one member waiting.
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
fn continue_leads_into_service_by_way_of_the_target_groups() {
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
        target_lifecycle_state(&bench.state, &id).as_deref(),
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
fn an_answer_counts_once_and_only_while_the_action_is_open() {
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

/// The engine looks a few times a second; an answer between the deadline and its next look is late.
#[test]
fn an_answer_after_the_deadline_is_late_even_before_the_next_look() {
    let (mut bench, id) = silent("60");
    bench.now += jiff::SignedDuration::from_secs(60);
    complete(&mut bench, &id, "CONTINUE").expect_err("late");
    bench.now -= jiff::SignedDuration::from_secs(1);
    complete(&mut bench, &id, "CONTINUE").expect("in time");
}

#[test]
fn a_token_answers_as_well_as_an_instance_id() {
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
fn abandon_ends_the_instance_and_the_next_try_waits_a_little_longer_each_time() {
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
    let told: Vec<&str> = bench
        .of()
        .activity_log
        .newest_first()
        .filter(|a| a.what.starts_with("Launching"))
        .filter_map(|a| a.status.message())
        .collect();
    assert!(
        told[0].ends_with("was abandoned: Lifecycle Action Completed with ABANDON Result"),
        "{told:?}"
    );
    bench.agent = |_, _| Some("CONTINUE");
    bench.run(160);
    assert_eq!(bench.in_service(1), 1);
    assert_eq!(bench.of().launch_failures, 0);
}

#[test]
fn silence_is_the_hooks_default_result() {
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
        assert_eq!(bench.of().members[0].state, LifecycleState::PendingWait);
        bench.run(1);
        assert_eq!(bench.in_service(1), in_service, "{default}");
        if default == "ABANDON" {
            let told = bench
                .of()
                .activity_log
                .newest_first()
                .find_map(|a| a.status.message().map(str::to_owned));
            assert!(told.is_some_and(|t| t.ends_with("was abandoned: Heartbeat Timeout")));
        }
    }
}

/// 30 minutes into an hour, a heartbeat makes it end at 90 minutes.
#[test]
fn a_heartbeat_sets_the_timer_back_to_its_full_length() {
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
        bench.of().member(&id).is_none(),
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
    assert!(bench.of().member(&id).is_none(), "alive after 3000 s");
}

#[test]
fn all_launch_hooks_are_asked_at_once_and_one_abandon_is_enough() {
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
    assert!(bench.of().member(&id).is_none());
}

/// Targets drain first, then the termination hook opens, then EC2 is told.
#[test]
fn a_leaving_member_drains_then_waits_then_ends() {
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
        target_lifecycle_state(&bench.state, &id).as_deref(),
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
    assert_eq!(target_lifecycle_state(&bench.state, &id), None);
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
    let told = bench.ask("DescribeLifecycleHooks", &[]).expect("describe");
    assert!(told.contains("<HeartbeatTimeout>300</HeartbeatTimeout><GlobalTimeout>30000</GlobalTimeout><DefaultResult>ABANDON</DefaultResult>"), "{told}");
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
        bench.of().member(&id).is_none(),
        "its open action was not abandoned"
    );
    bench.run(6);
    assert_eq!(bench.in_service(1), 1, "nobody to ask any more");
    bench
        .ask("DeleteLifecycleHook", &[("LifecycleHookName", "gate")])
        .expect_err("gone");
}
