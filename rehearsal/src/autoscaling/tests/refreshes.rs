//! Refreshes that go well, and their pace.

use instance_refresh::switches::Rounding;
use instance_refresh::{RefreshStatus, max_existing, min_working};

use super::bench::{Bench, launch_hook};

const MINUTE: u32 = 60;

/// The example of AWS's guide: 10 instances, Min 80, checkpoints 20 and 50, delay 15, warm-up 10.
#[test]
fn the_worked_example_of_the_user_guide_keeps_its_times() {
    let mut bench = Bench::group(10, &[]);
    bench
        .roll(&[
            ("MinHealthyPercentage", "80"),
            ("InstanceWarmup", "600"),
            ("CheckpointPercentages.member.1", "20"),
            ("CheckpointPercentages.member.2", "50"),
            ("CheckpointDelay", "900"),
        ])
        .expect("start");
    bench.settle();
    // (minute, replaced so far, percent)
    for (minute, replaced, percent) in [
        (0, 2, 0),
        (9, 2, 0),
        (10, 2, 20),
        (24, 2, 20),
        (25, 4, 20),
        (34, 4, 20),
        (35, 5, 40),
        (44, 5, 40),
        (45, 5, 50),
    ] {
        let passed = bench.now.duration_since(bench.start).as_secs();
        let target = i64::from(minute) * 60;
        bench.run(u32::try_from(target - passed).expect("forward"));
        assert_eq!(bench.in_service(2), replaced, "at minute {minute}");
        assert_eq!(bench.refresh().percent, percent, "at minute {minute}");
    }
    assert_eq!(bench.refresh().status, RefreshStatus::Successful);
    assert_eq!(
        bench.events(),
        [
            "0s Started",
            "600s Checkpoint Reached (20)",
            "2700s Checkpoint Reached (50)",
            "2700s Succeeded"
        ]
    );
    assert_eq!(
        bench.in_service(1),
        5,
        "a last checkpoint below 100 stops there"
    );
    assert_eq!(bench.of().template.version, "2");
}

/// Every pace brings every group over, within its bounds.
#[test]
fn every_setting_finishes_within_its_bounds() {
    for desired in [1_u32, 2, 3, 10] {
        for (min, max) in [
            ("100", "110"),
            ("100", "150"),
            ("100", "200"),
            ("90", "100"),
            ("50", "100"),
            ("0", "100"),
            ("90", ""),
            ("100", ""),
            ("50", ""),
        ] {
            let mut bench = Bench::group(desired, &launch_hook("60"));
            let mut preferences = vec![("MinHealthyPercentage", min), ("InstanceWarmup", "5")];
            if !max.is_empty() {
                preferences.push(("MaxHealthyPercentage", max));
            }
            bench.roll(&preferences).expect("start");
            let what = format!("{desired} instances, {min}/{max}");
            let (mut least, mut most) = (desired, desired);
            for _ in 0..200 {
                bench.tick();
                bench.settle();
                let serving = bench.in_service(1) + bench.in_service(2);
                least = least.min(serving);
                most = most.max(bench.of().counted());
                bench.run(1);
            }
            assert_eq!(bench.refresh().status, RefreshStatus::Successful, "{what}");
            assert_eq!(bench.in_service(2), desired, "{what}");
            assert_eq!(bench.of().counted(), desired, "{what}");
            let min: u32 = min.parse().expect("a number");
            let bound = min_working(desired, min);
            if let Ok(max) = max.parse::<u32>() {
                // When the bounds permit neither, one is launched first.
                let room = max_existing(desired, max, Rounding::Floor)
                    .max(desired + u32::from(bound == desired));
                assert!(least >= bound, "{what}: {least} served, {bound} must");
                assert!(most <= room, "{what}: {most} existed, {room} may");
            } else {
                let bound = bound.min(desired - 1);
                assert!(least >= bound, "{what}: {least} served, {bound} must");
                assert_eq!(most, desired, "{what}: without a maximum there is no surge");
            }
        }
    }
}

#[test]
fn the_group_adopts_the_new_version_only_at_the_end() {
    let mut bench = Bench::group(2, &[]);
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "200"),
            ("InstanceWarmup", "30"),
            ("BakeTime", "60"),
        ])
        .expect("start");
    bench.run(29);
    assert_eq!(bench.of().template.version, "1");
    let causes: Vec<&str> = bench
        .of()
        .activity_log
        .newest_first()
        .map(|a| a.cause.as_str())
        .collect();
    assert!(
        causes[0].ends_with("an instance was launched in response to an instance refresh."),
        "{causes:?}"
    );
    bench.run_until(MINUTE, |b| b.refresh().status == RefreshStatus::Baking);
    assert_eq!(bench.of().template.version, "1");
    assert_eq!(bench.refresh().percent, 100);
    assert_eq!(bench.finish(2 * MINUTE), RefreshStatus::Successful);
    assert_eq!(bench.of().template.version, "2");
    assert_eq!(bench.refresh().to_update, 0);
    let cause = bench
        .of()
        .activity_log
        .newest_first()
        .find(|a| a.what.starts_with("Terminating"))
        .map(|a| a.cause.clone())
        .expect("an old one left");
    assert!(
        cause.contains("in response to an instance refresh.  At 2026-"),
        "{cause}"
    );
    assert!(cause.ends_with("was selected for termination."), "{cause}");
}

/// A checkpoint bounds what is taken as well as what is launched; 100 is announced by success alone.
#[test]
fn checkpoints_bound_both_sides() {
    let mut bench = Bench::group(10, &launch_hook("60"));
    bench.agent = |_, _| None;
    bench
        .roll(&[
            ("MinHealthyPercentage", "50"),
            ("MaxHealthyPercentage", "100"),
            ("InstanceWarmup", "0"),
            ("CheckpointPercentages.member.1", "20"),
            ("CheckpointPercentages.member.2", "100"),
            ("CheckpointDelay", "30"),
        ])
        .expect("start");
    bench.run(5);
    assert_eq!((bench.in_service(1), bench.of().counted()), (8, 10));
    bench.agent = |_, _| Some("CONTINUE");
    assert_eq!(bench.finish(100), RefreshStatus::Successful);
    let message: Vec<String> = bench
        .events()
        .iter()
        .filter_map(|event| event.split_once(' ').map(|(_, what)| what.to_owned()))
        .collect();
    assert_eq!(message, ["Started", "Checkpoint Reached (20)", "Succeeded"]);
}
