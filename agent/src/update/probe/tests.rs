use std::path::PathBuf;

use test_support::write_program;

use super::*;
use crate::update::channel::{Catalogue, Offer};
use crate::update::refusal::{Cause, Refusal};

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
async fn a_release_that_fails_or_says_anything_else_does_not() {
    let dir = tempfile::tempdir().unwrap();
    for (script, why) in [
        ("echo imagebuilder-agent 1.2.0; exit 1", "exit status: 1"),
        ("echo imagebuilder-agent 1.2.0; kill -9 $$", "signal: 9"),
        ("exit 0", "its last line is \"\""),
        ("echo imagebuilder-agent 1.2.0; echo bye", "\"bye\""),
        ("echo imagebuilder-agent", "its last line"),
        ("echo 'imagebuilder-agent  1.2.0'", "its last line"),
        ("echo imagebuilder-agent 1.2", "its last line"),
        ("echo imagebuilder-agents 1.2.0", "its last line"),
        ("exec cat /dev/zero", "says more than 65536 bytes"),
    ] {
        let binary = release(dir.path(), script);
        let error = SelfTest::default().probe(&binary).await.unwrap_err();
        assert!(format!("{error:#}").contains(why), "{script}: {error:#}");
    }
    let binary = dir.path().join("imagebuilder-agent");
    write_program(&binary, "\x7fELF nonsense");
    let error = SelfTest::default().probe(&binary).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot run "), "{error:#}");
}

struct Told(Result<(), Cause>);

#[async_trait]
impl Channel for Told {
    async fn refresh(&mut self, now: Timestamp) -> Result<Catalogue, Refusal> {
        match self.0 {
            Ok(()) => Ok(Catalogue {
                offers: Vec::new(),
                expires: now,
                versions: [1; 4],
            }),
            Err(cause) => Err(Refusal {
                cause,
                detail: "told so".to_owned(),
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
        ..Layout::default()
    };
    fs::create_dir_all(layout.slots.join("staging")).unwrap();
    fs::create_dir_all(&layout.state).unwrap();
    layout
}

#[tokio::test]
async fn a_test_verifies_the_channel_and_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let layout = layout(root.path());
    let now = Timestamp::UNIX_EPOCH;
    test(&mut Told(Ok(())), &layout, now).await.unwrap();
    assert_eq!(fs::read_dir(&layout.state).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&layout.slots).unwrap().count(), 1);
    let error = test(&mut Told(Err(Cause::Unsigned)), &layout, now)
        .await
        .unwrap_err();
    assert_eq!(format!("{error:#}"), "the channel: unsigned: told so");
}

#[tokio::test]
async fn a_test_says_which_directory_it_could_not_write() {
    for (gone, what) in [
        ("slots/staging", "the slots: "),
        ("slots", "the slots: "),
        ("state", "the updater's state: "),
    ] {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        fs::remove_dir_all(root.path().join(gone)).unwrap();
        let error = test(&mut Told(Ok(())), &layout, Timestamp::UNIX_EPOCH)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").starts_with(what), "{error:#}");
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
