//! Fleets, members and refreshes for the tables of [`plan`](super::super::plan), [`watch`](super::super::watch)
//! and [`verify`](super::super::verify): healthy, so that each case spoils one thing.

use contract::registry::Verdict;
use jiff::{SignedDuration, Timestamp};

use super::super::plan::{Direction, GateVerdict, Goal, Target};
use super::super::view::{
    Activity, FleetView, HealthSource, Hook, HookMoment, Launchable, Launches, Lifecycle, Member,
    RecordView, Refresh, RefreshStatus, SavedVersion, Size, TargetHealth, TemplateRef, TemplateUse,
    TemplateVersion,
};
use crate::settings::Settings;
use cloud::ids::{GroupName, ImageId, InstanceId};
pub(crate) use cloud::testing::{TARGET_GROUP, TEMPLATE};
use cloud::{Action, ActivityOutcome, TemplateImage};

pub(crate) fn settings(roll: &str) -> Settings {
    let fleet = toml::from_str("group = \"shop\"").unwrap();
    Settings::validate(&fleet, &toml::from_str(roll).unwrap()).unwrap()
}

pub(crate) fn instance(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

pub(crate) fn image(id: &str) -> ImageId {
    ImageId::parse(id).unwrap()
}

pub(crate) fn target(version: u64, image_id: &str) -> Target {
    Target {
        template_id: TEMPLATE.into(),
        version,
        image: image(image_id),
    }
}

/// An image that is available and verified.
pub(crate) fn goal(image_id: &str) -> Goal {
    Goal {
        image: image(image_id),
        state: Launchable::Yes,
        gate: GateVerdict::Fit,
        version: None,
        direction: Direction::Forward,
    }
}

/// A member in this state, otherwise healthy.
pub(crate) fn member(id: &str, version: u64, image_id: &str, lifecycle: &str) -> Member {
    Member {
        instance: instance(id),
        lifecycle: Lifecycle::parse(lifecycle),
        healthy: true,
        template: Some(TemplateRef {
            id: TEMPLATE.into(),
            version,
        }),
        image: Some(image(image_id)),
        protected: false,
        targets: vec![TargetHealth {
            state: "healthy".into(),
            reason: String::new(),
        }],
        record: Some(RecordView {
            verdict: Verdict::Fit,
            reason: String::new(),
            image: image_id.into(),
            agent: "0.1.0".into(),
        }),
    }
}

pub(crate) fn version(number: u64, image_id: &str, description: &str) -> TemplateVersion {
    TemplateVersion {
        number,
        image: TemplateImage::Literal(image(image_id)),
        instance_type: Some("t3.micro".into()),
        description: description.into(),
        shape: "shape".into(),
    }
}

/// A group of `size` members, all on template version `number` with this image, with a launch hook
/// and a target group, its template holding versions up to that one.
pub(crate) fn fleet(size: u32, number: u64, image_id: &str) -> FleetView {
    FleetView {
        group: GroupName::parse("shop").unwrap(),
        size: Size {
            min: 0,
            max: size * 2,
            desired: size,
        },
        launches: Launches::Template(TemplateUse {
            id: TEMPLATE.into(),
            name: "shop".into(),
            saved: SavedVersion::Number(number),
            versions: vec![
                version(number - 1, "ami-0", "by hand"),
                version(number, image_id, "by hand"),
            ],
            saved_image: Launchable::Yes,
            latest: number,
            default: number - 1,
        }),
        health: HealthSource::LoadBalancer,
        grace_seconds: 0,
        default_warmup_seconds: None,
        hooks: vec![Hook {
            name: "gate".into(),
            moment: HookMoment::Launching,
            default_result: "ABANDON".into(),
            heartbeat_seconds: 300,
        }],
        suspended: Vec::new(),
        target_groups: vec![TARGET_GROUP.into()],
        has_traffic_source: true,
        drain_seconds: 300,
        warm_pool: false,
        members: (1..=size)
            .map(|n| member(&format!("i-{n}"), number, image_id, "InService"))
            .collect(),
        refresh: None,
    }
}

/// The template of a sample fleet, to be spoiled.
pub(crate) fn template(view: &mut FleetView) -> &mut TemplateUse {
    match &mut view.launches {
        Launches::Template(template) => template,
        other => panic!("the sample launches from {other:?}"),
    }
}

/// When every sample refresh began.
pub(crate) fn began() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub(crate) fn refresh(status: &str) -> Refresh {
    Refresh {
        id: "r-1".into(),
        status: RefreshStatus::parse(status),
        reason: String::new(),
        percent: 0,
        to_update: 3,
        started: Some(began()),
        desired: Some(TemplateRef {
            id: TEMPLATE.into(),
            version: 8,
        }),
        checkpoints: Vec::new(),
        auto_rollback: true,
        rollback_reason: None,
    }
}

/// An activity that began this many seconds after the sample refresh.
pub(crate) fn activity(
    description: &str,
    cause: &str,
    outcome: ActivityOutcome,
    message: &str,
    seconds: i64,
) -> Activity {
    let (action, instance) = Action::read(description);
    Activity {
        id: format!("activity-{description}-{seconds}"),
        action,
        instance,
        description: description.into(),
        cause: cause.into(),
        outcome,
        message: message.into(),
        started: Some(began() + SignedDuration::from_secs(seconds)),
    }
}

/// An instance that came up this many seconds after the sample refresh began, and was turned away.
pub(crate) fn lost(id: &str, seconds: i64) -> Activity {
    activity(
        &format!("Launching a new EC2 instance: {id}"),
        "",
        ActivityOutcome::Failed,
        "Lifecycle Action Completed with ABANDON Result",
        seconds,
    )
}
