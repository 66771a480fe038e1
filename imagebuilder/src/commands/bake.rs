//! `imagebuilder bake`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `bake`.
#[derive(Debug, Args)]
pub(crate) struct Bake {}

impl Bake {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`bake` is not built yet").into())
    }
}
