//! Asks the services whether they are still busy, while the instance drains: one GET, or one run of a program.
//!
//! It reports the answer; [`crate::lifecycle`] decides what follows.

use std::time::Duration;

use contract::drain::EXIT_BUSY;
use hyper::{StatusCode, Uri};
use support::text;

use super::{exec, http};
use crate::settings::{DrainCheck, DrainCheckKind, HttpCheck};

/// What the services answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainAnswer {
    /// Nothing is left to be done.
    Done,
    /// Something is.
    Busy,
    /// Neither of the two.
    Unclear {
        /// What it was instead.
        kind: Unclear,
        /// The same for messages, in one line.
        detail: String,
    },
}

/// What is no answer. Each kind is logged once in a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unclear {
    /// No answer within the time limit.
    Late,
    /// No connection, no HTTP, or a program that cannot be run.
    Failed,
    /// Another status code.
    Status(u16),
    /// Another exit code.
    Exit(i32),
    /// A program that a signal ended.
    Killed,
}

impl DrainAnswer {
    fn unclear(kind: Unclear, detail: &str) -> Self {
        Self::Unclear {
            kind,
            detail: text::line(detail, text::REASON),
        }
    }
}

/// Asks once, within the check's time limit.
pub(super) async fn ask(check: &DrainCheck) -> DrainAnswer {
    let answer = async {
        match &check.kind {
            DrainCheckKind::Url(uri) => get(uri).await,
            DrainCheckKind::Command(command) => run(command).await,
        }
    };
    match tokio::time::timeout(check.timeout, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => DrainAnswer::unclear(Unclear::Failed, &format!("{error:#}")),
        Err(_) => late(check.timeout),
    }
}

fn late(limit: Duration) -> DrainAnswer {
    let detail = format!("no answer within {:.1} s", limit.as_secs_f32());
    DrainAnswer::unclear(Unclear::Late, &detail)
}

async fn get(uri: &Uri) -> anyhow::Result<DrainAnswer> {
    let status = http::get(&HttpCheck::plain(uri.clone())).await?.status();
    Ok(match status {
        StatusCode::NO_CONTENT => DrainAnswer::Done,
        StatusCode::OK => DrainAnswer::Busy,
        status => DrainAnswer::unclear(
            Unclear::Status(status.as_u16()),
            &format!(
                "{} answered {status}, which is neither 204 nor 200",
                uri.path()
            ),
        ),
    })
}

async fn run(command: &[String]) -> anyhow::Result<DrainAnswer> {
    let ended = exec::run(command).await?;
    let kind = match ended.status.code() {
        Some(0) => return Ok(DrainAnswer::Done),
        Some(EXIT_BUSY) => return Ok(DrainAnswer::Busy),
        Some(code) => Unclear::Exit(code),
        None => Unclear::Killed,
    };
    let program = command.first().map_or("", String::as_str);
    Ok(DrainAnswer::unclear(
        kind,
        &format!("{program} {}", ended.describe()),
    ))
}

#[cfg(test)]
mod tests;
