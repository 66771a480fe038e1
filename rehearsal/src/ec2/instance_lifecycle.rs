//! How instances change their state: start, stop, reboot and terminate calls, and what follows from a termination.
//! Calls only record the wanted state; `machines.rs` carries it out.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::State;
use super::instance_views::write_state;
use super::instances::{Instance, Phase, Reason, not_found};
use super::tags;
use crate::ids::{Id as _, InstanceId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml};

/// The ids of the instances in a call, or the error that some do not exist.
pub(super) fn wanted(state: &State, params: &Params) -> Result<Vec<InstanceId>, ApiError> {
    let ids = InstanceId::list(params, "InstanceId")?;
    if ids.is_empty() {
        return Err(ApiError::missing("InstanceId"));
    }
    let mut missing = Vec::new();
    for id in &ids {
        if !state.instances.contains_key(id) {
            missing.push(id.as_str());
        }
    }
    if missing.is_empty() {
        Ok(ids)
    } else {
        Err(not_found(&missing))
    }
}

/// Changes the state of instances, and writes the old and the new one.
fn moved(state: &mut State, ids: Vec<InstanceId>, step: impl Fn(&mut State, &InstanceId)) -> Xml {
    let mut changes = Vec::new();
    for id in ids {
        let before = state.instances.get(&id).map(|instance| instance.phase);
        step(state, &id);
        let after = state.instances.get(&id).map(|instance| instance.phase);
        changes.extend(before.zip(after).map(|(before, after)| (id, before, after)));
    }
    let mut xml = Xml::new();
    xml.list("instancesSet", "item", changes, |x, (id, before, after)| {
        x.text("instanceId", id);
        write_state(x, "currentState", after);
        write_state(x, "previousState", before);
    });
    xml
}

fn refused(instance: &Instance, verb: &str) -> ApiError {
    ApiError::new(
        "IncorrectInstanceState",
        format!(
            "The instance '{}' is not in a state from which it can be {verb}: {}.",
            instance.id,
            instance.phase.name()
        ),
    )
}

/// StartInstances.
pub(crate) fn start(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let ids = wanted(state, params)?;
    for id in &ids {
        let instance = state.instance(id)?;
        if !matches!(
            instance.phase,
            Phase::Stopped | Phase::Running | Phase::Pending
        ) {
            return Err(refused(instance, "started"));
        }
    }
    Ok(moved(state, ids, |state, id| {
        if let Some(instance) = state.instances.get_mut(id)
            && instance.phase == Phase::Stopped
        {
            instance.launched = ctx.now;
            instance.forced = false;
            instance.fault = None;
            instance.enter(Phase::Pending, None, ctx.now);
        }
    }))
}

/// StopInstances.
pub(crate) fn stop(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let ids = wanted(state, params)?;
    let force = params.boolean("Force")? == Some(true);
    for id in &ids {
        let instance = state.instance(id)?;
        if matches!(instance.phase, Phase::ShuttingDown | Phase::Terminated) {
            return Err(refused(instance, "stopped"));
        }
        if instance.spot().is_some() {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!(
                    "You can't stop the Spot Instance '{id}' because it is associated with a one-time Spot Instance request. \
                     You can only stop Spot Instances associated with persistent Spot Instance requests."
                ),
            ));
        }
        if instance.stop_protected {
            return Err(ApiError::new(
                "OperationNotPermitted",
                format!(
                    "The instance '{id}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again."
                ),
            ));
        }
    }
    Ok(moved(state, ids, |state, id| {
        if let Some(instance) = state.instances.get_mut(id) {
            instance.forced |= force;
            if matches!(instance.phase, Phase::Running | Phase::Pending) {
                instance.reboots = false;
                instance.enter(Phase::Stopping, Some(Reason::user()), ctx.now);
            }
        }
    }))
}

/// RebootInstances.
pub(crate) fn reboot(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let ids = wanted(state, params)?;
    for id in &ids {
        let instance = state.instance(id)?;
        if instance.phase != Phase::Running {
            return Err(refused(instance, "rebooted"));
        }
    }
    for id in ids {
        if let Some(instance) = state.instances.get_mut(&id) {
            instance.reboots = true;
        }
    }
    Ok(tags::done())
}

/// TerminateInstances.
pub(crate) fn terminate(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let ids = wanted(state, params)?;
    for id in &ids {
        if state.instance(id)?.protected {
            return Err(ApiError::new(
                "OperationNotPermitted",
                format!(
                    "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
                ),
            ));
        }
    }
    Ok(moved(state, ids, |state, id| state.terminate(id, ctx.now)))
}

/// How long EC2 shows a terminated instance.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

impl State {
    /// The instance of that id.
    ///
    /// # Errors
    /// `InvalidInstanceID.NotFound`, `InvalidInstanceID.Malformed`.
    pub(crate) fn instance(&self, id: &InstanceId) -> Result<&Instance, ApiError> {
        self.instances
            .get(id)
            .ok_or_else(|| not_found(&[id.as_str()]))
    }

    /// Begins to terminate an instance; may be repeated.
    pub(crate) fn terminate(&mut self, id: &InstanceId, now: Timestamp) {
        self.shut_down(id, Reason::user(), now);
    }

    /// Terminates an instance as Spot does when it needs the capacity.
    pub(crate) fn reclaim(&mut self, id: &InstanceId, now: Timestamp) {
        self.shut_down(id, Reason::spot(), now);
    }

    fn shut_down(&mut self, id: &InstanceId, why: Reason, now: Timestamp) {
        if let Some(instance) = self.instances.get_mut(id)
            && !matches!(instance.phase, Phase::Terminated | Phase::ShuttingDown)
        {
            instance.reboots = false;
            instance.enter(Phase::ShuttingDown, Some(why), now);
        }
    }

    /// Its machine has ended for good: marks it terminated, and deletes or detaches its volumes.
    pub(crate) fn finish_termination(
        &mut self,
        id: &InstanceId,
        reason: Option<Reason>,
        now: Timestamp,
    ) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let reason = reason.or(instance.reason.take());
        instance.enter(Phase::Terminated, reason, now);
        let (mut missing, mut left) = (Vec::new(), Vec::new());
        for (volume, attachment) in self.volumes_of(id) {
            if attachment.delete_on_termination {
                &mut missing
            } else {
                &mut left
            }
            .push(volume.id.clone());
        }
        for volume in missing {
            self.drop_volume(&volume);
        }
        for volume in left {
            self.volumes.detach(&volume);
        }
        self.release_interface(id);
    }
}

/// Removes instances that have been terminated for an hour.
pub(crate) fn tick(state: &mut State, now: Timestamp) {
    let forgotten: BTreeSet<InstanceId> = state
        .instances
        .values()
        .filter(|instance| !instance.is_alive() && now.duration_since(instance.since) > REMEMBERED)
        .map(|instance| instance.id.clone())
        .collect();
    for id in &forgotten {
        let instance = state.instances.remove(id);
        if let Some(request) = instance.and_then(|instance| instance.spot) {
            state.tags.remove(request.id.as_str());
        }
        state.tags.remove(id.as_str());
        state.discarded.insert(id.to_string(), ());
    }
    if !forgotten.is_empty() {
        state
            .tokens
            .remove_where(|_, used| used.made.iter().all(|id| forgotten.contains(id.as_str())));
    }
}
