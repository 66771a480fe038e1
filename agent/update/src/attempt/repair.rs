//! `update repair`: replaces a stable agent that cannot run, one step per call, with the version [before](Before).
//! Run by the factory's own binary.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::adapters::{ActiveState, Adapters, Unit};
use crate::before::Before;
use crate::blame::{self, FailureKind};
use crate::slots::{Leads, Link, Lock, Slots};

/// How long a repair waits for a running updater: the attempt that just moved `stable` sees the unit fail and ends.
const PATIENCE: Duration = Duration::from_secs(90);

/// Poll interval for the lock.
const TRIES: Duration = Duration::from_millis(200);

/// Goes one step back from a stable agent that does not run, and has the new stable one started. If that fails as well, systemd
/// starts the next repair.
///
/// # Errors
/// The disk or systemd failed; the links are unchanged, or point to a release that can run.
pub(crate) async fn repair(mut adapters: Adapters) -> Result<Before> {
    let _lock = take(&adapters.slots).await?;
    let failed = match adapters.slots.leads(Link::Stable) {
        Leads::Slot(build) => Some(build),
        Leads::Factory | Leads::Nowhere | Leads::Unreadable(_) => None,
    };
    let (mut state, _) = adapters
        .store
        .load(&adapters.policy.instance_id, failed.as_ref())?;
    if let Some(build) = &failed {
        let (kind, how) = how_it_ended(&mut adapters).await;
        warn!(
            version = %build.version,
            digest = %build.digest,
            "{} did not run as stable: {how}",
            build.version
        );
        let at: Timestamp = adapters.clock.now();
        let reason = format!("did not run as stable: {how}");
        state.fail(build, kind, &reason, at);
        state.unconfirm(build);
        // Before the link moves: a run in between must not take the failed release again. A failing disk is no reason
        // to keep the instance without an agent.
        if let Err(error) = adapters.store.save(&state) {
            warn!("{error:#}");
        }
    }
    let factory = adapters
        .slots
        .factory()
        .inspect_err(|error| warn!("{error:#}"))
        .ok();
    let to = Before::choose(&state, failed.as_ref(), factory.as_ref(), |build| {
        adapters.slots.verify(build).is_ok()
    });
    go_to(&adapters.slots, &to)?;
    info!("stable is now {to}");
    if let Some(why) = to.despite() {
        error!("going back to the factory's agent for want of another, although {why}");
    }
    adapters
        .units
        .begin(Unit::Stable)
        .await
        .context("cannot start the stable agent")?;
    Ok(to)
}

/// Why the stable agent does not run, from its unit's state. One that runs was found unhealthy by the caller of the
/// repair.
async fn how_it_ended(adapters: &mut Adapters) -> (FailureKind, String) {
    match adapters.units.state(Unit::Stable).await {
        Ok(it) if it.active == ActiveState::Failed => (
            blame::of_unit(&it.result, it.status),
            format!("it ended with {}", it.result),
        ),
        Ok(_) => (FailureKind::Unhealthy, "a repair was requested".to_owned()),
        Err(error) => (FailureKind::Unhealthy, format!("{error:#}")),
    }
}

/// Points `stable` to the version before.
pub(super) fn go_to(slots: &Slots, to: &Before) -> Result<()> {
    if let Some(build) = to.slot() {
        return slots.promote(build);
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
    Ok(())
}

async fn take(slots: &Slots) -> Result<Lock> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = slots.lock()? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            bail!("another updater is running");
        }
        sleep(TRIES).await;
    }
}
