//! `imagebuilder status`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;
use crate::roll::look;
use crate::roll::status::{self, Pointers};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let settings = config.settings()?;
        let cloud = context.cloud(&config).await?;
        let image = &config.image.name;
        let view = look::fleet(&cloud, image, &settings.group).await?;
        let pointers = Pointers::read(&cloud, image).await?;
        if context.output.wants_json() {
            context
                .output
                .json(&status::data(image, &pointers, &view))?;
        } else {
            for line in status::lines(image, &pointers, &view) {
                context.output.data(line)?;
            }
        }
        Ok(Exit::Done)
    }
}
