//! The text of plans, members and endings. It decides and prints nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use support::duration::elapsed;

use super::plan::{Plan, RollbackMode, Target, Version};
use super::verify::verdict_text;
use super::view::{Activity, Member};
use cloud::ids::{GroupName, ImageId, InstanceId};
use cloud::{Action, ActivityOutcome};
use run::document::Document;

/// A plan as text, line by line.
pub(crate) fn plan(plan: &Plan) -> Vec<String> {
    let mut rows = versions(plan);
    rows.extend(members(plan));
    rows.extend(pacing(plan));
    rows.push(("rollback", rollback(&plan.rollback)));
    let rows = rows.iter();
    let warnings = plan.warnings.iter();
    std::iter::once(format!("plan for group {}", plan.group))
        .chain(rows.map(|(label, text)| format!("  {label:<12}{text}")))
        .chain(warnings.map(|warning| format!("  warning: {warning}")))
        .collect()
}

/// One line of a plan: its label and its text.
type Row = (&'static str, String);

/// From which version and image to which.
fn versions(plan: &Plan) -> Vec<Row> {
    let target = match plan.version {
        Version::Existing(number) => format!("version {number}"),
        Version::From(source) => format!("a new version made from {source}"),
    };
    let template = format!(
        "{} ({}): version {} → {target}",
        plan.template_name, plan.template_id, plan.previous.version
    );
    let image = format!("{} → {}", plan.previous.image, plan.image);
    let mut rows = vec![("template", template), ("image", image)];
    if let Some(number) = plan.pin {
        let text = format!("save the group on {number} instead of {}", plan.saved);
        rows.push(("pin first", text));
    }
    rows
}

/// Which members are replaced, and which are not.
fn members(plan: &Plan) -> Vec<Row> {
    let mut rows = vec![("replace", count(&plan.replace))];
    for (label, members) in [
        ("matching", &plan.matching),
        ("protected", &plan.protected),
        ("standby", &plan.standby),
    ] {
        if !members.is_empty() {
            rows.push((label, count(members)));
        }
    }
    rows
}

/// How fast members are replaced, where the refresh pauses, and what stops it.
fn pacing(plan: &Plan) -> Vec<Row> {
    let Plan {
        pace, preferences, ..
    } = plan;
    let mut rows = Vec::new();
    if !plan.replace.is_empty() {
        let text = format!(
            "{} at a time in {} batches; at least {} of {} in service, at most {} instances",
            pace.batch, pace.batches, pace.keep, pace.desired, pace.cap
        );
        rows.push(("pace", text));
        let text = format!(
            "about {}, watched for at most {}",
            elapsed(Duration::from_secs(pace.seconds)),
            elapsed(plan.limits.watch)
        );
        rows.push(("takes", text));
    }
    if !preferences.checkpoints.is_empty() {
        let percents = preferences.checkpoints.iter();
        let at: Vec<String> = percents.map(|percent| format!("{percent} %")).collect();
        let text = format!(
            "{}, pausing {} s",
            at.join(", "),
            preferences.checkpoint_delay_seconds
        );
        rows.push(("checkpoints", text));
    }
    if !preferences.alarms.is_empty() {
        rows.push(("alarms", preferences.alarms.join(", ")));
    }
    rows
}

/// How the fleet can be rolled back.
fn rollback(mode: &RollbackMode) -> String {
    match mode {
        RollbackMode::Automatic(number) => {
            format!("to version {number}, by itself when it fails")
        }
        RollbackMode::OnRequest(number) => {
            format!("to version {number}, by `imagebuilder roll rollback`")
        }
        RollbackMode::None(why) => format!("none: {why}"),
    }
}

/// What `roll --dry-run` and `roll rollback --dry-run` print as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Preview {
    /// What a roll would do.
    Plan(Box<PlanData>),
    /// There is nothing to do.
    NothingToDo(NothingToDo),
}

impl Document for Preview {
    const NAME: &'static str = "roll";
}

impl Preview {
    /// A plan.
    pub(crate) fn plan(plan: &Plan) -> Self {
        let (existing, source) = match plan.version {
            Version::Existing(number) => (Some(number), None),
            Version::From(source) => (None, Some(source)),
        };
        let (way_back, why_none) = match &plan.rollback {
            RollbackMode::Automatic(version) => (Some((How::Automatic, *version)), None),
            RollbackMode::OnRequest(version) => (Some((How::OnRequest, *version)), None),
            RollbackMode::None(why) => (None, Some(why.clone())),
        };
        Self::Plan(Box::new(PlanData {
            group: plan.group.clone(),
            template: plan.template_id.clone(),
            from: From {
                version: plan.previous.version,
                image: plan.previous.image.clone(),
            },
            to: To {
                version: existing,
                made_from: source,
                image: plan.image.clone(),
            },
            pin: plan.pin,
            replace: plan.replace.clone(),
            matching: plan.matching.clone(),
            protected: plan.protected.clone(),
            standby: plan.standby.clone(),
            batch: plan.pace.batch,
            batches: plan.pace.batches,
            keep: plan.pace.keep,
            cap: plan.pace.cap,
            seconds: plan.pace.seconds,
            watched_seconds: plan.limits.watch.as_secs(),
            way_back: way_back.map(|(how, version)| WayBack { how, version }),
            irreversible_because: why_none,
            warnings: plan.warnings.clone(),
        }))
    }

    /// That there is no plan.
    pub(crate) fn nothing_to_do(group: &GroupName, target: &Target) -> Self {
        Self::NothingToDo(NothingToDo {
            group: group.clone(),
            nothing_to_do: true,
            template: target.template_id.clone(),
            version: target.version,
            image: target.image.clone(),
        })
    }
}

/// The group is saved on the target, and no member is left to replace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NothingToDo {
    /// The Auto Scaling group.
    #[schemars(with = "String")]
    group: GroupName,
    /// Always true.
    nothing_to_do: bool,
    /// The launch template's id.
    template: String,
    /// The version that the group and its members are on.
    version: u64,
    /// The image of that version.
    #[schemars(with = "String")]
    image: ImageId,
}

/// What a roll would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlanData {
    /// The Auto Scaling group.
    #[schemars(with = "String")]
    group: GroupName,
    /// The launch template's id.
    template: String,
    /// What the group is on.
    from: From,
    /// What it goes to.
    to: To,
    /// The version number that is saved on the group first, with --pin-first.
    pin: Option<u64>,
    /// Members that are replaced.
    #[schemars(with = "Vec<String>")]
    replace: Vec<InstanceId>,
    /// Members that are on the target already.
    #[schemars(with = "Vec<String>")]
    matching: Vec<InstanceId>,
    /// Members that are not replaced because they are protected from scale-in.
    #[schemars(with = "Vec<String>")]
    protected: Vec<InstanceId>,
    /// Members that are not replaced because they are in standby.
    #[schemars(with = "Vec<String>")]
    standby: Vec<InstanceId>,
    /// How many are replaced at a time.
    batch: u32,
    /// In how many batches.
    batches: u32,
    /// How many stay in service.
    keep: u32,
    /// How many instances there are at most.
    cap: u32,
    /// How long it takes, about.
    seconds: u64,
    /// How long it is watched at most.
    watched_seconds: u64,
    /// How it can be rolled back; null when it cannot.
    way_back: Option<WayBack>,
    /// Why it cannot be rolled back; null when it can.
    irreversible_because: Option<String>,
    /// What does not prevent the roll.
    warnings: Vec<String>,
}

/// What a group is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct From {
    /// The version of the launch template.
    version: u64,
    /// The image of that version.
    #[schemars(with = "String")]
    image: ImageId,
}

/// What a group goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct To {
    /// The version of the launch template; null when it is yet to be made.
    version: Option<u64>,
    /// The version that it is made from; null when it exists.
    made_from: Option<u64>,
    /// The image of that version.
    #[schemars(with = "String")]
    image: ImageId,
}

/// How a roll can be rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct WayBack {
    /// By what.
    how: How,
    /// To which version.
    version: u64,
}

/// By what a roll is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// By the service, when the refresh fails.
    Automatic,
    /// By `roll rollback`.
    OnRequest,
}

/// How many, and which ones while they are few.
fn count(members: &[InstanceId]) -> String {
    const FEW: usize = 8;
    let named: Vec<&str> = members.iter().take(FEW).map(InstanceId::as_str).collect();
    match members.len() {
        0 => "none".into(),
        all if all > FEW => format!("{all}: {}, …", named.join(", ")),
        all => format!("{all}: {}", named.join(", ")),
    }
}

/// One member in one line.
pub(crate) fn member(member: &Member) -> String {
    let mut line = format!("{} {}", member.instance, member.lifecycle);
    if let Some(template) = &member.template {
        line.push_str(&format!(" version {}", template.version));
    }
    if let Some(image) = &member.image {
        line.push_str(&format!(" {image}"));
    }
    if !member.healthy {
        line.push_str(" Unhealthy");
    }
    for target in &member.targets {
        line.push_str(&format!(" target {}", target.state));
        if !target.reason.is_empty() {
            line.push_str(&format!(" ({})", target.reason));
        }
    }
    if let Some(record) = &member.record {
        line.push_str(" agent");
        if !record.agent.is_empty() {
            line.push_str(&format!(" {}", record.agent));
        }
        line.push_str(&format!(" {}", verdict_text(record.verdict)));
        if !record.reason.is_empty() {
            line.push_str(&format!(" ({})", record.reason));
        }
    }
    line
}

/// That the members' agents are of different versions, and which: the rarest version names its instances. `None`
/// while all that reported a version run the same one.
pub(crate) fn differing_agents(members: &[Member]) -> Option<String> {
    let mut versions: BTreeMap<&str, Vec<InstanceId>> = BTreeMap::new();
    for member in members {
        if let Some(record) = member
            .record
            .as_ref()
            .filter(|record| !record.agent.is_empty())
        {
            versions
                .entry(&record.agent)
                .or_default()
                .push(member.instance.clone());
        }
    }
    if versions.len() < 2 {
        return None;
    }
    let mut versions: Vec<(&str, Vec<InstanceId>)> = versions.into_iter().collect();
    versions.sort_by_key(|(_, instances)| std::cmp::Reverse(instances.len()));
    let parts: Vec<String> = versions
        .iter()
        .enumerate()
        .map(|(place, (version, instances))| match place {
            0 => format!("{version} on {}", instances.len()),
            _ => format!("{version} on {}", count(instances)),
        })
        .collect();
    Some(format!("agents differ: {}", parts.join("; ")))
}

/// A failed scaling activity other than a launch, with AWS's text verbatim; `None` for any other. For launches,
/// [`blame`](super::blame) has more detail.
pub(crate) fn failed_activity(activity: &Activity) -> Option<String> {
    if activity.outcome != ActivityOutcome::Failed || activity.action == Action::Launch {
        return None;
    }
    let message = activity.message.trim();
    let description = activity.description.trim();
    Some(if message.is_empty() || description.contains(message) {
        description.to_owned()
    } else {
        format!("{description}: {message}")
    })
}

/// The two commands for an operator who stops watching.
pub(crate) fn detached(group: &GroupName) -> String {
    format!(
        "keep watching group {group}: imagebuilder roll watch\n\
         roll it back: imagebuilder roll rollback"
    )
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Consent, Decision, plan as decide};
    use super::super::sample;
    use super::super::view::FleetView;
    use super::*;
    use run::testing::printed;

    fn shown(view: &FleetView, roll: &str, consents: &[Consent]) -> String {
        match decide(
            view,
            &sample::goal("ami-2"),
            &sample::settings(roll),
            consents,
        ) {
            Decision::Roll(decided) => plan(&decided).join("\n"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plain_plan_reads_well() {
        insta::assert_snapshot!(shown(&sample::fleet(3, 7, "ami-1"), "", &[]));
    }

    #[test]
    fn a_plan_with_everything_reads_well() {
        let mut view = sample::fleet(12, 7, "ami-1");
        let template = sample::template(&mut view);
        template.saved = cloud::SavedVersion::Latest;
        template
            .versions
            .push(sample::version(8, "ami-2", "imagebuilder: shop"));
        view.members[0].protected = true;
        view.members[1] = sample::member("i-2", 7, "ami-1", "Standby");
        view.members[2] = sample::member("i-3", 8, "ami-2", "InService");
        view.hooks[0].heartbeat_seconds = 3600;
        let roll = "min_healthy_percentage = 80\nmax_healthy_percentage = 120\ninstance_warmup_seconds = 30\n\
                    checkpoints = [20, 50]\nalarms = [\"errors\", \"latency\"]\nauto_rollback = false";
        for member in &mut view.members {
            if member.template.as_ref().is_some_and(|own| own.version == 8) {
                continue;
            }
            member.template.as_mut().unwrap().version = 7;
        }
        // Two versions run, so there is no single one to pin: accept the one-way trip instead.
        insta::assert_snapshot!(shown(&view, roll, &[Consent::Irreversible]));
    }

    #[test]
    fn a_plan_is_described_by_its_schema() {
        let view = sample::fleet(3, 7, "ami-1");
        let goal = sample::goal("ami-2");
        let settings = sample::settings("");
        let Decision::Roll(decided) = decide(&view, &goal, &settings, &[]) else {
            panic!("no plan");
        };
        let mut irreversible = decided.clone();
        irreversible.rollback = RollbackMode::None("the old image is gone".into());
        irreversible.version = Version::Existing(8);
        for plan in [&decided, &irreversible] {
            printed(&Preview::plan(plan));
        }
        insta::assert_snapshot!(printed(&Preview::plan(&decided)));
        let nothing = Preview::nothing_to_do(&view.group, &sample::target(8, "ami-2"));
        insta::assert_snapshot!(printed(&nothing));
    }

    #[test]
    fn a_member_is_one_line() {
        let mut unhealthy = sample::member("i-1", 8, "ami-2", "InService");
        assert_eq!(
            member(&unhealthy),
            "i-1 InService version 8 ami-2 target healthy agent 0.1.0 fit"
        );
        unhealthy.healthy = false;
        unhealthy.targets[0].state = "unhealthy".into();
        unhealthy.targets[0].reason = "Target.Timeout".into();
        let record = unhealthy.record.as_mut().unwrap();
        record.verdict = contract::registry::Verdict::Unfit;
        record.reason = "orders: 503".into();
        assert_eq!(
            member(&unhealthy),
            "i-1 InService version 8 ami-2 Unhealthy target unhealthy (Target.Timeout) agent 0.1.0 unfit (orders: 503)"
        );
    }

    #[test]
    fn members_with_differing_agents_are_listed() {
        let mut members = sample::fleet(3, 7, "ami-1").members;
        assert_eq!(differing_agents(&members), None);
        members[2].record.as_mut().unwrap().agent = "0.2.0".into();
        assert_eq!(
            differing_agents(&members).unwrap(),
            "agents differ: 0.1.0 on 2; 0.2.0 on 1: i-3"
        );
        members[2].record.as_mut().unwrap().agent = String::new();
        assert_eq!(
            differing_agents(&members),
            None,
            "an agent that reports no version is not compared"
        );
        members[1].record = None;
        assert_eq!(differing_agents(&members), None);
    }
}
