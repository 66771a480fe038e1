//! Capacity, health and target groups, with and without a refresh.

use instance_refresh::RefreshStatus;

use super::super::members::LifecycleState;
use super::super::target_lifecycle_state;
use super::bench::{Bench, TARGETS, launch_hook};

#[test]
fn desired_capacity_is_followed_both_ways_within_limits() {
    let mut bench = Bench::group(2, &[("MinSize", "1"), ("MaxSize", "4")]);
    for (wanted, refusal) in [
        (
            "5",
            "New SetDesiredCapacity value 5 is above max value 4 for the AutoScalingGroup.",
        ),
        (
            "0",
            "New SetDesiredCapacity value 0 is below min value 1 for the AutoScalingGroup.",
        ),
    ] {
        let refused = bench
            .ask("SetDesiredCapacity", &[("DesiredCapacity", wanted)])
            .expect_err(wanted);
        assert_eq!(
            (refused.code.as_ref(), refused.message.as_str()),
            ("ValidationError", refusal),
            "{wanted}"
        );
    }
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "4")])
        .expect("within");
    bench.settle();
    assert_eq!(bench.in_service(1), 4);
    let cause = bench
        .of()
        .activity_log
        .newest_first()
        .next()
        .expect("one")
        .cause
        .clone();
    assert!(cause.contains("a user request explicitly set group desired capacity changing the desired capacity from 2 to 4."), "{cause}");
    assert!(
        cause.ends_with("increasing the capacity from 2 to 4."),
        "{cause}"
    );
    let oldest = bench.ids()[0].clone();
    bench
        .ask("UpdateAutoScalingGroup", &[("MaxSize", "3")])
        .expect("shrinks desired with it");
    bench.settle();
    assert_eq!(bench.of().desired, 3);
    assert_eq!(bench.in_service(1), 3);
    assert!(!bench.ids().contains(&oldest), "the oldest goes first");
}

#[test]
fn a_dead_instance_is_replaced() {
    let mut bench = Bench::group(3, &[]);
    let id = bench.ids()[1].clone();
    bench
        .environment
        .instances
        .get_mut(&id)
        .expect("there")
        .state = "stopped".to_owned();
    bench.settle();
    assert_eq!(bench.in_service(1), 3);
    assert!(!bench.ids().contains(&id));
    let causes: Vec<String> = bench
        .of()
        .activity_log
        .newest_first()
        .take(2)
        .map(|a| a.cause.clone())
        .collect();
    assert!(
        causes[0].ends_with(
            "an instance was launched in response to an unhealthy instance needing to be replaced."
        ),
        "{causes:?}"
    );
    assert!(
        causes[1].ends_with(
            "in response to an EC2 health check indicating it has been terminated or stopped."
        ),
        "{causes:?}"
    );
}

#[test]
fn target_health_counts_for_elb_groups_after_the_grace_period() {
    for (kind, replaced) in [("EC2", false), ("ELB", true)] {
        let mut bench = Bench::group(
            2,
            &[
                ("TargetGroupARNs.member.1", TARGETS),
                ("HealthCheckType", kind),
                ("HealthCheckGracePeriod", "60"),
            ],
        );
        let id = bench.ids()[0].clone();
        bench
            .environment
            .targets
            .insert((TARGETS.to_owned(), id.clone()), "unhealthy".to_owned());
        bench.run(50);
        assert!(bench.ids().contains(&id), "{kind}: within the grace period");
        bench.run(20);
        assert_eq!(!bench.ids().contains(&id), replaced, "{kind}");
    }
}

#[test]
fn set_instance_health_respects_the_grace_period_by_default() {
    let mut bench = Bench::group(1, &[("HealthCheckGracePeriod", "60")]);
    let id = bench.ids()[0].clone();
    let form = [("InstanceId", id.as_str()), ("HealthStatus", "Unhealthy")];
    bench.call("SetInstanceHealth", &form).expect("a member");
    bench.settle();
    assert_eq!(bench.ids(), [id.as_str()]);
    let mut now = form.to_vec();
    now.push(("ShouldRespectGracePeriod", "false"));
    bench.call("SetInstanceHealth", &now).expect("a member");
    bench.settle();
    assert!(!bench.ids().contains(&id));
    let unknown = bench
        .call("SetInstanceHealth", &form)
        .expect_err("terminated");
    assert_eq!(
        unknown.message,
        format!("Instance Id not found - No managed instance found for instance ID: {id}")
    );
}

#[test]
fn an_instance_that_dies_while_pending_is_a_failed_launch() {
    let mut bench = Bench::new();
    bench.environment.slow_boot = true;
    bench.create(1, &[]);
    bench.settle();
    assert_eq!(bench.of().members[0].state, LifecycleState::Pending);
    let id = bench.ids()[0].clone();
    bench
        .environment
        .instances
        .get_mut(&id)
        .expect("there")
        .state = "terminated".to_owned();
    bench.environment.slow_boot = false;
    bench.settle();
    assert_eq!(bench.of().counted(), 0, "relaunched too eagerly");
    bench.run(5);
    assert_eq!(bench.in_service(1), 1);
}

#[test]
fn an_instance_enters_and_exits_standby() {
    let mut bench = Bench::group(
        2,
        &[
            ("TargetGroupARNs.member.1", TARGETS),
            ("MinSize", "1"),
            ("MaxSize", "2"),
        ],
    );
    let id = bench.ids()[0].clone();
    let form = [("InstanceIds.member.1", id.as_str())];
    let enter = [form[0], ("ShouldDecrementDesiredCapacity", "true")];
    let message = bench.ask("EnterStandby", &enter).expect("in service");
    assert!(message.contains("was moved to standby in response to a user request, shrinking the capacity from 2 to 1."), "{message}");
    bench
        .environment
        .targets
        .remove(&(TARGETS.to_owned(), id.clone()));
    bench.settle();
    assert_eq!(
        bench.of().member(&id.as_str().into()).expect("stays").state,
        LifecycleState::Standby
    );
    assert_eq!((bench.of().desired, bench.of().counted()), (1, 1));
    assert_eq!(
        target_lifecycle_state(&bench.state, &id.as_str().into()).as_deref(),
        Some("Standby")
    );
    bench
        .ask("EnterStandby", &enter)
        .expect_err("already there");
    bench.ask("ExitStandby", &form).expect("in standby");
    bench.settle();
    assert_eq!(bench.in_service(1), 2);
    assert_eq!(bench.of().desired, 2);
}

#[test]
fn add_to_load_balancer_can_be_suspended() {
    let mut bench = Bench::new();
    bench.create(0, &[("TargetGroupARNs.member.1", TARGETS)]);
    bench
        .ask(
            "SuspendProcesses",
            &[("ScalingProcesses.member.1", "AddToLoadBalancer")],
        )
        .expect("suspend");
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "1")])
        .expect("set");
    bench.settle();
    assert_eq!(
        (bench.in_service(1), bench.environment.registrations),
        (1, 0)
    );
    bench.ask("ResumeProcesses", &[]).expect("resume all");
    bench.run(5);
    assert_eq!(bench.environment.registrations, 0, "it is not added later");
}

#[test]
fn scaling_out_during_a_refresh_uses_the_target_template() {
    let mut bench = Bench::group(4, &[]);
    bench
        .roll(&[
            ("MinHealthyPercentage", "50"),
            ("InstanceWarmup", "10"),
            ("CheckpointPercentages.member.1", "50"),
            ("CheckpointPercentages.member.2", "100"),
            ("CheckpointDelay", "100"),
        ])
        .expect("start");
    bench.run(20);
    assert_eq!((bench.in_service(1), bench.in_service(2)), (2, 2));
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "6")])
        .expect("set");
    bench.run(1);
    assert_eq!((bench.in_service(1), bench.in_service(2)), (2, 4));
    bench.run(10);
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "3")])
        .expect("set");
    bench.run(1);
    assert_eq!(
        bench.of().counted(),
        3,
        "scaling in does not wait for the checkpoint"
    );
    assert_eq!(bench.in_service(1), 0, "the old ones go first");
    assert_eq!(bench.finish(300), RefreshStatus::Successful);
    assert_eq!(bench.in_service(2), 3);
}

#[test]
fn an_instance_killed_in_a_refresh_is_replaced_by_the_target() {
    let mut bench = Bench::group(4, &launch_hook("60"));
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "125"),
            ("InstanceWarmup", "10"),
        ])
        .expect("start");
    bench.run(5);
    let old = bench.ids()[0].clone();
    bench
        .environment
        .instances
        .get_mut(&old)
        .expect("there")
        .state = "terminated".to_owned();
    assert_eq!(bench.finish(300), RefreshStatus::Successful);
    assert_eq!((bench.in_service(2), bench.of().counted()), (4, 4));
}

#[test]
fn skip_matching_keeps_matching_instances() {
    let mut bench = Bench::group(4, &[]);
    bench
        .roll(&[
            ("MinHealthyPercentage", "50"),
            ("InstanceWarmup", "1"),
            ("CheckpointPercentages.member.1", "50"),
        ])
        .expect("a partial refresh");
    assert_eq!(bench.finish(60), RefreshStatus::Successful);
    let kept: Vec<String> = bench
        .ids()
        .into_iter()
        .filter(|id| bench.environment.versions[id] == 2)
        .collect();
    assert_eq!(kept.len(), 2);
    bench
        .roll(&[
            ("MinHealthyPercentage", "50"),
            ("InstanceWarmup", "1"),
            ("SkipMatching", "true"),
        ])
        .expect("start");
    assert_eq!(bench.refresh().to_update, 2);
    assert_eq!(bench.finish(60), RefreshStatus::Successful);
    assert_eq!(bench.in_service(2), 4);
    assert!(
        kept.iter().all(|id| bench.ids().contains(id)),
        "a matching one was replaced"
    );
    bench.roll(&[("SkipMatching", "true")]).expect("start");
    bench.tick();
    assert_eq!(
        bench.refresh().status,
        RefreshStatus::Successful,
        "nothing to do"
    );
}

#[test]
fn force_delete_terminates_all_members() {
    let mut bench = Bench::group(2, &[("TargetGroupARNs.member.1", TARGETS)]);
    let refused = bench
        .ask("DeleteAutoScalingGroup", &[])
        .expect_err("not empty");
    assert_eq!(refused.code, "ResourceInUse");
    bench
        .ask("DeleteAutoScalingGroup", &[("ForceDelete", "true")])
        .expect("force");
    bench.settle();
    assert!(bench.state.groups.is_empty());
    assert!(
        bench
            .environment
            .instances
            .values()
            .all(|i| i.state == "terminated")
    );
}

#[test]
fn detached_instances_run_on_and_terminated_are_replaced() {
    let mut bench = Bench::group(2, &[]);
    let (first, second) = (bench.ids()[0].clone(), bench.ids()[1].clone());
    bench
        .ask(
            "DetachInstances",
            &[
                ("InstanceIds.member.1", &first),
                ("ShouldDecrementDesiredCapacity", "true"),
            ],
        )
        .expect("in service");
    bench.settle();
    assert_eq!(bench.environment.instances[&first].state, "running");
    assert_eq!(bench.ids(), [second.as_str()]);
    let message = bench
        .call(
            "TerminateInstanceInAutoScalingGroup",
            &[
                ("InstanceId", &second),
                ("ShouldDecrementDesiredCapacity", "false"),
            ],
        )
        .expect("a member");
    assert!(message.starts_with("<Activity><ActivityId>"), "{message}");
    bench.settle();
    assert_eq!(bench.in_service(1), 1);
    assert!(!bench.ids().contains(&second));
}

/// A refresh that has no old members left does not hold on to a surplus.
#[test]
fn scaling_in_during_the_last_replacements_does_not_stall() {
    let mut bench = Bench::group(4, &launch_hook("600"));
    bench.agent = |_, _| None;
    bench
        .roll(&[
            ("MinHealthyPercentage", "0"),
            ("MaxHealthyPercentage", "100"),
            ("InstanceWarmup", "5"),
        ])
        .expect("start");
    bench.run(5);
    assert_eq!(bench.members(|m| m.state == LifecycleState::PendingWait), 4);
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "2")])
        .expect("set");
    bench.run(1);
    assert_eq!(bench.of().counted(), 2);
    bench.agent = |_, _| Some("CONTINUE");
    assert_eq!(bench.finish(60), RefreshStatus::Successful);
}

/// An unhealthy member does not count as a working one: it makes way before anything is launched.
#[test]
fn an_unhealthy_member_is_removed_first_and_not_counted() {
    let mut bench = Bench::group(4, &[]);
    bench
        .ask(
            "SuspendProcesses",
            &[("ScalingProcesses.member.1", "ReplaceUnhealthy")],
        )
        .expect("suspend");
    let id = bench.ids()[3].clone();
    bench
        .environment
        .instances
        .get_mut(&id)
        .expect("there")
        .state = "stopped".to_owned();
    bench.settle();
    assert_eq!(bench.of().counted(), 4);
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "100"),
            ("InstanceWarmup", "60"),
        ])
        .expect("start");
    bench.run(30);
    assert!(!bench.ids().contains(&id));
    assert_eq!((bench.in_service(1), bench.of().counted()), (3, 4));
    assert_eq!(bench.finish(600), RefreshStatus::Successful);
}

/// Scaling in takes effect while a checkpoint's delay runs.
#[test]
fn a_checkpoint_does_not_hold_up_scaling_in() {
    let mut bench = Bench::group(10, &[]);
    bench
        .roll(&[
            ("MinHealthyPercentage", "80"),
            ("InstanceWarmup", "5"),
            ("CheckpointPercentages.member.1", "20"),
            ("CheckpointPercentages.member.2", "100"),
            ("CheckpointDelay", "1000"),
        ])
        .expect("start");
    bench.run(20);
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "9")])
        .expect("set");
    bench.run(5);
    assert_eq!((bench.in_service(1), bench.in_service(2)), (7, 2));
    assert_eq!(bench.finish(1200), RefreshStatus::Successful);
}

/// The cloud writes its state down whenever it changes: waiting must not change it.
#[test]
fn an_idle_group_does_not_change() {
    let mut bench = Bench::group(4, &launch_hook("3600"));
    bench.agent = |_, _| None;
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "150"),
            ("InstanceWarmup", "60"),
        ])
        .expect("start");
    for phase in 0..2 {
        bench.run(3);
        let before = bench.state.groups.clone();
        bench.run(30);
        assert!(bench.state.groups == before, "phase {phase}");
        bench.agent = |_, _| Some("CONTINUE");
    }
}

#[test]
fn attaching_and_detaching_target_groups_moves_members() {
    let mut bench = Bench::group(2, &[]);
    let arn = [("TargetGroupARNs.member.1", TARGETS)];
    bench
        .ask("AttachLoadBalancerTargetGroups", &arn)
        .expect("attach");
    assert_eq!(bench.environment.registrations, 2);
    bench
        .ask("AttachLoadBalancerTargetGroups", &arn)
        .expect("attached already");
    assert_eq!(bench.environment.registrations, 2);
    let message = bench
        .ask("DescribeLoadBalancerTargetGroups", &[])
        .expect("describe");
    assert!(message.contains("<State>InService</State>"), "{message}");
    bench
        .ask("DetachLoadBalancerTargetGroups", &arn)
        .expect("detach");
    assert!(
        bench
            .environment
            .targets
            .values()
            .all(|state| state == "draining")
    );
    bench
        .ask("DetachLoadBalancerTargetGroups", &arn)
        .expect_err("detached already");
    bench
        .ask(
            "AttachLoadBalancerTargetGroups",
            &[("TargetGroupARNs.member.1", "arn:x")],
        )
        .expect_err("no such target group");
}

#[test]
fn only_in_service_or_standby_members_can_be_protected() {
    let mut bench = Bench::new();
    bench.agent = |_, _| None;
    bench.create(1, &launch_hook("60"));
    bench.settle();
    let id = bench.ids()[0].clone();
    let protect = [
        ("InstanceIds.member.1", id.as_str()),
        ("ProtectedFromScaleIn", "true"),
    ];
    let refused = bench
        .ask("SetInstanceProtection", &protect)
        .expect_err("at its gate");
    assert_eq!(
        refused.message,
        format!("The instance {id} is not in InService or Standby.")
    );
    let aside = [
        ("InstanceIds.member.1", id.as_str()),
        ("ShouldDecrementDesiredCapacity", "true"),
    ];
    bench.ask("EnterStandby", &aside).expect_err("at its gate");
    bench.agent = |_, _| Some("CONTINUE");
    bench.run(1);
    bench
        .ask("UpdateAutoScalingGroup", &[("MinSize", "1")])
        .expect("update");
    let refused = bench
        .ask("EnterStandby", &aside)
        .expect_err("below the minimum");
    assert!(
        refused.message.contains("has min-size=1"),
        "{}",
        refused.message
    );
    bench
        .ask("SetInstanceProtection", &protect)
        .expect("in service");
    bench
        .ask(
            "UpdateAutoScalingGroup",
            &[("MinSize", "0"), ("DesiredCapacity", "0")],
        )
        .expect("update");
    bench.run(3);
    assert_eq!(bench.ids(), [id.as_str()], "protected from scale-in");
}
