//! Moves one member through its lifecycle, at most one step per tick.
//!
//! Owns launch, the hooks on both sides, registration, health and removal. Must not decide how many members there
//! should be (`capacity`) or which of them are to be replaced (`refresh`).

use instance_refresh::after;
use instance_refresh::switches::Switches;
use jiff::Timestamp;

use super::activities::{Activity, ActivityStatus, died, launch_refused, moment};
use super::environment::{Environment, LaunchRequest, Place};
use super::groups::{Group, HealthType, Transition};
use super::members::{Health, HookVerdict, LifecycleAction, LifecycleState, Member};
use crate::ids::{InstanceId, TargetGroupArn};

/// The longest pause between failing launches, in seconds.
const LONGEST_PAUSE: i64 = 300;

/// Why a member is removed; becomes the activity's cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal<'a> {
    /// Its launch failed; termination hooks are skipped.
    LaunchFailure,
    /// It is unhealthy.
    Unhealthy(Health),
    /// The group is scaled in; the text is the cause.
    ScaleIn(&'a str),
    /// An instance refresh replaces it.
    Refresh,
    /// A user requested it; desired capacity before and after, where that was lowered with it.
    Request(Option<(u32, u32)>),
    /// The group is being force-deleted; hooks and draining are skipped.
    ForceDelete,
}

/// Launches one member for `cause`; a failure is logged as an activity and delays the next launch.
pub(crate) fn launch(
    group: &mut Group,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
    cause: &str,
) -> Option<InstanceId> {
    let place = roomiest(group, environment);
    let details = details(&place, environment);
    let activity = environment.fresh_uuid();
    let launched =
        environment
            .template(group.launch_template())
            .and_then(|(mut template, view)| {
                template.version = view.number.to_string();
                let request = LaunchRequest {
                    group: group.name.clone(),
                    template: template.clone(),
                    place,
                    tags: group
                        .tags
                        .iter()
                        .filter(|(_, tag)| tag.propagate)
                        .map(|(key, tag)| (key.clone(), tag.value.clone()))
                        .collect(),
                };
                environment.launch(&request).map(|id| (id, template))
            });
    match launched {
        Ok((id, template)) => {
            let view = environment.instance(&id);
            group.activity_log.add(Activity::begin(
                activity.clone(),
                format!("Launching a new EC2 instance: {id}"),
                cause.to_owned(),
                ActivityStatus::PreInService,
                details,
                now,
            ));
            group.members.push(Member {
                id: id.clone(),
                zone: view.as_ref().map(|v| v.zone.clone()).unwrap_or_default(),
                instance_type: view.map(|v| v.instance_type).unwrap_or_default(),
                template,
                state: LifecycleState::Pending,
                health: Health::Healthy,
                protected: group.protect_new,
                launched: now,
                in_service_since: None,
                actions: Vec::new(),
                registered: Vec::new(),
                activity,
                skip_hooks: false,
            });
            if let Some(refresh) = group.active_refresh_mut() {
                refresh.adopt(id.as_str());
            }
            Some(id)
        }
        Err(why) => {
            group.activity_log.add(Activity::begin(
                activity,
                "Launching a new EC2 instance".to_owned(),
                cause.to_owned(),
                launch_refused(&why),
                details,
                now,
            ));
            slow_down(group, now, switches);
            None
        }
    }
}

/// Whether launching is allowed now: not suspended, and not too soon after a failure.
pub(crate) fn may_launch(group: &Group, now: Timestamp) -> bool {
    !group.is_suspended("Launch") && group.launch_not_before.is_none_or(|t| now >= t)
}

/// Starts the removal of a member.
pub(crate) fn remove(
    group: &mut Group,
    position: usize,
    why: Removal<'_>,
    environment: &mut dyn Environment,
    now: Timestamp,
) -> String {
    let at = moment(now);
    let activity = environment.fresh_uuid();
    let member = &mut group.members[position];
    let cause = match why {
        Removal::LaunchFailure => {
            format!("At {at} an instance was taken out of service in response to a launch failure.")
        }
        Removal::Unhealthy(Health::BadTarget) => format!(
            "At {at} an instance was taken out of service in response to an ELB system health check failure."
        ),
        Removal::Unhealthy(Health::Reported) => format!(
            "At {at} an instance was taken out of service in response to a user health-check."
        ),
        Removal::Unhealthy(Health::BadChecks) => format!(
            "At {at} an instance was taken out of service in response to an EC2 instance status checks failure."
        ),
        Removal::Unhealthy(Health::BadInstance | Health::Healthy) => format!(
            "At {at} an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped."
        ),
        Removal::ScaleIn(reason) => format!(
            "{reason}  At {at} instance {} was selected for termination.",
            member.id
        ),
        Removal::Refresh => format!(
            "At {at} an instance was taken out of service in response to an instance refresh.  At {at} instance {} was selected for termination.",
            member.id
        ),
        Removal::Request(capacity) => {
            let shrinking =
                capacity.map(|(from, to)| format!(", shrinking the capacity from {from} to {to}"));
            format!(
                "At {at} instance {} was taken out of service in response to a user request{}.",
                member.id,
                shrinking.unwrap_or_default()
            )
        }
        Removal::ForceDelete => format!(
            "At {at} a user request force deleted AutoScaling group.  At {at} instance {} was taken out of service.",
            member.id
        ),
    };
    let previous = std::mem::replace(&mut member.activity, activity.clone());
    member.skip_hooks = matches!(why, Removal::LaunchFailure | Removal::ForceDelete);
    member.state = LifecycleState::Terminating;
    member.actions.clear();
    for arn in &member.registered {
        environment.deregister_target(arn, &member.id);
    }
    let draining = !member.registered.is_empty();
    let what = format!("Terminating EC2 instance: {}", member.id);
    let details = format!("{{\"Availability Zone\":\"{}\"}}", member.zone);
    // A launch in progress is cancelled for the same reason.
    group
        .activity_log
        .update(&previous, ActivityStatus::Cancelled(cause.clone()), now);
    group.activity_log.add(Activity::begin(
        activity.clone(),
        what,
        cause,
        if draining {
            ActivityStatus::WaitingForELBConnectionDraining
        } else {
            ActivityStatus::InProgress
        },
        details,
        now,
    ));
    activity
}

/// Moves every member on by at most one step, then drops the removed ones.
pub(crate) fn advance(
    group: &mut Group,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) {
    let mut gone = Vec::new();
    for position in group.members.places() {
        match group.members[position].state {
            LifecycleState::Pending => pending(group, position, environment, now, switches),
            LifecycleState::PendingWait => {
                pending_wait(group, position, environment, now, switches)
            }
            LifecycleState::PendingProceed => enter_service(group, position, environment, now),
            LifecycleState::InService => check_health(group, position, environment, now),
            LifecycleState::EnteringStandby => {
                if drained(&group.members[position], environment) {
                    let member = &mut group.members[position];
                    member.registered.clear();
                    member.state = LifecycleState::Standby;
                    group.update_activity(position, ActivityStatus::Successful, now);
                }
            }
            LifecycleState::Terminating => terminating(group, position, environment, now),
            LifecycleState::TerminatingWait => terminating_wait(group, position, environment, now),
            LifecycleState::Detaching
            | LifecycleState::TerminatingProceed
            | LifecycleState::TerminatingRetained => {
                if left(&group.members[position], environment) {
                    group.update_activity(position, ActivityStatus::Successful, now);
                    gone.push(position);
                }
            }
            LifecycleState::Standby => {}
        }
    }
    for position in gone.into_iter().rev() {
        group.members.remove(position);
    }
}

/// Registers a member with the attached target groups, unless AddToLoadBalancer is suspended.
pub(crate) fn register(group: &mut Group, position: usize, environment: &mut dyn Environment) {
    if group.is_suspended("AddToLoadBalancer") {
        return;
    }
    let arns = group.target_groups.clone();
    let member = &mut group.members[position];
    for arn in &arns {
        environment.register_target(arn, &member.id);
    }
    member.registered = arns;
}

fn pending(
    group: &mut Group,
    position: usize,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) {
    let id = group.members[position].id.clone();
    let state = environment.instance(&id).map(|view| view.state);
    match state.as_deref() {
        Some("pending") => {}
        Some("running") => {
            let actions = open_actions(group, Transition::Launching, environment, now);
            let member = &mut group.members[position];
            member.state = if actions.is_empty() {
                LifecycleState::PendingProceed
            } else {
                LifecycleState::PendingWait
            };
            member.actions = actions;
            if member.state == LifecycleState::PendingWait {
                group.update_activity(position, ActivityStatus::MidLifecycleAction, now);
            }
        }
        _ => {
            let why = not_running(&id, environment);
            launch_failed(group, position, why, environment, now, switches);
        }
    }
}

fn pending_wait(
    group: &mut Group,
    position: usize,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) {
    let id = group.members[position].id.clone();
    if !runs(&id, environment) {
        let why = not_running(&id, environment);
        return launch_failed(group, position, why, environment, now, switches);
    }
    match verdict(group, position, now) {
        HookVerdict::Waiting => {}
        HookVerdict::Proceed => {
            group.members[position].state = LifecycleState::PendingProceed;
            group.members[position].actions.clear();
        }
        HookVerdict::Abandoned(why) => {
            launch_failed(group, position, why, environment, now, switches)
        }
    }
}

fn enter_service(
    group: &mut Group,
    position: usize,
    environment: &mut dyn Environment,
    now: Timestamp,
) {
    register(group, position, environment);
    let member = &mut group.members[position];
    member.state = LifecycleState::InService;
    member.in_service_since = Some(now);
    group.launch_failures = 0;
    group.launch_not_before = None;
    group.update_activity(position, ActivityStatus::Successful, now);
}

fn check_health(group: &mut Group, position: usize, environment: &dyn Environment, now: Timestamp) {
    if group.is_suspended("HealthCheck") {
        return;
    }
    let (elb, grace) = (group.health_type == HealthType::Elb, group.grace);
    let member = &group.members[position];
    if member.health != Health::Healthy {
        return;
    }
    let in_grace = member.in_grace(grace, now);
    let impaired = environment
        .instance(&member.id)
        .is_some_and(|view| view.impaired);
    if !runs(&member.id, environment) {
        group.members[position].health = Health::BadInstance;
    } else if impaired && !in_grace {
        group.members[position].health = Health::BadChecks;
    } else if elb && !in_grace {
        let bad = |arn: &TargetGroupArn| {
            environment.target_health(arn, &member.id).as_deref() == Some("unhealthy")
        };
        if member.registered.iter().any(bad) {
            group.members[position].health = Health::BadTarget;
        }
    }
}

fn terminating(
    group: &mut Group,
    position: usize,
    environment: &mut dyn Environment,
    now: Timestamp,
) {
    if !group.members[position].skip_hooks && !drained(&group.members[position], environment) {
        return;
    }
    let actions = if group.members[position].skip_hooks {
        Vec::new()
    } else {
        open_actions(group, Transition::Terminating, environment, now)
    };
    let member = &mut group.members[position];
    member.actions = actions;
    if member.actions.is_empty() {
        member.state = LifecycleState::TerminatingProceed;
        environment.terminate(&member.id);
        group.update_activity(position, ActivityStatus::InProgress, now);
    } else {
        member.state = LifecycleState::TerminatingWait;
        group.update_activity(position, ActivityStatus::MidLifecycleAction, now);
    }
}

fn terminating_wait(
    group: &mut Group,
    position: usize,
    environment: &mut dyn Environment,
    now: Timestamp,
) {
    let retain = group.retain_abandoned;
    let verdict = verdict(group, position, now);
    if verdict == HookVerdict::Waiting {
        return;
    }
    let member = &mut group.members[position];
    member.actions.clear();
    match verdict {
        HookVerdict::Abandoned(why) if retain => {
            member.state = LifecycleState::TerminatingRetained;
            group.update_activity(position, ActivityStatus::Cancelled(why), now);
        }
        _ => {
            member.state = LifecycleState::TerminatingProceed;
            environment.terminate(&member.id);
            group.update_activity(position, ActivityStatus::InProgress, now);
        }
    }
}

/// The result of a member's actions now, timeouts included.
fn verdict(group: &mut Group, position: usize, now: Timestamp) -> HookVerdict {
    let mut member = group.members[position].clone();
    let verdict = member.hook_verdict(now);
    // While it waits, nothing changes.
    if member != group.members[position] {
        group.members.put(position, member);
    }
    verdict
}

fn launch_failed(
    group: &mut Group,
    position: usize,
    why: String,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) {
    group.update_activity(position, ActivityStatus::Cancelled(why), now);
    remove(group, position, Removal::LaunchFailure, environment, now);
    slow_down(group, now, switches);
}

fn slow_down(group: &mut Group, now: Timestamp, switches: &Switches) {
    let doubled = group.launch_failures.min(10);
    let pause = (i64::from(switches.relaunch_delay) << doubled).min(LONGEST_PAUSE);
    group.launch_failures = group.launch_failures.saturating_add(1);
    group.launch_not_before = Some(after(now, pause));
}

fn open_actions(
    group: &Group,
    transition: Transition,
    environment: &mut dyn Environment,
    now: Timestamp,
) -> Vec<LifecycleAction> {
    group
        .hooks
        .values()
        .filter(|hook| hook.transition == transition)
        .map(|hook| LifecycleAction::open(hook, environment.fresh_uuid(), now))
        .collect()
}

fn not_running(id: &InstanceId, environment: &dyn Environment) -> String {
    died(
        environment
            .instance(id)
            .and_then(|view| view.reason)
            .as_deref(),
    )
}

fn runs(id: &InstanceId, environment: &dyn Environment) -> bool {
    environment
        .instance(id)
        .is_some_and(|view| view.state == "running")
}

/// Whether the member can be dropped from the group.
fn left(member: &Member, environment: &dyn Environment) -> bool {
    if member.state == LifecycleState::Detaching {
        return drained(member, environment);
    }
    environment
        .instance(&member.id)
        .is_none_or(|view| view.state == "terminated")
}

fn drained(member: &Member, environment: &dyn Environment) -> bool {
    member
        .registered
        .iter()
        .all(|arn| environment.target_health(arn, &member.id).is_none())
}

/// The place whose zone has the fewest counted members; the first of equals.
fn roomiest(group: &Group, environment: &dyn Environment) -> Place {
    let places = group.places();
    let fewest = places.iter().min_by_key(|place| {
        let zone = zone(place, environment);
        let counted = |member: &&Member| member.state.is_counted() && member.zone == zone;
        group.members.iter().filter(counted).count()
    });
    // A group always has zones: none is created without.
    fewest
        .cloned()
        .unwrap_or_else(|| Place::Zone(String::new()))
}

fn zone(place: &Place, environment: &dyn Environment) -> String {
    match place {
        Place::Subnet(subnet) => environment.subnet_zone(subnet).unwrap_or_default(),
        Place::Zone(zone) => zone.clone(),
    }
}

fn details(place: &Place, environment: &dyn Environment) -> String {
    let zone = zone(place, environment);
    match place {
        Place::Subnet(subnet) => {
            format!("{{\"Subnet ID\":\"{subnet}\",\"Availability Zone\":\"{zone}\"}}")
        }
        Place::Zone(_) => format!("{{\"Availability Zone\":\"{zone}\"}}"),
    }
}
