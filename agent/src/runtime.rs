//! The asynchronous runtime of a subcommand.

use anyhow::{Context as _, Result};

/// One thread is plenty: everything the agent does is waiting.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}
