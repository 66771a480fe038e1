//! `imagebuilder doctor`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`doctor` is not built yet").into())
    }
}
