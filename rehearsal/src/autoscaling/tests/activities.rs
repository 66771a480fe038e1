//! The texts of scaling activities, by which clients distinguish causes.

use proptest::prelude::*;

use super::super::set_switch;
use super::bench::{Bench, GROUP, TARGETS, launch_hook};

/// An activity as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    description: String,
    cause: String,
    status: String,
    message: Option<String>,
    started: jiff::Timestamp,
}

/// The group's activities, newest first.
fn shown(bench: &mut Bench) -> Vec<Shown> {
    let text = bench
        .ask("DescribeScalingActivities", &[])
        .expect("the group");
    let field = |member: &str, name: &str| {
        let (_, rest) = member.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(value.replace("&apos;", "'").replace("&#39;", "'"))
    };
    text.split("</member>")
        .filter(|member| member.contains("<ActivityId>"))
        .map(|member| Shown {
            description: field(member, "Description").expect("a description"),
            cause: field(member, "Cause").expect("a cause"),
            status: field(member, "StatusCode").expect("a status"),
            message: field(member, "StatusMessage"),
            started: field(member, "StartTime")
                .expect("a start")
                .parse()
                .expect("a time"),
        })
        .collect()
}

/// The newest activity whose description starts so and is about the instance.
fn about(bench: &mut Bench, verb: &str, id: &str) -> Shown {
    let all = shown(bench);
    let found = all
        .iter()
        .find(|a| a.description.starts_with(verb) && a.description.contains(id));
    found
        .unwrap_or_else(|| panic!("no {verb} {id} in {all:#?}"))
        .clone()
}

/// R9: one activity per try, with EC2's reason in it once, and pauses that grow.
#[test]
fn refused_launch_is_one_failed_activity_per_try() {
    let mut bench = Bench::group(2, &[]);
    bench.environment.unlaunchable.insert(2);
    let before = shown(&mut bench).len();
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "150"),
        ])
        .expect("start");
    bench.run(90);
    let mut tries = shown(&mut bench);
    tries.truncate(tries.len() - before);
    tries.reverse();
    let reason = "The image id '[ami-x]' does not exist. Launching EC2 instance failed.";
    for one in &tries {
        assert_eq!(one.status, "Failed", "{one:?}");
        assert_eq!(one.message.as_deref(), Some(reason), "{one:?}");
        let whole = format!("Launching a new EC2 instance.  Status Reason: {reason}");
        assert_eq!(one.description, whole, "{one:?}");
        assert!(
            one.cause
                .ends_with("an instance was launched in response to an instance refresh."),
            "{}",
            one.cause
        );
    }
    let pauses: Vec<i64> = tries
        .windows(2)
        .map(|pair| pair[1].started.duration_since(pair[0].started).as_secs())
        .collect();
    assert_eq!(pauses, [5, 10, 20, 40]);
    assert_eq!(bench.environment.refused, tries.len(), "each try is shown");
}

/// R3: why an instance left can be read from the cause, whatever the reason.
#[test]
fn each_kind_of_removal_has_its_own_cause() {
    let elb = [
        ("TargetGroupARNs.member.1", TARGETS),
        ("HealthCheckType", "ELB"),
        ("HealthCheckGracePeriod", "1"),
    ];
    let terminate = |bench: &mut Bench, id: &str, shrink: &str| {
        let form = [
            ("InstanceId", id),
            ("ShouldDecrementDesiredCapacity", shrink),
        ];
        bench
            .call("TerminateInstanceInAutoScalingGroup", &form)
            .expect("a member");
    };
    type Act = Box<dyn Fn(&mut Bench, &str)>;
    let table: Vec<(Act, &str)> = vec![
        (
            Box::new(|bench, id| {
                let key = (TARGETS.to_owned(), id.to_owned());
                bench
                    .environment
                    .targets
                    .insert(key, "unhealthy".to_owned());
            }),
            "an instance was taken out of service in response to an ELB system health check failure.",
        ),
        (
            Box::new(|bench, id| {
                bench
                    .environment
                    .instances
                    .get_mut(id)
                    .expect("there")
                    .state = "stopped".to_owned();
            }),
            "an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped.",
        ),
        (
            Box::new(|bench, id| {
                bench
                    .environment
                    .instances
                    .get_mut(id)
                    .expect("there")
                    .impaired = true;
            }),
            "an instance was taken out of service in response to an EC2 instance status checks failure.",
        ),
        (
            Box::new(|bench, id| {
                let form = [("InstanceId", id), ("HealthStatus", "Unhealthy")];
                bench.call("SetInstanceHealth", &form).expect("a member");
            }),
            "an instance was taken out of service in response to a user health-check.",
        ),
        (
            Box::new(move |bench, id| terminate(bench, id, "false")),
            "instance ID was taken out of service in response to a user request.",
        ),
        (
            Box::new(move |bench, id| terminate(bench, id, "true")),
            "instance ID was taken out of service in response to a user request, shrinking the capacity from 1 to 0.",
        ),
        (
            Box::new(|bench, _| {
                let none = [("DesiredCapacity", "0")];
                bench.ask("SetDesiredCapacity", &none).expect("a group");
            }),
            "an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity from 1 to 0.  At TIME instance ID was selected for termination.",
        ),
        (
            Box::new(|bench, _| {
                bench.roll(&[("MinHealthyPercentage", "0")]).expect("start");
            }),
            "an instance was taken out of service in response to an instance refresh.  At TIME instance ID was selected for termination.",
        ),
    ];
    for (act, cause) in table {
        let mut bench = Bench::group(1, &elb);
        bench.run(2);
        let id = bench.ids()[0].clone();
        act(&mut bench, &id);
        bench.run(1);
        let shown = about(&mut bench, "Terminating", &id);
        let time = super::super::activities::moment(shown.started);
        let expected = cause.replace("ID", &id).replace("TIME", &time);
        assert!(shown.cause.ends_with(&expected), "{}", shown.cause);
        assert_eq!(
            (shown.status.as_str(), shown.description),
            (
                "WaitingForELBConnectionDraining",
                format!("Terminating EC2 instance: {id} - Waiting For ELB Connection Draining.")
            ),
            "{cause}"
        );
    }
}

#[test]
fn launch_that_ends_early_is_cancelled_with_the_reason() {
    // Abandoned, by answer and by silence.
    for (answer, why) in [
        (
            Some("ABANDON"),
            "Lifecycle Action Completed with ABANDON Result",
        ),
        (None, "Heartbeat Timeout"),
    ] {
        let mut bench = Bench::new();
        bench.agent = if answer.is_some() {
            |_, _| Some("ABANDON")
        } else {
            |_, _| None
        };
        bench.create(1, &launch_hook("30"));
        bench.tick();
        let id = bench.ids()[0].clone();
        bench.run(31);
        let launch = about(&mut bench, "Launching", &id);
        let message = launch.message.expect("a reason");
        let start =
            "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token ";
        assert!(message.starts_with(start), "{why}: {message}");
        assert!(
            message.ends_with(&format!(" was abandoned: {why}")),
            "{why}: {message}"
        );
        let whole = format!("Launching a new EC2 instance: {id}.  Status Reason: {message}");
        assert_eq!(
            (launch.status.as_str(), launch.description),
            ("Cancelled", whole),
            "{why}"
        );
        let cause = about(&mut bench, "Terminating", &id).cause;
        let expected = "an instance was taken out of service in response to a launch failure.";
        assert!(cause.ends_with(expected), "{why}: {cause}");
    }

    // Died before it was in service.
    let mut bench = Bench::new();
    bench.agent = |_, _| None;
    bench.create(1, &launch_hook("300"));
    bench.settle();
    let id = bench.ids()[0].clone();
    bench
        .environment
        .die(&id, "Client.VolumeLimitExceeded: Volume limit exceeded");
    bench.run(1);
    assert_eq!(
        about(&mut bench, "Launching", &id).message.as_deref(),
        Some(
            "Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: \
             Client.VolumeLimitExceeded: Volume limit exceeded"
        )
    );

    // Scaled in while it was pending: no failure of the launch.
    let mut bench = Bench::new();
    bench.agent = |_, _| None;
    bench.create(1, &launch_hook("300"));
    bench.settle();
    let id = bench.ids()[0].clone();
    bench
        .ask("SetDesiredCapacity", &[("DesiredCapacity", "0")])
        .expect("a group");
    bench.run(1);
    let cause = about(&mut bench, "Terminating", &id).cause;
    let part = "in response to a difference between desired and actual capacity, shrinking the capacity from 1 to 0.";
    assert!(cause.contains(part), "{cause}");
    let launch = about(&mut bench, "Launching", &id);
    assert_eq!(launch.status, "Cancelled");
    assert_eq!(launch.message.as_deref(), Some(&*cause));
    assert!(
        !launch
            .message
            .unwrap_or_default()
            .contains("Lifecycle Action")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// R14: whatever happens to a group, what did not work out has a reason, and no text ends where it should go on.
    #[test]
    fn nothing_fails_without_a_reason(
        steps in proptest::collection::vec((0u32..9, 0usize..4, 1u32..40), 1..14),
        hook: bool,
    ) {
        let mut more = vec![("TargetGroupARNs.member.1", TARGETS), ("HealthCheckType", "ELB")];
        if hook {
            more.extend(launch_hook("30"));
        }
        let mut bench = Bench::group(3, &more);
        set_switch(&mut bench.state, "stall-limit", "60").expect("a switch");
        for (step, which, seconds) in steps {
            let ids = bench.ids();
            let id = ids.get(which % ids.len().max(1)).cloned().unwrap_or_default();
            // Refusals are part of it: not everything can be done at any time.
            let _ = match step {
                0 => bench.roll(&[("MinHealthyPercentage", "50"), ("AutoRollback", "true")]),
                1 => bench.ask("CancelInstanceRefresh", &[]),
                2 => bench.ask("SetDesiredCapacity", &[("DesiredCapacity", &which.to_string())]),
                3 => bench.call("TerminateInstanceInAutoScalingGroup", &[
                    ("InstanceId", &id),
                    ("ShouldDecrementDesiredCapacity", "true"),
                ]),
                4 => bench.ask("EnterStandby", &[
                    ("InstanceIds.member.1", &id),
                    ("ShouldDecrementDesiredCapacity", "true"),
                ]),
                5 => bench.call("SetInstanceHealth", &[("InstanceId", &id), ("HealthStatus", "Unhealthy")]),
                other => {
                    match other {
                        6 if !bench.environment.unlaunchable.insert(2) => {
                            bench.environment.unlaunchable.clear();
                        }
                        7 => bench.agent = if which == 0 {
                            |_, _| Some("CONTINUE")
                        } else {
                            |_, _| Some("ABANDON")
                        },
                        _ => bench.environment.die(&id, ""),
                    }
                    Ok(GROUP.to_owned())
                }
            };
            for _ in 0..seconds {
                bench.now += jiff::SignedDuration::from_secs(1);
                bench.tick();
            }
        }
        for one in shown(&mut bench) {
            let failed = matches!(one.status.as_str(), "Failed" | "Cancelled");
            let reason = one.message.clone().unwrap_or_default();
            prop_assert_eq!(failed, !reason.trim().is_empty(), "{:?}", one);
            let expected = format!("Status Reason: {reason}");
            prop_assert!(!failed || one.description.ends_with(&expected), "{:?}", one);
            prop_assert_eq!(one.description.matches("Status Reason").count(), usize::from(failed));
            prop_assert!(!one.cause.is_empty() && !one.description.ends_with([':', ' ']), "{:?}", one);
        }
    }
}
