//! An instance that was started from an image of another instance, with that one's state in it.

use semver::Version;

use super::fakes::Stage;
use crate::slots::{Leads, Link};
use crate::state::Overrides;
use crate::status::Hold;

#[tokio::test(start_paused = true)]
async fn a_clone_forgets_everything_but_the_floor() {
    let mut stage = Stage::new();
    let failing = stage.offers("1.2.0");
    stage.scene().on_trial = super::fakes::OnTrial::FailsToStart;
    stage.ends().await;
    stage.scene().on_trial = super::fakes::OnTrial::Runs;
    let build = stage.offers("1.1.0");
    stage.scene().offers[1].release.floor = Some(Version::new(1, 1, 0));
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build.clone()));
    assert_eq!(stage.state().failures[0].build, failing);
    let overrides = Overrides {
        instance_id: "i-0a".to_owned(),
        hold: Some(Hold {
            until: None,
            reason: "sale".to_owned(),
        }),
        ..Overrides::default()
    };
    stage.store.save_overrides(&overrides).unwrap();

    "i-0b".clone_into(&mut stage.instance_id);
    stage.reboot();
    // The channel no longer has a floor or a newer release.
    stage.scene().offers.clear();
    stage.ends().await;
    let state = stage.state();
    assert_eq!(state.instance_id, "i-0b");
    assert_eq!(state.floor(), Some(&Version::new(1, 1, 0)));
    assert_eq!((&state.skipped, &state.failures), (&vec![], &vec![]));
    assert_eq!((state.previous.clone(), state.updated_at), (None, None));
    assert_eq!(stage.store.overrides("i-0b").hold, None);
    assert_eq!(stage.store.overrides("i-0a").hold, overrides.hold);
    // What the image came with stays.
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build.clone()));
    assert_eq!(state.confirmed, [build]);
}

#[tokio::test(start_paused = true)]
async fn a_clone_made_during_a_trial_is_idle_on_stable() {
    let mut stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.scene().kill = Some(Box::new(|call, _| call == "started"));
    assert!(stage.run().await.is_none());
    assert_eq!(stage.slots.leads(Link::Trial), Leads::Slot(build));
    "i-0b".clone_into(&mut stage.instance_id);
    stage.reboot();
    stage.scene().offers.clear();
    stage.ends().await;
    stage.assert_sound("clone");
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere);
    assert_eq!(stage.slots.complete(), []);
    assert_eq!(stage.state().failures, []);
}
