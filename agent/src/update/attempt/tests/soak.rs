//! What a trial must bear before it is confirmed.

use std::time::Duration;

use super::played::{OnTrial, SOAK, Stage};
use crate::update::attempt::{Active, Ended};
use crate::update::machine::Outcome;
use crate::update::slots::{Leads, Link};

const NEVER: Duration = Duration::from_secs(100_000);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The box is on stable again, and the release is not tried a second time.
async fn skipped(stage: &Stage, code: &str, reason: &str) {
    let ended = stage.ends().await;
    match &ended {
        Ended::With(Outcome::Skipped {
            code: c, reason: r, ..
        }) => {
            assert_eq!((c.as_str(), r.as_str()), (code, reason));
        }
        other => panic!("{other:?}"),
    }
    assert!(!ended.is_well());
    stage.assert_sound(reason);
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere);
    assert_eq!(stage.slots.complete(), []);
    assert_eq!(stage.scene().stable, Active::Active);
    assert_eq!(stage.scene().trial, Active::Inactive);
    let calls = stage.scene().calls.len();
    stage.ends().await;
    assert!(!stage.scene().calls[calls..].contains(&"fetch".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_trial_is_skipped_for_good() {
    let cases = [
        (
            OnTrial::FailsToStart,
            "trial-start",
            "it did not start: exit-code",
        ),
        (
            OnTrial::Dies(at(0), "exit-code"),
            "trial",
            "the trial ended with exit-code",
        ),
        (
            OnTrial::Dies(at(20), "core-dump"),
            "trial",
            "the trial ended with core-dump",
        ),
        (
            OnTrial::Dies(at(119), "watchdog"),
            "trial",
            "the trial ended with watchdog",
        ),
        (
            OnTrial::Silent,
            "worse",
            "the trial shows no standing of its own",
        ),
        (
            OnTrial::Sickens(at(60), NEVER),
            "worse",
            "service orders was healthy before the trial and is not now",
        ),
        (
            OnTrial::Sickens(at(110), NEVER),
            "worse",
            "service orders was healthy before the trial and is not now",
        ),
    ];
    for (on_trial, code, reason) in cases {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().on_trial = on_trial;
        skipped(&stage, code, reason).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_blip_of_a_service_is_no_reason() {
    for (from, to) in [(30, 50), (110, 135)] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().on_trial = OnTrial::Sickens(at(from), at(to));
        let began = tokio::time::Instant::now();
        stage.ends().await;
        assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
        assert!(began.elapsed() >= SOAK.max(at(to)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_told_to_leave_blames_nobody() {
    let stage = Stage::new();
    stage.offers("1.1.0");
    stage.scene().on_trial = OnTrial::Leaves(at(40));
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Postponed { code, .. }) if code == "leaving"),
        "{ended:?}"
    );
    assert_eq!(stage.state().skipped, []);
    assert_eq!(stage.scene().stable, Active::Active);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_never_answers_the_updater_is_not_confirmed_and_nobody_is_blamed() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().on_trial = OnTrial::Mute;
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Postponed { code, .. }) if code == "mute"),
        "{ended:?}"
    );
    assert_eq!(stage.state().skipped, []);
    assert_eq!(stage.state().setback.unwrap().digest, build.digest);
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    assert_eq!(stage.scene().stable, Active::Active);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_answers_is_confirmed_whatever_it_answers() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    // The stable agent gave its leave; a refresh of the group begins meanwhile.
    stage.scene().on_trial = OnTrial::Refuses;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}

#[tokio::test(start_paused = true)]
async fn a_release_that_cannot_update_again_is_not_confirmed() {
    for (probes, code, reason) in [
        (
            vec![Some("no root")],
            "probe",
            "its self-test failed: no root",
        ),
        (
            vec![None, Some("no root")],
            "probe",
            "its self-test failed: no root",
        ),
        (
            vec![Some("says 9.9.9")],
            "version",
            "it says that it is 9.9.9, not 1.1.0",
        ),
    ] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().probe_fails = probes;
        skipped(&stage, code, reason).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_self_test_that_failed_with_the_channel_out_of_reach_blames_nobody() {
    use crate::update::refusal::Cause;
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().probe_fails = vec![Some("unreachable")];
    stage.scene().refuses_after_probe = Some(Cause::Unreachable);
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Postponed { code, .. }) if code == "unreachable"),
        "{ended:?}"
    );
    assert_eq!(stage.state().skipped, []);
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    // It is tried again, after a pause.
    assert_eq!(stage.state().setback.unwrap().digest, build.digest);
}

#[tokio::test(start_paused = true)]
async fn a_new_stable_that_does_not_start_is_left_to_systemd_and_its_repair() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().stable_fails = true;
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Postponed { code, .. }) if code == "restart"),
        "{ended:?}"
    );
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build.clone()));
    stage.scene().stable_fails = false;
    super::repairs::repaired(&stage).await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    assert_eq!(stage.state().skipped[0].build, build);
}
