//! The calls on instance refreshes.

use instance_refresh::{InStandby, Protected, Refresh};
use jiff::SignedDuration;

use super::super::refresh_calls::StartRequest;
use super::call::{Call, flag, number, page, refuse_left_out};
use super::groups;
use super::shapes;
use crate::autoscaling::refresh_calls;
use crate::wire::{ApiError, Params, Xml};

/// How long AWS lists a refresh after it started.
const LISTED: SignedDuration = SignedDuration::from_hours(6 * 7 * 24);

pub(super) fn start(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let now = call.now;
    let asked = asked(call.params)?;
    let (group, environment) = call.group_and_environment()?;
    let id = refresh_calls::start(group, asked, environment, now)?;
    Ok(answer(&id))
}

pub(super) fn cancel(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let wait = flag(call.params, "WaitForTransitioningInstances")?.unwrap_or(true);
    let id = refresh_calls::cancel(call.group()?, wait)?;
    Ok(answer(&id))
}

pub(super) fn roll_back(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let (now, switches) = (call.now, call.state.switches.clone());
    let id = refresh_calls::roll_back(call.group()?, now, &switches)?;
    Ok(answer(&id))
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let ids = call.params.strings("InstanceRefreshIds");
    let (params, now) = (call.params, call.now);
    let group = call.group()?;
    // Newest first: the active one, if any, is the newest.
    let found: Vec<&Refresh> = group
        .refreshes
        .iter()
        .rev()
        .filter(|r| ids.is_empty() || ids.contains(&r.id))
        .filter(|r| r.status.is_active() || now.duration_since(r.started) < LISTED)
        .collect();
    let (found, next) = page(params, found, 50, 100)?;
    let mut xml = Xml::new();
    xml.list("InstanceRefreshes", "member", found, |x, refresh| {
        shapes::refresh(x, group.name.as_str(), refresh);
    })
    .maybe("NextToken", next);
    Ok(xml)
}

fn answer(id: &str) -> Xml {
    let mut xml = Xml::new();
    xml.text("InstanceRefreshId", id);
    xml
}

fn asked(params: &Params) -> Result<StartRequest, ApiError> {
    match params.text("Strategy") {
        None | Some("Rolling") => {}
        Some("ReplaceRootVolume") => {
            return Err(ApiError::validation(
                "The strategy ReplaceRootVolume is not part of the rehearsal cloud; see docs/fidelity.md",
            ));
        }
        Some(other) => {
            return Err(ApiError::validation(format!("Invalid strategy: {other}")));
        }
    }
    refuse_left_out(params, &["DesiredConfiguration.MixedInstancesPolicy"])?;
    let desired = params
        .structure("DesiredConfiguration")
        .structure("LaunchTemplate");
    let p = params.structure("Preferences");
    let checkpoints = p
        .list("CheckpointPercentages")
        .into_iter()
        .map(|text| {
            text.parse().map_err(|_| {
                ApiError::validation(format!(
                    "CheckpointPercentages must be whole numbers, not '{text}'"
                ))
            })
        })
        .collect::<Result<Vec<u32>, _>>()?;
    Ok(StartRequest {
        desired: if desired.is_empty() {
            None
        } else {
            Some(groups::read_template(&desired)?)
        },
        min: number(&p, "MinHealthyPercentage")?,
        max: number(&p, "MaxHealthyPercentage")?,
        warmup: number(&p, "InstanceWarmup")?,
        checkpoints,
        checkpoint_delay: number(&p, "CheckpointDelay")?,
        bake: number(&p, "BakeTime")?,
        skip_matching: flag(&p, "SkipMatching")?,
        auto_rollback: flag(&p, "AutoRollback")?,
        alarms: p.structure("AlarmSpecification").strings("Alarms"),
        protected: match p.text("ScaleInProtectedInstances") {
            None => None,
            Some("Refresh") => Some(Protected::Refresh),
            Some("Ignore") => Some(Protected::Ignore),
            Some("Wait") => Some(Protected::Wait),
            Some(other) => {
                return Err(enumeration(
                    "scaleInProtectedInstances",
                    other,
                    "Refresh, Ignore, Wait",
                ));
            }
        },
        standby: match p.text("StandbyInstances") {
            None => None,
            Some("Terminate") => Some(InStandby::Terminate),
            Some("Ignore") => Some(InStandby::Ignore),
            Some("Wait") => Some(InStandby::Wait),
            Some(other) => {
                return Err(enumeration(
                    "standbyInstances",
                    other,
                    "Terminate, Ignore, Wait",
                ));
            }
        },
    })
}

fn enumeration(field: &str, value: &str, choices: &str) -> ApiError {
    ApiError::validation(format!(
        "1 validation error detected: Value '{value}' at 'preferences.{field}' failed to satisfy constraint: Member must satisfy enum value set: [{choices}]"
    ))
}
