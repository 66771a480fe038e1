//! `imagebuilder status`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`status` is not built yet").into())
    }
}
