use test_support::write_program;

use super::*;

#[test]
fn what_systemctl_shows_is_read_in_any_order() {
    let state = |active, pid, result: &str| UnitState {
        active,
        pid,
        result: result.to_owned(),
        status: None,
    };
    for (text, want) in [
        (
            "LoadState=loaded\nActiveState=active\nMainPID=4711\nResult=success\n",
            state(ActiveState::Active, Some(4711), "success"),
        ),
        (
            "MainPID=0\nResult=success\nActiveState=inactive\nLoadState=loaded\n",
            state(ActiveState::Inactive, None, "success"),
        ),
        (
            "Result=watchdog\nMainPID=0\nLoadState=loaded\nActiveState=failed\n",
            state(ActiveState::Failed, None, "watchdog"),
        ),
        (
            "Result=success\nMainPID=12\nLoadState=loaded\nActiveState=activating\nNRestarts=0\n",
            state(ActiveState::Activating, Some(12), "success"),
        ),
        (
            "Result=timeout\nMainPID=12\nLoadState=loaded\nActiveState=deactivating\n",
            state(ActiveState::Deactivating, Some(12), "timeout"),
        ),
        (
            "Result=success\nMainPID=12\nLoadState=loaded\nActiveState=refreshing\n",
            state(ActiveState::Activating, Some(12), "success"),
        ),
        (
            "Result=start-limit-hit\nMainPID=0\nLoadState=masked\nActiveState=failed\n",
            state(ActiveState::Failed, None, "start-limit-hit"),
        ),
    ] {
        assert_eq!(parse(text).unwrap(), want, "{text}");
    }
}

#[test]
fn what_is_not_there_is_not_made_up() {
    for (text, why) in [
        ("", "did not print LoadState"),
        (
            "LoadState=not-found\nActiveState=inactive\nMainPID=0\nResult=success\n",
            "no such unit",
        ),
        ("LoadState=loaded\nActiveState=active\n", "MainPID"),
        (
            "LoadState=loaded\nActiveState=active\nMainPID=-1\nResult=success\n",
            "not a number",
        ),
        (
            "LoadState=loaded\nActiveState=active\nMainPID=1\nResultX=success\n",
            "Result",
        ),
    ] {
        let message = format!("{:#}", parse(text).unwrap_err());
        assert!(message.contains(why), "{text}: {message}");
    }
}

#[test]
fn the_kernels_and_systemds_boot_ids_are_the_same() {
    let id = "0f4c1c0d8e8a4b0f9a3b5d6e7f809112";
    for reported in [
        "0f4c1c0d-8e8a-4b0f-9a3b-5d6e7f809112\n",
        id,
        "0F4C1C0D8E8A4B0F9A3B5D6E7F809112",
    ] {
        assert_eq!(plain(reported).unwrap(), id, "{reported:?}");
    }
    for reported in ["", "\n", "%b", "0f4c", &format!("{id}0")] {
        assert!(plain(reported).is_err(), "{reported}");
    }
}

/// A `systemctl` that records its arguments and runs this script.
fn pretend(dir: &Path, script: &str) -> Systemctl {
    let path = dir.join("systemctl");
    let noted = dir.join("noted");
    let text = format!("#!/bin/sh\necho \"$@\" >>{}\n{script}\n", noted.display());
    write_program(&path, &text);
    Systemctl::new(&path)
}

fn noted(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("noted")).unwrap();
    let plain = |line: &str| {
        line.trim_start_matches("--no-ask-password --no-pager ")
            .to_owned()
    };
    text.lines().map(plain).collect()
}

#[tokio::test]
async fn a_start_resets_failures_and_an_error_has_the_result() {
    let dir = tempfile::tempdir().unwrap();
    // There is nothing to forget, which systemctl takes for an error.
    let mut units = pretend(
        dir.path(),
        r#"case "$3" in reset-failed) echo "not loaded" >&2; exit 1;; esac"#,
    );
    units.start(Unit::Trial).await.unwrap();
    units.begin(Unit::Stable).await.unwrap();
    units.stop(Unit::Stable).await.unwrap();
    assert_eq!(
        noted(dir.path()),
        [
            "reset-failed imagebuilder-agent-trial.service",
            "start imagebuilder-agent-trial.service",
            "reset-failed imagebuilder-agent.service",
            "start --no-block imagebuilder-agent.service",
            "stop imagebuilder-agent.service",
            "reset-failed imagebuilder-agent.service"
        ]
    );
    let mut units = pretend(
        dir.path(),
        r#"case "$3" in
        start|stop) echo >&2; echo "Job for it failed." >&2; echo "See more." >&2; exit 1;;
        show) printf 'LoadState=loaded\nActiveState=failed\nMainPID=0\nResult=timeout\n';; esac"#,
    );
    let message = units.start(Unit::Trial).await.unwrap_err().to_string();
    assert_eq!(
        message,
        "cannot start imagebuilder-agent-trial.service: timeout (Job for it failed.)"
    );
    let message = units.stop(Unit::Trial).await.unwrap_err().to_string();
    assert_eq!(
        message,
        "cannot stop imagebuilder-agent-trial.service: Job for it failed."
    );
    assert_eq!(
        units.state(Unit::Stable).await.unwrap().active,
        ActiveState::Failed
    );
}

#[tokio::test]
async fn a_missing_systemctl_is_reported() {
    let mut units = Systemctl::new(Path::new("/nonexistent/systemctl"));
    let message = format!("{:#}", units.state(Unit::Stable).await.unwrap_err());
    assert!(
        message.starts_with("cannot run /nonexistent/systemctl"),
        "{message}"
    );
}
