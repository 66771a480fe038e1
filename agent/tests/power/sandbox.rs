//! An instance in a temporary tree: the real binary updates it, over a real channel in a folder, with a script
//! in systemctl's place.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use test_support::write_program;

use crate::author::{channel, sha256};

/// The release that the instance is to take.
pub(crate) const NEW: &str = "1.1.0";

/// A release that passes its self-test and prints its version.
fn agent(version: &str) -> String {
    format!("#!/bin/sh\necho imagebuilder-agent {version}\n")
}

/// A systemd of two units, which exclude each other; what is started needs its link to lead somewhere, and a
/// daemon shows its status.
const SYSTEMCTL: &str = r#"#!/bin/sh
shift 2
for unit; do :; done
case $unit in
*-trial.service) me=trial other=stable ;;
*) me=stable other=trial ;;
esac
case $1 in
start)
    binary=$IMAGEBUILDER_UPDATE_ROOT/opt/imagebuilder-agent/$me/imagebuilder-agent
    rm -f "$PLAYED/$other"
    if version=$("$binary" --version); then
        echo "${version#* }" >"$PLAYED/$me"
        echo "$me ${version#* }" >>"$PLAYED/started"
        printf '{"agent":"%s","pid":42,"verdict":"fit","leave":{"granted":true,"at":"2100-01-01T00:00:00Z"}}' \
            "${version#* }" >"$IMAGEBUILDER_AGENT_STATUS_DIR/status.json"
    else
        exit 1
    fi
    ;;
stop) rm -f "$PLAYED/$me" ;;
show)
    if [ -e "$PLAYED/$me" ]; then state=active pid=42; else state=inactive pid=0; fi
    printf 'LoadState=loaded\nActiveState=%s\nMainPID=%s\nResult=success\n' $state $pid
    ;;
esac
"#;

pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    pub(crate) digest: String,
    boot: u32,
}

impl Sandbox {
    /// An instance as its image makes it, on the factory's 1.0.0, with 1.1.0 in its channel.
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        let root = dir.path();
        let factory = root.join("usr/lib/imagebuilder-agent/factory");
        let slots = root.join("opt/imagebuilder-agent");
        for dir in [
            &factory,
            &slots.join("versions"),
            &slots.join("staging"),
            &root.join("bin"),
            &root.join("played"),
            &root.join("run/imagebuilder"),
            &root.join("run/imagebuilder-agent"),
            &root.join("run/imagebuilder-update"),
            &root.join("var/lib/imagebuilder-update"),
        ] {
            fs::create_dir_all(dir).unwrap();
        }
        write_program(&factory.join("imagebuilder-agent"), &agent("1.0.0"));
        write_program(&root.join("bin/systemctl"), SYSTEMCTL);
        symlink(&factory, slots.join("stable")).unwrap();
        let url = root.join("channel");
        let trust = root.join("usr/share/imagebuilder-agent/channel");
        let digest = channel(&url, &trust, NEW, agent(NEW).as_bytes());
        let it = Self {
            dir,
            digest,
            boot: 0,
        };
        it.is_now("i-0a");
        it.started("stable");
        it
    }

    /// What `configure` wrote about the instance.
    pub(crate) fn is_now(&self, instance_id: &str) {
        let url = format!("file://{}", self.path("channel").display());
        let terms = serde_json::json!({"instance_id": instance_id, "channel": "stable", "url": url,
            "soak_seconds": 0});
        fs::write(self.path("run/imagebuilder/update.json"), terms.to_string()).unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    fn started(&self, unit: &str) {
        let mut systemctl = Command::new(self.path("bin/systemctl"));
        self.surround(&mut systemctl);
        let done = systemctl.args(["-", "-", "start", unit]).status().unwrap();
        assert!(done.success());
    }

    /// The power goes and comes back: nothing is on trial, another boot begins, and what is stable starts.
    pub(crate) fn reboot(&mut self) {
        self.boot += 1;
        let _ = fs::remove_file(self.path("played/trial"));
        self.started("stable");
    }

    fn surround(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("IMAGEBUILDER_UPDATE_ROOT", self.root())
            .env("IMAGEBUILDER_AGENT_RUN_DIR", self.path("run/imagebuilder"))
            .env(
                "IMAGEBUILDER_AGENT_STATUS_DIR",
                self.path("run/imagebuilder-agent"),
            )
            .env("IMAGEBUILDER_AGENT_SETTINGS", self.path("none.toml"))
            .env("IMAGEBUILDER_BOOT_ID", format!("{:032x}", self.boot))
            .env("PLAYED", self.path("played"))
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .stdin(Stdio::null());
    }

    /// A program to be run in the instance.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.surround(&mut command);
        command
    }

    /// `update run`, by the built binary.
    pub(crate) fn update(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_imagebuilder-agent"));
        command.args(["update", "run"]);
        command
    }

    /// The state file; `None` before there is one.
    pub(crate) fn state(&self) -> Option<Value> {
        let text = fs::read(self.path("var/lib/imagebuilder-update/state.json")).ok()?;
        Some(serde_json::from_slice(&text).expect("the state reads"))
    }

    /// The pauses after failures are over.
    pub(crate) fn pause_is_over(&self) {
        if let Some(mut state) = self.state() {
            state["failures"] = Value::Array(Vec::new());
            let path = self.path("var/lib/imagebuilder-update/state.json");
            fs::write(path, state.to_string()).unwrap();
        }
    }

    /// Whether systemd runs stable, and no trial.
    pub(crate) fn runs_stable(&self) -> bool {
        self.path("played/stable").exists() && !self.path("played/trial").exists()
    }

    fn link(&self, name: &str) -> PathBuf {
        self.path("opt/imagebuilder-agent").join(name)
    }

    /// The identity of the link `stable`: every rename makes another.
    pub(crate) fn stable_inode(&self) -> u64 {
        fs::symlink_metadata(self.link("stable")).unwrap().ino()
    }

    /// Whether `stable` leads to the new release.
    pub(crate) fn is_updated(&self) -> bool {
        fs::canonicalize(self.link("stable"))
            .is_ok_and(|slot| slot.to_string_lossy().contains("/versions/1.1.0-"))
    }

    /// Parts left in staging.
    pub(crate) fn parts(&self) -> Vec<String> {
        fs::read_dir(self.path("opt/imagebuilder-agent/staging"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// I1 to I3, by nothing of the updater's own code.
    pub(crate) fn assert_sound(&self, what: &str) {
        let stable = fs::canonicalize(self.link("stable"));
        let stable = stable.unwrap_or_else(|error| panic!("{what}: stable leads nowhere: {error}"));
        if stable != fs::canonicalize(self.path("usr/lib/imagebuilder-agent/factory")).unwrap() {
            self.assert_slot(&stable, what);
            let state = self.state().expect("a state");
            let confirmed = state["confirmed"].as_array().unwrap();
            assert!(
                confirmed
                    .iter()
                    .any(|build| build["digest"] == self.digest.as_str()),
                "{what}: stable is not confirmed: {state:#}"
            );
        }
        if let Ok(trial) = fs::canonicalize(self.link("trial")) {
            self.assert_slot(&trial, what);
        }
    }

    fn assert_slot(&self, slot: &Path, what: &str) {
        let complete = fs::read_to_string(slot.join("COMPLETE"));
        let complete = complete.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(complete, format!("{}\n", self.digest), "{what}");
        let binary = fs::read(slot.join("imagebuilder-agent")).unwrap();
        assert_eq!(sha256(&binary), self.digest, "{what}");
    }

    /// The next run, undisturbed, brings the instance to the new release, with one rename at most in all, and leaves
    /// nothing behind.
    pub(crate) fn assert_completes(&self, what: &str) {
        let (updated, inode) = (self.is_updated(), self.stable_inode());
        let done = self.update().output().unwrap();
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{what}: {log}");
        assert!(self.is_updated(), "{what}: {log}");
        if updated {
            assert_eq!(self.stable_inode(), inode, "{what}: stable moved twice");
        }
        self.assert_sound(what);
        assert_eq!(self.parts(), [""; 0], "{what}");
        let state = self.state().unwrap();
        assert_eq!(state["phase"]["phase"], "idle", "{what}");
        assert_eq!(state["skipped"].as_array().map(Vec::len), Some(0), "{what}");
        assert!(fs::symlink_metadata(self.link("trial")).is_err(), "{what}");
        assert_eq!(
            fs::read_to_string(self.path("played/stable")).unwrap(),
            format!("{NEW}\n"),
            "{what}: {log}"
        );
    }
}

/// A program's output, for a failed test.
pub(crate) fn output(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}
