//! Properties of the decision for any channel and any overrides.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// One of a few versions, so that they meet.
fn a_version() -> impl Strategy<Value = Version> {
    (0_u64..7).prop_map(|minor| Version::new(1, minor, 0))
}

/// Any release that the channel may carry: all that [`Release::check`] lets through.
fn an_offer() -> impl Strategy<Value = Offer> {
    let waves = vec((1_u8..=100, -24_i64..48), 0..4);
    let withdrawal = option::weighted(0.3, option::weighted(0.8, a_version()));
    let rare = |strategy| option::weighted(0.2, strategy);
    (
        a_version(),
        waves,
        withdrawal,
        rare(a_version()),
        rare(a_version()),
        0..12_u8,
    )
        .prop_map(|(version, mut waves, withdrawal, floor, min_from, odd)| {
            waves.sort_unstable_by_key(|(percent, _)| *percent);
            waves.dedup_by_key(|(percent, _)| *percent);
            let mut hours: Vec<i64> = waves.iter().map(|(_, hour)| *hour).collect();
            hours.sort_unstable();
            let waves: Vec<_> = waves
                .iter()
                .map(|(percent, _)| *percent)
                .zip(hours)
                .collect();
            offer(&version.to_string()).waves(&waves).with(|release| {
                release.floor = floor.filter(|floor| *floor <= version);
                release.min_from = min_from;
                release.withdrawn = withdrawal.map(|rollback_to| Withdrawal {
                    at: hour(0),
                    reason: "bad".to_owned(),
                    rollback_to: rollback_to.filter(|to| *to != version),
                });
                match odd {
                    0 => release.arch = "aarch64".to_owned(),
                    1 => release.channels.clear(),
                    _ => {}
                }
            })
        })
}

/// Any instance in front of any channel.
fn a_scene() -> impl Strategy<Value = Scene> {
    let channel = (
        vec(an_offer(), 0..6),
        a_version(),
        0..48_i64,
        "i-[0-9a-f]{4}",
    );
    let overrides = (
        option::weighted(0.2, option::of(0..48_i64)),
        option::weighted(0.2, a_version()),
        option::weighted(0.3, a_version()),
    );
    let past = (
        vec(a_version(), 0..2),
        option::weighted(0.2, (a_version(), 0..9_u32, 0..48_i64)),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.3),
    );
    (channel, overrides, past).prop_map(
        |(
            (mut offers, current, now, id),
            (hold, pin, floor),
            (skipped, setback, first_boot, office),
        )| {
            // One release a version, as one target name each makes it.
            offers.sort_by(|a, b| a.release.version.cmp(&b.release.version));
            offers.dedup_by(|a, b| a.release.version == b.release.version);
            let mut scene = on(&current.to_string(), offers).at(now);
            (scene.id, scene.pin, scene.floor, scene.first_boot) = (id, pin, floor, first_boot);
            if let Some(until) = hold {
                scene = scene.held(until);
            }
            for version in skipped {
                scene = scene.skipping(&version.to_string());
            }
            if let Some((version, failures, at)) = setback {
                scene = scene.failed(&version.to_string(), failures, at);
            }
            if office {
                scene = scene.within("Mon-Fri 09:00-16:00");
            }
            scene
        },
    )
}

/// The release that is taken now.
fn taken(decision: &Decision) -> Option<&Offer> {
    match decision {
        Decision::Update { offer, .. } | Decision::Rollback { offer, .. } => Some(offer),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_releases_offered_to_this_instance_are_taken(scene in a_scene()) {
        let decision = scene.decision();
        if let Some(offer) = decision.offer() {
            prop_assert!(scene.offers.contains(offer));
            prop_assert!(offer.release.check().is_ok());
            prop_assert_eq!(&offer.release.arch, ARCH);
            prop_assert!(offer.release.channels.contains_key("stable"));
            prop_assert!(offer.release.withdrawn.is_none());
            prop_assert!(offer.release.version != scene.current.version);
            let from = offer.release.min_from.as_ref();
            prop_assert!(from.is_none_or(|from| *from <= scene.current.version));
            // I5
            prop_assert!(scene.skipped.iter().all(|skipped| skipped.build.digest != offer.digest));
        }
    }

    /// I6, and I2 of versions.
    #[test]
    fn the_floor_never_falls_and_nothing_goes_below_it(scene in a_scene()) {
        let floor = floor(&scene.view());
        prop_assert!(floor >= scene.floor);
        if let (Some(floor), Some(offer)) = (floor, scene.decision().offer()) {
            // From below there may be a step in between.
            let up = scene.current.version < floor && offer.release.version > scene.current.version;
            prop_assert!(offer.release.version >= floor || up);
        }
    }

    #[test]
    fn only_a_pin_or_a_signed_withdrawal_goes_back(scene in a_scene()) {
        let back = |offer: &Offer| offer.release.version < scene.current.version;
        match scene.decision() {
            Decision::Update { offer, why } if back(&offer) => {
                prop_assert_eq!(why, Why::Pinned);
                prop_assert_eq!(scene.pin, Some(offer.release.version));
            }
            Decision::Rollback { .. } => {
                let running = |offer: &&Offer| offer.release.version == scene.current.version;
                let running = scene.offers.iter().find(running).unwrap();
                let withdrawn = running.release.withdrawn.as_ref().unwrap();
                prop_assert!(withdrawn.rollback_to.is_some());
            }
            _ => {}
        }
    }

    #[test]
    fn hold_window_wave_and_verdict_delay_all_but_the_floor(scene in a_scene()) {
        let decision = scene.decision();
        let below = floor(&scene.view()).is_some_and(|floor| scene.current.version < floor);
        if let (Some(offer), false) = (taken(&decision), below) {
            prop_assert!(scene.hold.as_ref().is_none_or(|hold| hold.until.is_some_and(|until| until <= scene.now)));
            prop_assert!(!scene.first_boot);
            if let Decision::Update { why, .. } = &decision {
                prop_assert!(scene.windows.open(scene.now));
                if *why == Why::Newer {
                    prop_assert!(scene.view().reaches(offer).unwrap() <= scene.now);
                    prop_assert!(scene.pin.is_none());
                }
            }
        }
        // What is waited for is ahead, and is there when it is.
        match &decision {
            Decision::WaitWave { at, .. } => prop_assert!(*at > scene.now),
            Decision::WaitWindow { at, .. } => {
                prop_assert!(*at > scene.now && scene.windows.open(*at));
            }
            Decision::WaitBackoff { at, .. } => prop_assert!(*at > scene.now),
            _ => {}
        }
    }

    /// Otherwise an instance would alternate between two releases forever.
    #[test]
    fn taking_what_was_decided_comes_to_rest(mut scene in a_scene()) {
        for _ in 0..=scene.offers.len() + 1 {
            let decision = scene.decision();
            scene.floor = floor(&scene.view());
            let Some(offer) = taken(&decision) else {
                return Ok(());
            };
            scene.current = Build { version: offer.release.version.clone(), digest: offer.digest.clone() };
        }
        prop_assert!(false, "it never rests: {:?}", scene.decision());
    }
}
