//! `imagebuilder bake`.

use clap::Args;

use crate::bake::{self, PackerBuilder, Reuse};
use crate::channel::session::{Access, ChannelSession};
use crate::context::Context;
use crate::packer::Packer;
use run::exit::Exit;

/// Arguments of `bake`.
///
/// Resolves the source image, renders the Packer template, runs Packer, boots one throwaway instance of the result
/// and publishes it once its agent reports that it is fit. When an image of the very same inputs is published already, that
/// one is printed and nothing is baked.
#[derive(Debug, Args)]
pub(crate) struct Bake {
    /// Bake even if an image of the same inputs exists.
    #[arg(long)]
    force: bool,
}

impl Bake {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let (cloud, packer) = tokio::join!(context.cloud(&config), Packer::find());
        let (cloud, packer) = (cloud?, packer?);
        let channel = match config.channel {
            Some(_) => {
                let session = ChannelSession::open(context, &config, Access::Read).await?;
                Some(session.verified().await?)
            }
            None => None,
        };
        let bake = bake::Bake {
            config: &config,
            root: context.root(),
            runs: context.runs(),
            cloud: &cloud,
            packer: packer.version,
            builder: &PackerBuilder {
                packer,
                instances: cloud.instances.clone(),
                identity: cloud.identity.clone(),
            },
            output: &context.output,
            cancel: &context.cancel,
            reuse: if self.force {
                Reuse::Never
            } else {
                Reuse::Allowed
            },
            channel: channel.as_ref(),
        };
        let baked = bake.run().await?;
        if context.output.wants_json() {
            context.output.json(&baked)?;
        } else {
            context.output.data(baked.image.as_str())?;
        }
        Ok(Exit::Done)
    }
}
