//! Every refusal and every "nothing to do" of the three verbs, and what `show` makes of the rest.

use std::num::NonZeroU64;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn none() -> Targets {
    Targets::new(
        "1.0.34".to_owned(),
        NonZeroU64::MIN,
        at("2027-01-01T00:00:00Z"),
    )
}

fn new(version: &str) -> New {
    New {
        version: version.parse().unwrap(),
        arch: "x86_64".to_owned(),
        digest: version.bytes().cycle().take(32).collect(),
        length: 6_000_000,
        channel: ChannelName::stable(),
        start: at("2026-11-21T08:00:00Z"),
        waves: None,
        default_waves: Shape::parse("5%@0h,100%@1h").unwrap(),
        min_from: None,
        floor: None,
    }
}

fn beta() -> ChannelName {
    ChannelName::parse("beta").unwrap()
}

fn done(edit: anyhow::Result<Option<Edit>>) -> Targets {
    edit.unwrap().unwrap().targets
}

fn printed(edit: anyhow::Result<Option<Edit>>) -> String {
    let error = edit.unwrap_err();
    let hint = run::exit::hint(&error).unwrap_or_else(|| "-".to_owned());
    format!("{} {error:#} | {hint}", Exit::of(&error).code())
}

fn withdrawal(
    targets: &Targets,
    version: &str,
    back: Option<&str>,
) -> anyhow::Result<Option<Edit>> {
    let back: Option<Version> = back.map(|back| back.parse().unwrap());
    withdraw(
        targets,
        &version.parse().unwrap(),
        "it forgets orders",
        back.as_ref(),
        at("2026-11-22T08:00:00Z"),
    )
}

fn promotion(
    targets: &Targets,
    version: &str,
    waves: Option<&str>,
) -> anyhow::Result<Option<Edit>> {
    let waves = waves.map(|waves| Shape::parse(waves).unwrap());
    let start = at("2026-11-22T08:00:00Z");
    promote(
        targets,
        &version.parse().unwrap(),
        &ChannelName::stable(),
        start,
        waves.as_ref(),
        &Shape::default(),
    )
}

#[test]
fn the_same_again_is_nothing_to_do() {
    let targets = done(publish(&none(), &new("1.0.0")));
    assert!(publish(&targets, &new("1.0.0")).unwrap().is_none());
    let mut later = new("1.0.0");
    later.start = at("2026-12-01T08:00:00Z");
    later.waves = Some(later.default_waves.clone());
    assert!(
        publish(&targets, &later).unwrap().is_none(),
        "the shape counts, not the hour"
    );
    assert!(promotion(&targets, "1.0.0", None).unwrap().is_none());
    assert!(
        promotion(&targets, "1.0.0", Some("5%@0h,100%@1h"))
            .unwrap()
            .is_none()
    );
    let targets = done(withdrawal(&targets, "1.0.0", None));
    assert!(withdrawal(&targets, "1.0.0", None).unwrap().is_none());
}

#[test]
fn the_same_bytes_join_one_more_channel() {
    let targets = done(publish(&none(), &new("1.0.0")));
    let mut more = new("1.0.0");
    more.channel = beta();
    let entry = entries(&done(publish(&targets, &more))).remove(0);
    assert_eq!(
        entry.release.channels.keys().collect::<Vec<_>>(),
        ["beta", "stable"]
    );
}

#[test]
fn promoting_gives_every_architecture_new_waves() {
    let mut arm = new("1.0.0");
    arm.arch = "aarch64".to_owned();
    let targets = done(publish(&done(publish(&none(), &new("1.0.0"))), &arm));
    let targets = done(promotion(&targets, "1.0.0", Some("100%@2h")));
    for entry in entries(&targets) {
        let rollout = &entry.release.channels["stable"];
        assert_eq!(rollout.since, at("2026-11-22T08:00:00Z"), "{}", entry.name);
        let wave = at("2026-11-22T10:00:00Z");
        assert_eq!(rollout.waves[0].at, wave, "{}", entry.name);
    }
}

#[test]
fn withdrawn_rollback_targets_are_replaced() {
    let mut targets = none();
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        targets = done(publish(&targets, &new(version)));
    }
    targets = done(withdrawal(&targets, "1.2.0", Some("1.1.0")));
    let edit = withdrawal(&targets, "1.1.0", Some("1.0.0"))
        .unwrap()
        .unwrap();
    assert_eq!(
        edit.notes,
        [
            "instances on imagebuilder-agent-1.2.0-x86_64, which were sent back to 1.1.0, now go to 1.0.0"
        ]
    );
    let entry = entries(&edit.targets).pop().unwrap();
    assert_eq!(
        entry.release.withdrawn.unwrap().rollback_to,
        Some(Version::new(1, 0, 0))
    );
    let edit = withdrawal(&targets, "1.1.0", None).unwrap().unwrap();
    let entry = entries(&edit.targets).pop().unwrap();
    assert_eq!(entry.release.withdrawn.unwrap().rollback_to, None);
}

#[test]
fn what_a_newer_tool_wrote_stays() {
    let mut targets = done(publish(&none(), &new("1.0.0")));
    let name = TargetName::new("imagebuilder-agent-1.0.0-x86_64").unwrap();
    targets
        .targets
        .get_mut(&name)
        .unwrap()
        .custom
        .insert("of_a_newer_tool".to_owned(), 7.into());
    let targets = done(withdrawal(&targets, "1.0.0", None));
    assert_eq!(targets.targets[&name].custom["of_a_newer_tool"], 7);
}

#[test]
fn an_older_release_is_published_with_a_warning() {
    let targets = done(publish(&none(), &new("1.1.0")));
    let notes = publish(&targets, &new("1.0.0")).unwrap().unwrap().notes;
    assert_eq!(
        notes,
        ["stable carries 1.1.0, which is newer: instances never go back to 1.0.0 by themselves"]
    );
}

#[test]
fn refusals_have_a_reason_and_a_hint() {
    let mut targets = none();
    for version in ["1.0.0", "1.1.0"] {
        targets = done(publish(&targets, &new(version)));
    }
    let with = |change: fn(&mut New)| {
        let mut new = new("1.0.0");
        change(&mut new);
        publish(&targets, &new)
    };
    let mut floored = new("1.2.0");
    floored.floor = Some(Version::new(1, 1, 0));
    let floored = done(publish(&targets, &floored));
    let withdrawn = done(withdrawal(&targets, "1.0.0", None));
    let mut foreign = targets.clone();
    let name = TargetName::new("imagebuilder-agent-1.0.0-x86_64").unwrap();
    foreign
        .targets
        .get_mut(&name)
        .unwrap()
        .custom
        .insert("schema".to_owned(), 2.into());
    let long = "x".repeat(501);
    let reason = |reason: &str| {
        withdraw(
            &targets,
            &Version::new(1, 0, 0),
            reason,
            None,
            at("2026-11-22T08:00:00Z"),
        )
    };
    let all = [
        printed(with(|new| new.digest = vec![7; 32])),
        printed(with(|new| new.floor = Some(Version::new(1, 0, 0)))),
        printed(with(|new| new.waves = Some(Shape::default()))),
        printed(with(|new| {
            new.version = Version::new(1, 3, 0);
            new.floor = Some(Version::new(2, 0, 0));
        })),
        printed(publish(&withdrawn, &new("1.0.0"))),
        printed(publish(&foreign, &new("1.0.0"))),
        printed(promotion(&withdrawn, "1.0.0", None)),
        printed(promotion(&targets, "3.0.0", None)),
        printed(promotion(&none(), "3.0.0", None)),
        printed(withdrawal(&targets, "3.0.0", None)),
        printed(withdrawal(&targets, "1.0.0", Some("1.1.0"))),
        printed(withdrawal(&targets, "1.1.0", Some("0.9.0"))),
        printed(withdrawal(&withdrawn, "1.1.0", Some("1.0.0"))),
        printed(withdrawal(&floored, "1.1.0", Some("1.0.0"))),
        printed(reason(" ")),
        printed(reason(&long)),
    ];
    insta::assert_snapshot!(all.join("\n"));
}
