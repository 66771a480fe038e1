//! Baking an image: the list of steps, each with its undo.
//!
//! source → render → channel → reuse? → preflight → stage, key, check → build → candidate → gate → publish → sweep. Everything that is
//! created is in the ledger before it is waited for; whatever ends a bake early, the sweep removes what the ledger lists.

mod builder;
mod channel;
mod gate;
mod git;
mod instance_health;
pub(crate) mod key;
pub(crate) mod preflight;
mod publish;
pub(crate) mod reap;
mod release;
mod source;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
pub(crate) mod volumes;

use std::path::PathBuf;
use std::time::Duration;

use contract::names::Pointer;
use contract::tags;
use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use self::builder::{Builder, PackerBuilder};
use self::publish::OwnImage;
pub(crate) use self::release::Release;
pub(crate) use self::source::resolve;
use self::sweep::Left;
use crate::archives::{self, Limits};
use crate::channel::verify::Verified;
use crate::config::Config;
use crate::image::{self, Origin};
use crate::packer::Version;
use crate::staging::{Staging, TEMPLATE};
use crate::template::Facts;
use crate::user_data::UserData;
use cloud::ids::{Digest, ImageId, RunId};
use cloud::{Cloud, Image, ImageState, Ingress, Search, Tags};
use run::cancel::Cancel;
use run::document::Document;
use run::exit::Exit;
use run::ledger::{BakeRecord, ChannelVersions, ImageLock, Kind, Ledger, State};
use run::output::Output;
use run::pointers;
use run::preflight::Findings;

/// How often the finished image is polled until it is available.
const POLL: Duration = Duration::from_secs(2);
/// Packer has waited already; EC2's answers only have to become consistent.
const POLLS: u32 = 60;

/// Everything a bake is given.
pub(crate) struct Bake<'a> {
    /// What to bake.
    pub(crate) config: &'a Config,
    /// Where relative paths start.
    pub(crate) root: PathBuf,
    /// Where run folders are.
    pub(crate) runs: PathBuf,
    /// Where to bake it.
    pub(crate) cloud: &'a Cloud,
    /// What makes the image.
    pub(crate) builder: &'a dyn Builder,
    /// The Packer the template is rendered for.
    pub(crate) packer: Version,
    /// Where progress is printed.
    pub(crate) output: &'a Output,
    /// When to stop.
    pub(crate) cancel: &'a Cancel,
    /// Whether an image of the same inputs is reused.
    pub(crate) reuse: Reuse,
    /// The verified metadata of the configured channel; none without one.
    pub(crate) channel: Option<&'a Verified>,
}

/// Whether an image of the same inputs is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Yes: nothing changed, nothing to bake.
    Allowed,
    /// No: bake it again.
    Never,
}

/// The result of a bake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Baked {
    /// The published image.
    #[schemars(with = "String")]
    pub(crate) image: ImageId,
    /// Its name.
    pub(crate) name: String,
    /// Its architecture, as EC2 spells it.
    pub(crate) architecture: String,
    /// The digest of what went into it.
    #[schemars(with = "String")]
    pub(crate) digest: Digest,
    /// The source it was built from.
    #[schemars(with = "String")]
    pub(crate) source: ImageId,
    /// The run that baked it; none when an earlier run's image was reused.
    #[schemars(with = "Option<String>")]
    pub(crate) run: Option<RunId>,
}

impl Document for Baked {
    const NAME: &'static str = "bake";
}

/// What a bake found before it creates anything.
enum Prepared {
    /// An earlier image has the same inputs: with their digest and source.
    Found(Box<(OwnImage, Digest, ImageId)>),
    /// One is to be baked.
    ToBake(Box<Inputs>),
}

/// The inputs of a bake.
struct Inputs {
    source: Image,
    staging: Staging,
    user_data: UserData,
    digest: Digest,
    parts: Vec<(String, Digest)>,
    channel: Option<ChannelVersions>,
}

impl Bake<'_> {
    /// Bakes, gates and publishes; or finds that nothing changed.
    ///
    /// The rule: *everything that a bake needs is checked before anything is created* ([`preflight`]).
    pub(crate) async fn run(&self) -> anyhow::Result<Baked> {
        match self.prepared().await? {
            Prepared::Found(found) => {
                let (own, digest, source) = *found;
                self.reuse(&own, digest, source).await
            }
            Prepared::ToBake(prepared) => self.carry_out(*prepared).await,
        }
    }

    /// What [`Bake::prepare`] finds; a denied read is reported together with everything else that is denied.
    async fn prepared(&self) -> anyhow::Result<Prepared> {
        let error = match self.prepare().await {
            Ok(prepared) => return Ok(prepared),
            Err(error) => error,
        };
        if let Some(call) = run::preflight::denied(&error) {
            let mut findings =
                preflight::findings(self.cloud, self.config, None, &UserData::default()).await;
            if findings.wrong.is_empty() {
                findings.wrong(
                    call.to_string(),
                    "allow it to the caller that `imagebuilder doctor` names; docs/operating.md has what a bake needs",
                );
            }
            findings.conclude(self.output)?;
        }
        Err(error)
    }

    /// Everything up to the point where something would be created.
    async fn prepare(&self) -> anyhow::Result<Prepared> {
        let step = self.step("source", "resolve the source image");
        let source = source::resolve(self.cloud, self.config).await?;
        step.done(format!("{} {}", source.id, source.name));

        let step = self.step("render", "gather and render the inputs");
        let mut staging = Staging::gather(self.config, &self.root, Some(&self.cloud.region))?;
        let user_data = UserData::read(self.config, &self.root)?;
        let neutral = self.facts(&staging, &source, None);
        let (digest, parts) = staging.digest(self.config, &neutral, &source.created)?;
        step.done(format!("digest {}", image::short(&digest)));
        for name in staging.without_shebang() {
            self.output.warn(format!(
                "provisioning script {name} does not name its interpreter: /bin/sh runs it"
            ));
        }

        for doubt in staging.doubts(self.config)? {
            self.output.warn(format!("{}: {}", doubt.what, doubt.fix));
        }

        let channel = self.channel(&mut staging)?;

        if self.reuse == Reuse::Allowed
            && let Some(found) = self.reusable(&digest).await?
        {
            return Ok(Prepared::Found(Box::new((found, digest, source.id))));
        }

        let step = self.step("preflight", "check everything that the bake will need");
        let (mut found, packages) = tokio::join!(
            preflight::findings(self.cloud, self.config, Some(&source), &user_data),
            self.packages(),
        );
        found.merge(volumes::of_packer(self.config, self.packer));
        found.merge(packages?);
        if found.wrong.is_empty() {
            step.done("nothing is wrong");
        } else {
            step.failed("see below");
        }
        found.conclude(self.output)?;
        Ok(Prepared::ToBake(Box::new(Inputs {
            source,
            staging,
            user_data,
            digest,
            parts,
            channel,
        })))
    }

    /// Packages that do not exist; warns of what was not checked.
    async fn packages(&self) -> anyhow::Result<Findings> {
        let image = &self.config.image;
        let cache = archives::cache(&self.runs);
        let check = archives::check(&image.packages, image.arch, &cache, Limits::default());
        let checked = tokio::select! {
            checked = check => checked,
            () = self.cancel.requested() => {
                return Err(Exit::Cancelled.error("cancelled before anything was created").into());
            }
        };
        for line in checked.not_checked {
            self.output.warn(line);
        }
        let mut findings = Findings::default();
        for one in checked.wrong {
            findings.wrong(one.what, one.fix);
        }
        Ok(findings)
    }

    /// Bakes what was prepared.
    async fn carry_out(&self, prepared: Inputs) -> anyhow::Result<Baked> {
        let run = new_run()?;
        let _image_lock = self.lock(&run)?;
        let mut ledger = self.begin(run, &prepared)?;
        let made = async {
            let candidate = self.create(&prepared, &mut ledger).await?;
            self.publish(&candidate, &mut ledger).await?;
            anyhow::Ok(candidate.image)
        };
        match made.await {
            Ok(image) => self.finish(image, &prepared, ledger).await,
            Err(error) => Err(self.undo(error, ledger).await),
        }
    }

    /// Makes sure that no other bake of the image runs here.
    fn lock(&self, run: &RunId) -> anyhow::Result<ImageLock> {
        ImageLock::take(&self.runs, self.config.image.name.as_str(), run)
    }

    /// Begins the ledger of a run.
    fn begin(&self, run: RunId, prepared: &Inputs) -> anyhow::Result<Ledger> {
        let name = self.config.image.name.as_str();
        let mut ledger = Ledger::begin(&self.runs, run, "bake", name, &self.cloud.region)?;
        self.output.also_to(&ledger.folder().join("events.jsonl"))?;
        ledger.begin_bake(BakeRecord {
            digest: prepared.digest.clone(),
            inputs: prepared.parts.iter().cloned().collect(),
            source: Some(prepared.source.id.clone()),
            source_parameter: self.config.image.source.parameter().map(str::to_owned),
            channel: prepared.channel,
            candidate_before: None,
        })?;
        Ok(ledger)
    }

    /// Refuses an agent that the channel would replace at once, and stages the channel's metadata. Returns its versions;
    /// `None` without a channel.
    fn channel(&self, staging: &mut Staging) -> anyhow::Result<Option<ChannelVersions>> {
        let (Some(settings), Some(verified)) = (&self.config.channel, self.channel) else {
            return Ok(None);
        };
        let step = self.step("channel", format!("channel {}", settings.name));
        let arch = self.config.image.arch;
        let agent = channel::admit(
            verified,
            &settings.name,
            arch,
            &staging.agent,
            jiff::Timestamp::now(),
        )?;
        staging.remember(channel::snapshot(verified));
        let versions = ChannelVersions::from(verified.versions());
        if let Some(version) = &agent {
            step.done(format!("{versions}; the agent is its release {version}"));
        } else {
            step.done(versions.to_string());
            self.output.warn(
                "the agent of this image was never published in the channel: instances will replace it with the first release they receive",
            );
        }
        Ok(Some(versions))
    }

    /// The facts of a rendering; neutral, for the digest, when there is no origin yet.
    fn facts(&self, staging: &Staging, source: &Image, origin: Option<(&Origin, &str)>) -> Facts {
        Facts {
            region: self.cloud.region.clone(),
            // The API's endpoint changes nothing in the image.
            endpoint: origin.and(self.cloud.ec2_endpoint.clone()),
            source: source.id.clone(),
            ami_name: origin.map_or_else(
                || self.config.image.name.to_string(),
                |(_, name)| name.to_owned(),
            ),
            tags: origin
                .map(|(origin, _)| self.tags(origin))
                .unwrap_or_default(),
            // Every release makes the same image.
            plugins: origin.is_none() || self.packer.has_plugins(),
            scripts: staging.scripts(),
            disks: source.disks.clone(),
            root_device: source.root_device.clone(),
            run: origin.map(|(origin, _)| origin.run.clone()),
            key_name: origin
                .map(|(origin, _)| key::name(&origin.run))
                .unwrap_or_default(),
        }
    }

    /// The user's own tags, and those of a bake.
    fn tags(&self, origin: &Origin) -> Tags {
        let mut tags = self.config.tags.clone();
        tags.extend(origin.tags());
        tags
    }

    /// A published image of the same inputs, or one whose publishing was interrupted after the gate.
    async fn reusable(&self, digest: &Digest) -> anyhow::Result<Option<OwnImage>> {
        let search = Search::own_tagged(tags::DIGEST, digest.as_str()).and("state", "available");
        let mut found = self.cloud.images.search(&search).await?;
        let same = |image: &Image| {
            let found = image.tags.get(tags::DIGEST);
            found.is_some_and(|found| found == digest.as_str())
        };
        found.retain(|image| image.state == ImageState::Available && same(image));
        found.sort_by(|a, b| b.created.cmp(&a.created));
        let scope = self.config.pointers();
        let pointed = pointers::read(self.cloud, &scope, Pointer::Candidate).await?;
        let published = |image: &Image| {
            image
                .tags
                .get(tags::VERDICT)
                .is_some_and(|verdict| verdict == "fit")
                || pointed.as_ref() == Some(&image.id)
        };
        for image in found.into_iter().filter(published) {
            if let Some(own) = OwnImage::by_tag(self.cloud, image).await? {
                return Ok(Some(own));
            }
        }
        Ok(None)
    }

    async fn reuse(
        &self,
        own: &OwnImage,
        digest: Digest,
        source: ImageId,
    ) -> anyhow::Result<Baked> {
        let found = &own.image;
        let mut step = self.step(
            "reuse",
            format!("nothing changed: {} has the same inputs", found.id),
        );
        let changed = publish::publish(self.cloud, self.config, own, None, &mut step).await?;
        step.done(if changed.is_empty() {
            "nothing to do".to_owned()
        } else {
            changed.join(", ")
        });
        Ok(Baked {
            image: found.id.clone(),
            name: found.name.clone(),
            architecture: self.config.image.arch.to_string(),
            digest,
            source,
            run: None,
        })
    }

    /// The steps that create, up to a candidate that passed the gate. Whatever fails here, the ledger lists what exists.
    async fn create(&self, prepared: &Inputs, ledger: &mut Ledger) -> anyhow::Result<OwnImage> {
        let Inputs {
            source,
            staging,
            user_data,
            digest,
            ..
        } = prepared;
        let origin = Origin {
            run: ledger.run().clone(),
            image: self.config.image.name.clone(),
            digest: digest.clone(),
            source: source.id.clone(),
            source_parameter: self
                .config
                .image
                .source
                .parameter()
                .unwrap_or_default()
                .to_owned(),
            agent: image::short(&staging.agent).to_owned(),
            services: versions(staging),
            git: git::describe(&self.root).await,
        };
        let ami_name = image::ami_name(&self.config.image.name, ledger.run(), digest);
        let facts = self.facts(staging, source, Some((&origin, &ami_name)));

        let public_key = self.validate(staging, &origin, &facts, ledger).await?;
        self.stop_here("before anything was created")?;
        self.key_pair(&public_key, &facts, ledger).await?;
        self.security_group(&facts, ledger).await?;
        let id = self.build(&facts, ledger).await?;
        let candidate = self.candidate(&id, &facts.tags, ledger).await?;
        self.stop_here("after the build")?;
        self.gate(&id, user_data.gate.clone(), ledger).await?;
        self.stop_here("after the gate")?;
        Ok(candidate)
    }

    /// Writes the run folder and has the builder check it. Returns the public key for the builder's SSH.
    async fn validate(
        &self,
        staging: &Staging,
        origin: &Origin,
        facts: &Facts,
        ledger: &mut Ledger,
    ) -> anyhow::Result<String> {
        ledger.step("validate")?;
        let step = self.step(
            "validate",
            format!(
                "write run folder {} and validate the template",
                ledger.run()
            ),
        );
        let image_json = serde_json::json!({
            "image": origin.image,
            "digest": origin.digest,
            "source_ami": origin.source,
            "git": origin.git,
        });
        staging.write(
            ledger.folder(),
            &staging.packer(self.config, facts)?,
            &image_json,
        )?;
        let public_key = key::write(ledger.folder())?;
        self.builder.check(ledger.folder()).await?;
        step.done(format!(
            "{} is valid",
            ledger.folder().join(TEMPLATE).display()
        ));
        if self.config.bake.source_cidrs.is_empty() {
            self.output.warn(
                "any address can reach the builder's SSH port during the build: `[bake] source_cidrs` is empty",
            );
        }
        Ok(public_key)
    }

    /// Imports the key pair with which Packer reaches the builder.
    async fn key_pair(
        &self,
        public_key: &str,
        facts: &Facts,
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        ledger.step("key")?;
        ledger.intend(Kind::KeyPair, &facts.key_name)?;
        let pair = self
            .cloud
            .instances
            .import_key_pair(&facts.key_name, public_key, &facts.tags)
            .await?;
        ledger.exists(Kind::KeyPair, &facts.key_name, &pair)
    }

    /// Has the builder build the image.
    async fn build(&self, facts: &Facts, ledger: &mut Ledger) -> anyhow::Result<ImageId> {
        ledger.step("build")?;
        let mut step = self.step(
            "build",
            format!("build {} from {}", facts.ami_name, facts.source),
        );
        let limit = Duration::from_secs(self.config.bake.timeout_seconds.into());
        match self
            .builder
            .build(ledger, &mut step, self.cancel, limit)
            .await
        {
            Ok(id) => {
                step.done(id.as_str());
                Ok(id)
            }
            Err(error) => {
                step.failed("see below");
                Err(error)
            }
        }
    }

    /// Waits until the image is available, verified to be this run's and tagged.
    async fn candidate(
        &self,
        id: &ImageId,
        tags: &Tags,
        ledger: &mut Ledger,
    ) -> anyhow::Result<OwnImage> {
        ledger.step("candidate")?;
        let mut step = self.step("candidate", format!("candidate {id}"));
        let candidate = self.available(id, ledger, tags, &mut step).await?;
        let missing = volumes::missing(self.config, &candidate.image);
        if !missing.is_empty() {
            return Err(Exit::BakeFailed
                .error(format!("{id} is not as [image] describes it: {}", missing.join("; ")))
                .hint("have the template in [image] template render `mappings`, as that of `imagebuilder init --templates` does")
                .into());
        }
        // Packer 1.6.6 does not.
        if self.config.image.imds.is_required() && !candidate.image.requires_tokens {
            self.cloud.images.require_tokens(&candidate.id).await?;
        }
        step.done(format!(
            "available, {} snapshots",
            candidate.image.snapshots.len()
        ));
        Ok(candidate)
    }

    /// Boots the image once; its agent decides.
    async fn gate(
        &self,
        id: &ImageId,
        user_data: Option<Vec<u8>>,
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        ledger.step("gate")?;
        let mut step = self.step(
            "gate",
            format!("gate {id}: boot it and wait for its agent's verdict"),
        );
        let judged = gate::judge(
            self.cloud,
            self.config,
            user_data,
            id,
            ledger,
            &mut step,
            self.cancel,
        )
        .await;
        match &judged {
            Ok(_) => step.done("fit"),
            Err(_) => step.failed("refused"),
        }
        judged
    }

    /// Tags and shares the image, and points `candidate` at it.
    async fn publish(&self, candidate: &OwnImage, ledger: &mut Ledger) -> anyhow::Result<()> {
        ledger.step("publish")?;
        let id = &candidate.image.id;
        let mut step = self.step("publish", format!("publish {id}"));
        let changed =
            publish::publish(self.cloud, self.config, candidate, Some(ledger), &mut step).await?;
        ledger.mark(Kind::Image, id.as_str(), State::Kept)?;
        step.done(changed.join(", "));
        Ok(())
    }

    /// A step's progress; its title names the architecture when the image is released for several.
    fn step(&self, id: &'static str, title: impl Into<String>) -> run::output::Step {
        let title = title.into();
        self.output.step(
            id,
            if self.config.several() {
                format!("{title} ({})", self.config.image.arch)
            } else {
                title
            },
        )
    }

    fn stop_here(&self, when: &str) -> anyhow::Result<()> {
        if self.cancel.is_requested() {
            return Err(Exit::Cancelled.error(format!("cancelled {when}")).into());
        }
        Ok(())
    }

    /// The group that lets Packer reach the builder, tagged with the run when it is created: Packer would create one
    /// without.
    async fn security_group(&self, facts: &Facts, ledger: &mut Ledger) -> anyhow::Result<()> {
        ledger.step("security-group")?;
        let (bake, instances) = (&self.config.bake, &self.cloud.instances);
        let vpc = match (&bake.vpc, &bake.subnet) {
            (Some(vpc), _) => Some(vpc.clone()),
            (None, None) => None,
            (None, Some(subnet)) => Some(instances.vpc_of(subnet).await?.ok_or_else(|| {
                Exit::Refused
                    .error(format!("there is no {subnet} in {}", self.cloud.region))
                    .hint("correct `subnet` in [bake], or the region")
            })?),
        };
        // Named as the key pair is.
        let name = &facts.key_name;
        ledger.intend(Kind::SecurityGroup, name)?;
        let group = instances
            .create_security_group(name, vpc.as_ref(), &facts.tags)
            .await?;
        ledger.exists(Kind::SecurityGroup, name, &group)?;
        let cidrs = if bake.source_cidrs.is_empty() {
            vec!["0.0.0.0/0".to_owned()]
        } else {
            bake.source_cidrs.iter().map(ToString::to_string).collect()
        };
        let ingress = Ingress {
            port: bake.ssh_port,
            cidrs,
        };
        instances.allow(&group, &ingress).await?;
        Ok(())
    }

    /// The finished image as EC2 shows it, verified to be this run's, with all of our tags on it and its snapshots.
    async fn available(
        &self,
        id: &ImageId,
        ledger: &mut Ledger,
        tags: &Tags,
        step: &mut run::output::Step,
    ) -> anyhow::Result<OwnImage> {
        let mut last = String::from("not visible");
        let mut recorded = false;
        for _ in 0..POLLS {
            if let Some(image) = self.cloud.images.image(id).await? {
                let state = image.state.clone();
                // In the ledger before it is waited for.
                if !recorded || state == ImageState::Available {
                    let Some(mut own) = sweep::own_image(self.cloud, ledger, image).await? else {
                        return Err(Exit::BakeFailed
                            .error(format!(
                                "packer names {id} as its image, but that has neither the tag of run {} nor an instance of it as its source",
                                ledger.run()
                            ))
                            .hint("it was not touched; check that the templates of [image] template keep `tags` and `run_tags`")
                            .into());
                    };
                    recorded = true;
                    if state == ImageState::Available {
                        let differs = |(key, value): (&String, &String)| {
                            own.image.tags.get(key) != Some(value)
                        };
                        if tags.iter().any(differs) {
                            own.tag(self.cloud, tags).await?;
                            own.image.tags.extend(tags.clone());
                        }
                        return Ok(own);
                    }
                }
                last = format!("{state:?}");
            }
            step.waiting(format!("{id} is {last}"));
            tokio::time::sleep(POLL).await;
        }
        Err(Exit::BakeFailed
            .error(format!("{id} did not become available: {last}"))
            .into())
    }

    /// Published: removes everything but the image. What could not be removed is named, and the image is kept.
    async fn finish(
        &self,
        image: Image,
        prepared: &Inputs,
        mut ledger: Ledger,
    ) -> anyhow::Result<Baked> {
        ledger.undoing();
        ledger.step("sweep")?;
        let mut step = self.step("sweep", "remove what the bake needed");
        key::remove(ledger.folder());
        match sweep::sweep(self.cloud, &mut ledger, &mut step).await {
            Ok(left) if left.is_empty() => step.done("nothing is left"),
            Ok(left) => {
                step.failed("something is left");
                self.output
                    .warn(format!("{}; `imagebuilder reap` removes it", names(&left)));
            }
            Err(error) => {
                step.failed("the cloud cannot be reached");
                self.output.warn(format!(
                    "sweep: {error:#}; `imagebuilder reap` removes what is left"
                ));
            }
        }
        ledger.end("published")?;
        Ok(Baked {
            image: image.id,
            name: image.name,
            architecture: self.config.image.arch.to_string(),
            digest: prepared.digest.clone(),
            source: prepared.source.id.clone(),
            run: Some(ledger.run().clone()),
        })
    }

    /// Failed: undoes everything, and reports by the exit code whether something remains.
    async fn undo(&self, error: anyhow::Error, mut ledger: Ledger) -> anyhow::Error {
        let mut step = self.step("undo", "undo what the bake created");
        ledger.undoing();
        key::remove(ledger.folder());
        let began = !ledger.journal().things.is_empty();
        let swept = self.undo_all(&mut ledger, &mut step).await;
        let exit = match Exit::of(&error) {
            exit @ (Exit::Refused | Exit::Usage | Exit::Cancelled) => exit,
            _ => Exit::BakeFailed,
        };
        match swept {
            Ok(left) if left.is_empty() => {
                step.done("nothing is left");
                // The run is recorded as over; if even that cannot be written, reap finds it once more.
                let _ = ledger.end("failed");
                let what = match exit {
                    Exit::Cancelled => "bake cancelled",
                    Exit::Refused | Exit::Usage => "bake refused",
                    _ => "bake failed",
                };
                let rest = if began {
                    "everything it created was removed"
                } else {
                    "nothing was created"
                };
                exit.error(format!("{what}, {rest}")).because(error).into()
            }
            Ok(left) => {
                step.failed("something is left");
                Exit::BakeLeft
                    .error(format!("bake failed, left behind: {}", names(&left)))
                    .because(error)
                    .hint("`imagebuilder reap` removes it")
                    .into()
            }
            Err(trouble) => {
                step.failed("the cloud cannot be reached");
                Exit::BakeLeft
                    .error(format!(
                        "bake failed, and its undo as well ({trouble:#}); see {}",
                        ledger.folder().display()
                    ))
                    .because(error)
                    .hint("`imagebuilder reap` removes what is left")
                    .into()
            }
        }
    }

    async fn undo_all(
        &self,
        ledger: &mut Ledger,
        step: &mut run::output::Step,
    ) -> anyhow::Result<Vec<Left>> {
        let image = ledger
            .open_things()
            .into_iter()
            .find(|thing| thing.kind == Kind::Image && thing.id.is_some())
            .and_then(|thing| thing.id?.typed().ok());
        if let Some(image) = image {
            publish::undo(self.cloud, &self.config.pointers(), &image, ledger).await?;
        }
        let mut left = sweep::sweep(self.cloud, ledger, step).await?;
        let kept = ledger.journal().things.iter();
        left.extend(
            kept.filter(|thing| thing.state == State::Kept)
                .map(|thing| Left {
                    thing: thing.clone(),
                    why: "it is released, pointed at or in use".to_owned(),
                }),
        );
        Ok(left)
    }
}

/// The id of a new run.
fn new_run() -> anyhow::Result<RunId> {
    Ok(run::id::run_id(
        "bake",
        jiff::Timestamp::now(),
        key::random()?,
    ))
}

/// What is left, by name.
pub(crate) fn names(left: &[Left]) -> String {
    let names: Vec<String> = left
        .iter()
        .map(|left| format!("{} {} ({})", left.thing.kind, left.thing.label(), left.why))
        .collect();
    names.join(", ")
}

fn versions(staging: &Staging) -> String {
    let parts: Vec<String> = staging
        .services
        .iter()
        .map(|(name, digest)| format!("{name}={}", image::short(digest)))
        .collect();
    parts.join(" ")
}
