//! What a bake needs, checked before anything is created: networks, instance types, instance profiles, volumes, permissions, and
//! both launches by dry run.

use std::collections::BTreeMap;

use super::volumes;
use crate::config::{Config, Encryption, Hops, default_type};
use crate::mappings;
use crate::user_data::UserData;
use cloud::ids::{SubnetId, VpcId};
use cloud::{Cloud, Image, Kind, Launch, Tags};
use run::permissions::{Need, Verb, needed};
use run::preflight::{self, Findings, Subject};

/// The builder, and the gate's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Builder,
    Gate,
}

impl Who {
    /// Where it is configured.
    fn place(self) -> &'static str {
        match self {
            Self::Builder => "[bake]",
            Self::Gate => "[bake.gate]",
        }
    }

    /// What it is.
    fn instance(self) -> &'static str {
        match self {
            Self::Builder => "the builder",
            Self::Gate => "the gate's instance",
        }
    }
}

/// Everything that would stop a bake of `source`; without one, only what does not depend on it.
pub(crate) async fn findings(
    cloud: &Cloud,
    config: &Config,
    source: Option<&Image>,
    user_data: &UserData,
) -> Findings {
    let mut findings = Findings::default();
    let (network, types, (profiles, roles)) = tokio::join!(
        network(cloud, config),
        types(cloud, config),
        profiles(cloud, config)
    );
    for part in [network, types, profiles] {
        findings.merge(part);
    }
    if let Some(source) = source {
        findings.merge(volumes::findings(config, source));
    }
    let launched = match source {
        // Only if nothing is wrong yet: the launches would fail for the same reasons.
        Some(source) if findings.wrong.is_empty() => {
            launches(cloud, config, source, user_data, &mut findings).await
        }
        _ => None,
    };
    let named: Vec<&str> = profiles_of(config).map(|(_, name)| name).collect();
    let key = match config.bake.encryption() {
        Some(Encryption::Key(key)) => Some(String::from(key)),
        Some(Encryption::Default) | None => None,
    };
    let mut needs = Vec::new();
    for (is, need) in [
        (!config.bake.share.is_empty(), Need::Shares),
        (key.is_some(), Need::Key),
        (!named.is_empty(), Need::Profile),
    ] {
        needs.extend(is.then_some(need));
    }
    if let Some(caller) = preflight::caller(cloud, &mut findings).await {
        let subject = Subject {
            image: Some(&config.image.name),
            roles,
            profiles: named.clone(),
            source_parameter: config.image.source.parameter(),
            keys: key.as_deref().into_iter().collect(),
            launched,
            ..Subject::default()
        };
        let mut actions = needed(&[Verb::Bake, Verb::Packer], &needs);
        actions.retain(|action| action.name != "iam:GetInstanceProfile" || !named.is_empty());
        let answers = preflight::ask(cloud, &caller, &actions, &subject).await;
        findings.permissions(answers, &caller.arn);
    }
    findings
}

/// Checks that subnets and security groups exist and match.
async fn network(cloud: &Cloud, config: &Config) -> Findings {
    let mut findings = Findings::default();
    let (bake, gate) = (&config.bake, &config.bake.gate);
    let mut vpcs: BTreeMap<&SubnetId, VpcId> = BTreeMap::new();
    for (who, subnet) in [(Who::Builder, &bake.subnet), (Who::Gate, &gate.subnet)] {
        let Some(subnet) = subnet else { continue };
        match cloud.instances.vpc_of(subnet).await {
            Ok(Some(vpc)) => {
                vpcs.insert(subnet, vpc);
            }
            Ok(None) => findings.wrong(
                format!("there is no {subnet} in {}", cloud.region),
                format!("correct `subnet` in {}, or the region", who.place()),
            ),
            Err(error) => findings.unchecked(subnet.as_str(), error.to_string()),
        }
    }
    if let (Some(vpc), Some(subnet)) = (&bake.vpc, &bake.subnet)
        && let Some(found) = vpcs.get(subnet)
        && found != vpc
    {
        findings.wrong(
            format!("{subnet} is in {found}, not in {vpc}"),
            "correct `vpc` in [bake], or leave it out",
        );
    }
    if gate.security_groups.is_empty() {
        return findings;
    }
    match cloud.instances.vpcs_of(&gate.security_groups).await {
        Ok(found) => {
            let subnet = gate.subnet.as_ref().or(bake.subnet.as_ref());
            let vpc = subnet.and_then(|subnet| vpcs.get(subnet));
            for group in &gate.security_groups {
                match found.iter().find(|(id, _)| id == group) {
                    None => findings.wrong(
                        format!("there is no {group} in {}", cloud.region),
                        "correct `security_groups` in [bake.gate], or the region",
                    ),
                    Some((_, Some(of))) if vpc.is_some_and(|vpc| vpc != of) => findings.wrong(
                        format!(
                            "{group} is in {of}, and the gate's subnet in {}",
                            vpc.map(ToString::to_string).unwrap_or_default()
                        ),
                        "name groups of the subnet's VPC as `security_groups` in [bake.gate]",
                    ),
                    Some(_) => {}
                }
            }
        }
        Err(error) => findings.unchecked("security groups", error.to_string()),
    }
    findings
}

/// Checks that instance types are offered, and of the image's architecture.
async fn types(cloud: &Cloud, config: &Config) -> Findings {
    let mut findings = Findings::default();
    let arch = config.image.arch;
    let mut all = vec![(Who::Builder, config.instance_type())];
    let gate = config.bake.gate.instance_type.as_deref();
    all.extend(gate.map(|name| (Who::Gate, name)));
    for (who, name) in all {
        let place = who.place();
        match cloud.instances.architectures(name).await {
            Ok(Some(found)) if !found.iter().any(|one| one == arch.as_str()) => findings.wrong(
                format!(
                    "instance type {name} runs {}, and the image is {}",
                    found.join(" and "),
                    arch.as_str()
                ),
                format!(
                    "name another `instance_type` in {place}, e.g. {}",
                    default_type(arch)
                ),
            ),
            Ok(Some(_)) => {}
            Ok(None) => findings.wrong(
                format!("there is no instance type {name} in {}", cloud.region),
                format!("correct `instance_type` in {place}, or the region"),
            ),
            // The permission has its own line.
            Err(error) if error.kind == Kind::Denied => {}
            Err(error) => findings.unchecked(format!("instance type {name}"), error.to_string()),
        }
    }
    findings
}

/// The instance profiles that are configured.
fn profiles_of(config: &Config) -> impl Iterator<Item = (Who, &str)> {
    let bake = &config.bake;
    let all = [
        (Who::Builder, &bake.instance_profile),
        (Who::Gate, &bake.gate.instance_profile),
    ];
    all.into_iter()
        .filter_map(|(who, name)| Some((who, name.as_deref()?)))
}

/// Checks that the instance profiles exist and have a role; returns the roles' ARNs, or none when one of them is not known.
async fn profiles(cloud: &Cloud, config: &Config) -> (Findings, Vec<String>) {
    let mut findings = Findings::default();
    let (mut roles, mut known) = (Vec::new(), true);
    for (who, name) in profiles_of(config) {
        let fix = format!(
            "correct `instance_profile` in {}, or make it{}",
            who.place(),
            match who {
                Who::Builder => "",
                Who::Gate => "; docs/operating.md has what its role needs",
            }
        );
        let role = match cloud.permissions.instance_profile(name).await {
            Ok(Some(profile)) => {
                if profile.role.is_none() {
                    findings.wrong(format!("instance profile {name} has no role"), fix);
                }
                profile.role
            }
            Ok(None) => {
                findings.wrong(format!("there is no instance profile {name}"), fix);
                None
            }
            Err(error) if error.kind == Kind::Denied => None,
            Err(error) => {
                findings.unchecked(format!("instance profile {name}"), error.to_string());
                None
            }
        };
        known &= role.is_some();
        roles.extend(role);
    }
    roles.dedup();
    if !known {
        roles.clear();
    }
    (findings, roles)
}

/// Both launches, by dry run and as they will be, but from the source image. Whether both would be done.
async fn launches(
    cloud: &Cloud,
    config: &Config,
    source: &Image,
    user_data: &UserData,
    findings: &mut Findings,
) -> Option<bool> {
    let bake = &config.bake;
    let mut tags: Tags = config.tags.clone();
    tags.extend([
        (contract::tags::RUN.to_owned(), "preflight".to_owned()),
        (
            contract::tags::IMAGE.to_owned(),
            config.image.name.to_string(),
        ),
    ]);
    let builder = Launch {
        image: source.id.clone(),
        instance_type: config.instance_type().to_owned(),
        instance_profile: bake.instance_profile.clone(),
        subnet: bake.subnet.clone(),
        security_groups: Vec::new(),
        user_data: user_data.builder.clone(),
        tokens: config.image.imds.tokens(),
        hops: config.image.imds_hops.map(Hops::get),
        disks: mappings::launch(config, &source.disks, &source.root_device),
        tags,
        client_token: String::new(),
    };
    let gate = super::gate::launch(
        config,
        &source.id,
        user_data.gate.clone(),
        builder.tags.clone(),
    );
    let (built, judged) = tokio::join!(
        cloud.instances.may_launch(&builder),
        cloud.instances.may_launch(&gate)
    );
    let mut all = Some(true);
    for (who, answer) in [(Who::Builder, built), (Who::Gate, judged)] {
        match answer {
            Ok(()) => {}
            Err(error) if error.is_of_all_calls() => {
                all = None;
                findings.unchecked(
                    format!("the launch of {}", who.instance()),
                    error.to_string(),
                );
            }
            Err(error) => {
                all = Some(false);
                let fix = if error.kind == Kind::Denied {
                    "allow ec2:RunInstances, ec2:CreateTags, and iam:PassRole for the instance profile's role".to_owned()
                } else {
                    format!(
                        "check {}: instance_type, subnet{}",
                        who.place(),
                        match who {
                            Who::Builder => {
                                ", instance_profile, user_data, and the volumes of [image]"
                            }
                            Who::Gate => ", security_groups, instance_profile, user_data",
                        }
                    )
                };
                findings.wrong(
                    format!("EC2 would not launch {}: {error}", who.instance()),
                    fix,
                );
            }
        }
    }
    all
}
