//! Whole bakes on an in-memory AWS.

mod faults;
mod others;
mod packages;
mod releases;
mod sources;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use contract::registry::Verdict;

use super::builder::record_builder;
use super::reap::{Mode, Reaped, reap};
use super::*;
use cloud::Tags;
use cloud::ids::SnapshotId;
use cloud::testing::{InMemoryAws, OWNER, denied};
use run::output::Step;

/// A builder that does to the in-memory AWS what Packer 1.6.6 does to EC2; tags arrive only at the end.
struct Scripted(InMemoryAws, Script);

/// What happens during the build.
#[derive(Clone, Default)]
struct Script {
    /// An image that is not the run's, named as its artifact all the same.
    artifact: Option<ImageId>,
    /// Another user takes a snapshot of the builder's volume, and registers an image with the candidate's: both snapshots.
    visitors: Option<Arc<Mutex<Vec<SnapshotId>>>>,
    /// The ledger cannot be written once the builder is there.
    full_disk: bool,
}

#[async_trait]
impl Builder for Scripted {
    async fn check(&self, folder: &Path) -> anyhow::Result<()> {
        anyhow::ensure!(folder.join(TEMPLATE).exists(), "no template");
        Ok(())
    }

    async fn build(
        &self,
        ledger: &mut Ledger,
        _step: &mut Step,
        _cancel: &Cancel,
        _deadline: Duration,
    ) -> anyhow::Result<ImageId> {
        let tags = Tags::from([(tags::RUN.to_owned(), ledger.run().to_string())]);
        let source = ImageId::parse("ami-1").unwrap();
        let builder = self
            .0
            .change("run", |aws| Ok(aws.add_instance(&source, tags)))
            .await?;
        if self.1.full_disk {
            std::fs::create_dir(ledger.folder().join("ledger.json.new"))?;
        }
        record_builder(&self.0, ledger).await??;
        let name = std::fs::read_to_string(ledger.folder().join(TEMPLATE))?;
        let name = name
            .split("ami_name        = \"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned();
        let image = self
            .0
            .change("create_image", |aws| {
                Ok(aws.create_image(&builder, &name, Tags::new()))
            })
            .await?;
        if let Some(visitors) = &self.1.visitors {
            let mut aws = self.0.state();
            let volume = aws.attached[&builder][0].clone();
            let by_hand = aws.add_snapshot(Some(volume), "before I try something", Tags::new());
            let theirs = aws.add_image(OWNER, "theirs", Tags::new());
            let shared = aws.images[&image].snapshots[0].clone();
            let theirs = aws.images.get_mut(&theirs).unwrap();
            theirs.snapshots.push(shared.clone());
            visitors.lock().unwrap().extend([by_hand, shared]);
        }
        let instance = self.0.state().instances[&builder].clone();
        let builder = instance.owned_by(ledger.run()).unwrap();
        self.0.cloud().instances.terminate(&builder).await?;
        Ok(self.1.artifact.clone().unwrap_or(image))
    }
}

/// An operator's folder and an account, to bake in.
struct Scene {
    aws: InMemoryAws,
    script: Script,
    config: Config,
    folder: tempfile::TempDir,
    output: Output,
    cancel: Cancel,
    _asking: tokio::sync::watch::Sender<u32>,
}

impl Scene {
    fn new(verdict: Verdict) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["agent", "orders"] {
            std::fs::write(folder.path().join(file), test_support::elf(62, file)).unwrap();
        }
        let aws = InMemoryAws::default();
        {
            let mut state = aws.state();
            let id = state.add_image("136693071363", "debian-12-amd64-20260101-1", Tags::new());
            state.rename_image(&id, "ami-1");
            state.verdict = Some((verdict, "orders: 503".to_owned()));
        }
        let (asking, cancel) = Cancel::manual();
        Self {
            aws,
            script: Script::default(),
            config: Config::parse(CONFIG, "test.toml").unwrap(),
            folder,
            output: Output::captured(),
            cancel,
            _asking: asking,
        }
    }

    fn runs(&self) -> PathBuf {
        self.folder.path().join("runs")
    }

    async fn bake(&self, reuse: Reuse) -> anyhow::Result<Baked> {
        let cloud = self.aws.cloud();
        let bake = Bake {
            config: &self.config,
            root: self.folder.path().to_owned(),
            runs: self.runs(),
            cloud: &cloud,
            builder: &Scripted(self.aws.clone(), self.script.clone()),
            packer: Version::parse("1.6.6").unwrap(),
            output: &self.output,
            cancel: &self.cancel,
            reuse,
            channel: None,
        };
        bake.run().await
    }

    /// Bakes until the arranged kill: `None` when it was killed.
    async fn bake_until_killed(&self) -> Option<anyhow::Result<Baked>> {
        let killed = self.aws.hung();
        tokio::select! {
            () = killed.notified() => None,
            result = self.bake(Reuse::Allowed) => Some(result),
        }
    }

    async fn reap(&self) -> Reaped {
        self.aws.clear_fault_at();
        let day = Duration::from_secs(86400);
        reap(
            &self.aws.cloud(),
            &self.config.image.name,
            &self.runs(),
            &self.output,
            Mode::Remove,
            day,
        )
        .await
        .unwrap()
    }

    /// Denies two calls that list what a run may have left.
    fn may_not_list_volumes_and_interfaces(&self) {
        self.aws.refuse("volumes_tagged", denied("list volumes"));
        let interfaces = denied("list network interfaces");
        self.aws.refuse("network_interfaces_tagged", interfaces);
    }

    /// What is in the cloud, apart from a completely published image.
    fn leftovers(&self) -> Vec<String> {
        let aws = self.aws.state();
        let mut all = aws.inventory();
        let pointer = "/imagebuilder/shop/candidate".to_owned();
        if let Some(image) = aws.parameters.get(&pointer) {
            let image = &aws.images[&ImageId::parse(image.as_str()).unwrap()];
            let published = [
                vec![pointer, image.id.to_string()],
                image.snapshots.iter().map(ToString::to_string).collect(),
            ];
            all.retain(|thing| !published.concat().contains(thing));
        }
        all
    }
}

const CONFIG: &str = r#"
[image]
name = "shop"
[image.source]
owners = ["136693071363"]
name = "debian-12-*"
[image.agent]
binary = "agent"
[services.orders]
binary = "orders"
health_url = "http://127.0.0.1:8080/gtg"
[bake]
share = ["210987654321"]
"#;
