//! The calls on security groups.

use std::collections::BTreeSet;

use super::State;
use super::security_groups::{Direction, Peer, Rule, SecurityGroup, everything};
use super::select::{CallSpec, Describe, absent, one};
use super::tags;
use crate::account::{ACCOUNT, REGION};
use crate::ids::{Id as _, SecurityGroupId};
use crate::wire::{ApiError, Params, Xml, ids};

impl State {
    /// The group of that id.
    ///
    /// # Errors
    /// `InvalidGroup.NotFound`.
    pub(crate) fn group(&self, id: &SecurityGroupId) -> Result<&SecurityGroup, ApiError> {
        self.groups.get(id).ok_or_else(|| not_found(&[id.as_str()]))
    }

    /// The VPC's default group, created on first use.
    pub(crate) fn default_group(&mut self) -> SecurityGroupId {
        if let Some(group) = self.groups.values().find(|group| group.name == "default") {
            return group.id.clone();
        }
        let id = SecurityGroupId::fresh();
        let group = SecurityGroup {
            id: id.clone(),
            name: "default".to_owned(),
            description: "default VPC security group".to_owned(),
            ingress: [Rule {
                peer: Peer::Group(id.clone()),
                ..everything()
            }]
            .into(),
            egress: [everything()].into(),
        };
        self.groups.insert(id.clone(), group);
        id
    }
}

fn not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidGroup.NotFound",
        absent("security group", "security groups", ids),
    )
}

pub(super) const TAKES: CallSpec = CallSpec {
    ids: "GroupId",
    filters: &[
        "description",
        "egress.ip-permission.cidr",
        "egress.ip-permission.from-port",
        "egress.ip-permission.group-id",
        "egress.ip-permission.group-name",
        "egress.ip-permission.ipv6-cidr",
        "egress.ip-permission.protocol",
        "egress.ip-permission.to-port",
        "egress.ip-permission.user-id",
        "group-id",
        "group-name",
        "ip-permission.cidr",
        "ip-permission.from-port",
        "ip-permission.group-id",
        "ip-permission.group-name",
        "ip-permission.ipv6-cidr",
        "ip-permission.protocol",
        "ip-permission.to-port",
        "ip-permission.user-id",
        "owner-id",
        "vpc-id",
    ],
    absent: &[
        "egress.ip-permission.prefix-list-id",
        "ip-permission.prefix-list-id",
    ],
    tags: true,
    ..CallSpec::USUAL
};

/// The values of a group's rules for a filter `ip-permission.…` or `egress.ip-permission.…`.
fn rule_field(state: &State, group: &SecurityGroup, name: &str) -> Option<Vec<String>> {
    let (rules, name) = match name.strip_prefix("egress.") {
        Some(name) => (&group.egress, name),
        None => (&group.ingress, name),
    };
    let name = name.strip_prefix("ip-permission.")?;
    let value = |rule: &Rule| match (name, &rule.peer) {
        ("from-port", _) => rule.from.map(|port| port.to_string()),
        ("to-port", _) => rule.to.map(|port| port.to_string()),
        ("protocol", _) => Some(rule.protocol.clone()),
        ("cidr", Peer::Cidr(cidr)) | ("ipv6-cidr", Peer::Cidr6(cidr)) => Some(cidr.clone()),
        ("group-id", Peer::Group(id)) => Some(id.to_string()),
        ("group-name", Peer::Group(id)) => state.groups.get(id).map(|peer| peer.name.clone()),
        ("user-id", Peer::Group(_)) => Some(ACCOUNT.to_owned()),
        _ => None,
    };
    Some(rules.iter().filter_map(value).collect())
}

/// CreateSecurityGroup.
pub(crate) fn create(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    state.default_group();
    let name = params.required("GroupName")?;
    let description = params.required("GroupDescription")?;
    if let Some(vpc) = params.text("VpcId") {
        state.network.check_vpc(vpc)?;
    }
    if name.starts_with("sg-") || name.len() > 255 {
        return Err(ApiError::invalid_value(
            "groupName",
            name,
            "Group names may not be in the format sg-*.",
        ));
    }
    if state.groups.values().any(|group| group.name == name) {
        return Err(ApiError::new(
            "InvalidGroup.Duplicate",
            format!(
                "The security group '{name}' already exists for VPC '{}'",
                state.network.vpc
            ),
        ));
    }
    tags::check_kinds(params, &["security-group"])?;
    let tags = tags::specified(params, "security-group")?;
    let id = SecurityGroupId::fresh();
    let group = SecurityGroup {
        id: id.clone(),
        name: name.to_owned(),
        description: description.to_owned(),
        ingress: BTreeSet::new(),
        egress: [everything()].into(),
    };
    state.groups.insert(id.clone(), group);
    state.tag(&id, tags);
    let mut xml = tags::done();
    xml.text("groupId", &id).text("securityGroupArn", arn(&id));
    tags::write(&mut xml, state.tags.get(id.as_str()));
    Ok(xml)
}

/// DeleteSecurityGroup.
pub(crate) fn delete(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = named(state, params)?;
    let group = state.group(&id)?;
    if group.name == "default" {
        return Err(ApiError::new(
            "CannotDelete",
            format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user"),
        ));
    }
    let used = state
        .instances
        .values()
        .any(|instance| instance.is_alive() && instance.groups.contains(&id))
        || state
            .interfaces
            .values()
            .any(|left| left.groups.contains(&id));
    let referred = state.groups.values().any(|other| {
        other.id != id
            && other
                .ingress
                .iter()
                .chain(&other.egress)
                .any(|rule| rule.peer == Peer::Group(id.clone()))
    });
    if used || referred {
        return Err(ApiError::new(
            "DependencyViolation",
            format!("resource {id} has a dependent object"),
        ));
    }
    state.groups.remove(&id);
    state.tags.remove(id.as_str());
    let mut xml = tags::done();
    xml.text("groupId", id);
    Ok(xml)
}

/// DescribeSecurityGroups.
pub(crate) fn describe(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    state.default_group();
    let vpc = &state.network.vpc;
    let mut describe = Describe::new(params, &state.tags, &TAKES);
    for name in params.list("GroupName") {
        let group = state
            .groups
            .values()
            .find(|group| group.name == name)
            .ok_or_else(|| not_found(&[name]))?;
        describe.wanted.push(group.id.as_str());
    }
    let chosen = describe.choose(&state.groups, not_found, |group, name| match name {
        "group-id" => one(&group.id),
        "group-name" => one(&group.name),
        "description" => one(&group.description),
        "vpc-id" => one(vpc),
        "owner-id" => one(ACCOUNT),
        name => rule_field(state, group, name),
    })?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "securityGroupInfo", |x, group| {
        x.text("ownerId", ACCOUNT)
            .text("groupId", &group.id)
            .text("groupName", &group.name)
            .text("groupDescription", &group.description)
            .text("vpcId", vpc)
            .text("securityGroupArn", arn(&group.id));
        write_rules(x, "ipPermissions", &group.ingress);
        write_rules(x, "ipPermissionsEgress", &group.egress);
        tags::write(x, state.tags.get(group.id.as_str()));
    });
    Ok(xml)
}

/// AuthorizeSecurityGroupIngress and …Egress.
pub(crate) fn authorize(
    state: &mut State,
    params: &Params,
    way: Direction,
) -> Result<Xml, ApiError> {
    let id = named(state, params)?;
    let rules = read_rules(state, params)?;
    let group = state
        .groups
        .get_mut(&id)
        .ok_or_else(|| not_found(&[id.as_str()]))?;
    let has = group.rules(way);
    if let Some(rule) = rules
        .iter()
        .find(|rule| has.iter().any(|old| same(old, rule)))
    {
        let peer = match &rule.peer {
            Peer::Cidr(peer) | Peer::Cidr6(peer) => peer,
            Peer::Group(peer) => peer.as_str(),
        };
        return Err(ApiError::new(
            "InvalidPermission.Duplicate",
            format!(
                "the specified rule \"peer: {peer}, {}, from port: {}, to port: {}, ALLOW\" already exists",
                rule.protocol,
                rule.from.unwrap_or(-1),
                rule.to.unwrap_or(-1)
            ),
        ));
    }
    has.extend(rules.iter().cloned());
    let mut xml = tags::done();
    xml.list("securityGroupRuleSet", "item", &rules, |x, rule| {
        x.text("securityGroupRuleId", ids::resource("sgr"))
            .text("groupId", &id)
            .text("groupOwnerId", ACCOUNT)
            .text("isEgress", way == Direction::Egress)
            .text("ipProtocol", &rule.protocol)
            .text("fromPort", rule.from.unwrap_or(-1))
            .text("toPort", rule.to.unwrap_or(-1))
            .maybe("description", rule.description.as_ref());
        match &rule.peer {
            Peer::Cidr(cidr) => x.text("cidrIpv4", cidr),
            Peer::Cidr6(cidr) => x.text("cidrIpv6", cidr),
            Peer::Group(group) => x.node("referencedGroupInfo", |x| {
                x.text("groupId", group).text("userId", ACCOUNT);
            }),
        };
    });
    Ok(xml)
}

/// RevokeSecurityGroupIngress and …Egress.
pub(crate) fn revoke(state: &mut State, params: &Params, way: Direction) -> Result<Xml, ApiError> {
    let id = named(state, params)?;
    let rules = read_rules(state, params)?;
    let group = state
        .groups
        .get_mut(&id)
        .ok_or_else(|| not_found(&[id.as_str()]))?;
    let has = group.rules(way);
    if !rules
        .iter()
        .all(|rule| has.iter().any(|old| same(old, rule)))
    {
        return Err(ApiError::new(
            "InvalidPermission.NotFound",
            "The specified rule does not exist in this security group.",
        ));
    }
    has.retain(|old| !rules.iter().any(|rule| same(old, rule)));
    Ok(tags::done())
}

/// Whether two rules are equal apart from their descriptions.
fn same(one: &Rule, other: &Rule) -> bool {
    (&one.protocol, one.from, one.to, &one.peer)
        == (&other.protocol, other.from, other.to, &other.peer)
}

fn named(state: &State, params: &Params) -> Result<SecurityGroupId, ApiError> {
    if let Some(id) = params.text("GroupId") {
        return state
            .group(&SecurityGroupId::parse(id)?)
            .map(|group| group.id.clone());
    }
    let name = params.required("GroupName")?;
    state
        .groups
        .values()
        .find(|group| group.name == name)
        .map(|group| group.id.clone())
        .ok_or_else(|| not_found(&[name]))
}

/// `IpPermissions.N`, or the older flat parameters.
fn read_rules(state: &State, params: &Params) -> Result<Vec<Rule>, ApiError> {
    let mut permissions = params.structs("IpPermissions");
    if permissions.is_empty() && params.has("IpProtocol") {
        permissions.push(params.clone());
    }
    let mut rules = Vec::new();
    for permission in &permissions {
        let protocol = match permission.required("IpProtocol")? {
            "6" => "tcp",
            "17" => "udp",
            "1" => "icmp",
            "all" => "-1",
            other => other,
        };
        let all = protocol == "-1";
        let rule = |peer, description: Option<&str>| -> Result<Rule, ApiError> {
            Ok(Rule {
                protocol: protocol.to_owned(),
                from: permission.integer("FromPort")?.filter(|_| !all),
                to: permission.integer("ToPort")?.filter(|_| !all),
                peer,
                description: description.map(str::to_owned),
            })
        };
        for range in permission.structs("IpRanges") {
            rules.push(rule(
                Peer::Cidr(cidr(range.required("CidrIp")?)?),
                range.text("Description"),
            )?);
        }
        for range in permission.structs("Ipv6Ranges") {
            rules.push(rule(
                Peer::Cidr6(range.required("CidrIpv6")?.to_owned()),
                range.text("Description"),
            )?);
        }
        for pair in permission
            .structs("UserIdGroupPairs")
            .iter()
            .chain(&permission.structs("Groups"))
        {
            let group = named(state, pair)?;
            rules.push(rule(Peer::Group(group), pair.text("Description"))?);
        }
        if let Some(range) = permission.text("CidrIp") {
            rules.push(rule(Peer::Cidr(cidr(range)?), None)?);
        }
    }
    if rules.is_empty() {
        return Err(ApiError::missing("ipPermissions"));
    }
    Ok(rules)
}

fn cidr(text: &str) -> Result<String, ApiError> {
    let valid = text.split_once('/').is_some_and(|(address, bits)| {
        address.parse::<std::net::Ipv4Addr>().is_ok()
            && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
    });
    if valid {
        Ok(text.to_owned())
    } else {
        Err(ApiError::new(
            "InvalidParameterValue",
            format!("CIDR block {text} is malformed"),
        ))
    }
}

fn write_rules(xml: &mut Xml, name: &str, rules: &BTreeSet<Rule>) {
    // One item per protocol and ports, with all its peers.
    let kinds: BTreeSet<_> = rules
        .iter()
        .map(|rule| (&rule.protocol, rule.from, rule.to))
        .collect();
    xml.list(name, "item", kinds, |x, (protocol, from, to)| {
        let here = || {
            rules
                .iter()
                .filter(move |rule| (&rule.protocol, rule.from, rule.to) == (protocol, from, to))
        };
        x.text("ipProtocol", protocol)
            .maybe("fromPort", from)
            .maybe("toPort", to);
        let groups = here().filter_map(|rule| match &rule.peer {
            Peer::Group(id) => Some((id, &rule.description)),
            _ => None,
        });
        x.list("groups", "item", groups, |x, (id, description)| {
            x.text("userId", ACCOUNT)
                .text("groupId", id)
                .maybe("description", description.as_ref());
        });
        let ranges = here().filter_map(|rule| match &rule.peer {
            Peer::Cidr(cidr) => Some((cidr, &rule.description)),
            _ => None,
        });
        x.list("ipRanges", "item", ranges, |x, (cidr, description)| {
            x.text("cidrIp", cidr)
                .maybe("description", description.as_ref());
        });
        let ranges = here().filter_map(|rule| match &rule.peer {
            Peer::Cidr6(cidr) => Some((cidr, &rule.description)),
            _ => None,
        });
        x.list("ipv6Ranges", "item", ranges, |x, (cidr, description)| {
            x.text("cidrIpv6", cidr)
                .maybe("description", description.as_ref());
        });
        x.list("prefixListIds", "item", Vec::<u8>::new(), |_, _| {});
    });
}

fn arn(id: &SecurityGroupId) -> String {
    format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{id}")
}
