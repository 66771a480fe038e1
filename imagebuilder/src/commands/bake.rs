//! `imagebuilder bake`.

use clap::Args;

use crate::bake::{self, PackerBuilder, Release, Reuse};
use crate::channel::session::{Access, ChannelSession};
use crate::context::Context;
use crate::packer::Packer;
use run::exit::Exit;

/// Arguments of `bake`.
///
/// Resolves the source image, renders the Packer template, runs Packer, boots one throwaway instance of the result
/// and publishes it once its agent reports that it is fit. When an image of the very same inputs is published already, that
/// one is printed and nothing is baked.
///
/// An image for several architectures (`arch` as a list) is baked and gated for each, and published for all or for none; a line
/// with architecture and id is printed for each.
#[derive(Debug, Args)]
pub(crate) struct Bake {
    /// Bake even if an image of the same inputs exists.
    #[arg(long)]
    force: bool,
}

impl Bake {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let configs = context.configs()?;
        let config = &configs[0];
        let (cloud, packer) = tokio::join!(context.cloud(config), Packer::find());
        let (cloud, packer) = (
            cloud?,
            packer?.with_environment(context.packer_environment()),
        );
        let channel = match config.channel {
            Some(_) => {
                let session = ChannelSession::open(context, config, Access::Read).await?;
                Some(session.verified().await?)
            }
            None => None,
        };
        let version = packer.version;
        let builder = PackerBuilder {
            packer,
            instances: cloud.instances.clone(),
            identity: cloud.identity.clone(),
        };
        let bakes = configs.iter().map(|config| bake::Bake {
            config,
            root: context.root(),
            runs: context.runs(),
            cloud: &cloud,
            packer: version,
            builder: &builder,
            output: &context.output,
            cancel: &context.cancel,
            reuse: if self.force {
                Reuse::Never
            } else {
                Reuse::Allowed
            },
            channel: channel.as_ref(),
        });
        let bakes: Vec<_> = bakes.collect();
        if let [bake] = &bakes[..] {
            let baked = bake.run().await?;
            if context.output.wants_json() {
                context.output.json(&baked)?;
            } else {
                context.output.data(baked.image.as_str())?;
            }
        } else {
            let baked = Release { bakes }.run().await?;
            if context.output.wants_json() {
                context.output.json_list(&baked)?;
            } else {
                for one in &baked {
                    context
                        .output
                        .data(format!("{} {}", one.architecture, one.image))?;
                }
            }
        }
        Ok(Exit::Done)
    }
}
