//! The calls on load balancers.

use std::collections::BTreeMap;

use super::balancers::LoadBalancer;
use super::call::{Call, arn, check_name, left_out, page, read_attributes, write_attributes};
use super::state::State;
use super::tags;
use crate::ids::{BalancerArn, Id as _, ListenerArn, SubnetId};
use crate::wire::{ApiError, Xml, ids, iso};

/// The hosted zone of every load balancer in us-east-1.
const HOSTED_ZONE: &str = "Z35SXDOTRQ7X7K";
/// The attribute that keeps a load balancer from being deleted.
const PROTECTION: &str = "deletion_protection.enabled";

/// Attributes an application load balancer has, with their defaults; only [`PROTECTION`] can be set
/// to anything else here.
const ATTRIBUTES: [(&str, &str); 16] = [
    ("access_logs.s3.bucket", ""),
    ("access_logs.s3.enabled", "false"),
    ("access_logs.s3.prefix", ""),
    ("client_keep_alive.seconds", "3600"),
    ("connection_logs.s3.bucket", ""),
    ("connection_logs.s3.enabled", "false"),
    ("connection_logs.s3.prefix", ""),
    (PROTECTION, "false"),
    ("idle_timeout.timeout_seconds", "60"),
    ("load_balancing.cross_zone.enabled", "true"),
    ("routing.http.desync_mitigation_mode", "defensive"),
    ("routing.http.drop_invalid_header_fields.enabled", "false"),
    ("routing.http.preserve_host_header.enabled", "false"),
    (
        "routing.http.x_amzn_tls_version_and_cipher_suite.enabled",
        "false",
    ),
    ("routing.http.xff_client_port.enabled", "false"),
    ("routing.http2.enabled", "true"),
];

/// The load balancer of that ARN.
pub(super) fn find<'a>(state: &'a State, arn: &str) -> Result<&'a LoadBalancer, ApiError> {
    state.balancers.get(arn).ok_or_else(not_found)
}

fn not_found() -> ApiError {
    ApiError::new(
        "LoadBalancerNotFound",
        "One or more load balancers not found",
    )
}

pub(super) fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let name = call.need("Name")?.to_owned();
    check_name("Load balancer", &name)?;
    match params.text("Type").unwrap_or("application") {
        "application" => {}
        kind => return Err(left_out(&format!("Type {kind} of a load balancer"))),
    }
    if let Some(kind) = params.text("IpAddressType").filter(|kind| *kind != "ipv4") {
        return Err(left_out(&format!("IpAddressType {kind}")));
    }
    let scheme = params.text("Scheme").unwrap_or("internet-facing");
    if !["internet-facing", "internal"].contains(&scheme) {
        return Err(ApiError::validation(format!(
            "'{scheme}' is not a valid scheme"
        )));
    }
    let mut named = params.strings("Subnets");
    named.extend(
        params
            .structs("SubnetMappings")
            .iter()
            .filter_map(|mapping| mapping.string("SubnetId")),
    );
    let mut subnets = BTreeMap::new();
    for subnet in named.into_iter().map(SubnetId::unchecked) {
        let zone = call.ec2.subnet_zone(&subnet).ok_or_else(|| {
            ApiError::new(
                "SubnetNotFound",
                format!("The subnet ID '{subnet}' does not exist"),
            )
        })?;
        if subnets.values().any(|taken| *taken == zone) {
            return Err(ApiError::new(
                "InvalidConfigurationRequest",
                format!(
                    "A load balancer cannot be attached to multiple subnets in the same Availability Zone ({zone})"
                ),
            ));
        }
        subnets.insert(subnet, zone);
    }
    if subnets.len() < 2 {
        return Err(ApiError::validation(
            "At least two subnets in two different Availability Zones must be specified",
        ));
    }
    let security_groups = params.strings("SecurityGroups");
    let tags = tags::read(params)?;
    if let Some(there) = call.state.balancers.values().find(|b| b.name == name) {
        if there.scheme == scheme
            && there.subnets == subnets
            && there.security_groups == security_groups
        {
            return Ok(shown(&[there], "active", None));
        }
        return Err(ApiError::new(
            "DuplicateLoadBalancerName",
            format!(
                "A load balancer with the same name '{name}' exists, but with different settings"
            ),
        ));
    }
    let balancer = LoadBalancer {
        arn: BalancerArn::new(arn(format_args!(
            "loadbalancer/app/{name}/{}",
            ids::hex(16)
        ))),
        name,
        address: call.ec2.balancer_address(),
        scheme: scheme.to_owned(),
        vpc: call.ec2.vpc().clone(),
        created: call.now,
        subnets,
        security_groups,
        attributes: BTreeMap::new(),
    };
    let answer = shown(&[&balancer], "provisioning", None);
    call.state.tags.insert(balancer.arn.to_string(), tags);
    call.state.balancers.insert(balancer.arn.clone(), balancer);
    Ok(answer)
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = BalancerArn::new(call.need("LoadBalancerArn")?);
    let Some(balancer) = call.state.balancers.get(&arn) else {
        // Deleting an unknown load balancer succeeds, as on AWS.
        return Ok(Xml::new());
    };
    if balancer.attributes.get(PROTECTION).map(String::as_str) == Some("true") {
        return Err(ApiError::new(
            "OperationNotPermitted",
            format!(
                "Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
            ),
        ));
    }
    call.state.balancers.remove(&arn);
    call.state.tags.remove(arn.as_str());
    let of_it: Vec<ListenerArn> = call
        .state
        .listeners
        .values()
        .filter(|listener| listener.balancer == arn)
        .map(|listener| listener.arn.clone())
        .collect();
    for listener in of_it {
        call.state.listeners.remove(&listener);
        call.state.tags.remove(listener.as_str());
    }
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let (arns, names) = (params.list("LoadBalancerArns"), params.list("Names"));
    if !arns.is_empty() && !names.is_empty() {
        return Err(ApiError::validation(
            "Load balancer names and load balancer ARNs cannot be specified at the same time",
        ));
    }
    let state = &*call.state;
    for wanted in &arns {
        find(state, wanted)?;
    }
    for wanted in &names {
        if !state.balancers.values().any(|b| b.name == *wanted) {
            return Err(not_found());
        }
    }
    let mut found: Vec<&LoadBalancer> = state
        .balancers
        .values()
        .filter(|b| arns.is_empty() || arns.contains(&b.arn.as_str()))
        .filter(|b| names.is_empty() || names.contains(&b.name.as_str()))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let (found, next) = page(params, found)?;
    Ok(shown(&found, "active", next))
}

pub(super) fn describe_attributes(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let balancer = find(call.state, call.need("LoadBalancerArn")?)?;
    Ok(attributes(balancer))
}

pub(super) fn modify_attributes(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = BalancerArn::new(call.need("LoadBalancerArn")?);
    let wanted = read_attributes(call.params)?;
    let balancer = call.state.balancers.get_mut(&arn).ok_or_else(not_found)?;
    for (key, value) in &wanted {
        let Some((_, usual)) = ATTRIBUTES.iter().find(|(known, _)| known == key) else {
            return Err(ApiError::validation(format!(
                "Load balancer attribute key '{key}' is not recognized"
            )));
        };
        if key == PROTECTION && !["true", "false"].contains(&value.as_str()) {
            return Err(ApiError::validation(format!(
                "'{key}' value '{value}' must be 'true' or 'false'"
            )));
        }
        if key != PROTECTION && value != usual {
            return Err(left_out(&format!("{key} '{value}'")));
        }
    }
    balancer.attributes.extend(wanted);
    Ok(attributes(balancer))
}

fn attributes(balancer: &LoadBalancer) -> Xml {
    write_attributes(ATTRIBUTES.iter().map(|(key, usual)| {
        let set = balancer.attributes.get(*key);
        (*key, set.map_or(*usual, String::as_str))
    }))
}

fn shown(balancers: &[&LoadBalancer], state: &str, next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    xml.list("LoadBalancers", "member", balancers, |x, balancer| {
        x.text("LoadBalancerArn", &balancer.arn)
            .text("DNSName", balancer.address)
            .text("CanonicalHostedZoneId", HOSTED_ZONE)
            .text("CreatedTime", iso(balancer.created))
            .text("LoadBalancerName", &balancer.name)
            .text("Scheme", &balancer.scheme)
            .text("VpcId", &balancer.vpc)
            .node("State", |x| {
                x.text("Code", state);
            })
            .text("Type", "application")
            .list(
                "AvailabilityZones",
                "member",
                &balancer.subnets,
                |x, (subnet, zone)| {
                    x.text("ZoneName", zone)
                        .text("SubnetId", subnet)
                        .text("LoadBalancerAddresses", "");
                },
            )
            .texts("SecurityGroups", "member", &balancer.security_groups)
            .text("IpAddressType", "ipv4");
    })
    .maybe("NextMarker", next);
    xml
}
