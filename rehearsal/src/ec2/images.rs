//! Machine images: how they come, what they are, and how they go.
//!
//! An image is its record here and the snapshots it maps to devices; `machines.rs` copies those.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::State;
use super::disks::{Snapshot, SnapshotState, Source};
use super::encryption;
use super::instances::Phase;
use super::tags::{self, Tags};
use crate::cloud::{ACCOUNT, RequestContext};
use crate::wire::{ApiError, Params, Xml, ids};

/// Debian's own account.
pub(crate) const DEBIAN: &str = "136693071363";
/// The base image's root disk, GiB, as Debian's images have it.
const BASE_SIZE: u32 = 8;

/// A machine image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `ami-…`
    pub(crate) id: String,
    /// Unique among its owner's.
    pub(crate) name: String,
    /// For people.
    pub(crate) description: String,
    /// The account it belongs to.
    pub(crate) owner: String,
    /// When it was asked for.
    pub(crate) created: Timestamp,
    /// How far it is.
    pub(crate) state: ImageState,
    /// Its devices, the root's first.
    pub(crate) mappings: Vec<Mapping>,
    /// Which of them it boots.
    pub(crate) root_device: String,
    /// One of [`ARCHITECTURES`].
    pub(crate) architecture: String,
    /// `uefi`, `uefi-preferred` or `legacy-bios`, when it says.
    pub(crate) boot_mode: Option<String>,
    /// Whether it has a driver for EC2's network adapter.
    pub(crate) ena: bool,
    /// `v2.0` when its instances shall demand IMDSv2.
    pub(crate) imds: Option<String>,
    /// `simple` when it says so.
    pub(crate) sriov: Option<String>,
    /// Accounts that may launch it besides its owner; `all` for everybody.
    pub(crate) shared: BTreeSet<String>,
    /// The instance it was made of, by CreateImage.
    pub(crate) source_instance: Option<String>,
    /// The image it comes from: the one it is a copy of, or the one its instance was launched from.
    pub(crate) source_image: Option<String>,
    /// When it is out of date, if somebody said.
    pub(crate) deprecated: Option<Timestamp>,
    /// When it was last launched.
    pub(crate) launched: Option<Timestamp>,
}

/// How far an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImageState {
    /// Its snapshots are being copied.
    Pending,
    /// It can be launched.
    Available,
    /// It never will, and why.
    Failed(String),
}

impl ImageState {
    /// As EC2 writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Available => "available",
            Self::Failed(_) => "failed",
        }
    }
}

/// A device and what is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapping {
    /// e.g. `/dev/xvda`
    pub(crate) device: String,
    /// `None` for an empty disk.
    pub(crate) snapshot: Option<String>,
    /// GiB; the snapshot's when not said.
    pub(crate) size: Option<u32>,
    /// e.g. `gp3`
    pub(crate) kind: Option<String>,
    /// IOPS.
    pub(crate) iops: Option<i64>,
    /// MiB/s.
    pub(crate) throughput: Option<i64>,
    /// Whether EC2 would encrypt it.
    pub(crate) encrypted: Option<bool>,
    /// The ARN of the key it is to be encrypted with, of a launch request.
    pub(crate) key: Option<String>,
    /// Whether the volume goes with its instance.
    pub(crate) delete_on_termination: Option<bool>,
    /// `ephemeral0`…, which no type here has: kept and shown.
    pub(crate) virtual_name: Option<String>,
    /// That the device shall not be, whatever the image says.
    pub(crate) suppressed: bool,
}

impl Mapping {
    /// Reads `BlockDeviceMapping.N`.
    ///
    /// # Errors
    /// When a field is none that EC2 takes.
    pub(crate) fn read_all(params: &Params) -> Result<Vec<Self>, ApiError> {
        params
            .structs("BlockDeviceMapping")
            .iter()
            .map(|mapping| {
                let ebs = mapping.structure("Ebs");
                let encryption = encryption::Requested::read(&ebs)?;
                let size = match ebs.integer("VolumeSize")? {
                    None => None,
                    Some(size) => Some(
                        u32::try_from(size)
                            .ok()
                            .filter(|size| (1..=16_384).contains(size))
                            .ok_or_else(|| {
                                ApiError::invalid_value(
                                    "volumeSize",
                                    &size.to_string(),
                                    "Expecting 1 to 16384 GiB.",
                                )
                            })?,
                    ),
                };
                let kind = ebs.string("VolumeType");
                if let Some(kind) = &kind
                    && !["standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"]
                        .contains(&kind.as_str())
                {
                    return Err(ApiError::invalid_value(
                        "volumeType",
                        kind,
                        "Unknown volume type.",
                    ));
                }
                Ok(Self {
                    device: mapping.required("DeviceName")?.to_owned(),
                    snapshot: ebs.string("SnapshotId"),
                    size,
                    kind,
                    iops: ebs.integer("Iops")?,
                    throughput: ebs.integer("Throughput")?,
                    encrypted: encryption.encrypted,
                    key: encryption.key,
                    delete_on_termination: ebs.boolean("DeleteOnTermination")?,
                    virtual_name: mapping.string("VirtualName"),
                    suppressed: mapping.text("NoDevice").is_some(),
                })
            })
            .collect()
    }

    /// This mapping with what `wish` says in its place.
    pub(crate) fn with(&self, wish: &Self) -> Self {
        Self {
            device: self.device.clone(),
            snapshot: wish.snapshot.clone().or_else(|| self.snapshot.clone()),
            size: wish.size.or(self.size),
            kind: wish.kind.clone().or_else(|| self.kind.clone()),
            iops: wish.iops.or(self.iops),
            throughput: wish.throughput.or(self.throughput),
            encrypted: wish.encrypted.or(self.encrypted),
            key: wish.key.clone().or_else(|| self.key.clone()),
            delete_on_termination: wish.delete_on_termination.or(self.delete_on_termination),
            virtual_name: wish
                .virtual_name
                .clone()
                .or_else(|| self.virtual_name.clone()),
            suppressed: wish.suppressed,
        }
    }

    /// Lays `wishes` over `devices`: known devices are changed or left out, new ones added.
    pub(crate) fn overlay(devices: &[Self], wishes: &[Self]) -> Vec<Self> {
        let mut all = devices.to_vec();
        for wish in wishes {
            match all.iter_mut().find(|mapping| mapping.device == wish.device) {
                Some(mapping) => *mapping = mapping.with(wish),
                None => all.push(wish.clone()),
            }
        }
        all.retain(|mapping| !mapping.suppressed);
        all
    }
}

impl Image {
    /// Whether it stands on that snapshot.
    pub(crate) fn uses(&self, snapshot_id: &str) -> bool {
        self.snapshots().any(|id| id == snapshot_id)
    }

    /// The snapshots it stands on.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &str> {
        self.mappings
            .iter()
            .filter_map(|mapping| mapping.snapshot.as_deref())
    }

    /// Refuses to change another's image.
    ///
    /// # Errors
    /// `AuthFailure`.
    pub(crate) fn check_own(&self) -> Result<(), ApiError> {
        if self.owner == ACCOUNT {
            return Ok(());
        }
        Err(ApiError::new(
            "AuthFailure",
            format!("Not authorized for image:{}", self.id),
        ))
    }
}

impl State {
    /// The image of that id.
    ///
    /// # Errors
    /// `InvalidAMIID.NotFound`, `InvalidAMIID.Malformed`.
    pub(crate) fn image(&self, id: &str) -> Result<&Image, ApiError> {
        check_id(id)?;
        self.images.get(id).ok_or_else(|| not_found(&[id]))
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

    /// A snapshot was copied, or could not be: images that waited for it go on. `false` when it has
    /// been deleted meanwhile.
    pub(crate) fn copied(
        &mut self,
        snapshot_id: &str,
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
        let waits = |_: &String, image: &Image| {
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

    /// Forgets a base image whose disk could not be taken in.
    pub(crate) fn withdraw(&mut self, snapshot_id: &str) {
        self.images.remove_where(|_, image| image.uses(snapshot_id));
        self.drop_snapshot(snapshot_id);
    }

    /// Whether an image of Debian's own was registered.
    pub(crate) fn has_base_image(&self) -> bool {
        self.snapshots
            .values()
            .any(|snapshot| snapshot.owner == DEBIAN)
    }

    /// Registers the disk image `file` (or an empty disk) as Debian's own image of `suite`, unless it
    /// is there. Its snapshot is pending until `machines.rs` has taken the file in. `boot_mode` is what its disk can be booted by.
    pub(crate) fn found_base_image(
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
        // A serial as Debian's images have it, of the day and how manieth of the day.
        let day = now.strftime("%Y%m%d").to_string();
        let stem = format!("debian-{suite}-amd64-{day}");
        let serial = self
            .images
            .values()
            .filter(|image| image.name.starts_with(&stem))
            .count()
            + 1;
        let snapshot = Snapshot {
            id: ids::resource("snap"),
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
            id: ids::resource("ami"),
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

/// Refuses what is no image's id.
///
/// # Errors
/// `InvalidAMIID.Malformed`.
pub(crate) fn check_id(id: &str) -> Result<(), ApiError> {
    if id.starts_with("ami-") {
        return Ok(());
    }
    Err(ApiError::new(
        "InvalidAMIID.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
    ))
}

/// What EC2 says of images that are not there.
pub(crate) fn not_found(ids: &[&str]) -> ApiError {
    let message = match ids {
        [id] => format!("The image id '[{id}]' does not exist"),
        ids => format!("The image ids '[{}]' do not exist", ids.join(", ")),
    };
    ApiError::new("InvalidAMIID.NotFound", message)
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

/// What an image may be of; the first is what EC2 takes it for when it does not say
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RegisterImage.html>).
const ARCHITECTURES: [&str; 5] = ["i386", "x86_64", "arm64", "x86_64_mac", "arm64_mac"];
/// What RegisterImage may say; the rest would be forgotten.
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

/// RegisterImage: of snapshots that are there.
pub(crate) fn register(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let forgotten = params.iter().find(|(name, _)| {
        let field = name.split('.').next().unwrap_or_default();
        !REGISTERED.contains(&field)
    });
    if let Some((name, value)) = forgotten {
        return Err(ApiError::new(
            "UnsupportedOperation",
            format!("{name} ({value}) of an image cannot be honoured here"),
        ));
    }
    let name = params.required("Name")?;
    state.check_name(name)?;
    let root_device = params
        .text("RootDeviceName")
        .unwrap_or("/dev/sda1")
        .to_owned();
    let mut mappings = Mapping::read_all(params)?;
    for mapping in &mut mappings {
        let Some(id) = &mapping.snapshot else {
            continue;
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
            return Err(too_small(size, id, snapshot.size));
        }
        mapping.size = Some(size);
        mapping.delete_on_termination.get_or_insert(true);
        if mapping.encrypted.is_some() {
            return Err(encrypted_flag(&mapping.device, "has a snapshot specified"));
        }
        mapping.encrypted = Some(snapshot.key.is_some());
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
        id: ids::resource("ami"),
        name: name.to_owned(),
        description: params.string("Description").unwrap_or_default(),
        owner: ACCOUNT.to_owned(),
        created: ctx.now,
        state: ImageState::Available,
        mappings,
        root_device,
        // What EC2 takes an image for that does not say.
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

pub(super) fn add(state: &mut State, image: Image, tags: Tags) -> Xml {
    let mut xml = Xml::new();
    xml.text("imageId", &image.id);
    state.tag(&image.id, tags);
    state.images.insert(image.id.clone(), image);
    xml
}

/// What EC2 says to a volume that its snapshot does not fit on.
pub(crate) fn too_small(size: u32, snapshot: &str, needed: u32) -> ApiError {
    ApiError::new(
        "InvalidBlockDeviceMapping",
        format!(
            "Volume of size {size}GB is smaller than snapshot '{snapshot}', expect size >= {needed}GB"
        ),
    )
}

/// What EC2 says to `Encrypted` where it cannot be chosen.
fn encrypted_flag(device: &str, why: &str) -> ApiError {
    ApiError::new(
        "InvalidBlockDeviceMapping",
        format!("the encrypted flag cannot be specified since device {device} {why}."),
    )
}

/// CreateImage: of an instance that is stopped, or is powered off and on again for it.
pub(crate) fn create(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let name = params.required("Name")?;
    state.check_name(name)?;
    let instance = state.instance(params.required("InstanceId")?)?.clone();
    match instance.phase {
        Phase::Stopped => {}
        Phase::Running if params.boolean("NoReboot")? == Some(true) => {
            return Err(ApiError::new(
                "UnsupportedOperation",
                "a running instance's disk would be copied torn: stop it first, or leave NoReboot out",
            ));
        }
        Phase::Running => {}
        phase => {
            return Err(ApiError::new(
                "IncorrectState",
                format!(
                    "Instance is not in state 'running' or 'stopped': it is {}",
                    phase.name()
                ),
            ));
        }
    }
    tags::check_kinds(params, &["image", "snapshot"])?;
    let image_tags = tags::specified(params, "image")?;
    let snapshot_tags = tags::specified(params, "snapshot")?;
    let mut wishes = Mapping::read_all(params)?;
    let id = ids::resource("ami");
    let mut snapshots = Vec::new();
    let mut devices = Vec::new();
    for (volume, attachment) in state.volumes_of(&instance.id) {
        let mut mapping = Mapping {
            device: attachment.device.clone(),
            size: Some(volume.size),
            kind: Some(volume.kind.clone()),
            iops: volume.iops,
            throughput: volume.throughput,
            encrypted: Some(volume.key.is_some()),
            delete_on_termination: Some(attachment.delete_on_termination),
            ..Mapping::default()
        };
        let wish = wishes.iter_mut().find(|wish| wish.device == mapping.device);
        if let Some(wish) = wish {
            if wish.suppressed {
                continue;
            }
            if wish.encrypted == Some(true) && volume.key.is_none() {
                return Err(encrypted_flag(
                    &mapping.device,
                    "is of an unencrypted volume",
                ));
            }
            // EC2 ignores `false` of an encrypted volume.
            wish.encrypted = None;
        }
        let snapshot = Snapshot {
            id: ids::resource("snap"),
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
        mapping.snapshot = Some(snapshot.id.clone());
        devices.push(mapping);
        snapshots.push(snapshot);
    }
    let image = Image {
        id,
        name: name.to_owned(),
        description: params.string("Description").unwrap_or_default(),
        owner: ACCOUNT.to_owned(),
        created: ctx.now,
        state: ImageState::Pending,
        mappings: Mapping::overlay(&devices, &wishes),
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

/// DeregisterImage, with its snapshots when asked.
pub(crate) fn deregister(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = params.required("ImageId")?;
    let image = state.image(id)?;
    image.check_own()?;
    let snapshots: Vec<String> = image.snapshots().map(str::to_owned).collect();
    let with_snapshots = params.boolean("DeleteAssociatedSnapshots")? == Some(true);
    state.images.remove(id);
    state.tags.remove(id);
    state.tokens.remove_where(|_, spent| spent.made == [id]);
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
