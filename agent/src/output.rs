//! The only module that writes to stdout: one line per verdict, which the unit also sends to the console, and the
//! output of the subcommands.

use std::io::{self, Write as _};

/// Writes a line. A closed stdout must not stop the daemon, so a failure is only logged.
pub(crate) fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        tracing::debug!("cannot write to stdout: {error}");
    }
}
