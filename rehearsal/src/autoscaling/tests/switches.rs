//! Behavior that AWS leaves open, with each value of its switch.

use instance_refresh::RefreshStatus;

use super::super::members::LifecycleState;
use super::super::set_switch;
use super::bench::Bench;

fn set(bench: &mut Bench, name: &str, value: &str) {
    set_switch(&mut bench.state, name, value).expect("a switch");
}

/// How many members a group of five holds at most during a refresh.
fn most(bench: &mut Bench, seconds: u32) -> u32 {
    let mut most = 0;
    for _ in 0..seconds {
        bench.tick();
        most = most.max(bench.of().counted());
        bench.run(1);
    }
    most
}

#[test]
fn max_rounding() {
    for (value, at_most) in [("floor", 7), ("ceil", 8)] {
        let mut bench = Bench::group(5, &[]);
        set(&mut bench, "max-rounding", value);
        bench
            .roll(&[
                ("MinHealthyPercentage", "100"),
                ("MaxHealthyPercentage", "150"),
                ("InstanceWarmup", "5"),
            ])
            .expect("start");
        assert_eq!(most(&mut bench, 60), at_most, "{value}");
    }
}

#[test]
fn surge_beyond_max_size() {
    for (value, at_most) in [("on", 10), ("off", 6)] {
        let mut bench = Bench::group(5, &[("MaxSize", "6")]);
        set(&mut bench, "surge-beyond-max-size", value);
        bench
            .roll(&[
                ("MinHealthyPercentage", "100"),
                ("MaxHealthyPercentage", "200"),
                ("InstanceWarmup", "5"),
            ])
            .expect("start");
        assert_eq!(most(&mut bench, 100), at_most, "{value}");
        assert_eq!(bench.refresh().status, RefreshStatus::Successful, "{value}");
    }
}

#[test]
fn no_max_order() {
    for (value, at_most, serving) in [("together", 4, 3), ("launch-first", 5, 4)] {
        let mut bench = Bench::group(4, &[]);
        set(&mut bench, "no-max-order", value);
        bench
            .roll(&[("MinHealthyPercentage", "100"), ("InstanceWarmup", "5")])
            .expect("start");
        bench.tick();
        bench.tick();
        assert_eq!(bench.of().counted(), at_most, "{value}");
        assert_eq!(
            bench.members(|m| m.state == LifecycleState::InService),
            serving,
            "{value}"
        );
        assert_eq!(bench.finish(100), RefreshStatus::Successful, "{value}");
    }
}

/// With staggered gates, continuous pacing replaces the next before the whole batch is warm.
#[test]
fn batches() {
    for (value, third_starts) in [("continuous", 5), ("strict", 9)] {
        let mut bench = Bench::group(4, &super::bench::launch_hook("60"));
        set(&mut bench, "batches", value);
        bench.agent = |_, _| None;
        bench
            .roll(&[
                ("MinHealthyPercentage", "50"),
                ("MaxHealthyPercentage", "100"),
                ("InstanceWarmup", "5"),
            ])
            .expect("start");
        bench.settle();
        let pass = |bench: &mut Bench| {
            let waiting = bench
                .of()
                .members
                .iter()
                .find(|m| m.state == LifecycleState::PendingWait)
                .map(|m| m.id.clone())
                .expect("one at the gate");
            bench
                .ask(
                    "CompleteLifecycleAction",
                    &[
                        ("LifecycleHookName", "gate"),
                        ("InstanceId", waiting.as_str()),
                        ("LifecycleActionResult", "CONTINUE"),
                    ],
                )
                .expect("open");
            bench.settle();
        };
        pass(&mut bench);
        bench.run(4);
        pass(&mut bench);
        bench.run_until(60, |b| b.refresh().launched.len() > 2);
        let after = bench.now.duration_since(bench.start).as_secs();
        assert_eq!(after, third_starts, "{value}");
    }
}

#[test]
fn to_update() {
    for (value, shown) in [("not-started", 2), ("not-updated", 4)] {
        let mut bench = Bench::group(4, &[]);
        set(&mut bench, "to-update", value);
        bench
            .roll(&[("MinHealthyPercentage", "50"), ("InstanceWarmup", "60")])
            .expect("start");
        bench.run(5);
        assert_eq!(bench.refresh().to_update, shown, "{value}");
    }
}

#[test]
fn percent_counts_matching() {
    for (value, shown) in [("off", 0), ("on", 50)] {
        let mut bench = Bench::group(4, &[]);
        set(&mut bench, "percent-counts-matching", value);
        bench
            .roll(&[
                ("MinHealthyPercentage", "50"),
                ("InstanceWarmup", "1"),
                ("CheckpointPercentages.member.1", "50"),
            ])
            .expect("half of it");
        bench.finish(60);
        bench
            .roll(&[
                ("MinHealthyPercentage", "50"),
                ("InstanceWarmup", "60"),
                ("SkipMatching", "true"),
            ])
            .expect("the rest");
        bench.run(5);
        assert_eq!(bench.refresh().percent, shown, "{value}");
    }
}

#[test]
fn checkpoints_in_rollback() {
    for (value, at_least, at_most) in [("off", 0, 60), ("on", 100, 400)] {
        let mut bench = Bench::group(4, &[]);
        set(&mut bench, "checkpoints-in-rollback", value);
        bench
            .roll(&[
                ("MinHealthyPercentage", "50"),
                ("InstanceWarmup", "1"),
                ("CheckpointPercentages.member.1", "50"),
                ("CheckpointPercentages.member.2", "100"),
                ("CheckpointDelay", "100"),
            ])
            .expect("start");
        bench.run(50);
        assert_eq!(bench.in_service(2), 2, "{value}: held at the checkpoint");
        bench
            .ask("RollbackInstanceRefresh", &[])
            .expect("reversible");
        let before = bench.now;
        assert_eq!(
            bench.finish(500),
            RefreshStatus::RollbackSuccessful,
            "{value}"
        );
        let took = bench.now.duration_since(before).as_secs();
        assert!((at_least..=at_most).contains(&took), "{value}: {took} s");
    }
}

#[test]
fn rollback_while_baking() {
    for (value, accepted) in [("on", true), ("off", false)] {
        let mut bench = Bench::group(1, &[]);
        set(&mut bench, "rollback-while-baking", value);
        bench
            .roll(&[
                ("MinHealthyPercentage", "0"),
                ("InstanceWarmup", "1"),
                ("BakeTime", "60"),
            ])
            .expect("start");
        bench.run_until(30, |b| b.refresh().status == RefreshStatus::Baking);
        let answer = bench.ask("RollbackInstanceRefresh", &[]);
        assert_eq!(answer.is_ok(), accepted, "{value}");
        let end = bench.finish(100);
        assert_eq!(
            end == RefreshStatus::RollbackSuccessful,
            accepted,
            "{value}: {end:?}"
        );
    }
}

/// Two stalls with a success between them: only together are they too long.
#[test]
fn stall_reset() {
    for (value, end) in [
        ("more-updated", RefreshStatus::Successful),
        ("newly-ready", RefreshStatus::Successful),
        ("never", RefreshStatus::Failed),
    ] {
        let mut bench = Bench::group(2, &super::bench::launch_hook("600"));
        set(&mut bench, "stall-reset", value);
        set(&mut bench, "stall-limit", "100");
        bench
            .roll(&[
                ("MinHealthyPercentage", "100"),
                ("MaxHealthyPercentage", "150"),
                ("InstanceWarmup", "1"),
            ])
            .expect("start");
        for _ in 0..2 {
            bench.agent = |_, _| None;
            bench.run(70);
            bench.agent = |_, _| Some("CONTINUE");
            bench.run(1);
        }
        assert_eq!(bench.finish(60), end, "{value}");
    }
}

/// Instances count as updated for a while before ELB health kills them: one that only makes up for one that was lost
/// is progress or is not.
#[test]
fn stall_reset_by_replacements_of_lost_ones() {
    for (value, active) in [("more-updated", false), ("newly-ready", true)] {
        let more = [
            ("TargetGroupARNs.member.1", super::bench::TARGETS),
            ("HealthCheckType", "ELB"),
            ("HealthCheckGracePeriod", "20"),
        ];
        let mut bench = Bench::group(3, &more);
        bench.environment.sick.insert(2);
        set(&mut bench, "stall-reset", value);
        set(&mut bench, "stall-limit", "100");
        bench
            .roll(&[
                ("MinHealthyPercentage", "100"),
                ("MaxHealthyPercentage", "110"),
                ("InstanceWarmup", "15"),
            ])
            .expect("start");
        bench.run(300);
        assert_eq!(bench.refresh().status.is_active(), active, "{value}");
    }
}

#[test]
fn success_waits_for_leaving() {
    for (value, left) in [("off", 1), ("on", 0)] {
        let mut bench = Bench::group(1, &[("TargetGroupARNs.member.1", super::bench::TARGETS)]);
        set(&mut bench, "success-waits-for-leaving", value);
        let old = bench.ids()[0].clone();
        bench
            .roll(&[
                ("MinHealthyPercentage", "100"),
                ("MaxHealthyPercentage", "200"),
                ("InstanceWarmup", "1"),
            ])
            .expect("start");
        bench.run(30);
        let target = (super::bench::TARGETS.to_owned(), old.clone());
        assert_eq!(
            bench.environment.targets.get(&target).map(String::as_str),
            Some("draining"),
            "{value}"
        );
        if value == "on" {
            assert_eq!(bench.refresh().status, RefreshStatus::InProgress, "{value}");
            bench.run(4000);
            assert_eq!(
                bench.refresh().status,
                RefreshStatus::InProgress,
                "{value}: draining is no stall"
            );
            bench.environment.targets.remove(&target);
        }
        assert_eq!(bench.finish(5), RefreshStatus::Successful, "{value}");
        assert_eq!(bench.members(|m| m.id == old.as_str()), left, "{value}");
    }
}
