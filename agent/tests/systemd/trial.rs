//! A trial, however it ends without having been confirmed, ends on the stable version; without an updater.

use crate::machine::{Disk, STABLE, TRIAL, left_out};

/// A box on which 1.0.0 serves and 2.0.0 is in the trial slot.
fn disk(behaviour: &str) -> Disk {
    let disk = Disk::new();
    disk.trial(&disk.slot("2.0.0", behaviour));
    disk
}

#[test]
fn a_box_boots_into_its_stable_version_and_looks_for_updates() {
    if left_out() {
        return;
    }
    let machine = disk("good").boot();
    machine.serves("1.0.0");
    assert_eq!(
        machine.leads("stable"),
        "/usr/lib/imagebuilder-agent/factory"
    );
    assert_eq!(
        machine.read("/run/imagebuilder/configured").as_deref(),
        Some("1.0.0\n")
    );
    for unit in [
        "imagebuilder-agent-update.timer",
        "imagebuilder-agent-update.path",
        "imagebuilder-agent-configure.service",
    ] {
        assert_eq!(machine.state(unit).0, "active", "{unit}");
    }
    assert_eq!(machine.state(TRIAL).0, "inactive");
    let failed = machine.ok(&["systemctl", "--failed", "--plain", "--no-legend"]);
    assert!(!failed.contains("imagebuilder"), "{failed}");
    // Anybody on the box may read the standing, and call the stable version by its name.
    machine.ok(&[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "cat",
        "/run/imagebuilder-agent/status.json",
    ]);
    assert_eq!(
        machine.ok(&["imagebuilder-agent", "--version"]),
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
    let machine = disk.boot();
    machine.serves("1.0.0");
    let before = machine.show(STABLE)["MainPID"].clone();
    machine.run(&["systemctl", "start", TRIAL]);
    machine.wait("another process of the stable version", |it| {
        let shown = it.show(STABLE);
        shown["ActiveState"] == "active" && shown["MainPID"] != before
    });
    machine.serves("1.0.0");
    assert_eq!(machine.state(TRIAL), (active.to_owned(), result.to_owned()));
    let shown = machine.show(STABLE);
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
fn a_trial_that_nobody_confirms_ends_at_its_deadline() {
    ends_on_stable("good", "[Service]\nRuntimeMaxSec=2\n", "failed", "timeout");
}

/// On trial, and serving as such.
fn on_trial(disk: Disk) -> crate::machine::Machine {
    let machine = disk.boot();
    machine.serves("1.0.0");
    machine.ok(&["systemctl", "start", TRIAL]);
    machine.wait("2.0.0 to be on trial", |it| {
        it.on_trial().as_deref() == Some("2.0.0")
    });
    // Never both: they share a directory, and the hooks of the group.
    assert_eq!(machine.state(STABLE).0, "inactive");
    machine
}

#[test]
fn a_reboot_during_a_trial_boots_into_stable() {
    if left_out() {
        return;
    }
    let mut machine = on_trial(disk("good"));
    machine.reboot();
    machine.serves("1.0.0");
    assert_eq!(machine.state(TRIAL).0, "inactive");
}

#[test]
fn a_power_cut_during_a_trial_boots_into_stable() {
    if left_out() {
        return;
    }
    let mut machine = on_trial(disk("good"));
    machine.power_cut();
    machine.boot();
    machine.serves("1.0.0");
    assert_eq!(machine.state(TRIAL).0, "inactive");
}

#[test]
fn a_power_cut_right_after_the_commit_boots_into_the_new_version() {
    if left_out() {
        return;
    }
    let disk = disk("good");
    let slot = disk.slot("2.0.0", "good");
    let mut machine = on_trial(disk);
    machine.point("stable", &slot);
    machine.power_cut();
    machine.boot();
    machine.serves("2.0.0");
}

#[test]
fn starting_stable_ends_a_trial_and_stopping_the_trial_starts_stable() {
    if left_out() {
        return;
    }
    let machine = on_trial(disk("good"));
    machine.ok(&["systemctl", "start", STABLE]);
    machine.serves("1.0.0");
    assert_eq!(machine.state(TRIAL), ("inactive".into(), "success".into()));
    machine.ok(&["systemctl", "start", TRIAL]);
    assert_eq!(machine.on_trial().as_deref(), Some("2.0.0"));
    machine.ok(&["systemctl", "stop", TRIAL]);
    machine.serves("1.0.0");
}
