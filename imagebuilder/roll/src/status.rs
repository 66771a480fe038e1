//! The status of a fleet: pointers, group, members, refresh.
//!
//! Formats an observation as text or data; it decides and changes nothing.

use contract::names::Pointer;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::observe::Gaps;
use super::view::{FleetView, Launches, Member, Refresh};
use super::watch::waiting_for;
use super::{show, verify};
use cloud::ids::{GroupName, ImageId, ImageName, InstanceId};
use cloud::{Answer, Cloud};
use run::document::Document;
use run::pointers::{self, Scope};

/// The pointers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pointers {
    /// Baked, not rolled.
    #[schemars(with = "Option<String>")]
    candidate: Option<ImageId>,
    /// Verified by the last roll.
    #[schemars(with = "Option<String>")]
    current: Option<ImageId>,
    /// Before that.
    #[schemars(with = "Option<String>")]
    previous: Option<ImageId>,
}

impl Pointers {
    /// Reads all three.
    pub async fn read(cloud: &Cloud, scope: &Scope, gaps: &mut Gaps) -> Answer<Self> {
        let mut read = [None, None, None];
        let pointers = [Pointer::Candidate, Pointer::Current, Pointer::Previous];
        for (place, pointer) in read.iter_mut().zip(pointers) {
            *place = gaps.fill(pointers::read(cloud, scope, pointer).await)?;
        }
        let [candidate, current, previous] = read;
        Ok(Self {
            candidate,
            current,
            previous,
        })
    }
}

/// The pointers, line by line.
pub fn pointer_lines(image: &ImageName, pointers: &Pointers) -> Vec<String> {
    let text = |image: &Option<ImageId>| {
        image
            .as_ref()
            .map_or_else(|| "-".into(), ToString::to_string)
    };
    vec![
        format!("image {image}"),
        format!("  candidate {}", text(&pointers.candidate)),
        format!("  current   {}", text(&pointers.current)),
        format!("  previous  {}", text(&pointers.previous)),
    ]
}

/// The status, line by line.
pub fn lines(image: &ImageName, pointers: &Pointers, view: &FleetView) -> Vec<String> {
    let mut lines = pointer_lines(image, pointers);
    lines.extend([
        format!(
            "group {}: {} desired ({} to {}), {} members",
            view.group,
            view.size.desired,
            view.size.min,
            view.size.max,
            view.members.len()
        ),
        format!("  {}", launches(view)),
    ]);
    lines.extend(
        view.members
            .iter()
            .map(|member| format!("  {}", show::member(member))),
    );
    lines.extend(show::differing_agents(&view.members).map(|text| format!("  {text}")));
    lines.push(match &view.refresh {
        None => "no refresh in the last six weeks".into(),
        Some(refresh) => format!("refresh {}: {}", refresh.id, waiting_for(refresh)),
    });
    lines
}

/// What the group is saved on.
fn launches(view: &FleetView) -> String {
    match &view.launches {
        Launches::Configuration { name } => format!("launch configuration {name}"),
        Launches::Mixed { .. } => "mixed instances policy".into(),
        Launches::Deleted { id, name } => {
            format!("launch template {name} ({id}), which does not exist any more")
        }
        Launches::Template(template) => {
            let number = template.number();
            let image = match template.version(number) {
                Some(version) => version.image.to_string(),
                None if template.versions.is_empty() => "not read".into(),
                None => "a deleted version".into(),
            };
            format!(
                "template {} version {} ({image})",
                template.name, template.saved
            )
        }
    }
}

/// The status as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Status {
    /// The image's configured name.
    #[schemars(with = "String")]
    image: ImageName,
    /// What its pointers point at.
    pointers: Pointers,
    /// The Auto Scaling group; null when there is none.
    group: Option<GroupStatus>,
    /// The active refresh or the last one; null when there was none in the last six weeks.
    refresh: Option<RefreshStatus>,
    /// Parts that could not be read, and why.
    not_read: Vec<String>,
}

impl Document for Status {
    const NAME: &'static str = "status";
}

impl Status {
    /// Of a fleet as it was observed. `gaps` names what could not be read.
    pub fn of(
        image: &ImageName,
        pointers: &Pointers,
        view: Option<&FleetView>,
        gaps: &[String],
    ) -> Self {
        Self {
            image: image.clone(),
            pointers: pointers.clone(),
            group: view.map(GroupStatus::of),
            refresh: view
                .and_then(|view| view.refresh.as_ref())
                .map(RefreshStatus::of),
            not_read: gaps.to_vec(),
        }
    }
}

/// An Auto Scaling group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct GroupStatus {
    /// Its name.
    #[schemars(with = "String")]
    name: GroupName,
    /// Its desired capacity.
    desired: u32,
    /// Its smallest size.
    min: u32,
    /// Its largest size.
    max: u32,
    /// The launch template that it is saved on; null when it launches from something else.
    template: Option<TemplateStatus>,
    /// Its members.
    members: Vec<MemberStatus>,
}

impl GroupStatus {
    fn of(view: &FleetView) -> Self {
        Self {
            name: view.group.clone(),
            desired: view.size.desired,
            min: view.size.min,
            max: view.size.max,
            template: TemplateStatus::of(&view.launches),
            members: view.members.iter().map(MemberStatus::of).collect(),
        }
    }
}

/// The launch template of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
enum TemplateStatus {
    /// It exists.
    Saved {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// The version as the group has it saved: a number, `$Latest` or `$Default`.
        saved: String,
        /// That version as a number.
        version: u64,
        /// The image of that version; null when the version could not be read.
        image: Option<String>,
    },
    /// It was deleted.
    Deleted {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// Always true.
        gone: bool,
    },
}

impl TemplateStatus {
    fn of(launches: &Launches) -> Option<Self> {
        match launches {
            Launches::Template(template) => {
                let version = template.number();
                let image = template.version(version);
                Some(Self::Saved {
                    id: template.id.clone(),
                    name: template.name.clone(),
                    saved: template.saved.to_string(),
                    version,
                    image: image.map(|version| version.image.to_string()),
                })
            }
            Launches::Deleted { id, name } => Some(Self::Deleted {
                id: id.clone(),
                name: name.clone(),
                gone: true,
            }),
            Launches::Configuration { .. } | Launches::Mixed { .. } => None,
        }
    }
}

/// A member of a group. What its agent reports is null without a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct MemberStatus {
    /// The instance.
    #[schemars(with = "String")]
    instance: InstanceId,
    /// Its lifecycle state in the group.
    lifecycle: String,
    /// Whether it is healthy to the group.
    healthy: bool,
    /// The version of the launch template that it was launched from.
    version: Option<u64>,
    /// Its image, as EC2 reports it.
    #[schemars(with = "Option<String>")]
    image: Option<ImageId>,
    /// Whether it is protected from scale-in.
    protected: bool,
    /// Its state in each target group.
    targets: Vec<String>,
    /// Its agent's verdict.
    verdict: Option<String>,
    /// The reason for that verdict.
    reason: Option<String>,
    /// Its agent's version.
    agent: Option<String>,
}

impl MemberStatus {
    fn of(member: &Member) -> Self {
        let record = member.record.as_ref();
        let targets = member.targets.iter();
        Self {
            instance: member.instance.clone(),
            lifecycle: member.lifecycle.to_string(),
            healthy: member.healthy,
            version: member.template.as_ref().map(|template| template.version),
            image: member.image.clone(),
            protected: member.protected,
            targets: targets.map(|target| target.state.clone()).collect(),
            verdict: record.map(|record| verify::verdict_text(record.verdict).to_owned()),
            reason: record.map(|record| record.reason.clone()),
            agent: record.map(|record| record.agent.clone()),
        }
    }
}

/// An instance refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct RefreshStatus {
    /// Its id.
    id: String,
    /// Its status, as the service names it.
    status: String,
    /// The service's reason for that status.
    reason: String,
    /// How much of it is done.
    percent: u32,
    /// Members that it has not begun to replace.
    instances_to_update: u32,
    /// When it began.
    started: Option<Timestamp>,
    /// The version that it goes to; null when it has no desired configuration.
    version: Option<u64>,
    /// Whether the service rolls it back when it fails.
    auto_rollback: bool,
    /// Why it was rolled back.
    rollback_reason: Option<String>,
}

impl RefreshStatus {
    fn of(refresh: &Refresh) -> Self {
        Self {
            id: refresh.id.clone(),
            status: refresh.status.to_string(),
            reason: refresh.reason.clone(),
            percent: refresh.percent,
            instances_to_update: refresh.to_update,
            started: refresh.started,
            version: refresh.desired.as_ref().map(|desired| desired.version),
            auto_rollback: refresh.auto_rollback,
            rollback_reason: refresh.rollback_reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use run::testing::printed;

    fn shop() -> (ImageName, Pointers, FleetView) {
        let mut view = sample::fleet(2, 7, "ami-1");
        view.members
            .push(sample::member("i-3", 8, "ami-2", "Pending:Wait"));
        let mut refresh = sample::refresh("InProgress");
        refresh.percent = 33;
        refresh.reason = "Waiting for instances to warm up before continuing.".into();
        view.refresh = Some(refresh);
        let pointers = Pointers {
            candidate: Some(sample::image("ami-2")),
            current: Some(sample::image("ami-1")),
            previous: None,
        };
        (ImageName::parse("shop").unwrap(), pointers, view)
    }

    #[test]
    fn status_as_text() {
        let (image, pointers, mut view) = shop();
        view.members[1].record.as_mut().unwrap().agent = "0.2.0".into();
        insta::assert_snapshot!(lines(&image, &pointers, &view).join("\n"));
    }

    #[test]
    fn status_as_data() {
        let (image, pointers, view) = shop();
        let status = Status::of(&image, &pointers, Some(&view), &[]);
        insta::assert_snapshot!(printed(&status));
        let gone = Launches::Deleted {
            id: "lt-1".into(),
            name: "shop".into(),
        };
        let other = Launches::Configuration {
            name: "shop".into(),
        };
        for launches in [gone, other] {
            let view = FleetView {
                launches,
                refresh: None,
                ..view.clone()
            };
            printed(&Status::of(&image, &pointers, Some(&view), &[]));
        }
        let gaps = ["the registry may not be read".to_owned()];
        printed(&Status::of(&image, &pointers, None, &gaps));
    }
}
