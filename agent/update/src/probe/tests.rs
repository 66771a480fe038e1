use std::path::PathBuf;

use test_support::write_program;

use super::*;
use crate::channel::{Catalogue, Offer};
use crate::channel::{Cause, Refusal};

/// A release that is a shell script.
fn release(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("imagebuilder-agent");
    write_program(&path, &format!("#!/bin/sh\n{script}\n"));
    path
}

#[tokio::test]
async fn a_release_that_ends_well_with_its_name_and_version_passes() {
    let dir = tempfile::tempdir().unwrap();
    let binary = release(
        dir.path(),
        "[ \"$*\" = 'update probe --root /x' ] || exit 9\necho checking; echo imagebuilder-agent 1.2.0-rc.1+b",
    );
    let arguments = ["--root", "/x"].map(OsString::from).to_vec();
    assert_eq!(
        SelfTest::with(arguments).probe(&binary).await.unwrap(),
        Version::parse("1.2.0-rc.1+b").unwrap()
    );
}

#[tokio::test]
async fn a_release_that_fails_or_prints_anything_else_does_not() {
    let dir = tempfile::tempdir().unwrap();
    for (script, why) in [
        ("echo imagebuilder-agent 1.2.0; exit 1", "exit status: 1"),
        ("echo imagebuilder-agent 1.2.0; kill -9 $$", "signal: 9"),
        ("echo imagebuilder-agent 1.2.0; kill -TERM $$", "signal: 15"),
        ("kill -SEGV $$", "signal: 11"),
        ("kill -ABRT $$", "signal: 6"),
        ("exit 0", "its last line is \"\""),
        ("echo imagebuilder-agent 1.2.0; echo bye", "\"bye\""),
        ("echo imagebuilder-agent", "its last line"),
        ("echo 'imagebuilder-agent  1.2.0'", "its last line"),
        ("echo imagebuilder-agent 1.2", "its last line"),
        ("echo imagebuilder-agents 1.2.0", "its last line"),
        ("exec cat /dev/zero", "prints more than 65536 bytes"),
    ] {
        let binary = release(dir.path(), script);
        let error = SelfTest::default().probe(&binary).await.unwrap_err();
        let (TestFailure::Release(message) | TestFailure::Environment(message)) = &error;
        assert!(message.contains(why), "{script}: {error:?}");
        // Killed for want of memory, or by an operator.
        let from_outside = script.contains("kill -9") || script.contains("kill -TERM");
        let environment = matches!(error, TestFailure::Environment(_));
        assert_eq!(environment, from_outside, "{script}");
    }
    let binary = dir.path().join("imagebuilder-agent");
    for (bytes, mode, environment) in [
        ("\x7fELF nonsense", 0o755, false),
        ("#!/no/such/interpreter\n", 0o755, false),
        ("#!/bin/sh\necho imagebuilder-agent 1.2.0\n", 0o644, true),
    ] {
        write_program(&binary, bytes);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&binary, permissions).unwrap();
        let error = SelfTest::default().probe(&binary).await.unwrap_err();
        let (TestFailure::Release(message) | TestFailure::Environment(message)) = &error;
        assert!(
            message.starts_with("cannot run "),
            "{bytes:?} {mode:o}: {error:?}"
        );
        assert_eq!(
            matches!(error, TestFailure::Environment(_)),
            environment,
            "{bytes:?} {mode:o}: {error:?}"
        );
    }
}

/// A release that fails one verb.
#[tokio::test]
async fn every_verb_of_the_units_runs_in_a_separate_tree() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().join("verbs");
    let verbs = VerbInputs {
        flags: ["--settings", "/etc/x"].map(OsString::from).to_vec(),
        restart_request: Some("restart/orders.service".into()),
    };
    let mut test = SelfTest::default().exercising(&scratch, verbs);
    let log = dir.path().join("log");
    for failing in [
        None,
        Some("configure"),
        Some("update run"),
        Some("update repair"),
        Some("restart-requested"),
    ] {
        let fails = failing.map_or_else(String::new, |verb| {
            format!(
                "case \"$*\" in {}*) exit 3 ;; esac\n",
                verb.replace(' ', "\\ ")
            )
        });
        let script = format!(
            "echo \"$@\" >>{log}\nsystemctl start all || exit 8\nls {requests} >>{log}\n{fails}exit 0",
            log = log.display(),
            requests = scratch.join("daemon/restart").display(),
        );
        let binary = release(dir.path(), &script);
        fs::write(&log, "").unwrap();
        let ended = test.exercise(&binary).await;
        match failing {
            None => assert_eq!(ended, Ok(()), "{failing:?}"),
            Some(verb) => {
                let why = TestFailure::Release("it ended with exit status: 3".to_owned());
                assert_eq!(ended, Err((verb.to_owned(), why)), "{failing:?}");
            }
        }
        let message = fs::read_to_string(&log).unwrap();
        if failing.is_none() {
            for verb in VERBS {
                assert!(
                    message.contains(&format!("{verb} --")),
                    "{failing:?}: {message}"
                );
            }
            assert!(
                message.contains("--settings /etc/x") && message.contains("orders.service"),
                "{failing:?}: {message}"
            );
        }
        assert!(!scratch.exists(), "{failing:?}");
    }
    // Of `update run` it is expected that nothing comes of it.
    let binary = release(
        dir.path(),
        "case \"$*\" in update\\ run*) exit 4 ;; *) exit 0 ;; esac",
    );
    assert_eq!(test.exercise(&binary).await, Ok(()));
}

/// A unit that calls another verb has it exercised.
#[test]
fn the_verbs_are_those_of_the_units() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/systemd");
    let mut called = std::collections::BTreeSet::new();
    for entry in fs::read_dir(units).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("ExecStart="))
        {
            let (program, verb) = line.split_once(' ').unwrap_or((line, ""));
            if program.ends_with(BINARY) {
                called.insert(verb.trim().to_owned());
            }
        }
    }
    let exercised = VERBS.iter().map(|verb| (*verb).to_owned());
    // `run` is what the trial is; the tests of an image run at the gate, where no release is tried.
    let others = ["run", "run-image-tests"].map(str::to_owned);
    let exercised: std::collections::BTreeSet<String> = exercised.chain(others).collect();
    assert_eq!(called, exercised);
}

struct FakeChannel(Result<(), Cause>);

#[async_trait]
impl Channel for FakeChannel {
    async fn refresh(&mut self, now: Timestamp) -> Result<Catalogue, Refusal> {
        match self.0 {
            Ok(()) => Ok(Catalogue {
                offers: Vec::new(),
                expires: now,
                versions: [1; 4],
            }),
            Err(cause) => Err(Refusal {
                cause,
                detail: "test detail".to_owned(),
            }),
        }
    }

    async fn fetch(&mut self, _: &Offer, _: &Path) -> Result<(), Refusal> {
        unreachable!("a self-test fetches nothing")
    }
}

fn layout(root: &Path) -> Layout {
    let layout = Layout {
        slots: root.join("slots"),
        state: root.join("state"),
        ..Layout::below(root)
    };
    fs::create_dir_all(layout.slots.join("staging")).unwrap();
    fs::create_dir_all(&layout.state).unwrap();
    layout
}

#[tokio::test]
async fn a_test_verifies_the_channel_and_removes_its_files() {
    let root = tempfile::tempdir().unwrap();
    let layout = layout(root.path());
    let now = Timestamp::UNIX_EPOCH;
    test(&mut FakeChannel(Ok(())), &layout, now).await.unwrap();
    assert_eq!(fs::read_dir(&layout.state).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&layout.slots).unwrap().count(), 1);
    let error = test(&mut FakeChannel(Err(Cause::Unsigned)), &layout, now)
        .await
        .unwrap_err();
    assert_eq!(format!("{error:#}"), "the channel: unsigned: test detail");
}

#[tokio::test]
async fn a_test_names_the_directory_it_could_not_write() {
    for (missing, what) in [
        ("slots/staging", "the slots: "),
        ("slots", "the slots: "),
        ("state", "the updater's state: "),
    ] {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        fs::remove_dir_all(root.path().join(missing)).unwrap();
        let error = test(&mut FakeChannel(Ok(())), &layout, Timestamp::UNIX_EPOCH)
            .await
            .unwrap_err();
        assert!(
            format!("{error:#}").starts_with(what),
            "{missing}: {error:#}"
        );
    }
}

#[test]
fn a_copy_has_all_that_was_there_and_is_apart_from_it() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    copy(&from, &to).unwrap();
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    fs::create_dir_all(from.join("roots")).unwrap();
    fs::write(from.join("timestamp.json"), "1").unwrap();
    fs::write(from.join("roots/1.json"), "r").unwrap();
    copy(&from, &to).unwrap();
    fs::write(to.join("timestamp.json"), "2").unwrap();
    assert_eq!(
        fs::read_to_string(from.join("timestamp.json")).unwrap(),
        "1"
    );
    assert_eq!(fs::read_to_string(to.join("roots/1.json")).unwrap(), "r");
}
