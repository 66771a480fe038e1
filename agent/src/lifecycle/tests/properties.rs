//! Properties that hold for random sequences of events.

use super::life::{Dice, Life, terms};
use crate::health::{DrainAnswer, Unclear};
use crate::lifecycle::*;
use crate::notice::SpotNotices;

impl Life {
    /// The properties, checked on the transcript.
    fn assert_lawful(&self, seed: u64) {
        let mut verdict = "";
        let (mut record_removed, mut abandoned, mut back) = (false, false, false);
        let (mut restarted, mut treated) = (None::<u64>, false);
        for line in &self.log {
            let parts: Vec<&str> = line.split(' ').skip(1).collect();
            let context = || format!("seed {seed}: {line} in {:#?}", self.log);
            match parts[..] {
                ["CONTINUE", _, "in:", _] => {
                    assert!(["Fit", "Resting"].contains(&verdict), "{}", context());
                }
                ["ABANDON", _, "in:", _] => {
                    assert_eq!(verdict, "Unfit", "{}", context());
                    abandoned |= parts[3] == "Accepted";
                }
                ["ABANDON", _, "out:", _] => panic!("{}", context()),
                ["CONTINUE", _, "out:", _] => {
                    assert!(verdict == "Draining" || abandoned, "{}", context());
                }
                ["announced:" | "warned:", ..] => {}
                // EC2 called its notice off, or a hibernated instance woke up: the one way back.
                ["Judging"] if back => {
                    verdict = "Judging";
                    record_removed = false;
                }
                ["reported", _] => {
                    assert_eq!(verdict, "Unfit", "{}", context());
                }
                // In traffic only while fit; deregistered before the instance is released, unless the drain is overdue.
                ["registered", ..] => assert_eq!(verdict, "Fit", "{}", context()),
                ["deregistered", ..] => assert_ne!(verdict, "Fit", "{}", context()),
                // Once an illness, and never twice within a minute.
                ["restart", ..] => {
                    assert_eq!(verdict, "Unfit", "{}", context());
                    let at: u64 = line.split(' ').next().unwrap().parse().unwrap();
                    assert!(
                        restarted.is_none_or(|last| at >= last + 60),
                        "{}",
                        context()
                    );
                    assert!(!std::mem::replace(&mut treated, true), "{}", context());
                    restarted = Some(at);
                }
                ["record_removed"] => {
                    let leaving = verdict == "Draining" || abandoned;
                    assert!(!record_removed && leaving, "{}", context());
                    record_removed = true;
                }
                [verdict_word, ..] => {
                    assert_ne!(verdict, "Draining", "there is no way back: {}", context());
                    if matches!(verdict_word, "Fit") {
                        assert_ne!(verdict, "Resting", "past the gate: {}", context());
                    }
                    treated &= verdict_word == "Unfit";
                    verdict = verdict_word;
                    back = verdict_word == "Draining"
                        && !line.ends_with("the group is terminating this instance");
                }
                [] => panic!("{}", context()),
            }
        }
        if record_removed {
            assert_eq!(self.registry, None, "seed {seed}: the record came back");
        }
    }
}

#[test]
fn invariants_hold_for_any_sequence_of_events() {
    for seed in 1..=400_u64 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut life = Life::in_group(Phase::Pending);
        let mut terms = terms();
        terms.serving.restart = true;
        terms.target_groups = vec!["arn:ours".to_owned()];
        terms.drain.deadline = Duration::from_secs(600);
        terms.drain.poll = seed.is_multiple_of(2).then_some(Duration::from_secs(5));
        life.terms = Ok(terms);
        (life.slowness, life.dice) = (seed * 10, Dice(dice.0));
        for _ in 0..25 {
            life.answers = [
                |_| DrainAnswer::Busy,
                |_| DrainAnswer::Done,
                |_| DrainAnswer::Unclear {
                    kind: Unclear::Failed,
                    detail: String::new(),
                },
            ][usize::try_from(seed % 7 % 3).unwrap()];
            match dice.below(18) {
                0 => life.api = !life.api,
                1 => life.imds = !life.imds,
                2 | 3 => life.healthy = !life.healthy,
                4 if life.place == Some(Phase::Pending) => life.place = Some(Phase::PendingWait),
                5 if life.place == Some(Phase::PendingWait) => life.place = Some(Phase::InService),
                6 if life.place == Some(Phase::InService) => {
                    life.place = Some(Phase::Other("Standby".to_owned()));
                    life.target_state = Some(TargetState::OutOfService("Standby".to_owned()));
                }
                7 if dice.below(4) == 0 => {
                    life.place = Some(Phase::Terminating);
                    life.target_state = Some(TargetState::Terminated);
                }
                8 if life.place == Some(Phase::Terminating) => {
                    life.place = Some(Phase::TerminatingWait);
                }
                9 => life.target_state = None,
                10 if life.place.is_none() => life.place = Some(Phase::InService),
                11 if life.place == Some(Phase::Pending) => {
                    life.place = Some(Phase::WarmPendingWait);
                    life.target_state =
                        Some(TargetState::OutOfService("Warmed:Hibernated".to_owned()));
                }
                12 | 13 if matches!(life.place, Some(Phase::Other(_) | Phase::WarmPendingWait)) => {
                    // An instance that never read that it was out of service, without its metadata service, cannot know that its
                    // hook waits a second time.
                    life.place = Some(match life.lifecycle.state_name() {
                        "serving" | "ailing" => Phase::InService,
                        _ => Phase::PendingWait,
                    });
                    life.target_state = Some(TargetState::InService);
                }
                14 => {
                    life.slept += 3600;
                    life.under_way.push((life.now, Event::ClockJumped));
                }
                15 if dice.below(4) == 0 => {
                    let soon = life.clock().as_second() + 120;
                    life.interrupt("hibernate", soon);
                }
                17 => life.peers.sick = if life.peers.sick == 0 { 5 } else { 0 },
                16 => life.spot = SpotNotices::default(),
                _ => {}
            }
            let end = life.at() + 1 + dice.below(40);
            life.until(end);
            life.assert_lawful(seed);
        }
        (life.api, life.imds, life.healthy) = (true, true, true);
        life.answers = |_| DrainAnswer::Done;
        life.spot = SpotNotices::default();
        life.slept += 120;
        match life.place {
            Some(Phase::Terminating) => life.place = Some(Phase::TerminatingWait),
            Some(Phase::Pending | Phase::WarmPendingWait) => life.place = Some(Phase::PendingWait),
            Some(Phase::Other(_)) => life.place = Some(Phase::InService),
            _ => {}
        }
        let departing = life.place.as_ref().is_some_and(Phase::is_terminating);
        life.target_state = Some(if departing {
            TargetState::Terminated
        } else {
            TargetState::InService
        });
        let end = life.at() + 300;
        life.until(end);
        life.assert_lawful(seed);
        let state = life.lifecycle.state_name();
        assert_eq!(
            life.registered,
            state == "serving",
            "seed {seed}: {:#?}",
            life.log
        );
        let departing = life.place.as_ref().is_some_and(Phase::is_terminating);
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
