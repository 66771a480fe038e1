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

use super::lane::catch_up;
use super::sweep::{self, Left};
use crate::cloud::{Cloud, Search, Tags};
use crate::ids::RunId;
use crate::image;
use crate::ledger::{Found, Ledger, State};
use crate::output::Output;
use crate::packer;

/// How often we look whether an interrupted Packer has ended.
const LOOK: Duration = Duration::from_millis(250);
/// How many looks: Packer waits for its builder to terminate, which takes minutes on EC2.
const LOOKS: u32 = 2400;

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
        }
    }
    for (run, name) in foreign(cloud).await? {
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
    catch_up(ledger)?;
    if mode == Mode::Tell {
        sweep::find_by_tag(cloud, ledger).await?;
        let open = ledger.open_things();
        reaped.removed.extend(
            open.iter()
                .map(|thing| format!("{} {}", thing.kind, thing.label())),
        );
        step.done(format!("would remove {}", open.len()));
        return Ok(());
    }
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
    for Left { thing, why } in &left {
        reaped
            .left
            .push(format!("{} {} ({why})", thing.kind, thing.label()));
    }
    if left.is_empty() {
        ledger.end("reaped")?;
        step.done("nothing is left");
    } else {
        step.failed("something is left");
    }
    Ok(())
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

/// Runs that left something in the cloud, with their image's name, by tag.
async fn foreign(cloud: &Cloud) -> anyhow::Result<BTreeMap<RunId, String>> {
    let mut runs = BTreeMap::new();
    let mut note = |tags: &Tags| {
        if let Some(run) = tags
            .get(tags::RUN)
            .and_then(|run| RunId::parse(run.as_str()).ok())
        {
            runs.insert(run, tags.get(tags::IMAGE).cloned().unwrap_or_default());
        }
    };
    for instance in cloud.instances.instances_tagged(tags::RUN, None).await? {
        note(&instance.tags);
    }
    for pair in cloud.instances.key_pairs("tag-key", tags::RUN).await? {
        note(&pair.tags);
    }
    for group in cloud
        .instances
        .security_groups("tag-key", tags::RUN)
        .await?
    {
        note(&group.tags);
    }
    let own = Search {
        owners: vec!["self".into()],
        ..Search::default()
    };
    let images = cloud.images.search(&own.and("tag-key", tags::RUN)).await?;
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
