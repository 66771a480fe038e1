//! Channels, disks and slots that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::fakes::Stage;
use crate::attempt::Ended;
use crate::build::Build;
use crate::channel::Cause;
use crate::phases::Outcome;
use crate::slots::{COMPLETE, Leads, Link};
use crate::state::{FILE, Overrides};

fn code(ended: &Ended) -> &str {
    match ended {
        Ended::With(Outcome::Postponed { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn parts(stage: &Stage) -> usize {
    fs::read_dir(stage.slots.layout().slots.join("staging"))
        .unwrap()
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_not_believed_changes_nothing() {
    for cause in [
        Cause::Unsigned,
        Cause::Expired,
        Cause::Rollback,
        Cause::Unreachable,
        Cause::NoRoot,
    ] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().refuses_refresh = Some(cause);
        let ended = stage.ends().await;
        assert_eq!(code(&ended), cause.code(), "{cause:?}");
        assert!(!ended.is_well(), "{cause:?}");
        let shown = stage.status();
        assert_eq!(shown.code, cause.code(), "{cause:?}");
        assert_eq!(shown.reason, "as played", "{cause:?}");
        assert!(
            shown.checked_at.is_some() && shown.verified_at.is_none(),
            "{cause:?}"
        );
        assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory, "{cause:?}");
        assert!(
            !stage
                .scene()
                .calls
                .iter()
                .any(|call| call.starts_with("start")),
            "{cause:?}"
        );
        // Never latched.
        stage.scene().refuses_refresh = None;
        assert!(stage.ends().await.is_well(), "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_fetch_resumes_and_a_failed_one_is_removed() {
    for (cause, left) in [(Cause::Slow, 1), (Cause::Disk, 0)] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        stage.scene().refuses_fetch = Some(cause);
        assert_eq!(code(&stage.ends().await), cause.code(), "{cause:?}");
        assert_eq!(parts(&stage), left, "{cause:?}");
        // The pause after a setback does not throw the part away.
        let ended = stage.ends().await;
        assert!(
            matches!(ended, Ended::With(Outcome::Settled(_))),
            "{cause:?}: {ended:?}"
        );
        assert_eq!(parts(&stage), left, "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_without_room_is_refused_before_it_is_fetched() {
    let stage = Stage::new();
    stage.offers("1.1.0");
    stage.scene().offers[0].length = 1 << 60;
    assert_eq!(code(&stage.ends().await), "no-room");
    assert!(!stage.scene().calls.iter().any(|call| call == "fetch"));
    assert_eq!(parts(&stage), 0);
}

/// Does something to the slot at the first call of a phase.
fn tamper(stage: &Stage, phase: &'static str, action: impl Fn(&std::path::Path) + Send + 'static) {
    let mut done = false;
    stage.scene().kill = Some(Box::new(move |_, root| {
        let state = fs::read_to_string(root.join("state").join(FILE)).unwrap_or_default();
        if !done && state.contains(&format!("\"phase\": \"{phase}\"")) {
            let slot = fs::read_dir(root.join("slots/versions"))
                .unwrap()
                .next()
                .unwrap()
                .unwrap();
            action(&slot.path());
            done = true;
        }
        false
    }));
}

/// Nothing whose bytes are not the signed ones is armed, run or made stable.
#[tokio::test(start_paused = true)]
async fn a_slot_that_changed_on_the_disk_is_never_used() {
    type Action = fn(&std::path::Path);
    let actions: [(&str, Action); 4] = [
        ("byte flipped", |slot| {
            let binary = slot.join("imagebuilder-agent");
            let mut bytes = fs::read(&binary).unwrap();
            bytes[3] ^= 1;
            fs::write(binary, bytes).unwrap();
        }),
        ("truncated", |slot| {
            let binary = slot.join("imagebuilder-agent");
            fs::File::options()
                .write(true)
                .open(binary)
                .unwrap()
                .set_len(4)
                .unwrap();
        }),
        ("COMPLETE missing", |slot| {
            fs::remove_file(slot.join(COMPLETE)).unwrap()
        }),
        ("COMPLETE of another", |slot| {
            fs::write(slot.join(COMPLETE), format!("{}\n", "0".repeat(64))).unwrap();
        }),
    ];
    for (name, action) in actions {
        for (phase, code_then) in [("asking", "slot"), ("trial", "slot")] {
            let what = format!("{name} in {phase}");
            let stage = Stage::new();
            let build = stage.offers("1.1.0");
            tamper(&stage, phase, action);
            assert_eq!(code(&stage.ends().await), code_then, "{what}");
            assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory, "{what}");
            assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere, "{what}");
            assert_eq!(stage.state().skipped, [], "{what}");
            assert_eq!(
                stage.scene().calls.iter().any(|call| call == "start trial"),
                phase == "trial",
                "{what}"
            );
            // After the pause it is fetched anew, and is well.
            tokio::time::advance(std::time::Duration::from_secs(16 * 60)).await;
            stage.ends().await;
            assert_eq!(
                stage.slots.leads(Link::Stable),
                Leads::Slot(build),
                "{what}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stable_slot_that_rotted_is_left_for_what_was_before() {
    let stage = Stage::new();
    let first = stage.offers("1.1.0");
    stage.ends().await;
    let second = stage.offers("1.2.0");
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(second.clone()));
    assert_eq!(stage.slots.complete(), [first.clone(), second.clone()]);
    fs::write(stage.slots.binary(&second), "rot").unwrap();
    stage.scene().refuses_refresh = Some(Cause::Unreachable);
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(first.clone()));
    fs::remove_dir_all(stage.slots.dir(&first)).unwrap();
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    // And what rotted was not bad: it is fetched again.
    stage.scene().refuses_refresh = None;
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(second));
    stage.assert_sound("fetched again");
}

/// Root writes through every mode, so the state directory is replaced by a file, which cannot be written.
#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_written_ends_the_run_on_stable() {
    // From before the first write, and from the moment the trial runs.
    for phase in ["", "trial"] {
        let stage = Stage::new();
        stage.offers("1.1.0");
        let state = stage.slots.layout().state.clone();
        let mut done = false;
        stage.scene().kill = Some(Box::new(move |_, _| {
            let now = fs::read_to_string(state.join(FILE)).unwrap_or_default();
            let there = phase.is_empty() || now.contains(&format!("\"phase\": \"{phase}\""));
            if !done && there {
                let _ = fs::create_dir(&state);
                // What is written first cannot be made.
                fs::create_dir_all(state.join("state.json.new/in-the-way")).unwrap();
                done = true;
            }
            false
        }));
        let error = stage.run().await.unwrap().unwrap_err();
        assert!(
            format!("{error:#}").contains("cannot write"),
            "{phase:?}: {error:#}"
        );
        assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory, "{phase:?}");
        assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere, "{phase:?}");
        assert_eq!(parts(&stage), 0, "{phase:?}");
        let scene = stage.scene();
        assert_eq!(
            scene.stable,
            crate::attempt::ActiveState::Active,
            "{phase:?}"
        );
        assert_eq!(
            scene.trial,
            crate::attempt::ActiveState::Inactive,
            "{phase:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_state_is_moved_aside_and_rebuilt() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.ends().await;
    let state = stage.slots.layout().state.clone();
    for bytes in [
        &b""[..],
        b"\0\0\0\0",
        b"{\"schema\":1,\"phase\":",
        b"[]",
        b"\xff",
    ] {
        fs::write(state.join(FILE), bytes).unwrap();
        stage.ends().await;
        assert_eq!(
            fs::read(state.join("state.json.broken")).unwrap(),
            bytes,
            "{bytes:?}"
        );
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build.clone()),
            "{bytes:?}"
        );
        assert!(stage.state().is_confirmed(&build.digest), "{bytes:?}");
        assert_eq!(stage.state().instance_id, "i-0a", "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_updater_ends_as_busy() {
    let mut stage = Stage::new();
    stage.offers("1.1.0");
    let lock = stage.locked();
    stage.busy = true;
    assert_eq!(stage.ends().await, Ended::Busy);
    assert!(stage.ends().await.is_well());
    drop(lock);
    stage.busy = false;
    assert_ne!(stage.ends().await, Ended::Busy);
}

#[tokio::test(start_paused = true)]
async fn an_operators_hold_and_pin_are_followed() {
    let stage = Stage::new();
    let wanted = stage.offers("1.1.0");
    stage.offers("1.2.0");
    let mut overrides = Overrides {
        instance_id: "i-0a".to_owned(),
        hold: Some(crate::status::Hold {
            until: None,
            reason: "sale".to_owned(),
        }),
        ..Overrides::default()
    };
    stage.store.save_overrides(&overrides).unwrap();
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Factory);
    let shown = stage.status();
    assert_eq!(shown.hold, overrides.hold);
    assert_eq!(shown.wanted.as_ref().unwrap().version.to_string(), "1.2.0");
    overrides.hold = None;
    overrides.pin = Some(wanted.version.clone());
    stage.store.save_overrides(&overrides).unwrap();
    stage.ends().await;
    assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(wanted));
}

#[tokio::test(start_paused = true)]
async fn the_status_file_is_public_and_complete() {
    let stage = Stage::new();
    let build: Build = stage.offers("1.1.0");
    stage.ends().await;
    let path = stage.slots.layout().run.join("status.json");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let shown = stage.status();
    assert_eq!(shown.stable.as_ref(), Some(&build));
    assert_eq!((&shown.trial, shown.channel.as_str()), (&None, "stable"));
    assert_eq!(shown.metadata, Some([1, 2, 3, 4]));
    assert!(shown.updated_at.is_some() && shown.metadata_expires.is_some());
    assert_eq!(shown.factory.as_ref().unwrap().version.to_string(), "1.0.0");
    assert_eq!(shown.reason, "updated from 1.0.0 to 1.1.0");
    let state = stage.slots.layout().state.join(FILE);
    assert_eq!(
        fs::metadata(state).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

/// What is logged meanwhile, on this thread.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// The log names a hold or a pin that the floor overrides.
#[tokio::test(start_paused = true)]
async fn a_floor_that_overrides_an_operator_is_logged_as_a_warning() {
    for (hold, pin, expected) in [
        (
            true,
            None,
            "taking 1.1.0: below the floor 1.1.0, overriding hold",
        ),
        (
            false,
            Some("1.0.0"),
            "taking 1.1.0: below the floor 1.1.0, overriding pin",
        ),
        (
            true,
            Some("1.0.0"),
            "taking 1.1.0: below the floor 1.1.0, overriding hold and pin",
        ),
        (false, None, ""),
    ] {
        let stage = Stage::new();
        let build = stage.offers("1.1.0");
        stage.scene().offers[0].release.floor = Some(build.version.clone());
        let overrides = Overrides {
            instance_id: "i-0a".to_owned(),
            hold: hold.then(|| crate::status::Hold {
                until: None,
                reason: "sale".to_owned(),
            }),
            pin: pin.map(|pin| pin.parse().unwrap()),
            ..Overrides::default()
        };
        stage.store.save_overrides(&overrides).unwrap();
        let log = Log::default();
        let guard = log.capture();
        stage.ends().await;
        drop(guard);
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build),
            "{hold} {pin:?}"
        );
        let lines = log.lines();
        let warned = lines.iter().any(|line| {
            line.contains(" WARN ") && line.contains(expected) && line.contains("code=\"floor\"")
        });
        assert_eq!(warned, !expected.is_empty(), "{hold} {pin:?}: {lines:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_directory_that_is_full_is_shown_by_its_code() {
    let stage = Stage::new();
    let state = stage.slots.layout().state.clone();
    fs::create_dir_all(state.join("state.json.new/in-the-way")).unwrap();
    stage.run().await.unwrap().unwrap_err();
    let shown = stage.status();
    assert_eq!(shown.code, "disk");
    assert!(shown.reason.contains("cannot write"), "{}", shown.reason);
}

/// A stable slot that cannot be executed would not be started again: it is not "current".
#[tokio::test(start_paused = true)]
async fn a_stable_slot_without_its_right_to_be_executed_gets_it_back() {
    let stage = Stage::new();
    let build = stage.offers("1.1.0");
    stage.ends().await;
    let binary = stage.slots.binary(&build);
    for mode in [0o644, 0o600, 0o100] {
        fs::set_permissions(&binary, fs::Permissions::from_mode(mode)).unwrap();
        assert!(stage.slots.verify(&build).is_err(), "{mode:o}");
        stage.ends().await;
        assert_eq!(
            fs::metadata(&binary).unwrap().permissions().mode() & 0o777,
            0o755,
            "{mode:o}"
        );
        assert_eq!(
            stage.slots.leads(Link::Stable),
            Leads::Slot(build.clone()),
            "{mode:o}"
        );
    }
    // It was never left for another.
    let calls = &stage.scene().calls;
    assert_eq!(
        calls.iter().filter(|call| *call == "start trial").count(),
        1
    );
}
