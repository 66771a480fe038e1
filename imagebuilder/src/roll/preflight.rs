//! What a roll will need up to its last pointer, asked before its ledger begins and a template version is made.
//!
//! The rule is [`preflight`](crate::preflight)'s.

use anyhow::Result;

use super::Crew;
use super::plan::{Direction, Plan};
use crate::advice::quoted;
use crate::cloud::{Cloud, Kind};
use crate::ids::{GroupName, ImageName};
use crate::permissions::{Need, Verb, needed};
use crate::preflight::{self, Findings, Subject};

/// Refuses a plan that could not be carried out; what could not be asked is printed. A way back is refused for nothing that is
/// found here: half of it is better than none.
pub(crate) async fn refuse(crew: &Crew<'_>, plan: &Plan) -> Result<()> {
    let version = plan.previous.version.to_string();
    let fleet = Fleet {
        template: Some((&plan.template_id, &version)),
        pin: plan.pin.is_some(),
    };
    // Those that are sent with the refresh: a way back is started with none.
    let alarms = &plan.preferences.alarms;
    let found = findings(crew.cloud, crew.image, &crew.settings.group, alarms, fleet).await;
    match plan.direction {
        Direction::Forward => Ok(found.conclude(crew.output)?),
        Direction::Back => {
            found.warn(crew.output);
            Ok(())
        }
    }
}

/// A first look's answer. A denied one is a finding among all that is denied.
pub(crate) async fn looked<T>(crew: &Crew<'_>, answer: Result<T>) -> Result<T> {
    let Err(error) = &answer else {
        return answer;
    };
    let Some(call) = preflight::denied(error) else {
        return answer;
    };
    let fleet = Fleet {
        template: None,
        pin: false,
    };
    let Crew {
        cloud,
        image,
        settings,
        ..
    } = crew;
    let mut found = findings(cloud, image, &settings.group, &settings.alarms, fleet).await;
    if found.wrong.is_empty() {
        found.wrong(
            call.to_string(),
            "allow it to the caller that `imagebuilder doctor` names; docs/roll.md has what a roll needs",
        );
    }
    found.conclude(crew.output)?;
    answer
}

/// What is known of the fleet that would be rolled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet<'a> {
    /// The launch template's id, and the version that the group is on.
    pub(crate) template: Option<(&'a str, &'a str)>,
    /// Whether the group would be saved on a number first.
    pub(crate) pin: bool,
}

/// Everything that a roll would meet: alarms and permissions.
pub(crate) async fn findings(
    cloud: &Cloud,
    image: &ImageName,
    group: &GroupName,
    alarm_names: &[String],
    fleet: Fleet<'_>,
) -> Findings {
    let mut findings = Findings::default();
    let launch = async {
        match fleet.template {
            Some((id, version)) => Some(cloud.instances.may_launch_from(id, version).await),
            None => None,
        }
    };
    let ((), launch) = tokio::join!(alarms(cloud, alarm_names, &mut findings), launch);
    let launched = match launch {
        Some(Ok(())) => Some(true),
        Some(Err(error)) if error.kind == Kind::Denied => {
            findings.wrong(
                format!("the group may not launch for you: {error}"),
                "allow ec2:RunInstances, ec2:CreateTags and iam:PassRole for what the group's launch template launches",
            );
            Some(false)
        }
        // The group says where its instances are, and the template alone may not.
        Some(Err(_)) | None => None,
    };
    let Some(caller) = preflight::caller(cloud, &mut findings).await else {
        return findings;
    };
    let mut needs = vec![Need::Targets, Need::Profile];
    needs.extend(fleet.pin.then_some(Need::Pin));
    let mut actions = needed(&[Verb::Roll], &needs);
    actions.retain(|action| action.name != "cloudwatch:DescribeAlarms" || !alarm_names.is_empty());
    let subject = Subject {
        image,
        group: Some(group),
        template: fleet.template.map(|(id, _)| id),
        role: None,
        profile: None,
        key: None,
        launched,
    };
    let answers = preflight::ask(cloud, &caller, &actions, &subject).await;
    findings.permissions(answers, &caller.arn);
    findings
}

/// The service starts no refresh with an alarm that is not OK or not there.
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
                        format!("see why: aws cloudwatch describe-alarms --alarm-names {}; or take it out of `alarms` in [roll]", quoted(name)),
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
