//! `[drain]`: how long an instance drains, and what is asked meanwhile. Keys and limits are in [`contract::drain`].

use std::time::Duration;

use anyhow::Result;
use hyper::Uri;

use super::refused;

pub(crate) use contract::drain::OnFailure;

/// The drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Least time between the start of the drain and the answer to the termination hook.
    pub(crate) settle: Duration,
    /// Longest time of the drain, even if something remains to be done.
    pub(crate) deadline: Duration,
    /// Pause between two questions whether the services are busy; `None`: nothing is asked.
    pub(crate) poll: Option<Duration>,
    /// How the termination hook is answered after the deadline.
    pub(crate) on_failure: OnFailure,
}

/// How the services are asked whether they are still busy.
#[derive(Clone, Debug)]
pub(crate) struct DrainCheck {
    /// What is done.
    pub(crate) kind: DrainCheckKind,
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// What is done to learn whether the services are still busy.
#[derive(Clone, Debug)]
pub(crate) enum DrainCheckKind {
    /// One GET by plain HTTP.
    Url(Uri),
    /// Run a program.
    Command(Vec<String>),
}

/// The drain of a table, and its check if it has one.
pub(super) fn validate(table: contract::drain::Drain) -> Result<(Drain, Option<DrainCheck>)> {
    let findings = table.findings();
    if let Some(first) = findings.first() {
        let lines = findings
            .iter()
            .map(|finding| format!("drain.{}: {}", finding.key, finding.problem));
        let hint = match first.hint {
            "" => String::new(),
            hint => format!("\nhint: {hint}"),
        };
        return refused(lines.collect::<Vec<_>>().join("\n") + &hint);
    }
    let drain = Drain {
        settle: table.settle(),
        deadline: table.deadline(),
        poll: table.polls().then(|| table.interval()),
        on_failure: table.on_failure.unwrap_or(OnFailure::Continue),
    };
    let timeout = table.timeout();
    let kind = match (table.url, table.command) {
        (Some(url), _) => match url.parse() {
            Ok(url) => Some(DrainCheckKind::Url(url)),
            Err(_) => return refused("drain.url: not a URL"),
        },
        (None, Some(command)) => Some(DrainCheckKind::Command(command)),
        (None, None) => None,
    };
    Ok((drain, kind.map(|kind| DrainCheck { kind, timeout })))
}
