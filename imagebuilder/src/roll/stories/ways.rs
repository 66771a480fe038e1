//! Ways back: after a roll that was cancelled, that succeeded, that was brought back already, and that cannot be proven.

use super::*;

/// A roll to ami-2 that an operator cancels when one member of three is new.
async fn cancelled() -> Stage {
    let stage = Stage::new("");
    stage.service.state().statuses = [RefreshStatus::InProgress, RefreshStatus::InProgress].into();
    stage.service.state().meanwhile = Some(("start_refresh", |state| {
        // Pointers of a release before: nobody may go there.
        state.point("previous", "ami-0");
    }));
    let cancels = async {
        while stage.service.state().on(8) == 0 {
            tokio::task::yield_now().await;
        }
        stage.service.state().statuses = [RefreshStatus::Cancelled].into();
    };
    let (ended, ()) = tokio::join!(stage.roll(), cancels);
    assert_eq!(ended.code, 13, "{}", ended.words);
    assert!(stage.service.state().on(8) > 0);
    stage
}

#[tokio::test]
async fn a_cancelled_roll_goes_back_to_the_version_that_is_saved() {
    // With what runs recorded, and as from another machine; by the verb, and by naming the image.
    for recorded in [true, false] {
        for named in [true, false] {
            let stage = cancelled().await;
            if !recorded {
                forget(stage.runs.path());
            }
            let ended = if named {
                let request = Request {
                    image: Some(sample::image("ami-1")),
                    ..Stage::request()
                };
                stage.verb("roll", &request).await
            } else {
                stage.rollback().await
            };
            assert_eq!(ended.code, 0, "{}", ended.words);
            let state = stage.service.state();
            assert_eq!((state.on(7), state.saved()), (3, SavedVersion::Number(7)));
            // `current` never left ami-1, so what was before it is known as it was.
            assert_eq!(state.pointer("current"), Some("ami-1"));
            assert_eq!(state.pointer("previous"), Some("ami-0"));
            assert_eq!(state.template.latest, 8, "no version is made for it");
        }
    }
}

/// What runs recorded is lost: another machine.
fn forget(runs: &Path) {
    for entry in std::fs::read_dir(runs).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
}

#[tokio::test]
async fn going_back_twice_ends_where_going_back_once_does() {
    for recorded in [true, false] {
        let stage = Stage::new("");
        assert_eq!(stage.roll().await.code, 0);
        assert_eq!(stage.rollback().await.code, 0);
        let began = stage.service.state().refreshes.len();
        if !recorded {
            forget(stage.runs.path());
        }
        let again = stage.rollback().await;
        assert_eq!(again.code, 0, "{}", again.words);
        let state = stage.service.state();
        assert_eq!((state.on(7), state.refreshes.len()), (3, began));
        drop(state);
        assert!(
            stage
                .output
                .story()
                .contains(&"group shop was brought back already".to_owned()),
            "{:?}",
            stage.output.story()
        );
    }
}

#[tokio::test]
async fn what_the_service_rolled_back_is_back_already() {
    let stage = Stage::new("");
    stage.service.state().point("previous", "ami-0");
    stage.service.state().sick.insert(sample::image("ami-2"));
    assert_eq!(stage.roll().await.code, 11);
    let again = stage.rollback().await;
    assert_eq!(again.code, 0, "{}", again.words);
    let state = stage.service.state();
    assert_eq!((state.on(7), state.refreshes.len()), (3, 1));
}

#[tokio::test]
async fn a_way_back_pauses_nowhere_and_is_never_turned_around() {
    let roll =
        "smoke_test = [\"probe\"]\ncheckpoints = [30]\nbake_seconds = 60\nalarms = [\"errors\"]";
    let opened = || {
        let stage = Stage::new(roll);
        let mut state = stage.service.state();
        state.alarms.insert("errors".into(), "OK".into());
        drop(state);
        stage
    };
    let stage = opened();
    let no = || Err("exit status: 1: order lost".to_owned());
    // The test fails at the end of the roll, and on the old release as well: something else is broken.
    stage.smoke.0.lock().unwrap().extend([Ok(()), no()]);
    assert_eq!(stage.roll().await.code, 18);
    stage.assert_back();
    {
        let state = stage.service.state();
        assert_eq!(state.refreshes[1].checkpoints, [30, 100]);
        assert!(state.refreshes[0].checkpoints.is_empty());
        assert!(state.preferences[1].alarms.is_empty());
        assert_eq!(state.preferences[1].bake_seconds, 0);
    }

    let stage = opened();
    assert_eq!(stage.roll().await.code, 0);
    // The bad release has raised it.
    stage
        .service
        .state()
        .alarms
        .insert("errors".into(), "ALARM".into());
    stage.service.state().sick.insert(sample::image("ami-1"));
    let heals = async {
        let goes_on = || {
            let state = stage.service.state();
            let over = state.refreshes.len() > 1 && state.refreshes[0].status.is_over();
            state.activities.len() < 10 && !over
        };
        while goes_on() {
            tokio::task::yield_now().await;
        }
        stage.service.state().sick.clear();
    };
    stage.smoke.0.lock().unwrap().extend([no()]);
    let (ended, ()) = tokio::join!(stage.rollback(), heals);
    assert_eq!(ended.code, 18, "{}", ended.words);
    assert!(ended.words.contains("fails there too"), "{}", ended.words);
    let state = stage.service.state();
    assert_eq!((state.on(7), state.refreshes.len()), (3, 2));
}

#[tokio::test]
async fn a_way_back_that_cannot_be_proven_is_never_a_success() {
    // Asked for.
    let mut stage = Stage::new("");
    stage.settings.watch_timeout = Some(Duration::ZERO);
    assert_eq!(stage.roll().await.code, 15);
    stage.settings = hasty(sample::settings(""));
    stage.settings.verify_timeout = Some(Duration::from_millis(20));
    stage.service.state().limping.insert(sample::image("ami-1"));
    let ended = stage.rollback().await;
    assert_eq!(ended.code, 14, "{}", ended.words);
    assert!(
        ended.words.contains("Target.Timeout"),
        "the reason is never empty: {}",
        ended.words
    );
    // By itself.
    let mut stage = Stage::new("");
    stage.settings.verify_timeout = Some(Duration::from_millis(20));
    stage.service.state().sick.insert(sample::image("ami-2"));
    stage.service.state().limping.insert(sample::image("ami-1"));
    let ended = stage.roll().await;
    assert_eq!(ended.code, 12, "{}", ended.words);
    assert!(ended.words.contains("Target.Timeout"), "{}", ended.words);
}
