//! The calls on target groups.

use super::call::{
    Call, arn, check_name, left_out, number, page, read_attributes, write_attributes,
};
use super::groups::{HealthCheck, TargetGroup};
use super::state::State;
use super::tags;
use crate::ids::TargetGroupArn;
use crate::table::Series;
use crate::wire::{ApiError, Params, Xml, ids};

/// AWS's default for `deregistration_delay.timeout_seconds`.
const USUAL_DELAY: u32 = 300;
/// The attribute that sets how long targets drain.
const DELAY: &str = "deregistration_delay.timeout_seconds";

/// Attributes an application load balancer's target group has, with the only values they have here.
/// [`DELAY`] is not among them.
const FIXED_ATTRIBUTES: [(&str, &str); 12] = [
    ("load_balancing.algorithm.type", "round_robin"),
    ("load_balancing.algorithm.anomaly_mitigation", "off"),
    (
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
    ),
    ("slow_start.duration_seconds", "0"),
    ("stickiness.enabled", "false"),
    ("stickiness.type", "lb_cookie"),
    ("stickiness.lb_cookie.duration_seconds", "86400"),
    ("stickiness.app_cookie.cookie_name", ""),
    ("stickiness.app_cookie.duration_seconds", "86400"),
    (
        "target_group_health.dns_failover.minimum_healthy_targets.count",
        "1",
    ),
    (
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
        "1",
    ),
    (
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
        "off",
    ),
];

/// The target group of that ARN.
pub(super) fn find<'a>(
    state: &'a mut State,
    arn: &TargetGroupArn,
) -> Result<&'a mut TargetGroup, ApiError> {
    state.groups.get_mut(arn).ok_or_else(not_found)
}

fn not_found() -> ApiError {
    ApiError::new("TargetGroupNotFound", "One or more target groups not found")
}

pub(super) fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let name = call.need("Name")?.to_owned();
    check_name("Target group", &name)?;
    match params.text("TargetType").unwrap_or("instance") {
        "instance" => {}
        kind => return Err(left_out(&format!("TargetType {kind}"))),
    }
    match call.need("Protocol")? {
        "HTTP" => {}
        protocol => return Err(left_out(&format!("Protocol {protocol} of a target group"))),
    }
    for (field, only) in [("ProtocolVersion", "HTTP1"), ("IpAddressType", "ipv4")] {
        if let Some(value) = params.text(field).filter(|value| *value != only) {
            return Err(left_out(&format!("{field} {value}")));
        }
    }
    let port = number(params, "Port", 1, u16::MAX)?
        .ok_or_else(|| ApiError::validation("A port must be specified"))?;
    let vpc = params
        .text("VpcId")
        .ok_or_else(|| ApiError::validation("A VPC ID must be specified"))?;
    if *call.ec2.vpc() != vpc {
        return Err(ApiError::validation(format!(
            "The VPC ID '{vpc}' is not found"
        )));
    }
    let (check, check_port) = read_check(
        params,
        HealthCheck {
            path: "/".to_owned(),
            interval: 30,
            timeout: 5,
            healthy_after: 5,
            unhealthy_after: 2,
            matcher: "200".to_owned(),
        },
        None,
    )?;
    let tags = tags::read(params)?;
    let group = TargetGroup {
        arn: TargetGroupArn::new(arn(format_args!("targetgroup/{name}/{}", ids::hex(16)))),
        name,
        port,
        vpc: call.ec2.vpc().clone(),
        check,
        check_port,
        delay: USUAL_DELAY,
        targets: Series::default(),
    };
    if let Some(there) = call.state.groups.values().find(|g| g.name == group.name) {
        let same = TargetGroup {
            arn: there.arn.clone(),
            delay: there.delay,
            targets: there.targets.clone(),
            ..group
        };
        if *there == same {
            return Ok(shown(call.state, &[there], None));
        }
        return Err(ApiError::new(
            "DuplicateTargetGroupName",
            format!(
                "A target group with the same name '{}' exists, but with different settings",
                there.name
            ),
        ));
    }
    let answer = shown(call.state, &[&group], None);
    call.state.tags.insert(group.arn.to_string(), tags);
    call.state.groups.insert(group.arn.clone(), group);
    Ok(answer)
}

pub(super) fn modify(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    let params = call.params;
    let group = find(call.state, &arn)?;
    (group.check, group.check_port) = read_check(params, group.check.clone(), group.check_port)?;
    let group = group.clone();
    Ok(shown(call.state, &[&group], None))
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    if call.state.used_groups().contains(&arn) {
        return Err(ApiError::new(
            "ResourceInUse",
            format!("Target group '{arn}' is currently in use by a listener or a rule"),
        ));
    }
    // Deleting an unknown group succeeds, as on AWS.
    call.state.groups.remove(&arn);
    call.state.tags.remove(arn.as_str());
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let (arns, names) = (params.list("TargetGroupArns"), params.list("Names"));
    let balancer = params.text("LoadBalancerArn");
    let ways = [!arns.is_empty(), !names.is_empty(), balancer.is_some()];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        return Err(ApiError::validation(
            "Only one of target group ARNs, names or a load balancer ARN can be specified",
        ));
    }
    let state = &*call.state;
    for wanted in &arns {
        state.groups.get(*wanted).ok_or_else(not_found)?;
    }
    for wanted in &names {
        if !state.groups.values().any(|group| group.name == *wanted) {
            return Err(not_found());
        }
    }
    if let Some(balancer) = balancer {
        super::balancer_calls::find(state, balancer)?;
    }
    let mut found: Vec<&TargetGroup> = state
        .groups
        .values()
        .filter(|group| arns.is_empty() || arns.contains(&group.arn.as_str()))
        .filter(|group| names.is_empty() || names.contains(&group.name.as_str()))
        .filter(|group| {
            balancer.is_none_or(|balancer| balancers_of(state, group).contains(&balancer))
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let (found, next) = page(params, found)?;
    Ok(shown(state, &found, next))
}

pub(super) fn describe_attributes(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    let group = find(call.state, &arn)?;
    Ok(attributes(group))
}

pub(super) fn modify_attributes(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = TargetGroupArn::new(call.need("TargetGroupArn")?);
    let wanted = read_attributes(call.params)?;
    let group = find(call.state, &arn)?;
    let mut delay = group.delay;
    for (key, value) in wanted {
        if key == DELAY {
            delay = value
                .parse()
                .ok()
                .filter(|seconds| *seconds <= 3600)
                .ok_or_else(|| {
                    ApiError::validation(format!(
                        "'{key}' value '{value}' must be between '0-3600' inclusive"
                    ))
                })?;
        } else {
            match FIXED_ATTRIBUTES.iter().find(|(known, _)| *known == key) {
                None => {
                    return Err(ApiError::validation(format!(
                        "Target group attribute key '{key}' is not recognized"
                    )));
                }
                Some((_, only)) if *only == value => {}
                Some(_) => return Err(left_out(&format!("{key} '{value}'"))),
            }
        }
    }
    group.delay = delay;
    Ok(attributes(group))
}

fn attributes(group: &TargetGroup) -> Xml {
    let delay = group.delay.to_string();
    let all = FIXED_ATTRIBUTES
        .into_iter()
        .chain([(DELAY, delay.as_str())]);
    write_attributes(all)
}

/// Reads the settings of a health check over what they were.
fn read_check(
    params: &Params,
    was: HealthCheck,
    port_was: Option<u16>,
) -> Result<(HealthCheck, Option<u16>), ApiError> {
    match params.text("HealthCheckProtocol") {
        None | Some("HTTP") => {}
        Some(protocol) => return Err(left_out(&format!("HealthCheckProtocol {protocol}"))),
    }
    if params.text("HealthCheckEnabled") == Some("false") {
        return Err(ApiError::validation(
            "Health check enabled must be true for target groups with target type 'instance'",
        ));
    }
    if params.has("Matcher.GrpcCode") {
        return Err(left_out("Matcher GrpcCode"));
    }
    let port = match params.text("HealthCheckPort") {
        None => port_was,
        Some("traffic-port") => None,
        Some(_) => number(params, "HealthCheckPort", 1, u16::MAX)?,
    };
    let path = params.string("HealthCheckPath").unwrap_or(was.path);
    if !path.starts_with('/') || path.len() > 1024 {
        return Err(ApiError::validation(format!(
            "Health check path '{path}' must begin with a '/' character and be at most 1024 characters long"
        )));
    }
    let matcher = params.string("Matcher.HttpCode").unwrap_or(was.matcher);
    if !is_matcher(&matcher) {
        return Err(ApiError::validation(format!(
            "Health check matcher HTTP code '{matcher}' must be within '200-499' inclusive"
        )));
    }
    let check = HealthCheck {
        path,
        interval: number(params, "HealthCheckIntervalSeconds", 5, 300)?.unwrap_or(was.interval),
        timeout: number(params, "HealthCheckTimeoutSeconds", 2, 120)?.unwrap_or(was.timeout),
        healthy_after: number(params, "HealthyThresholdCount", 2, 10)?.unwrap_or(was.healthy_after),
        unhealthy_after: number(params, "UnhealthyThresholdCount", 2, 10)?
            .unwrap_or(was.unhealthy_after),
        matcher,
    };
    if check.timeout >= check.interval {
        return Err(ApiError::validation(format!(
            "Health check timeout '{}' must be smaller than the interval '{}'",
            check.timeout, check.interval
        )));
    }
    Ok((check, port))
}

/// Whether it is `200`, `200,202`, `200-299` or a mix of these.
fn is_matcher(text: &str) -> bool {
    let code = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|code| (200..=499).contains(code))
    };
    text.split(',').all(|part| match part.split_once('-') {
        None => code(part).is_some(),
        Some((from, to)) => {
            matches!((code(from), code(to)), (Some(from), Some(to)) if from <= to)
        }
    })
}

fn balancers_of<'a>(state: &'a State, group: &TargetGroup) -> Vec<&'a str> {
    let mut arns: Vec<&str> = state
        .listeners
        .values()
        .filter(|listener| listener.target_group == group.arn)
        .map(|listener| listener.balancer.as_str())
        .collect();
    arns.dedup();
    arns
}

fn shown(state: &State, groups: &[&TargetGroup], next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    xml.list("TargetGroups", "member", groups, |x, group| {
        x.text("TargetGroupArn", &group.arn)
            .text("TargetGroupName", &group.name)
            .text("Protocol", "HTTP")
            .text("Port", group.port)
            .text("VpcId", &group.vpc)
            .text("HealthCheckProtocol", "HTTP");
        match group.check_port {
            Some(port) => x.text("HealthCheckPort", port),
            None => x.text("HealthCheckPort", "traffic-port"),
        };
        x.text("HealthCheckEnabled", true)
            .text("HealthCheckIntervalSeconds", group.check.interval)
            .text("HealthCheckTimeoutSeconds", group.check.timeout)
            .text("HealthyThresholdCount", group.check.healthy_after)
            .text("UnhealthyThresholdCount", group.check.unhealthy_after)
            .text("HealthCheckPath", &group.check.path)
            .node("Matcher", |x| {
                x.text("HttpCode", &group.check.matcher);
            })
            .texts("LoadBalancerArns", "member", balancers_of(state, group))
            .text("TargetType", "instance")
            .text("ProtocolVersion", "HTTP1")
            .text("IpAddressType", "ipv4");
    })
    .maybe("NextMarker", next);
    xml
}
