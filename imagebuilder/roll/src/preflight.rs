//! The permissions and alarms that the verbs of a roll need, checked before they write or change anything.
//!
//! The rule is [`preflight`](run::preflight)'s. Only a roll to another image is refused. An active refresh continues whatever
//! is found here, and so does a rollback refresh.

use anyhow::Result;

use super::RollContext;
use super::plan::{Direction, Plan, Version};
use super::view::{FleetView, Launches};
use cloud::ids::{GroupName, ImageName};
use cloud::{Cloud, Kind};
use run::permissions::{Asked, Denial, Need, Verb, needed};
use run::preflight::{self, Findings, Subject};
use support::shell::quoted;

/// Refuses a plan that could not be carried out; what could not be checked is printed. A rollback is never refused for what
/// is found here: half of it is better than none.
pub(crate) async fn refuse(context: &RollContext<'_>, plan: &Plan) -> Result<()> {
    // A version made from another one is launched like the one that the group is on.
    let version = match plan.version {
        Version::Existing(number) => number.to_string(),
        Version::From(_) => plan.previous.version.to_string(),
    };
    let verb = match plan.direction {
        Direction::Forward => Verb::Roll,
        Direction::Back => Verb::RollbackRefresh,
    };
    let mut needs = Vec::new();
    needs.extend(plan.pin.map(|_| Need::Pin));
    if let Version::From(_) = plan.version {
        needs.push(Need::Version);
    }
    let fleet = Fleet {
        verbs: &[verb],
        needs: &needs,
        template: Some((&plan.template_id, &version)),
    };
    // Those that are sent with the refresh: a rollback has none.
    let alarms = &plan.preferences.alarms;
    let asking = findings(
        context.cloud,
        context.image,
        &context.settings.group,
        alarms,
        fleet,
    );
    let found = match verb.denial() {
        Denial::Refuses => asking.await,
        Denial::Warns => preflight::in_time(asking).await,
    };
    Ok(found.settle(verb.denial(), context.output)?)
}

/// Warns of denied permissions of a verb that continues in any case, before it changes anything. Stops asking when the operator requests a stop.
pub(crate) async fn warn(context: &RollContext<'_>, verbs: &[Verb], view: &FleetView) {
    let template = match &view.launches {
        Launches::Template(template) => Some((template.id.as_str(), template.number().to_string())),
        Launches::Configuration { .. } | Launches::Mixed { .. } | Launches::Deleted { .. } => None,
    };
    let fleet = Fleet {
        verbs,
        needs: &[],
        template: template
            .as_ref()
            .map(|(id, version)| (*id, version.as_str())),
    };
    let asking = findings(
        context.cloud,
        context.image,
        &context.settings.group,
        &[],
        fleet,
    );
    if let Some(found) = context.unless_cancelled(preflight::in_time(asking)).await {
        found.warn(context.output);
    }
}

/// The answer of a first observation. A denied one is reported together with everything else that `verb` is denied.
pub(crate) async fn explain_denial<T>(
    context: &RollContext<'_>,
    verb: Verb,
    answer: Result<T>,
) -> Result<T> {
    let Err(error) = &answer else {
        return answer;
    };
    let Some(call) = preflight::denied(error) else {
        return answer;
    };
    let fleet = Fleet {
        verbs: &[verb],
        needs: &[Need::Version],
        template: None,
    };
    let RollContext {
        cloud,
        image,
        settings,
        ..
    } = context;
    let mut found = findings(cloud, image, &settings.group, &settings.alarms, fleet).await;
    if found.wrong.is_empty() {
        found.wrong(
            call.to_string(),
            "allow it to the caller that `imagebuilder doctor` names; docs/roll.md has what a roll needs",
        );
    }
    found.conclude(context.output)?;
    answer
}

/// What is checked for a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Fleet<'a> {
    /// For which verbs.
    pub verbs: &'a [Verb],
    /// Which conditions apply, besides those that only the group knows.
    pub needs: &'a [Need],
    /// The launch template's id, and a version that would be launched.
    pub template: Option<(&'a str, &'a str)>,
}

/// Everything that would stop the verbs: alarms and permissions.
pub async fn findings(
    cloud: &Cloud,
    image: &ImageName,
    group: &GroupName,
    alarm_names: &[String],
    fleet: Fleet<'_>,
) -> Findings {
    let mut findings = Findings::default();
    let alarm_names = if fleet.verbs.contains(&Verb::Roll) {
        alarm_names
    } else {
        &[]
    };
    let mut needs = vec![Need::Targets, Need::Profile];
    needs.extend(fleet.needs);
    let mut actions = needed(fleet.verbs, &needs);
    actions.retain(|action| action.name != "cloudwatch:DescribeAlarms" || !alarm_names.is_empty());
    let launches = actions.iter().any(|action| action.asked == Asked::Launch);
    let launch = async {
        match fleet.template {
            Some((id, version)) if launches => {
                Some(cloud.instances.may_launch_from(id, version).await)
            }
            _ => None,
        }
    };
    let ((), launch) = tokio::join!(alarms(cloud, alarm_names, &mut findings), launch);
    let launched = match launch {
        Some(Ok(())) => Some(true),
        Some(Err(error)) if error.kind == Kind::Denied => {
            findings.wrong(
                format!("the caller may not launch from the group's template: {error}"),
                "allow ec2:RunInstances, ec2:CreateTags and iam:PassRole for what the group's launch template launches",
            );
            Some(false)
        }
        // The group specifies where its instances are launched, and the template alone may not.
        Some(Err(_)) | None => None,
    };
    let Some(caller) = preflight::caller(cloud, &mut findings).await else {
        return findings;
    };
    let subject = Subject {
        image: Some(image),
        group: Some(group),
        template: fleet.template.map(|(id, _)| id),
        launched,
        ..Subject::default()
    };
    let answers = preflight::ask(cloud, &caller, &actions, &subject).await;
    findings.permissions(answers, &caller.arn);
    findings
}

/// The service starts no refresh with an alarm that is not OK or does not exist.
async fn alarms(cloud: &Cloud, names: &[String], findings: &mut Findings) {
    if names.is_empty() {
        return;
    }
    match cloud.alarms.states(names).await {
        Ok(states) => {
            for name in names {
                match states.get(name).map(String::as_str) {
                    Some("OK") => {}
                    Some(state) => findings.wrong(
                        format!("alarm {name} is {state}, and no refresh starts unless it is OK"),
                        format!("see why: aws cloudwatch describe-alarms --alarm-names {}; or remove it from `alarms` in [roll]", quoted(name)),
                    ),
                    None => findings.wrong(
                        format!("there is no alarm {name} in {}", cloud.region),
                        "correct `alarms` in [roll], or the region",
                    ),
                }
            }
        }
        Err(error) if error.kind == Kind::Denied => {
            findings.unchecked("alarms", "cloudwatch:DescribeAlarms is denied");
        }
        Err(error) => findings.unchecked("alarms", error.to_string()),
    }
}
