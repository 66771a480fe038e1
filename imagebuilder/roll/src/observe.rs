//! One observation of a fleet: reads the cloud and combines the answers, without judging them.

use std::collections::BTreeMap;

use anyhow::Result;
use contract::names::{self, Pointer};
use contract::registry::{Record, Verdict};

use super::before::Pointed;
use super::plan::{Direction, GateVerdict, Goal, Target};
use super::view::{FleetView, Launchable, Launches, Member, RecordView, Size, TemplateUse};
use cloud::ids::{GroupName, ImageId, ImageName, InstanceId};
use cloud::{
    Answer, Cloud, DEFAULT_DRAIN_SECONDS, Group, GroupLaunches, GroupMember, Image, ImageState,
    Kind, TargetHealth, Template,
};
use run::exit::{Exit, Failure};
use run::pointers::{self, Scope};

/// The tag EC2 Auto Scaling puts on every member.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// Observes all of a fleet.
pub(crate) async fn fleet(cloud: &Cloud, image: &ImageName, name: &GroupName) -> Result<FleetView> {
    let mut known = Known::default();
    let found = find(
        cloud,
        image,
        name,
        &mut known,
        Which::All,
        &mut Gaps::Refused,
    )
    .await?;
    found.ok_or_else(|| no_group(cloud, name).into())
}

/// What happens when a part cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gaps {
    /// The observation fails.
    Refused,
    /// It is omitted, and named here: for a caller that only shows the fleet.
    Named(Vec<String>),
}

impl Gaps {
    /// The part, or its default. A failure that all calls share is never a gap.
    pub(crate) fn fill<T: Default>(&mut self, answer: Answer<T>) -> Answer<T> {
        match (self, answer) {
            (Self::Named(gaps), Err(error)) if !error.is_of_all_calls() => {
                gaps.push(error.to_string());
                Ok(T::default())
            }
            (_, answer) => answer,
        }
    }
}

/// Observes all of a fleet; `None` when there is no such group.
pub async fn find(
    cloud: &Cloud,
    image: &ImageName,
    name: &GroupName,
    known: &mut Known,
    which: Which<'_>,
    gaps: &mut Gaps,
) -> Answer<Option<FleetView>> {
    // First: a refresh that is over by now has saved its version before the group is read.
    let refreshes = cloud.fleet.refreshes(name).await;
    let Some(group) = cloud.fleet.group(name).await? else {
        return Ok(None);
    };
    let refresh = gaps.fill(refreshes)?.into_iter().next();
    let hooks = gaps.fill(cloud.fleet.hooks(name).await)?;
    let launches = launches(cloud, &group, gaps).await?;
    let members = members_of(cloud, image, &group, known, which, gaps).await?;
    Ok(Some(FleetView {
        drain_seconds: gaps.fill(drain_seconds(cloud, &group).await)?,
        group: group.name,
        size: group.size,
        launches,
        health: group.health,
        grace_seconds: group.grace_seconds,
        default_warmup_seconds: group.default_warmup_seconds,
        hooks,
        suspended: group.suspended,
        target_groups: group.target_groups,
        has_traffic_source: group.has_traffic_source,
        warm_pool: group.warm_pool,
        members,
        refresh,
    }))
}

/// Observes the members alone, which is what changes while a refresh runs; `None` when there is no such group.
pub(crate) async fn members(
    cloud: &Cloud,
    image: &ImageName,
    name: &GroupName,
    known: &mut Known,
    which: Which<'_>,
) -> Answer<Option<(Size, Vec<Member>)>> {
    match cloud.fleet.group(name).await? {
        None => Ok(None),
        Some(group) => {
            let members =
                members_of(cloud, image, &group, known, which, &mut Gaps::Refused).await?;
            Ok(Some((group.size, members)))
        }
    }
}

/// The error for a group that does not exist.
pub fn no_group(cloud: &Cloud, name: &GroupName) -> Failure {
    Exit::Refused
        .error(format!(
            "there is no Auto Scaling group {name} in {}",
            cloud.region
        ))
        .hint("correct fleet.group in the configuration, or the region")
}

/// The group's launch template was deleted: nothing can be launched, forward or back.
pub(crate) fn template_gone(group: &GroupName, id: &str, name: &str) -> Failure {
    Exit::Refused
        .error(format!(
            "group {group} launches from launch template {name} ({id}), which does not exist any more"
        ))
        .hint(
            "see the members: imagebuilder status\ncreate the template again, and give the group a version of it \
             (aws autoscaling update-auto-scaling-group)",
        )
}

/// The pointers that matter to a rollback.
///
/// # Errors
/// When one cannot be read.
pub(crate) async fn pointed(cloud: &Cloud, scope: &Scope) -> Result<Pointed> {
    Ok(Pointed {
        current: pointers::read(cloud, scope, Pointer::Current).await?,
        previous: pointers::read(cloud, scope, Pointer::Previous).await?,
    })
}

/// The longest deregistration delay; AWS's default where the caller may not read it.
async fn drain_seconds(cloud: &Cloud, group: &Group) -> Answer<u32> {
    let mut longest = 0;
    for arn in &group.target_groups {
        let delay = match cloud.targets.drain_seconds(arn).await {
            Err(error) if matches!(error.kind, Kind::Denied | Kind::NotFound) => {
                DEFAULT_DRAIN_SECONDS
            }
            answer => answer?,
        };
        longest = longest.max(delay);
    }
    Ok(longest)
}

/// What the group launches from, with every version of its template.
async fn launches(cloud: &Cloud, group: &Group, gaps: &mut Gaps) -> Answer<Launches> {
    let (id, name, saved) = match &group.launches {
        GroupLaunches::Configuration { name } => {
            return Ok(Launches::Configuration { name: name.clone() });
        }
        GroupLaunches::Mixed { feature } => return Ok(Launches::Mixed { feature: *feature }),
        GroupLaunches::Template { id, name, saved } => (id, name, *saved),
    };
    let template = cloud.templates.template(id).await.map(Some);
    let template = match gaps.fill(template)? {
        Some(template) => template,
        // Not read: only what the group itself reports is known.
        None => Some(Template {
            versions: Vec::new(),
            latest: 0,
            default: 0,
        }),
    };
    let Some(template) = template else {
        return Ok(Launches::Deleted {
            id: id.clone(),
            name: name.clone(),
        });
    };
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
        used.saved_image = launchable(gaps.fill(cloud.images.image(image).await)?.as_ref());
    }
    Ok(Launches::Template(used))
}

/// What need not be read again: kept between the polls of one watch.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The image of each instance, which never changes.
    images: BTreeMap<InstanceId, Option<ImageId>>,
    /// The last record of each instance.
    records: BTreeMap<InstanceId, RecordView>,
    /// Whether the registry may not be read.
    pub(crate) registry_denied: bool,
}

/// Which registry records are read again.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All members'.
    All,
    /// Those of members of this version that have not recorded yet that they are fit: no other record affects the watch.
    NotFit(&'a Target),
}

impl Which<'_> {
    /// Whether this member's record is read.
    fn includes(self, member: &GroupMember, known: &Known) -> bool {
        match self {
            Self::All => true,
            Self::NotFit(target) => {
                let new = member.template.as_ref() == Some(&target.reference());
                let fit = |record: &RecordView| {
                    record.verdict == Verdict::Fit && record.image == target.image.as_str()
                };
                new && !known.records.get(&member.instance).is_some_and(fit)
            }
        }
    }
}

/// The members, each with what EC2, its target groups and its agent report.
async fn members_of(
    cloud: &Cloud,
    image: &ImageName,
    group: &Group,
    known: &mut Known,
    which: Which<'_>,
    gaps: &mut Gaps,
) -> Answer<Vec<Member>> {
    let has_image =
        |member: &GroupMember| matches!(known.images.get(&member.instance), Some(Some(_)));
    if !group.members.iter().all(has_image) {
        let tagged = cloud
            .instances
            .instances_tagged(GROUP_TAG, Some(group.name.as_str()))
            .await;
        known.images = gaps
            .fill(tagged)?
            .into_iter()
            .map(|instance| (instance.id, instance.image))
            .collect();
    }
    let mut targets: BTreeMap<InstanceId, Vec<TargetHealth>> = BTreeMap::new();
    for arn in &group.target_groups {
        let health = match cloud.targets.health(arn).await {
            // A target group that was deleted lists no targets: the members are in no target group.
            Err(error) if error.kind == Kind::NotFound => Vec::new(),
            answer => gaps.fill(answer)?,
        };
        for (instance, health) in health {
            targets.entry(instance).or_default().push(health);
        }
    }
    let asked: Vec<&InstanceId> = group
        .members
        .iter()
        .filter(|member| which.includes(member, known))
        .map(|member| &member.instance)
        .collect();
    if !asked.is_empty() {
        let found = match records(cloud, image, &asked).await {
            Err(error) if error.kind == Kind::Denied => {
                known.registry_denied = true;
                gaps.fill(match gaps {
                    Gaps::Named(_) => Err(error),
                    Gaps::Refused => Ok(BTreeMap::new()),
                })?
            }
            answer => gaps.fill(answer)?,
        };
        for instance in asked {
            known.records.remove(instance);
        }
        known.records.extend(found);
    }
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
                image: known.images.get(instance).cloned().flatten(),
                protected: *protected,
                targets: targets.remove(instance).unwrap_or_default(),
                record: known.records.get(instance).cloned(),
            },
        )
        .collect())
}

/// The registry records of these instances of an image. A record of another schema counts as no record.
pub(crate) async fn records(
    cloud: &Cloud,
    image: &ImageName,
    instances: &[&InstanceId],
) -> Answer<BTreeMap<InstanceId, RecordView>> {
    let names: Vec<String> = instances
        .iter()
        .map(|instance| names::registry_parameter(image.as_str(), instance.as_str()))
        .collect();
    Ok(cloud
        .parameters
        .named(&names)
        .await?
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
        .filter(|(instance, _)| instances.contains(&instance))
        .collect())
}

/// What is known of an image that the fleet is to run.
pub(crate) async fn goal(cloud: &Cloud, id: &ImageId) -> Result<Goal> {
    let image = cloud.images.image(id).await?;
    let fit = image
        .as_ref()
        .and_then(|image| image.tags.get(contract::tags::VERDICT))
        .is_some_and(|verdict| verdict == "fit");
    Ok(Goal {
        image: id.clone(),
        state: launchable(image.as_ref()),
        gate: if fit {
            GateVerdict::Fit
        } else {
            GateVerdict::None
        },
        version: None,
        direction: Direction::Forward,
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
