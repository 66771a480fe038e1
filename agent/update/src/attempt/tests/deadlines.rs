//! The deadlines of the units are above those of what runs in them: nothing is ended from outside that would
//! have ended in order.

use std::time::Duration;

use crate::attempt::actions::{PERMISSION_TIMEOUT, PROBE, START, VERBS};
use crate::attempt::compare::RECOVERY;
use crate::attempt::soak::GRACE;
use crate::channel::Limits;
use crate::subscription::LONGEST_SOAK;

const UPDATER: &str =
    include_str!("../../../../../templates/systemd/imagebuilder-agent-update.service.tera");
const TRIAL: &str =
    include_str!("../../../../../templates/systemd/imagebuilder-agent-trial.service.tera");
const DAEMON: &str =
    include_str!("../../../../../templates/systemd/imagebuilder-agent/daemon.tera");

fn seconds(unit: &str, key: &str) -> Duration {
    let value = unit
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .expect(key);
    let (number, factor) = match value.strip_suffix("min") {
        Some(minutes) => (minutes, 60),
        None => (value, 1),
    };
    Duration::from_secs(number.parse::<u64>().expect(value) * factor)
}

/// From its start to its commit, as slowly as may be.
fn longest_trial() -> Duration {
    Duration::from_secs(LONGEST_SOAK) + GRACE + PERMISSION_TIMEOUT + PROBE
}

#[test]
fn the_longest_attempt_ends_before_its_unit_does() {
    let limits = Limits::default();
    // Where what was here already proves wrong, a release is fetched once more.
    let fetched = limits.refresh + limits.release_rate.total * 2;
    // A self-test and verbs that fail are compared with those of the stable release, the channel is read once more.
    let tested = PROBE + VERBS;
    let compared = limits.refresh + PROBE + VERBS;
    // Either it is confirmed and started as stable, or reverted and compared.
    let end = START.max(START * 2 + RECOVERY.max(PERMISSION_TIMEOUT));
    let attempt = fetched + tested + compared + PERMISSION_TIMEOUT + START + longest_trial() + end;
    let unit = seconds(UPDATER, "TimeoutStartSec");
    assert!(attempt < unit, "{attempt:?} {unit:?}");
}

#[test]
fn the_longest_trial_ends_before_its_unit_does() {
    let unit = seconds(TRIAL, "RuntimeMaxSec");
    assert!(longest_trial() < unit, "{:?} {unit:?}", longest_trial());
    assert!(seconds(DAEMON, "TimeoutStartSec") < START);
}
