//! The laws of the engine, whatever the preferences are.

use proptest::prelude::*;

use crate::simulation::{Group, Version};
use crate::switches::{Batches, NoMaxOrder, Rounding, StallReset, Switches, ToUpdate};
use crate::{
    AlarmState, InStandby, Preferences, Protected, RefreshStatus, max_existing, min_working,
};

#[test]
fn bounds_round_up_for_min_and_down_for_max() {
    for (desired, min, max, at_least, at_most) in [
        (10, 90, 110, 9, 11),
        (3, 90, 110, 3, 3),
        (3, 67, 134, 3, 4),
        (1, 50, 200, 1, 2),
        (0, 100, 100, 0, 0),
        (7, 0, 100, 0, 7),
    ] {
        assert_eq!(min_working(desired, min), at_least, "{desired} {min}");
        assert_eq!(
            max_existing(desired, max, Rounding::Floor),
            at_most,
            "{desired} {max}"
        );
    }
    assert_eq!(max_existing(3, 110, Rounding::Ceil), 4);
}

#[test]
fn a_refresh_that_is_over_does_nothing() {
    let mut group = Group::of(2).start(Preferences::default());
    let before = group.refresh().clone();
    assert_eq!(before.status, RefreshStatus::Successful);
    group.lose(0);
    group.run(10);
    assert_eq!(*group.refresh(), before);
    assert_eq!(group.existing(), 2, "the group replaces it itself");
}

#[test]
fn a_checkpoint_of_100_is_announced_by_success_alone() {
    let mut group = Group::of(4).start(Preferences {
        min: 50,
        checkpoints: vec![50, 100],
        checkpoint_delay: 30,
        ..Preferences::default()
    });
    assert_eq!(group.finish(100), RefreshStatus::Successful);
    assert_eq!(
        group.events(),
        ["0s Started", "0s Checkpoint Reached (50)", "30s Succeeded"]
    );
}

#[test]
fn insufficient_data_of_an_alarm_is_no_stall() {
    let mut group = Group::of(4).start(Preferences {
        warmup: 10,
        alarms: vec!["errors".to_owned()],
        ..Preferences::default()
    });
    group.set_alarm("errors", AlarmState::InsufficientData);
    group.run(5000);
    assert_eq!(group.refresh().status, RefreshStatus::InProgress);
    group.set_alarm("errors", AlarmState::Ok);
    assert_eq!(group.finish(100), RefreshStatus::Successful);
}

#[test]
fn no_refresh_is_active_for_more_than_two_weeks() {
    let mut group = Group::of(2).start(Preferences {
        checkpoints: vec![50, 100],
        checkpoint_delay: u32::MAX,
        ..Preferences::default()
    });
    group.skip(14 * 24 * 3600 - 1);
    assert_eq!(group.refresh().status, RefreshStatus::InProgress);
    group.run(1);
    assert_eq!(group.refresh().status, RefreshStatus::Failed);
}

fn switches() -> impl Strategy<Value = Switches> {
    (
        prop_oneof![Just(StallReset::MoreUpdated), Just(StallReset::NewlyReady)],
        prop_oneof![Just(NoMaxOrder::Together), Just(NoMaxOrder::LaunchFirst)],
        prop_oneof![Just(Batches::Continuous), Just(Batches::Strict)],
        prop_oneof![Just(ToUpdate::NotStarted), Just(ToUpdate::NotUpdated)],
        any::<[bool; 3]>(),
    )
        .prop_map(|(stall_reset, no_max_order, batches, to_update, flags)| {
            let [
                checkpoints_in_rollback,
                percent_counts_matching,
                success_waits_for_leaving,
            ] = flags;
            Switches {
                stall_reset,
                no_max_order,
                batches,
                to_update,
                checkpoints_in_rollback,
                percent_counts_matching,
                success_waits_for_leaving,
                stall_limit: 300,
                ..Switches::default()
            }
        })
}

fn preferences() -> impl Strategy<Value = Preferences> {
    (
        (0u32..=100, prop::option::of(0u32..=100)),
        0u32..30,
        prop::collection::btree_set(1u32..=100, 0..3),
        0u32..60,
        any::<[bool; 2]>(),
    )
        .prop_map(|((min, above), warmup, checkpoints, bake, flags)| {
            let [skip_matching, auto_rollback] = flags;
            Preferences {
                min,
                max: above.map(|above| (min + above).max(100)),
                warmup,
                checkpoints: checkpoints.into_iter().collect(),
                checkpoint_delay: 20,
                bake,
                skip_matching,
                auto_rollback,
                protected: Protected::Refresh,
                standby: InStandby::Ignore,
                ..Preferences::default()
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A refresh to a version that works succeeds, and never has fewer members ready or more members than its bounds
    /// permit. One member is launched or removed beyond them where nothing else is possible.
    #[test]
    fn a_working_version_is_rolled_out_within_the_bounds(
        desired in 1u32..12,
        matching in 0usize..4,
        preferences in preferences(),
        switches in switches(),
    ) {
        let last = preferences.checkpoints.last().copied().unwrap_or(100);
        let (min, max) = (preferences.min, preferences.max);
        let mut group = Group::of(desired)
            .matching(matching)
            .switches(switches.clone())
            .start(preferences);
        prop_assert_eq!(group.finish(3000), RefreshStatus::Successful);
        if last == 100 {
            prop_assert_eq!(group.serving(Version::New), desired);
        }
        prop_assert_eq!(group.existing(), desired);
        let (ready, existing) = group.extremes();
        let keep = min_working(desired, min);
        match max {
            Some(max) => {
                let room = max_existing(desired, max, Rounding::Floor).max(desired + 1);
                prop_assert!(ready >= keep, "{ready} ready, {keep} must be");
                prop_assert!(existing <= room, "{existing} exist, {room} may");
            }
            None if min == 100 && switches.no_max_order == NoMaxOrder::LaunchFirst => {
                prop_assert!(ready >= keep && existing <= desired + 1, "{ready} {existing}");
            }
            None => {
                prop_assert!(ready >= keep.min(desired - 1), "{ready} ready, {keep} must be");
                prop_assert_eq!(existing, desired);
            }
        }
    }

    /// Whichever members are lost and whether or not the version works: the refresh ends, and the group has its size.
    #[test]
    fn every_refresh_ends(
        desired in 1u32..8,
        broken: bool,
        preferences in preferences(),
        switches in switches(),
        losses in prop::collection::vec((0u32..40, 0usize..8), 0..6),
    ) {
        let group = Group::of(desired).switches(switches);
        let group = if broken { group.broken() } else { group };
        let mut group = group.start(preferences);
        for (pause, position) in losses {
            group.run(pause);
            group.lose(position);
        }
        let status = group.finish(5000);
        prop_assert!(!status.is_active(), "{status:?}");
        prop_assert_eq!(group.existing(), desired);
    }
}
