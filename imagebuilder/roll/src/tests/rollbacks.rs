//! Rollbacks: after a roll that was cancelled, that succeeded, that was rolled back already, and that cannot be verified.

use super::*;

/// A roll to ami-2 that an operator cancels when one member of three is new.
async fn cancelled() -> Fixture {
    let fixture = Fixture::new("");
    fixture.aws.state().statuses = [RefreshStatus::InProgress, RefreshStatus::InProgress].into();
    fixture.aws.during("start_refresh", |state| {
        // Pointers of an older release, which must not be used.
        state.point("previous", "ami-0");
    });
    let cancels = async {
        while fixture.aws.state().on(8) == 0 {
            tokio::task::yield_now().await;
        }
        fixture.aws.state().statuses = [RefreshStatus::Cancelled].into();
    };
    let (ended, ()) = tokio::join!(fixture.roll(), cancels);
    assert_eq!(ended.code, 13, "{}", ended.text);
    assert!(fixture.aws.state().on(8) > 0);
    fixture
}

#[tokio::test]
async fn a_cancelled_roll_returns_to_the_saved_version() {
    // With and without the recorded runs; by `roll rollback`, and by naming the image.
    for recorded in [true, false] {
        for named in [true, false] {
            let what = format!("recorded {recorded}, named {named}");
            let fixture = cancelled().await;
            if !recorded {
                forget(fixture.runs.path());
            }
            let ended = if named {
                let request = Request {
                    image: Some(sample::image("ami-1")),
                    ..Fixture::request()
                };
                fixture.verb("roll", &request).await
            } else {
                fixture.rollback().await
            };
            assert_eq!(ended.code, 0, "{what}: {}", ended.text);
            let state = fixture.aws.state();
            let found = (state.on(7), state.saved());
            assert_eq!(found, (3, SavedVersion::Number(7)), "{what}");
            // `current` stayed on ami-1, so `previous` is unchanged.
            assert_eq!(state.pointer("current"), Some("ami-1"), "{what}");
            assert_eq!(state.pointer("previous"), Some("ami-0"), "{what}");
            assert_eq!(
                state.template.latest, 8,
                "{what}: no version is made for it"
            );
        }
    }
}

/// Removes the recorded runs, as on another machine.
fn forget(runs: &Path) {
    for entry in std::fs::read_dir(runs).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
}

#[tokio::test]
async fn rolling_back_twice_is_the_same_as_once() {
    for recorded in [true, false] {
        let what = format!("recorded {recorded}");
        let fixture = Fixture::new("");
        assert_eq!(fixture.roll().await.code, 0, "{what}");
        assert_eq!(fixture.rollback().await.code, 0, "{what}");
        let began = fixture.aws.state().refreshes.len();
        if !recorded {
            forget(fixture.runs.path());
        }
        let again = fixture.rollback().await;
        assert_eq!(again.code, 0, "{what}: {}", again.text);
        let state = fixture.aws.state();
        let found = (state.on(7), state.refreshes.len());
        assert_eq!(found, (3, began), "{what}");
        drop(state);
        assert!(
            fixture
                .output
                .messages()
                .contains(&"group shop was rolled back already".to_owned()),
            "{:?}",
            fixture.output.messages()
        );
    }
}

#[tokio::test]
async fn what_the_service_rolled_back_is_only_verified() {
    let fixture = Fixture::new("");
    fixture.aws.state().point("previous", "ami-0");
    fixture.aws.state().unhealthy.insert(sample::image("ami-2"));
    assert_eq!(fixture.roll().await.code, 11);
    let again = fixture.rollback().await;
    assert_eq!(again.code, 0, "{}", again.text);
    let state = fixture.aws.state();
    assert_eq!((state.on(7), state.refreshes.len()), (3, 1));
}

#[tokio::test]
async fn a_rollback_has_no_pauses_and_is_never_reversed() {
    let roll =
        "smoke_test = [\"probe\"]\ncheckpoints = [30]\nbake_seconds = 60\nalarms = [\"errors\"]";
    let opened = || {
        let fixture = Fixture::new(roll);
        let mut state = fixture.aws.state();
        state.alarms.insert("errors".into(), "OK".into());
        drop(state);
        fixture
    };
    let fixture = opened();
    let no = || Err("exit status: 1: order lost".to_owned());
    // The test fails at the end of the roll, and on the old release as well: something else is broken.
    fixture.smoke.0.lock().unwrap().extend([Ok(()), no()]);
    assert_eq!(fixture.roll().await.code, 18);
    fixture.assert_back();
    {
        let state = fixture.aws.state();
        assert_eq!(state.refreshes[1].checkpoints, [30, 100]);
        assert!(state.refreshes[0].checkpoints.is_empty());
        assert!(state.preferences[1].alarms.is_empty());
        assert_eq!(state.preferences[1].bake_seconds, 0);
    }

    let fixture = opened();
    assert_eq!(fixture.roll().await.code, 0);
    // The bad release has raised the alarm.
    fixture
        .aws
        .state()
        .alarms
        .insert("errors".into(), "ALARM".into());
    fixture.aws.state().unhealthy.insert(sample::image("ami-1"));
    let heals = async {
        let goes_on = || {
            let state = fixture.aws.state();
            let over = state.refreshes.len() > 1 && state.refreshes[0].status.is_over();
            state.activities.len() < 10 && !over
        };
        while goes_on() {
            tokio::task::yield_now().await;
        }
        fixture.aws.state().unhealthy.clear();
    };
    fixture.smoke.0.lock().unwrap().extend([no()]);
    let (ended, ()) = tokio::join!(fixture.rollback(), heals);
    assert_eq!(ended.code, 18, "{}", ended.text);
    assert!(ended.text.contains("fails there too"), "{}", ended.text);
    let state = fixture.aws.state();
    assert_eq!((state.on(7), state.refreshes.len()), (3, 2));
}

#[tokio::test]
async fn a_rollback_that_is_not_verified_is_no_success() {
    // On request.
    let mut fixture = Fixture::new("");
    fixture.settings.watch_timeout = Some(Duration::ZERO);
    assert_eq!(fixture.roll().await.code, 15);
    fixture.settings = fast(sample::settings(""));
    fixture.settings.verify_timeout = Some(Duration::from_millis(20));
    fixture.aws.state().limping.insert(sample::image("ami-1"));
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 14, "{}", ended.text);
    assert!(
        ended.text.contains("Target.Timeout"),
        "the reason is never empty: {}",
        ended.text
    );
    // Automatic.
    let mut fixture = Fixture::new("");
    fixture.settings.verify_timeout = Some(Duration::from_millis(20));
    fixture.aws.state().unhealthy.insert(sample::image("ami-2"));
    fixture.aws.state().limping.insert(sample::image("ami-1"));
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 12, "{}", ended.text);
    assert!(ended.text.contains("Target.Timeout"), "{}", ended.text);
}
