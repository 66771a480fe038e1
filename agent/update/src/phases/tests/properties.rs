//! Whatever an instance goes through, I1 to I7 hold; and once it is calm, it comes to rest on the best there is.

use proptest::collection::vec;
use proptest::prelude::*;

use super::life::{Life, Nature, factory};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// I1 to I7 are asserted at every moment of it, see [`Life`].
    #[test]
    fn any_faults_leave_the_instance_on_a_trusted_release(bytes in vec(any::<u8>(), 0..600)) {
        let mut life = Life::new(bytes);
        life.live();
        prop_assert_eq!(life.phase.name(), "idle", "{:#?}", life.log);
        prop_assert_eq!(&life.daemon, &life.stable, "{:#?}", life.log);
        let decision = life.decision();
        let rests = match &decision {
            Decision::Update { .. } | Decision::Rollback { .. } => false,
            // A bad release that is never skipped is tried again now and then.
            Decision::WaitBackoff { offer, .. } => {
                let build = Build { version: offer.release.version.clone(), digest: offer.digest.clone() };
                life.nature(&build) != Nature::Good
            }
            _ => true,
        };
        // It may be due just now.
        let due = decision.offer().is_some_and(|offer| {
            let build = Build { version: offer.release.version.clone(), digest: offer.digest.clone() };
            matches!(life.nature(&build), Nature::Reboots | Nature::Sickens)
        });
        prop_assert!(rests || due, "{} {:?} {:#?}", decision, life.failures, life.log.iter().rev().take(40).collect::<Vec<_>>());
    }
}

/// All good releases are taken in the end, however often the instance was cut short before.
#[test]
fn in_calm_the_newest_good_release_is_taken() {
    let mut life = Life::new(Vec::new());
    life.publish(1, Nature::Good);
    life.publish(2, Nature::Good);
    life.live();
    assert_eq!(life.stable, build(2));
    for nature in [
        Nature::FailsPreflight,
        Nature::Crashes,
        Nature::CrashesLater,
        Nature::Reboots,
        Nature::Sickens,
        Nature::CannotUpdate,
        Nature::FailsAsStable,
    ] {
        let mut life = Life::new(Vec::new());
        life.publish(1, Nature::Good);
        life.live();
        life.publish(2, nature);
        life.live();
        assert_eq!(life.stable, build(1), "{nature:?}: {:#?}", life.log);
        // What ends by itself is given up in the end; what only harms the host is tried ever more rarely.
        let harms = matches!(nature, Nature::Reboots | Nature::Sickens);
        assert_eq!(life.skipped.len(), usize::from(!harms), "{nature:?}");
        assert_ne!(life.stable, factory(), "{nature:?}");
    }
}
