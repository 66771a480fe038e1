//! The status of a fleet: pointers, group, members, refresh.
//!
//! Formats an observation as text or data; it decides and changes nothing.

use contract::names::Pointer;
use serde::Serialize;

use super::observe::Gaps;
use super::view::{FleetView, Launches, Refresh};
use super::watch::waiting_for;
use super::{show, verify};
use crate::pointers;
use cloud::ids::{ImageId, ImageName};
use cloud::{Answer, Cloud};

/// The pointers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pointers {
    /// Baked, not rolled.
    candidate: Option<ImageId>,
    /// Verified by the last roll.
    current: Option<ImageId>,
    /// Before that.
    previous: Option<ImageId>,
}

impl Pointers {
    /// Reads all three.
    pub(crate) async fn read(cloud: &Cloud, image: &ImageName, gaps: &mut Gaps) -> Answer<Self> {
        let mut read = [None, None, None];
        let pointers = [Pointer::Candidate, Pointer::Current, Pointer::Previous];
        for (place, pointer) in read.iter_mut().zip(pointers) {
            *place = gaps.fill(pointers::read(cloud, image, pointer).await)?;
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
pub(crate) fn pointer_lines(image: &ImageName, pointers: &Pointers) -> Vec<String> {
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
pub(crate) fn lines(image: &ImageName, pointers: &Pointers, view: &FleetView) -> Vec<String> {
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

/// The same as data; the group is `null` when there is none.
pub(crate) fn data(
    image: &ImageName,
    pointers: &Pointers,
    view: Option<&FleetView>,
    gaps: &[String],
) -> serde_json::Value {
    serde_json::json!({
        "image": image,
        "pointers": pointers,
        "group": view.map(group),
        "refresh": view.and_then(|view| view.refresh.as_ref()).map(refresh),
        "not_read": gaps,
    })
}

fn group(view: &FleetView) -> serde_json::Value {
    let template = match &view.launches {
        Launches::Template(template) => serde_json::json!({
            "id": template.id,
            "name": template.name,
            "saved": template.saved.to_string(),
            "version": template.number(),
            "image": template.version(template.number()).map(|version| version.image.to_string()),
        }),
        Launches::Deleted { id, name } => {
            serde_json::json!({ "id": id, "name": name, "gone": true })
        }
        Launches::Configuration { .. } | Launches::Mixed { .. } => serde_json::Value::Null,
    };
    let members: Vec<serde_json::Value> = view
        .members
        .iter()
        .map(|member| {
            serde_json::json!({
                "instance": member.instance,
                "lifecycle": member.lifecycle.to_string(),
                "healthy": member.healthy,
                "version": member.template.as_ref().map(|template| template.version),
                "image": member.image,
                "protected": member.protected,
                "targets": member.targets.iter().map(|target| &target.state).collect::<Vec<_>>(),
                "verdict": member.record.as_ref().map(|record| verify::verdict_text(record.verdict)),
                "reason": member.record.as_ref().map(|record| &record.reason),
                "agent": member.record.as_ref().map(|record| &record.agent),
            })
        })
        .collect();
    serde_json::json!({
        "name": view.group,
        "desired": view.size.desired,
        "min": view.size.min,
        "max": view.size.max,
        "template": template,
        "members": members,
    })
}

fn refresh(refresh: &Refresh) -> serde_json::Value {
    serde_json::json!({
        "id": refresh.id,
        "status": refresh.status.to_string(),
        "reason": refresh.reason,
        "percent": refresh.percent,
        "instances_to_update": refresh.to_update,
        "started": refresh.started.map(|started| started.to_string()),
        "version": refresh.desired.as_ref().map(|desired| desired.version),
        "auto_rollback": refresh.auto_rollback,
        "rollback_reason": refresh.rollback_reason,
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

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
        let data = data(&image, &pointers, Some(&view), &[]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&data).unwrap());
    }
}
