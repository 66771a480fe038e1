//! The daemon's permission to be restarted.

use std::time::Duration;

use super::fakes::{Answer, OnTrial, Stage};
use crate::attempt::{ActiveState, Ended};
use crate::phases::Outcome;
use crate::plan::Decision;
use crate::slots::{Leads, Link};

fn postponed(ended: &Ended) -> String {
    match ended {
        Ended::With(Outcome::Postponed { code, reason }) if code == "no-leave" => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn without_permission_nothing_is_armed_until_a_later_run() {
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
        assert_eq!(postponed(&ended), reason, "{reason}");
        assert!(ended.is_well(), "{reason}");
        let status = stage.status();
        assert_eq!(status.permission_requested_since, None, "{reason}");
        assert_eq!(status.code, "no-leave", "{reason}");
        assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere, "{reason}");
        let scene = stage.scene();
        assert!(
            !scene.calls.iter().any(|call| call == "start trial"),
            "{reason}"
        );
    }
    stage.scene().answer = Answer::Granted;
    assert!(matches!(
        stage.ends().await,
        Ended::With(Outcome::Updated { .. })
    ));
    let status = stage.status();
    assert_eq!(status.stable, Some(build));
    assert_eq!((status.code.as_str(), status.phase.as_str()), ("", "idle"));
    let fetched = |call: &&String| *call == "fetch";
    assert_eq!(stage.scene().calls.iter().filter(fetched).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_run_is_not_asked() {
    for stable in [ActiveState::Failed, ActiveState::Inactive] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().answer = Answer::Silent;
        stage.scene().stable = stable;
        stage.ends().await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build),
            "{stable:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_a_verdict_is_given_time() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().judged = false;
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Settled(it)) if matches!(**it, Decision::WaitVerdict { .. })),
        "{ended:?}"
    );
    // An agent that does not run never reaches one: then the release that fixes it is taken.
    stage.scene().stable = ActiveState::Failed;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}

fn code(ended: &Ended) -> &str {
    match ended {
        Ended::With(Outcome::Postponed { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

/// Permission that is withheld forever: silent for an hour, then reported, and overruled after a day; what a withdrawal
/// or the floor demands waits for minutes.
#[tokio::test(start_paused = true)]
async fn permission_withheld_forever_is_overruled() {
    for (urgent, answer) in [
        (false, Answer::Refused("a daemon that is always busy")),
        (false, Answer::Silent),
        (true, Answer::Refused("standby")),
    ] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().answer = answer;
        // Nor does the trial give it.
        stage.scene().on_trial = OnTrial::Refuses;
        if urgent {
            stage.scene().offers[0].release.floor = Some(build.version.clone());
        }
        let began = tokio::time::Instant::now();
        let mut minutes = 0;
        let mut codes = Vec::new();
        while stage.slots.leads(Link::Stable) == Leads::Factory && minutes < 48 * 60 {
            let ended = stage.ends().await;
            if let Ended::With(Outcome::Updated { .. }) = ended {
                break;
            }
            let since = stage.state().withheld.unwrap().since;
            assert_eq!(
                stage.status().withheld.as_ref().unwrap().since,
                since,
                "urgent: {urgent}"
            );
            assert_eq!(
                ended.is_well(),
                code(&ended) == "no-leave",
                "urgent: {urgent}"
            );
            codes.push(code(&ended).to_owned());
            tokio::time::advance(Duration::from_secs(15 * 60)).await;
            minutes = began.elapsed().as_secs() / 60;
        }
        codes.dedup();
        let (least, most, expected): (_, _, &[&str]) = if urgent {
            (10, 30, &["withheld"])
        } else {
            (24 * 60, 26 * 60, &["no-leave", "withheld"])
        };
        assert!(
            (least..=most).contains(&minutes),
            "urgent: {urgent}: {minutes} minutes"
        );
        assert_eq!(codes, expected, "urgent: {urgent}");
        assert_eq!(stage.state().withheld, None, "urgent: {urgent}");
    }
}

/// One that never reaches a verdict (no metadata service) withholds its permission as well.
#[tokio::test(start_paused = true)]
async fn a_daemon_without_a_verdict_holds_a_release_up_for_a_day() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().judged = false;
    stage.scene().answer = Answer::Silent;
    stage.scene().on_trial = OnTrial::Mute;
    let mut hours = 0;
    while stage.slots.leads(Link::Stable) == Leads::Factory && hours < 48 {
        stage.ends().await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        hours += 1;
    }
    assert!((24..=26).contains(&hours), "{hours} hours");
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}

/// Permission that is given now and then is none that is withheld.
#[tokio::test(start_paused = true)]
async fn permission_given_once_begins_the_day_anew() {
    let stage = Stage::new();
    stage.offers("1.1.0");
    stage.scene().answer = Answer::Refused("a refresh");
    for _ in 0..20 {
        stage.ends().await;
        tokio::time::advance(Duration::from_secs(3600)).await;
    }
    stage.scene().answer = Answer::Granted;
    stage.scene().on_trial = OnTrial::Dies(Duration::from_secs(1), "core-dump");
    stage.ends().await;
    stage.scene().answer = Answer::Refused("a refresh");
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(3600)).await;
        stage.ends().await;
    }
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    assert!(stage.state().withheld.is_some());
}
