//! State that outlives its writer, its reader's version, its box and its own bytes.

use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::update::machine::Job;

fn build(version: &str) -> Build {
    let digest = format!("{:0>64}", version.replace('.', ""));
    Build {
        version: version.parse().unwrap(),
        digest: Digest::parse(&digest).unwrap(),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("state"));
    (dir, store)
}

fn full() -> State {
    let at = Timestamp::UNIX_EPOCH;
    let mut state = State {
        schema: SCHEMA,
        instance_id: "i-1".to_owned(),
        phase: Phase::Trial(Job {
            build: build("1.2.0"),
            from: build("1.1.0"),
            why: "newer".to_owned(),
            boot: "b".to_owned(),
            began: at,
            strikes: 1,
        }),
        previous: Some(build("1.0.0")),
        metadata: Some([1, 2, 3, 4]),
        checked_at: Some(at),
        code: "slow".to_owned(),
        ..State::default()
    };
    state.confirm(&build("1.0.0"));
    state.confirm(&build("1.1.0"));
    state.skip(&build("1.3.0"), "crashed", at);
    state.raise_floor(&Version::new(1, 0, 0));
    for note in [
        Note::Strike(build("1.2.0")),
        Note::Setback {
            build: build("1.2.0"),
            reason: "slow".to_owned(),
            at,
        },
    ] {
        state.note(&note);
    }
    state
}

#[test]
fn what_was_saved_is_loaded_and_is_roots_alone() {
    let (dir, store) = store();
    assert_eq!(store.owner(), None);
    store.save(&full()).unwrap();
    let (state, found) = store.load("i-1", Some(&build("1.1.0"))).unwrap();
    assert_eq!((state, found), (full(), Found::Whole));
    assert_eq!(store.owner().as_deref(), Some("i-1"));
    let dir = dir.path().join("state");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join(FILE)), 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn what_stable_leads_to_was_confirmed_whoever_forgot_it() {
    let (_dir, store) = store();
    let (state, found) = store.load("i-1", Some(&build("1.1.0"))).unwrap();
    assert_eq!(found, Found::Nothing);
    assert_eq!(state.confirmed, [build("1.1.0")]);
    assert_eq!(state.instance_id, "i-1");
}

#[test]
fn the_floor_never_falls() {
    let mut state = full();
    for (floor, after) in [
        ("0.9.0", "1.0.0"),
        ("1.4.0", "1.4.0"),
        ("1.4.0-rc.1", "1.4.0"),
    ] {
        state.note(&Note::Floor(floor.parse().unwrap()));
        assert_eq!(state.floor().unwrap().to_string(), after);
    }
}

#[test]
fn notes_are_taken_in() {
    let at = Timestamp::UNIX_EPOCH;
    let mut state = full();
    let setback = |build: &Build| Note::Setback {
        build: build.clone(),
        reason: "slow".to_owned(),
        at,
    };
    state.note(&setback(&build("1.2.0")));
    assert_eq!(state.setback.as_ref().unwrap().failures, 2);
    state.note(&setback(&build("1.9.0")));
    assert_eq!(state.setback.as_ref().unwrap().failures, 1);
    state.note(&Note::Well);
    assert_eq!(state.setback, None);
    state.note(&Note::Strike(build("1.2.0")));
    assert_eq!(state.strikes[&build("1.2.0").digest], 2);
    state.note(&setback(&build("1.2.0")));
    state.note(&Note::Promoted {
        build: build("1.2.0"),
        at,
    });
    assert_eq!((state.strikes.len(), state.setback.is_none()), (0, true));
    assert_eq!(state.updated_at, Some(at));
    // What is skipped is no longer one that may be stable.
    state.note(&Note::Strike(build("1.1.0")));
    state.note(&Note::Skip {
        build: build("1.1.0"),
        reason: "repaired".to_owned(),
        at,
    });
    assert!(!state.is_confirmed(&build("1.1.0").digest));
    assert_eq!(state.strikes.len(), 0);
}

#[test]
fn the_skip_list_is_bounded_and_has_each_digest_once() {
    let mut state = State::default();
    for minor in 0..200 {
        for _ in 0..2 {
            let build = build(&format!("1.{minor}.0"));
            state.skip(&build, "crashed", Timestamp::UNIX_EPOCH);
        }
    }
    assert_eq!(state.skipped.len(), SKIPPED);
    assert_eq!(state.skipped.last().unwrap().build, build("1.199.0"));
}

#[test]
fn a_newer_agents_state_keeps_all_that_this_one_understands() {
    let (_dir, store) = store();
    store.save(&full()).unwrap();
    let path = store.dir.join(FILE);
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["schema"] = 2.into();
    json["phase"] = serde_json::json!({"phase": "flipping", "job": 7});
    json["of_a_newer_agent"] = true.into();
    fs::write(&path, json.to_string()).unwrap();
    let (state, found) = store.load("i-1", Some(&build("1.1.0"))).unwrap();
    assert!(matches!(found, Found::Broken { .. }), "{found:?}");
    let expected = State {
        phase: Phase::Idle,
        ..full()
    };
    assert_eq!(state, expected);
}

#[test]
fn a_state_that_is_none_is_moved_aside() {
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", &[0; 4096]] {
        let (_dir, store) = store();
        store.save(&full()).unwrap();
        fs::write(store.dir.join(FILE), bytes).unwrap();
        let (state, found) = store.load("i-1", Some(&build("1.1.0"))).unwrap();
        let Found::Broken { aside, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!(fs::read(aside).unwrap(), bytes);
        assert!(!store.dir.join(FILE).exists());
        assert_eq!(state.confirmed, [build("1.1.0")]);
        assert_eq!(state.phase, Phase::Idle);
    }
}

/// Nothing is overwritten that was not read.
#[test]
fn a_state_that_the_disk_does_not_give_is_an_error() {
    let (_dir, store) = store();
    fs::create_dir_all(store.dir.join(FILE)).unwrap();
    let error = store.load("i-1", None).unwrap_err();
    assert!(
        format!("{error:#}").starts_with("cannot read "),
        "{error:#}"
    );
}

#[test]
fn another_boxs_state_is_begun_anew_with_its_floor() {
    for (was, is, foreign) in [
        ("i-1", "i-2", true),
        ("i-1", "i-1", false),
        // While the metadata service is out of reach a box goes by another name.
        ("i-1", "machine-1", false),
        ("machine-1", "i-1", true),
        ("machine-1", "machine-2", true),
        ("", "i-1", false),
    ] {
        let (_dir, store) = store();
        store
            .save(&State {
                instance_id: was.to_owned(),
                ..full()
            })
            .unwrap();
        let (state, found) = store.load(is, None).unwrap();
        assert_eq!(
            matches!(found, Found::Foreign { .. }),
            foreign,
            "{was} {is}"
        );
        assert_eq!(state.floor(), full().floor());
        assert_eq!(state.skipped.is_empty(), foreign, "{was} {is}");
        let name = if was == "i-1" && !foreign { was } else { is };
        assert_eq!(state.instance_id, name);
    }
}

#[test]
fn orders_are_kept_for_the_box_they_were_given_on() {
    let (_dir, store) = store();
    assert_eq!(store.orders("i-1").pin, None);
    let orders = Orders {
        instance_id: "i-1".to_owned(),
        pin: Some(Version::new(1, 2, 3)),
        ..Orders::default()
    };
    store.order(&orders).unwrap();
    assert_eq!(store.orders("i-1"), orders);
    assert_eq!(store.orders("i-2").pin, None);
    fs::write(store.dir.join(ORDERS), "{").unwrap();
    assert_eq!(store.orders("i-1").pin, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever bytes are there, reading them never panics and leaves a state that reads back.
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = State::read(&bytes);
        let _ = Orders::read(&bytes);
    }

    /// A byte changed or a tail lost in a real state: no panic, and what is read writes and reads back.
    #[test]
    fn a_damaged_state_is_read_as_far_as_it_goes(at in 0_usize..4000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = serde_json::to_vec(&full()).unwrap();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let (state, _) = State::read(&bytes);
        let again = serde_json::to_vec(&state).unwrap();
        prop_assert_eq!(State::read(&again), (state, None));
    }
}
