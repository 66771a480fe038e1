//! Releases for two architectures: both images are published, or none.

use super::*;
use crate::config::{Arch, parse};
use cloud::testing::{Fault, Nth, failure};

/// What differs for arm64.
const ARM64: &str = r#"
[arch.arm64.image.source]
name = "debian-12-arm64-*"
[arch.arm64.image.agent]
binary = "agent-arm64"
[arch.arm64.services.orders]
binary = "orders-arm64"
"#;
const RECORD: &str = "/imagebuilder/shop/release";
const POINTERS: [&str; 2] = [
    "/imagebuilder/shop/x86_64/candidate",
    "/imagebuilder/shop/arm64/candidate",
];

struct Both {
    scene: Scene,
    configs: Vec<Config>,
}

impl Both {
    fn new(verdict: Verdict) -> Self {
        let scene = Scene::new(verdict);
        for file in ["agent", "orders"] {
            let at = scene.folder.path().join(format!("{file}-arm64"));
            std::fs::write(at, test_support::elf(183, file)).unwrap();
        }
        {
            let mut aws = scene.aws.state();
            let id = aws.add_image("136693071363", "debian-12-arm64-20260101-1", Tags::new());
            aws.images.get_mut(&id).unwrap().architecture = "arm64".to_owned();
        }
        let list = "name = \"shop\"\narch = [\"x86_64\", \"arm64\"]";
        let text = CONFIG.replacen("name = \"shop\"", list, 1);
        let text = text.replace("debian-12-*", "debian-12-amd64-*");
        let configs = parse(&format!("{text}{ARM64}"), "test.toml").unwrap();
        Self { scene, configs }
    }

    async fn bake(&self) -> anyhow::Result<Vec<Baked>> {
        let scene = &self.scene;
        let cloud = scene.aws.cloud();
        let builder = Scripted(scene.aws.clone(), scene.script.clone());
        let bakes = self.configs.iter().map(|config| Bake {
            config,
            root: scene.folder.path().to_owned(),
            runs: scene.runs(),
            cloud: &cloud,
            builder: &builder,
            packer: Version::parse("1.6.6").unwrap(),
            output: &scene.output,
            cancel: &scene.cancel,
            reuse: Reuse::Allowed,
            channel: None,
        });
        let release = Release {
            bakes: bakes.collect(),
        };
        release.run().await
    }

    /// Bakes until the arranged kill: `None` when it was killed.
    async fn bake_until_killed(&self) -> Option<anyhow::Result<Vec<Baked>>> {
        let killed = self.scene.aws.hung();
        tokio::select! {
            () = killed.notified() => None,
            result = self.bake() => Some(result),
        }
    }

    /// Bakes and publishes a first release, and changes an input.
    async fn released(&self) -> String {
        self.bake().await.unwrap();
        for (file, machine) in [("orders", 62), ("orders-arm64", 183)] {
            let changed = test_support::elf(machine, "changed");
            std::fs::write(self.scene.folder.path().join(file), changed).unwrap();
        }
        self.record().unwrap()
    }

    fn record(&self) -> Option<String> {
        self.scene.aws.state().parameters.get(RECORD).cloned()
    }

    fn pointers(&self) -> Vec<Option<String>> {
        let aws = self.scene.aws.state();
        POINTERS
            .map(|name| aws.parameters.get(name).cloned())
            .to_vec()
    }

    /// The record that names what the pointers point at.
    fn record_of_the_pointers(&self) -> String {
        let pointers = self.pointers();
        format!(
            r#"{{"schema":1,"images":{{"arm64":"{}","x86_64":"{}"}}}}"#,
            pointers[1].as_deref().unwrap_or_default(),
            pointers[0].as_deref().unwrap_or_default()
        )
    }
}

#[tokio::test(start_paused = true)]
async fn both_images_are_published_together() {
    let both = Both::new(Verdict::Fit);
    let baked = both.bake().await.unwrap();
    let named: Vec<_> = baked
        .iter()
        .map(|one| (one.architecture.as_str(), Some(one.image.to_string())))
        .collect();
    let pointers = both.pointers();
    assert_eq!(
        named,
        [
            ("x86_64", pointers[0].clone()),
            ("arm64", pointers[1].clone())
        ]
    );
    assert_eq!(both.record(), Some(both.record_of_the_pointers()));
    {
        let aws = both.scene.aws.state();
        for one in &baked {
            assert_eq!(aws.images[&one.image].tags[tags::VERDICT], "fit");
        }
        assert!(!aws.parameters.contains_key("/imagebuilder/shop/candidate"));
    }
    let changes = both.scene.aws.state().calls.changes;
    let again = both.bake().await.unwrap();
    assert_eq!(again[1].image, baked[1].image);
    assert!(again.iter().all(|one| one.run.is_none()));
    assert_eq!(both.scene.aws.state().calls.changes, changes);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_architecture_is_reused() {
    let both = Both::new(Verdict::Fit);
    let first = both.bake().await.unwrap();
    let changed = test_support::elf(183, "changed");
    std::fs::write(both.scene.folder.path().join("orders-arm64"), changed).unwrap();
    let second = both.bake().await.unwrap();
    assert_eq!(second[0].image, first[0].image);
    assert_ne!(second[1].image, first[1].image);
    assert_eq!(both.record(), Some(both.record_of_the_pointers()));
}

#[tokio::test(start_paused = true)]
async fn one_that_the_gate_refuses_keeps_both_back() {
    let both = Both::new(Verdict::Unfit);
    let error = both.bake().await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeFailed);
    assert_eq!(both.scene.aws.state().inventory(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn findings_of_both_architectures_are_reported() {
    let mut both = Both::new(Verdict::Fit);
    for (config, name) in both.configs.iter_mut().zip(["one-*", "two-*"]) {
        config.image.source.by = crate::config::By::Name {
            owners: vec!["self".to_owned().try_into().unwrap()],
            name: name.to_owned(),
        };
    }
    let error = both.bake().await.unwrap_err();
    assert!(format!("{error:#}").contains("one-*"), "{error:#}");
    let messages = both.scene.output.messages();
    let second = messages.iter().any(|line| line.contains("two-*"));
    assert!(second, "{messages:#?}");
    assert_eq!(both.scene.aws.state().calls.changes, 0);
}

#[tokio::test(start_paused = true)]
async fn failing_at_any_change_releases_both_or_none() {
    let mut failures = 0;
    for at in 1.. {
        let both = Both::new(Verdict::Fit);
        let old = both.released().await;
        let pointers = both.pointers();
        let changes = both.scene.aws.state().calls.changes;
        let fault = Fault::Refused(failure("InternalError"));
        both.scene.aws.fault_at(Nth::Change(at), fault);
        let result = both.bake().await;
        if both.scene.aws.state().calls.changes < changes + at {
            break;
        }
        let record = both.record().unwrap();
        if record == old {
            failures += 1;
            assert!(result.is_err(), "change {at}");
            assert_eq!(both.pointers(), pointers, "change {at}");
        } else {
            assert_eq!(record, both.record_of_the_pointers(), "change {at}");
        }
    }
    assert!(
        failures > 20,
        "only {failures} failures: the faults do not bite"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_record_names_exists_whatever_is_lost() {
    let whole = Both::new(Verdict::Fit);
    whole.released().await;
    let before = whole.scene.aws.state().calls.changes;
    whole.bake().await.unwrap();
    let last = whole.scene.aws.state().calls.changes - before;
    let mut released = 0;
    // The record is written near the end.
    for at in last - 15..=last {
        let both = Both::new(Verdict::Fit);
        let old = both.released().await;
        // Restoring the record fails as well.
        for (at, fault) in [
            (at, Fault::AnswerLost),
            (at + 1, Fault::Refused(failure("InternalError"))),
        ] {
            both.scene.aws.fault_at(Nth::Change(at), fault);
        }
        let result = both.bake().await;
        let aws = both.scene.aws.state();
        let record = &aws.parameters[RECORD];
        let Err(error) = result else { continue };
        released += usize::from(*record != old);
        let ids = aws.images.keys().filter(|id| record.contains(id.as_str()));
        assert_eq!(ids.count(), 2, "change {at}: {record}");
        let fits = [Exit::BakeLeft, Exit::BakeFailed].contains(&Exit::of(&error));
        assert!(fits, "change {at}: {error:#}");
    }
    assert!(released > 0, "the record's answer was never lost");
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_change_the_next_bake_finishes() {
    let mut kills = 0;
    for at in 1.. {
        let both = Both::new(Verdict::Fit);
        let old = both.released().await;
        both.scene.aws.fault_at(Nth::Change(at), Fault::HangsAfter);
        if both.bake_until_killed().await.is_some() {
            break;
        }
        kills += 1;
        let record = both.record().unwrap();
        let whole = record == old || record == both.record_of_the_pointers();
        assert!(whole, "killed at change {at}: {record}");
        both.scene.reap().await;
        both.bake().await.unwrap();
        let record = both.record().unwrap();
        assert_ne!(record, old, "change {at}");
        assert_eq!(record, both.record_of_the_pointers(), "change {at}");
        let images = both.scene.aws.state().images.len();
        // Two sources, two releases of two.
        assert_eq!(images, 6, "change {at}");
    }
    assert!(kills > 20, "only {kills} kills: the faults do not bite");
}

#[test]
fn every_architecture_has_its_own_pointers() {
    let both = Both::new(Verdict::Fit);
    let scopes = both.configs.iter().map(Config::pointers);
    let names: Vec<String> = scopes
        .map(|scope| scope.parameter(Pointer::Candidate))
        .collect();
    assert_eq!(names, POINTERS);
    assert_eq!(both.configs[1].image.arch, Arch::Arm64);
}
