//! Instances that the group keeps out of service: warm pools, standby, detached.

use super::life::Life;
use crate::lifecycle::*;

const POOL: &str =
    "0 Judging|4 Resting in the warm pool (Warmed:Stopped)|4 CONTINUE on in: Accepted";

fn out_of_service(name: &str) -> Option<TargetState> {
    Some(TargetState::OutOfService(name.to_owned()))
}

fn place(name: &str) -> Option<Phase> {
    Some(Phase::parse(name))
}

fn in_pool() -> Life {
    let mut life = Life::in_group(Phase::WarmPendingWait);
    life.target_state = out_of_service("Warmed:Stopped");
    life
}

#[test]
fn a_warm_pool_instance_is_prepared_and_does_not_serve() {
    let mut life = in_pool();
    life.until(600);
    assert_eq!(life.transcript().join("|"), POOL);
    assert_eq!(life.lifecycle.state_name(), "resting");
    assert_eq!(life.registry, Some(Verdict::Resting));
    assert_eq!(
        life.lifecycle.waiting_for(),
        "prepared, not serving; in the warm pool (Warmed:Stopped)"
    );
}

#[test]
fn an_unfit_warm_pool_instance_abandons_its_launch() {
    let mut life = in_pool();
    life.healthy = false;
    life.until(100);
    assert_eq!(life.transcript()[2], "60 ABANDON on in: Accepted");
    assert_eq!(life.lifecycle.state_name(), "abandoned");
}

#[test]
fn leaving_the_warm_pool_answers_the_launch_hook_again() {
    // Warmed:Running: the same daemon lives on. After a stop the next boot is a life of its own.
    let mut life = in_pool();
    life.until(100);
    (life.target_state, life.place) = (Some(TargetState::InService), place("Pending"));
    life.until(105);
    life.place = Some(Phase::PendingWait);
    life.until(200);
    assert_eq!(
        life.transcript()[3..],
        [
            "100 Judging",
            "104 Fit",
            "104 CONTINUE on in: NotActive",
            "106 CONTINUE on in: Accepted"
        ]
    );
    assert_eq!(life.lifecycle.state_name(), "serving");
}

#[test]
fn a_resumed_warm_instance_is_judged_despite_a_clock_jump() {
    let mut life = in_pool();
    life.target_state = out_of_service("Warmed:Hibernated");
    life.until(100);
    life.slept = 86_400;
    (life.target_state, life.place) = (Some(TargetState::InService), Some(Phase::PendingWait));
    life.under_way.push((life.now, Event::ClockJumped));
    life.healthy = false;
    life.until(130);
    assert_eq!(life.lifecycle.state_name(), "judging");
    life.healthy = true;
    life.until(200);
    let transcript = life.transcript();
    assert_eq!(transcript[3], "100 Judging");
    assert!(transcript[4].ends_with(" Fit"), "{transcript:?}");
    assert!(
        transcript[5].ends_with(" CONTINUE on in: Accepted"),
        "{transcript:?}"
    );
}

#[test]
fn a_warm_pool_can_terminate_an_instance() {
    let mut life = in_pool();
    life.until(100);
    life.target_state = Some(TargetState::Terminated);
    life.place = place("Warmed:Terminating:Wait");
    life.until(120);
    assert_eq!(
        life.transcript()[3..],
        [
            "100 Draining the group is terminating this instance",
            "105 record_removed",
            "105 CONTINUE on out: Accepted"
        ]
    );
}

#[test]
fn fit_waits_for_the_target_lifecycle_state() {
    let mut life = in_pool();
    life.until(1);
    life.lifecycle.target_state = None;
    life.imds = false;
    life.until(300);
    assert_eq!(life.lifecycle.state_name(), "judging");
    life.imds = true;
    life.until(320);
    assert_eq!(life.lifecycle.state_name(), "resting");
    assert!(
        !life.log.iter().any(|line| line.ends_with("Fit")),
        "{:?}",
        life.log
    );
}

#[test]
fn standby_or_detached_rests_and_returns_through_the_gate() {
    for (name, phase, why) in [
        ("Standby", "Standby", "on standby"),
        ("Detached", "Detached", "detached from its group"),
    ] {
        let mut life = Life::in_group(Phase::InService);
        life.until(20);
        (life.target_state, life.place) = (out_of_service(name), place(phase));
        life.until(22);
        life.healthy = false;
        life.until(600);
        assert_eq!(
            life.transcript()[2..],
            [format!("20 Resting {why}")],
            "{name}"
        );
        life.healthy = true;
        (life.target_state, life.place) = (Some(TargetState::InService), Some(Phase::PendingWait));
        life.until(630);
        assert_eq!(
            life.transcript()[3..],
            ["600 Judging", "604 Fit", "604 CONTINUE on in: Accepted"],
            "{name}"
        );
    }
}

#[test]
fn an_unfit_instance_on_standby_recovers_to_resting() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.healthy = false;
    life.until(40);
    (life.target_state, life.place) = (out_of_service("Standby"), place("Standby"));
    life.until(300);
    assert_eq!(life.transcript()[2..], ["31 Unfit orders answered 503"]);
    life.healthy = true;
    life.until(330);
    assert_eq!(life.log.last().unwrap(), "311 Resting on standby");
}
