//! `imagebuilder render`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `render`.
#[derive(Debug, Args)]
pub(crate) struct Render {}

impl Render {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`render` is not built yet").into())
    }
}
