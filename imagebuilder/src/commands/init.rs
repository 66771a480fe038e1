//! `imagebuilder init`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {}

impl Init {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`init` is not built yet").into())
    }
}
