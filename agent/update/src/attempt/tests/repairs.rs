//! `update repair`: one step down a call.

use std::fs;
use std::time::Duration;

use contract::release::Withdrawal;

use super::fakes::Stage;
use crate::attempt::{ActiveState, repair};
use crate::before::Before;
use crate::blame::FailureKind;
use crate::build::Build;
use crate::slots::{Leads, Link};

/// A repair that goes well.
pub(super) async fn repaired(stage: &Stage) -> Option<Build> {
    let repaired: Before = loop {
        stage.unlocked();
        match repair(stage.adapters()).await {
            // See `Stage::run`.
            Err(error) if error.to_string() == "another updater is running" => {}
            repaired => break repaired.unwrap(),
        }
    };
    stage.assert_sound("repaired");
    assert_eq!(stage.scene().stable, ActiveState::Active);
    repaired.slot().cloned()
}

#[tokio::test(start_paused = true)]
async fn it_goes_to_what_was_confirmed_before_and_then_to_the_factory() {
    let stage = Stage::new();
    let first = stage.offers("1.1.0");
    stage.ends().await;
    let second = stage.offers("1.2.0");
    stage.ends().await;
    stage.scene().stable = ActiveState::Failed;
    assert_eq!(repaired(&stage).await, Some(first.clone()));
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(first.clone()));
    stage.scene().stable = ActiveState::Failed;
    assert_eq!(repaired(&stage).await, None);
    // There is nothing below.
    assert_eq!(repaired(&stage).await, None);
    let failed: Vec<_> = stage
        .state()
        .failures
        .into_iter()
        .map(|it| (it.crashes(), it.build))
        .collect();
    assert_eq!(failed, [(1, second), (1, first)]);
    // What did not run is not taken again; what is newer is.
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    let third = stage.offers("1.3.0");
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(third));
}

#[tokio::test(start_paused = true)]
async fn a_dangling_link_is_fixed_by_a_run_and_by_a_repair() {
    for by_run in [true, false] {
        for broken in [
            "link missing",
            "slot missing",
            "binary missing",
            "not complete",
            "not ours",
        ] {
            let stage = Stage::new();
            let first = stage.offers("1.1.0");
            stage.ends().await;
            let second = stage.offers("1.2.0");
            stage.ends().await;
            let link = stage.slots.layout().slots.join("stable");
            match broken {
                "link missing" => fs::remove_file(&link).unwrap(),
                "slot missing" => fs::remove_dir_all(stage.slots.dir(&second)).unwrap(),
                "binary missing" => fs::remove_file(stage.slots.binary(&second)).unwrap(),
                "not complete" => {
                    fs::remove_file(stage.slots.dir(&second).join("COMPLETE")).unwrap();
                }
                _ => {
                    fs::remove_file(&link).unwrap();
                    std::os::unix::fs::symlink("/", &link).unwrap();
                }
            }
            assert_eq!(stage.slots.leads(Link::Stable), Leads::Nowhere, "{broken}");
            stage.scene().stable = ActiveState::Failed;
            if by_run {
                stage.scene().refuses_refresh = Some(crate::channel::Cause::Expired);
                stage.ends().await;
            } else {
                repaired(&stage).await;
            }
            assert_eq!(
                stage.slots.leads(Link::Stable),
                Leads::Slot(first),
                "{broken}"
            );
            assert_eq!(stage.scene().stable, ActiveState::Active, "{broken}");
            // Nothing is wrong with the release.
            assert_eq!(stage.state_or_default().failures, [], "{broken}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_previous_that_rotted_is_passed_over() {
    let stage = Stage::new();
    let first = stage.offers("1.1.0");
    stage.ends().await;
    stage.offers("1.2.0");
    stage.ends().await;
    fs::write(stage.slots.binary(&first), "rot").unwrap();
    assert_eq!(repaired(&stage).await, None);
}

#[tokio::test(start_paused = true)]
async fn without_any_agent_left_the_error_has_a_hint() {
    let stage = Stage::new();
    fs::remove_dir_all(&stage.slots.layout().factory).unwrap();
    let error = repair(stage.adapters()).await.unwrap_err();
    assert!(
        format!("{error:#}").ends_with("hint: replace the instance"),
        "{error:#}"
    );
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_running_updater() {
    let stage = Stage::new();
    let lock = stage.locked();
    let waiting = tokio::spawn(repair(stage.adapters()));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!waiting.is_finished());
    drop(lock);
    stage.unlocked();
    match waiting.await.unwrap() {
        Ok(to) => assert_eq!(to.slot(), None),
        // What another test forked had a copy of the lock just then, and this clock does not wait for it.
        Err(error) => {
            assert_eq!(format!("{error:#}"), "another updater is running");
            assert_eq!(repaired(&stage).await, None);
        }
    }
    let lock = stage.locked();
    let error = repair(stage.adapters()).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "another updater is running");
    drop(lock);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_with_starting_a_stable_agent_that_systemd_gave_up() {
    let stage = Stage::new();
    stage.scene().stable = ActiveState::Failed;
    stage.ends().await;
    assert_eq!(stage.scene().stable, ActiveState::Active);
    // One that an operator stopped stays so.
    stage.scene().stable = ActiveState::Inactive;
    stage.ends().await;
    assert_eq!(stage.scene().stable, ActiveState::Inactive);
}

/// 1.1 → 1.2, which is withdrawn → 1.1, which fails: the withdrawn 1.2 is nothing to go back to.
#[tokio::test(start_paused = true)]
async fn no_way_back_leads_to_what_was_withdrawn() {
    for rotten in [false, true] {
        let stage = Stage::new();
        let first = stage.offers("1.1.0");
        stage.ends().await;
        let second = stage.offers("1.2.0");
        stage.ends().await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(second.clone()),
            "rotten: {rotten}"
        );
        stage.scene().offers[1].release.withdrawn = Some(Withdrawal {
            at: super::fakes::start(),
            reason: "it leaks".to_owned(),
            rollback_to: Some(first.version.clone()),
        });
        stage.ends().await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(first.clone()),
            "rotten: {rotten}"
        );
        assert!(
            stage.slots.verify(&second).is_err(),
            "rotten: {rotten}: its slot is not kept"
        );
        // Also where its slot is still there.
        if rotten {
            fs::write(stage.slots.binary(&first), "rot").unwrap();
            stage.scene().refuses_refresh = Some(crate::channel::Cause::Unreachable);
            stage.ends().await;
        } else {
            stage.scene().stable = ActiveState::Failed;
            assert_eq!(repaired(&stage).await, None, "rotten: {rotten}");
        }
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Factory,
            "rotten: {rotten}"
        );
    }
}

/// The same of what is below the floor, with a channel that is out of reach by then.
#[tokio::test(start_paused = true)]
async fn no_way_back_leads_below_the_floor() {
    let stage = Stage::new();
    stage.offers("1.1.0");
    stage.ends().await;
    let second = stage.offers("1.2.0");
    stage.scene().offers[1].release.floor = Some(second.version.clone());
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(second));
    stage.scene().refuses_refresh = Some(crate::channel::Cause::Unreachable);
    stage.scene().stable = ActiveState::Failed;
    assert_eq!(repaired(&stage).await, None);
}

/// What does not run for the environment's sake is stepped down from like everything else, and not held against the
/// release: noexec, no memory.
#[tokio::test(start_paused = true)]
async fn a_stable_release_that_cannot_be_executed_is_not_blamed() {
    for (result, status, kind) in [
        ("exit-code", Some(203), FailureKind::Environment),
        ("oom-kill", Some(9), FailureKind::Unhealthy),
        ("exit-code", Some(1), FailureKind::Crashed),
    ] {
        let stage = Stage::new();
        let first = stage.offers("1.1.0");
        stage.ends().await;
        {
            let mut scene = stage.scene();
            (scene.stable, scene.stable_result, scene.status) =
                (ActiveState::Failed, result, status);
        }
        assert_eq!(repaired(&stage).await, None, "{result} {status:?}");
        let state = stage.state();
        assert_eq!(
            (&state.skipped, &state.failures[0].build),
            (&vec![], &first),
            "{result} {status:?}"
        );
        let kinds: Vec<_> = state.failures[0].causes.keys().copied().collect();
        assert_eq!(kinds, [kind], "{result} {status:?}");
        tokio::time::advance(Duration::from_secs(2 * 3600)).await;
        stage.ends().await;
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(first),
            "{result} {status:?}"
        );
    }
}
