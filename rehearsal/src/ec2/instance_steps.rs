//! Instances as callers steer them: start, stop, reboot, terminate. Each only writes down what is wanted; `machines.rs`
//! makes it so.

use super::State;
use super::instance_views::write_state;
use super::instances::{Instance, Phase, Reason, check_id, not_found};
use super::tags;
use crate::cloud::RequestContext;
use crate::wire::{ApiError, Params, Xml};

/// The instances a call is about, or the error that one of them is not there.
pub(super) fn wanted(state: &State, params: &Params) -> Result<Vec<String>, ApiError> {
    let ids = params.strings("InstanceId");
    if ids.is_empty() {
        return Err(ApiError::missing("InstanceId"));
    }
    let mut gone = Vec::new();
    for id in &ids {
        check_id(id)?;
        if !state.instances.contains_key(id) {
            gone.push(id.as_str());
        }
    }
    if gone.is_empty() {
        Ok(ids)
    } else {
        Err(not_found(&gone))
    }
}

/// Moves instances on and says from where to where.
fn moved(state: &mut State, ids: Vec<String>, step: impl Fn(&mut State, &str)) -> Xml {
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
