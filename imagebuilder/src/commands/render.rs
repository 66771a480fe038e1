//! `imagebuilder render`.

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{Arch, one_of};
use crate::context::Context;
use crate::packer::Version;
use crate::staging::{Staging, TEMPLATE};
use crate::template::Facts;
use cloud::ids::ImageId;
use run::document::Document;
use run::exit::Exit;

/// The placeholder for the source image, which only the cloud knows.
const UNRESOLVED: &str = "ami-00000000000000000";
/// The placeholder for the names that a run would choose.
const UNNAMED: &str = "render";

/// Arguments of `render`.
///
/// Works offline: what depends on the cloud or a run is shown as a placeholder. A folder written with --to has a
/// key of its own, so that `packer validate` accepts it as it is.
#[derive(Debug, Args)]
pub(crate) struct Render {
    /// Write the content of a run folder to FOLDER, instead of printing the Packer template.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Packer release to render for.
    #[arg(long, value_name = "VERSION", default_value = "1.6.6")]
    packer: String,
    /// Architecture to render for, when the image is released for several.
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Source image id to render with.
    #[arg(long, value_name = "AMI", default_value = UNRESOLVED)]
    source_ami: ImageId,
}

/// What was rendered.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Rendered {
    /// Without --to.
    Template {
        /// The Packer template, as text.
        template: String,
    },
    /// With --to.
    File {
        /// The Packer template's path.
        file: String,
    },
}

impl Document for Rendered {
    const NAME: &'static str = "render";
}

impl Render {
    #[expect(clippy::unused_async, reason = "verbs share one signature")]
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = one_of(context.configs()?, self.arch)?;
        let Some(packer) = Version::parse(&self.packer) else {
            return Err(Exit::Usage
                .error(format!("`{}` is not a release like 1.6.6", self.packer))
                .into());
        };
        let staging = Staging::gather(&config, &context.root(), config.bake.region.as_deref())?;
        let facts = Facts {
            region: config
                .bake
                .region
                .clone()
                .unwrap_or_else(|| UNNAMED.to_owned()),
            ami_name: format!("{}-{UNNAMED}", config.image.name),
            plugins: packer.has_plugins(),
            scripts: staging.scripts(),
            key_name: UNNAMED.to_owned(),
            ..Facts::of_no_bake(self.source_ami)
        };
        let template = staging.packer(&config, &facts)?;
        match &self.to {
            None if context.output.wants_json() => {
                context.output.json(&Rendered::Template { template })?
            }
            None => context.output.data(template.trim_end())?,
            Some(folder) => {
                let image_json = serde_json::json!({ "image": config.image.name });
                staging.write(folder, &template, &image_json)?;
                let public_key = crate::bake::key::write(folder)?;
                crate::staging::write(&folder.join("key.pub"), public_key.as_bytes(), 0o644)?;
                let at = folder.join(TEMPLATE).display().to_string();
                if context.output.wants_json() {
                    context.output.json(&Rendered::File { file: at })?;
                } else {
                    context.output.data(at)?;
                }
            }
        }
        Ok(Exit::Done)
    }
}
