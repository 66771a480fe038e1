//! An in-memory AWS for tests: one state, every trait of this crate over it, and one way to inject faults.
//!
//! Each file has one trait's part of the state's behaviour; [`Fault`] is in `faults.rs`. It keeps to what AWS documents as far as
//! tests of bakes and rolls rely on it; the faithful one is the rehearsal. An instance refresh moves one step each time it is
//! read, so time is counted in polls.

mod faults;
mod fleet;
mod images;
mod instances;
mod parameters;
mod permissions;
mod targets;
mod templates;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use contract::registry::{Record, SCHEMA, Verdict};
use tokio::sync::Notify;

use super::*;
use crate::ids::{
    AccountId, GroupName, ImageId, InstanceId, KeyPairId, NetworkInterfaceId, SecurityGroupId,
    SnapshotId, SubnetId, VolumeId, VpcId,
};

use self::faults::Effect;
pub use self::faults::{Calls, Fault, Nth, denied, failure, throttled};
pub use self::fleet::{TARGET_GROUP, TEMPLATE};
pub use self::permissions::Policy;

/// The account that everything belongs to.
pub const OWNER: &str = "123456789012";

/// Everything there is, to read and to arrange.
#[derive(Debug, Default)]
pub struct AwsState {
    /// The calls that were made, and the faults of the next ones.
    pub calls: Calls,

    /// EC2 instances, members of the group among them.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// AMIs.
    pub images: BTreeMap<ImageId, Image>,
    /// EBS snapshots.
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// What was launched by this program's own calls, oldest first.
    pub launches: Vec<Launch>,
    /// Key pairs.
    pub key_pairs: BTreeMap<KeyPairId, KeyPair>,
    /// EBS volumes.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// The volumes that are deleted with an instance.
    pub attached: BTreeMap<InstanceId, Vec<VolumeId>>,
    /// Network interfaces.
    pub interfaces: BTreeMap<NetworkInterfaceId, NetworkInterface>,
    /// Security groups.
    pub security_groups: BTreeMap<SecurityGroupId, SecurityGroup>,
    /// The accounts that an image is shared with.
    pub shares: BTreeMap<ImageId, Vec<AccountId>>,
    /// Subnets, security groups and instance types that do not exist.
    pub missing: BTreeSet<String>,
    /// Whether lists by tag, source or volume contain everything there is, as if the service did not filter.
    pub unfiltered: bool,

    /// Parameters of the parameter store and their values.
    pub parameters: BTreeMap<String, String>,
    /// After how many reads a pointer has its new value; at once when none.
    pub validation: Option<u32>,
    /// The pointer that is being validated, and its new value.
    awaited: Option<(String, String)>,
    /// What the agent of an instance that is launched outside the group reports, with its reason; without it, nothing.
    pub verdict: Option<(Verdict, String)>,
    /// The schema of the records that agents write; the current one when none.
    pub schema: Option<u32>,

    /// What the caller may do.
    pub policy: Policy,
    /// Instance profiles that exist.
    pub profiles: BTreeSet<String>,
    /// States of alarms by their names.
    pub alarms: BTreeMap<String, String>,

    /// The Auto Scaling group; none when it was deleted, or never was.
    pub group: Option<Group>,
    /// Its lifecycle hooks.
    pub hooks: Vec<Hook>,
    /// Its refreshes, newest first.
    pub refreshes: Vec<Refresh>,
    /// What each refresh was started with, oldest first.
    pub preferences: Vec<Preferences>,
    /// Its scaling activities, newest first.
    pub activities: Vec<Activity>,
    /// Images whose instances ABANDON their launch hook.
    pub unhealthy: BTreeSet<ImageId>,
    /// Images whose instances join and then fail the load balancer's health checks.
    pub limping: BTreeSet<ImageId>,
    /// Statuses that the active refresh has at the next polls instead of its own.
    pub statuses: VecDeque<RefreshStatus>,
    /// Other groups that launch from the template.
    pub other_groups: Vec<GroupName>,
    /// The version that the active refresh can be rolled back to.
    origin: Option<TemplateRef>,
    /// How many members were launched.
    launched: u32,

    /// The launch template of the group.
    pub template: Template,
    /// Whether it exists.
    pub template_exists: bool,
    /// The shape of new template versions, when it differs from their source's.
    pub misshapen: Option<String>,
    /// The versions that were made, by client token.
    tokens: BTreeMap<String, u64>,

    /// The last number in an id.
    last_id: u32,
}

impl AwsState {
    /// A new id.
    fn id(&mut self, prefix: &str) -> String {
        self.last_id += 1;
        format!("{prefix}-{:04x}", self.last_id)
    }

    /// Everything that costs money or confuses operators, but for images and snapshots of others.
    pub fn inventory(&self) -> Vec<String> {
        let alive = |instance: &&Instance| !instance.state.is_going();
        let alive = self.instances.values().filter(alive);
        let (own, others): (Vec<&Image>, Vec<&Image>) =
            self.images.values().partition(|image| image.owner == OWNER);
        let of_others: Vec<&SnapshotId> =
            others.iter().flat_map(|image| &image.snapshots).collect();
        let snapshots = self.snapshots.keys().filter(|id| !of_others.contains(id));
        let mut all: Vec<String> = alive.map(|instance| instance.id.to_string()).collect();
        all.extend(own.iter().map(|image| image.id.to_string()));
        all.extend(snapshots.map(ToString::to_string));
        all.extend(self.key_pairs.keys().map(ToString::to_string));
        all.extend(self.volumes.keys().map(ToString::to_string));
        all.extend(self.interfaces.keys().map(ToString::to_string));
        all.extend(self.security_groups.keys().map(ToString::to_string));
        all.extend(self.parameters.keys().cloned());
        all
    }

    /// Those that carry a tag; all when the service does not filter.
    fn tagged<'a, T: Clone + 'a>(
        &self,
        all: impl IntoIterator<Item = &'a T>,
        tags: fn(&T) -> &Tags,
        key: &str,
        value: Option<&str>,
    ) -> Vec<T> {
        let matching = all
            .into_iter()
            .filter(|one| self.unfiltered || carries(tags(one), key, value));
        matching.cloned().collect()
    }
}

/// Whether a tag is among `tags`; with no value, whatever its value.
fn carries(tags: &Tags, key: &str, value: Option<&str>) -> bool {
    tags.get(key)
        .is_some_and(|found| value.is_none_or(|value| value == found))
}

/// The service. Cheap to clone; all clones share one state.
#[derive(Clone, Debug, Default)]
pub struct InMemoryAws {
    state: Arc<Mutex<AwsState>>,
    hung: Arc<Notify>,
}

impl InMemoryAws {
    /// The state, to read and to arrange.
    pub fn state(&self) -> MutexGuard<'_, AwsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified when a call hangs: the caller is killed.
    pub fn hung(&self) -> Arc<Notify> {
        self.hung.clone()
    }

    /// A connection to it.
    pub fn cloud(&self) -> Cloud {
        Cloud {
            region: "us-east-1".to_owned(),
            ec2_endpoint: None,
            identity: Arc::new(self.clone()),
            images: Arc::new(self.clone()),
            instances: Arc::new(self.clone()),
            parameters: Arc::new(self.clone()),
            fleet: Arc::new(self.clone()),
            templates: Arc::new(self.clone()),
            targets: Arc::new(self.clone()),
            permissions: Arc::new(self.clone()),
            alarms: Arc::new(self.clone()),
        }
    }

    /// One call that changes something: of a trait, or of a program such as Packer that a test stands in for.
    ///
    /// # Errors
    /// What `act` returns, or the call's fault.
    pub async fn change<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut AwsState) -> Answer<T>,
    ) -> Answer<T> {
        self.call(name, Effect::Changes, act).await
    }

    /// One call that only reads.
    async fn read<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut AwsState) -> Answer<T>,
    ) -> Answer<T> {
        self.call(name, Effect::Reads, act).await
    }

    /// One call: recorded, then failed as arranged, else done.
    async fn call<T>(
        &self,
        name: &'static str,
        effect: Effect,
        act: impl FnOnce(&mut AwsState) -> Answer<T>,
    ) -> Answer<T> {
        let answered = {
            let mut state = self.state();
            state.calls.record(name, effect);
            if let Some(happens) = state.calls.meanwhile(name) {
                happens(&mut state);
            }
            match state.calls.next_fault(name, effect) {
                None => Some(act(&mut state)),
                Some(Fault::Refused(error)) => Some(Err(error)),
                Some(Fault::AnswerLost) => {
                    let _ = act(&mut state);
                    let message = "connection reset";
                    Some(Err(CloudError::new(Kind::Unreachable, name, "", message)))
                }
                Some(Fault::Hangs) => None,
                Some(Fault::HangsAfter) => {
                    let _ = act(&mut state);
                    None
                }
            }
        };
        match answered {
            Some(answer) => answer,
            None => {
                self.hung.notify_one();
                std::future::pending().await
            }
        }
    }
}

/// The error of a resource that does not exist.
fn not_found(operation: &str) -> CloudError {
    CloudError::new(Kind::NotFound, operation, "NotFound", "")
}
