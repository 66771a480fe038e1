//! The built binary in an operator's hand: `update hold | pin | release | now`, and `status` after it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use test_support::{copy_program, write_program};

/// A directory tree with an instance's files, separate from this host's.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.at("run/imagebuilder")).unwrap();
        let subject = "{\"instance_id\":\"i-1\",\"channel\":\"stable\",\"url\":\"file:///c\",\"soak_seconds\":1}";
        fs::write(tree.at("run/imagebuilder/update.json"), subject).unwrap();
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn agent(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebuilder-agent"));
        command
            .args(arguments)
            .env_clear()
            .env("IMAGEBUILDER_UPDATE_ROOT", self.0.path())
            .env(
                "IMAGEBUILDER_UPDATE_STATUS_DIR",
                self.at("run/imagebuilder-update"),
            )
            .env(
                "IMAGEBUILDER_AGENT_STATUS_DIR",
                self.at("run/imagebuilder-agent"),
            )
            .env("IMAGEBUILDER_AGENT_RUN_DIR", self.at("run/imagebuilder"))
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.agent(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn reported(&self, status: &str) {
        fs::create_dir_all(self.at("run/imagebuilder-update")).unwrap();
        fs::write(self.at("run/imagebuilder-update/status.json"), status).unwrap();
    }
}

#[test]
fn status_shows_hold_pin_and_release_at_once() {
    let tree = Tree::new();
    let (code, out, log) = tree.output(&["update", "hold", "--reason", "fair week"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "held until released: fair week\n"),
        "{log}"
    );
    let (code, out, log) = tree.output(&["update", "pin", "1.2.0"]);
    assert_eq!((code, out.as_str()), (Some(0), "pinned 1.2.0\n"), "{log}");
    let (code, screen, _) = tree.output(&["status"]);
    assert_eq!(code, Some(3));
    assert_eq!(
        screen,
        "updates   the updater has not run yet\n\
         hold      until released: fair week\n\
         pin       1.2.0\n\
         checked   never\n"
    );
    let (_, json, _) = tree.output(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["update"]["hold"]["reason"], "fair week");
    let (code, out, _) = tree.output(&["update", "release"]);
    let words = "released the hold and the pin to 1.2.0\n";
    assert_eq!((code, out.as_str()), (Some(0), words));
    let (_, screen, _) = tree.output(&["status"]);
    assert_eq!(
        screen,
        "updates   the updater has not run yet\nchecked   never\n"
    );
}

#[test]
fn what_is_no_duration_or_version_is_a_matter_of_usage() {
    let tree = Tree::new();
    for arguments in [["update", "hold", "--for=8x"], ["update", "pin", "latest"]] {
        let (code, _, log) = tree.output(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {log}");
    }
    assert!(!tree.at("var").exists());
}

#[test]
fn overrides_require_root() {
    let tree = Tree::new();
    // It cannot be run from there, but it is readable.
    let binary = tree.at("imagebuilder-agent");
    copy_program(Path::new(env!("CARGO_BIN_EXE_imagebuilder-agent")), &binary);
    fs::set_permissions(tree.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for verb in [&["now"][..], &["hold"], &["release"], &["pin", "1.2.0"]] {
        let mut command = Command::new(&binary);
        command.arg("update").args(verb).env_clear();
        if fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
        {
            command.uid(65_534);
        }
        let output = command.output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {log}");
        let verb = verb[0];
        assert!(
            log.contains(&format!("update {verb} requires root")),
            "{verb:?}: {log}"
        );
        assert!(
            log.contains(&format!("hint: sudo imagebuilder-agent update {verb}")),
            "{verb:?}: {log}"
        );
    }
}

/// The updater's unit is a script that changes its phase on command.
#[test]
fn now_starts_the_updater_and_prints_its_phases() {
    let tree = Tree::new();
    let build = |minor: u32| format!("{{\"version\":\"1.{minor}.0\",\"digest\":\"{minor:064}\"}}");
    let reported = |phase: &str, reason: &str, stable: u32| {
        let (stable, wanted) = (build(stable), build(3));
        format!(
            "{{\"phase\":\"{phase}\",\"reason\":\"{reason}\",\"channel\":\"stable\",\"stable\":{stable},\
             \"wanted\":{wanted},\"checked_at\":\"2026-06-01T12:00:00Z\"}}"
        )
    };
    tree.reported(&reported("idle", "current", 2));
    // Each input line is written to the status file; end of input ends the unit.
    let bin = tree.at("bin");
    fs::create_dir(&bin).unwrap();
    let status_file = tree.at("run/imagebuilder-update/status.json");
    let fifo = tree.at("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    write_program(
        &bin.join("systemctl"),
        &format!(
            "#!/bin/sh\n[ \"$*\" = 'start imagebuilder-agent-update.service' ] || exit 9\n\
             while read -r line; do\n  printf '%s' \"$line\" > {status_file}.new\n  mv {status_file}.new {status_file}\n\
             done < {fifo}\n",
            status_file = status_file.display(),
            fifo = fifo.display()
        ),
    );
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut agent = tree
        .agent(&["update", "now"])
        .env("PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut unit = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let mut log = BufReader::new(agent.stderr.take().unwrap());
    for (phase, line) in [
        ("checking", "reading the channel"),
        ("fetching", "fetching 1.3.0"),
        ("trial", "on trial: 1.3.0"),
    ] {
        writeln!(unit, "{}", reported(phase, "", 2)).unwrap();
        let mut message = String::new();
        log.read_line(&mut message).unwrap();
        assert!(message.trim_end().ends_with(line), "{phase}: {message}");
    }
    writeln!(
        unit,
        "{}",
        reported("idle", "updated from 1.2.0 to 1.3.0", 3)
    )
    .unwrap();
    drop(unit);
    let mut out = String::new();
    agent
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0));
    assert_eq!(out, "updated from 1.2.0 to 1.3.0\n");
    // Each line once.
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn now_prints_why_nothing_changed() {
    let tree = Tree::new();
    let bin = tree.at("bin");
    fs::create_dir(&bin).unwrap();
    tree.reported("{\"phase\":\"idle\"}");
    let now = |text: &str| {
        write_program(&bin.join("systemctl"), &format!("#!/bin/sh\n{text}\n"));
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let output = tree
            .agent(&["update", "now"])
            .env("PATH", path)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let status_file = tree.at("run/imagebuilder-update/status.json");
    let refused =
        "{\"phase\":\"idle\",\"code\":\"expired\",\"reason\":\"the timestamp has expired\"}";
    let (code, log) = now(&format!(
        "echo '{refused}' > {}; exit 1",
        status_file.display()
    ));
    assert_eq!(code, Some(1));
    assert!(log.contains("expired: the timestamp has expired"), "{log}");
    let (code, log) = now("exit 1");
    assert_eq!(code, Some(1));
    assert!(log.contains("the updater failed: exit status: 1"), "{log}");
    assert!(
        log.contains("hint: journalctl --unit imagebuilder-agent-update.service"),
        "{log}"
    );
    fs::remove_file(bin.join("systemctl")).unwrap();
    let output = tree
        .agent(&["update", "now"])
        .env("PATH", &bin)
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    // The cause stands before the hint, which can be pasted.
    let hint = "hint: without systemd, run imagebuilder-agent update run";
    assert!(log.lines().any(|line| line.ends_with(hint)), "{log}");
    let none = "{\"instance_id\":\"i-1\"}";
    fs::write(tree.at("run/imagebuilder/update.json"), none).unwrap();
    let (code, log) = now("exit 0");
    assert_eq!(code, Some(1));
    assert!(log.contains("this instance follows no channel"), "{log}");
}
