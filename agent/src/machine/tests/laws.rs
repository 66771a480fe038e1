//! Random lives: whatever the world does, some things never happen.

use super::life::{Dice, Life};
use crate::machine::*;

impl Life {
    /// What must hold whatever the world does, checked on the transcript.
    fn assert_lawful(&self, seed: u64) {
        let mut verdict = "";
        let (mut erased, mut abandoned) = (false, false);
        for line in &self.log {
            let words: Vec<&str> = line.split(' ').skip(1).collect();
            let context = || format!("seed {seed}: {line} in {:#?}", self.log);
            match words[..] {
                ["CONTINUE", _, "in:", _] => assert_eq!(verdict, "Fit", "{}", context()),
                ["ABANDON", _, "in:", _] => {
                    assert_eq!(verdict, "Unfit", "{}", context());
                    abandoned |= words[3] == "Accepted";
                }
                ["ABANDON", _, "out:", _] => panic!("{}", context()),
                ["CONTINUE", _, "out:", _] => {
                    assert!(verdict == "Draining" || abandoned, "{}", context());
                }
                ["reported", _] => assert_eq!(verdict, "Unfit", "{}", context()),
                ["erased"] => {
                    let leaving = verdict == "Draining" || abandoned;
                    assert!(!erased && leaving, "{}", context());
                    erased = true;
                }
                [word, ..] => {
                    assert_ne!(verdict, "Draining", "there is no way back: {}", context());
                    verdict = word;
                }
                [] => panic!("{}", context()),
            }
        }
        if erased {
            assert_eq!(self.registry, None, "seed {seed}: the record came back");
        }
    }
}

#[test]
fn whatever_the_world_does_the_laws_hold_and_calm_ends_in_order() {
    for seed in 1..=400_u64 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut life = Life::in_group(Phase::Pending);
        (life.slowness, life.dice) = (seed * 10, Dice(dice.0));
        for _ in 0..25 {
            match dice.below(12) {
                0 => life.api = !life.api,
                1 => life.imds = !life.imds,
                2 | 3 => life.healthy = !life.healthy,
                4 if life.place == Some(Phase::Pending) => life.place = Some(Phase::PendingWait),
                5 if life.place == Some(Phase::PendingWait) => life.place = Some(Phase::InService),
                6 if life.place == Some(Phase::InService) => {
                    life.place = Some(Phase::Other("Standby".to_owned()));
                }
                7 if dice.below(4) == 0 => {
                    life.place = Some(Phase::Terminating);
                    life.target = Some(Target::Terminated);
                }
                8 if life.place == Some(Phase::Terminating) => {
                    life.place = Some(Phase::TerminatingWait);
                }
                9 => life.target = None,
                10 if life.place.is_none() => life.place = Some(Phase::InService),
                _ => {}
            }
            let end = life.at() + 1 + dice.below(40);
            life.until(end);
            life.assert_lawful(seed);
        }
        (life.api, life.imds, life.healthy) = (true, true, true);
        match life.place {
            Some(Phase::Terminating) => life.place = Some(Phase::TerminatingWait),
            Some(Phase::Pending) => life.place = Some(Phase::PendingWait),
            _ => {}
        }
        let departing = life.place.as_ref().is_some_and(Phase::is_departing);
        life.target = Some(if departing {
            Target::Terminated
        } else {
            Target::InService
        });
        let end = life.at() + 300;
        life.until(end);
        life.assert_lawful(seed);
        let state = life.machine.state_name();
        let departing = life.place.as_ref().is_some_and(Phase::is_departing);
        let expected: &[&str] = if departing {
            &["gone", "abandoned"]
        } else {
            &["serving"]
        };
        assert!(
            expected.contains(&state),
            "seed {seed}: {state}, {:?}: {:#?}",
            life.place,
            life.log
        );
    }
}
