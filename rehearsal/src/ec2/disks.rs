//! Snapshots and volumes, as EC2's books have them; the bytes are in [`crate::disks`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::table::Table;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// `snap-…`
    pub(crate) id: String,
    /// What it is taken from.
    pub(crate) source: Source,
    /// GiB.
    pub(crate) size: u32,
    /// How far the copy is.
    pub(crate) state: SnapshotState,
    /// When it was begun.
    pub(crate) started: Timestamp,
    /// When it was complete.
    pub(crate) completed: Option<Timestamp>,
    /// For people.
    pub(crate) description: String,
    /// Whose it is.
    pub(crate) owner: String,
    /// The ARN of the key that EC2 would have encrypted it with; `None` when it is not encrypted.
    pub(crate) key: Option<String>,
    /// Accounts (`all` for everybody) that may make volumes of it.
    pub(crate) shared: BTreeSet<String>,
}

/// What a snapshot is taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// A volume.
    Volume(String),
    /// Another snapshot, which it is a copy of.
    Snapshot(String),
    /// A disk image from outside.
    File(PathBuf),
    /// Nothing: an empty disk.
    Nothing,
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotState {
    /// Being copied.
    Pending,
    /// Whole.
    Completed,
    /// It could not be copied, and why.
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
    /// `vol-…`
    pub(crate) id: String,
    /// GiB.
    pub(crate) size: u32,
    /// e.g. `gp3`
    pub(crate) kind: String,
    /// IOPS, where the type has any.
    pub(crate) iops: Option<i64>,
    /// MiB/s, where the type has any.
    pub(crate) throughput: Option<i64>,
    /// The ARN of the key that EC2 would have encrypted it with; `None` when it is not encrypted.
    pub(crate) key: Option<String>,
    /// What it was made of.
    pub(crate) snapshot: Option<String>,
    /// e.g. `us-east-1a`
    pub(crate) zone: String,
    /// When it came.
    pub(crate) created: Timestamp,
    /// Whose disk it is.
    pub(crate) attachment: Option<Attachment>,
    /// Whether its disk exists yet.
    pub(crate) made: bool,
}

/// A volume's place in an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// The instance.
    pub(crate) instance: String,
    /// e.g. `/dev/xvda`
    pub(crate) device: String,
    /// Since when.
    pub(crate) since: Timestamp,
    /// Whether it goes with the instance.
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

/// Volumes by id, and which are of an instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    rows: Table<String, Volume>,
    /// Ids by instance.
    attached: Table<String, Vec<String>>,
}

impl Volumes {
    /// All of them.
    pub(crate) fn rows(&self) -> &Table<String, Volume> {
        &self.rows
    }

    /// The volume of that id.
    pub(crate) fn get(&self, id: &str) -> Option<&Volume> {
        self.rows.get(id)
    }

    /// Volumes attached to an instance.
    pub(super) fn of(&self, instance: &str) -> impl Iterator<Item = &Volume> {
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

    /// Removes one; whether there was one.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.detach(id);
        self.rows.remove(id).is_some()
    }

    /// CallSpec a volume out of its instance.
    pub(crate) fn detach(&mut self, id: &str) {
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

    /// Sets whether an attached volume goes with its instance.
    pub(crate) fn goes_with_its_instance(&mut self, id: &str, goes: bool) {
        if let Some(at) = self
            .rows
            .get_mut(id)
            .and_then(|row| row.attachment.as_mut())
        {
            at.delete_on_termination = goes;
        }
    }

    /// Notes that a volume's disk exists.
    pub(crate) fn made(&mut self, id: &str) {
        if self.rows.get(id).is_some_and(|volume| !volume.made)
            && let Some(volume) = self.rows.get_mut(id)
        {
            volume.made = true;
        }
    }
}
