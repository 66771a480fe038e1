//! Which release an instance wants: the rules as tables, then as properties over random channels.

mod fleet;
mod properties;

use std::collections::BTreeMap;

use contract::release::{Kind, Release, Rollout, SCHEMA, Wave, Withdrawal};

use jiff::SignedDuration;

use super::*;
use crate::channel::Digest;

pub(super) const ARCH: &str = "x86_64";

/// Hours after the day all of this begins, a Monday.
pub(super) fn hour(hours: i64) -> Timestamp {
    let monday: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    monday + SignedDuration::from_hours(hours)
}

pub(super) fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// A digest that belongs to a version, so that a version has one everywhere.
pub(super) fn build(text: &str) -> Build {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    Build {
        version: version(text),
        digest: Digest::parse(&format!("{hex:0<64}")).unwrap(),
    }
}

/// A release of channel `stable` since hour 0, for everybody.
pub(super) fn offer(text: &str) -> Offer {
    let rollout = Rollout {
        since: hour(0),
        waves: Vec::new(),
    };
    Offer {
        target: Release::target_name(&version(text), ARCH),
        digest: build(text).digest,
        length: 1,
        release: Release {
            schema: SCHEMA,
            kind: Kind::Agent,
            version: version(text),
            arch: ARCH.to_owned(),
            channels: BTreeMap::from([("stable".to_owned(), rollout)]),
            min_from: None,
            floor: None,
            withdrawn: None,
        },
    }
}

/// The same with changes.
pub(super) trait With: Sized {
    fn with(self, change: impl FnOnce(&mut Release)) -> Self;
    fn floor(self, floor: &str) -> Self {
        self.with(|release| release.floor = Some(version(floor)))
    }
    fn from(self, from: &str) -> Self {
        self.with(|release| release.min_from = Some(version(from)))
    }
    fn withdrawn(self, back: Option<&str>) -> Self {
        self.with(|release| {
            release.withdrawn = Some(Withdrawal {
                at: hour(1),
                reason: "it leaks".to_owned(),
                rollback_to: back.map(version),
            });
        })
    }
    /// `(percent, hour)`
    fn waves(self, waves: &[(u8, i64)]) -> Self {
        self.with(|release| {
            let waves = waves.iter().map(|(percent, at)| Wave {
                percent: *percent,
                at: hour(*at),
            });
            release.channels.get_mut("stable").unwrap().waves = waves.collect();
        })
    }
}

impl With for Offer {
    fn with(mut self, change: impl FnOnce(&mut Release)) -> Self {
        change(&mut self.release);
        self
    }
}

/// An instance on a version, at hour 12 of the first day, with its settings.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) id: String,
    pub(super) offers: Vec<Offer>,
    pub(super) current: Build,
    pub(super) hold: Option<Hold>,
    pub(super) pin: Option<Version>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) floor: Option<Version>,
    pub(super) windows: Windows,
    pub(super) failures: Vec<Failures>,
    pub(super) withheld: Option<Withheld>,
    pub(super) first_boot: bool,
    pub(super) now: Timestamp,
}

pub(super) fn on(current: &str, offers: impl IntoIterator<Item = Offer>) -> Scene {
    Scene {
        id: "i-0123456789abcdef0".to_owned(),
        offers: offers.into_iter().collect(),
        current: build(current),
        hold: None,
        pin: None,
        skipped: Vec::new(),
        floor: None,
        windows: Windows::default(),
        failures: Vec::new(),
        withheld: None,
        first_boot: false,
        now: hour(12),
    }
}

impl Scene {
    pub(super) fn view(&self) -> View<'_> {
        View {
            instance_id: &self.id,
            arch: ARCH,
            channel: "stable",
            offers: &self.offers,
            current: &self.current,
            hold: self.hold.as_ref(),
            pin: self.pin.as_ref(),
            skipped: &self.skipped,
            floor: self.floor.as_ref(),
            windows: &self.windows,
            failures: &self.failures,
            requested_at: None,
            first_boot: self.first_boot,
            withheld: self.withheld.as_ref(),
        }
    }

    pub(super) fn decision(&self) -> Decision {
        decide(&self.view(), self.now)
    }

    fn summary(&self) -> String {
        self.decision().to_string()
    }

    fn pinned(mut self, pin: &str) -> Self {
        self.pin = Some(version(pin));
        self
    }

    fn held(mut self, until: Option<i64>) -> Self {
        self.hold = Some(Hold {
            until: until.map(hour),
            reason: "fair week".to_owned(),
        });
        self
    }

    fn skipping(mut self, text: &str) -> Self {
        self.skipped.push(Skipped {
            build: build(text),
            reason: "exit code 1".to_owned(),
            at: hour(0),
            attempts: Some(3),
        });
        self
    }

    fn floored(mut self, floor: &str) -> Self {
        self.floor = Some(version(floor));
        self
    }

    fn within(mut self, window: &str) -> Self {
        self.windows = std::iter::once(window.parse::<Window>().unwrap()).collect();
        self
    }

    /// As the environment makes it fail.
    fn failed(self, text: &str, failures: u32, at: i64) -> Self {
        self.failed_by(FailureKind::Environment, text, failures, at)
    }

    fn failed_by(mut self, kind: FailureKind, text: &str, failures: u32, at: i64) -> Self {
        for _ in 0..failures {
            blame::count(&mut self.failures, &build(text), kind, "slow", hour(at));
        }
        self
    }

    fn at(mut self, hours: i64) -> Self {
        self.now = hour(hours);
        self
    }
}

/// No instance's wave comes before the end of time.
const LATER: [(u8, i64); 1] = [(100, 1000)];

#[test]
fn the_newest_release_whose_wave_has_come_is_taken() {
    for (scene, expected) in [
        (on("1.0.0", []), "current"),
        (on("1.0.0", [offer("1.0.0")]), "current"),
        (on("1.1.0", [offer("1.0.0")]), "current"),
        (
            on("1.0.0", [offer("1.1.0"), offer("1.2.0"), offer("0.9.0")]),
            "taking 1.2.0: newer",
        ),
        (
            on("1.0.0", [offer("1.2.0-rc.1"), offer("1.1.0")]),
            "taking 1.2.0-rc.1: newer",
        ),
        // The next lower while the newest has not reached it.
        (
            on("1.0.0", [offer("1.1.0"), offer("1.2.0").waves(&LATER)]),
            "taking 1.1.0: newer",
        ),
        // Of what has not, whatever comes first.
        (
            on(
                "1.0.0",
                [
                    offer("1.1.0").waves(&[(100, 13)]),
                    offer("1.2.0").waves(&LATER),
                ],
            ),
            "1.1.0 reaches this instance at 2026-06-02T00:13:44Z",
        ),
    ] {
        assert_eq!(scene.summary(), expected, "{scene:?}");
    }
}

#[test]
fn releases_for_others_are_not_seen() {
    let other_arch = offer("1.1.0").with(|release| release.arch = "aarch64".to_owned());
    let other_channel = offer("1.2.0").with(|release| {
        let rollout = release.channels.remove("stable").unwrap();
        release.channels.insert("beta".to_owned(), rollout);
    });
    let scene = on(
        "1.0.0",
        [other_arch.floor("1.1.0"), other_channel.floor("1.2.0")],
    );
    assert_eq!(scene.summary(), "current");
    assert_eq!(floor(&scene.view()), None);
}

#[test]
fn an_unsuitable_release_has_a_reason() {
    for (scene, expected) in [
        (
            on("1.0.0", [offer("1.1.0")]).skipping("1.1.0"),
            "1.1.0 failed here: exit code 1",
        ),
        (
            on("1.0.0", [offer("2.0.0").from("1.5.0")]),
            "2.0.0 requires 1.5.0 or newer first",
        ),
        (
            on("1.0.0", [offer("1.1.0").waves(&[(1, 0)])]),
            "the waves of 1.1.0 end before this instance",
        ),
        // If something else decides first, it does not matter.
        (
            on("1.0.0", [offer("1.1.0"), offer("1.2.0")]).skipping("1.2.0"),
            "taking 1.1.0: newer",
        ),
        (
            on("1.0.0", [offer("1.5.0"), offer("2.0.0").from("1.5.0")]),
            "taking 1.5.0: newer",
        ),
        // Withdrawn before it came here: nothing is missing.
        (
            on("1.0.0", [offer("1.1.0").withdrawn(Some("1.0.0"))]),
            "current",
        ),
    ] {
        assert_eq!(scene.summary(), expected, "{scene:?}");
    }
    let nothing = on("1.0.0", [offer("1.1.0")]).skipping("1.1.0").decision();
    assert_eq!(
        (nothing.code(), nothing.offer()),
        ("nothing-suitable", None)
    );
}

#[test]
fn a_rollback_follows_metadata_and_never_below_the_floor() {
    let bad = || offer("1.2.0").withdrawn(Some("1.1.0"));
    let back = "going back to 1.1.0: the running release was withdrawn: it leaks";
    for (scene, expected) in [
        (on("1.2.0", [offer("1.1.0"), bad()]), back),
        // Not for office hours, but for a hold.
        (
            on("1.2.0", [offer("1.1.0"), bad()]).within("Sun 00:00-01:00"),
            back,
        ),
        (
            on("1.2.0", [offer("1.1.0"), bad()]).held(None),
            "held until released; would take 1.1.0",
        ),
        // Waves are for what is new.
        (on("1.2.0", [offer("1.1.0").waves(&LATER), bad()]), back),
        (on("1.2.0", [offer("1.1.0"), bad()]).pinned("1.2.0"), back),
        // The same version under another digest: the image's own build of it.
        (
            on(
                "1.2.0",
                [
                    offer("1.1.0"),
                    Offer {
                        digest: build("9.9.9").digest,
                        ..bad()
                    },
                ],
            ),
            back,
        ),
        // Only if the withdrawal names the target.
        (
            on("1.2.0", [offer("1.1.0"), offer("1.2.0").withdrawn(None)]),
            "current",
        ),
        (on("1.2.0", [offer("1.1.0"), offer("1.2.0")]), "current"),
        (
            on("1.2.0", [bad()]),
            "1.1.0, to go back to, is not in the channel",
        ),
        (
            on("1.2.0", [offer("1.1.0"), bad()]).skipping("1.1.0"),
            "1.1.0 failed here: exit code 1",
        ),
        (
            on("1.2.0", [offer("1.1.0"), bad().floor("1.2.0")]),
            "1.1.0, to go back to, is below the floor",
        ),
        (
            on("1.2.0", [offer("1.1.0"), bad()]).floored("1.1.1"),
            "1.1.0, to go back to, is below the floor",
        ),
        // Withdrawn in its turn, while the instance was away.
        (
            on(
                "1.2.0",
                [
                    offer("1.0.0"),
                    offer("1.1.0").withdrawn(Some("1.0.0")),
                    bad(),
                ],
            ),
            "going back to 1.0.0: the running release was withdrawn: it leaks",
        ),
        (
            on("1.2.0", [offer("1.1.0").withdrawn(None), bad()]),
            "1.1.0, to go back to, was withdrawn too",
        ),
        (
            on("1.2.0", [offer("1.1.0").withdrawn(Some("1.2.0")), bad()]),
            "1.1.0, to go back to, was withdrawn too",
        ),
        // Where there is no way back there may be one forward.
        (on("1.2.0", [bad(), offer("1.3.0")]), "taking 1.3.0: newer"),
        (
            on("1.2.0", [offer("1.2.0").withdrawn(None), offer("1.3.0")]),
            "taking 1.3.0: newer",
        ),
    ] {
        assert_eq!(scene.summary(), expected, "{scene:?}");
    }
}

#[test]
fn the_floor_overrides_and_names_hold_pin_window_and_wave() {
    let scene = || on("1.0.0", [offer("1.1.0").floor("1.1.0").waves(&LATER)]);
    let forced = "taking 1.1.0: below the floor 1.1.0";
    for (scene, expected) in [
        (scene(), format!("{forced}, overriding wave")),
        (
            scene().held(None).pinned("1.0.0").within("Sun 00:00-01:00"),
            format!("{forced}, overriding hold and pin and window"),
        ),
        (scene().held(Some(1)), format!("{forced}, overriding wave")),
        // Skipped is skipped, and a failed attempt waits its time.
        (
            scene().skipping("1.1.0"),
            "1.0.0 is below the floor 1.1.0; 1.1.0 failed here: exit code 1".to_owned(),
        ),
        (
            scene().failed("1.1.0", 3, 12),
            "1.1.0 is tried again at 2026-06-01T13:00:00Z, as it failed: slow".to_owned(),
        ),
        // One seen before holds as well, and what it takes is not in the channel any more.
        (
            on("1.0.0", [offer("1.1.0")]).floored("1.2.0"),
            "1.0.0 is below the floor 1.2.0; the channel has no such release".to_owned(),
        ),
        // The newest that has reached the instance, before what has not.
        (
            on(
                "1.0.0",
                [
                    offer("1.1.0"),
                    offer("1.2.0"),
                    offer("1.3.0").floor("1.1.0").waves(&LATER),
                ],
            ),
            "taking 1.2.0: below the floor 1.1.0".to_owned(),
        ),
        // A pin that is high enough is kept.
        (
            on(
                "1.0.0",
                [offer("1.1.0").floor("1.1.0"), offer("1.2.0").waves(&LATER)],
            )
            .pinned("1.2.0"),
            "taking 1.2.0: below the floor 1.1.0".to_owned(),
        ),
        // By way of what lies between, where there is no other.
        (
            on(
                "1.0.0",
                [
                    offer("1.5.0"),
                    offer("1.6.0"),
                    offer("2.0.0").floor("2.0.0").from("1.5.0"),
                ],
            ),
            "taking 1.6.0: below the floor 2.0.0".to_owned(),
        ),
        (
            on(
                "1.0.0",
                [offer("1.4.0"), offer("2.0.0").floor("2.0.0").from("1.5.0")],
            ),
            "1.0.0 is below the floor 2.0.0; 2.0.0 requires 1.5.0 or newer first".to_owned(),
        ),
        // Withdrawn is never taken, but its statements about others remain valid.
        (
            on(
                "1.0.0",
                [
                    offer("1.1.0").floor("1.1.0").withdrawn(None),
                    offer("1.2.0"),
                ],
            ),
            "taking 1.2.0: below the floor 1.1.0".to_owned(),
        ),
    ] {
        assert_eq!(scene.summary(), expected, "{scene:?}");
    }
}

#[test]
fn the_floor_is_the_highest_that_was_ever_named() {
    let scene = on(
        "1.0.0",
        [offer("1.1.0").floor("1.0.5"), offer("1.2.0").floor("1.0.2")],
    );
    assert_eq!(floor(&scene.view()), Some(version("1.0.5")));
    assert_eq!(
        floor(&scene.clone().floored("1.0.1").view()),
        Some(version("1.0.5"))
    );
    assert_eq!(
        floor(&scene.floored("1.0.9").view()),
        Some(version("1.0.9"))
    );
}

#[test]
fn a_pin_means_exactly_that_version() {
    let offers = || [offer("1.0.0"), offer("1.1.0"), offer("1.2.0").waves(&LATER)];
    for (scene, expected) in [
        (on("1.1.0", offers()).pinned("1.1.0"), "current"),
        (on("1.0.0", offers()).pinned("1.0.0"), "current"),
        // Older, and before its wave: an operator's decision.
        (
            on("1.1.0", offers()).pinned("1.0.0"),
            "taking 1.0.0: pinned",
        ),
        (
            on("1.0.0", offers()).pinned("1.2.0"),
            "taking 1.2.0: pinned",
        ),
        (
            on("1.0.0", offers()).pinned("1.3.0"),
            "pinned 1.3.0 is not in the channel",
        ),
        (
            on("1.1.0", offers()).pinned("1.0.0").floored("1.1.0"),
            "pinned 1.0.0 is below the floor",
        ),
        (
            on("1.0.0", offers()).pinned("1.1.0").skipping("1.1.0"),
            "1.1.0 failed here: exit code 1",
        ),
        (
            on("1.0.0", [offer("1.1.0").withdrawn(None)]).pinned("1.1.0"),
            "pinned 1.1.0 was withdrawn",
        ),
        (
            on("1.0.0", [offer("1.1.0").from("1.0.1")]).pinned("1.1.0"),
            "1.1.0 requires 1.0.1 or newer first",
        ),
        (
            on("1.0.0", offers())
                .pinned("1.1.0")
                .within("Tue 09:00-10:00"),
            "1.1.0 waits for the window that opens at 2026-06-02T09:00:00Z",
        ),
        (
            on("1.0.0", offers()).pinned("1.1.0").held(Some(13)),
            "held until 2026-06-01T13:00:00Z; would take 1.1.0",
        ),
    ] {
        assert_eq!(scene.summary(), expected, "{scene:?}");
    }
}

#[test]
fn hold_verdict_window_and_pause_delay_in_this_order() {
    let mut scene = on("1.0.0", [offer("1.1.0")])
        .held(None)
        .within("13:00-14:00")
        .failed("1.1.0", 9, 12);
    scene.first_boot = true;
    assert_eq!(scene.summary(), "held until released; would take 1.1.0");
    // Its end is the first moment without it.
    scene = scene.held(Some(12));
    assert_eq!(
        scene.summary(),
        "1.1.0 waits for the agent's first verdict on this instance"
    );
    scene.first_boot = false;
    assert_eq!(
        scene.summary(),
        "1.1.0 waits for the window that opens at 2026-06-01T13:00:00Z"
    );
    scene = scene.at(13);
    assert_eq!(
        scene.summary(),
        "1.1.0 is tried again at 2026-06-01T16:00:00Z, as it failed: slow"
    );
    assert_eq!(
        scene.clone().within("00:00-24:00").at(16).summary(),
        "taking 1.1.0: newer"
    );
    // Where there is nothing to hold, nothing is held.
    assert_eq!(
        on("1.1.0", [offer("1.1.0")]).held(None).summary(),
        "current"
    );
    // Another release does not suffer for it.
    scene.offers.push(offer("1.2.0"));
    assert_eq!(scene.summary(), "taking 1.2.0: newer");
}

/// A release that is suspected here allows a lower one; one that only could not be fetched does not.
#[test]
fn a_lower_release_is_taken_while_a_suspected_one_waits() {
    use FailureKind::{Crashed, Environment, Interrupted, Unhealthy};
    let scene = || on("1.0.0", [offer("1.1.0"), offer("1.2.0")]);
    for (kind, count, expected) in [
        (
            Environment,
            1,
            "1.2.0 is tried again at 2026-06-01T12:15:00Z, as it failed: slow",
        ),
        (Interrupted, 1, "taking 1.2.0: newer"),
        (Interrupted, 2, "taking 1.1.0: newer"),
        (Unhealthy, 1, "taking 1.1.0: newer"),
        (Crashed, 2, "taking 1.1.0: newer"),
    ] {
        let scene = scene().failed_by(kind, "1.2.0", count, 12);
        assert_eq!(scene.summary(), expected, "{kind:?}");
        // Below the floor as well.
        let expected = expected.replace("newer", "below the floor 1.1.0");
        assert_eq!(scene.floored("1.1.0").summary(), expected, "{kind:?}");
    }
    let alone = on("1.0.0", [offer("1.2.0")]).failed_by(Unhealthy, "1.2.0", 1, 12);
    assert_eq!(
        alone.clone().summary(),
        "1.2.0 is tried again at 2026-06-01T13:00:00Z, as it failed: slow"
    );
    assert_eq!(alone.at(13).summary(), "taking 1.2.0: newer");
}

#[test]
fn the_first_verdict_is_awaited_for_a_limited_time() {
    let withheld = |minutes: u64| {
        Some(Withheld {
            since: hour(0),
            reason: String::new(),
            last: None,
            seconds: minutes * 60,
        })
    };
    for (since, bad, waits) in [
        (None, false, true),
        (withheld(1439), false, true),
        (withheld(1440), false, false),
        (None, true, true),
        (withheld(9), true, true),
        (withheld(10), true, false),
    ] {
        let row = format!("withdrawn: {bad}, {since:?}");
        let mut scene = match bad {
            false => on("1.0.0", [offer("1.1.0")]),
            true => on(
                "1.2.0",
                [offer("1.1.0"), offer("1.2.0").withdrawn(Some("1.1.0"))],
            ),
        };
        (scene.first_boot, scene.withheld) = (true, since);
        let decision = scene.decision();
        assert_eq!(
            matches!(decision, Decision::WaitVerdict { .. }),
            waits,
            "{row}: {decision}"
        );
    }
}
