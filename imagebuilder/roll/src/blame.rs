//! What is to blame for an instance that was lost or never launched: the image, or something else.
//!
//! Rule: a release is blamed only for what it caused, counted over the whole refresh, with the reason shown. It caused a launch
//! hook that was abandoned, health checks that failed, an instance that shut itself down, and a launch that can never succeed. It did
//! not cause scaling in, a Spot interruption, missing capacity, or an operator's action. What this program cannot read counts as no
//! fault.
//!
//! The service has no field for why it took an instance out of service, only the activity's `Cause` and `StatusMessage`. They are
//! read here and nowhere else, by the fixed parts of AWS's sentences
//! (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-verify-scaling-activity.html>,
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/CHAP_Troubleshooting.html>); where EC2 has a code, the code decides. Pure: it makes
//! no calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use super::view::Activity;
use cloud::ids::InstanceId;
use cloud::{Action, ActivityOutcome};

/// Why an instance of the new version was lost, or could not be launched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Its launch hook was completed with ABANDON, or ran out with that result.
    Abandoned,
    /// The load balancer's health checks.
    BalancerHealth,
    /// EC2's status checks, or a health status that was set by a call, such as an agent's verdict.
    Health,
    /// It shut itself down.
    ShutDown,
    /// It can never be launched: the image, or something that the template names, is not there or not permitted. AWS's message.
    Unlaunchable(String),
    /// The group was scaled in.
    ScaledIn,
    /// The group needs fewer in this zone, or replaced it for another reason of its own: the refresh itself, a rebalance.
    Replaced,
    /// It was terminated by a call.
    Operator,
    /// A Spot interruption or rebalance.
    Spot,
    /// No capacity or quota for it. AWS's message.
    Capacity(String),
    /// AWS's message, which this program cannot classify.
    Unknown(String),
}

impl Reason {
    /// Whether the image, or what the template specifies for it, is to blame.
    pub(crate) fn blames_the_image(&self) -> bool {
        match self {
            Self::Abandoned
            | Self::BalancerHealth
            | Self::Health
            | Self::ShutDown
            | Self::Unlaunchable(_) => true,
            Self::ScaledIn
            | Self::Replaced
            | Self::Operator
            | Self::Spot
            | Self::Capacity(_)
            | Self::Unknown(_) => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abandoned => f.write_str("its launch hook was abandoned"),
            Self::BalancerHealth => f.write_str("it failed the load balancer's health checks"),
            Self::Health => f.write_str("it was found unhealthy"),
            Self::ShutDown => f.write_str("it shut itself down"),
            Self::Unlaunchable(message) => write!(f, "it cannot be launched: {message}"),
            Self::ScaledIn => f.write_str("the group was scaled in"),
            Self::Replaced => f.write_str("the group replaced it"),
            Self::Operator => f.write_str("it was terminated by a call"),
            Self::Spot => f.write_str("its Spot capacity was reclaimed"),
            Self::Capacity(message) => write!(f, "there is no capacity for it: {message}"),
            Self::Unknown(message) => f.write_str(message),
        }
    }
}

/// An instance of the new version that was lost, or a launch that produced none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The instance; `None` for a launch that produced none.
    pub(crate) instance: Option<InstanceId>,
    /// Why.
    pub(crate) reason: Reason,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{instance} was lost: {}", self.reason),
            None => write!(f, "no instance: {}", self.reason),
        }
    }
}

/// EC2's StateReason code of each terminated instance; no entry where it was not requested.
pub(crate) type Codes = BTreeMap<InstanceId, String>;

/// Everything that was lost of the new version since the refresh began, each instance once, oldest first.
///
/// While a refresh with a desired configuration is in progress, every launch of the group uses it, so all launches since it began
/// are of the new version; an instance of the old version that is taken out of service is none of them.
pub(crate) fn losses<'a>(
    began: Option<Timestamp>,
    activities: impl IntoIterator<Item = &'a Activity>,
    codes: &Codes,
) -> Vec<Lost> {
    let mut recent: Vec<&Activity> = activities
        .into_iter()
        .filter(|activity| began.is_none() || activity.started >= began)
        .collect();
    recent.sort_by(|one, other| (one.started, &one.id).cmp(&(other.started, &other.id)));
    let new: BTreeSet<&InstanceId> = recent
        .iter()
        .filter(|activity| activity.action == Action::Launch)
        .filter_map(|activity| activity.instance.as_ref())
        .collect();
    let mut lost = Vec::new();
    for activity in recent {
        let instance = activity.instance.as_ref();
        match activity.action {
            Action::Launch if activity.outcome == ActivityOutcome::Failed => {
                note(&mut lost, instance, failed_launch(activity));
            }
            Action::Terminate if instance.is_some_and(|instance| new.contains(instance)) => {
                let code = instance.and_then(|instance| codes.get(instance));
                match taken_out(&activity.cause, code.map(String::as_str)) {
                    // The refresh itself that is rolling back, or a rebalance: no loss.
                    Reason::Replaced => {}
                    // The end of a launch that failed, of which more is known.
                    Reason::Unknown(_) if lost.iter().any(|lost: &Lost| lost.is(instance)) => {}
                    reason => note(&mut lost, instance, reason),
                }
            }
            Action::Launch | Action::Terminate | Action::Other => {}
        }
    }
    lost
}

/// Instances of which only EC2 knows who terminated them: [`losses`] needs their codes.
pub(crate) fn in_doubt<'a>(
    began: Option<Timestamp>,
    activities: impl IntoIterator<Item = &'a Activity>,
) -> Vec<InstanceId> {
    activities
        .into_iter()
        .filter(|activity| began.is_none() || activity.started >= began)
        .filter(|activity| activity.action == Action::Terminate)
        .filter(|activity| activity.cause.contains(TERMINATED_OR_STOPPED))
        .filter_map(|activity| activity.instance.clone())
        .collect()
}

/// AWS's text for an instance that was terminated or stopped outside the group.
const TERMINATED_OR_STOPPED: &str = "terminated or stopped";

/// Adds a loss; for an instance that is lost already the later reason counts: a launch that ended because its instance was
/// terminated explains less than the termination does.
fn note(lost: &mut Vec<Lost>, instance: Option<&InstanceId>, reason: Reason) {
    match lost.iter_mut().find(|lost| lost.is(instance)) {
        Some(known) => known.reason = reason,
        None => lost.push(Lost {
            instance: instance.cloned(),
            reason,
        }),
    }
}

impl Lost {
    /// Whether it is this instance.
    fn is(&self, instance: Option<&InstanceId>) -> bool {
        self.instance.is_some() && self.instance.as_ref() == instance
    }
}

/// Parts of AWS's messages of launches that would succeed with capacity, quota, addresses or patience.
const CAPACITY: [&str; 14] = [
    "sufficient",
    "no spot capacity",
    "unable to fulfill capacity",
    "unfulfillablecapacity",
    "limit of",
    "limit exceeded",
    "limitexceeded",
    "countexceeded",
    "count exceeded",
    "already running",
    "free addresses",
    "throttl",
    "rate exceeded",
    "spot request price",
];

/// Parts of AWS's messages of launches that can never succeed.
const NEVER: [&str; 14] = [
    "does not exist",
    "could not find",
    "does not match",
    "not available",
    "not eligible",
    "not found",
    "notfound",
    "authorized",
    "invalid",
    "not supported",
    "no longer",
    "may not be used",
    "cannot be run",
    "client error on launch",
];

/// Why a launch failed.
fn failed_launch(activity: &Activity) -> Reason {
    let message = activity.message.trim();
    let text = message.to_ascii_lowercase();
    let has = |part: &&str| text.contains(*part);
    if text.contains("abandon") {
        return Reason::Abandoned;
    }
    if let Some(reason) = by_code(message) {
        return reason;
    }
    if CAPACITY.iter().any(has) {
        return Reason::Capacity(message.to_owned());
    }
    if NEVER.iter().any(has) {
        return Reason::Unlaunchable(message.to_owned());
    }
    Reason::Unknown(if message.is_empty() {
        activity.description.clone()
    } else {
        message.to_owned()
    })
}

/// Why an instance was taken out of service.
fn taken_out(cause: &str, code: Option<&str>) -> Reason {
    let text = cause.to_ascii_lowercase();
    let has = |part: &str| text.contains(part);
    if has("launch failure") || has("instance refresh") {
        Reason::Replaced
    } else if has("ebs volume") || has("scheduled") {
        Reason::Unknown(cause.to_owned())
    } else if has("shrinking") || has("difference between desired and actual capacity") {
        Reason::ScaledIn
    } else if has("user health-check") || has("health check set by a user") {
        Reason::Health
    } else if has("user request") || has("force deleted") {
        Reason::Operator
    } else if has("spot") || has("rebalance recommendation") {
        Reason::Spot
    } else if has("elb system health check") || has("elb health check") || has("vpc lattice") {
        Reason::BalancerHealth
    } else if has(TERMINATED_OR_STOPPED) {
        // EC2's code names who did that.
        code.and_then(by_code)
            .unwrap_or_else(|| Reason::Unknown(cause.to_owned()))
    } else if has("health check") || has("health-check") || has("status check") {
        Reason::Health
    } else {
        Reason::Unknown(cause.to_owned())
    }
}

/// By EC2's StateReason code of a terminated instance, alone or within a message
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>).
fn by_code(text: &str) -> Option<Reason> {
    [
        ("Client.InstanceInitiatedShutdown", Reason::ShutDown),
        ("Client.UserInitiatedShutdown", Reason::Operator),
        ("Client.UserInitiatedHibernate", Reason::Operator),
        ("Server.SpotInstance", Reason::Spot),
        (
            "Client.InternalError",
            Reason::Unlaunchable(text.to_owned()),
        ),
        (
            "Client.InvalidSnapshot.NotFound",
            Reason::Unlaunchable(text.to_owned()),
        ),
        (
            "Client.VolumeLimitExceeded",
            Reason::Capacity(text.to_owned()),
        ),
        (
            "Server.InsufficientInstanceCapacity",
            Reason::Capacity(text.to_owned()),
        ),
    ]
    .into_iter()
    .find_map(|(code, reason)| text.contains(code).then_some(reason))
}

/// The instances and launches for which the image is to blame.
pub(crate) fn blamed(lost: &[Lost]) -> Vec<Lost> {
    lost.iter()
        .filter(|lost| lost.reason.blames_the_image())
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, activity, began};
    use super::*;

    fn reasons(activities: &[Activity], codes: &Codes) -> Vec<Reason> {
        losses(Some(began()), activities, codes)
            .into_iter()
            .map(|lost| lost.reason)
            .collect()
    }

    const LAUNCH: &str = "Launching a new EC2 instance: i-1";
    const ABANDON: &str = "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token 1 was abandoned: \
                           Lifecycle Action Completed with ABANDON Result";

    fn launched(id: &str, seconds: i64) -> Activity {
        activity(
            &format!("Launching a new EC2 instance: {id}"),
            "At 2026-11-30T06:30:00Z an instance was launched in response to an instance refresh.",
            ActivityOutcome::Done,
            "",
            seconds,
        )
    }

    fn terminated(id: &str, why: &str, seconds: i64) -> Activity {
        activity(
            &format!("Terminating EC2 instance: {id} - Waiting For ELB Connection Draining."),
            &format!(
                "At 2026-11-30T06:31:00Z an instance was taken out of service in response to {why}"
            ),
            ActivityOutcome::Running,
            "",
            seconds,
        )
    }

    #[test]
    fn a_launch_that_failed_has_its_reason() {
        let unlaunchable = |text: &str| Reason::Unlaunchable(text.into());
        let capacity = |text: &str| Reason::Capacity(text.into());
        type Of<'a> = &'a dyn Fn(&str) -> Reason;
        let cases: &[(&str, Of<'_>)] = &[
            (ABANDON, &|_| Reason::Abandoned),
            (
                "Lifecycle Action with token 1 was abandoned: Heartbeat Timeout",
                &|_| Reason::Abandoned,
            ),
            (
                "Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: \
                 Client.InstanceInitiatedShutdown: Instance initiated shutdown",
                &|_| Reason::ShutDown,
            ),
            (
                "Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: \
                 Client.UserInitiatedShutdown: User initiated shutdown",
                &|_| Reason::Operator,
            ),
            (
                "Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: \
                 Server.SpotInstanceTermination: Spot instance termination",
                &|_| Reason::Spot,
            ),
            (
                "The image id '[ami-1]' does not exist. Launching EC2 instance failed.",
                &unlaunchable,
            ),
            (
                "AMI ami-1 is pending, and cannot be run. Launching EC2 instance failed.",
                &unlaunchable,
            ),
            (
                "The key pair 'shop' does not exist. Launching EC2 instance failed.",
                &unlaunchable,
            ),
            (
                "Could not find the specified version 3 for the launch template with ID lt-1.",
                &unlaunchable,
            ),
            (
                "You are not authorized to perform this operation. Encoded authorization failure message: x",
                &unlaunchable,
            ),
            (
                "The requested configuration is currently not supported. Please check the documentation",
                &unlaunchable,
            ),
            (
                "We currently do not have sufficient t3.large capacity in the Availability Zone you requested (us-east-1a).",
                &capacity,
            ),
            (
                "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity",
                &capacity,
            ),
            (
                "You have requested more vCPU capacity than your current vCPU limit of 8 allows",
                &capacity,
            ),
            (
                "There are not enough free addresses in subnet 'subnet-1'",
                &capacity,
            ),
            ("Max spot instance count exceeded", &capacity),
            ("An internal error has occurred", &|text| {
                Reason::Unknown(text.into())
            }),
            ("something new", &|text| Reason::Unknown(text.into())),
        ];
        for (message, expected) in cases {
            let failed = activity(LAUNCH, "", ActivityOutcome::Failed, message, 10);
            assert_eq!(reasons(&[failed], &Codes::new()), [expected(message)]);
        }
    }

    #[test]
    fn an_instance_that_was_taken_out_of_service_has_its_reason() {
        let cases = [
            (
                "an ELB system health check failure.",
                Some(Reason::BalancerHealth),
            ),
            (
                "a ELB system health check failure.",
                Some(Reason::BalancerHealth),
            ),
            (
                "an EC2 instance status checks failure.",
                Some(Reason::Health),
            ),
            ("a user health-check.", Some(Reason::Health)),
            (
                "a difference between desired and actual capacity, shrinking the capacity from 3 to 2.",
                Some(Reason::ScaledIn),
            ),
            ("a user request.", Some(Reason::Operator)),
            ("an instance refresh.", None),
            ("a launch failure.", None),
        ];
        for (why, expected) in cases {
            let all = [launched("i-1", 10), terminated("i-1", why, 20)];
            let expected: Vec<Reason> = expected.into_iter().collect();
            assert_eq!(reasons(&all, &Codes::new()), expected, "{why}");
        }
        for why in [
            "an EC2 scheduled reboot.",
            "EBS volume health check failure.",
            "a whim.",
        ] {
            let all = [launched("i-1", 10), terminated("i-1", why, 20)];
            let found = reasons(&all, &Codes::new());
            assert!(
                matches!(found[..], [Reason::Unknown(_)]),
                "{why}: {found:?}"
            );
            assert!(!found[0].blames_the_image());
        }
    }

    #[test]
    fn ec2s_code_names_who_terminated_an_instance() {
        let why = "an EC2 health check indicating it has been terminated or stopped.";
        let all = [launched("i-1", 10), terminated("i-1", why, 20)];
        assert_eq!(in_doubt(Some(began()), &all), [sample::instance("i-1")]);
        for (code, expected) in [
            ("Client.InstanceInitiatedShutdown", Reason::ShutDown),
            ("Client.UserInitiatedShutdown", Reason::Operator),
            ("Server.SpotInstanceTermination", Reason::Spot),
        ] {
            let codes = Codes::from([(sample::instance("i-1"), code.to_owned())]);
            assert_eq!(reasons(&all, &codes), [expected], "{code}");
        }
        let found = reasons(&all, &Codes::new());
        assert!(!found[0].blames_the_image(), "{found:?}");
    }

    #[test]
    fn a_termination_explains_more_than_a_failed_launch() {
        let cancelled = activity(LAUNCH, "", ActivityOutcome::Failed, ABANDON, 10);
        let shrinking =
            "a difference between desired and actual capacity, shrinking the capacity from 7 to 2.";
        let scaled = [cancelled.clone(), terminated("i-1", shrinking, 20)];
        assert_eq!(reasons(&scaled, &Codes::new()), [Reason::ScaledIn]);
        let failure = [cancelled, terminated("i-1", "a launch failure.", 20)];
        assert_eq!(reasons(&failure, &Codes::new()), [Reason::Abandoned]);
    }

    #[test]
    fn only_launches_since_the_refresh_began_count_once() {
        let elb = "an ELB system health check failure.";
        // An old instance, and one that was launched before.
        let all = [
            terminated("i-7", elb, 20),
            launched("i-8", -10),
            terminated("i-8", elb, 20),
            sample::lost("i-9", -10),
        ];
        assert_eq!(losses(Some(began()), &all, &Codes::new()), []);
        let twice = [sample::lost("i-1", 10), sample::lost("i-1", 10)];
        assert_eq!(losses(Some(began()), &twice, &Codes::new()).len(), 1);
        // Launches without an instance cannot be distinguished, and each counts.
        let never = |seconds| {
            let text = "The image id '[ami-1]' does not exist. Launching EC2 instance failed.";
            activity(
                &format!("Launching a new EC2 instance.  Status Reason: {text}"),
                "",
                ActivityOutcome::Failed,
                text,
                seconds,
            )
        };
        let lost = losses(Some(began()), &[never(10), never(20)], &Codes::new());
        assert_eq!(blamed(&lost).len(), 2);
        assert!(lost.iter().all(|lost| lost.instance.is_none()));
    }
}
