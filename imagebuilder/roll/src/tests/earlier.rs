//! Rolls whose run was interrupted under an earlier release of this program, with a journal of schema 2.

use super::*;

/// Replaces the newest journal by one that schema 2 had of the roll from version 7 to 8, with these facts besides.
fn as_of_schema_2(fixture: &Fixture, facts: &[(&str, &str)]) -> std::path::PathBuf {
    let run = std::fs::read_dir(fixture.runs.path()).unwrap().next();
    let folder = run.unwrap().unwrap().path();
    let run = folder.file_name().unwrap().to_str().unwrap();
    let mut journal = serde_json::json!({
        "schema": 2, "run": run, "verb": "roll", "image": "shop", "region": "us-east-1",
        "began": "2026-01-02T03:04:05Z", "outcome": null, "things": [],
        "steps": [{ "step": "refresh", "began": "2026-01-02T03:04:06Z" }],
        "facts": {
            "group": "shop", "previous": "lt-1:7:ami-1", "target": "lt-1:8:ami-2",
            "refresh-intended": "2026-01-02T03:04:06Z",
        },
    });
    for (key, text) in facts {
        journal["facts"][*key] = (*text).into();
    }
    let path = folder.join("ledger.json");
    std::fs::write(&path, journal.to_string()).unwrap();
    path
}

#[tokio::test]
async fn watch_resumes_a_roll_of_schema_2() {
    // With the refresh's id, and killed before it was received.
    for recorded in [true, false] {
        let mut fixture = Fixture::new("smoke_test = [\"probe\"]");
        fixture.settings.watch_timeout = Some(Duration::ZERO);
        assert_eq!(fixture.roll().await.code, 15);
        fixture.settings.watch_timeout = None;
        let refresh = fixture.aws.state().refreshes[0].id.clone();
        let facts = [("refresh", &*refresh)];
        let path = as_of_schema_2(&fixture, if recorded { &facts } else { &[] });

        // Only a recorded run rolls back by itself when the last smoke test fails.
        let failure = Err("exit status: 1: order lost".to_owned());
        fixture.smoke.0.lock().unwrap().push_back(failure);
        let ended = fixture.watch().await;
        assert_eq!(ended.code, 18, "recorded {recorded}: {}", ended.text);
        fixture.assert_back();
        let text = std::fs::read_to_string(path).unwrap();
        let journal: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(journal["schema"], 3, "recorded {recorded}");
        assert_eq!(journal["roll"]["direction"], "back", "recorded {recorded}");
        let stopped = &journal["roll"]["stopped"];
        assert_eq!(stopped, "the smoke test failed: exit status: 1: order lost");
    }
}

#[tokio::test]
async fn rollback_returns_to_the_version_of_schema_2() {
    let fixture = Fixture::new("");
    assert_eq!(fixture.roll().await.code, 0);
    let refresh = fixture.aws.state().refreshes[0].id.clone();
    as_of_schema_2(&fixture, &[("refresh", &refresh)]);
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    let state = fixture.aws.state();
    // The recorded version, and no new one with the image of the pointer.
    assert_eq!((state.on(7), state.template.latest), (3, 8));
}

#[tokio::test]
async fn a_rollback_recorded_by_schema_2_is_not_repeated() {
    let fixture = Fixture::new("");
    assert_eq!(fixture.roll().await.code, 0);
    let refresh = fixture.aws.state().refreshes[0].id.clone();
    as_of_schema_2(&fixture, &[("refresh", &refresh), ("back", "yes")]);
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert_eq!(fixture.aws.state().refreshes.len(), 1);
}
