//! The calls on CPU credits.

use super::State;
use super::cpu::{Credits, not_burstable};
use super::instances::{Instance, Phase, not_found};
use super::select::{CallSpec, Describe, one};
use crate::ids::{Id as _, InstanceId};
use crate::wire::{ApiError, Params, Xml};

pub(super) const CREDITS: CallSpec = CallSpec {
    ids: "InstanceId",
    filters: &["instance-id"],
    ..CallSpec::USUAL
};

/// DescribeInstanceCreditSpecifications: of the instances that are named, else of those that are `unlimited`. One that
/// is
/// not burstable is `standard`
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceCreditSpecifications.html>).
pub(crate) fn describe_credits(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let named = InstanceId::list(params, "InstanceId")?;
    let credits = |instance: &Instance| instance.credits.unwrap_or(Credits::Standard);
    let chosen = Describe::new(params, &state.tags, &CREDITS).choose_where(
        &state.instances,
        |instance| !named.is_empty() || credits(instance) == Credits::Unlimited,
        not_found,
        |instance, name| match name {
            "instance-id" => one(&instance.id),
            _ => None,
        },
    )?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "instanceCreditSpecificationSet", |x, instance| {
        x.text("instanceId", &instance.id)
            .text("cpuCredits", credits(instance).name());
    });
    Ok(xml)
}

/// ModifyInstanceCreditSpecification: reports the result for each instance
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyInstanceCreditSpecification.html>).
pub(crate) fn modify_credits(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let wanted = params.structs("InstanceCreditSpecification");
    if wanted.is_empty() {
        return Err(ApiError::missing("InstanceCreditSpecification"));
    }
    let mut changes = Vec::new();
    for one in wanted {
        let credits = Credits::read(one.required("CpuCredits")?)?;
        changes.push((one.required("InstanceId")?.to_owned(), credits));
    }
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for (id, credits) in changes {
        match modify(state, &id, credits) {
            Ok(()) => done.push(id),
            Err(error) => refused.push((id, error)),
        }
    }
    let mut xml = Xml::new();
    xml.list(
        "successfulInstanceCreditSpecificationSet",
        "item",
        done,
        |x, id| {
            x.text("instanceId", id);
        },
    )
    .list(
        "unsuccessfulInstanceCreditSpecificationSet",
        "item",
        refused,
        |x, (id, error)| {
            x.text("instanceId", id).node("error", |x| {
                x.text("code", &error.code).text("message", &error.message);
            });
        },
    );
    Ok(xml)
}

fn modify(state: &mut State, id: &str, credits: Credits) -> Result<(), ApiError> {
    let instance = state.instance(&InstanceId::parse(id)?)?;
    let kind = super::instance_types::find(&instance.kind)?;
    if !kind.burstable() {
        return Err(not_burstable(kind.name));
    }
    if !matches!(instance.phase, Phase::Running | Phase::Stopped) {
        return Err(ApiError::new(
            "IncorrectInstanceState",
            format!("The instance '{id}' is not in the 'running' or 'stopped' state."),
        ));
    }
    if let Some(instance) = state.instances.get_mut(id) {
        instance.credits = Some(credits);
    }
    Ok(())
}
