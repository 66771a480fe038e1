//! The agent's systemd units, rendered as `imagebuilder` renders them: understood by systemd, and
//! exposed no further than they need.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rendered;

use std::fs;
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
