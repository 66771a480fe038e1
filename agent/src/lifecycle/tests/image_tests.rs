//! The image's own tests at the gate.

use std::collections::BTreeSet;

use super::*;

/// A round in which this failed.
fn failing(detail: &str, hopeless: bool) -> Event {
    Event::Checked(Checked {
        round: Round::from([("test.smoke".to_owned(), service(false, detail))]),
        dead: BTreeSet::new(),
        hopeless,
    })
}

#[test]
fn a_failed_test_of_the_image_ends_the_gate_at_once() {
    let mut life = Life::alone();
    life.healthy = false;
    life.until(2);
    let now = life.now;
    let waits = "test smoke: has not ended yet";
    life.lifecycle.step(failing(waits, false), now);
    assert_eq!(life.lifecycle.state_name(), "judging");
    let why = "test smoke: failed: exited with 3: no page";
    life.lifecycle.step(failing(why, true), now);
    let judgement = life.lifecycle.judgement().unwrap();
    assert_eq!(judgement.verdict, Verdict::Unfit);
    assert_eq!(judgement.reason, why);
}
