//! Auto Scaling groups: what they are, what they do, and the refreshes that change them.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Answer, SavedVersion, TemplateRef};
use crate::ids::{GroupName, InstanceId};

/// A group as the service describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Bounds and target of its size.
    pub size: Size,
    /// What it launches from.
    pub launches: GroupLaunches,
    /// Whether load-balancer health counts for it.
    pub health: HealthSource,
    /// Seconds after InService in which failed health checks are ignored.
    pub grace_seconds: u32,
    /// Its own default warm-up, if it has one.
    pub default_warmup_seconds: Option<u32>,
    /// Names of its suspended processes.
    pub suspended: Vec<String>,
    /// ARNs of the target groups attached to it.
    pub target_groups: Vec<String>,
    /// Whether anything is attached whose health checks count under [`HealthSource::LoadBalancer`]: target groups, Classic
    /// Load Balancers or other traffic sources.
    pub has_traffic_source: bool,
    /// Whether it keeps a warm pool.
    pub warm_pool: bool,
    /// Every member, terminating ones included.
    pub members: Vec<GroupMember>,
}

/// What a group launches its members from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupLaunches {
    /// The old form; it has no versions.
    Configuration {
        /// The launch configuration's name.
        name: String,
    },
    /// One launch template for all members.
    Template {
        /// `lt-…`.
        id: String,
        /// The template's name.
        name: String,
        /// The version as saved.
        saved: SavedVersion,
    },
    /// A mixed instances policy.
    Mixed {
        /// Which of its features a refresh cannot handle.
        feature: MixedFeature,
    },
}

/// One member as its group describes it. Only EC2 knows its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The instance.
    pub instance: InstanceId,
    /// Its lifecycle state.
    pub lifecycle: Lifecycle,
    /// Whether the group considers it healthy.
    pub healthy: bool,
    /// The template version it was launched from.
    pub template: Option<TemplateRef>,
    /// Protected from scale-in.
    pub protected: bool,
}

/// Bounds and target of a group's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// MinSize.
    pub min: u32,
    /// MaxSize.
    pub max: u32,
    /// DesiredCapacity.
    pub desired: u32,
}

/// Why a mixed instances policy matters to a roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixedFeature {
    /// Instance types are chosen by attributes (InstanceRequirements).
    Attributes,
    /// Overrides carry weights.
    Weights,
    /// Overrides carry a launch template or an image of their own.
    OwnTemplates,
    /// None of these: a plain list of instance types.
    Plain,
}

/// The source of a group's health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthSource {
    /// EC2's status checks only.
    Ec2,
    /// The load balancer's (or VPC Lattice's) checks too.
    LoadBalancer,
}

/// One lifecycle hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub moment: HookMoment,
    /// The result when the hook is not completed: `ABANDON` or `CONTINUE`.
    pub default_result: String,
    /// Seconds until then.
    pub heartbeat_seconds: u32,
}

/// When a lifecycle hook fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookMoment {
    /// Before a new instance is InService.
    Launching,
    /// Before an instance is terminated.
    Terminating,
}

/// The lifecycle state of a member, as far as a roll distinguishes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// `Pending…`: on its way in; the text is AWS's own.
    Coming(String),
    /// `InService`.
    InService,
    /// `Standby` and `EnteringStandby`.
    Standby,
    /// `Terminating:Retained`: out of service, but left running by a lifecycle policy.
    Retained,
    /// `Terminating…`, `Detach…`: on its way out; the text is AWS's own.
    Leaving(String),
    /// A state this program does not know; never counted as in service.
    Other(String),
}

impl Lifecycle {
    /// Reads AWS's text. Warm-pool states are `Other`: such an instance does not serve.
    pub fn parse(text: &str) -> Self {
        match text {
            "InService" => Self::InService,
            "Standby" | "EnteringStandby" => Self::Standby,
            "Terminating:Retained" => Self::Retained,
            coming if coming.starts_with("Pending") => Self::Coming(coming.to_owned()),
            leaving if leaving.starts_with("Terminat") || leaving.starts_with("Detach") => {
                Self::Leaving(leaving.to_owned())
            }
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InService => "InService",
            Self::Standby => "Standby",
            Self::Retained => "Terminating:Retained",
            Self::Coming(text) | Self::Leaving(text) | Self::Other(text) => text,
        })
    }
}

/// One instance refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: RefreshStatus,
    /// AWS's explanation, shown verbatim and never parsed.
    pub reason: String,
    /// AWS's percentage.
    pub percent: u32,
    /// Members AWS has not started on.
    pub to_update: u32,
    /// When it began.
    pub started: Option<Timestamp>,
    /// The template version that is its target; `None` when it has none or it is no number.
    pub desired: Option<TemplateRef>,
    /// Its checkpoints.
    pub checkpoints: Vec<u32>,
    /// Whether the service rolls it back by itself when it fails.
    pub auto_rollback: bool,
    /// Why and when it began to roll back, if it did.
    pub rollback_reason: Option<String>,
}

/// The status of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshStatus {
    /// Accepted, not begun.
    Pending,
    /// Replacing members.
    InProgress,
    /// All replaced, waiting out the bake time.
    Baking,
    /// Over: the service has finished, which is not verified yet.
    Successful,
    /// Over: failed, and not rolled back.
    Failed,
    /// Being cancelled.
    Cancelling,
    /// Over: cancelled, members left mixed.
    Cancelled,
    /// Rolling back.
    RollbackInProgress,
    /// Over: rolled back.
    RollbackSuccessful,
    /// Over: stuck half-rollback.
    RollbackFailed,
    /// A status newer than this program: still running, shown as it is.
    Unknown(String),
}

impl RefreshStatus {
    /// Reads AWS's text.
    pub fn parse(text: &str) -> Self {
        match text {
            "Pending" => Self::Pending,
            "InProgress" => Self::InProgress,
            "Baking" => Self::Baking,
            "Successful" => Self::Successful,
            "Failed" => Self::Failed,
            "Cancelling" => Self::Cancelling,
            "Cancelled" => Self::Cancelled,
            "RollbackInProgress" => Self::RollbackInProgress,
            "RollbackSuccessful" => Self::RollbackSuccessful,
            "RollbackFailed" => Self::RollbackFailed,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// Whether it has ended. An unknown status has not.
    pub fn is_over(&self) -> bool {
        matches!(
            self,
            Self::Successful
                | Self::Failed
                | Self::Cancelled
                | Self::RollbackSuccessful
                | Self::RollbackFailed
        )
    }
}

impl fmt::Display for RefreshStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Baking => "Baking",
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::Cancelling => "Cancelling",
            Self::Cancelled => "Cancelled",
            Self::RollbackInProgress => "RollbackInProgress",
            Self::RollbackSuccessful => "RollbackSuccessful",
            Self::RollbackFailed => "RollbackFailed",
            Self::Unknown(text) => text,
        })
    }
}

/// One scaling activity of the group.
///
/// Shapes of the texts: [Verify a scaling activity](https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-verify-scaling-activity.html).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Its id.
    pub id: String,
    /// Whether it launches or terminates. The service has no field for it, so this is read from the fixed beginning of the
    /// description.
    pub action: Action,
    /// Its instance; `None` for a launch that produced none.
    pub instance: Option<InstanceId>,
    /// AWS's description, such as `Launching a new EC2 instance: i-…`.
    pub description: String,
    /// AWS's explanation of what caused it, such as `At …Z an instance was taken out of service in response to …`.
    pub cause: String,
    /// How it ended, or that it has not.
    pub outcome: ActivityOutcome,
    /// AWS's message, shown verbatim.
    pub message: String,
    /// When it began.
    pub started: Option<Timestamp>,
}

/// What a scaling activity does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It launches an instance.
    Launch,
    /// It terminates one.
    Terminate,
    /// Anything else: detaching, standby, a warm pool's moves.
    Other,
}

impl Action {
    /// Reads a description; the instance is the id it names, if it names one.
    pub fn read(description: &str) -> (Self, Option<InstanceId>) {
        let (action, rest) =
            if let Some(rest) = description.strip_prefix("Launching a new EC2 instance") {
                (Self::Launch, rest)
            } else if let Some(rest) = description.strip_prefix("Terminating EC2 instance") {
                (Self::Terminate, rest)
            } else {
                return (Self::Other, None);
            };
        let named = rest.split_once(": ").map_or("", |(_, id)| id);
        let end = named.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        (
            action,
            InstanceId::parse(&named[..end.unwrap_or(named.len())]).ok(),
        )
    }
}

/// One page of scaling activities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activities {
    /// Newest first.
    pub page: Vec<Activity>,
    /// What the next page is asked for with; `None` on the last one.
    pub next: Option<String>,
}

/// How a scaling activity ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivityOutcome {
    /// `Successful`.
    Done,
    /// `Failed` or `Cancelled`: an abandoned launch hook is reported as either.
    Failed,
    /// Anything else: not over yet.
    Running,
}

/// The preferences of StartInstanceRefresh, every one of them explicit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preferences {
    /// MinHealthyPercentage.
    pub min_percent: u32,
    /// MaxHealthyPercentage. Omitting it is not the same as 100.
    pub max_percent: u32,
    /// InstanceWarmup.
    pub warmup_seconds: u32,
    /// CheckpointPercentages ending in 100; empty means: do not send the field at all.
    pub checkpoints: Vec<u32>,
    /// CheckpointDelay, sent with checkpoints only.
    pub checkpoint_delay_seconds: u32,
    /// BakeTime.
    pub bake_seconds: u32,
    /// AlarmSpecification.
    pub alarms: Vec<String>,
    /// AutoRollback.
    pub auto_rollback: bool,
}

/// Auto Scaling groups and their refreshes.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Every group of the account and region that launches from this template, by itself or in a mixed instances policy.
    async fn groups_from(&self, template_id: &str) -> Answer<Vec<GroupName>>;
    /// One group; `None` when there is none.
    async fn group(&self, group: &GroupName) -> Answer<Option<Group>>;
    /// Its lifecycle hooks.
    async fn hooks(&self, group: &GroupName) -> Answer<Vec<Hook>>;
    /// Its refreshes, active ones first, then the newest.
    async fn refreshes(&self, group: &GroupName) -> Answer<Vec<Refresh>>;
    /// One of its refreshes; `None` when it has none of this id.
    async fn refresh(&self, group: &GroupName, id: &str) -> Answer<Option<Refresh>>;
    /// A page of its scaling activities, newest first: the first page, or the one that `next` names.
    async fn activities(&self, group: &GroupName, next: Option<&str>) -> Answer<Activities>;
    /// Starts a refresh to a template version; its id. There is no client token: an answer that
    /// was lost comes back as a fault of code [`REFRESH_IN_PROGRESS`].
    async fn start_refresh(
        &self,
        group: &GroupName,
        desired: &TemplateRef,
        preferences: &Preferences,
    ) -> Answer<String>;
    /// Rolls the active refresh back.
    async fn roll_back(&self, group: &GroupName) -> Answer<()>;
    /// Cancels the active refresh.
    async fn cancel_refresh(&self, group: &GroupName) -> Answer<()>;
    /// Saves the group on a template version, without replacing any member.
    async fn save_version(&self, group: &GroupName, version: &TemplateRef) -> Answer<()>;
}

/// The fault of a second refresh.
pub const REFRESH_IN_PROGRESS: &str = "InstanceRefreshInProgress";
/// The fault of stopping a refresh that has ended.
pub const NO_ACTIVE_REFRESH: &str = "ActiveInstanceRefreshNotFound";
/// The fault of a refresh that cannot be rolled back.
pub const IRREVERSIBLE: &str = "IrreversibleInstanceRefresh";
