//! The bounds of a refresh hold whatever hooks answer and whichever instances die.

use std::collections::BTreeMap;

use instance_refresh::switches::Rounding;
use instance_refresh::{RefreshStatus, max_existing, min_working};

use super::super::members::LifecycleState;
use super::super::{State, set_switch};
use super::bench::{Bench, launch_hook};
use crate::table::Changes;

/// A small deterministic generator of pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Answers by the instance's number, so that the agents need no memory.
fn moody(version: u64, id: &str) -> Option<&'static str> {
    let number: u64 = id.trim_start_matches("i-").parse().expect("a number");
    match (number.wrapping_mul(2_654_435_761) >> 7) % 5 {
        0 if version == 2 => Some("ABANDON"),
        1 if version == 2 => None,
        _ => Some("CONTINUE"),
    }
}

#[test]
fn the_refresh_never_violates_its_bounds() {
    for seed in 1..=60_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let desired = u32::try_from(1 + dice.roll(12)).expect("few");
        let (min, max) = [
            (100, 110),
            (100, 150),
            (100, 200),
            (90, 110),
            (50, 120),
            (0, 100),
            (75, 100),
        ][usize::try_from(dice.roll(7)).expect("few")];
        let mut bench = Bench::group(desired, &launch_hook("30"));
        bench.agent = moody;
        set_switch(&mut bench.state, "stall-limit", "200").expect("a switch");
        let (min_text, max_text) = (format!("{min}"), format!("{max}"));
        bench
            .roll(&[
                ("MinHealthyPercentage", &min_text),
                ("MaxHealthyPercentage", &max_text),
                ("InstanceWarmup", "7"),
                ("AutoRollback", if seed % 2 == 0 { "true" } else { "false" }),
            ])
            .expect("start");
        let (least, most) = (
            min_working(desired, min),
            max_existing(desired, max, Rounding::Floor).max(desired + 1),
        );
        // Members that were killed do not serve through no fault of the refresh.
        let mut excused: u32 = 0;
        for second in 0..1500 {
            bench.tick();
            let working = bench.members(|m| m.state == LifecycleState::InService && m.is_healthy());
            let existing = bench.of().counted();
            let message = || {
                format!(
                    "seed {seed}, second {second}: {working} serve, {existing} exist, {desired} desired, {min}/{max}\n{:#?}",
                    bench.refresh()
                )
            };
            assert!(working + excused >= least, "{}", message());
            assert!(existing <= most, "{}", message());
            if working >= least {
                excused = 0;
            }
            if dice.roll(40) == 0 && bench.refresh().status.is_active() {
                let ids = bench.ids();
                if let Some(id) = ids.get(usize::try_from(dice.roll(20)).expect("few")) {
                    let id = id.clone();
                    let served = bench
                        .members(|m| m.id == id.as_str() && m.state == LifecycleState::InService);
                    excused += served;
                    bench
                        .environment
                        .instances
                        .get_mut(&id)
                        .expect("it was launched")
                        .state = "terminated".to_owned();
                }
            }
            bench.now += jiff::SignedDuration::from_secs(1);
        }
        bench.agent = |_, _| Some("CONTINUE");
        bench.run(310);
        let status = bench.refresh().status;
        assert!(!status.is_active(), "seed {seed}: {:#?}", bench.refresh());
        assert_eq!(bench.of().counted(), desired, "seed {seed}");
        match status {
            RefreshStatus::Successful => assert_eq!(bench.in_service(2), desired, "seed {seed}"),
            RefreshStatus::RollbackSuccessful => {
                assert_eq!(bench.in_service(1), desired, "seed {seed}")
            }
            _ => {}
        }
    }
}

#[test]
fn a_refresh_of_a_thousand_members_completes() {
    let mut bench = Bench::new();
    bench.create(
        1000,
        &[
            ("AvailabilityZones.member.1", "us-east-1a"),
            ("AvailabilityZones.member.2", "us-east-1b"),
            ("VPCZoneIdentifier", "subnet-a,subnet-b"),
        ],
    );
    bench.settle();
    assert_eq!(bench.in_service(1), 1000);
    assert_eq!(bench.members(|m| m.zone == "us-east-1a"), 500);
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "110"),
            ("InstanceWarmup", "0"),
        ])
        .expect("start");
    for _ in 0..200 {
        bench.tick();
        bench.now += jiff::SignedDuration::from_secs(1);
    }
    assert_eq!(bench.refresh().status, RefreshStatus::Successful);
    assert_eq!(bench.in_service(2), 1000);
    assert_eq!(
        bench.members(|m| m.zone == "us-east-1a" && m.state.is_counted()),
        500
    );
}

#[test]
fn the_state_can_be_saved_and_restored_at_any_time() {
    let mut bench = Bench::group(3, &launch_hook("30"));
    bench.agent = moody;
    bench
        .roll(&[
            ("MinHealthyPercentage", "100"),
            ("MaxHealthyPercentage", "150"),
            ("InstanceWarmup", "7"),
        ])
        .expect("start");
    let (mut before, mut disk) = (State::default(), BTreeMap::new());
    for _ in 0..300 {
        bench.tick();
        bench.now += jiff::SignedDuration::from_secs(1);
        // What changed alone is written; read back, it is the whole state.
        let mut changes = Changes::default();
        bench.state.changes(&before, &mut changes);
        for row in changes.0 {
            match row.value {
                Some(value) => drop(disk.insert((row.table, row.key), value)),
                None => drop(disk.remove(&(row.table, row.key))),
            }
        }
        let mut again = State::default();
        for ((table, key), value) in &disk {
            assert!(again.restore(table, key, value).expect("reads back"));
        }
        let mut differs = Changes::default();
        bench.state.changes(&again, &mut differs);
        assert_eq!(differs.0, []);
        before = again.clone();
        bench.state = again;
    }
    assert_eq!(bench.refresh().status, RefreshStatus::Successful);
}
