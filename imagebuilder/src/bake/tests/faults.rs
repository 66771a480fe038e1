//! Fault tests: a bake that is killed or fails at every call that changes something.

use super::*;
use cloud::testing::{Fault, Nth, failure};

#[tokio::test(start_paused = true)]
async fn a_bake_leaves_one_image_and_a_second_changes_nothing() {
    let scene = Scene::new(Verdict::Fit);
    let first = scene.bake(Reuse::Allowed).await.unwrap();
    assert_eq!(scene.leftovers(), Vec::<String>::new());
    {
        let aws = scene.aws.state();
        let image = &aws.images[&first.image];
        assert_eq!(image.tags[tags::VERDICT], "fit");
        assert_eq!(image.tags[tags::DIGEST], first.digest.as_str());
        assert_eq!(
            aws.parameters["/imagebuilder/shop/candidate"],
            first.image.as_str()
        );
        assert_eq!(aws.shares[&first.image].len(), 1);
    }
    let changes = scene.aws.state().calls.changes;
    let second = scene.bake(Reuse::Allowed).await.unwrap();
    assert_eq!(second.image, first.image);
    assert_eq!(second.run, None);
    assert_eq!(
        scene.aws.state().calls.changes,
        changes,
        "an unchanged bake changes nothing"
    );

    let changed = test_support::elf(62, "changed");
    std::fs::write(scene.folder.path().join("orders"), changed).unwrap();
    let third = scene.bake(Reuse::Allowed).await.unwrap();
    assert_ne!(third.image, first.image);
    assert_ne!(third.digest, first.digest);
}

/// Row B5: everything that a bake names is checked before anything is created.
#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_refused_at_once_and_all_together() {
    let mut scene = Scene::new(Verdict::Fit);
    scene.config = Config::parse(
        &format!(
            "{CONFIG}instance_type = \"t9.huge\"\nsubnet = \"subnet-1\"\n[bake.gate]\ninstance_type = \"t4g.small\"\n\
             instance_profile = \"shop\"\nsubnet = \"subnet-2\"\nsecurity_groups = [\"sg-1\", \"sg-far\"]\n"
        ),
        "test.toml",
    )
    .unwrap();
    {
        let mut aws = scene.aws.state();
        aws.missing = ["t9.huge", "subnet-1", "sg-1"].map(str::to_owned).into();
    }
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Refused);
    let message = format!("{error:#}");
    for want in [
        "there is no subnet-1 in",
        "there is no sg-1 in",
        "sg-far is in vpc-2, and the gate's subnet in vpc-1",
        "there is no instance type t9.huge in",
        "instance type t4g.small runs arm64, and the image is x86_64",
        "there is no instance profile shop",
    ] {
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    assert_eq!(scene.aws.state().calls.changes, 0);
    assert!(!scene.runs().exists());
}

#[tokio::test(start_paused = true)]
async fn a_missing_gate_profile_is_refused_before_the_bake() {
    let mut scene = Scene::new(Verdict::Fit);
    let gate = "[bake.gate]\ninstance_profile = \"shop\"\nsecurity_groups = [\"sg-1\"]\n";
    scene.config = Config::parse(&format!("{CONFIG}{gate}"), "test.toml").unwrap();
    assert!(scene.bake(Reuse::Allowed).await.is_err());
    assert_eq!(scene.aws.state().calls.changes, 0);
    scene.aws.state().profiles.insert("shop".to_owned());
    scene.bake(Reuse::Allowed).await.unwrap();
}

/// The effect of each denied action: refused before the first change, or named.
#[tokio::test(start_paused = true)]
async fn every_denied_action_is_found_before_the_first_change() {
    use run::permissions::{Need, Verb, needed};
    let conditions = [Need::Shares, Need::Key, Need::Profile];
    for silent in [false, true] {
        for action in needed(&[Verb::Bake, Verb::Packer], &conditions) {
            let mut scene = Scene::new(Verdict::Fit);
            let more = "encrypt = true\nkms_key = \"arn:aws:kms:us-east-1:123456789012:key/1\"\n[bake.gate]\ninstance_profile = \"shop\"\n";
            scene.config = Config::parse(&format!("{CONFIG}{more}"), "test.toml").unwrap();
            {
                let mut aws = scene.aws.state();
                aws.profiles.insert("shop".to_owned());
                aws.policy.denied.insert(action.name);
                aws.policy.silent = silent;
            }
            let result = scene.bake(Reuse::Allowed).await;
            let name = action.name;
            match result {
                Err(error) => {
                    assert_eq!(Exit::of(&error), Exit::Refused, "{name}: {error:#}");
                    assert!(format!("{error:#}").contains(name), "{name}: {error:#}");
                    assert_eq!(scene.aws.state().calls.changes, 0, "{name}");
                    assert!(!scene.runs().exists(), "{name}");
                }
                Ok(_) => {
                    let optional = action.need == Need::Optional;
                    // A dry run's denial of a made-up resource does not count: only IAM can answer.
                    let by_iam_alone = action.asked == run::permissions::Asked::Simulation
                        || matches!(action.resource, run::permissions::Resource::Ec2(_));
                    assert!(optional || silent && by_iam_alone, "{name} was not found");
                    let messages = scene.output.messages();
                    let named = messages.iter().any(|line| {
                        (line.contains("not checked: ") || line.contains("not required: "))
                            && line.contains(name)
                    });
                    assert!(named, "{name}: {messages:#?}");
                }
            }
        }
    }
}

/// The least privilege that docs/operating.md proposes: what changes or removes something is allowed by our run's tag on it.
#[tokio::test(start_paused = true)]
async fn a_policy_that_goes_by_the_runs_tag_is_no_denial() {
    for silent in [false, true] {
        let scene = Scene::new(Verdict::Fit);
        {
            let mut aws = scene.aws.state();
            aws.policy.silent = silent;
            aws.policy.by_tag.extend([
                "ec2:TerminateInstances",
                "ec2:DeleteVolume",
                "ec2:DeleteSecurityGroup",
                "ec2:DeregisterImage",
                "ec2:ImportKeyPair",
                "ec2:StopInstances",
            ]);
        }
        scene.bake(Reuse::Allowed).await.unwrap();
        let messages = scene.output.messages();
        let named = messages
            .iter()
            .any(|line| line.contains("not checked: ") && line.contains("ec2:TerminateInstances"));
        assert!(named, "silent {silent}: {messages:#?}");
    }
}

/// A key's own policy may allow what no policy of the caller does, and IAM simulates the caller's alone.
#[tokio::test(start_paused = true)]
async fn a_policy_of_the_key_itself_is_no_denial() {
    let mut scene = Scene::new(Verdict::Fit);
    let key =
        "encrypt = true\nkms_key = \"arn:aws:kms:us-east-1:123456789012:key/1\"\n[bake.gate]\n";
    scene.config = Config::parse(&format!("{CONFIG}{key}"), "test.toml").unwrap();
    scene
        .aws
        .state()
        .policy
        .by_tag
        .insert("kms:GenerateDataKeyWithoutPlaintext");
    scene.bake(Reuse::Allowed).await.unwrap();
    let line = "kms:GenerateDataKeyWithoutPlaintext (that depends on the resource's own policy)";
    let messages = scene.output.messages();
    assert!(
        messages.iter().any(|message| message.contains(line)),
        "{messages:#?}"
    );
}

/// Row B5: a reap is warned by name before its first removal, and removes what it may.
#[tokio::test(start_paused = true)]
async fn a_reap_names_what_is_denied_and_goes_on() {
    use run::permissions::{Asked, Resource, Verb, needed};
    let dead = Tags::from([
        (
            tags::RUN.to_owned(),
            "20250101T000000Z-bake-00000a".to_owned(),
        ),
        (tags::IMAGE.to_owned(), "shop".to_owned()),
    ]);
    for silent in [false, true] {
        for action in needed(&[Verb::Reap], &[]) {
            let name = action.name;
            let scene = Scene::new(Verdict::Fit);
            {
                let mut aws = scene.aws.state();
                aws.add_volume(dead.clone());
                aws.policy.denied.insert(name);
                aws.policy.silent = silent;
            }
            let reaped = scene.reap().await;
            assert_eq!(reaped.removed.len(), 1, "{name}: {reaped:?}");
            let messages = scene.output.messages();
            let at = |parts: &[&str]| {
                messages
                    .iter()
                    .position(|line| parts.iter().all(|part| line.contains(part)))
            };
            let by_iam_alone =
                action.asked == Asked::Simulation || matches!(action.resource, Resource::Ec2(_));
            let kind = match silent && by_iam_alone {
                true => "not checked: ",
                false => "may not call ",
            };
            let named = at(&[kind, name]).unwrap_or_else(|| panic!("{name}: {messages:#?}"));
            assert!(named < at(&["dead run"]).unwrap(), "{name}: {messages:#?}");
        }
    }
    // Nothing to reap, nothing to ask.
    let scene = Scene::new(Verdict::Fit);
    assert_eq!(scene.reap().await, Reaped::default());
    assert!(scene.aws.state().policy.asked.is_empty());
}

/// A kind of resource that a reap cannot list is reported, not taken as empty.
#[tokio::test(start_paused = true)]
async fn a_reap_reports_unlisted_kinds_and_removes_the_rest() {
    let scene = Scene::new(Verdict::Fit);
    let run = "20250101T000000Z-bake-00000a".to_owned();
    let tags = Tags::from([(tags::RUN.to_owned(), run)]);
    scene.aws.state().add_key_pair("imagebuilder-old", tags);
    scene.may_not_list_volumes_and_interfaces();
    let reaped = scene.reap().await;
    let unlisted = reaped.unlisted.join(", ");
    for want in ["volume (", "network interface ("] {
        assert!(unlisted.contains(want), "{unlisted}");
    }
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
}

/// Only the image shows that a snapshot belongs to a published image.
#[tokio::test(start_paused = true)]
async fn no_snapshot_is_reaped_while_images_cannot_be_listed() {
    let scene = Scene::new(Verdict::Fit);
    {
        let mut aws = scene.aws.state();
        let run = "20250101T000000Z-bake-00000a".to_owned();
        let mut tags = Tags::from([(tags::RUN.to_owned(), run)]);
        aws.add_key_pair("imagebuilder-old", tags.clone());
        tags.insert(tags::VERDICT.to_owned(), "fit".to_owned());
        aws.add_image(OWNER, "published", tags);
    }
    scene.aws.refuse("search", denied("list images"));
    let reaped = scene.reap().await;
    assert_eq!(reaped.removed.len(), 1, "{reaped:?}");
    let left = reaped.left.join(", ");
    assert!(left.starts_with("image of unknown id"), "{left}");
    assert!(!left.contains("snapshot"), "{left}");
}

#[tokio::test(start_paused = true)]
async fn a_builder_open_to_everybody_is_warned_of() {
    let mut scene = Scene::new(Verdict::Fit);
    let warned = |scene: &Scene| {
        let messages = scene.output.messages();
        messages
            .iter()
            .filter(|line| line.contains("source_cidrs"))
            .count()
    };
    scene.bake(Reuse::Allowed).await.unwrap();
    assert_eq!(warned(&scene), 1);
    scene.config.bake.source_cidrs = vec!["192.0.2.1/32".parse().unwrap()];
    scene.bake(Reuse::Never).await.unwrap();
    assert_eq!(warned(&scene), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gate_refusal_is_exit_4_with_the_agents_reason() {
    let scene = Scene::new(Verdict::Unfit);
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeFailed);
    insta::assert_snapshot!(format!("{error:#}"), @"bake failed, everything it created was removed: the gate refuses the candidate: the agent reports unfit: orders: 503");
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
}

/// An agent of before there were tests reports `fit` whatever user data requests.
#[tokio::test(start_paused = true)]
async fn a_gate_whose_agent_ran_no_tests_is_refused() {
    let mut scene = Scene::new(Verdict::Fit);
    std::fs::write(scene.folder.path().join("smoke.sh"), "#!/bin/sh\n").unwrap();
    let test = "[[image.test]]\nname = \"smoke\"\nscript = \"smoke.sh\"\n";
    scene.config = Config::parse(&format!("{CONFIG}{test}"), "test.toml").unwrap();
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeFailed);
    let message = format!("{error:#}");
    assert!(
        message.contains("reports fit, and not that test smoke passed"),
        "{message}"
    );
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_refused_when_time_is_up() {
    let scene = Scene::new(Verdict::Judging);
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeFailed);
    assert!(
        format!("{error:#}").contains("no verdict within 600 s"),
        "{error:#}"
    );
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_reap_leaves_nothing_or_a_published_image() {
    let mut kills = 0;
    for verdict in [Verdict::Fit, Verdict::Unfit] {
        for at in 1.. {
            let mut ended = 0;
            for fault in [Fault::Hangs, Fault::HangsAfter] {
                let what = format!("{fault:?} at change {at}, {verdict:?}");
                let scene = Scene::new(verdict);
                scene.aws.fault_at(Nth::Change(at), fault);
                if scene.bake_until_killed().await.is_some() {
                    ended += 1;
                    continue;
                }
                kills += 1;
                let reaped = scene.reap().await;
                assert_eq!(reaped.left, Vec::<String>::new(), "{what}");
                assert_eq!(scene.leftovers(), Vec::<String>::new(), "{what}");
                assert_eq!(scene.reap().await, Reaped::default(), "reap twice, {what}");
                if verdict == Verdict::Fit {
                    scene.bake(Reuse::Allowed).await.unwrap();
                    assert_eq!(
                        scene.leftovers(),
                        Vec::<String>::new(),
                        "baked again after {what}"
                    );
                }
            }
            if ended == 2 {
                break;
            }
        }
    }
    assert!(kills > 40, "only {kills} kills: the faults do not bite");
}

#[tokio::test(start_paused = true)]
async fn failing_at_every_change_undoes_everything_or_names_it() {
    for at in 1.. {
        let scene = Scene::new(Verdict::Fit);
        let fault = Fault::Refused(failure("InternalError"));
        scene.aws.fault_at(Nth::Change(at), fault);
        match scene.bake(Reuse::Allowed).await {
            Ok(_) if scene.aws.state().calls.changes < at => break,
            // Only the cleanup failed: the image is kept.
            Ok(_) => {}
            Err(error) => match Exit::of(&error) {
                Exit::BakeFailed => assert_eq!(
                    scene.aws.state().inventory(),
                    Vec::<String>::new(),
                    "at {at}"
                ),
                other => panic!("change {at}: {other:?}: {error:#}"),
            },
        }
        scene.reap().await;
        assert_eq!(
            scene.leftovers(),
            Vec::<String>::new(),
            "reaped after failing at {at}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_undone_is_exit_5_and_named() {
    let mut named = 0;
    for at in 1.. {
        let scene = Scene::new(Verdict::Unfit);
        let fault = Fault::Refused(failure("InternalError"));
        scene.aws.fault_at(Nth::Change(at), fault);
        let error = scene.bake(Reuse::Allowed).await.unwrap_err();
        if scene.aws.state().calls.changes < at {
            break;
        }
        let left = scene.aws.state().inventory();
        if left.is_empty() {
            // The call that failed may have had nothing to remove; its answer alone would show that.
            continue;
        }
        named += 1;
        assert_eq!(Exit::of(&error), Exit::BakeLeft, "at {at}");
        let printed = format!("{error:#}");
        assert!(
            left.iter().all(|thing| printed.contains(thing.as_str())),
            "at {at}: {printed} misses {left:?}"
        );
        let hint = run::exit::hint(&error);
        let want = Some("`imagebuilder reap` removes it");
        assert_eq!(hint.as_deref(), want, "at {at}");
        scene.reap().await;
        let left = scene.aws.state().inventory();
        assert_eq!(left, Vec::<String>::new(), "reaped after {at}");
    }
    assert!(named > 3, "only {named} faults left something");
}

#[tokio::test(start_paused = true)]
async fn a_run_of_another_host_is_reaped_only_when_old() {
    let scene = Scene::new(Verdict::Fit);
    let old = "20250101T000000Z-bake-00000a";
    let young = run::id::run_id("bake", jiff::Timestamp::now(), 11);
    {
        let mut aws = scene.aws.state();
        let source = ImageId::parse("ami-1").unwrap();
        for run in [old, young.as_str()] {
            let tags = Tags::from([
                (tags::RUN.into(), run.into()),
                (tags::IMAGE.into(), "shop".into()),
            ]);
            aws.add_instance(&source, tags.clone());
            aws.add_image(OWNER, run, tags);
        }
        let mut published = Tags::from([(tags::RUN.into(), "20240101T000000Z-bake-00000b".into())]);
        published.insert(tags::VERDICT.into(), "fit".into());
        aws.add_image(OWNER, "published", published);
    }
    scene.reap().await;
    let aws = scene.aws.state();
    let names: Vec<&str> = aws
        .images
        .values()
        .filter(|image| image.owner == OWNER)
        .map(|image| image.name.as_str())
        .collect();
    assert_eq!(names, [young.as_str(), "published"]);
    let alive: Vec<&str> = aws
        .instances
        .values()
        .filter(|instance| !instance.state.is_going())
        .map(|instance| instance.tags[tags::RUN].as_str())
        .collect();
    assert_eq!(alive, [young.as_str()]);
}

#[tokio::test(start_paused = true)]
async fn what_is_pointed_at_or_in_use_is_never_reaped() {
    let scene = Scene::new(Verdict::Fit);
    let run = "20250101T000000Z-bake-00000a";
    {
        let mut aws = scene.aws.state();
        let tags = Tags::from([
            (tags::RUN.into(), run.into()),
            (tags::IMAGE.into(), "shop".into()),
        ]);
        let current = aws.add_image(OWNER, "current", tags.clone());
        aws.parameters
            .insert("/imagebuilder/shop/current".into(), current.to_string());
        let used = aws.add_image(OWNER, "used", tags.clone());
        aws.add_instance(&used, Tags::new());
        aws.add_image(OWNER, "loose", tags);
    }
    scene.reap().await;
    let aws = scene.aws.state();
    let names: Vec<&str> = aws
        .images
        .values()
        .filter(|image| image.owner == OWNER)
        .map(|image| image.name.as_str())
        .collect();
    assert_eq!(names, ["current", "used"]);
}

#[tokio::test(start_paused = true)]
async fn no_source_is_refused_with_near_misses() {
    let mut scene = Scene::new(Verdict::Fit);
    let text = CONFIG.replace("debian-12-*", "debian-99-*");
    scene.config = Config::parse(&text, "test.toml").unwrap();
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Refused);
    insta::assert_snapshot!(format!("{error:#}\n{}", run::exit::hint(&error).unwrap()), @"
    no source image: owners 136693071363, name `debian-99-*`, architecture x86_64, state available, root device ebs, not deprecated
    near misses of these owners:
      ami-1  debian-12-amd64-20260101-1  x86_64
    ");
    assert!(!scene.runs().exists());
}

#[tokio::test(start_paused = true)]
async fn a_bake_that_was_killed_under_schema_2_is_reaped() {
    let scene = Scene::new(Verdict::Fit);
    scene.aws.fault_at(Nth::Change(9), Fault::HangsAfter);
    assert!(scene.bake_until_killed().await.is_none());
    assert_ne!(scene.aws.state().inventory(), Vec::<String>::new());
    let run = std::fs::read_dir(scene.runs()).unwrap().next().unwrap();
    let path = run.unwrap().path().join("ledger.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut journal: serde_json::Value = serde_json::from_str(&text).unwrap();
    let bake = journal.as_object_mut().unwrap().remove("bake").unwrap();
    journal["schema"] = 2.into();
    journal["facts"] = serde_json::json!({ "digest": bake["digest"] });
    std::fs::write(&path, journal.to_string()).unwrap();

    let reaped = scene.reap().await;
    run::testing::printed(&reaped);
    assert_eq!(reaped.left, Vec::<String>::new());
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
    let text = std::fs::read_to_string(&path).unwrap();
    let journal: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(journal["schema"], 3);
    assert_eq!(journal["outcome"], "reaped");
    assert_eq!(journal["bake"]["digest"], bake["digest"]);
}
