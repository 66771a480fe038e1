//! Snapshots and volumes as EC2 records them; their content is in [`crate::disks`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, SnapshotId, VolumeId};
use crate::table::Table;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Its id.
    pub(crate) id: SnapshotId,
    /// Its source.
    pub(crate) source: Source,
    /// GiB.
    pub(crate) size: u32,
    /// The state of the copy.
    pub(crate) state: SnapshotState,
    /// When it was started.
    pub(crate) started: Timestamp,
    /// When it was completed.
    pub(crate) completed: Option<Timestamp>,
    /// Free text.
    pub(crate) description: String,
    /// The account that owns it.
    pub(crate) owner: String,
    /// The ARN of the key that EC2 would have encrypted it with; `None` when it is not encrypted.
    pub(crate) key: Option<String>,
    /// Accounts that may create volumes from it; `all` for every account.
    pub(crate) shared: BTreeSet<String>,
}

/// The source of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// A volume.
    Volume(VolumeId),
    /// Another snapshot, of which it is a copy.
    Snapshot(SnapshotId),
    /// A disk image file.
    File(PathBuf),
    /// Nothing: an empty disk.
    Nothing,
}

/// The state of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotState {
    /// Being copied.
    Pending,
    /// Complete.
    Completed,
    /// Not copied, and why.
    Failed(String),
}

impl SnapshotState {
    /// As EC2 writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed(_) => "error",
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// Its id.
    pub(crate) id: VolumeId,
    /// GiB.
    pub(crate) size: u32,
    /// e.g. `gp3`
    pub(crate) kind: String,
    /// IOPS, where the type has such a setting.
    pub(crate) iops: Option<i64>,
    /// MiB/s, where the type has such a setting.
    pub(crate) throughput: Option<i64>,
    /// The ARN of the key that EC2 would have encrypted it with; `None` when it is not encrypted.
    pub(crate) key: Option<String>,
    /// The snapshot it was created from.
    pub(crate) snapshot: Option<SnapshotId>,
    /// e.g. `us-east-1a`
    pub(crate) zone: String,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// The instance it is attached to.
    pub(crate) attachment: Option<Attachment>,
    /// Whether its disk exists yet.
    pub(crate) made: bool,
}

/// A volume's attachment to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// e.g. `/dev/xvda`
    pub(crate) device: String,
    /// When it was attached.
    pub(crate) since: Timestamp,
    /// Whether it is deleted with the instance.
    pub(crate) delete_on_termination: bool,
}

impl Volume {
    pub(super) fn state(&self) -> &'static str {
        match &self.attachment {
            Some(_) => "in-use",
            None => "available",
        }
    }
}

/// Volumes by id, and by the instance they are attached to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    rows: Table<VolumeId, Volume>,
    /// Ids by instance.
    attached: Table<InstanceId, Vec<VolumeId>>,
}

impl Volumes {
    /// All of them.
    pub(crate) fn rows(&self) -> &Table<VolumeId, Volume> {
        &self.rows
    }

    /// The volume of that id.
    pub(crate) fn get(&self, id: &VolumeId) -> Option<&Volume> {
        self.rows.get(id)
    }

    /// Volumes attached to an instance.
    pub(super) fn of(&self, instance: &InstanceId) -> impl Iterator<Item = &Volume> {
        let ids = self.attached.get(instance).into_iter().flatten();
        ids.filter_map(|id| self.rows.get(id))
    }

    /// Adds one.
    pub(crate) fn insert(&mut self, volume: Volume) {
        if let Some(at) = &volume.attachment {
            self.attached
                .update(at.instance.clone(), |ids| ids.push(volume.id.clone()));
        }
        self.rows.insert(volume.id.clone(), volume);
    }

    /// Removes one; returns whether it existed.
    pub(super) fn remove(&mut self, id: &VolumeId) -> bool {
        self.detach(id);
        self.rows.remove(id).is_some()
    }

    /// Detaches a volume from its instance.
    pub(crate) fn detach(&mut self, id: &VolumeId) {
        let attachment = self
            .rows
            .get_mut(id)
            .and_then(|volume| volume.attachment.take());
        let Some(attachment) = attachment else {
            return;
        };
        self.attached.update(attachment.instance.clone(), |ids| {
            ids.retain(|other| other != id)
        });
        if self.attached[&attachment.instance].is_empty() {
            self.attached.remove(&attachment.instance);
        }
    }

    /// Sets whether an attached volume is deleted with its instance.
    pub(crate) fn goes_with_its_instance(&mut self, id: &VolumeId, goes: bool) {
        if let Some(at) = self
            .rows
            .get_mut(id)
            .and_then(|row| row.attachment.as_mut())
        {
            at.delete_on_termination = goes;
        }
    }

    /// Records that a volume's disk exists.
    pub(crate) fn made(&mut self, id: &VolumeId) {
        if self.rows.get(id).is_some_and(|volume| !volume.made)
            && let Some(volume) = self.rows.get_mut(id)
        {
            volume.made = true;
        }
    }
}
