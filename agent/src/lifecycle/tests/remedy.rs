//! Restarts, replacements, and the fleet that may forbid them.

use std::collections::BTreeSet;

use super::life::{Life, service, terms};
use crate::fleet::Peers;
use crate::health::Checked;
use crate::lifecycle::*;
use crate::settings::Serving;

fn serving(change: impl FnOnce(&mut Serving)) -> Life {
    let mut life = Life::in_group(Phase::InService);
    let mut terms = terms();
    terms.serving.restart = true;
    change(&mut terms.serving);
    life.terms = Ok(terms);
    life.until(21);
    life
}

fn sick(life: &Life, of: usize) -> Peers {
    Peers {
        sick: of,
        ..life.peers
    }
}

#[test]
fn a_sick_service_is_restarted_once_before_anything_else() {
    let mut life = serving(|_| ());
    life.healthy = false;
    life.until(40);
    let ill = ["31 Unfit orders answered 503", "31 restart of orders"];
    assert_eq!(life.transcript()[2..], ill);
    // It helped.
    life.healthy = true;
    life.until(200);
    assert_eq!(life.transcript()[4..], ["51 Fit"]);
    // It helps no more: then the group is asked.
    life.healthy = false;
    life.until(300);
    assert_eq!(
        life.transcript()[5..],
        [
            "211 Unfit orders answered 503",
            "211 restart of orders",
            "271 reported unhealthy"
        ]
    );
}

#[test]
fn restarts_back_off_when_they_do_not_last() {
    let mut life = serving(|serving| serving.replace_after = None);
    // Well for 20 s after every restart, then sick again.
    let mut restarts = Vec::new();
    for second in 21..4000 {
        life.until(second);
        let lines = life.log.iter().filter(|line| line.contains("restart of"));
        restarts = lines
            .map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap())
            .collect();
        let last = restarts.last().copied().unwrap_or(0);
        life.healthy = last > 0 && second < last + 40;
    }
    let pauses: Vec<u64> = restarts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 5, "{pauses:?}");
    assert!(
        pauses.windows(2).all(|pair| pair[1] >= pair[0]),
        "{pauses:?}"
    );
    assert!(pauses[0] >= 60 && pauses[3] >= 480, "{pauses:?}");
}

#[test]
fn settings_may_keep_the_agent_from_restarting() {
    let mut life = serving(|serving| serving.restart = false);
    life.healthy = false;
    life.until(100);
    assert_eq!(
        life.transcript()[2..],
        ["31 Unfit orders answered 503", "91 reported unhealthy"]
    );
}

#[test]
fn an_unfit_fleet_delays_a_replacement() {
    let mut life = serving(|serving| serving.restart = false);
    life.healthy = false;
    life.peers = sick(&life, 2);
    life.until(600);
    assert_eq!(
        life.transcript()[2..],
        [
            "31 Unfit orders answered 503",
            "91 announced: this instance is unfit and does not ask to be replaced: \
             2 of 9 other instances checked are unfit as well"
        ],
        "reported once, without an action"
    );
    assert!(
        life.lifecycle
            .waiting_for()
            .contains("not asking for a replacement, since 2 of 9")
    );
    life.peers = sick(&life, 1);
    life.until(721);
    let last = life.log.last().unwrap();
    assert!(last.ends_with("reported unhealthy"), "{last}");
}

#[test]
fn unknown_peer_health_delays_a_replacement() {
    let mut life = serving(|serving| serving.restart = false);
    life.healthy = false;
    life.until(90);
    let asking = life
        .lifecycle
        .step(Event::Tick, life.start + Duration::from_secs(91));
    assert!(asking.contains(&Action::AskMembership), "{asking:?}");
    life.now = life.start + Duration::from_secs(91);
    let place = Some(Membership {
        group: "fleet".into(),
        phase: Phase::InService,
    });
    let asking = life
        .lifecycle
        .step(Event::MembershipSeen(Ok(place)), life.now);
    assert!(
        asking.contains(&Action::AskPeers("fleet".into())),
        "{asking:?}"
    );
    let transcript = life
        .lifecycle
        .step(Event::PeersSeen(Err(NoAnswer)), life.now);
    assert!(!transcript.contains(&Action::ReportUnhealthy));
    assert!(
        matches!(transcript[..], [Action::Announce(_)]),
        "{transcript:?}"
    );
    life.until(230);
    assert!(life.log.last().unwrap().ends_with("reported unhealthy"));
}

#[test]
fn two_delayed_instances_do_not_retry_in_step() {
    let look_again = |instance: &str| {
        let mut life = serving(|_| ());
        life.lifecycle.duties.reseed(instance);
        life.healthy = false;
        life.peers = sick(&life, 9);
        life.until(92);
        match life.lifecycle.state {
            State::Ailing(Replacement::At(when)) => when - life.start,
            ref other => panic!("{other:?}"),
        }
    };
    assert_ne!(look_again("i-1"), look_again("i-2"));
}

#[test]
fn nothing_restarts_out_of_service_or_while_draining() {
    let mut life = serving(|_| ());
    life.healthy = false;
    life.until(30);
    (life.target_state, life.place) = (Some(TargetState::Terminated), Some(Phase::Terminating));
    life.until(60);
    assert!(
        !life.log.iter().any(|line| line.contains("restart")),
        "{:?}",
        life.log
    );
}

/// Feeds a result of the checks into an instance that serves, and returns whether a restart follows.
fn restarts_after(life: &mut Life, healthy: bool, dead: bool) -> bool {
    let name = "orders".to_owned();
    let round = Round::from([(name.clone(), service(healthy, "x"))]);
    let dead = if dead { [name].into() } else { BTreeSet::new() };
    let now = life.now;
    let actions = life.lifecycle.step(
        Event::Checked(Checked {
            round,
            dead,
            hopeless: false,
        }),
        now,
    );
    actions
        .iter()
        .any(|action| matches!(action, Action::Restart(_)))
}

#[test]
fn failed_liveness_restarts_a_service_of_a_fit_instance() {
    let mut life = serving(|_| {});
    let restarts = [true; 3].map(|dead| restarts_after(&mut life, true, dead));
    assert_eq!(restarts, [false, false, true]);
    assert_eq!(life.lifecycle.state_name(), "serving");
    // The next restart waits for its pause.
    let restarts = [true; 6].map(|dead| restarts_after(&mut life, true, dead));
    assert_eq!(restarts, [false; 6]);
}

#[test]
fn failed_readiness_alone_restarts_nothing() {
    let mut life = serving(|_| {});
    let restarts = [false; 9].map(|dead| restarts_after(&mut life, false, dead));
    assert_eq!(restarts, [false; 9]);
    assert_eq!(life.lifecycle.state_name(), "ailing");
    assert!(restarts_after(&mut life, false, true));
    assert!(!restarts_after(&mut life, false, true));
}
