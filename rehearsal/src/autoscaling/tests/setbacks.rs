//! Refreshes that do not go well: bad releases, alarms, blocked members, cancel and rollback.

use instance_refresh::{AlarmState, RefreshStatus};
use proptest::prelude::*;

use super::super::set_switch;
use super::bench::{Bench, TARGETS, launch_hook};

const SURGE: [(&str, &str); 3] = [
    ("MinHealthyPercentage", "100"),
    ("MaxHealthyPercentage", "150"),
    ("InstanceWarmup", "10"),
];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    SURGE.iter().copied().chain(more.iter().copied()).collect()
}

/// A group of four whose version 2 never passes its gate.
fn bad_release() -> Bench {
    let mut bench = Bench::group(4, &launch_hook("60"));
    bench.agent = |version, _| Some(if version == 2 { "ABANDON" } else { "CONTINUE" });
    bench
}

#[test]
fn a_refresh_that_never_passes_fails_without_losing_capacity() {
    let mut bench = bad_release();
    bench.roll(&SURGE).expect("start");
    bench.run(3500);
    assert_eq!(bench.refresh().status, RefreshStatus::InProgress);
    assert_eq!(bench.in_service(1), 4, "the old ones must stay");
    assert_eq!(bench.finish(200), RefreshStatus::Failed);
    let reason = bench.refresh().reason.clone().expect("a reason");
    assert!(reason.contains("no progress for 3600 seconds"), "{reason}");
    bench.run(10);
    assert_eq!(bench.in_service(1), 4);
    assert_eq!(bench.of().counted(), 4);
    assert_eq!(bench.of().template.version, "1");
    assert!(
        bench.environment.instances.len() < 40,
        "launches are not slowed down"
    );
}

/// A group of `desired` behind a load balancer whose health replaces members `grace` seconds after they came into
/// service, with a stall limit; version 2 is sick or is not.
fn behind_elb(desired: u32, grace: u32, limit: u32, sick: bool) -> Bench {
    let more = [
        ("TargetGroupARNs.member.1", TARGETS),
        ("HealthCheckType", "ELB"),
        ("HealthCheckGracePeriod", &*grace.to_string()),
    ];
    let mut bench = Bench::group(desired, &more);
    set_switch(&mut bench.state, "stall-limit", &limit.to_string()).expect("a switch");
    if sick {
        bench.environment.sick.insert(2);
    }
    bench
}

/// R6: instances of a sick image come into service, are killed by ELB health and are launched again, so that
/// something is always warming up.
#[test]
fn sick_image_behind_elb_fails_after_the_stall_limit() {
    // The first is the case reported; in the second an instance counts as updated before it is killed.
    for (grace, limit, warmup) in [(30, 20, "60"), (30, 100, "10"), (5, 300, "60")] {
        for (auto_rollback, end) in [
            ("false", RefreshStatus::Failed),
            ("true", RefreshStatus::RollbackSuccessful),
        ] {
            let mut bench = behind_elb(3, grace, limit, true);
            bench
                .roll(&[
                    ("MinHealthyPercentage", "100"),
                    ("MaxHealthyPercentage", "110"),
                    ("InstanceWarmup", warmup),
                    ("AutoRollback", auto_rollback),
                ])
                .expect("start");
            let context = format!("{grace} {limit} {warmup} {auto_rollback}");
            assert_eq!(bench.finish(1200), end, "{context}");
            let refresh = bench.refresh();
            let rollback = refresh.rollback.as_ref().map(|r| r.reason.clone());
            let reason = rollback.or_else(|| refresh.reason.clone());
            let reason = reason.expect("a reason");
            let expected = format!("no progress for {limit} seconds");
            assert!(reason.contains(&expected), "{context}: {reason}");
            bench.run(400);
            assert_eq!(
                bench.in_service(1),
                3,
                "{context}: the saved version is back"
            );
        }
    }
}

#[test]
fn warm_up_longer_than_the_stall_limit_is_no_stall() {
    let mut bench = behind_elb(3, 1, 20, false);
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "110"),
            ("InstanceWarmup", "600"),
        ])
        .expect("start");
    assert_eq!(bench.finish(2000), RefreshStatus::Successful);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever warm-up, grace period and bounds: a refresh to a healthy image succeeds, and one to an image whose
    /// instances do not outlive their grace period ends soon after the limit.
    #[test]
    fn every_refresh_behind_elb_ends(
        desired in 1u32..6,
        grace in 1u32..40,
        warmup in 0u32..60,
        limit in 10u32..90,
        min in 50u32..=100,
        surge in 0u32..=50,
        sick: bool,
    ) {
        // An instance that warms up faster than ELB can judge it counts as updated, as on AWS: the whole group may.
        let warmup = if sick { warmup.max(grace + 1) } else { warmup };
        let mut bench = behind_elb(desired, grace, limit, sick);
        bench
            .roll(&[
                ("MinHealthyPercentage", &*min.to_string()),
                ("MaxHealthyPercentage", &*(100 + surge).to_string()),
                ("InstanceWarmup", &*warmup.to_string()),
            ])
            .expect("start");
        let (most, end) = if sick {
            (limit + warmup + 10, RefreshStatus::Failed)
        } else {
            (desired * (warmup + 10), RefreshStatus::Successful)
        };
        prop_assert_eq!(bench.finish(most), end);
    }
}

#[test]
fn auto_rollback_restores_the_previous_version() {
    let mut bench = Bench::group(4, &launch_hook("60"));
    // The first two instances of the release pass, no other does.
    bench.agent = |version, id| {
        let late = id
            .trim_start_matches("i-")
            .parse::<u32>()
            .expect("a number")
            > 20;
        Some(if version == 2 && late {
            "ABANDON"
        } else {
            "CONTINUE"
        })
    };
    set_switch(&mut bench.state, "stall-limit", "90").expect("a switch");
    bench
        .roll(&with(&[("AutoRollback", "true")]))
        .expect("start");
    bench.run_until(400, |b| {
        b.refresh().status == RefreshStatus::RollbackInProgress
    });
    let details = bench.refresh().rollback.clone().expect("rollback details");
    assert!(details.percent > 0, "{details:?}");
    assert_eq!(bench.refresh().percent, details.percent);
    assert!(details.reason.contains("no progress for 90 seconds"));
    assert_eq!(bench.finish(400), RefreshStatus::RollbackSuccessful);
    assert_eq!(bench.refresh().percent, 0);
    assert_eq!(bench.refresh().to_update, details.to_update);
    bench.run(5);
    assert_eq!((bench.in_service(1), bench.of().counted()), (4, 4));
    assert_eq!(bench.of().template.version, "1");
    let events = bench.events().join("\n");
    assert!(
        events.contains("Rollback Started") && events.ends_with("Rollback Succeeded"),
        "{events}"
    );
}

#[test]
fn a_rollback_whose_old_version_no_longer_launches_fails() {
    let mut bench = Bench::group(3, &[]);
    set_switch(&mut bench.state, "stall-limit", "60").expect("a switch");
    bench
        .roll(&[
            ("MinHealthyPercentage", "50"),
            ("InstanceWarmup", "5"),
            ("CheckpointPercentages.member.1", "50"),
            ("CheckpointPercentages.member.2", "100"),
        ])
        .expect("start");
    bench.run(30);
    assert!(bench.in_service(2) >= 2);
    bench.environment.unlaunchable.insert(1);
    bench
        .ask("RollbackInstanceRefresh", &[])
        .expect("reversible");
    assert_eq!(bench.finish(400), RefreshStatus::RollbackFailed);
    let failed = bench
        .of()
        .activity_log
        .newest_first()
        .find_map(|a| a.status.message().map(str::to_owned));
    assert_eq!(
        failed.as_deref(),
        Some("The image id '[ami-x]' does not exist. Launching EC2 instance failed.")
    );
}

#[test]
fn alarms_must_be_ok_to_start_and_stop_a_running_refresh() {
    for (state, starts) in [
        (AlarmState::Ok, true),
        (AlarmState::Alarm, false),
        (AlarmState::InsufficientData, false),
    ] {
        let mut bench = Bench::group(2, &[]);
        bench.environment.alarms.insert("errors".to_owned(), state);
        let started = bench.roll(&with(&[("AlarmSpecification.Alarms.member.1", "errors")]));
        assert_eq!(started.is_ok(), starts, "{state:?}");
    }
    for (rollback, end) in [
        ("false", RefreshStatus::Failed),
        ("true", RefreshStatus::RollbackSuccessful),
    ] {
        let mut bench = Bench::group(2, &[]);
        bench
            .environment
            .alarms
            .insert("errors".to_owned(), AlarmState::Ok);
        bench
            .roll(&with(&[
                ("AlarmSpecification.Alarms.member.1", "errors"),
                ("AutoRollback", rollback),
            ]))
            .expect("start");
        bench.run(3);
        bench
            .environment
            .alarms
            .insert("errors".to_owned(), AlarmState::Alarm);
        assert_eq!(bench.finish(100), end, "{rollback}");
        bench.run(1);
        assert_eq!(bench.of().counted(), 2, "{rollback}");
        let reason = bench
            .refresh()
            .rollback
            .as_ref()
            .map(|r| r.reason.clone())
            .or_else(|| bench.refresh().reason.clone())
            .expect("a reason");
        assert!(reason.contains("errors"), "{reason}");
    }
}

#[test]
fn insufficient_data_pauses_without_counting_as_a_stall() {
    let mut bench = Bench::group(4, &[]);
    bench
        .environment
        .alarms
        .insert("errors".to_owned(), AlarmState::Ok);
    bench
        .roll(&with(&[("AlarmSpecification.Alarms.member.1", "errors")]))
        .expect("start");
    bench.run(1);
    bench
        .environment
        .alarms
        .insert("errors".to_owned(), AlarmState::InsufficientData);
    let replaced = bench.in_service(2);
    bench.run(5000);
    assert_eq!(bench.in_service(2), replaced);
    assert_eq!(bench.refresh().status, RefreshStatus::InProgress);
    bench
        .environment
        .alarms
        .insert("errors".to_owned(), AlarmState::Ok);
    assert_eq!(bench.finish(100), RefreshStatus::Successful);
}

#[test]
fn an_alarm_while_baking_is_governed_by_its_switch() {
    for (switch, end) in [
        ("on", RefreshStatus::Failed),
        ("off", RefreshStatus::Successful),
    ] {
        let mut bench = Bench::group(1, &[]);
        set_switch(&mut bench.state, "alarms-while-baking", switch).expect("a switch");
        bench
            .environment
            .alarms
            .insert("errors".to_owned(), AlarmState::Ok);
        bench
            .roll(&with(&[
                ("AlarmSpecification.Alarms.member.1", "errors"),
                ("BakeTime", "60"),
            ]))
            .expect("start");
        bench.run_until(60, |b| b.refresh().status == RefreshStatus::Baking);
        bench
            .environment
            .alarms
            .insert("errors".to_owned(), AlarmState::Alarm);
        assert_eq!(bench.finish(100), end, "{switch}");
    }
}

#[test]
fn suspended_processes_pause_a_refresh() {
    for process in ["InstanceRefresh", "Launch", "Terminate"] {
        let mut bench = Bench::group(2, &[]);
        bench
            .ask(
                "SuspendProcesses",
                &[("ScalingProcesses.member.1", process)],
            )
            .expect("suspend");
        bench.roll(&SURGE).expect("start");
        bench.run(4000);
        assert_eq!(
            bench.refresh().status,
            RefreshStatus::InProgress,
            "{process}"
        );
        assert_eq!(bench.in_service(1), 2, "{process}");
        bench
            .ask("ResumeProcesses", &[("ScalingProcesses.member.1", process)])
            .expect("resume");
        assert_eq!(bench.finish(100), RefreshStatus::Successful, "{process}");
    }
}

#[test]
fn cancel_keeps_replaced_instances_and_finishes_pending() {
    let mut bench = Bench::group(4, &launch_hook("300"));
    bench.agent = |_, _| None;
    bench.roll(&SURGE).expect("start");
    bench.run(5);
    let waiting = bench.members(|m| m.state.is_pending());
    assert_eq!(waiting, 2);
    bench.ask("CancelInstanceRefresh", &[]).expect("active");
    bench.run(5);
    assert_eq!(bench.refresh().status, RefreshStatus::Cancelling);
    bench
        .ask("CancelInstanceRefresh", &[])
        .expect_err("being cancelled already");
    bench.agent = |_, _| Some("CONTINUE");
    assert_eq!(bench.finish(10), RefreshStatus::Cancelled);
    bench.run(2);
    assert_eq!(bench.of().counted(), 4, "the surplus is scaled in");
    assert_eq!(bench.of().template.version, "1");
    let again = bench.ask("CancelInstanceRefresh", &[]).expect_err("over");
    assert_eq!(again.code, "ActiveInstanceRefreshNotFound");
}

#[test]
fn cancel_without_waiting_ends_at_once() {
    let mut bench = Bench::group(4, &launch_hook("300"));
    bench.agent = |_, _| None;
    bench.roll(&SURGE).expect("start");
    bench.run(5);
    bench
        .ask(
            "CancelInstanceRefresh",
            &[("WaitForTransitioningInstances", "false")],
        )
        .expect("active");
    assert_eq!(bench.finish(1), RefreshStatus::Cancelled);
}

#[test]
fn a_manual_rollback_can_be_cancelled() {
    let mut bench = Bench::group(4, &[]);
    bench
        .roll(&with(&[
            ("CheckpointPercentages.member.1", "50"),
            ("CheckpointPercentages.member.2", "100"),
        ]))
        .expect("start");
    bench.run(30);
    assert_eq!((bench.in_service(1), bench.in_service(2)), (2, 2));
    bench
        .ask("RollbackInstanceRefresh", &[])
        .expect("reversible");
    bench.settle();
    assert_eq!(bench.refresh().status, RefreshStatus::RollbackInProgress);
    let twice = bench
        .ask("RollbackInstanceRefresh", &[])
        .expect_err("rolling back already");
    assert_eq!(twice.code, "ActiveInstanceRefreshNotFound");
    assert_eq!(bench.finish(60), RefreshStatus::RollbackSuccessful);
    assert_eq!((bench.in_service(1), bench.in_service(2)), (4, 0));

    bench.roll(&SURGE).expect("start again");
    bench.run(12);
    bench
        .ask("RollbackInstanceRefresh", &[])
        .expect("reversible");
    bench.settle();
    bench
        .ask("CancelInstanceRefresh", &[])
        .expect("a rollback can be cancelled");
    assert_eq!(bench.finish(60), RefreshStatus::Cancelled);
}

#[test]
fn an_irreversible_refresh_refuses_rollback_with_the_reason() {
    for (saved, desired, parameter) in [
        ("$Latest", "2", false),
        ("$Default", "2", false),
        ("1", "", false),
        ("1", "2", true),
    ] {
        let mut bench = Bench::group(2, &[("LaunchTemplate.Version", saved)]);
        if parameter {
            bench.environment.by_parameter.insert(1);
        }
        let form = if desired.is_empty() {
            vec![("Preferences.MinHealthyPercentage", "50")]
        } else {
            vec![
                (
                    "DesiredConfiguration.LaunchTemplate.LaunchTemplateId",
                    "lt-1",
                ),
                ("DesiredConfiguration.LaunchTemplate.Version", desired),
            ]
        };
        let mut with_rollback = form.clone();
        with_rollback.push(("Preferences.AutoRollback", "true"));
        let refused = bench
            .ask("StartInstanceRefresh", &with_rollback)
            .expect_err(saved);
        assert_eq!(refused.code, "ValidationError", "{saved} {desired}");
        if desired.is_empty() {
            assert_eq!(
                refused.message,
                "The AutoRollback parameter cannot be set to true when the DesiredConfiguration parameter is empty.",
                "{saved} {desired}"
            );
        }
        if parameter {
            continue;
        }
        bench
            .ask("StartInstanceRefresh", &form)
            .expect("without rollback it starts");
        let refused = bench.ask("RollbackInstanceRefresh", &[]).expect_err(saved);
        assert_eq!(
            refused.code, "IrreversibleInstanceRefresh",
            "{saved} {desired}"
        );
    }
}

#[test]
fn protected_members_are_waited_for_ignored_or_replaced() {
    for (choice, end, left) in [
        ("Wait", RefreshStatus::Failed, 1),
        ("Ignore", RefreshStatus::Successful, 1),
        ("Refresh", RefreshStatus::Successful, 0),
    ] {
        let mut bench = Bench::group(4, &[]);
        let id = bench.ids()[0].clone();
        bench.protect(&id, "true");
        bench
            .roll(&with(&[("ScaleInProtectedInstances", choice)]))
            .expect("start");
        if choice == "Wait" {
            bench.run(60);
            assert_eq!(bench.in_service(2), 3, "{choice}");
            assert_eq!(
                bench.of().counted(),
                4,
                "{choice}: nothing is launched that has no place"
            );
            assert_eq!(bench.refresh().percent, 75, "{choice}");
            let reason = bench.refresh().reason.clone().expect("a reason");
            assert!(
                reason.ends_with(&format!(
                    "{id} is protected. Remove instance scale-in protection to continue."
                )),
                "{choice}: {reason}"
            );
        }
        assert_eq!(bench.finish(4000), end, "{choice}");
        assert_eq!(bench.in_service(1), left, "{choice}");
    }
}

#[test]
fn protection_removed_in_time_lets_the_refresh_continue() {
    let mut bench = Bench::group(2, &[]);
    let id = bench.ids()[0].clone();
    bench.protect(&id, "true");
    bench.roll(&SURGE).expect("start");
    bench.run(3000);
    bench.protect(&id, "false");
    assert_eq!(bench.finish(100), RefreshStatus::Successful);
}

#[test]
fn members_in_standby_are_waited_for_ignored_or_terminated() {
    for (choice, end, left) in [
        ("Wait", RefreshStatus::Failed, 1),
        ("Ignore", RefreshStatus::Successful, 1),
        ("Terminate", RefreshStatus::Successful, 0),
    ] {
        let mut bench = Bench::group(3, &[]);
        let id = bench.ids()[0].clone();
        bench
            .ask(
                "EnterStandby",
                &[
                    ("InstanceIds.member.1", &id),
                    ("ShouldDecrementDesiredCapacity", "true"),
                ],
            )
            .expect("in service");
        bench.run(1);
        bench
            .roll(&with(&[("StandbyInstances", choice)]))
            .expect("start");
        assert_eq!(bench.finish(4000), end, "{choice}");
        assert_eq!(bench.in_service(2), 2, "{choice}");
        assert_eq!(bench.members(|m| m.id == id.as_str()), left, "{choice}");
    }
}

#[test]
fn starting_with_invalid_preferences_is_refused() {
    for (preferences, text) in [
        (
            &[("MaxHealthyPercentage", "110")][..],
            "must specify MinHealthyPercentage",
        ),
        (
            &[
                ("MinHealthyPercentage", "50"),
                ("MaxHealthyPercentage", "160"),
            ],
            "cannot be greater than 100",
        ),
        (&[("MinHealthyPercentage", "101")], "between 0 and 100"),
        (
            &[
                ("MinHealthyPercentage", "90"),
                ("MaxHealthyPercentage", "99"),
            ],
            "between 100 and 200",
        ),
        (
            &[
                ("CheckpointPercentages.member.1", "50"),
                ("CheckpointPercentages.member.2", "20"),
            ],
            "ascending",
        ),
        (
            &[
                ("CheckpointPercentages.member.1", "50"),
                ("CheckpointPercentages.member.2", "50"),
            ],
            "unique",
        ),
        (
            &[("CheckpointDelay", "10")],
            "must specify CheckpointPercentages",
        ),
        (
            &[("ScaleInProtectedInstances", "Maybe")],
            "Refresh, Ignore, Wait",
        ),
        (&[("MinHealthyPercentage", "many")], "whole number"),
    ] {
        let mut bench = Bench::group(1, &[]);
        let refused = bench.roll(preferences).expect_err(text);
        assert_eq!(refused.code, "ValidationError", "{text}");
        assert!(refused.message.contains(text), "{}", refused.message);
    }
    let mut bench = Bench::group(1, &[]);
    let refused = bench
        .ask("StartInstanceRefresh", &[("Strategy", "ReplaceRootVolume")])
        .expect_err("left out");
    assert!(refused.message.contains("ReplaceRootVolume"));
    bench.roll(&SURGE).expect("start");
    let refused = bench.roll(&SURGE).expect_err("one at a time");
    assert_eq!(refused.code, "InstanceRefreshInProgress");
}

#[test]
fn the_groups_template_cannot_change_during_a_refresh() {
    let mut bench = Bench::group(2, &[]);
    bench.roll(&SURGE).expect("start");
    bench.settle();
    let update = [
        ("LaunchTemplate.LaunchTemplateId", "lt-1"),
        ("LaunchTemplate.Version", "2"),
    ];
    let refused = bench
        .ask("UpdateAutoScalingGroup", &update)
        .expect_err("a desired configuration is active");
    assert!(
        refused
            .message
            .starts_with("An active instance refresh with a desired configuration exists.")
    );
    bench
        .ask("UpdateAutoScalingGroup", &[("MaxSize", "20")])
        .expect("sizes may change");
    bench.finish(100);
    bench.ask("UpdateAutoScalingGroup", &update).expect("over");
}

/// Without a maximum one goes before its replacement comes; if none comes, no second one goes.
#[test]
fn a_failing_launch_without_max_costs_only_what_min_allows() {
    for (min, least) in [("100", 3), ("90", 3), ("50", 2)] {
        let mut bench = Bench::group(4, &[]);
        bench.environment.unlaunchable.insert(2);
        bench.roll(&[("MinHealthyPercentage", min)]).expect("start");
        bench.run(3000);
        assert_eq!(bench.in_service(1), least, "{min}");
        assert_eq!(bench.finish(700), RefreshStatus::Failed, "{min}");
        bench.environment.unlaunchable.clear();
        bench.run(301);
        assert_eq!(
            bench.in_service(1),
            4,
            "{min}: the saved version fills up again"
        );
    }
}

#[test]
fn no_refresh_is_active_for_more_than_two_weeks() {
    let mut bench = Bench::group(2, &[]);
    bench
        .roll(&with(&[
            ("CheckpointPercentages.member.1", "50"),
            ("CheckpointPercentages.member.2", "100"),
            ("CheckpointDelay", "172800"),
        ]))
        .expect("start");
    bench.run(15);
    bench.now += jiff::SignedDuration::from_hours(14 * 24);
    bench.settle();
    assert_eq!(bench.refresh().status, RefreshStatus::Failed);
}

#[test]
fn protection_set_during_a_refresh_is_respected_by_ignore() {
    let mut bench = Bench::group(4, &[]);
    bench
        .roll(&with(&[("ScaleInProtectedInstances", "Ignore")]))
        .expect("start");
    bench.run(3);
    let id = bench
        .ids()
        .into_iter()
        .rfind(|id| bench.environment.versions[id] == 1)
        .expect("an old one");
    bench.protect(&id, "true");
    assert_eq!(bench.finish(200), RefreshStatus::Successful);
    assert_eq!((bench.in_service(1), bench.in_service(2)), (1, 3));
    assert!(bench.ids().contains(&id));
}
