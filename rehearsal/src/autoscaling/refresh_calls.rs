//! Checks whether a refresh may start, be cancelled or be rolled back, with AWS's errors.
//!
//! Owns the checks and the defaults. Must not replace members: the next tick does.

use instance_refresh::switches::Switches;
use instance_refresh::{
    AlarmState, Candidate, InStandby, Preferences, Protected, Refresh, Start, TemplateRef,
};
use jiff::Timestamp;

use super::environment::{Environment, TemplateView};
use super::groups::Group;
use super::members::{LifecycleState, Member};
use super::refresh_driver;
use crate::wire::ApiError;

/// Preferences as sent; missing ones have defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct StartRequest {
    /// DesiredConfiguration's launch template.
    pub(crate) desired: Option<TemplateRef>,
    /// MinHealthyPercentage.
    pub(crate) min: Option<u32>,
    /// MaxHealthyPercentage.
    pub(crate) max: Option<u32>,
    /// InstanceWarmup.
    pub(crate) warmup: Option<u32>,
    /// CheckpointPercentages.
    pub(crate) checkpoints: Vec<u32>,
    /// CheckpointDelay.
    pub(crate) checkpoint_delay: Option<u32>,
    /// BakeTime.
    pub(crate) bake: Option<u32>,
    /// SkipMatching.
    pub(crate) skip_matching: Option<bool>,
    /// AutoRollback.
    pub(crate) auto_rollback: Option<bool>,
    /// Alarms.
    pub(crate) alarms: Vec<String>,
    /// ScaleInProtectedInstances.
    pub(crate) protected: Option<Protected>,
    /// StandbyInstances.
    pub(crate) standby: Option<InStandby>,
}

/// Starts a refresh; returns its id.
///
/// # Errors
/// The errors of StartInstanceRefresh.
pub(crate) fn start(
    group: &mut Group,
    asked: StartRequest,
    environment: &mut dyn Environment,
    now: Timestamp,
) -> Result<String, ApiError> {
    if group.active_refresh().is_some() {
        return Err(ApiError::new(
            "InstanceRefreshInProgress",
            "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh.",
        ));
    }
    let preferences = preferences(group, &asked)?;
    let saved = environment
        .template(&group.template)
        .map_err(ApiError::validation)?
        .1;
    let on_parameter = saved.image_id.as_deref().is_some_and(is_parameter);
    if on_parameter && (asked.desired.is_some() || preferences.skip_matching) {
        return Err(ApiError::validation(
            "You cannot specify a desired configuration or enable skip matching when the Auto Scaling group uses a launch template that references a Systems Manager parameter for the AMI.",
        ));
    }
    let desired = asked
        .desired
        .map(|wanted| environment.template(&wanted))
        .transpose()
        .map_err(ApiError::validation)?;
    let irreversible = irreversible(group, desired.is_some(), on_parameter);
    if preferences.auto_rollback
        && let Some(why) = &irreversible
    {
        return Err(ApiError::validation(match desired {
            None => "The AutoRollback parameter cannot be set to true when the DesiredConfiguration parameter is empty.".to_owned(),
            Some(_) => format!("The AutoRollback parameter cannot be set to true. {why}"),
        }));
    }
    for alarm in &preferences.alarms {
        if environment.alarm(alarm) != AlarmState::Ok {
            return Err(ApiError::validation(format!(
                "The CloudWatch alarm {alarm} must be in the OK state to start an instance refresh."
            )));
        }
    }

    let (target, target_view) = match &desired {
        Some((template, view)) => (template.clone(), view.clone()),
        None => (group.template.clone(), saved),
    };
    let id = environment.fresh_uuid();
    let start = Start {
        id: id.clone(),
        preferences,
        desired: desired.map(|(template, _)| template),
        members: candidates(group, &target, &target_view),
        target,
        previous: group.template.clone(),
        irreversible,
    };
    group.refreshes.push(Refresh::start(start, now));
    Ok(id)
}

/// Cancels the active refresh or rollback; returns its id.
///
/// # Errors
/// `ActiveInstanceRefreshNotFound`.
pub(crate) fn cancel(group: &mut Group, wait: bool) -> Result<String, ApiError> {
    let refusal = no_active(group);
    let refresh = group.active_refresh_mut().ok_or_else(|| refusal.clone())?;
    if !refresh.cancel(wait) {
        return Err(refusal);
    }
    Ok(refresh.id.clone())
}

/// Rolls the active refresh back on request; returns its id.
///
/// # Errors
/// `ActiveInstanceRefreshNotFound` and `IrreversibleInstanceRefresh`.
pub(crate) fn roll_back(
    group: &mut Group,
    now: Timestamp,
    switches: &Switches,
) -> Result<String, ApiError> {
    let refresh = group
        .active_refresh()
        .filter(|refresh| refresh.accepts_rollback(switches))
        .ok_or_else(|| no_active(group))?;
    if let Some(why) = &refresh.irreversible {
        return Err(ApiError::new("IrreversibleInstanceRefresh", why.clone()));
    }
    let id = refresh.id.clone();
    let why = "Rolled back due to user request.".to_owned();
    refresh_driver::roll_back(group, why, now);
    Ok(id)
}

fn no_active(group: &Group) -> ApiError {
    ApiError::new(
        "ActiveInstanceRefreshNotFound",
        format!(
            "No in progress or pending Instance Refresh found for Auto Scaling group {}",
            group.name
        ),
    )
}

fn preferences(group: &Group, asked: &StartRequest) -> Result<Preferences, ApiError> {
    let refuse = |text: &str| Err(ApiError::validation(text));
    if asked.max.is_some() && asked.min.is_none() {
        return refuse(
            "You must specify MinHealthyPercentage when you specify MaxHealthyPercentage.",
        );
    }
    let (min, max) = match (asked.min, group.maintenance) {
        (None, Some(policy)) => (policy.min, Some(policy.max)),
        (min, _) => (min.unwrap_or(90), asked.max),
    };
    if min > 100 {
        return refuse("MinHealthyPercentage must be between 0 and 100.");
    }
    if max.is_some_and(|max| !(100..=200).contains(&max)) {
        return refuse("MaxHealthyPercentage must be between 100 and 200.");
    }
    if max.is_some_and(|max| max - min > 100) {
        return refuse(
            "The difference between MinHealthyPercentage and MaxHealthyPercentage cannot be greater than 100.",
        );
    }
    let points = &asked.checkpoints;
    if points.iter().any(|point| !(1..=100).contains(point)) {
        return refuse("CheckpointPercentages must be between 1 and 100.");
    }
    if points.windows(2).any(|pair| pair[0] >= pair[1]) {
        return refuse("CheckpointPercentages must be unique and in ascending order.");
    }
    if points.is_empty() && asked.checkpoint_delay.is_some() {
        return refuse("You must specify CheckpointPercentages when you specify CheckpointDelay.");
    }
    if asked.checkpoint_delay.is_some_and(|delay| delay > 172_800) {
        return refuse("CheckpointDelay must be between 0 and 172800.");
    }
    if asked.bake.is_some_and(|bake| bake > 172_800) {
        return refuse("BakeTime must be between 0 and 172800.");
    }
    if asked.alarms.len() > 10 {
        return refuse("You can specify up to 10 alarms.");
    }
    let defaults = Preferences::default();
    Ok(Preferences {
        min,
        max,
        warmup: asked.warmup.or(group.default_warmup).unwrap_or(group.grace),
        checkpoints: points.clone(),
        checkpoint_delay: asked.checkpoint_delay.unwrap_or(defaults.checkpoint_delay),
        bake: asked.bake.unwrap_or(defaults.bake),
        skip_matching: asked.skip_matching.unwrap_or(defaults.skip_matching),
        auto_rollback: asked.auto_rollback.unwrap_or(defaults.auto_rollback),
        alarms: asked.alarms.clone(),
        protected: asked.protected.unwrap_or(defaults.protected),
        standby: asked.standby.unwrap_or(defaults.standby),
    })
}

fn irreversible(group: &Group, desired: bool, on_parameter: bool) -> Option<String> {
    let why = if !desired {
        "the instance refresh has no desired configuration"
    } else if group.template.version.parse::<u64>().is_err() {
        "the Auto Scaling group's launch template is specified with the $Latest or $Default version"
    } else if on_parameter {
        "the launch template references a Systems Manager parameter for the AMI"
    } else {
        return None;
    };
    Some(format!(
        "The instance refresh cannot be rolled back because {why}."
    ))
}

fn is_parameter(image: &str) -> bool {
    image.starts_with("resolve:ssm:")
}

/// The members that a refresh may replace: those that count, and those in standby.
fn candidates(group: &Group, target: &TemplateRef, view: &TemplateView) -> Vec<Candidate> {
    let matches = |m: &Member| {
        m.template.id == target.id
            && m.template.version == view.number.to_string()
            && view
                .instance_type
                .as_ref()
                .is_none_or(|t| *t == m.instance_type)
    };
    let is_standby = |m: &Member| {
        matches!(
            m.state,
            LifecycleState::Standby | LifecycleState::EnteringStandby
        )
    };
    group
        .members
        .iter()
        .filter(|m| m.state.is_counted() || is_standby(m))
        .map(|m| Candidate {
            id: m.id.to_string(),
            matches: matches(m),
            protected: m.protected,
            standby: is_standby(m),
        })
        .collect()
}
