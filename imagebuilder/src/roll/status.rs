//! One screen about a fleet: pointers, group, members, refresh.
//!
//! Puts a look into words or data; it must not decide, and changes nothing.

use anyhow::Result;
use contract::names::Pointer;
use serde::Serialize;

use super::view::{FleetView, Launches, Refresh};
use super::watch::waiting_for;
use super::{show, verify};
use crate::cloud::Cloud;
use crate::ids::{ImageId, ImageName};

/// The pointers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pointers {
    /// Baked, not rolled.
    candidate: Option<ImageId>,
    /// Proven by the last roll.
    current: Option<ImageId>,
    /// Before that.
    previous: Option<ImageId>,
}

impl Pointers {
    /// Reads all three.
    pub(crate) async fn read(cloud: &Cloud, image: &ImageName) -> Result<Self> {
        Ok(Self {
            candidate: crate::pointers::read(cloud, image, Pointer::Candidate).await?,
            current: crate::pointers::read(cloud, image, Pointer::Current).await?,
            previous: crate::pointers::read(cloud, image, Pointer::Previous).await?,
        })
    }
}

/// The screen, line by line.
pub(crate) fn lines(image: &ImageName, pointers: &Pointers, view: &FleetView) -> Vec<String> {
    let text = |image: &Option<ImageId>| {
        image
            .as_ref()
            .map_or_else(|| "-".into(), ToString::to_string)
    };
    let mut lines = vec![
        format!("image {image}"),
        format!("  candidate {}", text(&pointers.candidate)),
        format!("  current   {}", text(&pointers.current)),
        format!("  previous  {}", text(&pointers.previous)),
        format!(
            "group {}: {} desired ({} to {}), {} members",
            view.group,
            view.size.desired,
            view.size.min,
            view.size.max,
            view.members.len()
        ),
        format!("  {}", launches(view)),
    ];
    lines.extend(
        view.members
            .iter()
            .map(|member| format!("  {}", show::member(member))),
    );
    lines.extend(show::differing_agents(&view.members).map(|told| format!("  {told}")));
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
        Launches::Template(template) => {
            let number = template.number();
            let image = template.version(number).map_or_else(
                || "a version that is gone".into(),
                |version| version.image.to_string(),
            );
            format!(
                "template {} version {} ({image})",
                template.name, template.saved
            )
        }
    }
}

/// The same as data.
pub(crate) fn data(image: &ImageName, pointers: &Pointers, view: &FleetView) -> serde_json::Value {
    let template = match &view.launches {
        Launches::Template(template) => serde_json::json!({
            "id": template.id,
            "name": template.name,
            "saved": template.saved.to_string(),
            "version": template.number(),
            "image": template.version(template.number()).map(|version| version.image.to_string()),
        }),
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
                "verdict": member.record.as_ref().map(|record| verify::verdict_word(record.verdict)),
                "reason": member.record.as_ref().map(|record| &record.reason),
                "agent": member.record.as_ref().map(|record| &record.agent),
            })
        })
        .collect();
    serde_json::json!({
        "image": image,
        "pointers": pointers,
        "group": {
            "name": view.group,
            "desired": view.size.desired,
            "min": view.size.min,
            "max": view.size.max,
            "template": template,
            "members": members,
        },
        "refresh": view.refresh.as_ref().map(refresh),
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
    fn a_screen() {
        let (image, pointers, mut view) = shop();
        view.members[1].record.as_mut().unwrap().agent = "0.2.0".into();
        insta::assert_snapshot!(lines(&image, &pointers, &view).join("\n"));
    }

    #[test]
    fn the_same_as_data() {
        let (image, pointers, view) = shop();
        let data = data(&image, &pointers, &view);
        insta::assert_snapshot!(serde_json::to_string_pretty(&data).unwrap());
    }
}
