//! The fleet as one observation found it: plain data for [`plan`](super::plan), [`watch`](super::watch)
//! and [`verify`](super::verify).
//!
//! Nothing here decides or acts; [`observe`](super::observe) puts it together.

use contract::registry::Verdict;

use cloud::ids::{GroupName, ImageId, InstanceId};
pub(crate) use cloud::{
    Activity, HealthSource, Hook, HookMoment, Lifecycle, MixedFeature, Refresh, RefreshStatus,
    SavedVersion, Size, TargetHealth, TemplateRef, TemplateVersion,
};

/// A group, with everything that matters for rolling it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetView {
    /// The group's name.
    pub(crate) group: GroupName,
    /// Bounds and target of its size.
    pub(crate) size: Size,
    /// What the group launches from.
    pub(crate) launches: Launches,
    /// Whether load-balancer health counts for the group.
    pub(crate) health: HealthSource,
    /// Seconds after InService in which failed health checks are ignored.
    pub(crate) grace_seconds: u32,
    /// The group's own default warm-up, if it has one.
    pub(crate) default_warmup_seconds: Option<u32>,
    /// Lifecycle hooks of the group.
    pub(crate) hooks: Vec<Hook>,
    /// Names of its suspended processes.
    pub(crate) suspended: Vec<String>,
    /// ARNs of the target groups attached to it.
    pub(crate) target_groups: Vec<String>,
    /// Whether anything is attached whose health checks count under [`HealthSource::LoadBalancer`].
    pub(crate) has_traffic_source: bool,
    /// How long a terminating member keeps its open connections: the longest deregistration delay of the target groups, in seconds.
    pub(crate) drain_seconds: u32,
    /// Whether the group keeps a warm pool.
    pub(crate) warm_pool: bool,
    /// Every member, terminating ones included.
    pub(crate) members: Vec<Member>,
    /// The refresh that is active now, else the newest one the service remembers.
    pub(crate) refresh: Option<Refresh>,
}

impl FleetView {
    /// The active refresh, if there is one.
    pub(crate) fn active_refresh(&self) -> Option<&Refresh> {
        self.refresh
            .as_ref()
            .filter(|refresh| !refresh.status.is_over())
    }

    /// Whether a hook holds every new instance until it is completed.
    pub(crate) fn has_launch_hook(&self) -> bool {
        self.hooks
            .iter()
            .any(|hook| hook.moment == HookMoment::Launching)
    }
}

/// What a group launches its members from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Launches {
    /// The old form; it has no versions.
    Configuration {
        /// The launch configuration's name.
        name: String,
    },
    /// One launch template for all members.
    Template(TemplateUse),
    /// A mixed instances policy.
    Mixed {
        /// Which of its features a refresh cannot handle.
        feature: MixedFeature,
    },
    /// A launch template that was deleted.
    Deleted {
        /// `lt-…`.
        id: String,
        /// The name it had.
        name: String,
    },
}

/// The launch template a group is saved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateUse {
    /// `lt-…`.
    pub(crate) id: String,
    /// The template's name.
    pub(crate) name: String,
    /// The version as the group has it saved.
    pub(crate) saved: SavedVersion,
    /// Every version of the template that still exists, oldest first.
    pub(crate) versions: Vec<TemplateVersion>,
    /// Whether EC2 can still launch the image of the version the group is on.
    pub(crate) saved_image: Launchable,
    /// The number of `$Latest`.
    pub(crate) latest: u64,
    /// The number of `$Default`.
    pub(crate) default: u64,
}

impl TemplateUse {
    /// The number of the saved version right now.
    pub(crate) fn number(&self) -> u64 {
        match self.saved {
            SavedVersion::Number(number) => number,
            SavedVersion::Latest => self.latest,
            SavedVersion::Default => self.default,
        }
    }

    /// The version with this number, unless it was deleted.
    pub(crate) fn version(&self, number: u64) -> Option<&TemplateVersion> {
        self.versions
            .iter()
            .find(|version| version.number == number)
    }
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// Its lifecycle state.
    pub(crate) lifecycle: Lifecycle,
    /// `Healthy` or `Unhealthy`, as the group has it.
    pub(crate) healthy: bool,
    /// The launch template and version it was launched from, if it was.
    pub(crate) template: Option<TemplateRef>,
    /// The image that EC2 reports; the group does not report it.
    pub(crate) image: Option<ImageId>,
    /// Protected from scale-in.
    pub(crate) protected: bool,
    /// Its health in every attached target group that contains it.
    pub(crate) targets: Vec<TargetHealth>,
    /// What its agent reports, when it keeps a record.
    pub(crate) record: Option<RecordView>,
}

impl Member {
    /// Whether it was launched from this version of this template.
    pub(crate) fn runs(&self, template_id: &str, version: u64) -> bool {
        self.template
            .as_ref()
            .is_some_and(|own| own.id == template_id && own.version == version)
    }
}

/// What a member's agent reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordView {
    /// Its judgement.
    pub(crate) verdict: Verdict,
    /// Its reason, empty while it is fit.
    pub(crate) reason: String,
    /// The image the agent found itself on.
    pub(crate) image: String,
    /// The agent's own version; empty when it was not reported.
    pub(crate) agent: String,
}

/// How the description of every launch-template version we make begins.
pub(crate) const OURS: &str = "imagebuilder:";

/// Whether EC2 can launch an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Launchable {
    /// It can.
    Yes,
    /// Not now; AWS's name of the image's state.
    Not(String),
    /// It does not exist, or is not visible to this account.
    Unknown,
}
