//! The one place that writes to stdout: a line per verdict, which the unit also sends to the
//! console, and what `status` was asked for.

use std::io::{self, Write as _};

/// Writes a line, best effort: nobody listening is no reason to stop judging.
pub(crate) fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        tracing::debug!("cannot write to stdout: {error}");
    }
}
