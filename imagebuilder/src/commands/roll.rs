//! `imagebuilder roll`.

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `roll`.
#[derive(Debug, Args)]
pub(crate) struct Roll {}

impl Roll {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Exit::Unexpected.error("`roll` is not built yet").into())
    }
}
