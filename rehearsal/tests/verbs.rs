//! `up`, `down` and `exec` as their user meets them: twice, in the wrong folder, and with a cloud that is down.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;

use std::process::{Command, Output};

use cloud::Cloud;

fn message(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn images(cloud: &Cloud) -> usize {
    let output = cloud.rehearsal("status").arg("--json").output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["images"].as_array().unwrap().len()
}

/// A password in the wrong place is in the shell's history, but not in a log as well.
#[test]
fn usage_errors_repeat_no_password() {
    for arguments in [
        &["http://me:hush@x"][..],
        &["up", "--port", "http://me:hush@x"],
        &["up", "--endpoint-url", "http://me:hush@x"],
        &["status", "http://me:hush@x"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
            .args(arguments)
            .output()
            .unwrap();
        let (code, text) = message(&output);
        assert_ne!(code, Some(0), "{arguments:?}: {text}");
        assert!(
            text.starts_with("error: ") && !text.contains("hush"),
            "{text}"
        );
    }
}

#[test]
fn a_second_up_or_down_does_nothing() {
    let cloud = Cloud::up(None);
    let (code, first) = message(
        &cloud
            .rehearsal("up")
            .args(["--port", "0", "--guests", "puppets", "--detach"])
            .output()
            .unwrap(),
    );
    assert_eq!(code, Some(0), "{first}");
    assert!(first.starts_with("http://127.0.0.1:"), "{first}");
    assert!(first.contains("is already up"), "{first}");
    let (code, text) = message(
        &cloud
            .rehearsal("up")
            .args(["--port", "1", "--detach"])
            .output()
            .unwrap(),
    );
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is already up on port"), "{text}");

    assert_eq!(
        message(&cloud.rehearsal("down").output().unwrap()),
        (Some(0), String::new())
    );
    let (code, text) = message(&cloud.rehearsal("down").output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing to do: the cloud in"), "{text}");
}

#[test]
fn a_restarted_cloud_keeps_its_images() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("debian-bookworm-test.raw");
    std::fs::write(&disk, vec![0_u8; 1 << 20]).unwrap();
    let cloud = Cloud::up(None);
    let before = images(&cloud);
    for more in [&["--base-image", disk.to_str().unwrap()][..], &[]] {
        assert!(
            cloud.rehearsal("down").status().unwrap().success(),
            "{more:?}"
        );
        cloud.rise(None, more);
    }
    assert_eq!(images(&cloud), before + 1);
}

#[test]
fn querying_whether_a_cloud_is_up_does_not_block_its_start() {
    let cloud = Cloud::up(None);
    assert!(cloud.rehearsal("down").status().unwrap().success());
    let lock = std::fs::File::open(cloud.folder().join("lock")).unwrap();
    lock.lock_shared().unwrap();
    cloud.rise(None, &[]);
}

#[test]
fn a_folder_without_a_running_cloud_is_an_error() {
    let cloud = Cloud::up(None);
    assert!(cloud.rehearsal("down").status().unwrap().success());
    let (code, text) = message(
        &cloud
            .rehearsal("exec")
            .args(["--", "true"])
            .output()
            .unwrap(),
    );
    assert_eq!(code, Some(1));
    let place = cloud.folder().display();
    assert_eq!(
        text,
        format!("error: the cloud in {place} is down\nhint: `rehearsal up {place}`\n")
    );

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    for detach in [&[][..], &["--detach"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
            .args(["up", "--port", "0", "--guests", "puppets"])
            .arg(folder.path())
            .args(detach)
            .output()
            .unwrap();
        let (code, text) = message(&output);
        assert_eq!(code, Some(1), "{detach:?}: {text}");
        assert!(
            text.contains("is not a cloud, and contains letter.txt"),
            "{detach:?}: {text}"
        );
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_daemon_that_cannot_start_reports_its_error_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let up = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
            .args(["up", "--detach"])
            .arg(folder.path())
            .args(more)
            .output()
            .unwrap();
        message(&output)
    };
    let (code, text) = up(&["--guests", "puppets", "--port", &port.to_string()]);
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with(&format!("error: listen on 127.0.0.1:{port}: ")),
        "{text}"
    );
    let (code, text) = up(&["--port", "0", "--base-image", "/no/such.raw"]);
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("error: find the base image /no/such.raw: "),
        "{text}"
    );
}

#[test]
fn an_accelerator_without_effect_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, environment, expected) in [
        (
            &["--guests", "puppets", "--accelerator", "tcg"][..],
            "",
            "--accelerator has no effect on puppets, which are not virtual machines\nhint: omit it",
        ),
        (
            &["--guests", "qemu"],
            "kmv",
            "unknown accelerator \"kmv\" in REHEARSAL_ACCELERATOR\nhint: set it to auto, kvm",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
            .args(["up", "--port", "0", "--detach"])
            .arg(folder.path().join("cloud"))
            .args(arguments)
            .env("REHEARSAL_ACCELERATOR", environment)
            .output()
            .unwrap();
        let (code, text) = message(&output);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{arguments:?}"
        );
    }
}

#[test]
fn exec_replaces_itself_by_its_command() {
    let cloud = Cloud::up(None);
    let exec = |arguments: &[&str]| {
        message(
            &cloud
                .rehearsal("exec")
                .arg("--")
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(exec(&["sh", "-c", "exit 7"]).0, Some(7));
    // Killed by a signal, as its caller is to see; not by SIGINT, which a test run in the background ignores.
    assert_eq!(exec(&["sh", "-c", "kill -TERM $$"]).0, None);
    let (code, text) = exec(&["no-such-program"]);
    assert_eq!(code, Some(127));
    assert!(text.starts_with("error: run no-such-program: "), "{text}");
}

#[test]
fn help_of_every_command() {
    for command in [
        &[][..],
        &["up"],
        &["down"],
        &["status"],
        &["doctor"],
        &["exec"],
        &["dial"],
        &["base-image"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
            .args(command)
            .arg("--help")
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        assert!(output.status.success(), "{command:?}");
        let name = command.first().map_or("help", |command| command).to_owned();
        insta::assert_snapshot!(
            format!("help-{name}"),
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
