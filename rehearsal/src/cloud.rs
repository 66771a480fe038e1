//! The cloud: its whole state behind one lock, durable in one file of its folder.
//!
//! # How a service plugs in
//!
//! A service module owns a state struct (`Default + Serialize + Deserialize`), held by [`Region`] or,
//! for Auto Scaling, beside it in [`State`]. It answers with one function,
//!
//! ```text
//! pub(crate) fn handle(state: &mut …, ctx: &RequestContext, action: &str, params: &Params) -> Result<Xml, ApiError>
//! ```
//!
//! which is called with the lock held: it must not wait, and must check before it changes, since an
//! error leaves the state as the handler left it. The [`Xml`](crate::wire::Xml) is the inside of the
//! result element; `front` wraps it in the protocol's envelope. `ctx.now` is the only time there is.
//! An action it does not know is `Err(ApiError::invalid_action(action))`.
//!
//! Auto Scaling's `handle` and `tick` get the rest of the cloud as `&mut dyn World`, implemented in
//! `world.rs` over [`Region`].
//!
//! After each mutating request and each tick that changed something, the state is on disk before the
//! answer leaves: written beside, synced, renamed.
//!
//! What a handler cannot do at once (starting machines, copying disks) it only writes down as wanted;
//! `machines.rs` makes it so.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::autoscaling;
use crate::autoscaling::world::{
    AlarmState, InstanceView, LaunchRequest, TemplateRef, TemplateView, World,
};
use crate::balancer_source::{BalancerSource, CheckOutcome, ListenerView, TargetGroupView};
use crate::clock::Clock;
use crate::elb::{self, Estate, Machine};
use crate::ssm::{self, Images};
use crate::wire::ids;

/// The one account.
pub(crate) const ACCOUNT: &str = "123456789012";
/// The one region.
pub(crate) const REGION: &str = "us-east-1";

const STATE_FILE: &str = "state.json";

/// What a handler knows of the request besides its parameters.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// The cloud's time; the same for the whole request.
    pub(crate) now: Timestamp,
    /// The id the answer carries.
    pub(crate) request_id: String,
}

/// Everything the cloud remembers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// All services but Auto Scaling.
    pub(crate) region: Region,
    /// Auto Scaling, which sees the region as its [`World`].
    pub(crate) autoscaling: autoscaling::State,
}

/// The services an Auto Scaling group lives among.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Region {
    /// Machines and their network, as far as they are here.
    pub(crate) grounds: Grounds,
    /// Elastic Load Balancing v2.
    pub(crate) elb: elb::State,
    /// Parameter Store.
    pub(crate) ssm: ssm::State,
}

/// The bare VPC: addresses, and no machine yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Grounds {
    /// How many addresses load balancers have had.
    balancers: u8,
}

impl Images for Grounds {
    fn is_available(&self, _image_id: &str) -> bool {
        false
    }
}

impl Estate for Grounds {
    fn machine(&self, _instance_id: &str) -> Option<Machine> {
        None
    }

    fn vpc(&self) -> &str {
        "vpc-00000000000000000"
    }

    fn subnet_zone(&self, subnet_id: &str) -> Option<String> {
        let zone = subnet_id.strip_prefix("subnet-0000000000000000")?;
        Some(format!("{REGION}{zone}"))
    }

    fn balancer_address(&mut self) -> Ipv4Addr {
        self.balancers = self.balancers.wrapping_add(1);
        Ipv4Addr::new(127, 64, 240, self.balancers)
    }
}

/// The region at a moment, as Auto Scaling may see and change it.
pub(crate) struct RegionAt<'a> {
    /// The region.
    pub(crate) region: &'a mut Region,
    /// The moment.
    pub(crate) now: Timestamp,
}

impl World for RegionAt<'_> {
    fn template(&self, wanted: &TemplateRef) -> Result<(TemplateRef, TemplateView), String> {
        Err(format!("launch template {} does not exist", wanted.id))
    }

    fn launch(&mut self, _request: &LaunchRequest) -> Result<String, String> {
        Err("instances cannot be launched yet".to_owned())
    }

    fn terminate(&mut self, _instance_id: &str) {}

    fn instance(&self, _instance_id: &str) -> Option<InstanceView> {
        None
    }

    fn register_target(&mut self, target_group_arn: &str, instance_id: &str) {
        self.region.elb.register(target_group_arn, instance_id);
    }

    fn deregister_target(&mut self, target_group_arn: &str, instance_id: &str) {
        let elb = &mut self.region.elb;
        elb.deregister(target_group_arn, instance_id, self.now);
    }

    fn target_health(&self, target_group_arn: &str, instance_id: &str) -> Option<String> {
        let Region { grounds, elb, .. } = &*self.region;
        elb.health(target_group_arn, instance_id, grounds, self.now)
            .map(str::to_owned)
    }

    fn target_group_exists(&self, target_group_arn: &str) -> bool {
        self.region.elb.group_exists(target_group_arn)
    }

    fn alarm(&self, _name: &str) -> AlarmState {
        AlarmState::InsufficientData
    }

    fn subnet_zone(&self, _subnet_id: &str) -> Option<String> {
        None
    }

    fn fresh_uuid(&mut self) -> String {
        ids::uuid()
    }
}

/// The cloud.
pub(crate) struct Cloud {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
    wake: Notify,
}

/// The state, and what of it is on disk.
struct Kept {
    state: State,
    on_disk: Vec<u8>,
}

impl Cloud {
    /// Opens the cloud in `folder`, or founds one there.
    ///
    /// # Errors
    /// When the folder cannot be written, or holds a state this release cannot read.
    pub(crate) fn open(folder: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let path = folder.join(STATE_FILE);
        let (state, on_disk) = match fs::read(&path) {
            Ok(bytes) => {
                let state = serde_json::from_slice(&bytes).with_context(|| {
                    format!(
                        "read {}\nhint: it is damaged or of another release; move the folder away",
                        path.display()
                    )
                })?;
                (state, bytes)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (State::default(), Vec::new())
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let cloud = Self {
            folder: folder.to_owned(),
            clock,
            kept: Mutex::new(Kept { state, on_disk }),
            wake: Notify::new(),
        };
        cloud.change(|_, _| ())?;
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

    /// Looks at the state.
    pub(crate) fn look<T>(&self, view: impl FnOnce(&State, Timestamp) -> T) -> T {
        let kept = self.lock();
        view(&kept.state, self.now())
    }

    /// Changes the state; when this returns, the change is on disk.
    ///
    /// # Errors
    /// When the state cannot be written: the change stands in memory and is written with the next.
    pub(crate) fn change<T>(
        &self,
        act: impl FnOnce(&mut State, Timestamp) -> T,
    ) -> anyhow::Result<T> {
        let mut kept = self.lock();
        let now = self.now();
        let answer = act(&mut kept.state, now);
        let bytes = serde_json::to_vec(&kept.state).context("write down the cloud's state")?;
        if bytes != kept.on_disk {
            write_durably(&self.folder.join(STATE_FILE), &bytes)?;
            kept.on_disk = bytes;
            self.wake.notify_one();
        }
        Ok(answer)
    }

    /// Waits until something changed.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A handler that panicked is a bug, answered with an internal error; the cloud lives on.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BalancerSource for Cloud {
    fn listeners(&self) -> Vec<ListenerView> {
        self.look(|state, _| state.region.elb.open_listeners())
    }

    fn target_groups(&self) -> Vec<TargetGroupView> {
        self.look(|state, now| state.region.elb.checked_groups(&state.region.grounds, now))
    }

    fn report(&self, target_group_arn: &str, instance_id: &str, outcome: CheckOutcome) {
        let counted = self.change(|state, _| {
            state
                .region
                .elb
                .report(target_group_arn, instance_id, outcome);
        });
        if let Err(error) = counted {
            tracing::error!(
                error = format!("{error:#}"),
                "a health check was counted in memory only"
            );
        }
    }
}

/// Replaces `path` by `bytes` such that a crash at any moment leaves the old or the new.
///
/// # Errors
/// When the file or its folder cannot be written.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().with_context(|| format!("write {}", path.display()))
}
