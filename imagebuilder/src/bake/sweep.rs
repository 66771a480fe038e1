//! The sweep: removes what a run created and does not keep. Used when a bake fails, when it has succeeded and its
//! temporary resources are removed, and by `reap` for dead runs.
//!
//! It follows the ledger first and the run tag second, so it finds what was created but never recorded. What it removes
//! is known to be the run's ([`Owned`]); and it never removes an image that is published, pointed at, or in use.

use std::time::Duration;

use contract::names::Pointer;
use contract::tags;

use super::publish::OwnImage;
use cloud::ids::{ImageId, ImageName, InstanceId, RunId, SnapshotId, VolumeId};
use cloud::{
    Answer, Arch, Cloud, CloudError, Image, Instance, InstanceState, Kind as Cause, Owned, Search,
};
use run::image_release;
use run::ledger::{Kind, Ledger, State, Thing};
use run::output::Step;

/// How often a resource that is being removed is polled.
const POLL: Duration = Duration::from_millis(500);
/// How many polls: an instance takes minutes to terminate, and its security group is in use until then.
const POLLS: u32 = 1200;

/// The order in which kinds are removed: users before what they use.
const ORDER: [Kind; 8] = [
    Kind::Instance,
    Kind::Volume,
    Kind::NetworkInterface,
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
    /// Why it could not be removed.
    pub(crate) why: String,
}

/// Why an image is kept. Instances of its own run are no reason: they are removed with it.
async fn claim(cloud: &Cloud, image: &Image, name: &str, run: &RunId) -> Answer<Option<String>> {
    if image
        .tags
        .get(tags::VERDICT)
        .is_some_and(|verdict| verdict == "fit")
    {
        return Ok(Some("it is published".into()));
    }
    // The image may have been released for other architectures than its configuration names by now.
    let several = Arch::ALL.map(|arch| Some(arch.as_str()));
    for arch in std::iter::once(None).chain(several) {
        for pointer in Pointer::ALL {
            let parameter = pointer.parameter(name, arch);
            let parameter = cloud.parameters.parameter(&parameter).await?;
            if parameter.is_some_and(|parameter| parameter.value == image.id.as_str()) {
                return Ok(Some(format!("it is {pointer}")));
            }
        }
    }
    if let Ok(name) = ImageName::parse(name)
        && let Some(release) = image_release::read(cloud, &name).await?
        && release.values().any(|id| *id == image.id)
    {
        return Ok(Some("it is released".into()));
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

/// Kinds of resources that cannot be listed, so that the run may have left some of them.
#[derive(Debug)]
pub(crate) struct Unlisted {
    kind: Kind,
    why: CloudError,
}

impl From<Unlisted> for Left {
    fn from(unlisted: Unlisted) -> Self {
        Self {
            thing: Thing {
                kind: unlisted.kind,
                name: "of unknown id".to_owned(),
                id: None,
                state: State::Intended,
            },
            why: unlisted.why.to_string(),
        }
    }
}

/// A list, or nothing and a note that it could not be read.
fn listed<T>(kind: Kind, answer: Answer<Vec<T>>, unlisted: &mut Vec<Unlisted>) -> Vec<T> {
    answer.unwrap_or_else(|why| {
        unlisted.push(Unlisted { kind, why });
        Vec::new()
    })
}

/// Adds to the ledger everything that the API shows to be of its run. What could not be listed is returned.
///
/// # Errors
/// When the ledger cannot be written.
pub(crate) async fn find(cloud: &Cloud, ledger: &mut Ledger) -> anyhow::Result<Vec<Unlisted>> {
    let run = ledger.run().clone();
    let tag = Some(run.as_str());
    let mut unlisted = Vec::new();

    let instances = instances(cloud, ledger, &mut unlisted).await?;
    for instance in &instances {
        let record = instance.record(&ledger.journal().image);
        match cloud.parameters.parameter(record.id()).await {
            Ok(None) => {}
            Ok(Some(_)) => ledger.exists(Kind::Parameter, record.id(), &record)?,
            Err(why) => unlisted.push(Unlisted {
                kind: Kind::Parameter,
                why,
            }),
        }
    }

    let answer = cloud.instances.volumes_tagged(tags::RUN, tag).await;
    for volume in listed(Kind::Volume, answer, &mut unlisted) {
        if let Some(owned) = volume.owned_by(&run) {
            ledger.exists(Kind::Volume, "", &owned)?;
        }
    }
    let volumes = known(ledger, Kind::Volume);
    let answer = cloud.instances.network_interfaces_tagged(tags::RUN, tag);
    for interface in listed(Kind::NetworkInterface, answer.await, &mut unlisted) {
        if let Some(owned) = interface.owned_by(&run) {
            ledger.exists(Kind::NetworkInterface, "", &owned)?;
        }
    }
    let answer = cloud.instances.key_pairs_tagged(tags::RUN, tag).await;
    for pair in listed(Kind::KeyPair, answer, &mut unlisted) {
        if let Some(owned) = pair.owned_by(&run) {
            ledger.exists(Kind::KeyPair, &pair.name, &owned)?;
        }
    }
    let answer = cloud.instances.security_groups_tagged(tags::RUN, tag).await;
    for group in listed(Kind::SecurityGroup, answer, &mut unlisted) {
        if let Some(owned) = group.owned_by(&run) {
            ledger.exists(Kind::SecurityGroup, &group.name, &owned)?;
        }
    }

    let images = images(cloud, &run, &instances, &mut unlisted).await;
    for (image, owned) in &images {
        ledger.exists(Kind::Image, &image.name, owned)?;
    }
    // A snapshot of an image that could not be listed may be a published one's.
    if unlisted.iter().any(|one| one.kind == Kind::Image) {
        return Ok(unlisted);
    }
    let snapshots = snapshots(cloud, &run, &volumes, &instances, &mut unlisted).await;
    for owned in snapshots {
        // What an image of the run needs is removed with it, or kept with it.
        if !images
            .iter()
            .any(|(image, _)| image.snapshots.contains(owned.id()))
        {
            ledger.exists(Kind::Snapshot, "", &owned)?;
        }
    }
    Ok(unlisted)
}

/// An image that is to be this run's, with the snapshots of it that are, all in the ledger; `None` when it is not.
///
/// # Errors
/// When the API fails, or the ledger cannot be written.
pub(super) async fn own_image(
    cloud: &Cloud,
    ledger: &mut Ledger,
    image: Image,
) -> anyhow::Result<Option<OwnImage>> {
    let run = ledger.run().clone();
    let mut unlisted = Vec::new();
    let instances = instances(cloud, ledger, &mut unlisted).await?;
    let Some(id) = image.owned_by(&run, &instances) else {
        return match unlisted.pop() {
            Some(Unlisted { why, .. }) => Err(why.into()),
            None => Ok(None),
        };
    };
    ledger.exists(Kind::Image, &image.name, &id)?;
    let volumes = known(ledger, Kind::Volume);
    let mut owned = snapshots(cloud, &run, &volumes, &instances, &mut unlisted).await;
    owned.retain(|owned| image.snapshots.contains(owned.id()));
    Ok(Some(OwnImage {
        image,
        id,
        snapshots: owned,
    }))
}

/// The run's instances, terminated ones too as long as EC2 shows them: their images are the run's. Those that are left to
/// terminate get into the ledger.
async fn instances(
    cloud: &Cloud,
    ledger: &mut Ledger,
    unlisted: &mut Vec<Unlisted>,
) -> anyhow::Result<Vec<Owned<InstanceId>>> {
    let run = ledger.run().clone();
    let mut all = known(ledger, Kind::Instance);
    let answer = cloud.instances.ever_tagged(tags::RUN, run.as_str()).await;
    for instance in listed(Kind::Instance, answer, unlisted) {
        let Some(owned) = instance.owned_by(&run) else {
            continue;
        };
        if instance.state != InstanceState::Terminated {
            ledger.exists(Kind::Instance, "", &owned)?;
        }
        if !all.contains(&owned) {
            all.push(owned);
        }
    }
    Ok(all)
}

/// The ledger's entries of a kind, in any state.
fn known<T: std::str::FromStr>(ledger: &Ledger, kind: Kind) -> Vec<Owned<T>> {
    let all = ledger.ever(kind);
    all.filter_map(|owned| owned.typed().ok()).collect()
}

/// The images of a run, by its tag and by its instances.
async fn images(
    cloud: &Cloud,
    run: &RunId,
    instances: &[Owned<InstanceId>],
    unlisted: &mut Vec<Unlisted>,
) -> Vec<(Image, Owned<ImageId>)> {
    let mut found = listed(
        Kind::Image,
        cloud
            .images
            .search(&Search::own_tagged(tags::RUN, run.as_str()))
            .await,
        unlisted,
    );
    // EC2 takes 200 values in a filter; a run has two or three instances.
    let sources: Vec<InstanceId> = instances.iter().map(|owned| owned.id().clone()).collect();
    if !sources.is_empty() {
        let answer = cloud.images.search(&Search::made_from(&sources)).await;
        found.extend(listed(Kind::Image, answer, unlisted));
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    found
        .into_iter()
        .filter_map(|image| {
            let owned = image.owned_by(run, instances)?;
            Some((image, owned))
        })
        .collect()
}

/// The snapshots of a run, by its tag and by its volumes.
async fn snapshots(
    cloud: &Cloud,
    run: &RunId,
    volumes: &[Owned<VolumeId>],
    instances: &[Owned<InstanceId>],
    unlisted: &mut Vec<Unlisted>,
) -> Vec<Owned<SnapshotId>> {
    let answer = cloud.images.snapshots_tagged(tags::RUN, Some(run.as_str()));
    let mut found = listed(Kind::Snapshot, answer.await, unlisted);
    let of: Vec<VolumeId> = volumes.iter().map(|owned| owned.id().clone()).collect();
    let answer = cloud.images.snapshots_of(&of).await;
    found.extend(listed(Kind::Snapshot, answer, unlisted));
    let mut owned: Vec<_> = found
        .iter()
        .filter_map(|snapshot| snapshot.owned_by(run, volumes, instances))
        .collect();
    owned.sort();
    owned.dedup();
    owned
}

/// Removes everything the ledger lists as open. What could not be removed is returned, and stays open in the ledger.
pub(crate) async fn sweep(
    cloud: &Cloud,
    ledger: &mut Ledger,
    step: &mut Step,
) -> anyhow::Result<Vec<Left>> {
    let mut unlisted = find(cloud, ledger).await?;
    let unknown: Vec<Kind> = unlisted.iter().map(|one| one.kind).collect();
    // An error that all calls share is reported once.
    unlisted.dedup_by(|one, before| one.why.kind == before.why.kind && one.why.is_of_all_calls());
    let mut left: Vec<Left> = unlisted.into_iter().map(Left::from).collect();
    for kind in ORDER {
        // An image brings snapshots and an instance its record, so the list is read again for every kind.
        for thing in ledger
            .open_things()
            .into_iter()
            .filter(|thing| thing.kind == kind)
        {
            let Some(id) = &thing.id else {
                // Searched for by its run's tag and not found: it was never created.
                if !unknown.contains(&kind) {
                    ledger.mark(kind, &thing.name, State::Removed)?;
                }
                continue;
            };
            step.waiting(format!("removing {kind} {id}"));
            match remove(cloud, ledger, kind, id, step).await {
                Ok(state) => ledger.mark(kind, id.id(), state)?,
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
    kind: Kind,
    id: &Owned<String>,
    step: &mut Step,
) -> anyhow::Result<State> {
    match kind {
        Kind::Instance => {
            let id = id.typed()?;
            let record = id.record(&ledger.journal().image);
            ledger.exists(Kind::Parameter, record.id(), &record)?;
            cloud.instances.terminate(&id).await?;
            wait_terminated(cloud, id.id(), step).await?;
        }
        Kind::Volume => {
            let id = id.typed()?;
            while_in_use(async || cloud.instances.delete_volume(&id).await).await?;
        }
        Kind::NetworkInterface => {
            let id = id.typed()?;
            while_in_use(async || cloud.instances.delete_network_interface(&id).await).await?;
        }
        Kind::KeyPair => cloud.instances.delete_key_pair(&id.typed()?).await?,
        Kind::SecurityGroup => {
            let id = id.typed()?;
            while_in_use(async || cloud.instances.delete_security_group(&id).await).await?;
        }
        Kind::Image => return remove_image(cloud, ledger, &id.typed()?, step).await,
        Kind::Snapshot => cloud.images.delete_snapshot(&id.typed()?).await?,
        Kind::Parameter => cloud.parameters.delete(id).await?,
    }
    Ok(State::Removed)
}

async fn remove_image(
    cloud: &Cloud,
    ledger: &mut Ledger,
    id: &Owned<ImageId>,
    step: &mut Step,
) -> anyhow::Result<State> {
    let Some(image) = cloud.images.image(id.id()).await? else {
        return Ok(State::Removed);
    };
    if claim(cloud, &image, &ledger.journal().image, ledger.run())
        .await?
        .is_some()
    {
        return Ok(State::Kept);
    }
    // Recorded before the image is removed: afterwards nothing links them to it any more.
    let mut unlisted = Vec::new();
    let instances = instances(cloud, ledger, &mut unlisted).await?;
    let volumes = known(ledger, Kind::Volume);
    let run = ledger.run().clone();
    let owned = snapshots(cloud, &run, &volumes, &instances, &mut unlisted).await;
    if let Some(Unlisted { why, .. }) = unlisted.pop() {
        return Err(why.into());
    }
    for snapshot in &image.snapshots {
        match owned.iter().find(|owned| owned.id() == snapshot) {
            Some(owned) => ledger.exists(Kind::Snapshot, "", owned)?,
            None => step.info(format!(
                "{snapshot} of {id} stays: nothing shows that it belongs to this run"
            )),
        }
    }
    cloud.images.deregister(id).await?;
    Ok(State::Removed)
}

async fn wait_terminated(cloud: &Cloud, id: &InstanceId, step: &mut Step) -> anyhow::Result<()> {
    for _ in 0..POLLS {
        match cloud.instances.instance(id).await? {
            Some(instance) if instance.state != InstanceState::Terminated => {
                step.waiting(format!("waiting for {id} to terminate"));
                tokio::time::sleep(POLL).await;
            }
            _ => return Ok(()),
        }
    }
    anyhow::bail!("{id} does not terminate")
}

/// Repeats a removal for a minute: resources that a terminated instance used are released a little later.
async fn while_in_use(mut remove: impl AsyncFnMut() -> Answer<()>) -> Answer<()> {
    let mut polls = 0;
    loop {
        match remove().await {
            Err(error) if error.kind == Cause::InUse && polls < POLLS / 10 => {
                polls += 1;
                tokio::time::sleep(POLL).await;
            }
            other => return other,
        }
    }
}
