//! The daemon's leave to be restarted.

use super::played::{Answer, Stage};
use crate::update::attempt::{Active, Ended};
use crate::update::board::Board;
use crate::update::machine::Outcome;
use crate::update::plan::Decision;
use crate::update::slots::{Leads, Link};

fn postponed(ended: &Ended) -> String {
    match ended {
        Ended::With(Outcome::Postponed { code, reason }) if code == "no-leave" => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn without_leave_nothing_is_armed_and_the_next_run_asks_again() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    for (answer, reason) in [
        (
            Answer::Refused("group shop is being refreshed"),
            "group shop is being refreshed",
        ),
        (Answer::Silent, "the agent did not answer within 60 s"),
    ] {
        stage.scene().answer = answer;
        let ended = stage.ends().await;
        assert_eq!(postponed(&ended), reason);
        assert!(ended.is_well());
        let board = Board::new(&stage.slots.layout().run);
        assert_eq!(board.shown().asks_leave_since, None);
        assert_eq!(board.shown().code, "no-leave");
        assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere);
        let scene = stage.scene();
        assert!(!scene.calls.iter().any(|call| call == "start trial"));
    }
    stage.scene().answer = Answer::Granted;
    assert!(matches!(
        stage.ends().await,
        Ended::With(Outcome::Updated { .. })
    ));
    let board = Board::new(&stage.slots.layout().run);
    assert_eq!(board.shown().stable, Some(build));
    assert_eq!(
        (board.shown().code.as_str(), board.shown().phase.as_str()),
        ("", "idle")
    );
    let fetched = |call: &&String| *call == "fetch";
    assert_eq!(stage.scene().calls.iter().filter(fetched).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_run_is_not_asked() {
    for stable in [Active::Failed, Active::Inactive] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().answer = Answer::Silent;
        stage.scene().stable = stable;
        stage.ends().await;
        assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_without_a_verdict_is_left_to_reach_one() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().judged = false;
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Settled(it)) if matches!(**it, Decision::WaitVerdict { .. })),
        "{ended:?}"
    );
    // An agent that does not run never reaches one: then the release that mends it is taken.
    stage.scene().stable = Active::Failed;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}
