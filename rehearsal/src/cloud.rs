//! The cloud: its whole state behind one lock, with every change on disk before it is answered.
//!
//! # How a service plugs in
//!
//! A service module owns a state struct (`Clone + Default`), held by [`Region`] or, for Auto Scaling, beside it in
//! [`State`]. Collections are [`Table`](crate::table::Table)s. `changes` lists the difference between two states, and
//! `restore` reads rows back. It answers with one function,
//!
//! ```text
//! pub(crate) fn handle(state: &mut …, ctx: &RequestContext, action: &str, params: &Params) -> Result<Xml, ApiError>
//! ```
//!
//! which is called with the lock held: it must not wait. The [`Xml`](crate::wire::Xml) is the content of the result
//! element; `http` wraps it in the protocol's envelope. `ctx.now` is the only clock. An unknown action is
//! `Err(ApiError::invalid_action(action))`.
//!
//! Auto Scaling's `handle` and `tick` get the rest of the cloud as `&mut dyn Environment`, implemented in `adapters.rs`
//! over [`Region`].
//!
//! # What a call costs
//!
//! Rule: a call costs what it changes, not what there is. The state is copied in constant time, so readers never block
//! others, and comparing two states costs what differs. Changes are written as rows ([`store`](crate::store));
//! concurrent calls share one `fsync`. A call that changes nothing writes nothing.
//!
//! What a handler cannot do at once (starting machines, copying disks) it records in the state; `machines.rs` carries
//! it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use support::shell::quoted_path;
use tokio::sync::Notify;

use crate::autoscaling;
use crate::balancer_source::{BalancerSource, CheckOutcome, ListenerView, TargetGroupView};
use crate::clock::Clock;
use crate::ec2::{self, network};
use crate::elb;
use crate::faults::Faults;
use crate::ids::{InstanceId, TargetGroupArn};
use crate::ssm;
use crate::store::Store;
use crate::table::{Changes, read};

/// The state file of releases before 0.2.
const OLD_STATE_FILE: &str = "state.json";

/// The state of the cloud.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// All services but Auto Scaling.
    pub(crate) region: Region,
    /// Auto Scaling, whose environment is the region.
    pub(crate) autoscaling: autoscaling::State,
}

/// The services that Auto Scaling uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Region {
    /// EC2.
    pub(crate) ec2: ec2::State,
    /// Elastic Load Balancing v2.
    pub(crate) elb: elb::State,
    /// Parameter Store.
    pub(crate) ssm: ssm::State,
    /// Injected faults that were set.
    pub(crate) faults: Faults,
}

impl State {
    /// What changed since `before`.
    fn changes(&self, before: &Self) -> Changes {
        let mut changes = Changes::default();
        self.region.ec2.changes(&before.region.ec2, &mut changes);
        self.region.elb.changes(&before.region.elb, &mut changes);
        self.region.ssm.changes(&before.region.ssm, &mut changes);
        changes.single("dials", &before.region.faults, &self.region.faults);
        self.autoscaling.changes(&before.autoscaling, &mut changes);
        changes
    }

    /// Reads a row back.
    fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<()> {
        if table == "dials" {
            self.region.faults = read(value)?;
            return Ok(());
        }
        let known = self.region.ec2.restore(table, key, value)?
            || self.region.elb.restore(table, key, value)?
            || self.region.ssm.restore(table, key, value)?
            || self.autoscaling.restore(table, key, value)?;
        if !known {
            bail!("no such table in this release");
        }
        Ok(())
    }
}

/// The cloud.
pub(crate) struct Cloud {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    store: Store,
    wake: Notify,
}

impl Cloud {
    /// Opens the cloud in `folder`, or creates one there.
    ///
    /// # Errors
    /// When the folder cannot be written, or holds a state this release cannot read.
    pub(crate) fn open(folder: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let folder = &folder
            .canonicalize()
            .with_context(|| format!("find {}", folder.display()))?;
        if folder.join(OLD_STATE_FILE).exists() {
            bail!(
                "the cloud in {} was created by an earlier release\nhint: run `rm -r {}`, or choose another folder",
                folder.display(),
                quoted_path(folder)
            );
        }
        let mut state = State::default();
        let mut is_new = true;
        let store = Store::open(folder, |table, key, value| {
            is_new = false;
            state.restore(table, key, value)
        })?;
        let cloud = Self {
            folder: folder.to_owned(),
            clock,
            state: Mutex::new(state),
            store,
            wake: Notify::new(),
        };
        if is_new {
            let byte = second_byte(folder);
            cloud.change(|state, _| state.region.ec2.network.second_byte = byte)?;
        }
        Ok(cloud)
    }

    /// The cloud's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads a copy of the state: a reader blocks no one.
    pub(crate) fn read<T>(&self, view: impl FnOnce(&State, Timestamp) -> T) -> T {
        let (state, now) = {
            let state = self.lock();
            (state.clone(), self.now())
        };
        view(&state, now)
    }

    /// Changes the state; when this returns, the change is on disk.
    ///
    /// # Errors
    /// When the change cannot be written: it is kept in memory and written with the next one.
    pub(crate) fn change<T>(
        &self,
        act: impl FnOnce(&mut State, Timestamp) -> T,
    ) -> anyhow::Result<T> {
        self.change_if(|_| true, act)
    }

    /// Changes the state for a caller. While earlier changes cannot be written, this one is refused and not made. An
    /// answer for which `keeps` is false (an error) changes nothing either.
    ///
    /// # Errors
    /// When the change cannot be written.
    pub(crate) fn change_for_caller<T>(
        &self,
        keeps: impl FnOnce(&T) -> bool,
        act: impl FnOnce(&mut State, Timestamp) -> T,
    ) -> anyhow::Result<T> {
        let failure = self.store.failure();
        let refused = failure.is_some();
        let mut changed = false;
        let answer = self.change_if(
            |answer| {
                changed = true;
                keeps(answer) && !refused
            },
            act,
        )?;
        match failure {
            Some(why) if changed => bail!("{why}"),
            _ => Ok(answer),
        }
    }

    /// Changes the state, unless `keeps` rejects the answer; it is called only when there is a change.
    fn change_if<T>(
        &self,
        keeps: impl FnOnce(&T) -> bool,
        act: impl FnOnce(&mut State, Timestamp) -> T,
    ) -> anyhow::Result<T> {
        let mut state = self.lock();
        let before = state.clone();
        let now = self.now();
        let answer = act(&mut state, now);
        let changes = state.changes(&before);
        if changes.0.is_empty() {
            return Ok(answer);
        }
        if !keeps(&answer) {
            *state = before;
            return Ok(answer);
        }
        let number = self.store.take(changes.0);
        drop(state);
        self.wake.notify_one();
        self.store.wait(number)?;
        Ok(answer)
    }

    /// Retries to write what could not be written.
    ///
    /// # Errors
    /// Why the last attempt failed.
    pub(crate) fn rewrite(&self) -> anyhow::Result<()> {
        self.store.retry();
        match self.store.failure() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }

    /// Waits until something changed.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A handler that panicked is answered with an internal error; the cloud keeps running.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BalancerSource for Cloud {
    fn listeners(&self) -> Vec<ListenerView> {
        self.read(|state, _| state.region.elb.open_listeners())
    }

    fn target_groups(&self) -> Vec<TargetGroupView> {
        self.read(|state, now| state.region.elb.checked_groups(&state.region.ec2, now))
    }

    fn report(
        &self,
        target_group_arn: &TargetGroupArn,
        instance_id: &InstanceId,
        outcome: CheckOutcome,
    ) {
        let counted = self.change(|state, _| {
            state
                .region
                .elb
                .report(target_group_arn, instance_id, outcome);
        });
        if let Err(error) = counted {
            tracing::error!(
                error = format!("{error:#}"),
                "the result of a health check is in memory only"
            );
        }
    }
}

/// The second byte of a new cloud's addresses, from its folder's path: a cloud created there again has the same
/// addresses.
fn second_byte(folder: &Path) -> u8 {
    // FNV-1a: distributes well enough, and is the same in every release.
    let hash = folder
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    let folded = hash.to_le_bytes().iter().fold(0, |all, byte| all ^ byte);
    let all = network::SECOND_BYTES;
    all.start() + folded % (all.end() - all.start() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::RealClock;
    use crate::request::RequestContext;

    fn put(state: &mut State, now: Timestamp, name: &str, value: &str) {
        let Region { ec2, ssm, .. } = &mut state.region;
        let body = serde_json::json!({ "Name": name, "Value": value, "Type": "String", "Overwrite": true });
        ssm::handle(ssm, ec2, &RequestContext { now }, "PutParameter", &body).unwrap();
    }

    fn open(folder: &Path) -> Cloud {
        Cloud::open(folder, Arc::new(RealClock)).unwrap()
    }

    /// The keys of the rows that a change writes.
    fn written(cloud: &Cloud, act: impl FnOnce(&mut State, Timestamp)) -> Vec<String> {
        let before = cloud.read(|state, _| state.clone());
        cloud.change(act).unwrap();
        let rows = cloud.read(|state, _| state.changes(&before).0);
        rows.into_iter().map(|row| row.key).collect()
    }

    #[test]
    fn a_call_writes_only_what_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cloud = open(folder.path());
        let many = |state: &mut State, now| {
            for number in 0..1_000 {
                put(state, now, &format!("/many/{number}"), "v");
            }
        };
        assert_eq!(written(&cloud, many).len(), 1_000);
        let one = written(&cloud, |state, now| {
            put(state, now, "/many/500", "w");
        });
        assert_eq!(one, ["/many/500", "/many/500\u{1f}0000000000"]);
        let none = written(&cloud, |state, _| {
            drop(state.region.ssm.clone());
        });
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn an_error_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cloud = open(folder.path());
        let answer: Result<(), ()> = cloud
            .change_for_caller(Result::is_ok, |state, now| {
                put(state, now, "/half", "done");
                Err(())
            })
            .unwrap();
        assert!(answer.is_err());
        drop(cloud);
        let again = open(folder.path());
        let body = serde_json::json!({ "Names": ["/half"] });
        let found = again
            .change(|state, now| {
                let Region { ec2, ssm, .. } = &mut state.region;
                ssm::handle(ssm, ec2, &RequestContext { now }, "GetParameters", &body).unwrap()
            })
            .unwrap();
        assert_eq!(found["InvalidParameters"][0], "/half");
    }

    #[test]
    fn an_earlier_releases_cloud_is_refused_with_a_hint() {
        let folder = tempfile::Builder::new().prefix("a shop").tempdir().unwrap();
        fs::write(folder.path().join(OLD_STATE_FILE), "{}").unwrap();
        let refused = Cloud::open(folder.path(), Arc::new(RealClock))
            .err()
            .unwrap();
        assert!(
            format!("{refused:#}").contains("hint: run `rm -r '/"),
            "{refused:#}"
        );
    }
}
