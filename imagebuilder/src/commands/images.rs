//! `imagebuilder images`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `images`.
#[derive(Debug, Args)]
pub(crate) struct Images {}

impl Images {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`images` is not built yet").into())
    }
}
