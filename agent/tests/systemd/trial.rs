//! A trial, however it ends without having been confirmed, ends on the stable version; without an updater.

use crate::container::{Disk, STABLE, TRIAL, left_out};

/// An instance on which 1.0.0 serves and 2.0.0 is in the trial slot.
fn disk(behaviour: &str) -> Disk {
    let disk = Disk::new();
    disk.trial(&disk.slot("2.0.0", behaviour));
    disk
}

#[test]
fn an_instance_boots_into_stable_and_checks_for_updates() {
    if left_out() {
        return;
    }
    let container = disk("good").boot();
    container.serves("1.0.0");
    assert_eq!(
        container.leads("stable"),
        "/usr/lib/imagebuilder-agent/factory"
    );
    assert_eq!(
        container.read("/run/imagebuilder/configured").as_deref(),
        Some("1.0.0\n")
    );
    for unit in [
        "imagebuilder-agent-update.timer",
        "imagebuilder-agent-update.path",
        "imagebuilder-agent-configure.service",
    ] {
        assert_eq!(container.state(unit).0, "active", "{unit}");
    }
    assert_eq!(container.state(TRIAL).0, "inactive");
    let failed = container.ok(&["systemctl", "--failed", "--plain", "--no-legend"]);
    assert!(!failed.contains("imagebuilder"), "{failed}");
    // Every user of the instance may read the status, and run the stable version.
    container.ok(&[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "cat",
        "/run/imagebuilder-agent/status.json",
    ]);
    assert_eq!(
        container.ok(&["imagebuilder-agent", "--version"]),
        "imagebuilder-agent 1.0.0\n"
    );
}

/// Starts the trial, and sees it end with this result and stable serve again.
fn ends_on_stable(behaviour: &str, drop_in: &str, active: &str, result: &str) {
    if left_out() {
        return;
    }
    let disk = disk(behaviour);
    disk.drop_in(TRIAL, drop_in);
    let container = disk.boot();
    container.serves("1.0.0");
    let before = container.show(STABLE)["MainPID"].clone();
    container.run(&["systemctl", "start", TRIAL]);
    container.wait("another process of the stable version", |it| {
        let shown = it.show(STABLE);
        shown["ActiveState"] == "active" && shown["MainPID"] != before
    });
    container.serves("1.0.0");
    assert_eq!(
        container.state(TRIAL),
        (active.to_owned(), result.to_owned())
    );
    let shown = container.show(STABLE);
    // It was stopped once and started once: nothing was tried in between.
    assert_eq!(shown["NRestarts"], "0");
}

#[test]
fn a_trial_that_crashes_at_once_is_replaced() {
    ends_on_stable("crashes", "", "failed", "exit-code");
}

#[test]
fn a_trial_that_crashes_while_it_soaks_is_replaced() {
    ends_on_stable("crashes-later", "", "failed", "exit-code");
}

#[test]
fn a_trial_that_ends_without_being_asked_is_replaced() {
    ends_on_stable("leaves", "", "inactive", "success");
}

#[test]
fn a_trial_that_never_gets_ready_is_replaced() {
    ends_on_stable(
        "hangs",
        "[Service]\nTimeoutStartSec=1\n",
        "failed",
        "timeout",
    );
}

#[test]
fn a_trial_that_misses_its_watchdog_is_replaced() {
    ends_on_stable("stalls", "[Service]\nWatchdogSec=1\n", "failed", "watchdog");
}

#[test]
fn an_unconfirmed_trial_ends_at_its_deadline() {
    ends_on_stable("good", "[Service]\nRuntimeMaxSec=2\n", "failed", "timeout");
}

/// On trial, and serving as such.
fn on_trial(disk: Disk) -> crate::container::Container {
    let container = disk.boot();
    container.serves("1.0.0");
    container.ok(&["systemctl", "start", TRIAL]);
    container.wait("2.0.0 to be on trial", |it| {
        it.on_trial().as_deref() == Some("2.0.0")
    });
    // Never both: they share a directory, and the hooks of the group.
    assert_eq!(container.state(STABLE).0, "inactive");
    container
}

#[test]
fn a_reboot_during_a_trial_boots_into_stable() {
    if left_out() {
        return;
    }
    let mut container = on_trial(disk("good"));
    container.reboot();
    container.serves("1.0.0");
    assert_eq!(container.state(TRIAL).0, "inactive");
}

#[test]
fn a_power_cut_during_a_trial_boots_into_stable() {
    if left_out() {
        return;
    }
    let mut container = on_trial(disk("good"));
    container.power_cut();
    container.boot();
    container.serves("1.0.0");
    assert_eq!(container.state(TRIAL).0, "inactive");
}

#[test]
fn a_power_cut_after_the_commit_boots_the_new_version() {
    if left_out() {
        return;
    }
    let disk = disk("good");
    let slot = disk.slot("2.0.0", "good");
    let mut container = on_trial(disk);
    container.point("stable", &slot);
    container.power_cut();
    container.boot();
    container.serves("2.0.0");
}

#[test]
fn stable_and_trial_replace_each_other() {
    if left_out() {
        return;
    }
    let container = on_trial(disk("good"));
    container.ok(&["systemctl", "start", STABLE]);
    container.serves("1.0.0");
    assert_eq!(
        container.state(TRIAL),
        ("inactive".into(), "success".into())
    );
    container.ok(&["systemctl", "start", TRIAL]);
    assert_eq!(container.on_trial().as_deref(), Some("2.0.0"));
    container.ok(&["systemctl", "stop", TRIAL]);
    container.serves("1.0.0");
}
