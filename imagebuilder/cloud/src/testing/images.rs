//! AMIs and snapshots.

use super::*;

impl AwsState {
    /// Adds an image with one snapshot, made from nothing that is here.
    pub fn add_image(&mut self, owner: &str, name: &str, tags: Tags) -> ImageId {
        self.image_of(owner, name, tags, None)
    }

    /// Adds an image with one snapshot, made from an instance.
    pub fn create_image(&mut self, source: &InstanceId, name: &str, tags: Tags) -> ImageId {
        self.image_of(OWNER, name, tags, Some(source))
    }

    /// Adds an image of the account with this id that passed the gate.
    pub fn add_verified_image(&mut self, id: &str) {
        let verdict = (contract::tags::VERDICT.to_owned(), "fit".to_owned());
        let made = self.add_image(OWNER, &format!("shop-{id}"), Tags::from([verdict]));
        self.rename_image(&made, id);
    }

    /// Gives an image another id.
    pub fn rename_image(&mut self, from: &ImageId, to: &str) {
        let mut image = self.images.remove(from).unwrap();
        image.id = ImageId::parse(to).unwrap();
        self.images.insert(image.id.clone(), image);
    }

    fn image_of(
        &mut self,
        owner: &str,
        name: &str,
        tags: Tags,
        source: Option<&InstanceId>,
    ) -> ImageId {
        let id = ImageId::parse(self.id("ami")).unwrap();
        let by = source.map_or("i-1", InstanceId::as_str);
        let volume = source.and_then(|source| self.attached.get(source)?.first().cloned());
        let description = format!("Created by CreateImage({by}) for {id}");
        let snapshot = self.add_snapshot(volume, &description, tags.clone());
        let image = Image {
            id: id.clone(),
            name: name.to_owned(),
            created: format!("2026-01-01T00:00:{:02}.000Z", self.last_id % 60),
            state: ImageState::Available,
            architecture: "x86_64".to_owned(),
            owner: owner.to_owned(),
            source_instance: source.cloned(),
            disks: vec![Disk {
                device: "/dev/xvda".to_owned(),
                size_gib: 8,
                kind: "gp3".to_owned(),
            }],
            root_device: "/dev/xvda".to_owned(),
            root_on_ebs: true,
            boot_mode: Some("uefi".to_owned()),
            requires_tokens: false,
            deprecated: None,
            snapshots: vec![snapshot],
            tags,
        };
        self.images.insert(id.clone(), image);
        id
    }

    /// Adds a snapshot.
    pub fn add_snapshot(
        &mut self,
        volume: Option<VolumeId>,
        description: &str,
        tags: Tags,
    ) -> SnapshotId {
        let id = SnapshotId::parse(self.id("snap")).unwrap();
        let snapshot = Snapshot {
            id: id.clone(),
            description: description.to_owned(),
            volume,
            tags,
        };
        self.snapshots.insert(id.clone(), snapshot);
        id
    }
}

/// Whether an image passes one of EC2's filters, as far as we send them: `tag:<key>`, `tag-key`, and attributes with globs.
fn passes(filter: &str, values: &[String], image: &Image) -> bool {
    if let Some(key) = filter.strip_prefix("tag:") {
        let carries = |value: &String| carries(&image.tags, key, Some(value));
        return values.iter().any(carries);
    }
    let attribute = match filter {
        "tag-key" => return values.iter().any(|key| image.tags.contains_key(key)),
        "name" => image.name.as_str(),
        "image-id" => image.id.as_str(),
        "architecture" => image.architecture.as_str(),
        "source-instance-id" => image
            .source_instance
            .as_ref()
            .map_or("", InstanceId::as_str),
        _ => return true,
    };
    values.iter().any(|value| glob(value, attribute))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            let Some(rest) = text.strip_prefix(head) else {
                return false;
            };
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(tail, &rest[at..]))
        }
    }
}

#[async_trait]
impl Images for InMemoryAws {
    async fn search(&self, search: &Search) -> Answer<Vec<Image>> {
        self.read("search", |aws| {
            let owned = |image: &&Image| {
                let is = |owner: &String| match owner.as_str() {
                    "self" => image.owner == OWNER,
                    owner => image.owner == owner,
                };
                search.owners.is_empty() || search.owners.iter().any(is)
            };
            let passes = |image: &&Image| {
                search.filters.iter().all(|(name, values)| {
                    let by_run = name.starts_with("tag") || name == "source-instance-id";
                    aws.unfiltered && by_run || passes(name, values, image)
                })
            };
            // As the service does it: an owner sees them in any case.
            let shown = |image: &&Image| {
                let is_withdrawn = image.deprecated.is_some()
                    || image.state == ImageState::Other("disabled".to_owned());
                search.withdrawn || image.owner == OWNER || !is_withdrawn
            };
            let all = aws.images.values().filter(owned);
            let matching = all.filter(shown).filter(passes);
            Ok(matching.cloned().collect())
        })
        .await
    }

    async fn image(&self, id: &ImageId) -> Answer<Option<Image>> {
        self.read("image", |aws| Ok(aws.images.get(id).cloned()))
            .await
    }

    async fn tag(&self, ids: &[Owned<String>], tags: &Tags) -> Answer<()> {
        self.change("tag", |aws| {
            for id in ids.iter().map(|id| id.id().as_str()) {
                let image = ImageId::parse(id).ok();
                let image = image.and_then(|id| aws.images.get_mut(&id));
                let snapshot = SnapshotId::parse(id).ok();
                let snapshot = snapshot.and_then(|id| aws.snapshots.get_mut(&id));
                let found = image.map(|image| &mut image.tags);
                for found in found.into_iter().chain(snapshot.map(|one| &mut one.tags)) {
                    found.extend(tags.clone());
                }
            }
            Ok(())
        })
        .await
    }

    async fn share(&self, image: &Image, accounts: &[AccountId]) -> Answer<()> {
        self.change("share", |aws| {
            let shares = aws.shares.entry(image.id.clone()).or_default();
            shares.extend(accounts.iter().cloned());
            Ok(())
        })
        .await
    }

    async fn require_tokens(&self, id: &Owned<ImageId>) -> Answer<()> {
        self.change("require_tokens", |aws| {
            if let Some(image) = aws.images.get_mut(id.id()) {
                image.requires_tokens = true;
            }
            Ok(())
        })
        .await
    }

    async fn shared_with(&self, id: &ImageId) -> Answer<Vec<AccountId>> {
        self.read("shared_with", |aws| {
            Ok(aws.shares.get(id).cloned().unwrap_or_default())
        })
        .await
    }

    async fn deregister(&self, id: &Owned<ImageId>) -> Answer<()> {
        self.change("deregister", |aws| {
            aws.images.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn snapshots_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Snapshot>> {
        self.read("snapshots_tagged", |aws| {
            Ok(aws.tagged(aws.snapshots.values(), |one| &one.tags, key, value))
        })
        .await
    }

    async fn snapshots_of(&self, volumes: &[VolumeId]) -> Answer<Vec<Snapshot>> {
        self.read("snapshots_of", |aws| {
            let of = |snapshot: &&Snapshot| {
                let volume = snapshot.volume.as_ref();
                aws.unfiltered || volume.is_some_and(|volume| volumes.contains(volume))
            };
            Ok(aws.snapshots.values().filter(of).cloned().collect())
        })
        .await
    }

    async fn delete_snapshot(&self, id: &Owned<SnapshotId>) -> Answer<()> {
        self.change("delete_snapshot", |aws| {
            let id = id.id();
            let mut images = aws.images.values();
            if images.any(|image| image.snapshots.contains(id)) {
                let operation = format!("delete {id}");
                let code = "InvalidSnapshot.InUse";
                return Err(CloudError::new(Kind::InUse, operation, code, ""));
            }
            aws.snapshots.remove(id);
            Ok(())
        })
        .await
    }
}
