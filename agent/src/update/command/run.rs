//! `update run | repair | probe`: the subcommands that systemd and an attempt start.
//!
//! It builds the adapters and returns the exit code; [`crate::update::attempt`] does the work.

use std::path::Path;

use anyhow::{Context, Result};
use async_trait::async_trait;
use jiff::Timestamp;

use super::RunArgs;
use crate::exit::Exit;
use crate::output;
use crate::update::attempt::{self, Adapters, Ended, StatusReader, System, UpdatePolicy};
use crate::update::channel::{Catalogue, Channel, Offer, Place, TufChannel};
use crate::update::phases::Outcome;
use crate::update::plan::Windows;
use crate::update::probe::{self, Scratch, SelfTest};
use crate::update::refusal::{Cause, Refusal};
use crate::update::slots::{Layout, Slots};
use crate::update::state::Store;
use crate::update::status::UpdaterStatusFile;
use crate::update::subscription::{Subject, Subscription, machine_name};
use crate::update::systemd::{Systemctl, boot_id};

/// Directory of the channel's metadata, in the updater's state directory.
const METADATA: &str = "tuf";

/// Directory of a self-test's copy of it, in the updater's runtime directory.
const SCRATCH: &str = "probe";

/// Directory of the tree that a release's other verbs run in, in the updater's runtime directory.
const VERBS: &str = "verbs";

/// `update run`.
pub(super) async fn run(layout: Layout, root: &Path, args: RunArgs) -> Result<Exit> {
    let named = args.sources.arguments();
    let sources = args.sources.into_sources();
    let subject = sources.subject(&args.place.configured_dir)?;
    let Some(terms) = subject.subscription else {
        tracing::info!("this instance follows no channel");
        return Ok(Exit::Done);
    };
    let channel = open(&terms, &layout);
    let policy = UpdatePolicy {
        instance_id: subject.instance_id,
        channel: terms.channel,
        windows: terms.windows,
        soak: terms.soak,
    };
    // If the settings cannot be read now, the verbs fail by themselves.
    let unit = sources
        .image_units()
        .ok()
        .and_then(|units| units.into_iter().next());
    let verbs = layout.run.join(VERBS);
    let mut adapters = adapters(policy, channel, layout, root, &args.daemon_dir)?;
    adapters.probe = Box::new(self_test(root).exercising(&verbs, named, unit));
    let ended = attempt::run(adapters).await?;
    Ok(match &ended {
        it if it.is_well() => Exit::Done,
        Ended::With(Outcome::Failed { .. }) => Exit::Skipped,
        _ => Exit::Postponed,
    })
}

/// `update repair`: depends on nothing that may be invalid itself, such as the settings.
pub(super) async fn repair(layout: Layout, root: &Path, args: RunArgs) -> Result<Exit> {
    let store = Store::new(&layout.state);
    let instance_id = match Subject::read(&args.place.configured_dir) {
        Some(subject) => subject.instance_id,
        // Without it the state cannot be recognised as another instance's.
        None => match store.owner() {
            Some(owner) => owner,
            None => machine_name()?,
        },
    };
    let policy = UpdatePolicy {
        instance_id,
        channel: String::new(),
        windows: Windows::default(),
        soak: std::time::Duration::ZERO,
    };
    let closed = Box::new(Closed(Refusal {
        cause: Cause::NoRoot,
        detail: "a repair reads no channel".to_owned(),
    }));
    let adapters = adapters(policy, closed, layout, root, &args.daemon_dir)?;
    let repaired = attempt::repair(adapters).await?;
    output::line(&format!("stable is {repaired}"));
    Ok(Exit::Done)
}

/// `update probe`: whether this binary could update this instance again.
pub(super) async fn probe(layout: Layout, args: RunArgs) -> Result<Exit> {
    let subject = args
        .sources
        .into_sources()
        .subject(&args.place.configured_dir)?;
    let terms = subject
        .subscription
        .context("the settings have no channel")?;
    let at = layout.run.join(SCRATCH);
    let _scratch = Scratch::new(&at);
    probe::copy(&layout.state.join(METADATA), &at.join(METADATA))?;
    let copied = Layout {
        state: at,
        ..layout.clone()
    };
    let mut channel = open(&terms, &copied);
    probe::test(channel.as_mut(), &layout, Timestamp::now()).await?;
    output::line(&probe::passed(crate::version::version()));
    Ok(Exit::Done)
}

fn adapters(
    policy: UpdatePolicy,
    channel: Box<dyn Channel>,
    layout: Layout,
    root: &Path,
    daemon_dir: &Path,
) -> Result<Adapters> {
    Ok(Adapters {
        policy,
        channel,
        store: Store::new(&layout.state).also_called(machine_name().ok()),
        status_file: UpdaterStatusFile::new(&layout.run),
        units: Box::new(Systemctl::default()),
        probe: Box::new(self_test(root)),
        daemon: Box::new(StatusReader::new(daemon_dir)),
        clock: Box::new(System),
        boot: boot_id()?,
        slots: Slots::new(layout),
    })
}

fn self_test(root: &Path) -> SelfTest {
    // A self-test inherits the environment, which may set further directories.
    SelfTest::with(if root == Path::new("/") {
        Vec::new()
    } else {
        vec!["--root".into(), root.into()]
    })
}

/// The channel. One that cannot be opened refuses every check, so that the run still does everything else.
fn open(terms: &Subscription, layout: &Layout) -> Box<dyn Channel> {
    let mut place = Place::new(&terms.url, &layout.channel, &layout.state.join(METADATA));
    place.ca_file.clone_from(&terms.ca_file);
    place.plain_http = terms.plain_http;
    match TufChannel::open(&place) {
        Ok(channel) => Box::new(channel),
        Err(refusal) => Box::new(Closed(refusal)),
    }
}

/// A channel that could not be opened.
struct Closed(Refusal);

#[async_trait]
impl Channel for Closed {
    async fn refresh(&mut self, _now: Timestamp) -> Result<Catalogue, Refusal> {
        Err(self.0.clone())
    }

    async fn fetch(&mut self, _offer: &Offer, _part: &Path) -> Result<(), Refusal> {
        Err(self.0.clone())
    }
}
