//! The calls on targets.

use super::call::{Call, need, number};
use super::ec2_view::InstanceState;
use super::targets::Health;
use crate::ids::{Id as _, InstanceId, TargetGroupArn};
use crate::wire::{ApiError, Params, Xml};

/// A target as a request names it.
struct Named {
    id: InstanceId,
    port: Option<u16>,
}

fn named(params: &Params) -> Result<Vec<Named>, ApiError> {
    params
        .structs("Targets")
        .iter()
        .map(|target| {
            Ok(Named {
                id: InstanceId::unchecked(need(target, "Id")?),
                port: number(target, "Port", 1, u16::MAX)?,
            })
        })
        .collect()
}

fn needed(params: &Params) -> Result<Vec<Named>, ApiError> {
    let targets = named(params)?;
    if targets.is_empty() {
        return Err(ApiError::validation(
            "A value for Targets must be specified",
        ));
    }
    Ok(targets)
}

pub(super) fn register(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    let targets = needed(call.params)?;
    super::group_calls::find(call.state, &arn)?;
    for target in &targets {
        match call.ec2.instance_view(&target.id) {
            None => {
                return Err(ApiError::new(
                    "InvalidTarget",
                    format!(
                        "The following targets are not valid instances: '{}'",
                        target.id
                    ),
                ));
            }
            Some(machine) if machine.state != InstanceState::Running => {
                return Err(ApiError::new(
                    "InvalidTarget",
                    format!(
                        "The following targets are not in a running state and cannot be registered: '{}'",
                        target.id
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    let group = super::group_calls::find(call.state, &arn)?;
    for target in targets {
        group.register(&target.id, target.port.unwrap_or(group.port));
    }
    Ok(Xml::new())
}

pub(super) fn deregister(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    let targets = needed(call.params)?;
    let in_use = call.state.used_groups().contains(&arn);
    let now = call.now;
    let group = super::group_calls::find(call.state, &arn)?;
    for target in targets {
        group.deregister(&target.id, target.port, in_use, now);
    }
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    let asked = named(call.params)?;
    let in_use = call.state.used_groups().contains(&arn);
    let (ec2, now) = (&*call.ec2, call.now);
    let group = &*super::group_calls::find(call.state, &arn)?;
    let found: Vec<(InstanceId, u16, Health)> = if asked.is_empty() {
        group
            .targets
            .iter()
            .filter_map(|target| {
                let health = group.health(target, in_use, ec2, now)?;
                Some((target.id.clone(), target.port, health))
            })
            .collect()
    } else {
        asked
            .into_iter()
            .map(|named| {
                let port = named.port.unwrap_or(group.port);
                let health = group
                    .target(&named.id, port)
                    .and_then(|target| group.health(target, in_use, ec2, now))
                    .unwrap_or(Health::NotRegistered);
                (named.id, port, health)
            })
            .collect()
    };
    let mut xml = Xml::new();
    xml.list(
        "TargetHealthDescriptions",
        "member",
        found,
        |x, (id, port, health)| {
            x.node("Target", |x| {
                x.text("Id", id).text("Port", port);
            });
            x.text("HealthCheckPort", group.check_port.unwrap_or(port));
            x.node("TargetHealth", |x| {
                x.text("State", health.state());
                if let Some((code, description)) = health.reason() {
                    x.text("Reason", code).text("Description", description);
                }
            });
        },
    );
    Ok(xml)
}
