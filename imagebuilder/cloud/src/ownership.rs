//! Which resources belong to a run, by what the API shows of them. The rule is [`Owned`]'s.

use contract::image_release::ImageRelease;
use contract::names::registry_parameter;
use contract::tags;

use super::{
    Image, Instance, KeyPair, NetworkInterface, Owned, Parameter, SecurityGroup, Snapshot, Tags,
    Volume,
};
use crate::ids::{
    ImageId, InstanceId, KeyPairId, NetworkInterfaceId, RunId, SecurityGroupId, SnapshotId,
    VolumeId,
};

/// Whether the API shows this run's tag on a resource.
fn tagged(tags: &Tags, run: &RunId) -> bool {
    tags.get(tags::RUN).map(String::as_str) == Some(run.as_str())
}

macro_rules! by_tag {
    ($($view:ident => $id:ident),* $(,)?) => {$(
        impl $view {
            /// Its id, if it carries the tag of `run`.
            pub fn owned_by(&self, run: &RunId) -> Option<Owned<$id>> {
                tagged(&self.tags, run).then(|| Owned(self.id.clone()))
            }
        }
    )*};
}

by_tag! {
    Instance => InstanceId,
    KeyPair => KeyPairId,
    NetworkInterface => NetworkInterfaceId,
    SecurityGroup => SecurityGroupId,
    Volume => VolumeId,
}

impl Image {
    /// Its id, if it carries the tag of `run`, or carries no run's tag and was made from one of that run's instances.
    pub fn owned_by(&self, run: &RunId, instances: &[Owned<InstanceId>]) -> Option<Owned<ImageId>> {
        let made_from = |source: &InstanceId| instances.iter().any(|owned| owned.id() == source);
        let untagged = !self.tags.contains_key(tags::RUN);
        (tagged(&self.tags, run)
            || untagged && self.source_instance.as_ref().is_some_and(made_from))
        .then(|| Owned(self.id.clone()))
    }
}

impl Snapshot {
    /// Its id, if it carries the tag of `run`, or carries no run's tag and is what CreateImage took of that run's volumes
    /// and instances. The volume is the evidence; the description, which any caller may write, only narrows it: a snapshot that
    /// another user takes of our volume is not ours.
    pub fn owned_by(
        &self,
        run: &RunId,
        volumes: &[Owned<VolumeId>],
        instances: &[Owned<InstanceId>],
    ) -> Option<Owned<SnapshotId>> {
        let of = |volume: &VolumeId| volumes.iter().any(|owned| owned.id() == volume);
        let by_create_image = || {
            let by = self.description.strip_prefix("Created by CreateImage(");
            let instance = by.and_then(|by| by.split_once(')')).map(|(id, _)| id);
            instances
                .iter()
                .any(|owned| Some(owned.id().as_str()) == instance)
        };
        let untagged = !self.tags.contains_key(tags::RUN);
        let taken = || self.volume.as_ref().is_some_and(of) && by_create_image();
        (tagged(&self.tags, run) || untagged && taken()).then(|| Owned(self.id.clone()))
    }
}

impl Owned<InstanceId> {
    /// The registry record that the agent of this instance keeps: its name has the instance's id in it.
    pub fn record(&self, image: &str) -> Owned<String> {
        Owned(registry_parameter(image, self.0.as_str()))
    }
}

impl Parameter {
    /// Its name, if its value is one of our own images: a pointer that the image's run set.
    pub fn owned_with(&self, image: &Owned<ImageId>) -> Option<Owned<String>> {
        (self.value == image.id().as_str()).then(|| Owned(self.name.clone()))
    }

    /// Its name, if its value is a release record that names nothing but our own images: one that their run wrote.
    pub fn owned_as_release(&self, images: &[Owned<ImageId>]) -> Option<Owned<String>> {
        let release: ImageRelease = serde_json::from_str(&self.value).ok()?;
        let ours = |id: &String| images.iter().any(|own| own.id().as_str() == id);
        (!release.images.is_empty() && release.images.values().all(ours))
            .then(|| Owned(self.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageState, InstanceState};

    fn run(text: &str) -> RunId {
        RunId::parse(text).unwrap()
    }

    fn tags(run: Option<&str>) -> Tags {
        run.map(|run| (tags::RUN.to_owned(), run.to_owned()))
            .into_iter()
            .collect()
    }

    fn instance(run: Option<&str>) -> Instance {
        Instance {
            id: InstanceId::parse("i-1").unwrap(),
            image: None,
            state: InstanceState::Running,
            launched: None,
            reason: String::new(),
            reason_code: String::new(),
            tags: tags(run),
        }
    }

    #[test]
    fn only_the_runs_own_tag_counts() {
        let ours = run("20260101T000000Z-bake-000001");
        for (tag, owned) in [
            (Some("20260101T000000Z-bake-000001"), true),
            (Some("20260101T000000Z-bake-000002"), false),
            (Some("20260101T000000Z-bake-00000"), false),
            (None, false),
        ] {
            assert_eq!(instance(tag).owned_by(&ours).is_some(), owned, "{tag:?}");
        }
    }

    #[test]
    fn an_image_is_owned_by_its_tag_or_its_source_instance() {
        let ours = "20260101T000000Z-bake-000001";
        let theirs = "20260101T000000Z-bake-000002";
        let builder = instance(Some(ours)).owned_by(&run(ours)).unwrap();
        for (tag, source, owned) in [
            (Some(ours), None, true),
            (Some(theirs), None, false),
            (None, None, false),
            (None, Some("i-1"), true),
            (None, Some("i-2"), false),
            // Tagged by another run: never.
            (Some(theirs), Some("i-1"), false),
        ] {
            let image = Image {
                id: ImageId::parse("ami-1").unwrap(),
                name: "shop".to_owned(),
                created: String::new(),
                state: ImageState::Available,
                architecture: "x86_64".to_owned(),
                owner: String::new(),
                source_instance: source.map(|id| InstanceId::parse(id).unwrap()),
                disks: Vec::new(),
                root_device: String::new(),
                root_on_ebs: true,
                boot_mode: None,
                requires_tokens: false,
                deprecated: None,
                snapshots: Vec::new(),
                tags: tags(tag),
            };
            let found = image.owned_by(&run(ours), std::slice::from_ref(&builder));
            assert_eq!(found.is_some(), owned, "{tag:?} {source:?}");
        }
    }

    #[test]
    fn a_snapshot_is_owned_by_tag_or_volume_not_by_description() {
        let ours = "20260101T000000Z-bake-000001";
        let theirs = "20260101T000000Z-bake-000002";
        let builder = instance(Some(ours)).owned_by(&run(ours)).unwrap();
        let volume = Volume {
            id: VolumeId::parse("vol-1").unwrap(),
            tags: tags(Some(ours)),
        };
        let volume = volume.owned_by(&run(ours)).unwrap();
        let made = "Created by CreateImage(i-1) for ami-1";
        for (tag, of, description, owned) in [
            (Some(ours), None, "", true),
            (None, Some("vol-1"), made, true),
            (
                None,
                Some("vol-1"),
                "Created by CreateImage(i-10) for ami-1",
                false,
            ),
            (None, Some("vol-1"), "before the upgrade", false),
            (None, Some("vol-2"), made, false),
            (None, None, made, false),
            (Some(theirs), Some("vol-1"), made, false),
        ] {
            let snapshot = Snapshot {
                id: SnapshotId::parse("snap-1").unwrap(),
                description: description.to_owned(),
                volume: of.map(|id| VolumeId::parse(id).unwrap()),
                tags: tags(tag),
            };
            let found = snapshot.owned_by(
                &run(ours),
                std::slice::from_ref(&volume),
                std::slice::from_ref(&builder),
            );
            assert_eq!(found.is_some(), owned, "{tag:?} {of:?} {description}");
        }
    }
}
