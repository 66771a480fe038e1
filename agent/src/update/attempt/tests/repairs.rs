//! `update repair`: one step down a call.

use std::fs;
use std::time::Duration;

use super::played::Stage;
use crate::update::attempt::{Active, Repaired, repair};
use crate::update::slots::{Leads, Link};

/// A repair that goes well.
pub(super) async fn repaired(stage: &Stage) -> Repaired {
    let repaired = loop {
        stage.unlocked();
        match repair(stage.world()).await {
            // See `Stage::run`.
            Err(error) if error.to_string() == "another updater is at work" => {}
            repaired => break repaired.unwrap(),
        }
    };
    stage.assert_sound("repaired");
    assert_eq!(stage.scene().stable, Active::Active);
    repaired
}

#[tokio::test(start_paused = true)]
async fn it_goes_to_what_was_confirmed_before_and_then_to_the_factory() {
    let stage = Stage::new();
    let first = stage.offers("1.1.0");
    stage.ends().await;
    let second = stage.offers("1.2.0");
    stage.ends().await;
    stage.scene().stable = Active::Failed;
    assert_eq!(repaired(&stage).await, Repaired::Previous(first.clone()));
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(first.clone()));
    stage.scene().stable = Active::Failed;
    assert_eq!(repaired(&stage).await, Repaired::Factory);
    // There is nothing below.
    assert_eq!(repaired(&stage).await, Repaired::Factory);
    let skipped: Vec<_> = stage
        .state()
        .skipped
        .into_iter()
        .map(|it| it.build)
        .collect();
    assert_eq!(skipped, [second, first]);
    // What did not run is not taken again; what is newer is.
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    let third = stage.offers("1.3.0");
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(third));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_leads_nowhere_is_mended_by_the_next_run_and_by_a_repair() {
    for by_run in [true, false] {
        for broken in [
            "link gone",
            "slot gone",
            "binary gone",
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
                "link gone" => fs::remove_file(&link).unwrap(),
                "slot gone" => fs::remove_dir_all(stage.slots.dir(&second)).unwrap(),
                "binary gone" => fs::remove_file(stage.slots.binary(&second)).unwrap(),
                "not complete" => {
                    fs::remove_file(stage.slots.dir(&second).join("COMPLETE")).unwrap();
                }
                _ => {
                    fs::remove_file(&link).unwrap();
                    std::os::unix::fs::symlink("/", &link).unwrap();
                }
            }
            assert_eq!(stage.slots.leads(Link::Stable), Leads::Nowhere, "{broken}");
            stage.scene().stable = Active::Failed;
            if by_run {
                stage.scene().refuses_refresh = Some(crate::update::refusal::Cause::Expired);
                stage.ends().await;
            } else {
                repaired(&stage).await;
            }
            assert_eq!(
                stage.slots.leads(Link::Stable),
                Leads::Slot(first),
                "{broken}"
            );
            assert_eq!(stage.scene().stable, Active::Active, "{broken}");
            // Nothing is wrong with the release.
            assert_eq!(stage.state_or_default().skipped, [], "{broken}");
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
    assert_eq!(repaired(&stage).await, Repaired::Factory);
}

#[tokio::test(start_paused = true)]
async fn without_any_agent_left_it_says_what_to_do() {
    let stage = Stage::new();
    fs::remove_dir_all(&stage.slots.layout().factory).unwrap();
    let error = repair(stage.world()).await.unwrap_err();
    assert!(
        format!("{error:#}").ends_with("hint: replace the instance"),
        "{error:#}"
    );
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_running_updater() {
    let stage = Stage::new();
    let lock = stage.locked();
    let waiting = tokio::spawn(repair(stage.world()));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!waiting.is_finished());
    drop(lock);
    stage.unlocked();
    match waiting.await.unwrap() {
        Ok(to) => assert_eq!(to, Repaired::Factory),
        // What another test forked had a copy of the lock just then, and this clock does not wait for it.
        Err(error) => {
            assert_eq!(format!("{error:#}"), "another updater is at work");
            assert_eq!(repaired(&stage).await, Repaired::Factory);
        }
    }
    let lock = stage.locked();
    let error = repair(stage.world()).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "another updater is at work");
    drop(lock);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_with_starting_a_stable_agent_that_systemd_gave_up() {
    let stage = Stage::new();
    stage.scene().stable = Active::Failed;
    stage.ends().await;
    assert_eq!(stage.scene().stable, Active::Active);
    // One that an operator stopped stays so.
    stage.scene().stable = Active::Inactive;
    stage.ends().await;
    assert_eq!(stage.scene().stable, Active::Inactive);
}
