//! `imagebuilder roll`, `roll watch` and `roll rollback`.

use clap::{Args, Subcommand};

use crate::config::{Arch, Config};
use crate::context::Context;
use cloud::Cloud;
use cloud::ids::ImageId;
use roll::RollContext;
use roll::architecture::of_group;
use roll::plan::Consent;
use roll::settings::Settings;
use roll::smoke::Processes;
use roll::verbs::{self, Busy, Extent, Request};
use run::exit::Exit;

/// Arguments of `roll`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Roll {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Image to roll onto [default: the pointer `candidate`].
    #[arg(value_name = "AMI")]
    image: Option<ImageId>,
    #[command(flatten)]
    start_args: StartArgs,
    /// Wait for an active refresh to finish instead of failing.
    #[arg(long, conflicts_with = "adopt")]
    wait: bool,
    /// Watch an active refresh to the same image as if this run had started it, instead of failing.
    #[arg(long)]
    adopt: bool,
    /// Roll an image that has no gate verdict `fit`.
    #[arg(long)]
    accept_unproven: bool,
}

/// The subcommands of `roll`.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch the active refresh, or report how the last one ended.
    Watch,
    /// Roll the fleet back to the previous version.
    Rollback(StartArgs),
}

/// Options of everything that starts a refresh.
#[derive(Debug, Args)]
struct StartArgs {
    /// Print the plan and stop.
    #[arg(long)]
    dry_run: bool,
    /// Save the group on the version number its members run before starting, so that it can be rolled back.
    #[arg(long)]
    pin_first: bool,
    /// Roll even if the roll cannot be rolled back.
    #[arg(long)]
    accept_irreversible: bool,
    /// Roll without a health gate (launch hook or ELB health check).
    #[arg(long)]
    no_gate: bool,
}

impl StartArgs {
    fn request(&self) -> Request {
        let consents = [
            (self.pin_first, Consent::PinFirst),
            (self.accept_irreversible, Consent::Irreversible),
            (self.no_gate, Consent::NoGate),
        ];
        Request {
            image: None,
            consents: consents
                .into_iter()
                .filter_map(|(given, consent)| given.then_some(consent))
                .collect(),
            busy: Busy::Refuse,
            extent: if self.dry_run {
                Extent::Plan
            } else {
                Extent::Whole
            },
        }
    }
}

impl Roll {
    fn request(&self) -> Request {
        let mut request = self.start_args.request();
        request.image.clone_from(&self.image);
        request
            .consents
            .extend(self.accept_unproven.then_some(Consent::Unproven));
        request.busy = match (self.wait, self.adopt) {
            (true, _) => Busy::Wait,
            (_, true) => Busy::Adopt,
            (false, false) => Busy::Refuse,
        };
        request
    }

    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let settings = config.settings()?;
        let cloud = context.cloud(&config).await?;
        let arch = architecture(&config, &cloud, &settings).await?;
        let roll = RollContext {
            cloud: &cloud,
            image: &config.image.name,
            arch,
            settings: &settings,
            output: &context.output,
            cancel: &context.cancel,
            smoke: &Processes,
        };
        let runs = context.runs();
        match &self.verb {
            None => verbs::roll(&roll, &self.request(), &runs).await,
            Some(Verb::Watch) => verbs::watch(&roll, &runs).await,
            Some(Verb::Rollback(start_args)) => {
                verbs::rollback(&roll, &start_args.request(), &runs).await
            }
        }
    }
}

/// The architecture of the fleet's instances, when the image is released for several.
pub(super) async fn architecture(
    config: &Config,
    cloud: &Cloud,
    settings: &Settings,
) -> anyhow::Result<Option<Arch>> {
    if !config.several() {
        return Ok(None);
    }
    let arch = of_group(cloud, &settings.group, &config.released).await?;
    Ok(Some(arch))
}
