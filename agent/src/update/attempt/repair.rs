//! `update repair`: a stable agent that cannot run is stepped down from, one step a call: to the build
//! confirmed before it, else to the factory's. Run by the factory's own binary.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::world::{Unit, World};
use crate::update::board::Build;
use crate::update::slots::{Leads, Link, Lock, Slots};
use crate::update::state::State;

/// How long a repair waits for a running updater: the attempt that just moved `stable` sees the unit fail
/// and ends.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two tries at the lock.
const TRIES: Duration = Duration::from_millis(200);

/// What a repair came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// `stable` leads to the build confirmed before.
    Previous(Build),
    /// `stable` leads to what came with the image.
    Factory,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Previous(build) => write!(f, "{} of before", build.version),
            Self::Factory => f.write_str("the factory's"),
        }
    }
}

/// One step down from a stable agent that does not run, and starts what is stable then.
///
/// # Errors
/// The disk's, or systemd's; the links are then as they were, or lead to something that can run.
pub async fn repair(mut world: World) -> Result<Repaired> {
    let _lock = take(&world.slots).await?;
    let failed = match world.slots.leads(Link::Stable) {
        Leads::Slot(build) => Some(build),
        Leads::Factory | Leads::Nowhere | Leads::Unreadable(_) => None,
    };
    let (mut state, _) = world
        .store
        .load(&world.course.instance_id, failed.as_ref())?;
    if let Some(build) = &failed {
        warn!(
            version = %build.version,
            digest = %build.digest,
            "{} did not run as stable",
            build.version
        );
        let at: Timestamp = world.clock.now();
        state.skip(build, "did not run as stable", at);
        // Before the link moves: what failed must not be taken again by a run in between. A disk that
        // cannot keep it is no reason to leave the box without an agent.
        if let Err(error) = world.store.save(&state) {
            warn!("{error:#}");
        }
    }
    let to = step_down(&world.slots, &state, failed.as_ref())?;
    info!("stable is now {to}");
    world
        .units
        .start(Unit::Stable)
        .await
        .context("cannot start the stable agent")?;
    Ok(to)
}

/// Points `stable` to the best that is left: what was confirmed here before and still has its bytes, else
/// the factory's.
pub(super) fn step_down(slots: &Slots, state: &State, failed: Option<&Build>) -> Result<Repaired> {
    let usable = |build: &&Build| {
        Some(*build) != failed
            && state.is_confirmed(&build.digest)
            && !state
                .skipped
                .iter()
                .any(|it| it.build.digest == build.digest)
            && slots.verify(build).is_ok()
    };
    // A link that leads nowhere lost its slot: the newest of the confirmed is then what it led to, or
    // what was before.
    let others = state.confirmed.iter().rev().filter(|_| failed.is_none());
    let previous = state.previous.iter().chain(others).find(usable);
    if let Some(build) = previous {
        slots.promote(build)?;
        return Ok(Repaired::Previous(build.clone()));
    }
    if slots.leads(Link::Stable) != Leads::Factory {
        slots.fall_back()?;
    }
    if slots.leads(Link::Stable) != Leads::Factory {
        bail!(
            "there is no agent in {}\nhint: replace the instance",
            slots.layout().factory.display()
        );
    }
    Ok(Repaired::Factory)
}

async fn take(slots: &Slots) -> Result<Lock> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = slots.lock()? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            bail!("another updater is at work");
        }
        sleep(TRIES).await;
    }
}
