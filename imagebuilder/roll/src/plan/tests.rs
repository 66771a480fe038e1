//! Tables for the plan: every refusal, every way a version is found, every number.

use super::super::sample;
use super::super::view::Member;
use super::pace::BOOT_ESTIMATE_SECONDS;
use super::*;
use cloud::{HookMoment, TemplateImage};

type Spoil = fn(&mut FleetView);

fn decide(view: &FleetView, consents: &[Consent]) -> Decision {
    plan(
        view,
        &sample::goal("ami-2"),
        &sample::settings(""),
        consents,
    )
}

/// A fleet of three on version 7 with ami-1.
fn fleet() -> FleetView {
    sample::fleet(3, 7, "ami-1")
}

fn spoiled(spoil: Spoil) -> FleetView {
    let mut view = fleet();
    spoil(&mut view);
    view
}

fn planned(decision: Decision) -> Plan {
    match decision {
        Decision::Roll(plan) => *plan,
        other => panic!("no plan but {other:?}"),
    }
}

fn refused(decision: Decision) -> Refusal {
    match decision {
        Decision::Refuse(refusal) => refusal,
        other => panic!("no refusal but {other:?}"),
    }
}

fn no_gate(view: &mut FleetView) {
    view.hooks.clear();
    view.health = HealthSource::Ec2;
}

#[test]
fn a_plain_fleet_gets_a_new_version_made_from_its_own() {
    let plan = planned(decide(&fleet(), &[]));
    assert_eq!(plan.version, Version::From(7));
    assert_eq!(plan.previous, sample::target(7, "ami-1"));
    assert_eq!(plan.rollback, RollbackMode::Automatic(7));
    assert_eq!(plan.replace, ["i-1", "i-2", "i-3"].map(sample::instance));
    assert_eq!(plan.pin, None);
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(
        plan.preferences,
        Preferences {
            min_percent: 100,
            max_percent: 110,
            warmup_seconds: 0,
            checkpoints: Vec::new(),
            checkpoint_delay_seconds: 600,
            bake_seconds: 0,
            alarms: Vec::new(),
            auto_rollback: true,
        }
    );
}

#[test]
fn every_refusal_names_its_reason_and_hint() {
    let cases: [(Spoil, &str, &str); 15] = [
        (
            |view| view.launches = Launches::Configuration { name: "old".into() },
            "launch configuration old",
            "launch template first",
        ),
        (
            |view| {
                view.launches = Launches::Mixed {
                    feature: MixedFeature::Attributes,
                }
            },
            "by attributes",
            "list the instance types",
        ),
        (
            |view| {
                view.launches = Launches::Mixed {
                    feature: MixedFeature::Weights,
                }
            },
            "weighted instance types",
            "remove the weights",
        ),
        (
            |view| {
                view.launches = Launches::Mixed {
                    feature: MixedFeature::OwnTemplates,
                }
            },
            "overrides with a launch template",
            "group's own launch template",
        ),
        (
            |view| {
                view.launches = Launches::Mixed {
                    feature: MixedFeature::Plain,
                }
            },
            "mixed instances policy",
            "single launch template",
        ),
        (
            |view| sample::template(view).saved = SavedVersion::Number(99),
            "version 99 of template shop does not exist",
            "a version that exists",
        ),
        (
            |view| {
                sample::template(view).versions[1].image =
                    TemplateImage::Alias("resolve:ssm:/x".into())
            },
            "names its image as resolve:ssm:/x",
            "literal AMI id",
        ),
        (
            |view| sample::template(view).versions[1].image = TemplateImage::Missing,
            "names its image as no image",
            "literal AMI id",
        ),
        (
            |view| view.suspended = vec!["Launch".into()],
            "has suspended Launch",
            "resume-processes",
        ),
        (
            |view| {
                view.suspended = vec![
                    "Terminate".into(),
                    "InstanceRefresh".into(),
                    "AZRebalance".into(),
                ]
            },
            "has suspended InstanceRefresh, Terminate",
            "--scaling-processes InstanceRefresh Terminate",
        ),
        (
            |view| view.suspended = vec!["AddToLoadBalancer".into()],
            "has suspended AddToLoadBalancer",
            "resume-processes",
        ),
        (no_gate, "has no gate", "--no-gate"),
        (
            |view| sample::template(view).saved = SavedVersion::Latest,
            "saved on $Latest",
            "--pin-first",
        ),
        (
            |view| {
                let template = sample::template(view);
                template.saved = SavedVersion::Default;
                template.default = 7;
            },
            "saved on $Default",
            "--pin-first",
        ),
        (
            |view| sample::template(view).saved_image = Launchable::Unknown,
            "does not exist any more",
            "--accept-irreversible",
        ),
    ];
    for (spoil, reason, hint) in cases {
        let refusal = refused(decide(&spoiled(spoil), &[]));
        assert_eq!(refusal.kind, RefusalKind::Preflight, "{reason}");
        assert!(
            refusal.reason.contains(reason),
            "{reason}: {}",
            refusal.reason
        );
        assert!(refusal.hint.contains(hint), "{reason}: {}", refusal.hint);
    }
}

#[test]
fn settings_that_mean_another_fleet_are_refused() {
    for (spoil, reason) in [
        (
            (|s| s.launch_template = Some("other".parse().unwrap())) as fn(&mut Settings),
            "not from other",
        ),
        (
            |s| s.target_group = Some("other".into()),
            "target group other is not attached",
        ),
    ] {
        let mut settings = sample::settings("");
        spoil(&mut settings);
        let refusal = refused(plan(&fleet(), &sample::goal("ami-2"), &settings, &[]));
        assert!(refusal.reason.contains(reason), "{}", refusal.reason);
    }
    let mut settings = sample::settings("");
    for template in ["shop", sample::TEMPLATE] {
        for target_group in ["shop", sample::TARGET_GROUP] {
            settings.launch_template = Some(template.parse().unwrap());
            settings.target_group = Some(target_group.into());
            planned(plan(&fleet(), &sample::goal("ami-2"), &settings, &[]));
        }
    }
}

#[test]
fn an_image_that_cannot_be_launched_or_trusted_is_refused() {
    let decide = |spoil: fn(&mut Goal), consents: &[Consent]| {
        let mut goal = sample::goal("ami-2");
        spoil(&mut goal);
        plan(&fleet(), &goal, &sample::settings(""), consents)
    };
    let pending = decide(
        |goal| goal.state = Launchable::Not("pending".into()),
        &[Consent::Unproven],
    );
    assert_eq!(
        refused(pending).reason,
        "image ami-2 is pending, not available"
    );
    let missing = decide(
        |goal| goal.state = Launchable::Unknown,
        &[Consent::Unproven],
    );
    assert_eq!(
        refused(missing).reason,
        "there is no image ami-2 in this region and account"
    );
    let without_verdict = |goal: &mut Goal| goal.gate = GateVerdict::None;
    assert_eq!(
        refused(decide(without_verdict, &[])).reason,
        "image ami-2 has no tag imagebuilder:verdict=fit: it has no gate verdict"
    );
    let plan = planned(decide(without_verdict, &[Consent::Unproven]));
    assert_eq!(plan.warnings, ["image ami-2 has no gate verdict"]);
}

#[test]
fn an_active_refresh_is_refused_but_an_ended_one_is_not() {
    for (status, active) in [
        ("Pending", true),
        ("InProgress", true),
        ("Baking", true),
        ("Cancelling", true),
        ("RollbackInProgress", true),
        ("Marinating", true),
        ("Successful", false),
        ("Failed", false),
        ("Cancelled", false),
        ("RollbackSuccessful", false),
        ("RollbackFailed", false),
    ] {
        let mut view = fleet();
        view.refresh = Some(sample::refresh(status));
        match decide(&view, &[]) {
            Decision::Refuse(refusal) => {
                assert!(active, "{status}");
                let kind = RefusalKind::RefreshActive("r-1".into());
                assert_eq!(refusal.kind, kind, "{status}");
            }
            _ => assert!(!active, "{status}"),
        }
    }
}

#[test]
fn nothing_to_do_takes_the_saved_version_and_every_member() {
    let same = sample::fleet(3, 7, "ami-2");
    assert_eq!(
        decide(&same, &[]),
        Decision::NothingToDo(sample::target(7, "ami-2"))
    );
    let mut empty = same.clone();
    empty.members.clear();
    empty.size.desired = 0;
    assert_eq!(
        decide(&empty, &[]),
        Decision::NothingToDo(sample::target(7, "ami-2"))
    );
    // A terminating member does not count.
    let mut leaving = same.clone();
    leaving
        .members
        .push(sample::member("i-9", 6, "ami-0", "Terminating"));
    assert!(matches!(decide(&leaving, &[]), Decision::NothingToDo(_)));
    // One that was left behind is: but there is no rollback to another version.
    let mut behind = same;
    behind.members[2].template.as_mut().unwrap().version = 6;
    assert!(
        refused(decide(&behind, &[]))
            .reason
            .contains("already saved on version 7")
    );
    let plan = planned(decide(&behind, &[Consent::Irreversible]));
    assert_eq!(plan.version, Version::Existing(7));
    assert_eq!(plan.replace, [sample::instance("i-3")]);
    assert_eq!(plan.matching, ["i-1", "i-2"].map(sample::instance));
    assert!(!plan.preferences.auto_rollback);
}

#[test]
fn an_empty_fleet_still_gets_its_version_saved() {
    let mut view = fleet();
    view.members.clear();
    view.size.desired = 0;
    let plan = planned(decide(&view, &[]));
    assert_eq!(plan.version, Version::From(7));
    assert_eq!(
        (plan.replace.len(), plan.pace.batches, plan.pace.seconds),
        (0, 0, 0)
    );
}

#[test]
fn our_version_is_reused_when_only_its_image_differs() {
    let with = |change: fn(&mut TemplateUse)| {
        let mut view = fleet();
        let template = sample::template(&mut view);
        template
            .versions
            .push(sample::version(8, "ami-2", "imagebuilder: shop, run r"));
        change(template);
        planned(decide(&view, &[])).version
    };
    assert_eq!(with(|_| {}), Version::Existing(8));
    assert_eq!(
        with(|template| template.versions[2].description = "by hand".into()),
        Version::From(7)
    );
    assert_eq!(
        with(|template| template.versions[2].shape = "other".into()),
        Version::From(7)
    );
    assert_eq!(
        with(|template| template.versions[2].image = TemplateImage::Missing),
        Version::From(7)
    );
    let newest = with(|template| {
        template
            .versions
            .push(sample::version(9, "ami-2", "imagebuilder: again"))
    });
    assert_eq!(newest, Version::Existing(9));
}

#[test]
fn a_known_version_is_used_for_a_rollback_unchanged() {
    let mut goal = sample::goal("ami-0");
    goal.version = Some(6);
    let back = plan(&fleet(), &goal, &sample::settings(""), &[]);
    assert_eq!(planned(back).version, Version::Existing(6));
    goal.version = Some(5);
    let deleted = refused(plan(&fleet(), &goal, &sample::settings(""), &[]));
    assert!(
        deleted
            .reason
            .contains("version 5 of template shop does not carry image ami-0")
    );
}

#[test]
fn pinning_takes_the_number_the_members_run() {
    let pin = |change: fn(&mut FleetView)| {
        let mut view = fleet();
        let template = sample::template(&mut view);
        template.saved = SavedVersion::Latest;
        // Version 8 was made meanwhile; no member runs it.
        template
            .versions
            .push(sample::version(8, "ami-1", "by hand"));
        template.latest = 8;
        change(&mut view);
        decide(&view, &[Consent::PinFirst])
    };
    let plan = planned(pin(|_| {}));
    assert_eq!((plan.pin, plan.version), (Some(7), Version::From(7)));
    assert_eq!(plan.rollback, RollbackMode::Automatic(7));
    let without_members = planned(pin(|view| view.members.clear()));
    assert_eq!(without_members.pin, Some(8));
    let mixed = refused(pin(|view| {
        view.members[0].template.as_mut().unwrap().version = 6
    }));
    assert!(
        mixed.reason.contains("several versions ({6, 7})"),
        "{}",
        mixed.reason
    );
    // A group on a number has nothing to pin.
    assert_eq!(planned(decide(&fleet(), &[Consent::PinFirst])).pin, None);
}

#[test]
fn an_irreversible_roll_needs_consent_and_no_auto_rollback() {
    let view = spoiled(|view| sample::template(view).saved = SavedVersion::Latest);
    let plan = planned(decide(&view, &[Consent::Irreversible]));
    assert!(matches!(plan.rollback, RollbackMode::None(_)));
    assert!(!plan.preferences.auto_rollback);
}

#[test]
fn without_auto_rollback_a_rollback_is_on_request() {
    let settings = sample::settings("auto_rollback = false");
    let plan = planned(plan(&fleet(), &sample::goal("ami-2"), &settings, &[]));
    assert_eq!(plan.rollback, RollbackMode::OnRequest(7));
    assert!(!plan.preferences.auto_rollback);
    assert!(plan.warnings[0].contains("roll.auto_rollback is off"));
}

#[test]
fn one_gate_is_enough_and_no_gate_needs_consent() {
    let gates: [Spoil; 3] = [
        |view| view.hooks = fleet().hooks,
        |view| view.health = HealthSource::LoadBalancer,
        |view| view.default_warmup_seconds = Some(30),
    ];
    for gate in gates {
        let mut view = spoiled(no_gate);
        gate(&mut view);
        planned(decide(&view, &[]));
    }
    let plan = planned(decide(&spoiled(no_gate), &[Consent::NoGate]));
    assert!(
        plan.warnings[0].contains("has no gate"),
        "{:?}",
        plan.warnings
    );
    // A termination hook gates nothing.
    let mut view = fleet();
    view.health = HealthSource::Ec2;
    view.hooks[0].moment = HookMoment::Terminating;
    assert!(refused(decide(&view, &[])).reason.contains("has no gate"));
}

#[test]
fn the_warm_up_is_always_explicit() {
    let warmup = |roll: &str, spoil: Spoil| {
        planned(plan(
            &spoiled(spoil),
            &sample::goal("ami-2"),
            &sample::settings(roll),
            &[],
        ))
        .preferences
        .warmup_seconds
    };
    let both: Spoil = |view| {
        view.default_warmup_seconds = Some(30);
        view.grace_seconds = 60;
    };
    assert_eq!(warmup("instance_warmup_seconds = 0", both), 0);
    assert_eq!(warmup("", both), 30);
    assert_eq!(warmup("", |view| view.grace_seconds = 60), 60);
    assert_eq!(
        warmup("", |view| {
            view.grace_seconds = 60;
            view.health = HealthSource::Ec2;
        }),
        0
    );
}

#[test]
fn checkpoints_end_in_100_and_an_empty_list_stays_empty() {
    let checkpoints = |roll: &str| {
        planned(plan(
            &fleet(),
            &sample::goal("ami-2"),
            &sample::settings(roll),
            &[],
        ))
        .preferences
        .checkpoints
    };
    assert_eq!(checkpoints(""), [0; 0]);
    assert_eq!(checkpoints("checkpoints = [20, 50]"), [20, 50, 100]);
}

#[test]
fn members_are_sorted_by_what_becomes_of_them() {
    let mut view = fleet();
    let template = sample::template(&mut view);
    template
        .versions
        .push(sample::version(8, "ami-2", "imagebuilder: shop"));
    view.members[0].protected = true;
    view.members
        .push(sample::member("i-4", 7, "ami-1", "Standby"));
    view.members
        .push(sample::member("i-5", 8, "ami-2", "InService"));
    view.members.push(Member {
        protected: true,
        ..sample::member("i-6", 8, "ami-2", "InService")
    });
    view.members
        .push(sample::member("i-7", 7, "ami-1", "Terminating:Wait"));
    view.members
        .push(sample::member("i-8", 7, "ami-1", "Pending:Wait"));
    let plan = planned(decide(&view, &[]));
    assert_eq!(plan.protected, [sample::instance("i-1")]);
    assert_eq!(plan.standby, [sample::instance("i-4")]);
    assert_eq!(plan.matching, ["i-5", "i-6"].map(sample::instance));
    assert_eq!(plan.replace, ["i-2", "i-3", "i-8"].map(sample::instance));
    assert!(plan.warnings[0].contains("not verified (14)"));
}

#[test]
fn percentages_become_numbers_as_the_service_rounds_them() {
    // (desired, min, max) → (keep, cap, batch, batches)
    for ((desired, min, max), expected) in [
        ((3, 100, 110), (3, 4, 1, 3)),
        ((10, 100, 110), (10, 11, 1, 10)),
        ((10, 80, 100), (8, 10, 2, 5)),
        ((10, 90, 120), (9, 12, 3, 4)),
        ((3, 90, 100), (3, 4, 1, 3)),
        ((4, 50, 150), (2, 6, 4, 1)),
        ((1, 100, 200), (1, 2, 1, 1)),
        ((3, 0, 100), (0, 3, 3, 1)),
    ] {
        let settings = sample::settings(&format!(
            "min_healthy_percentage = {min}\nmax_healthy_percentage = {max}\ninstance_warmup_seconds = 10"
        ));
        let plan = planned(plan(
            &sample::fleet(desired, 7, "ami-1"),
            &sample::goal("ami-2"),
            &settings,
            &[],
        ));
        let pace = plan.pace;
        let what = format!("{desired} members at {min}/{max}");
        let found = (pace.keep, pace.cap, pace.batch, pace.batches);
        assert_eq!(found, expected, "{what}");
        let seconds = u64::from(pace.batches) * (BOOT_ESTIMATE_SECONDS + 10);
        assert_eq!(pace.seconds, seconds, "{what}");
    }
}

#[test]
fn unusual_settings_are_warned_of() {
    let cases: [(Spoil, &str); 8] = [
        (
            |view| view.hooks[0].default_result = "CONTINUE".into(),
            "lets an instance serve that never reports",
        ),
        (
            |view| view.hooks[0].heartbeat_seconds = 3600,
            "waits 3600 s for an instance that never reports",
        ),
        (
            |view| view.suspended = vec!["HealthCheck".into()],
            "HealthCheck is suspended",
        ),
        (
            |view| view.suspended = vec!["ReplaceUnhealthy".into()],
            "ReplaceUnhealthy is suspended",
        ),
        (
            |view| view.health = HealthSource::Ec2,
            "ignores its load balancer's health checks",
        ),
        (
            |view| {
                view.default_warmup_seconds = Some(5);
                view.grace_seconds = 60;
            },
            "warm-up of 5 s ends before the grace period of 60 s",
        ),
        (
            |view| view.size.max = 3,
            "may need 4 members and the group's maximum is 3",
        ),
        (|view| view.warm_pool = true, "has a warm pool"),
    ];
    for (spoil, expected) in cases {
        let plan = planned(decide(&spoiled(spoil), &[]));
        assert!(
            plan.warnings
                .iter()
                .any(|warning| warning.contains(expected)),
            "{:?}",
            plan.warnings
        );
    }
}

#[test]
fn a_gate_is_what_can_refuse() {
    type Spoil = fn(&mut FleetView);
    let bare: Spoil = |view| {
        view.hooks.clear();
        view.health = HealthSource::LoadBalancer;
    };
    let refused_by: [(Spoil, &str); 3] = [
        (
            |view| view.has_traffic_source = false,
            "without a load balancer",
        ),
        (
            |view| view.suspended = vec!["HealthCheck".into()],
            "while HealthCheck is suspended",
        ),
        (
            |view| view.health = HealthSource::Ec2,
            "no load-balancer health",
        ),
    ];
    let mut view = fleet();
    bare(&mut view);
    planned(decide(&view, &[]));
    for (spoil, expected) in refused_by {
        let mut view = view.clone();
        spoil(&mut view);
        let refusal = refused(decide(&view, &[]));
        assert!(refusal.reason.contains(expected), "{}", refusal.reason);
        // With a launch hook there is one.
        view.hooks = fleet().hooks;
        planned(decide(&view, &[]));
    }
}

#[test]
fn rolling_to_the_saved_version_after_a_failed_refresh_is_free() {
    let mut view = fleet();
    view.members[0] = sample::member("i-1", 8, "ami-2", "InService");
    let back = sample::goal("ami-1");
    let decided = |view: &FleetView| super::plan(view, &back, &sample::settings(""), &[]);
    for (status, allowed) in [
        ("Cancelled", true),
        ("Failed", true),
        ("RollbackFailed", true),
        ("Successful", false),
    ] {
        view.refresh = Some(sample::refresh(status));
        match decided(&view) {
            Decision::Roll(plan) => {
                assert!(allowed, "{status}");
                assert_eq!(plan.version, Version::Existing(7), "{status}");
                assert!(!plan.preferences.auto_rollback, "{status}");
            }
            Decision::Refuse(refusal) => assert!(!allowed, "{status}: {}", refusal.reason),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_rollback_has_no_pauses_and_needs_no_consent() {
    let mut view = fleet();
    view.hooks.clear();
    view.health = HealthSource::Ec2;
    let goal = Goal {
        gate: GateVerdict::None,
        direction: Direction::Back,
        ..sample::goal("ami-2")
    };
    let settings =
        sample::settings("checkpoints = [50]\nbake_seconds = 600\nalarms = [\"errors\"]");
    let plan = planned(super::plan(&view, &goal, &settings, &[]));
    let sent = &plan.preferences;
    assert_eq!(
        (
            sent.checkpoints.len(),
            sent.bake_seconds,
            sent.alarms.len(),
            sent.auto_rollback
        ),
        (0, 0, 0, false)
    );
    assert!(matches!(plan.rollback, RollbackMode::None(_)));
}

#[test]
fn a_watch_that_ends_before_the_roll_can_is_a_warning() {
    let plan = |roll: &str| {
        planned(super::plan(
            &fleet(),
            &sample::goal("ami-2"),
            &sample::settings(roll),
            &[],
        ))
    };
    let short = plan("watch_timeout_seconds = 60");
    assert!(
        short
            .warnings
            .iter()
            .any(|warning| warning.contains("watch_timeout_seconds is 60")),
        "{:?}",
        short.warnings
    );
    for roll in ["", "watch_timeout_seconds = 3600"] {
        let warnings = plan(roll).warnings;
        let warns = warnings
            .iter()
            .any(|warning| warning.contains("watch_timeout"));
        assert!(!warns, "{roll}: {warnings:?}");
    }
}

#[test]
fn a_plans_assumptions_cover_the_group_not_its_members() {
    let first = planned(decide(&fleet(), &[]));
    let mut scaled = fleet();
    scaled.members.pop();
    scaled.size.desired = 2;
    assert!(first.same_assumptions(&planned(decide(&scaled, &[]))));
    let moved = sample::fleet(3, 8, "ami-1");
    assert!(!first.same_assumptions(&planned(decide(&moved, &[]))));
    let warmer = spoiled(|view| view.default_warmup_seconds = Some(9));
    assert!(!first.same_assumptions(&planned(decide(&warmer, &[]))));
}
