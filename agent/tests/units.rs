//! The agent's systemd units, rendered as `imagebuilder` renders them: understood by systemd, and
//! exposed no further than they need.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rendered;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// In tenths, as `--threshold` takes it. What stays open by need: the network, the journal's socket.
const DAEMON_EXPOSURE: u32 = 15;
/// The same for what is root: `configure`, so that the files it writes are root's; the updater and the
/// repair, so that they may write the slots and speak to systemd.
const ROOT_EXPOSURE: u32 = 20;

fn analyze(arguments: &[&str], unit: &Path) -> String {
    let done = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output()
        .expect("systemd-analyze is needed for this test");
    let message = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(done.status.success(), "{message}");
    message
}

#[test]
fn the_units_are_exposed_no_further_than_promised() {
    let dir = tempfile::tempdir().unwrap();
    rendered::into(dir.path());
    for (unit, exposure) in [
        ("imagebuilder-agent.service", DAEMON_EXPOSURE),
        ("imagebuilder-agent-trial.service", DAEMON_EXPOSURE),
        ("orders.service", DAEMON_EXPOSURE),
        ("imagebuilder-agent-configure.service", ROOT_EXPOSURE),
        ("imagebuilder-agent-update.service", ROOT_EXPOSURE),
        ("imagebuilder-agent-factory.service", ROOT_EXPOSURE),
        ("imagebuilder-agent-restart.service", ROOT_EXPOSURE),
    ] {
        let threshold = format!("--threshold={exposure}");
        analyze(
            &["security", "--offline=true", &threshold],
            &dir.path().join(unit),
        );
    }
}

#[test]
fn systemd_understands_every_line() {
    let dir = tempfile::tempdir().unwrap();
    rendered::into(dir.path());
    let units = rendered::UNITS.map(|unit| dir.path().join(unit));
    for path in &units {
        let text = fs::read_to_string(path).unwrap();
        // The binaries are on the image, not here; everything else is as it will be.
        let here: Vec<&str> = text
            .lines()
            .map(|line| {
                if line.starts_with("ExecStart=") {
                    "ExecStart=/bin/true"
                } else {
                    line
                }
            })
            .collect();
        fs::write(path, here.join("\n")).unwrap();
    }
    for path in &units {
        let message = analyze(&["verify", "--man=no"], path);
        assert!(
            !message.contains(dir.path().to_str().unwrap()),
            "{}: {message}",
            path.display()
        );
    }
}

#[test]
fn configure_precedes_the_services_and_they_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    rendered::into(dir.path());
    let read = |unit| fs::read_to_string(dir.path().join(unit)).unwrap();
    for unit in [
        "imagebuilder-agent.service",
        "imagebuilder-agent-trial.service",
    ] {
        let text = read(unit);
        assert!(
            text.contains("configure.service orders.service nginx.service\n"),
            "{unit}: {text}"
        );
    }
    let text = read("imagebuilder-agent-configure.service");
    assert!(
        text.contains("Before=imagebuilder-agent.service orders.service nginx.service\n"),
        "{text}"
    );
}

#[test]
fn the_trial_unit_differs_from_stable_only_as_intended() {
    let dir = tempfile::tempdir().unwrap();
    rendered::into(dir.path());
    let lines = |unit: &str| -> Vec<String> {
        let text = fs::read_to_string(dir.path().join(unit)).unwrap();
        let service = text.split_once("[Service]\n").unwrap().1;
        let service = service.split("\n[Install]").next().unwrap();
        let own = [
            "#",
            "ExecStart=",
            "Restart=",
            "RestartSec=",
            "RestartPreventExitStatus=",
            "RuntimeMaxSec=",
        ];
        service
            .lines()
            .filter(|line| !line.is_empty() && !own.iter().any(|own| line.starts_with(own)))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        lines("imagebuilder-agent.service"),
        lines("imagebuilder-agent-trial.service")
    );
}

/// What the updater verifies at the same time as a release's self-test needs more than the rest: see
/// `tests/memory.rs`.
#[test]
fn the_units_memory_is_what_runs_in_them() {
    let dir = tempfile::tempdir().unwrap();
    rendered::into(dir.path());
    for (unit, memory) in [
        ("imagebuilder-agent.service", "64M"),
        ("imagebuilder-agent-trial.service", "64M"),
        ("imagebuilder-agent-configure.service", "64M"),
        ("imagebuilder-agent-restart.service", "64M"),
        ("imagebuilder-agent-update.service", "192M"),
        ("imagebuilder-agent-factory.service", "192M"),
    ] {
        let text = fs::read_to_string(dir.path().join(unit)).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("MemoryMax="))
            .collect();
        assert_eq!(lines, [memory], "{unit}");
    }
}

/// A release is exercised before its trial, by the one that runs: this one passes its own.
#[test]
fn the_verbs_of_this_very_release_pass_their_exercise() {
    use agent_update::{Updater, VerbInputs};

    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("agent.toml");
    let exercised = |text: &str| {
        fs::write(&settings, text).unwrap();
        let verbs = VerbInputs {
            flags: vec![
                "--settings".into(),
                settings.clone().into(),
                "--drop-ins".into(),
                dir.path().join("none").into(),
            ],
            restart_request: Some("restart/orders.service".into()),
        };
        let updater = Updater::new(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_imagebuilder-agent"));
        let ended = runtime.block_on(updater.exercise(binary, verbs));
        assert!(!dir.path().join("run/imagebuilder-update/verbs").exists());
        ended
    };
    let well = "image = \"shop\"\n[services.orders]\nhealth_url = \"http://127.0.0.1:1/gtg\"\n";
    exercised(well).unwrap();
    // Like one that cannot read the image's settings.
    let error = exercised("immage = \"shop\"\n").unwrap_err();
    assert!(error.to_string().starts_with("configure: "), "{error:#}");
}

/// What `packer/provision/20-agent.sh` writes beside the units under that systemd, as `unit: line`.
fn drop_ins_under(systemd: u32) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let programs = at("programs");
    let units = at("etc/systemd/system");
    for folder in [&programs, &units, &at("opt"), &at("usr/bin")] {
        fs::create_dir_all(folder).unwrap();
    }
    rendered::into(&units);
    for (name, text) in [
        ("id", "exit 0".to_owned()),
        (
            "systemctl",
            format!("echo 'systemd {systemd} ({systemd}.1-1)'"),
        ),
        // Owners and modes need root; folders are enough here.
        (
            "install",
            "for one; do case $one in /*) mkdir -p \"$one\" ;; esac; done".to_owned(),
        ),
    ] {
        let file = programs.join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packer/provision/20-agent.sh");
    let mut text = fs::read_to_string(script).unwrap();
    for (path, here) in [
        ("=/opt/", "opt/"),
        ("=/etc/systemd/system", "etc/systemd/system"),
    ] {
        assert!(text.contains(path), "{path}");
        text = text.replace(path, &format!("={}", at(here).display()));
    }
    let link = "/usr/bin/imagebuilder-agent\n";
    assert!(text.contains(link));
    text = text.replace(
        link,
        &format!("{}\n", at("usr/bin/imagebuilder-agent").display()),
    );
    let path = std::env::var("PATH").unwrap();
    let done = Command::new("sh")
        .args(["-c", &text])
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut written = Vec::new();
    for unit in rendered::UNITS {
        let drop_in = units.join(format!("{unit}.d/00-systemd-version.conf"));
        let lines = fs::read_to_string(drop_in).unwrap_or_default();
        let settings = lines
            .lines()
            .filter(|line| line.contains('=') && !line.starts_with('#') && !line.ends_with('='));
        written.extend(settings.map(|line| format!("{unit}: {line}")));
    }
    written
}

#[test]
fn each_systemd_gets_the_drop_ins_it_needs() {
    let searched = |line: &String| line.contains(": ExecStart=/usr/bin/env PATH=");
    let trial = "imagebuilder-agent-trial.service: ExecStopPost=-+/bin/systemctl --no-block --job-mode=fail start imagebuilder-agent.service";
    let ends = |line: &String| line == trial;
    let direct = "imagebuilder-agent.service: RestartMode=direct".to_owned();
    // OnSuccess= is of systemd 249, ExecSearchPath= of 250, RestartMode= of 254.
    for (systemd, paths, ending, restarts) in [
        (247, true, 1, false),
        (248, true, 1, false),
        (249, true, 0, false),
        (250, false, 0, false),
        (253, false, 0, false),
        (254, false, 0, true),
        (257, false, 0, true),
    ] {
        let written = drop_ins_under(systemd);
        assert_eq!(
            written.iter().any(searched),
            paths,
            "{systemd}: {written:?}"
        );
        assert_eq!(
            written.iter().filter(|line| ends(line)).count(),
            ending,
            "{systemd}: {written:?}"
        );
        assert_eq!(
            written.contains(&direct),
            restarts,
            "{systemd}: {written:?}"
        );
    }
    // Each unit that names a path to search has the drop-in.
    let dir = tempfile::tempdir().unwrap();
    rendered::into(dir.path());
    let with_path = rendered::UNITS.iter().filter(|unit| {
        fs::read_to_string(dir.path().join(unit))
            .unwrap()
            .contains("\nExecSearchPath=")
    });
    assert_eq!(
        drop_ins_under(247)
            .iter()
            .filter(|line| searched(line))
            .count(),
        with_path.count()
    );
}
