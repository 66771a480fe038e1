//! `imagebuilder reap`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `reap`.
#[derive(Debug, Args)]
pub(crate) struct Reap {}

impl Reap {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`reap` is not built yet").into())
    }
}
