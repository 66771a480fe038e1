//! One look at a fleet: asks the cloud and puts the answers together, judging nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use contract::names;
use contract::registry::Record;

use super::plan::{Goal, Proof};
use super::view::{FleetView, Launchable, Launches, Member, RecordView, TemplateUse};
use crate::cloud::{
    Answer, Cloud, Group, GroupLaunches, GroupMember, Image, ImageState, Kind, TargetHealth,
};
use crate::exit::Exit;
use crate::ids::{GroupName, ImageId, ImageName, InstanceId};

/// The tag EC2 Auto Scaling puts on every member.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// Looks at all of a fleet.
pub(crate) async fn fleet(cloud: &Cloud, image: &ImageName, name: &GroupName) -> Result<FleetView> {
    // First: a refresh that is seen as over has saved its version before the group is read.
    let refreshes = cloud.fleet.refreshes(name).await;
    let group = group(cloud, name).await?;
    let refresh = refreshes?.into_iter().next();
    let hooks = cloud.fleet.hooks(name).await?;
    let launches = launches(cloud, &group).await?;
    let members = members_of(cloud, image, &group).await?;
    Ok(FleetView {
        group: group.name,
        size: group.size,
        launches,
        health: group.health,
        grace_seconds: group.grace_seconds,
        default_warmup_seconds: group.default_warmup_seconds,
        hooks,
        suspended: group.suspended,
        target_groups: group.target_groups,
        warm_pool: group.warm_pool,
        members,
        refresh,
    })
}

/// Looks at the members alone, which is what changes while a refresh runs.
pub(crate) async fn members(
    cloud: &Cloud,
    image: &ImageName,
    name: &GroupName,
) -> Result<Vec<Member>> {
    let group = group(cloud, name).await?;
    Ok(members_of(cloud, image, &group).await?)
}

/// The group, which has to exist.
async fn group(cloud: &Cloud, name: &GroupName) -> Result<Group> {
    let found = cloud.fleet.group(name).await?;
    found.ok_or_else(|| {
        Exit::Refused
            .error(format!(
                "there is no Auto Scaling group {name} in {}",
                cloud.region
            ))
            .hint("correct fleet.group in the configuration, or the region")
            .into()
    })
}

/// What the group launches from, with every version of its template.
async fn launches(cloud: &Cloud, group: &Group) -> Result<Launches> {
    let (id, name, saved) = match &group.launches {
        GroupLaunches::Configuration { name } => {
            return Ok(Launches::Configuration { name: name.clone() });
        }
        GroupLaunches::Mixed { feature } => return Ok(Launches::Mixed { feature: *feature }),
        GroupLaunches::Template { id, name, saved } => (id, name, *saved),
    };
    let template = cloud.templates.template(id).await?.with_context(|| {
        format!(
            "group {} launches from template {id}, which does not exist",
            group.name
        )
    })?;
    let mut used = TemplateUse {
        id: id.clone(),
        name: name.clone(),
        saved,
        versions: template.versions,
        saved_image: Launchable::Unknown,
        latest: template.latest,
        default: template.default,
    };
    if let Some(image) = used
        .version(used.number())
        .and_then(|version| version.image.literal())
    {
        used.saved_image = launchable(cloud.images.image(image).await?.as_ref());
    }
    Ok(Launches::Template(used))
}

/// The members, each with what EC2, its target groups and its agent say of it.
async fn members_of(cloud: &Cloud, image: &ImageName, group: &Group) -> Answer<Vec<Member>> {
    let images: BTreeMap<InstanceId, Option<ImageId>> = cloud
        .instances
        .instances_tagged(GROUP_TAG, Some(group.name.as_str()))
        .await?
        .into_iter()
        .map(|instance| (instance.id, instance.image))
        .collect();
    let mut targets: BTreeMap<InstanceId, Vec<TargetHealth>> = BTreeMap::new();
    for arn in &group.target_groups {
        for (instance, health) in cloud.targets.health(arn).await? {
            targets.entry(instance).or_default().push(health);
        }
    }
    let records = records(cloud, image).await?;
    Ok(group
        .members
        .iter()
        .map(
            |GroupMember {
                 instance,
                 lifecycle,
                 healthy,
                 template,
                 protected,
             }| Member {
                instance: instance.clone(),
                lifecycle: lifecycle.clone(),
                healthy: *healthy,
                template: template.clone(),
                image: images.get(instance).cloned().flatten(),
                protected: *protected,
                targets: targets.remove(instance).unwrap_or_default(),
                record: records.get(instance).cloned(),
            },
        )
        .collect())
}

/// The registry of an image's boxes; nothing at all for a caller who may not read it. A record of
/// another schema counts as no record.
pub(crate) async fn records(
    cloud: &Cloud,
    image: &ImageName,
) -> Answer<BTreeMap<InstanceId, RecordView>> {
    let parameters = match cloud
        .parameters
        .below(&names::registry_path(image.as_str()))
        .await
    {
        Err(error) if error.kind == Kind::Denied => return Ok(BTreeMap::new()),
        answer => answer?,
    };
    Ok(parameters
        .iter()
        .filter_map(|parameter| serde_json::from_str::<Record>(&parameter.value).ok())
        .filter(Record::readable)
        .filter_map(|record| {
            let instance = InstanceId::parse(record.instance_id).ok()?;
            Some((
                instance,
                RecordView {
                    verdict: record.verdict,
                    reason: record.reason,
                    image: record.image_id,
                    agent: record.agent,
                },
            ))
        })
        .collect())
}

/// What is known of an image somebody wants the fleet to run.
pub(crate) async fn goal(cloud: &Cloud, id: &ImageId) -> Result<Goal> {
    let image = cloud.images.image(id).await?;
    let fit = image
        .as_ref()
        .and_then(|image| image.tags.get(contract::tags::VERDICT))
        .is_some_and(|verdict| verdict == "fit");
    Ok(Goal {
        image: id.clone(),
        state: launchable(image.as_ref()),
        proof: if fit { Proof::Fit } else { Proof::None },
        version: None,
    })
}

/// Whether EC2 can launch an image.
fn launchable(image: Option<&Image>) -> Launchable {
    match image.map(|image| &image.state) {
        None => Launchable::Unknown,
        Some(ImageState::Available) => Launchable::Yes,
        Some(ImageState::Pending) => Launchable::Not("pending".into()),
        Some(ImageState::Other(state)) => Launchable::Not(state.clone()),
    }
}
