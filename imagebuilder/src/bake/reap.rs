//! Reaping: finds the runs that died and removes what they left.
//!
//! A run of this host is dead when nobody holds its lock. A run of another host is known by its tag only, and counts
//! as dead when it is older than a limit. What is published, pointed at or in use is never taken: the sweep sees to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use contract::tags;
use serde::Serialize;

use super::sweep::{self, Left};
use crate::cloud::{Cloud, CloudError, Search, Tags};
use crate::ids::RunId;
use crate::image;
use crate::ledger::{Found, Ledger, State};
use crate::output::Output;
use crate::packer;

/// How often we look whether an interrupted Packer has ended.
const LOOK: Duration = Duration::from_millis(250);
/// How many looks, half a minute: Packer would wait minutes for its builder to terminate, and the sweep does that as well.
const LOOKS: u32 = 120;

/// Whether anything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Remove it.
    Remove,
    /// Only tell what would be removed.
    Tell,
}

/// What was found and done.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reaped {
    /// Removed, or in a dry run to be removed: kind and id.
    pub(crate) removed: Vec<String>,
    /// Could not be removed, and why.
    pub(crate) left: Vec<String>,
}

/// Reaps every dead run.
pub(crate) async fn reap(
    cloud: &Cloud,
    runs: &Path,
    output: &Output,
    mode: Mode,
    older_than: Duration,
) -> anyhow::Result<Reaped> {
    let mut reaped = Reaped::default();
    let mut known = Vec::new();
    let foreign = foreign(cloud, output).await?;
    for found in Ledger::all(runs)? {
        match found {
            Found::Alive(run) => {
                output.say(format!("run {run} is alive: left alone"));
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
                one(cloud, &mut ledger, output, mode, &mut reaped).await?;
            }
            Found::Unreadable(unreadable) => {
                output.warn(format!(
                    "the ledger of run {} cannot be read, so only what carries its tag is looked for: {}",
                    unreadable.run, unreadable.why
                ));
                known.push(unreadable.run.clone());
                // Of which region it was is not known either: where nothing has its tag, the file stays.
                match foreign.get(&unreadable.run) {
                    None => {}
                    Some(name) if mode == Mode::Remove => {
                        let mut ledger = unreadable.begin_anew("reap", name, &cloud.region)?;
                        one(cloud, &mut ledger, output, mode, &mut reaped).await?;
                    }
                    Some(_) => reaped
                        .removed
                        .push(format!("what run {} left", unreadable.run)),
                }
            }
        }
    }
    for (run, name) in foreign {
        let age = image::run_began(&run).map(|began| jiff::Timestamp::now().duration_since(began));
        let old =
            age.is_some_and(|age| age >= jiff::SignedDuration::try_from(older_than).unwrap_or(age));
        if known.contains(&run) {
            continue;
        }
        if !old {
            output.say(format!(
                "run {run} is not of this folder and younger than the limit: left alone"
            ));
            continue;
        }
        let mut ledger = Ledger::begin(runs, run, "reap", &name, &cloud.region)?;
        one(cloud, &mut ledger, output, mode, &mut reaped).await?;
    }
    Ok(reaped)
}

async fn one(
    cloud: &Cloud,
    ledger: &mut Ledger,
    output: &Output,
    mode: Mode,
    reaped: &mut Reaped,
) -> anyhow::Result<()> {
    let mut step = output.step("reap", format!("dead run {}", ledger.run()));
    if mode == Mode::Remove {
        end_packer(ledger, &mut step).await?;
    }
    if mode == Mode::Tell {
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
    ledger.undoing();
    let before = ledger
        .journal()
        .things
        .iter()
        .filter(|thing| thing.state == State::Gone)
        .count();
    let left = sweep::sweep(cloud, ledger, &mut step).await?;
    let gone = ledger
        .journal()
        .things
        .iter()
        .filter(|thing| thing.state == State::Gone)
        .skip(before);
    reaped
        .removed
        .extend(gone.map(|thing| format!("{} {}", thing.kind, thing.label())));
    reaped.left.extend(left.iter().map(described));
    if left.is_empty() {
        ledger.end("reaped")?;
        step.done("nothing is left");
    } else {
        step.failed("something is left");
    }
    Ok(())
}

fn described(Left { thing, why }: &Left) -> String {
    format!("{} {} ({why})", thing.kind, thing.label())
}

/// A killed bake does not take its Packer along: asks it to stop, and waits until it cleaned up after itself.
async fn end_packer(ledger: &Ledger, step: &mut crate::output::Step) -> anyhow::Result<()> {
    let mut interrupted = None;
    for _ in 0..LOOKS {
        if !ledger.packer_lives()? {
            return Ok(());
        }
        step.waiting("stopping its packer");
        if interrupted.is_none() {
            // It writes its group down as its first act; until then there is nothing to interrupt.
            interrupted = packer::group(ledger.folder());
            interrupted.into_iter().for_each(packer::interrupt);
        }
        tokio::time::sleep(LOOK).await;
    }
    let group = packer::group(ledger.folder()).context("packer holds its lock and has no group")?;
    packer::kill(group);
    while ledger.packer_lives()? {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Runs that left something in the cloud, with their image's name, by tag. What cannot be listed is named.
async fn foreign(cloud: &Cloud, output: &Output) -> anyhow::Result<BTreeMap<RunId, String>> {
    let mut runs = BTreeMap::new();
    let mut note = |tags: &Tags| {
        if let Some(run) = tags
            .get(tags::RUN)
            .and_then(|run| RunId::parse(run.as_str()).ok())
        {
            runs.insert(run, tags.get(tags::IMAGE).cloned().unwrap_or_default());
        }
    };
    let instances = &cloud.instances;
    for instance in instances.instances_tagged(tags::RUN, None).await? {
        note(&instance.tags);
    }
    for pair in instances.key_pairs_tagged(tags::RUN, None).await? {
        note(&pair.tags);
    }
    for group in instances.security_groups_tagged(tags::RUN, None).await? {
        note(&group.tags);
    }
    let may = |error: CloudError| {
        output.warn(format!("what other runs left cannot all be found: {error}"));
    };
    match instances.volumes_tagged(tags::RUN, None).await {
        Ok(volumes) => volumes.iter().for_each(|volume| note(&volume.tags)),
        Err(error) => may(error),
    }
    match instances.network_interfaces_tagged(tags::RUN, None).await {
        Ok(interfaces) => interfaces.iter().for_each(|one| note(&one.tags)),
        Err(error) => may(error),
    }
    let images = cloud.images.search(&Search::of_any_run()).await?;
    for image in images
        .iter()
        .filter(|image| !image.tags.contains_key(tags::VERDICT))
    {
        note(&image.tags);
    }
    for snapshot in cloud.images.snapshots_tagged(tags::RUN, None).await? {
        if !images
            .iter()
            .any(|image| image.snapshots.contains(&snapshot.id))
        {
            note(&snapshot.tags);
        }
    }
    Ok(runs)
}
