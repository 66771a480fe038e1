//! Registering, creating and deregistering images, and the base images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;

use super::State;
use super::disks::{Snapshot, SnapshotState, Source, Volume};
use super::images::{Image, ImageState, Mapping, not_found, too_small};
use super::instances::{Instance, Phase};
use super::tags::{self, Tags};
use crate::account::ACCOUNT;
use crate::ids::{Id as _, ImageId, InstanceId, SnapshotId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml};

/// Debian's account.
pub(crate) const DEBIAN: &str = "136693071363";
/// The base image's root disk, GiB, as Debian's images have it.
const BASE_SIZE: u32 = 8;

impl State {
    /// The image of that id.
    ///
    /// # Errors
    /// `InvalidAMIID.NotFound`.
    pub(crate) fn image(&self, id: &ImageId) -> Result<&Image, ApiError> {
        self.images.get(id).ok_or_else(|| not_found(&[id.as_str()]))
    }

    pub(super) fn check_name(&self, name: &str) -> Result<(), ApiError> {
        let shaped = (3..=128).contains(&name.len())
            && name.chars().all(|character| {
                character.is_ascii_alphanumeric() || "()[] ./-'@_".contains(character)
            });
        if !shaped {
            return Err(ApiError::new(
                "InvalidAMIName.Malformed",
                "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'",
            ));
        }
        match self
            .images
            .values()
            .find(|image| image.owner == ACCOUNT && image.name == name)
        {
            Some(image) => Err(ApiError::new(
                "InvalidAMIName.Duplicate",
                format!("AMI name {name} is already in use by AMI {}", image.id),
            )),
            None => Ok(()),
        }
    }

    /// Records that a snapshot was copied, or why not, and updates the images that wait for it. Returns `false` when it
    /// has been deleted meanwhile.
    pub(crate) fn finish_copy(
        &mut self,
        snapshot_id: &SnapshotId,
        outcome: Result<(), String>,
        now: Timestamp,
    ) -> bool {
        let Some(snapshot) = self.snapshots.get_mut(snapshot_id) else {
            return false;
        };
        match &outcome {
            Ok(()) => {
                snapshot.state = SnapshotState::Completed;
                snapshot.completed = Some(now);
            }
            Err(why) => snapshot.state = SnapshotState::Failed(why.clone()),
        }
        let snapshots = &self.snapshots;
        let waits = |_: &ImageId, image: &Image| {
            image.state == ImageState::Pending && image.uses(snapshot_id)
        };
        self.images.update_where(waits, |_, image| {
            let whole = image.snapshots().all(|id| {
                snapshots
                    .get(id)
                    .is_some_and(|snapshot| snapshot.state == SnapshotState::Completed)
            });
            match &outcome {
                Err(why) => image.state = ImageState::Failed(why.clone()),
                Ok(()) if whole => image.state = ImageState::Available,
                Ok(()) => {}
            }
        });
        true
    }

    /// Removes a base image whose disk could not be imported.
    pub(crate) fn remove_base_image(&mut self, snapshot_id: &SnapshotId) {
        self.images.remove_where(|_, image| image.uses(snapshot_id));
        self.drop_snapshot(snapshot_id);
    }

    /// Whether an image of Debian's own was registered.
    pub(crate) fn has_base_image(&self) -> bool {
        self.snapshots
            .values()
            .any(|snapshot| snapshot.owner == DEBIAN)
    }

    /// Registers the disk image `file` (or an empty disk) as Debian's own image of `suite`, unless it is registered.
    /// Its snapshot is pending until `machines.rs` has imported the file. `boot_mode` is what its disk can be booted
    /// by.
    pub(crate) fn register_base_image(
        &mut self,
        suite: u32,
        file: Option<PathBuf>,
        boot_mode: &str,
        now: Timestamp,
    ) {
        let source = file.map_or(Source::Nothing, Source::File);
        if self
            .snapshots
            .values()
            .any(|snapshot| snapshot.owner == DEBIAN && snapshot.source == source)
        {
            return;
        }
        // A serial number as in Debian's image names: the date, and a counter per day.
        let day = now.strftime("%Y%m%d").to_string();
        let stem = format!("debian-{suite}-amd64-{day}");
        let serial = self
            .images
            .values()
            .filter(|image| image.name.starts_with(&stem))
            .count()
            + 1;
        let snapshot = Snapshot {
            id: SnapshotId::fresh(),
            source,
            size: BASE_SIZE,
            state: SnapshotState::Pending,
            started: now,
            completed: None,
            description: format!("Debian {suite} root volume"),
            owner: DEBIAN.to_owned(),
            key: None,
            shared: ["all".to_owned()].into(),
        };
        let image = Image {
            id: ImageId::fresh(),
            name: format!("{stem}-{serial:04}"),
            description: format!("Debian {suite} ({day}-{serial:04})"),
            owner: DEBIAN.to_owned(),
            created: now,
            state: ImageState::Pending,
            mappings: vec![Mapping {
                device: "/dev/xvda".to_owned(),
                snapshot: Some(snapshot.id.clone()),
                size: Some(BASE_SIZE),
                kind: Some("gp3".to_owned()),
                delete_on_termination: Some(true),
                encrypted: Some(false),
                ..Mapping::default()
            }],
            root_device: "/dev/xvda".to_owned(),
            architecture: "x86_64".to_owned(),
            boot_mode: Some(boot_mode.to_owned()),
            ena: true,
            imds: None,
            sriov: Some("simple".to_owned()),
            shared: ["all".to_owned()].into(),
            source_instance: None,
            source_image: None,
            deprecated: None,
            launched: None,
        };
        self.snapshots.insert(snapshot.id.clone(), snapshot);
        self.images.insert(image.id.clone(), image);
    }
}

fn one_of(params: &Params, name: &str, known: &[&str]) -> Result<Option<String>, ApiError> {
    match params.text(name) {
        Some(value) if !known.contains(&value) => Err(ApiError::invalid_value(
            name,
            value,
            &format!("expecting one of {}", known.join(", ")),
        )),
        value => Ok(value.map(str::to_owned)),
    }
}

/// Architectures of images; the first is EC2's default
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RegisterImage.html>).
const ARCHITECTURES: [&str; 5] = ["i386", "x86_64", "arm64", "x86_64_mac", "arm64_mac"];
/// Parameters of RegisterImage that are kept; others are refused.
const REGISTERED: [&str; 14] = [
    "Action",
    "Version",
    "DryRun",
    "Name",
    "Description",
    "Architecture",
    "BlockDeviceMapping",
    "RootDeviceName",
    "VirtualizationType",
    "EnaSupport",
    "SriovNetSupport",
    "BootMode",
    "ImdsSupport",
    "TagSpecification",
];

/// RegisterImage: from existing snapshots.
pub(crate) fn register(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    check_kept(params)?;
    let name = params.required("Name")?;
    state.check_name(name)?;
    let root_device = params
        .text("RootDeviceName")
        .unwrap_or("/dev/sda1")
        .to_owned();
    let mut mappings = Mapping::read_all(params)?;
    for mapping in &mut mappings {
        fill_from_snapshot(state, mapping)?;
    }
    if !mappings
        .iter()
        .any(|mapping| mapping.device == root_device && mapping.snapshot.is_some())
    {
        return Err(ApiError::new(
            "InvalidBlockDeviceMapping",
            format!("No snapshot is mapped to the root device {root_device}"),
        ));
    }
    if params.text("VirtualizationType") == Some("paravirtual") {
        return Err(ApiError::new(
            "UnsupportedOperation",
            "paravirtual images do not run here",
        ));
    }
    mappings.sort_by_key(|mapping| mapping.device != root_device);
    let image = Image {
        id: ImageId::fresh(),
        name: name.to_owned(),
        description: params.string("Description").unwrap_or_default(),
        owner: ACCOUNT.to_owned(),
        created: ctx.now,
        state: ImageState::Available,
        mappings,
        root_device,
        // EC2's default architecture.
        architecture: one_of(params, "Architecture", &ARCHITECTURES)?
            .unwrap_or_else(|| ARCHITECTURES[0].to_owned()),
        boot_mode: one_of(
            params,
            "BootMode",
            &["uefi", "uefi-preferred", "legacy-bios"],
        )?,
        ena: params.boolean("EnaSupport")?.unwrap_or(false),
        imds: one_of(params, "ImdsSupport", &["v2.0"])?,
        sriov: one_of(params, "SriovNetSupport", &["simple"])?,
        shared: BTreeSet::new(),
        source_instance: None,
        source_image: None,
        deprecated: None,
        launched: None,
    };
    tags::check_kinds(params, &["image"])?;
    let tags = tags::specified(params, "image")?;
    Ok(add(state, image, tags))
}

/// Refuses parameters that the image would not keep.
fn check_kept(params: &Params) -> Result<(), ApiError> {
    let forgotten = params.iter().find(|(name, _)| {
        let field = name.split('.').next().unwrap_or_default();
        !REGISTERED.contains(&field)
    });
    match forgotten {
        Some((name, value)) => Err(ApiError::new(
            "UnsupportedOperation",
            format!("{name} ({value}) of an image cannot be honoured here"),
        )),
        None => Ok(()),
    }
}

/// Fills in what a mapping inherits from its snapshot: size and encryption.
///
/// # Errors
/// `IncorrectState` for a snapshot that is not completed, and those of a size or flag that do not fit it.
fn fill_from_snapshot(state: &State, mapping: &mut Mapping) -> Result<(), ApiError> {
    let Some(id) = &mapping.snapshot else {
        return Ok(());
    };
    let snapshot = state.snapshot(id)?;
    if snapshot.state != SnapshotState::Completed {
        return Err(ApiError::new(
            "IncorrectState",
            format!("Snapshot is in invalid state - {}", snapshot.state.name()),
        ));
    }
    let size = mapping.size.unwrap_or(snapshot.size);
    if size < snapshot.size {
        return Err(too_small(size, id.as_str(), snapshot.size));
    }
    mapping.size = Some(size);
    mapping.delete_on_termination.get_or_insert(true);
    if mapping.encrypted.is_some() {
        return Err(encrypted_flag(&mapping.device, "has a snapshot specified"));
    }
    mapping.encrypted = Some(snapshot.key.is_some());
    Ok(())
}

pub(super) fn add(state: &mut State, image: Image, tags: Tags) -> Xml {
    let mut xml = Xml::new();
    xml.text("imageId", &image.id);
    state.tag(&image.id, tags);
    state.images.insert(image.id.clone(), image);
    xml
}

/// EC2's error for `Encrypted` where it cannot be chosen.
fn encrypted_flag(device: &str, why: &str) -> ApiError {
    ApiError::new(
        "InvalidBlockDeviceMapping",
        format!("the encrypted flag cannot be specified since device {device} {why}."),
    )
}

/// CreateImage: from a stopped instance, or from a running one that is powered off and on again.
pub(crate) fn create(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let name = params.required("Name")?;
    state.check_name(name)?;
    let instance = state
        .instance(&InstanceId::required(params, "InstanceId")?)?
        .clone();
    check_copyable(&instance, params)?;
    tags::check_kinds(params, &["image", "snapshot"])?;
    let image_tags = tags::specified(params, "image")?;
    let snapshot_tags = tags::specified(params, "snapshot")?;
    let mut overrides = Mapping::read_all(params)?;
    let id = ImageId::fresh();
    let mut snapshots = Vec::new();
    let mut devices = Vec::new();
    for (volume, attachment) in state.volumes_of(&instance.id) {
        if !is_included(volume, &attachment.device, &mut overrides)? {
            continue;
        }
        let snapshot = Snapshot {
            id: SnapshotId::fresh(),
            source: Source::Volume(volume.id.clone()),
            size: volume.size,
            state: SnapshotState::Pending,
            started: ctx.now,
            completed: None,
            description: format!("Created by CreateImage({}) for {id}", instance.id),
            owner: ACCOUNT.to_owned(),
            key: volume.key.clone(),
            shared: BTreeSet::new(),
        };
        devices.push(Mapping {
            device: attachment.device.clone(),
            snapshot: Some(snapshot.id.clone()),
            size: Some(volume.size),
            kind: Some(volume.kind.clone()),
            iops: volume.iops,
            throughput: volume.throughput,
            encrypted: Some(volume.key.is_some()),
            delete_on_termination: Some(attachment.delete_on_termination),
            ..Mapping::default()
        });
        snapshots.push(snapshot);
    }
    let image = Image {
        id,
        name: name.to_owned(),
        description: params.string("Description").unwrap_or_default(),
        owner: ACCOUNT.to_owned(),
        created: ctx.now,
        state: ImageState::Pending,
        mappings: Mapping::overlay(&devices, &overrides),
        root_device: instance.root_device.clone(),
        architecture: instance.architecture.clone(),
        boot_mode: instance.boot_mode.clone(),
        ena: instance.ena,
        imds: None,
        sriov: instance.sriov.clone(),
        shared: BTreeSet::new(),
        source_instance: Some(instance.id.clone()),
        source_image: Some(instance.image.clone()),
        deprecated: None,
        launched: None,
    };
    for snapshot in snapshots {
        state.tag(&snapshot.id, snapshot_tags.clone());
        state.snapshots.insert(snapshot.id.clone(), snapshot);
    }
    if let Some(instance) = state.instances.get_mut(&instance.id) {
        instance.reboots = instance.phase == Phase::Running;
    }
    Ok(add(state, image, image_tags))
}

/// Refuses an instance whose disks cannot be copied consistently now.
fn check_copyable(instance: &Instance, params: &Params) -> Result<(), ApiError> {
    match instance.phase {
        Phase::Stopped => Ok(()),
        Phase::Running if params.boolean("NoReboot")? == Some(true) => Err(ApiError::new(
            "UnsupportedOperation",
            "the disk of a running instance cannot be copied consistently: stop the instance first, or omit NoReboot",
        )),
        Phase::Running => Ok(()),
        phase => Err(ApiError::new(
            "IncorrectState",
            format!(
                "Instance is not in state 'running' or 'stopped': it is {}",
                phase.name()
            ),
        )),
    }
}

/// Whether the image of an instance includes its volume at `device`: the request may leave it out, but cannot change
/// its encryption.
fn is_included(volume: &Volume, device: &str, overrides: &mut [Mapping]) -> Result<bool, ApiError> {
    let Some(wanted) = overrides.iter_mut().find(|wanted| wanted.device == device) else {
        return Ok(true);
    };
    if wanted.suppressed {
        return Ok(false);
    }
    if wanted.encrypted == Some(true) && volume.key.is_none() {
        return Err(encrypted_flag(device, "is of an unencrypted volume"));
    }
    // EC2 ignores `false` for an encrypted volume.
    wanted.encrypted = None;
    Ok(true)
}

/// DeregisterImage, with its snapshots when requested.
pub(crate) fn deregister(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = ImageId::required(params, "ImageId")?;
    let image = state.image(&id)?;
    image.check_own()?;
    let snapshots: Vec<SnapshotId> = image.snapshots().cloned().collect();
    let with_snapshots = params.boolean("DeleteAssociatedSnapshots")? == Some(true);
    state.images.remove(&id);
    state.tags.remove(id.as_str());
    state
        .tokens
        .remove_where(|_, used| used.made == [id.as_str()]);
    let mut xml = tags::done();
    if with_snapshots {
        let mut results = BTreeMap::new();
        for snapshot in snapshots {
            let shared = state.images.values().any(|image| image.uses(&snapshot));
            if !shared {
                state.drop_snapshot(&snapshot);
            }
            results.insert(snapshot, if shared { "skipped" } else { "success" });
        }
        xml.list(
            "deleteSnapshotResultSet",
            "item",
            results,
            |x, (snapshot, code)| {
                x.text("snapshotId", snapshot).text("returnCode", code);
            },
        );
    }
    Ok(xml)
}
