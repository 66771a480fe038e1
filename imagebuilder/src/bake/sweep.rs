//! The sweep: removes what a run created and nobody keeps. Used when a bake fails, when it has succeeded and its
//! scaffolding must go, and by `reap` for dead runs.
//!
//! It goes by the ledger first and by the run tag second, so it finds what was created but never recorded. It never
//! takes an image that is published, pointed at, or in use.

use std::time::Duration;

use contract::names::{Pointer, registry_parameter};
use contract::tags;

use crate::cloud::{
    Answer, Cloud, CloudError, Image, Instance, InstanceState, Kind as Cause, Search,
};
use crate::ids::{ImageId, InstanceId, RunId, SecurityGroupId, SnapshotId};
use crate::ledger::{Kind, Ledger, State, Thing};
use crate::output::Step;

/// How often what is on its way out is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How many looks: an instance takes minutes to terminate, and holds its security group until then.
const LOOKS: u32 = 1200;

/// The order in which kinds go: holders before what they hold.
const ORDER: [Kind; 6] = [
    Kind::Instance,
    Kind::KeyPair,
    Kind::SecurityGroup,
    Kind::Image,
    Kind::Snapshot,
    Kind::Parameter,
];

/// What a sweep could not remove.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// The resource.
    pub(crate) thing: Thing,
    /// Why it is still there.
    pub(crate) why: String,
}

/// Why an image must stay. Instances of its own run are no reason: they go with it.
async fn claim(cloud: &Cloud, image: &Image, name: &str, run: &RunId) -> Answer<Option<String>> {
    if image
        .tags
        .get(tags::VERDICT)
        .is_some_and(|verdict| verdict == "fit")
    {
        return Ok(Some("it is published".into()));
    }
    for pointer in Pointer::ALL {
        let parameter = cloud.parameters.parameter(&pointer.parameter(name)).await?;
        if parameter.is_some_and(|parameter| parameter.value == image.id.as_str()) {
            return Ok(Some(format!("it is {pointer}")));
        }
    }
    let users = cloud.instances.instances_of(&image.id).await?;
    let foreign = |user: &&Instance| {
        !user.state.is_going() && user.tags.get(tags::RUN).map(String::as_str) != Some(run.as_str())
    };
    if let Some(user) = users.iter().find(foreign) {
        return Ok(Some(format!("{} runs it", user.id)));
    }
    Ok(None)
}

/// Adds to the ledger what carries the run's tag and was never recorded.
pub(crate) async fn find_by_tag(cloud: &Cloud, ledger: &mut Ledger) -> anyhow::Result<()> {
    let run = ledger.run().to_string();
    for instance in cloud
        .instances
        .instances_tagged(tags::RUN, Some(&run))
        .await?
    {
        ledger.exists(Kind::Instance, "", instance.id.as_str())?;
    }
    let by_tag = format!("tag:{}", tags::RUN);
    for pair in cloud.instances.key_pairs(&by_tag, &run).await? {
        ledger.exists(Kind::KeyPair, &pair.name, &pair.name)?;
    }
    for group in cloud.instances.security_groups(&by_tag, &run).await? {
        ledger.exists(Kind::SecurityGroup, &group.name, group.id.as_str())?;
    }
    for image in cloud
        .images
        .search(&Search::own_tagged(tags::RUN, &run))
        .await?
    {
        ledger.exists(Kind::Image, &image.name, image.id.as_str())?;
    }
    for thing in ledger.open_things() {
        if thing.id.is_some() {
            continue;
        }
        match thing.kind {
            Kind::Image if !thing.name.is_empty() => {
                let search = Search {
                    owners: vec!["self".into()],
                    ..Search::default()
                };
                for image in cloud
                    .images
                    .search(&search.and("name", &thing.name))
                    .await?
                {
                    ledger.exists(Kind::Image, &image.name, image.id.as_str())?;
                }
            }
            Kind::SecurityGroup => {
                for group in cloud
                    .instances
                    .security_groups("group-name", &thing.name)
                    .await?
                {
                    ledger.exists(Kind::SecurityGroup, &group.name, group.id.as_str())?;
                }
            }
            _ => {}
        }
    }
    orphaned_snapshots(cloud, ledger).await
}

/// Adds snapshots of the run that no image refers to: their image went, and its sweeper was killed in between.
async fn orphaned_snapshots(cloud: &Cloud, ledger: &mut Ledger) -> anyhow::Result<()> {
    let run = ledger.run().to_string();
    let tagged = cloud.images.snapshots_tagged(tags::RUN, Some(&run)).await?;
    if tagged.is_empty() {
        return Ok(());
    }
    let mut images = cloud
        .images
        .search(&Search::own_tagged(tags::RUN, &run))
        .await?;
    for thing in ledger
        .journal()
        .things
        .iter()
        .filter(|thing| thing.kind == Kind::Image)
    {
        if let Some(id) = thing.id.as_deref().and_then(|id| ImageId::parse(id).ok()) {
            images.extend(cloud.images.image(&id).await?);
        }
    }
    for snapshot in tagged {
        if !images
            .iter()
            .any(|image| image.snapshots.contains(&snapshot.id))
        {
            ledger.exists(Kind::Snapshot, "", snapshot.id.as_str())?;
        }
    }
    Ok(())
}

/// Removes everything the ledger holds open. What could not go is returned, and stays open in the ledger.
pub(crate) async fn sweep(
    cloud: &Cloud,
    ledger: &mut Ledger,
    step: &mut Step,
) -> anyhow::Result<Vec<Left>> {
    let mut left = Vec::new();
    if let Err(error) = find_by_tag(cloud, ledger).await {
        // Without the cloud nothing can be removed, but everything that is known can be named.
        let why = error.to_string();
        left.extend(ledger.open_things().into_iter().map(|thing| Left {
            thing,
            why: why.clone(),
        }));
        if left.is_empty() {
            return Err(error);
        }
        return Ok(left);
    }
    for kind in ORDER {
        // An image brings snapshots and an instance its parameter, so the list is read again for every kind.
        for thing in ledger
            .open_things()
            .into_iter()
            .filter(|thing| thing.kind == kind)
        {
            step.waiting(format!("removing {kind} {}", thing.label()));
            match remove(cloud, ledger, &thing, step).await {
                Ok(state) => ledger.mark(kind, thing.label(), state)?,
                Err(why) => left.push(Left {
                    thing,
                    why: why.to_string(),
                }),
            }
        }
    }
    Ok(left)
}

async fn remove(
    cloud: &Cloud,
    ledger: &mut Ledger,
    thing: &Thing,
    step: &mut Step,
) -> anyhow::Result<State> {
    let Some(id) = &thing.id else {
        return match thing.kind {
            // Deleting by name is safe to do whether or not it was ever created.
            Kind::KeyPair => Ok(cloud
                .instances
                .delete_key_pair(&thing.name)
                .await
                .map(|()| State::Gone)?),
            Kind::Parameter => Ok(cloud
                .parameters
                .delete(&thing.name)
                .await
                .map(|()| State::Gone)?),
            // Looked for by tag and name and not found: it never came to be.
            _ => Ok(State::Gone),
        };
    };
    match thing.kind {
        Kind::Instance => {
            let id = InstanceId::parse(id.as_str())?;
            let parameter = registry_parameter(&ledger.journal().image, id.as_str());
            ledger.intend(Kind::Parameter, &parameter)?;
            cloud.instances.terminate(&id).await?;
            wait_terminated(cloud, &id, step).await?;
        }
        Kind::KeyPair => cloud.instances.delete_key_pair(id).await?,
        Kind::SecurityGroup => delete_group(cloud, &SecurityGroupId::parse(id.as_str())?).await?,
        Kind::Image => return remove_image(cloud, ledger, &ImageId::parse(id.as_str())?).await,
        Kind::Snapshot => {
            cloud
                .images
                .delete_snapshot(&SnapshotId::parse(id.as_str())?)
                .await?
        }
        Kind::Parameter => cloud.parameters.delete(id).await?,
    }
    Ok(State::Gone)
}

async fn remove_image(cloud: &Cloud, ledger: &mut Ledger, id: &ImageId) -> anyhow::Result<State> {
    let image = cloud.images.image(id).await?;
    if let Some(image) = &image
        && claim(cloud, image, &ledger.journal().image, ledger.run())
            .await?
            .is_some()
    {
        return Ok(State::Kept);
    }
    // Recorded before the image goes: afterwards nothing links them to it any more.
    for snapshot in image.iter().flat_map(|image| &image.snapshots) {
        ledger.exists(Kind::Snapshot, "", snapshot.as_str())?;
    }
    for snapshot in cloud.images.snapshots_for(id).await? {
        ledger.exists(Kind::Snapshot, "", snapshot.id.as_str())?;
    }
    cloud.images.deregister(id).await?;
    Ok(State::Gone)
}

async fn wait_terminated(cloud: &Cloud, id: &InstanceId, step: &mut Step) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        match cloud.instances.instance(id).await? {
            Some(instance) if instance.state != InstanceState::Terminated => {
                step.waiting(format!("waiting for {id} to terminate"));
                tokio::time::sleep(LOOK).await;
            }
            _ => return Ok(()),
        }
    }
    anyhow::bail!("{id} does not terminate")
}

async fn delete_group(cloud: &Cloud, id: &SecurityGroupId) -> Result<(), CloudError> {
    let mut looks = 0;
    loop {
        match cloud.instances.delete_security_group(id).await {
            // The network interface of a terminated instance lets go a little later.
            Err(error) if error.kind == Cause::InUse && looks < LOOKS / 10 => {
                looks += 1;
                tokio::time::sleep(LOOK).await;
            }
            other => return other,
        }
    }
}
