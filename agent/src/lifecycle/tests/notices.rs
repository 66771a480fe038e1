//! What EC2 announces: interruptions, advice, scheduled events.

use crate::notice::NoticeTerms;
use jiff::Timestamp;

use super::life::{Life, terms};
use crate::lifecycle::*;
use crate::notice::Scheduled;

fn event(code: &str, at: i64) -> Vec<Scheduled> {
    vec![Scheduled {
        id: "instance-event-1".to_owned(),
        code: code.to_owned(),
        not_before: Timestamp::from_second(at).ok(),
    }]
}

#[test]
fn a_spot_interruption_drains_at_once_without_heartbeats() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.interrupt("terminate", 141);
    life.until(140);
    let why = "Spot interruption: terminate at 1970-01-01T00:02:21Z";
    assert_eq!(
        life.transcript()[2..],
        [
            format!("25 announced: {why}"),
            format!("25 Draining {why}"),
            "30 record_removed".to_owned()
        ]
    );
    assert_eq!(life.lifecycle.state_name(), "departing");
    assert!(life.beats.is_empty());
    // The group terminates it: the hook is answered although no heartbeat was sent.
    (life.target_state, life.place) = (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
    life.until(145);
    assert_eq!(life.log.last().unwrap(), "141 CONTINUE on out: Accepted");
    assert_eq!(life.lifecycle.next_due(), None);
}

#[test]
fn an_interruption_drains_from_every_state() {
    for (phase, target, healthy, state) in [
        (Phase::PendingWait, TargetState::InService, false, "judging"),
        (Phase::Pending, TargetState::InService, true, "admitting"),
        (Phase::InService, TargetState::InService, true, "serving"),
        (
            Phase::Other("Warmed:Running".to_owned()),
            TargetState::OutOfService("Warmed:Running".to_owned()),
            true,
            "resting",
        ),
    ] {
        let mut life = Life::in_group(phase);
        (life.target_state, life.healthy) = (Some(target), healthy);
        life.until(21);
        assert_eq!(life.lifecycle.state_name(), state, "from {state}");
        life.interrupt("terminate", 141);
        life.until(26);
        assert_eq!(life.lifecycle.state_name(), "draining", "from {state}");
        life.until(100);
        assert_eq!(life.registry, None, "from {state}");
    }
}

#[test]
fn a_hibernated_spot_instance_returns_after_its_notice() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.interrupt("hibernate", 26);
    life.until(40);
    assert_eq!(life.lifecycle.state_name(), "departing");
    // The metadata service forgets early: not believed before the time.
    life.slept = 7200;
    life.spot.interruption = None;
    life.under_way.push((life.now, Event::ClockJumped));
    life.until(80);
    let transcript = life.transcript();
    assert_eq!(transcript[5..], ["40 Judging", "44 Fit"]);
    assert_eq!(life.lifecycle.state_name(), "serving");
    assert_eq!(life.registry, Some(Verdict::Fit));
}

#[test]
fn a_rebalance_recommendation_drains_only_if_configured() {
    for drains in [false, true] {
        let mut life = Life::in_group(Phase::InService);
        life.terms = Ok(Terms {
            notices: NoticeTerms {
                drain_on_rebalance: drains,
                ..NoticeTerms::default()
            },
            ..terms()
        });
        life.until(21);
        life.spot.rebalance = Some(Timestamp::UNIX_EPOCH);
        life.until(300);
        let announced = "25 announced: rebalance recommended since 1970-01-01T00:00:00Z";
        assert_eq!(life.transcript()[2], announced, "drains: {drains}");
        assert_eq!(
            life.lifecycle.state_name() == "serving",
            !drains,
            "drains: {drains}"
        );
        assert_eq!(
            life.lifecycle.notices().lines().len(),
            1,
            "drains: {drains}"
        );
    }
}

#[test]
fn a_near_retirement_drains_until_it_is_cancelled() {
    let mut life = Life::in_group(Phase::InService);
    life.schedule = event("instance-retirement", 1_000);
    life.until(699);
    assert_eq!(
        life.lifecycle.state_name(),
        "serving",
        "five minutes before"
    );
    life.until(770);
    assert_eq!(life.lifecycle.state_name(), "departing");
    assert_eq!(life.registry, None);
    life.schedule.clear();
    life.until(850);
    assert_eq!(life.lifecycle.state_name(), "serving");
    assert_eq!(life.registry, Some(Verdict::Fit));
}

#[test]
fn a_scheduled_reboot_is_only_announced() {
    let mut life = Life::in_group(Phase::InService);
    life.schedule = event("system-reboot", 100);
    life.until(400);
    assert_eq!(
        life.transcript()[..2],
        [
            "0 Judging",
            "0 announced: scheduled event system-reboot (instance-event-1) not before 1970-01-01T00:01:40Z"
        ]
    );
    assert_eq!(life.lifecycle.state_name(), "serving");
}

#[test]
fn a_terminated_instance_ignores_notices() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    (life.target_state, life.place) = (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
    life.until(23);
    life.interrupt("terminate", 141);
    life.until(60);
    assert_eq!(
        life.transcript()[2..],
        [
            "22 Draining the group is terminating this instance",
            "27 record_removed",
            "27 CONTINUE on out: Accepted"
        ]
    );
}
