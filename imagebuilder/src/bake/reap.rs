//! Reaping: finds dead runs and removes what they left.
//!
//! A run of this host is dead when no process holds its lock. A run of another host is known by its tag only, and counts
//! as dead when it is older than a limit. The sweep never removes what is published, pointed at or in use.
//!
//! A removal that is denied is named before the first one, and does not prevent other removals
//! ([`preflight`](run::preflight)). What cannot be listed is reported as such, not as empty.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use contract::tags;
use schemars::JsonSchema;
use serde::Serialize;

use super::sweep::{self, Left};
use crate::packer;
use cloud::ids::{ImageName, RunId};
use cloud::{Answer, Cloud, Search, Tags};
use run::document::Document;
use run::ledger::{Found, Kind, Ledger, State};
use run::output::Output;
use run::permissions::{Verb, needed};
use run::preflight::{self, Findings, Subject};

/// How often we check whether an interrupted Packer has ended.
const POLL: Duration = Duration::from_millis(250);
/// How many checks, half a minute: Packer would wait minutes for its builder to terminate, and the sweep does that as well.
const POLLS: u32 = 120;

/// Whether anything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Remove it.
    Remove,
    /// Only list what would be removed.
    List,
}

/// What was found and done.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Reaped {
    /// Removed, or in a dry run to be removed: kind and id.
    pub(crate) removed: Vec<String>,
    /// Could not be removed, and why.
    pub(crate) left: Vec<String>,
    /// Kinds of which other runs may have left something, which could not be listed, and why.
    pub(crate) unlisted: Vec<String>,
}

impl Document for Reaped {
    const NAME: &'static str = "reap";
}

/// An active reap.
struct Reaping<'a> {
    cloud: &'a Cloud,
    image: &'a ImageName,
    output: &'a Output,
    mode: Mode,
    /// Whether the caller's permissions were checked.
    asked: bool,
    reaped: Reaped,
}

/// Reaps every dead run. `image` is the configured one: IAM is asked for its parameters.
pub(crate) async fn reap(
    cloud: &Cloud,
    image: &ImageName,
    runs: &Path,
    output: &Output,
    mode: Mode,
    older_than: Duration,
) -> anyhow::Result<Reaped> {
    let mut reaping = Reaping {
        cloud,
        image,
        output,
        mode,
        asked: false,
        reaped: Reaped::default(),
    };
    let mut known = Vec::new();
    let foreign = reaping.foreign().await?;
    for found in Ledger::all(runs)? {
        match found {
            Found::Alive(run) => {
                output.info(format!("run {run} is alive: not touched"));
                known.push(run);
            }
            Found::Dead(mut ledger) => {
                known.push(ledger.run().clone());
                let journal = ledger.journal();
                let over = journal.outcome.is_some() && ledger.open_things().is_empty();
                if over || journal.verb == "roll" {
                    continue;
                }
                if journal.region != cloud.region {
                    output.warn(format!(
                        "run {} is of region {}: reap it there",
                        journal.run, journal.region
                    ));
                    continue;
                }
                reaping.one(&mut ledger).await?;
            }
            Found::Unreadable(unreadable) => {
                output.warn(format!(
                    "the ledger of run {} cannot be read, so only what carries its tag is searched for: {}",
                    unreadable.run, unreadable.why
                ));
                known.push(unreadable.run.clone());
                // Its region is not known either: where nothing has its tag, the file stays.
                match foreign.get(&unreadable.run) {
                    None => {}
                    Some(name) if mode == Mode::Remove => {
                        let mut ledger = unreadable.begin_anew("reap", name, &cloud.region)?;
                        reaping.one(&mut ledger).await?;
                    }
                    Some(_) => reaping
                        .reaped
                        .removed
                        .push(format!("what run {} left", unreadable.run)),
                }
            }
        }
    }
    for (run, name) in foreign {
        let age =
            run::id::run_began(&run).map(|began| jiff::Timestamp::now().duration_since(began));
        let old =
            age.is_some_and(|age| age >= jiff::SignedDuration::try_from(older_than).unwrap_or(age));
        if known.contains(&run) {
            continue;
        }
        if !old {
            output.info(format!(
                "run {run} is not of this folder and younger than the limit: not touched"
            ));
            continue;
        }
        let mut ledger = Ledger::begin(runs, run, "reap", &name, &cloud.region)?;
        reaping.one(&mut ledger).await?;
    }
    Ok(reaping.reaped)
}

impl Reaping<'_> {
    /// Reports what the caller may not do, once, before anything is removed.
    async fn ask(&mut self) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        let asking = async {
            let mut findings = Findings::default();
            if let Some(caller) = preflight::caller(self.cloud, &mut findings).await {
                let subject = Subject {
                    image: Some(self.image),
                    ..Subject::default()
                };
                let actions = needed(&[Verb::Reap], &[]);
                let answers = preflight::ask(self.cloud, &caller, &actions, &subject).await;
                findings.permissions(answers, &caller.arn);
            }
            findings
        };
        preflight::in_time(asking).await.warn(self.output);
    }

    /// Reaps a dead run.
    async fn one(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        self.ask().await;
        let Self {
            cloud,
            output,
            mode,
            reaped,
            ..
        } = self;
        let mut step = output.step("reap", format!("dead run {}", ledger.run()));
        if *mode == Mode::List {
            let unlisted = sweep::find(cloud, ledger).await?;
            reaped.left.extend(
                unlisted
                    .into_iter()
                    .map(|unlisted| described(&unlisted.into())),
            );
            let mut open = ledger.open_things();
            open.retain(|thing| thing.id.is_some());
            reaped.removed.extend(
                open.iter()
                    .map(|thing| format!("{} {}", thing.kind, thing.label())),
            );
            step.done(format!("would remove {}", open.len()));
            return Ok(());
        }
        end_packer(ledger, &mut step).await?;
        ledger.undoing();
        let before = ledger
            .journal()
            .things
            .iter()
            .filter(|thing| thing.state == State::Removed)
            .count();
        let left = sweep::sweep(cloud, ledger, &mut step).await?;
        let removed = ledger
            .journal()
            .things
            .iter()
            .filter(|thing| thing.state == State::Removed)
            .skip(before);
        reaped
            .removed
            .extend(removed.map(|thing| format!("{} {}", thing.kind, thing.label())));
        reaped.left.extend(left.iter().map(described));
        if left.is_empty() {
            ledger.end("reaped")?;
            step.done("nothing is left");
        } else {
            step.failed("something is left");
        }
        Ok(())
    }

    /// Runs that left something in the cloud, with their image's name, by tag. A kind that cannot be listed is noted.
    ///
    /// # Errors
    /// When no call would be answered.
    async fn foreign(&mut self) -> anyhow::Result<BTreeMap<RunId, String>> {
        let mut runs = BTreeMap::new();
        let mut note = |tags: &Tags| {
            if let Some(run) = tags
                .get(tags::RUN)
                .and_then(|run| RunId::parse(run.as_str()).ok())
            {
                runs.insert(run, tags.get(tags::IMAGE).cloned().unwrap_or_default());
            }
        };
        let cloud = self.cloud;
        let (instances, images) = (&cloud.instances, &cloud.images);
        for one in self.listed(
            Kind::Instance,
            instances.instances_tagged(tags::RUN, None).await,
        )? {
            note(&one.tags);
        }
        for one in self.listed(
            Kind::KeyPair,
            instances.key_pairs_tagged(tags::RUN, None).await,
        )? {
            note(&one.tags);
        }
        for one in self.listed(
            Kind::SecurityGroup,
            instances.security_groups_tagged(tags::RUN, None).await,
        )? {
            note(&one.tags);
        }
        for one in self.listed(
            Kind::Volume,
            instances.volumes_tagged(tags::RUN, None).await,
        )? {
            note(&one.tags);
        }
        for one in self.listed(
            Kind::NetworkInterface,
            instances.network_interfaces_tagged(tags::RUN, None).await,
        )? {
            note(&one.tags);
        }
        let answer = images.search(&Search::of_any_run()).await;
        let has_images = answer.is_ok();
        let all = self.listed(Kind::Image, answer)?;
        for image in &all {
            if !image.tags.contains_key(tags::VERDICT) {
                note(&image.tags);
            }
        }
        for snapshot in self.listed(
            Kind::Snapshot,
            images.snapshots_tagged(tags::RUN, None).await,
        )? {
            // Without its images it is unknown which snapshots belong to a published one.
            let is_of_one = all
                .iter()
                .any(|image| image.snapshots.contains(&snapshot.id));
            if has_images && !is_of_one {
                note(&snapshot.tags);
            }
        }
        Ok(runs)
    }

    /// A list, or nothing and a note that it could not be read.
    ///
    /// # Errors
    /// When no call would be answered.
    fn listed<T>(&mut self, kind: Kind, answer: Answer<Vec<T>>) -> anyhow::Result<Vec<T>> {
        match answer {
            Ok(all) => Ok(all),
            Err(error) if error.is_of_all_calls() => Err(error.into()),
            Err(error) => {
                self.reaped.unlisted.push(format!("{kind} ({error})"));
                Ok(Vec::new())
            }
        }
    }
}

fn described(Left { thing, why }: &Left) -> String {
    format!("{} {} ({why})", thing.kind, thing.label())
}

/// A killed bake leaves its Packer running: interrupts it, and waits until it has cleaned up.
async fn end_packer(ledger: &Ledger, step: &mut run::output::Step) -> anyhow::Result<()> {
    let mut interrupted = None;
    for _ in 0..POLLS {
        if !ledger.packer_lives()? {
            return Ok(());
        }
        step.waiting("stopping its packer");
        if interrupted.is_none() {
            // It records its process group first; until then there is nothing to interrupt.
            interrupted = packer::group(ledger.folder());
            interrupted.into_iter().for_each(packer::interrupt);
        }
        tokio::time::sleep(POLL).await;
    }
    let group = packer::group(ledger.folder()).context("packer holds its lock and has no group")?;
    packer::kill(group);
    while ledger.packer_lives()? {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
