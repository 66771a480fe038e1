//! Target groups that the agent manages, and the final record of a daemon.

use super::life::{Life, terms};
use crate::lifecycle::*;
use crate::settings::{Drain, OnFailure};

const OURS: &str = "arn:aws:elasticloadbalancing:r:1:targetgroup/ours/1";
const THEIRS: &str = "arn:aws:elasticloadbalancing:r:1:targetgroup/theirs/2";

fn with(phase: Phase, groups: &[&str], on_failure: OnFailure) -> Life {
    let mut life = Life::in_group(phase);
    life.terms = Ok(Terms {
        target_groups: groups.iter().map(|name| (*name).to_owned()).collect(),
        drain: Drain {
            on_failure,
            ..terms().drain
        },
        ..terms()
    });
    life
}

fn life() -> Life {
    with(Phase::PendingWait, &[OURS, THEIRS], OnFailure::Continue)
}

#[test]
fn targets_are_deregistered_before_the_hook_is_answered() {
    let mut life = life();
    life.attached = vec![THEIRS.to_owned()];
    life.until(100);
    assert_eq!(
        life.transcript()[1..],
        [
            "4 Fit".to_owned(),
            "4 CONTINUE on in: Accepted".to_owned(),
            format!("4 announced: {THEIRS} is attached to the group: the agent does not manage it"),
            format!("4 registered with {OURS}"),
        ]
        .map(|line| line
            .replace("4 announced", "6 announced")
            .replace("4 registered", "6 registered")),
    );
    (life.target_state, life.place) = (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
    life.balancers = "draining";
    life.until(130);
    assert_eq!(
        life.transcript().last().unwrap(),
        &format!("100 deregistered from {OURS}")
    );
    assert_eq!(life.lifecycle.state_name(), "draining", "the delay runs");
    assert_eq!(life.lifecycle.registered(), [OURS.to_owned()]);
    life.balancers = "healthy";
    life.until(140);
    assert_eq!(
        life.transcript()[7..],
        ["130 record_removed", "130 CONTINUE on out: Accepted"]
    );
    assert!(life.lifecycle.registered().is_empty());
}

#[test]
fn without_target_groups_of_its_own_the_agent_asks_for_none() {
    for groups in [&[][..], &[THEIRS]] {
        let mut life = with(Phase::InService, groups, OnFailure::Continue);
        life.attached = vec![THEIRS.to_owned()];
        life.until(100);
        (life.target_state, life.place) =
            (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
        life.until(130);
        assert!(
            !life.log.iter().any(|line| line.contains("registered")),
            "{groups:?}: {:?}",
            life.log
        );
        assert_eq!(life.lifecycle.state_name(), "gone", "{groups:?}");
    }
}

#[test]
fn a_lastingly_unhealthy_target_makes_the_instance_unfit() {
    let mut life = with(Phase::InService, &[OURS], OnFailure::Continue);
    life.balancers = "unhealthy";
    life.until(299);
    assert_eq!(
        life.lifecycle.state_name(),
        "serving",
        "it has five minutes"
    );
    life.until(330);
    let ill = life.log.iter().find(|line| line.contains("Unfit")).unwrap();
    assert!(
        ill.ends_with("targetgroup/ours/1 reports this instance as unhealthy"),
        "{ill}"
    );
    life.balancers = "healthy";
    life.until(360);
    assert_eq!(life.lifecycle.state_name(), "serving");
}

#[test]
fn targets_are_deregistered_out_of_service_and_on_notice() {
    let mut life = with(Phase::InService, &[OURS], OnFailure::Continue);
    life.until(50);
    assert!(life.registered);
    life.target_state = Some(TargetState::OutOfService("Standby".to_owned()));
    life.place = Some(Phase::Other("Standby".to_owned()));
    life.until(60);
    assert!(!life.registered);
    (life.target_state, life.place) = (Some(TargetState::InService), Some(Phase::InService));
    life.until(80);
    assert!(life.registered);
    life.interrupt("terminate", 200);
    life.until(86);
    assert!(!life.registered);
}

#[test]
fn a_failed_drain_answers_on_failure_at_its_deadline() {
    for (on_failure, answer) in [
        (OnFailure::Continue, "CONTINUE"),
        (OnFailure::Abandon, "ABANDON"),
    ] {
        let mut life = with(Phase::InService, &[OURS], on_failure);
        life.hooks.terminating = super::life::hook("out", 30);
        life.until(21);
        (life.target_state, life.place) =
            (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
        life.balancers = "draining";
        life.until(120);
        let last = life.log.last().unwrap();
        assert_eq!(
            last,
            &format!("82 {answer} on out: Accepted"),
            "{answer}: {:?}",
            life.log
        );
        assert!(life.beats.len() >= 6, "{answer}: {:?}", life.beats);
    }
}

#[test]
fn a_registration_whose_answer_got_lost_is_undone_all_the_same() {
    let mut life = with(Phase::InService, &[OURS], OnFailure::Continue);
    life.slowness = 8_000;
    life.until(7);
    for second in 8..60 {
        if life.registered {
            break;
        }
        life.until(second);
    }
    // It is registered, but the response may not have arrived.
    (life.target_state, life.place) = (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
    life.until(200);
    assert!(!life.registered, "{:?}", life.log);
    assert_eq!(life.lifecycle.state_name(), "gone");
}

#[test]
fn the_final_record_at_shutdown() {
    let final_record_of =
        |life: &mut Life, target: Option<TargetState>| life.lifecycle.final_record(target.as_ref());
    let serving = || {
        let mut life = Life::in_group(Phase::InService);
        life.until(300);
        life
    };
    let mut life = serving();
    assert_eq!(
        final_record_of(&mut life, Some(TargetState::InService)),
        FinalRecord::Write
    );
    assert_eq!(
        life.lifecycle.judgement().unwrap().verdict,
        Verdict::Draining,
        "an instance that is off is not fit"
    );
    assert_eq!(
        final_record_of(&mut serving(), Some(TargetState::Terminated)),
        FinalRecord::Remove
    );
    let mut warm = Life::in_group(Phase::WarmPendingWait);
    let target = Some(TargetState::OutOfService("Warmed:Stopped".to_owned()));
    warm.target_state = target.clone();
    warm.until(300);
    assert_eq!(
        final_record_of(&mut warm, target),
        FinalRecord::Keep,
        "resting is what it does"
    );
    let mut sick = serving();
    sick.healthy = false;
    sick.api = false;
    sick.until(320);
    assert_eq!(
        final_record_of(&mut sick, None),
        FinalRecord::Write,
        "what was pending is not dropped"
    );
    let mut leaving = serving();
    leaving.interrupt("terminate", 420);
    leaving.until(303);
    assert_eq!(final_record_of(&mut leaving, None), FinalRecord::Remove);
    leaving.until(400);
    assert_eq!(
        final_record_of(&mut leaving, None),
        FinalRecord::Keep,
        "it is record_removed"
    );
}
