//! The updater killed in every phase, and at every single call; with the instance running on, and with a
//! reboot.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::fakes::Stage;
use crate::attempt::Ended;
use crate::blame::FailureKind;
use crate::phases::Outcome;
use crate::plan::Decision;
use crate::slots::{Leads, Link};
use crate::state::{FILE, State};

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    Kill,
    PowerLoss,
}

/// Where in a phase the updater dies: at its first call, or at the last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    First,
    Last,
}

fn phase(root: &Path) -> &'static str {
    let state = fs::read(root.join("state").join(FILE)).unwrap_or_default();
    State::read(&state).0.phase.name()
}

/// The numbers of the first and last call in a phase, of a whole attempt.
async fn calls_in(named: &'static str) -> (usize, usize) {
    let stage = Stage::new();
    stage.offers("1.1.0");
    let (seen, mut count) = (Arc::new(Mutex::new(Vec::new())), 0);
    let noted = seen.clone();
    stage.scene().kill = Some(Box::new(move |_, root| {
        count += 1;
        if phase(root) == named {
            noted.lock().unwrap().push(count);
        }
        false
    }));
    assert!(matches!(
        stage.ends().await,
        Ended::With(Outcome::Updated { .. })
    ));
    let seen = seen.lock().unwrap();
    (*seen.first().unwrap(), *seen.last().unwrap())
}

fn kill_at(stage: &Stage, call: usize) {
    let mut count = 0;
    stage.scene().kill = Some(Box::new(move |_, _| {
        count += 1;
        count == call
    }));
}

/// How often a release counts as cut short.
fn interruptions(state: &State) -> u32 {
    let causes = state
        .failures
        .iter()
        .map(|it| it.causes.get(&FailureKind::Interrupted));
    causes.flatten().map(|count| count.count).sum()
}

/// Kills an attempt in a phase: the instance is sound at once, and what comes of the next run is as given:
/// how often the release counts as cut short until then.
async fn killed_in(named: &'static str, strikes: u32) {
    let (first, last) = calls_in(named).await;
    for at in [At::First, At::Last] {
        for after in [After::Kill, After::PowerLoss] {
            let what = format!("{named}, {at:?}, {after:?}");
            let mut stage = Stage::new();
            let build = stage.offers("1.1.0");
            kill_at(&stage, if at == At::First { first } else { last });
            assert!(stage.run().await.is_none(), "{what}: not killed");
            assert_eq!(stage.state().phase.name(), named, "{what}");
            stage.assert_sound(&what);
            if after == After::PowerLoss {
                stage.reboot();
            }
            let noted = Arc::new(Mutex::new(0));
            let most = noted.clone();
            stage.scene().kill = Some(Box::new(move |_, root| {
                let state = fs::read(root.join("state").join(FILE)).unwrap_or_default();
                let now = interruptions(&State::read(&state).0);
                let mut most = most.lock().unwrap();
                *most = now.max(*most);
                false
            }));
            let ended = stage.ends().await;
            assert!(
                matches!(&ended, Ended::With(Outcome::Updated { to, .. }) if *to == build),
                "{what}: {ended:?}"
            );
            assert_eq!(*noted.lock().unwrap(), strikes, "{what}");
            stage.assert_sound(&what);
            assert_eq!(
                stage.slots.leads(Link::Stable),
                Leads::Slot(build),
                "{what}"
            );
            assert_eq!(stage.slots.leads(Link::Trial), Leads::Nowhere, "{what}");
            assert_eq!(stage.state().failures, [], "{what}");
        }
    }
}

macro_rules! killed {
    ($($test:ident: $phase:literal, $strikes:literal;)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $test() {
            killed_in($phase, $strikes).await;
        })*
    };
}

killed! {
    killed_in_checking: "checking", 0;
    killed_in_fetching: "fetching", 0;
    killed_in_staging: "staging", 0;
    killed_in_preflight: "preflight", 1;
    killed_in_asking: "asking", 0;
    killed_in_armed: "armed", 1;
    killed_in_trial: "trial", 1;
    killed_in_proving: "proving", 1;
    killed_in_committed: "committed", 0;
}

/// The rename of `stable` is between this phase's two calls: on one side of it the attempt was cut short, on
/// the other it had succeeded.
#[tokio::test(start_paused = true)]
async fn killed_in_confirmed() {
    let (first, last) = calls_in("confirmed").await;
    assert_eq!(first, last, "the rename is before the phase's only call");
    for after in [After::Kill, After::PowerLoss] {
        for renamed in [true, false] {
            let what = format!("{after:?}, renamed: {renamed}");
            let mut stage = Stage::new();
            let build = stage.offers("1.1.0");
            kill_at(&stage, first);
            assert!(stage.run().await.is_none(), "{what}");
            assert_eq!(
                stage.slots.leads(Link::Stable),
                Leads::Slot(build.clone()),
                "{what}"
            );
            if !renamed {
                stage.slots.fall_back().unwrap();
            }
            stage.assert_sound(&what);
            if after == After::PowerLoss {
                stage.reboot();
            }
            let calls = stage.scene().calls.len();
            let ended = stage.ends().await;
            assert!(
                matches!(&ended, Ended::With(Outcome::Updated { to, .. }) if *to == build),
                "{what}: {ended:?}"
            );
            let again = stage.scene().calls[calls..]
                .iter()
                .any(|call| call == "start trial");
            assert_eq!(again, !renamed, "{what}");
            stage.assert_sound(&what);
        }
    }
}

/// Power cuts and dead updaters are accidents, however many: each only makes the next try later.
#[tokio::test(start_paused = true)]
async fn killed_repeatedly_it_is_retried_and_never_skipped() {
    for after in [After::Kill, After::PowerLoss] {
        let mut stage = Stage::new();
        let build = stage.offers("1.1.0");
        for cut in 1..=6 {
            let mut anew = false;
            stage.scene().kill = Some(Box::new(move |_, root| {
                anew |= phase(root) == "fetching";
                anew && phase(root) == "trial"
            }));
            assert!(stage.run().await.is_none(), "{after:?}, {cut}");
            if after == After::PowerLoss {
                stage.reboot();
            }
            stage.scene().kill = None;
            if cut > 1 {
                let ended = stage.ends().await;
                let waits = matches!(&ended, Ended::With(Outcome::Settled(it))
                    if matches!(**it, Decision::WaitBackoff { .. }));
                assert!(waits, "{cut}: {ended:?}");
                assert_eq!(interruptions(&stage.state()), cut, "{after:?}, {cut}");
                tokio::time::advance(std::time::Duration::from_secs(7 * 24 * 3600)).await;
            }
        }
        assert_eq!(stage.state().skipped, []);
        stage.ends().await;
        assert_eq!(stage.slots.leads(Link::Stable), Leads::Slot(build));
    }
}

/// Every call of an attempt, not only the first and last of each phase; of those that come again and again
/// while it waits, the first two.
#[tokio::test(start_paused = true)]
async fn killed_at_every_call() {
    let whole = Stage::new();
    whole.offers("1.1.0");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    whole.scene().kill = Some(Box::new(move |call, root| {
        noted.lock().unwrap().push((phase(root), call.to_owned()));
        false
    }));
    whole.ends().await;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let calls: Vec<usize> = (0..seen.len())
        .filter(|at| seen[..*at].iter().filter(|it| **it == seen[*at]).count() < 2)
        .map(|at| at + 1)
        .collect();
    assert!(calls.len() > 25, "{calls:?}");
    for call in calls {
        for after in [After::Kill, After::PowerLoss] {
            let what = format!("call {call}, {after:?}");
            let mut stage = Stage::new();
            let build = stage.offers("1.1.0");
            kill_at(&stage, call);
            assert!(stage.run().await.is_none(), "{what}");
            stage.assert_sound(&what);
            if after == After::PowerLoss {
                stage.reboot();
            }
            stage.ends().await;
            stage.assert_sound(&what);
            assert_eq!(
                stage.slots.leads(Link::Stable),
                Leads::Slot(build),
                "{what}"
            );
            assert_eq!(stage.state().phase.name(), "idle", "{what}");
            let staging = stage.slots.layout().slots.join("staging");
            assert_eq!(fs::read_dir(staging).unwrap().count(), 0, "{what}");
        }
    }
}
