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

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::autoscaling;
use crate::balancer_source::{BalancerSource, CheckOutcome, ListenerView, TargetGroupView};
use crate::clock::Clock;
use crate::dials::Dials;
use crate::ec2::{self, network};
use crate::elb;
use crate::ssm;

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
}

/// Everything the cloud remembers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// All services but Auto Scaling.
    pub(crate) region: Region,
    /// Auto Scaling, which sees the region as its world.
    pub(crate) autoscaling: autoscaling::State,
}

/// The services an Auto Scaling group lives among.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Region {
    /// EC2.
    pub(crate) ec2: ec2::State,
    /// Elastic Load Balancing v2.
    pub(crate) elb: elb::State,
    /// Parameter Store.
    pub(crate) ssm: ssm::State,
    /// Faults that were asked for.
    pub(crate) dials: Dials,
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
        let folder = &folder
            .canonicalize()
            .with_context(|| format!("find {}", folder.display()))?;
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
                let mut state = State::default();
                state.region.ec2.network.second_byte = second_byte(folder);
                (state, Vec::new())
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
        self.look(|state, now| state.region.elb.checked_groups(&state.region.ec2, now))
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

/// The second byte of a new cloud's addresses, from its folder's path: a cloud that is made again there has them again.
fn second_byte(folder: &Path) -> u8 {
    // FNV-1a: spread well enough, and the same in every release.
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

/// Replaces `path` by `bytes` such that a crash at any moment leaves the old or the new. Only its owner
/// may read it: it may hold what users gave their machines, and the back door's key.
///
/// # Errors
/// When the file or its folder cannot be written.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside)?;
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
