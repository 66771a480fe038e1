//! What a trial must bear before it is confirmed.

use std::time::Duration;

use super::fakes::{Answer, OnTrial, SOAK, Stage};
use crate::attempt::TestFailure;
use crate::attempt::{ActiveState, Ended};
use crate::blame::FailureKind;
use crate::phases::Outcome;
use crate::plan::Decision;
use crate::slots::{Leads, Link};
use crate::state::{Forgiveness, Overrides};

const NEVER: Duration = Duration::from_secs(100_000);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The host is on stable again, and the failure is counted: tried again only after its pause.
async fn counted(stage: &Stage, code: &str, reason: &str, kind: FailureKind) {
    let ended = stage.ends().await;
    let (c, r) = match &ended {
        Ended::With(Outcome::Failed {
            code,
            reason,
            skipped: false,
            ..
        }) => (code, reason),
        Ended::With(Outcome::Postponed { code, reason }) => (code, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!((c.as_str(), r.as_str()), (code, reason));
    assert!(!ended.is_well());
    stage.assert_sound(reason);
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere);
    assert_eq!(stage.scene().stable, ActiveState::Active);
    assert_eq!(stage.scene().trial, ActiveState::Inactive);
    let state = stage.state();
    assert_eq!(state.skipped, [], "{reason}");
    let counts: Vec<_> = state.failures[0]
        .causes
        .iter()
        .map(|(kind, it)| (*kind, it.count))
        .collect();
    assert_eq!(counts, [(kind, 1)], "{reason}");
    if kind != FailureKind::Interrupted {
        let calls = stage.scene().calls.len();
        let again = stage.ends().await;
        assert!(
            matches!(&again, Ended::With(Outcome::Settled(it)) if matches!(**it, Decision::WaitBackoff { .. })),
            "{again:?}"
        );
        assert!(!stage.scene().calls[calls..].contains(&"fetch".to_owned()));
    }
    // After the pause a release that does well is taken.
    tokio::time::advance(at(2 * 3600)).await;
    {
        let mut scene = stage.scene();
        scene.on_trial = OnTrial::Runs;
        scene.status = None;
        scene.probe_fails.clear();
        scene.verb_fails = None;
        scene.outage = None;
    }
    stage.ends().await;
    assert!(
        matches!(stage.slots.leads(Link::Stable), Leads::Slot(_)),
        "{reason}"
    );
    // And once it runs as stable, nothing is held against it.
    tokio::time::advance(at(900)).await;
    stage.ends().await;
    assert_eq!(stage.state().failures, []);
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_trial_is_counted_by_its_cause() {
    use FailureKind::{Crashed, Environment, Interrupted, Unhealthy};
    let sick = "orders passed before the trial and not on it, and it recovered after the trial";
    let cases = [
        (
            OnTrial::FailsToStart,
            Some(1),
            "trial-start",
            "it did not start: exit-code",
            Crashed,
        ),
        // noexec: systemd could not execute it.
        (
            OnTrial::FailsToStart,
            Some(203),
            "trial-start",
            "it did not start: exit-code",
            Environment,
        ),
        (
            OnTrial::Dies(at(0), "exit-code"),
            Some(1),
            "trial",
            "the trial ended with exit-code",
            Crashed,
        ),
        (
            OnTrial::Dies(at(20), "core-dump"),
            Some(6),
            "trial",
            "the trial ended with core-dump",
            Crashed,
        ),
        (
            OnTrial::Dies(at(119), "watchdog"),
            Some(6),
            "trial",
            "the trial ended with watchdog",
            Crashed,
        ),
        (
            OnTrial::Dies(at(20), "signal"),
            Some(9),
            "trial",
            "the trial ended with signal",
            Environment,
        ),
        (
            OnTrial::Dies(at(20), "oom-kill"),
            Some(9),
            "trial",
            "the trial ended with oom-kill",
            Unhealthy,
        ),
        (
            OnTrial::Dies(at(20), "resources"),
            None,
            "trial",
            "the trial ended with resources",
            Environment,
        ),
        (
            OnTrial::Dies(at(20), "success"),
            Some(0),
            "trial",
            "the trial ended with success",
            Interrupted,
        ),
        (
            OnTrial::IsRestarted(at(20)),
            None,
            "trial",
            "the trial was restarted",
            Interrupted,
        ),
        (
            OnTrial::Silent,
            None,
            "worse",
            "the trial wrote no status of its own, and it recovered after the trial",
            Unhealthy,
        ),
        (
            OnTrial::Sickens(at(60), NEVER),
            None,
            "worse",
            sick,
            Unhealthy,
        ),
        (
            OnTrial::Sickens(at(110), NEVER),
            None,
            "worse",
            sick,
            Unhealthy,
        ),
        (
            OnTrial::Mute,
            None,
            "mute",
            "the trial did not answer whether it may be replaced, and it recovered after the trial",
            Unhealthy,
        ),
        (
            OnTrial::Refuses,
            None,
            "busy",
            "the trial refused to be replaced: busy, and it recovered after the trial",
            Unhealthy,
        ),
    ];
    for (on_trial, status, code, reason, kind) in cases {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().on_trial = on_trial;
        stage.scene().status = status;
        counted(&stage, code, reason, kind).await;
    }
}

/// A database fails over during a trial. The stable release serves no better, and that is what counts.
#[tokio::test(start_paused = true)]
async fn an_outage_without_the_release_too_blames_no_release() {
    for lasts in [150, 400] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().outage = Some((at(20), at(20 + lasts)));
        counted(
            &stage,
            "worse",
            "orders passed before the trial and not on it, and likewise on the stable release",
            FailureKind::Environment,
        )
        .await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build),
            "{lasts}"
        );
    }
}

/// The outage ends just as the trial does: it seems caused by the release, and costs only a pause.
#[tokio::test(start_paused = true)]
async fn an_outage_that_ends_with_the_trial_costs_only_a_pause() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().outage = Some((at(20), at(55)));
    counted(
        &stage,
        "worse",
        "orders passed before the trial and not on it, and it recovered after the trial",
        FailureKind::Unhealthy,
    )
    .await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}

/// Neither does the stable release give its permission any more, or answer: a refresh of the group began meanwhile.
#[tokio::test(start_paused = true)]
async fn a_trial_as_busy_or_mute_as_stable_is_not_blamed() {
    for (on_trial, answer, code) in [
        (OnTrial::Refuses, Answer::Refused("a refresh"), "busy"),
        (OnTrial::Mute, Answer::Silent, "mute"),
    ] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().on_trial = on_trial;
        // It changes its mind once the trial runs.
        let play = stage.play.clone();
        let mut begun = false;
        stage.scene().kill = Some(Box::new(move |_, root| {
            let state = std::fs::read_to_string(root.join("state/state.json")).unwrap_or_default();
            begun |= state.contains("\"phase\": \"trial\"");
            play.later(begun.then(|| answer.clone()));
            false
        }));
        let ended = stage.ends().await;
        assert!(
            matches!(&ended, Ended::With(Outcome::Postponed { code: c, .. }) if c == code),
            "{code}: {ended:?}"
        );
        let causes: Vec<_> = stage.state().failures[0].causes.keys().copied().collect();
        assert_eq!(causes, [FailureKind::Environment], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_repeated_crashes_skip_a_release_until_forgiven() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().on_trial = OnTrial::Dies(at(20), "core-dump");
    for attempt in 1..=3 {
        let ended = stage.ends().await;
        assert!(
            matches!(&ended, Ended::With(Outcome::Failed { skipped, .. }) if *skipped == (attempt == 3)),
            "{attempt}: {ended:?}"
        );
        tokio::time::advance(at(8 * 24 * 3600)).await;
    }
    let skipped = &stage.state().skipped[0];
    assert_eq!((&skipped.build, skipped.attempts), (&build, Some(3)));
    assert_eq!(stage.state().failures, []);
    stage.scene().on_trial = OnTrial::Runs;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    let overrides = Overrides {
        instance_id: "i-0a".to_owned(),
        forgiven: vec![Forgiveness {
            version: build.version.clone(),
            at: super::fakes::start(),
        }],
        ..Overrides::default()
    };
    stage.store.save_overrides(&overrides).unwrap();
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
    assert_eq!(stage.state().skipped, []);
}

/// One that soaks well and does not run as stable is not promoted and repaired forever.
#[tokio::test(start_paused = true)]
async fn a_release_that_never_runs_as_stable_is_skipped() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    for attempt in 1..=3 {
        stage.scene().stable_fails = true;
        stage.ends().await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build.clone()),
            "{attempt}"
        );
        stage.scene().stable_fails = false;
        super::repairs::repaired(&stage).await;
        tokio::time::advance(at(24 * 3600)).await;
    }
    assert_eq!(stage.state().skipped[0].build, build);
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_release_is_never_skipped_and_its_pauses_grow() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().on_trial = OnTrial::Sickens(at(0), NEVER);
    let mut tries = 0;
    // In steps of two hours, since each of them is a run.
    for _ in 0..(14 * 12) {
        if matches!(stage.ends().await, Ended::With(Outcome::Failed { .. })) {
            tries += 1;
        }
        tokio::time::advance(at(7200)).await;
    }
    assert!((6..=10).contains(&tries), "{tries} tries in two weeks");
    assert_eq!(stage.state().skipped, []);
    // Meanwhile a lower release is taken.
    let lower = stage.offers("1.0.9");
    stage.scene().on_trial = OnTrial::Runs;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(lower));
    tokio::time::advance(at(8 * 24 * 3600)).await;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}

#[tokio::test(start_paused = true)]
async fn a_blip_of_a_service_is_no_reason() {
    for (from, to) in [(30, 50), (110, 135)] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().on_trial = OnTrial::Sickens(at(from), at(to));
        let began = tokio::time::Instant::now();
        stage.ends().await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build),
            "{from} to {to}"
        );
        assert!(began.elapsed() >= SOAK.max(at(to)), "{from} to {to}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_terminated_instance_blames_no_release() {
    let stage = Stage::new();
    stage.offers("1.1.0");
    stage.scene().on_trial = OnTrial::Leaves(at(40));
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Postponed { code, .. }) if code == "leaving"),
        "{ended:?}"
    );
    assert_eq!(stage.state().skipped, []);
    assert_eq!(stage.scene().stable, ActiveState::Active);
}

fn by_itself(why: &str) -> TestFailure {
    TestFailure::Release(why.to_owned())
}

fn from_outside(why: &str) -> TestFailure {
    TestFailure::Environment(why.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_release_that_cannot_update_again_is_not_confirmed() {
    use FailureKind::{Crashed, Environment};
    for (probes, code, reason, kind) in [
        (
            vec![Some(by_itself("no root"))],
            "probe",
            "its self-test failed: no root",
            Crashed,
        ),
        (
            vec![None, Some(by_itself("no root"))],
            "probe",
            "its self-test failed: no root",
            Crashed,
        ),
        (
            vec![Some(by_itself("reports 9.9.9"))],
            "version",
            "it reports version 9.9.9, not 1.1.0",
            Crashed,
        ),
        // fork: EAGAIN; SIGKILL for want of memory; noexec.
        (
            vec![Some(from_outside("try again"))],
            "probe",
            "its self-test was interrupted: try again",
            Environment,
        ),
        (
            vec![None, Some(from_outside("signal: 9"))],
            "probe",
            "its self-test was interrupted: signal: 9",
            Environment,
        ),
    ] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().probe_fails = probes;
        counted(&stage, code, reason, kind).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_self_test_that_stable_fails_too_blames_no_release() {
    for also in [by_itself("cannot write in /run"), from_outside("signal: 9")] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().probe_fails = vec![Some(by_itself("no space"))];
        stage.scene().control_fails = Some(also.clone());
        let (TestFailure::Release(why) | TestFailure::Environment(why)) = also;
        let reason =
            format!("its self-test failed (no space), and so did the stable release's: {why}");
        counted(&stage, "probe", &reason, FailureKind::Environment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_verbs_fail_never_gets_its_trial() {
    use FailureKind::{Crashed, Environment};
    for (failed, control, reason, kind) in [
        (
            ("configure", by_itself("exit status: 2")),
            None,
            "configure failed: exit status: 2",
            Crashed,
        ),
        (
            ("update repair", by_itself("exit status: 101")),
            None,
            "update repair failed: exit status: 101",
            Crashed,
        ),
        (
            ("update run", from_outside("signal: 9")),
            None,
            "update run could not be run: signal: 9",
            Environment,
        ),
        (
            ("restart-requested", by_itself("exit status: 1")),
            Some(("configure", from_outside("signal: 9"))),
            "restart-requested failed (exit status: 1), and the stable release's could not be run: signal: 9",
            Environment,
        ),
    ] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().verb_fails = Some(failed);
        stage.scene().control_verb_fails = control;
        counted(&stage, "verb", reason, kind).await;
        let calls = &stage.scene().calls;
        let first = calls.iter().position(|call| call == "exercise").unwrap();
        let trial = calls.iter().position(|call| call == "start trial").unwrap();
        assert!(first < trial, "{reason}");
    }
    // What the stable release cannot do here either is nothing that the release broke.
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    let failed = ("configure", by_itself("exit status: 2"));
    stage.scene().verb_fails = Some(failed.clone());
    stage.scene().control_verb_fails = Some(failed);
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
}

#[tokio::test(start_paused = true)]
async fn a_self_test_failed_without_the_channel_blames_no_release() {
    use crate::channel::Cause;
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().probe_fails = vec![Some(by_itself("unreachable"))];
    stage.scene().refuses_after_probe = Some(Cause::Unreachable);
    let ended = stage.ends().await;
    assert!(
        matches!(&ended, Ended::With(Outcome::Postponed { code, .. }) if code == "unreachable"),
        "{ended:?}"
    );
    assert_eq!(stage.state().skipped, []);
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    // It is tried again, after a pause.
    assert_eq!(stage.state().failures[0].build, build);
}

#[tokio::test(start_paused = true)]
async fn a_new_stable_that_does_not_start_is_left_to_its_repair() {
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
    assert_eq!(stage.state().failures[0].build, build);
}
