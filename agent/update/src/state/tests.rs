//! State that outlives its writer, its reader's version, its instance and its own bytes.

use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::phases::Job;

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

fn failed(version: &str, kind: FailureKind) -> Note {
    Note::Failed {
        build: build(version),
        kind,
        reason: "slow".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn counted(state: &State, version: &str, kind: FailureKind) -> u32 {
    let failures = blame::of(&state.failures, &build(version));
    failures
        .and_then(|it| it.causes.get(&kind))
        .map_or(0, |it| it.count)
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
            crashes: 1,
            urgent: false,
            withheld: None,
            overruled: false,
            worse: None,
        }),
        previous: Some(build("1.0.0")),
        metadata: Some([1, 2, 3, 4]),
        checked_at: Some(at),
        code: "slow".to_owned(),
        ..State::default()
    };
    state.confirm(&build("1.0.0"));
    state.confirm(&build("1.1.0"));
    state.skip_release(&build("1.3.0"), "crashed", at);
    state.raise_floor(&Version::new(1, 0, 0));
    for kind in [FailureKind::Interrupted, FailureKind::Environment] {
        state.note(&failed("1.2.0", kind));
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
fn the_build_of_stable_counts_as_confirmed() {
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
        assert_eq!(state.floor().unwrap().to_string(), after, "{floor}");
    }
}

#[test]
fn notes_are_taken_in() {
    use FailureKind::{Crashed, Environment, Interrupted};
    let at = Timestamp::UNIX_EPOCH;
    let mut state = full();
    state.note(&failed("1.2.0", Environment));
    assert_eq!(counted(&state, "1.2.0", Environment), 2);
    state.note(&failed("1.9.0", Environment));
    state.note(&Note::Well);
    assert_eq!(counted(&state, "1.2.0", Environment), 0);
    assert_eq!(counted(&state, "1.2.0", Interrupted), 1);
    assert_eq!(counted(&state, "1.9.0", Environment), 0);
    state.note(&Note::Promoted {
        build: build("1.2.0"),
        at,
    });
    assert_eq!(state.failures, []);
    assert_eq!(state.updated_at, Some(at));
    // Its crashes are over when it has run as stable, and not before.
    state.note(&failed("1.2.0", Crashed));
    for (minutes, crashes) in [(0, 1), (9, 1), (10, 0)] {
        state.note(&Note::Runs {
            build: build("1.2.0"),
            at: at + SignedDuration::from_mins(minutes),
        });
        assert_eq!(counted(&state, "1.2.0", Crashed), crashes, "{minutes}");
    }
    // A skipped release may no longer be stable.
    state.note(&failed("1.1.0", Crashed));
    state.note(&Note::SkipRelease {
        build: build("1.1.0"),
        reason: "crashed".to_owned(),
        at,
    });
    assert!(!state.is_confirmed(&build("1.1.0").digest));
    assert_eq!(state.failures, []);
    let withheld = Withheld {
        since: at,
        reason: "busy\nwith\u{1b} it".to_owned(),
        last: None,
        seconds: 0,
    };
    state.note(&Note::Withheld(withheld));
    assert_eq!(state.withheld.as_ref().unwrap().reason, "busy with it");
    state.note(&Note::NotWithheld);
    assert_eq!(state.withheld, None);
}

#[test]
fn a_withdrawal_is_kept_until_the_channel_drops_it() {
    let mut state = full();
    let seen = |withdrawn: &[&str], valid: &[&str]| {
        Note::Withdrawals(Withdrawals {
            withdrawn: withdrawn.iter().map(|it| build(it)).collect(),
            valid: valid.iter().map(|it| build(it)).collect(),
        })
    };
    state.note(&seen(&["1.1.0"], &["1.2.0"]));
    assert_eq!(
        state.barred(&build("1.1.0")).unwrap(),
        "1.1.0 was withdrawn"
    );
    // However many others there are.
    let many: Vec<String> = (0..200).map(|minor| format!("9.{minor}.0")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    state.note(&seen(&many, &[]));
    assert_eq!(state.withdrawn.len(), REMEMBERED);
    assert!(state.barred(&build("1.1.0")).is_some());
    // A channel that no longer names it takes nothing back.
    state.note(&seen(&[], &["1.2.0"]));
    assert!(state.barred(&build("1.1.0")).is_some());
    state.note(&seen(&[], &["1.1.0"]));
    assert_eq!(state.barred(&build("1.1.0")), None);
    for (version, why) in [
        ("0.9.0", "0.9.0 is below the floor 1.0.0"),
        ("1.3.0", "1.3.0 failed here: crashed"),
    ] {
        assert_eq!(state.barred(&build(version)).unwrap(), why, "{version}");
    }
    // An accident is no reason.
    assert_eq!(state.barred(&build("1.2.0")), None);
    state.note(&failed("1.2.0", FailureKind::Unhealthy));
    assert!(state.barred(&build("1.2.0")).is_some());
}

/// A state of an agent that skipped a release after one failure.
#[test]
fn an_older_agents_skip_counts_as_one_failure() {
    let (_dir, store) = store();
    store.save(&State::default()).unwrap();
    let digest = build("1.3.0").digest;
    let old = serde_json::json!({
        "schema": 1, "instance_id": "i-1",
        "phase": {"phase": "trial", "job": {
            "build": {"version": "1.3.0", "digest": digest}, "from": {"version": "1.1.0", "digest": digest},
            "why": "newer", "boot": "b", "began": "2026-01-01T00:00:00Z", "strikes": 1}},
        "strikes": {digest.as_str(): 1},
        "setback": {"digest": digest, "failures": 2, "at": "2026-01-01T00:00:00Z", "reason": "slow"},
        "skipped": [{"build": {"version": "1.3.0", "digest": digest}, "reason": "the trial ended with exit-code",
                     "at": "2026-01-01T00:00:00Z"}],
        "floor": "1.0.0",
    });
    fs::write(store.dir.join(FILE), old.to_string()).unwrap();
    let (state, found) = store.load("i-1", None).unwrap();
    assert_eq!(found, Found::Whole);
    assert_eq!(state.phase.name(), "trial");
    assert_eq!(state.skipped, []);
    assert_eq!(counted(&state, "1.3.0", FailureKind::Crashed), 1);
    assert_eq!(state.floor(), Some(&Version::new(1, 0, 0)));
}

#[test]
fn the_skip_list_is_bounded_and_has_each_digest_once() {
    let mut state = State::default();
    for minor in 0..200 {
        for _ in 0..2 {
            let build = build(&format!("1.{minor}.0"));
            state.skip_release(&build, "crashed", Timestamp::UNIX_EPOCH);
        }
    }
    assert_eq!(state.skipped.len(), REMEMBERED);
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
fn an_invalid_state_is_moved_aside() {
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", &[0; 4096]] {
        let (_dir, store) = store();
        store.save(&full()).unwrap();
        fs::write(store.dir.join(FILE), bytes).unwrap();
        let (state, found) = store.load("i-1", Some(&build("1.1.0"))).unwrap();
        let Found::Broken { aside, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!(fs::read(aside).unwrap(), bytes, "{bytes:?}");
        assert!(!store.dir.join(FILE).exists(), "{bytes:?}");
        assert_eq!(state.confirmed, [build("1.1.0")], "{bytes:?}");
        assert_eq!(state.phase, Phase::Idle, "{bytes:?}");
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
fn another_hosts_state_is_begun_anew_with_its_floor() {
    for (was, is, foreign) in [
        ("i-1", "i-2", true),
        ("i-1", "i-1", false),
        // While the metadata service is out of reach a host uses a derived name.
        ("i-1", "machine-1", false),
        ("machine-1", "i-1", false),
        ("machine-2", "i-1", true),
        ("machine-2", "machine-1", true),
        ("", "i-1", false),
    ] {
        let (_dir, store) = store();
        let store = store.also_called(Some("machine-1".to_owned()));
        store
            .save(&State {
                instance_id: was.to_owned(),
                ..full()
            })
            .unwrap();
        let overrides = Overrides {
            instance_id: was.to_owned(),
            pin: Some(Version::new(1, 2, 3)),
            ..Overrides::default()
        };
        store.save_overrides(&overrides).unwrap();
        let (state, found) = store.load(is, None).unwrap();
        assert_eq!(
            matches!(found, Found::Foreign { .. }),
            foreign,
            "{was} {is}"
        );
        assert_eq!(state.floor(), full().floor(), "{was} {is}");
        assert_eq!(state.skipped.is_empty(), foreign, "{was} {is}");
        assert_eq!(store.overrides(is).pin.is_none(), foreign, "{was} {is}");
        let name = if was == "i-1" && !foreign { was } else { is };
        assert_eq!(state.instance_id, name, "{was} {is}");
        // Its instance id distinguishes it from an image made of it.
        if is == "i-1" && !foreign {
            assert_eq!(store.overrides(is).instance_id, "i-1", "{was} {is}");
        }
    }
}

#[test]
fn overrides_apply_to_the_instance_they_were_given_on() {
    let (_dir, store) = store();
    assert_eq!(store.overrides("i-1").pin, None);
    let overrides = Overrides {
        instance_id: "i-1".to_owned(),
        pin: Some(Version::new(1, 2, 3)),
        ..Overrides::default()
    };
    store.save_overrides(&overrides).unwrap();
    assert_eq!(store.overrides("i-1"), overrides);
    assert_eq!(store.overrides("i-2").pin, None);
    fs::write(store.dir.join(OVERRIDES), "{").unwrap();
    assert_eq!(store.overrides("i-1").pin, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever bytes are there, reading them never panics and leaves a state that reads back.
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = State::read(&bytes);
        let _ = Overrides::read(&bytes);
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

/// Only times in which permission was asked for again and again count.
#[test]
fn permission_is_withheld_for_as_long_as_it_was_asked_for() {
    let at = |minutes: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
    for (refusals, minutes) in [
        (&[0][..], 0),
        (&[0, 20, 40, 60], 60),
        // Outside of its window nothing is requested; over the weekend the host is off.
        (&[0, 20, 4000, 4020], 40),
        // The clock steps back, and begins anew; or jumps ahead.
        (&[100, 120, 10, 30], 20),
        (&[0, 20, 10_000_000], 20),
    ] {
        let mut withheld = None;
        for refused in refusals {
            withheld = Some(Withheld::again(withheld, "busy".to_owned(), at(*refused)));
        }
        let lasted = withheld.unwrap().lasted();
        assert_eq!(lasted, SignedDuration::from_mins(minutes), "{refusals:?}");
    }
}
