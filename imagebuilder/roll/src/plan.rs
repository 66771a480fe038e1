//! Decides what a roll would do: a view of the fleet, the wanted image and the settings in, a plan
//! or its refusal out.
//!
//! Pure: it makes no calls and does not read the time. The plan leaves its executor no
//! meaningful choice, and made again from an unchanged fleet it comes out the same, which is how
//! [`start`](super::start) checks that its assumptions still hold.

mod pace;
mod warnings;

use std::collections::BTreeSet;

pub(crate) use self::pace::Pace;
use super::before::unfinished;
use super::limits::{Limits, limits};
use super::view::{
    FleetView, HealthSource, Launchable, Launches, Lifecycle, Member, MixedFeature, OURS,
    SavedVersion, TemplateUse,
};
use crate::settings::Settings;
use cloud::Preferences;
use cloud::ids::{GroupName, ImageId, InstanceId};
pub(crate) use run::ledger::{Direction, Target};

/// What the fleet is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The image.
    pub(crate) image: ImageId,
    /// Whether EC2 can launch it.
    pub(crate) state: Launchable,
    /// Its gate verdict.
    pub(crate) gate: GateVerdict,
    /// The template version to use as it is, for a rollback to a known version.
    pub(crate) version: Option<u64>,
    /// Whether it is a new release or a rollback.
    pub(crate) direction: Direction,
}

/// Whether an image went through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateVerdict {
    /// Its verdict tag is `fit`.
    Fit,
    /// It has no such tag.
    None,
}

/// A risk that the operator has accepted by a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// `--accept-unproven`: the image has no gate verdict.
    Unproven,
    /// `--accept-irreversible`: the refresh cannot be rolled back.
    Irreversible,
    /// `--no-gate`: nothing keeps an unhealthy instance out of service.
    NoGate,
    /// `--pin-first`: write the version number the members run onto the group before starting.
    PinFirst,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Carry out this plan.
    Roll(Box<Plan>),
    /// The group is saved on the wanted version and no member is left to replace.
    NothingToDo(Target),
    /// Do nothing, for this reason.
    Refuse(Refusal),
}

/// Why nothing is done, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What callers branch on.
    pub(crate) kind: RefusalKind,
    /// Why it is refused.
    pub(crate) reason: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// Which refusal it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The fleet, the image or the settings forbid it.
    Preflight,
    /// Another refresh of this id is active: waiting or adopting is possible.
    RefreshActive(String),
}

/// Where the target version comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// It is there already.
    Existing(u64),
    /// It is to be made from this one, with only the image changed.
    From(u64),
}

/// How the fleet can be rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RollbackMode {
    /// The service rolls back by itself, to this version.
    Automatic(u64),
    /// Only on request (`roll rollback`), to this version.
    OnRequest(u64),
    /// Not at all, and why.
    None(String),
}

/// One roll, with every number decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The group.
    pub(crate) group: GroupName,
    /// `lt-…`.
    pub(crate) template_id: String,
    /// The template's name, for messages.
    pub(crate) template_name: String,
    /// The version as the group has it saved.
    pub(crate) saved: SavedVersion,
    /// The version it is on, as a number, and its image.
    pub(crate) previous: Target,
    /// The version to write onto the group before starting.
    pub(crate) pin: Option<u64>,
    /// The version to go to.
    pub(crate) version: Version,
    /// The image to go to.
    pub(crate) image: ImageId,
    /// Members that will be replaced.
    pub(crate) replace: Vec<InstanceId>,
    /// Members that run the target version already.
    pub(crate) matching: Vec<InstanceId>,
    /// Members not replaced because they are protected from scale-in.
    pub(crate) protected: Vec<InstanceId>,
    /// Members not replaced because they are in standby.
    pub(crate) standby: Vec<InstanceId>,
    /// The same in absolute numbers.
    pub(crate) pace: Pace,
    /// What is sent to the service.
    pub(crate) preferences: Preferences,
    /// How the fleet can be rolled back.
    pub(crate) rollback: RollbackMode,
    /// Its direction.
    pub(crate) direction: Direction,
    /// How long it is watched, and how long its verification may take.
    pub(crate) limits: Limits,
    /// Warnings that do not prevent the roll.
    pub(crate) warnings: Vec<String>,
}

impl Plan {
    /// Whether `other`, made from a later observation, rests on the same assumptions about the group.
    ///
    /// Members change with scaling, so they are not compared; the rollback is.
    pub(crate) fn same_assumptions(&self, other: &Self) -> bool {
        self.template_id == other.template_id
            && self.previous == other.previous
            && self.saved == other.saved
            && self.image == other.image
            && self.preferences == other.preferences
    }
}

/// Processes without which a refresh makes no progress or its instances get no traffic.
const NEEDED_PROCESSES: [&str; 4] = [
    "InstanceRefresh",
    "Launch",
    "Terminate",
    "AddToLoadBalancer",
];

/// Decides. See the module.
pub(crate) fn plan(
    view: &FleetView,
    goal: &Goal,
    settings: &Settings,
    consents: &[Consent],
) -> Decision {
    match decide(view, goal, settings, consents) {
        Ok(decision) => decision,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// The checks, in the order in which operators can act on them: first what no flag can change.
fn decide(
    view: &FleetView,
    goal: &Goal,
    settings: &Settings,
    consents: &[Consent],
) -> Result<Decision, Refusal> {
    let template = template_of(view, settings)?;
    free(view)?;
    usable(goal, consents)?;
    let (source, pin) = source_of(view, template, consents)?;
    let previous = previous_of(template, source)?;
    let version = version_for(template, goal, source)?;
    let sorted = sort_members(view, &template.id, version);
    if let Version::Existing(number) = version
        && template.saved == SavedVersion::Number(number)
        && sorted.replace.is_empty()
    {
        return Ok(Decision::NothingToDo(Target {
            template_id: template.id.clone(),
            version: number,
            image: goal.image.clone(),
        }));
    }
    check_processes(view)?;
    let mut warnings = Vec::new();
    let mut preferences = preferences(view, settings);
    let rollback = match goal.direction {
        Direction::Forward => {
            gate(view, preferences.warmup_seconds, consents, &mut warnings)?;
            rollback(view, template, version, pin, settings, consents)?
        }
        Direction::Back => {
            preferences = without_pauses(preferences);
            RollbackMode::None("this roll is itself a rollback".into())
        }
    };
    preferences.auto_rollback = matches!(rollback, RollbackMode::Automatic(_));
    let pace = Pace::of(view.size.desired, sorted.replace.len(), &preferences);
    let limits = limits(view, settings, &preferences);
    if goal.gate == GateVerdict::None && goal.direction == Direction::Forward {
        warnings.push(format!("image {} has no gate verdict", goal.image));
    }
    warnings::warn(
        view,
        settings,
        &preferences,
        pace,
        &sorted,
        goal.direction,
        &mut warnings,
    );
    warnings::watched_too_shortly(settings, pace, &mut warnings);
    Ok(Decision::Roll(Box::new(Plan {
        group: view.group.clone(),
        template_id: template.id.clone(),
        template_name: template.name.clone(),
        saved: template.saved,
        previous,
        pin,
        version,
        image: goal.image.clone(),
        replace: sorted.replace,
        matching: sorted.matching,
        protected: sorted.protected,
        standby: sorted.standby,
        pace,
        preferences,
        rollback,
        direction: goal.direction,
        limits,
        warnings,
    })))
}

/// Refuses a group whose refresh is active: the service allows one.
fn free(view: &FleetView) -> Result<(), Refusal> {
    let Some(active) = view.active_refresh() else {
        return Ok(());
    };
    Err(Refusal {
        kind: RefusalKind::RefreshActive(active.id.clone()),
        reason: format!(
            "refresh {} of group {} is active ({}, {} %)",
            active.id, view.group, active.status, active.percent
        ),
        hint: "watch it with `imagebuilder roll watch`, wait for it with --wait, \
               or take it over with --adopt if its target is this image"
            .into(),
    })
}

/// The preferences of a roll to a new release, but for `auto_rollback`.
pub(crate) fn preferences(view: &FleetView, settings: &Settings) -> Preferences {
    Preferences {
        min_percent: settings.min_percent,
        max_percent: settings.max_percent,
        warmup_seconds: warmup(view, settings),
        checkpoints: with_the_end(&settings.checkpoints),
        checkpoint_delay_seconds: settings.checkpoint_delay_seconds,
        bake_seconds: settings.bake_seconds,
        alarms: settings.alarms.clone(),
        auto_rollback: false,
    }
}

/// The same for a rollback: it has no pauses, and an alarm that the bad release raised does not prevent it.
fn without_pauses(preferences: Preferences) -> Preferences {
    Preferences {
        checkpoints: Vec::new(),
        bake_seconds: 0,
        alarms: Vec::new(),
        ..preferences
    }
}

/// A refusal that only a change of fleet, image or flags resolves.
fn refuse<T>(reason: String, hint: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        kind: RefusalKind::Preflight,
        reason,
        hint: hint.into(),
    })
}

/// The group's launch template, if a refresh can change it and it is the one the settings mean.
fn template_of<'a>(view: &'a FleetView, settings: &Settings) -> Result<&'a TemplateUse, Refusal> {
    let group = &view.group;
    let template = match &view.launches {
        Launches::Template(template) => template,
        Launches::Deleted { id, name } => {
            return refuse(
                format!(
                    "group {group} launches from launch template {name} ({id}), which does not exist any more"
                ),
                "create the template again and give the group a version of it (aws autoscaling update-auto-scaling-group)",
            );
        }
        Launches::Configuration { name } => {
            return refuse(
                format!(
                    "group {group} launches from launch configuration {name}, which has no versions"
                ),
                "move the group to a launch template first (in the EC2 console: copy to launch template)",
            );
        }
        Launches::Mixed { feature } => {
            let (what, hint) = match feature {
                MixedFeature::Attributes => (
                    "chooses instance types by attributes; a refresh refuses a desired configuration there",
                    "list the instance types instead, or change the policy by hand",
                ),
                MixedFeature::Weights => (
                    "has weighted instance types, with which a refresh may replace all members at once",
                    "remove the weights from the overrides",
                ),
                MixedFeature::OwnTemplates => (
                    "has overrides with a launch template or image of their own",
                    "give all overrides the group's own launch template",
                ),
                MixedFeature::Plain => (
                    "has a mixed instances policy, which this version cannot roll yet",
                    "give the group a single launch template",
                ),
            };
            return refuse(format!("group {group} {what}"), hint);
        }
    };
    if let Some(wanted) = &settings.launch_template
        && wanted.as_str() != template.id
        && wanted.as_str() != template.name
    {
        return refuse(
            format!(
                "group {group} launches from template {} ({}), not from {wanted}",
                template.name, template.id
            ),
            "correct fleet.launch_template or fleet.group",
        );
    }
    if let Some(wanted) = &settings.target_group
        && !view
            .target_groups
            .iter()
            .any(|arn| names_target_group(arn, wanted))
    {
        return refuse(
            format!("target group {wanted} is not attached to group {group}"),
            "attach it (aws autoscaling attach-load-balancer-target-groups) or correct fleet.target_group",
        );
    }
    Ok(template)
}

/// Whether `wanted` is this ARN or the name within it
/// (`arn:…:targetgroup/<name>/<number>`).
fn names_target_group(arn: &str, wanted: &str) -> bool {
    arn == wanted || arn.split('/').nth(1) == Some(wanted)
}

/// Refuses an image that cannot be launched, or that has no gate verdict `fit`.
fn usable(goal: &Goal, consents: &[Consent]) -> Result<(), Refusal> {
    let image = &goal.image;
    match &goal.state {
        Launchable::Yes => {}
        Launchable::Not(state) => {
            return refuse(
                format!("image {image} is {state}, not available"),
                "wait until it is available, or roll another image",
            );
        }
        Launchable::Unknown => {
            return refuse(
                format!("there is no image {image} in this region and account"),
                "list the images with `imagebuilder images`",
            );
        }
    }
    if goal.direction == Direction::Back {
        return Ok(());
    }
    if goal.gate == GateVerdict::None && !consents.contains(&Consent::Unproven) {
        return refuse(
            format!(
                "image {image} has no tag {}=fit: it has no gate verdict",
                contract::tags::VERDICT
            ),
            "bake it with `imagebuilder bake`, or pass --accept-unproven",
        );
    }
    Ok(())
}

/// The version new ones are made from, and the one to pin first if that was asked for.
fn source_of(
    view: &FleetView,
    template: &TemplateUse,
    consents: &[Consent],
) -> Result<(u64, Option<u64>), Refusal> {
    if matches!(template.saved, SavedVersion::Number(_)) || !consents.contains(&Consent::PinFirst) {
        return Ok((template.number(), None));
    }
    let running: BTreeSet<u64> = view
        .members
        .iter()
        .filter(|member| !matches!(member.lifecycle, Lifecycle::Leaving(_)))
        .filter_map(|member| member.template.as_ref())
        .filter(|own| own.id == template.id)
        .map(|own| own.version)
        .collect();
    let mut numbers = running.iter().copied();
    match (numbers.next(), numbers.next()) {
        (None, _) => Ok((template.number(), Some(template.number()))),
        (Some(only), None) => Ok((only, Some(only))),
        (Some(_), Some(_)) => refuse(
            format!(
                "members of group {} run several versions ({running:?}): none of them is the one to pin",
                view.group
            ),
            "save the group on the number you trust (aws autoscaling update-auto-scaling-group), then roll",
        ),
    }
}

/// The version the fleet is on, which has to carry a literal image.
fn previous_of(template: &TemplateUse, source: u64) -> Result<Target, Refusal> {
    let name = &template.name;
    let Some(version) = template.version(source) else {
        return refuse(
            format!("version {source} of template {name} does not exist any more"),
            "save the group on a version that exists",
        );
    };
    let Some(image) = version.image.literal() else {
        return refuse(
            format!(
                "version {source} of template {name} names its image as {}: a refresh accepts no \
                 desired configuration there, and could not be rolled back",
                version.image
            ),
            "save the group on a version with a literal AMI id first",
        );
    };
    Ok(Target {
        template_id: template.id.clone(),
        version: source,
        image: image.clone(),
    })
}

/// The version that carries the wanted image: one that is there, else one to be made.
fn version_for(template: &TemplateUse, goal: &Goal, source: u64) -> Result<Version, Refusal> {
    let carries = |number: u64| {
        template
            .version(number)
            .is_some_and(|version| version.image.literal() == Some(&goal.image))
    };
    if let Some(number) = goal.version {
        return if carries(number) {
            Ok(Version::Existing(number))
        } else {
            refuse(
                format!(
                    "version {number} of template {} does not carry image {} any more",
                    template.name, goal.image
                ),
                format!("roll the image itself: imagebuilder roll {}", goal.image),
            )
        };
    }
    if carries(source) {
        return Ok(Version::Existing(source));
    }
    let shape = template
        .version(source)
        .map(|version| version.shape.as_str());
    let ours = template
        .versions
        .iter()
        .filter(|version| version.description.starts_with(OURS))
        .filter(|version| version.image.literal() == Some(&goal.image))
        .filter(|version| Some(version.shape.as_str()) == shape)
        .map(|version| version.number)
        .max();
    Ok(ours.map_or(Version::From(source), Version::Existing))
}

/// Members by what a refresh will do with them.
struct Sorted {
    replace: Vec<InstanceId>,
    matching: Vec<InstanceId>,
    protected: Vec<InstanceId>,
    standby: Vec<InstanceId>,
}

/// Sorts the members; those that are terminating do not count.
fn sort_members(view: &FleetView, template_id: &str, version: Version) -> Sorted {
    let matches = |member: &Member| match version {
        Version::Existing(number) => member.runs(template_id, number),
        Version::From(_) => false,
    };
    let mut sorted = Sorted {
        replace: Vec::new(),
        matching: Vec::new(),
        protected: Vec::new(),
        standby: Vec::new(),
    };
    for member in &view.members {
        let list = match &member.lifecycle {
            Lifecycle::Leaving(_) | Lifecycle::Retained => continue,
            _ if matches(member) => &mut sorted.matching,
            Lifecycle::Standby => &mut sorted.standby,
            _ if member.protected => &mut sorted.protected,
            _ => &mut sorted.replace,
        };
        list.push(member.instance.clone());
    }
    sorted
}

/// Refuses while a process that a refresh needs is suspended.
fn check_processes(view: &FleetView) -> Result<(), Refusal> {
    let stopped: Vec<&str> = NEEDED_PROCESSES
        .into_iter()
        .filter(|process| view.suspended.iter().any(|s| s == process))
        .collect();
    if stopped.is_empty() {
        return Ok(());
    }
    refuse(
        format!("group {} has suspended {}", view.group, stopped.join(", ")),
        format!(
            "aws autoscaling resume-processes --auto-scaling-group-name {} --scaling-processes {}",
            view.group,
            stopped.join(" ")
        ),
    )
}

/// The warm-up to send: the settings', else the group's own, else the grace period where the
/// balancer's checks only count after it. Sent in every case, as the service's fallbacks differ.
fn warmup(view: &FleetView, settings: &Settings) -> u32 {
    settings
        .warmup_seconds
        .or(view.default_warmup_seconds)
        .unwrap_or(match view.health {
            HealthSource::LoadBalancer => view.grace_seconds,
            HealthSource::Ec2 => 0,
        })
}

/// Whether a load balancer's health checks can take an instance out of service: the group counts them, something is attached that
/// makes them, and the process that acts on them runs.
fn health_refuses(view: &FleetView) -> bool {
    view.health == HealthSource::LoadBalancer
        && view.has_traffic_source
        && !view
            .suspended
            .iter()
            .any(|process| process == "HealthCheck")
}

/// Refuses, unless a flag accepts it, where nothing would keep an unhealthy instance from being counted: a gate is what can refuse.
fn gate(
    view: &FleetView,
    warmup_seconds: u32,
    consents: &[Consent],
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    if view.has_launch_hook() || health_refuses(view) || warmup_seconds > 0 {
        return Ok(());
    }
    let no_health = match view.health {
        HealthSource::Ec2 => "no load-balancer health",
        HealthSource::LoadBalancer if !view.has_traffic_source => {
            "load-balancer health without a load balancer"
        }
        HealthSource::LoadBalancer => "load-balancer health while HealthCheck is suspended",
    };
    let reason = format!(
        "group {} has no gate: no launch hook, {no_health}, no warm-up, so every instance \
         counts as updated the moment it runs",
        view.group
    );
    if consents.contains(&Consent::NoGate) {
        warnings.push(reason);
        return Ok(());
    }
    refuse(
        reason,
        "give the group a launch hook that the agent completes (aws autoscaling put-lifecycle-hook \
         --lifecycle-transition autoscaling:EC2_INSTANCE_LAUNCHING), or pass --no-gate",
    )
}

/// How the fleet can be rolled back; refuses an irreversible roll unless a flag accepts it.
fn rollback(
    view: &FleetView,
    template: &TemplateUse,
    version: Version,
    pin: Option<u64>,
    settings: &Settings,
    consents: &[Consent],
) -> Result<RollbackMode, Refusal> {
    let number = match (template.saved, pin) {
        (SavedVersion::Number(number), _) | (_, Some(number)) => number,
        (alias, None) => {
            return one_way(
                format!(
                    "group {} is saved on {alias}, and a refresh returns to numbers only",
                    view.group
                ),
                "pass --pin-first to save it on the number its members run before starting, or --accept-irreversible",
                consents,
            );
        }
    };
    if version == Version::Existing(number) && unfinished(view).is_some() {
        return Ok(RollbackMode::None(format!(
            "the last refresh ended half-way, and this rolls it back to version {number}"
        )));
    }
    if version == Version::Existing(number) {
        return one_way(
            format!(
                "group {} is already saved on version {number}, so there is no other to return to",
                view.group
            ),
            "save the group on the version its members run before rolling, or pass --accept-irreversible",
            consents,
        );
    }
    if template.saved_image != Launchable::Yes {
        return one_way(
            format!(
                "the image of version {number}, which group {} would return to, does not exist any more",
                view.group
            ),
            "pass --accept-irreversible",
            consents,
        );
    }
    Ok(if settings.auto_rollback {
        RollbackMode::Automatic(number)
    } else {
        RollbackMode::OnRequest(number)
    })
}

/// A roll that cannot be rolled back: refused, unless a flag accepts it.
fn one_way(why: String, hint: &str, consents: &[Consent]) -> Result<RollbackMode, Refusal> {
    if consents.contains(&Consent::Irreversible) {
        Ok(RollbackMode::None(why))
    } else {
        refuse(format!("this roll could not be rolled back: {why}"), hint)
    }
}

/// Checkpoints with the 100 without which the service would stop at the last one and call that a
/// success. An empty list stays empty: the service hangs on one that is sent.
fn with_the_end(checkpoints: &[u32]) -> Vec<u32> {
    let mut all = checkpoints.to_vec();
    if !all.is_empty() {
        all.push(100);
    }
    all
}

#[cfg(test)]
mod tests;
