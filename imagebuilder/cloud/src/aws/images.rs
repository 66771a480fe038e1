//! EC2 images and snapshots.

use async_trait::async_trait;
use aws_sdk_ec2::types::{AttributeValue, DeviceType, ImdsSupportValues};
use aws_sdk_ec2::types::{Filter, LaunchPermission, LaunchPermissionModifications, Tag};
use aws_sdk_ec2::types::{OperationType, SnapshotAttributeName};

use super::disks;
use super::error::failed;
use crate::ids::{AccountId, ImageId, InstanceId, SnapshotId, VolumeId};
use crate::{Answer, CloudError, Image, ImageState, Images, Kind, Owned, Search, Snapshot, Tags};

pub(super) struct Ec2Images(pub(super) aws_sdk_ec2::Client);

/// All items of a paginated call, converted by a function; those it returns `None` for are omitted.
macro_rules! every {
    ($call:expr, $operation:literal, $view:expr) => {{
        let mut pages = $call.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(item) = pages.next().await {
            found.extend($view(&item.map_err(failed($operation))?));
        }
        Ok(found)
    }};
}
pub(super) use every;

/// A filter on one name with one value.
pub(super) fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

/// The volume id that EC2 shows for a snapshot that was copied or imported.
const NO_VOLUME: &str = "vol-ffffffff";

/// A filter on a tag; with no value, on its key.
pub(super) fn tag_filter(key: &str, value: Option<&str>) -> Filter {
    match value {
        Some(value) => filter(&format!("tag:{key}"), value),
        None => filter("tag-key", key),
    }
}

/// EC2's tags as [`Tags`].
pub(super) fn tags(tags: &[Tag]) -> Tags {
    tags.iter()
        .filter_map(|tag| {
            Some((
                tag.key()?.to_owned(),
                tag.value().unwrap_or_default().to_owned(),
            ))
        })
        .collect()
}

/// [`Tags`] as EC2's.
pub(super) fn ec2_tags(tags: &Tags) -> Vec<Tag> {
    tags.iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect()
}

fn image(answer: &aws_sdk_ec2::types::Image) -> Option<Image> {
    let state = match answer.state().map(|state| state.as_str()) {
        Some("available") => ImageState::Available,
        Some("pending") => ImageState::Pending,
        other => ImageState::Other(other.unwrap_or("unknown").to_owned()),
    };
    Some(Image {
        id: ImageId::parse(answer.image_id()?).ok()?,
        name: answer.name().unwrap_or_default().to_owned(),
        created: answer.creation_date().unwrap_or_default().to_owned(),
        state,
        architecture: answer
            .architecture()
            .map(|arch| arch.as_str().to_owned())
            .unwrap_or_default(),
        owner: answer.owner_id().unwrap_or_default().to_owned(),
        source_instance: answer
            .source_instance_id()
            .and_then(|id| InstanceId::parse(id).ok()),
        disks: answer
            .block_device_mappings()
            .iter()
            .filter_map(disks::of_image)
            .collect(),
        root_device: answer.root_device_name().unwrap_or_default().to_owned(),
        root_on_ebs: answer.root_device_type() == Some(&DeviceType::Ebs),
        boot_mode: answer.boot_mode().map(|mode| mode.as_str().to_owned()),
        requires_tokens: answer.imds_support() == Some(&ImdsSupportValues::V20),
        deprecated: answer.deprecation_time().map(ToOwned::to_owned),
        snapshots: answer
            .block_device_mappings()
            .iter()
            .filter_map(|mapping| SnapshotId::parse(mapping.ebs()?.snapshot_id()?).ok())
            .collect(),
        tags: tags(answer.tags()),
    })
}

fn snapshot(answer: &aws_sdk_ec2::types::Snapshot) -> Option<Snapshot> {
    Some(Snapshot {
        id: SnapshotId::parse(answer.snapshot_id()?).ok()?,
        description: answer.description().unwrap_or_default().to_owned(),
        volume: answer
            .volume_id()
            .filter(|id| *id != NO_VOLUME)
            .and_then(|id| VolumeId::parse(id).ok()),
        tags: tags(answer.tags()),
    })
}

impl Ec2Images {
    async fn snapshots(&self, condition: Filter) -> Answer<Vec<Snapshot>> {
        let call = self.0.describe_snapshots();
        let call = call.owner_ids("self").filters(condition);
        every!(call, "list snapshots", snapshot)
    }
}

#[async_trait]
impl Images for Ec2Images {
    async fn search(&self, search: &Search) -> Answer<Vec<Image>> {
        let mut call = self.0.describe_images();
        for owner in &search.owners {
            call = call.owners(owner);
        }
        for (name, values) in &search.filters {
            call = call.filters(
                Filter::builder()
                    .name(name)
                    .set_values(Some(values.clone()))
                    .build(),
            );
        }
        if search.withdrawn {
            call = call.include_deprecated(true).include_disabled(true);
        }
        every!(call, "search images", image)
    }

    async fn image(&self, id: &ImageId) -> Answer<Option<Image>> {
        let answer = self
            .0
            .describe_images()
            .image_ids(id.as_str())
            .send()
            .await
            .map_err(failed(format!("describe {id}")));
        match answer {
            Ok(answer) => Ok(answer.images().iter().find_map(image)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn tag(&self, ids: &[Owned<String>], tags: &Tags) -> Answer<()> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.0
            .create_tags()
            .set_resources(Some(ids.clone()))
            .set_tags(Some(ec2_tags(tags)))
            .send()
            .await
            .map_err(failed(format!("tag {}", ids.join(", "))))?;
        Ok(())
    }

    async fn share(&self, image: &Image, accounts: &[AccountId]) -> Answer<()> {
        // Snapshots first: an image shared before its snapshots can be seen but not launched.
        for snapshot in &image.snapshots {
            self.0
                .modify_snapshot_attribute()
                .snapshot_id(snapshot.as_str())
                .attribute(SnapshotAttributeName::CreateVolumePermission)
                .operation_type(OperationType::Add)
                .set_user_ids(Some(accounts.iter().map(ToString::to_string).collect()))
                .send()
                .await
                .map_err(failed(format!("share {snapshot}")))?;
        }
        let permissions = accounts
            .iter()
            .map(|account| {
                LaunchPermission::builder()
                    .user_id(account.as_str())
                    .build()
            })
            .collect();
        self.0
            .modify_image_attribute()
            .image_id(image.id.as_str())
            .launch_permission(
                LaunchPermissionModifications::builder()
                    .set_add(Some(permissions))
                    .build(),
            )
            .send()
            .await
            .map_err(failed(format!("share {}", image.id)))?;
        Ok(())
    }

    async fn require_tokens(&self, id: &Owned<ImageId>) -> Answer<()> {
        self.0
            .modify_image_attribute()
            .image_id(id.id().as_str())
            .imds_support(AttributeValue::builder().value("v2.0").build())
            .send()
            .await
            .map_err(failed(format!("have instances of {id} require IMDSv2")))?;
        Ok(())
    }

    async fn shared_with(&self, id: &ImageId) -> Answer<Vec<AccountId>> {
        let answer = self
            .0
            .describe_image_attribute()
            .image_id(id.as_str())
            .attribute(aws_sdk_ec2::types::ImageAttributeName::LaunchPermission)
            .send()
            .await
            .map_err(failed(format!("describe who may launch {id}")))?;
        Ok(answer
            .launch_permissions()
            .iter()
            .filter_map(|permission| AccountId::parse(permission.user_id()?).ok())
            .collect())
    }

    async fn deregister(&self, id: &Owned<ImageId>) -> Answer<()> {
        let answer = self
            .0
            .deregister_image()
            .image_id(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("deregister {id}")));
        ignore_not_found(answer.map(|_| ()))
    }

    async fn snapshots_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Snapshot>> {
        self.snapshots(tag_filter(key, value)).await
    }

    async fn snapshots_of(&self, volumes: &[VolumeId]) -> Answer<Vec<Snapshot>> {
        if volumes.is_empty() {
            return Ok(Vec::new());
        }
        let volumes = volumes.iter().map(ToString::to_string).collect();
        let of = Filter::builder()
            .name("volume-id")
            .set_values(Some(volumes))
            .build();
        self.snapshots(of).await
    }

    async fn delete_snapshot(&self, id: &Owned<SnapshotId>) -> Answer<()> {
        let answer = self
            .0
            .delete_snapshot()
            .snapshot_id(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("delete {id}")));
        ignore_not_found(answer.map(|_| ()))
    }
}

/// Removing a resource that does not exist counts as success.
pub(super) fn ignore_not_found(answer: Result<(), CloudError>) -> Answer<()> {
    match answer {
        Err(error) if error.kind != Kind::NotFound => Err(error),
        _ => Ok(()),
    }
}
