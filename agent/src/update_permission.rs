//! The updater's request to restart the daemon, and the daemon's answer.
//!
//! The updater has no credentials and cannot read the group, so before it starts a trial it requests permission with
//! `asks_leave_since` in its own status file; the daemon answers with [`PermissionAnswer`] in its own. Nothing is
//! kept: an answer is for the current request, and a request that is not withdrawn expires.
//!
//! This module decides; [`crate::run`] reads the file and calls the group.

use std::time::{Duration, Instant};

use agent_update::PermissionAnswer;
use jiff::{SignedDuration, Timestamp};

use crate::lifecycle::{NoAnswer, Readiness};

#[cfg(test)]
mod tests;

/// Interval between reads of the updater's status file, which is small and in memory.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Least time between two calls to the group: the instances of a fleet share the account's quota.
const ASK_SPACING: Duration = Duration::from_secs(60);

/// A request older than this (or from a clock that is this far ahead) is left over from an earlier run: an updater
/// waits one minute for its answer.
const OUT_OF_DATE: SignedDuration = SignedDuration::from_secs(300);

/// Since when the updater requests permission; a status file that cannot be parsed requests nothing.
///
/// Only this field is parsed, so that a file of any other version is understood.
pub(crate) fn requested_since(status: &str) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Status {
        #[serde(default)]
        asks_leave_since: Option<Timestamp>,
    }
    let status = serde_json::from_str::<Status>(status);
    status.ok().and_then(|status| status.asks_leave_since)
}

/// The group's active instance refreshes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refreshes {
    /// None is active.
    None,
    /// This one is active.
    Active(String),
    /// Not known.
    Unknown,
}

/// The query that the caller makes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefreshQuery {
    /// The group.
    pub(crate) group: String,
}

/// The current request and its answer.
#[derive(Debug, Default)]
pub(crate) struct UpdatePermission {
    request: Option<Timestamp>,
    answer: Option<PermissionAnswer>,
    asked: Option<(Instant, String)>,
    refreshes: Option<Refreshes>,
}

impl UpdatePermission {
    /// Stores the request of the updater's status file.
    pub(crate) fn set_request(&mut self, request: Option<Timestamp>) {
        self.request = request;
    }

    /// Stores the group's answer: the id of the active refresh, if there is one.
    pub(crate) fn refreshes_seen(&mut self, refreshes: Result<Option<String>, NoAnswer>) {
        self.refreshes = Some(match refreshes {
            Ok(None) => Refreshes::None,
            Ok(Some(refresh)) => Refreshes::Active(refresh),
            Err(NoAnswer) => Refreshes::Unknown,
        });
    }

    /// The answer; `None` while there is no request or no answer yet.
    pub(crate) fn answer(&self) -> Option<&PermissionAnswer> {
        self.answer.as_ref()
    }

    /// Answers the request, or returns the query that is needed first. `now` and `clock` are the same moment.
    pub(crate) fn consider(
        &mut self,
        readiness: Readiness,
        group: Option<&str>,
        now: Instant,
        clock: Timestamp,
    ) -> Option<RefreshQuery> {
        let request = self
            .request
            .filter(|request| clock.duration_since(*request).abs() <= OUT_OF_DATE);
        let Some(request) = request else {
            self.answer = None;
            return None;
        };
        let verdict = match (readiness, group) {
            (Readiness::NotKnown, _) => return None,
            (Readiness::Busy(reason), _) => Err(reason),
            (Readiness::Settled, None) => Ok(()),
            (Readiness::Settled, Some(group)) => {
                let current = self.asked.as_ref().is_some_and(|(when, asked)| {
                    asked == group && now.duration_since(*when) < ASK_SPACING
                });
                if !current {
                    self.asked = Some((now, group.to_owned()));
                    self.refreshes = None;
                    return Some(RefreshQuery {
                        group: group.to_owned(),
                    });
                }
                match &self.refreshes {
                    None => return None,
                    Some(Refreshes::None) => Ok(()),
                    Some(Refreshes::Active(refresh)) => {
                        Err(format!("refresh {refresh} of group {group} is under way"))
                    }
                    Some(Refreshes::Unknown) => Err(format!(
                        "cannot read whether group {group} is being refreshed"
                    )),
                }
            }
        };
        let (granted, reason) = match verdict {
            Ok(()) => (true, String::new()),
            Err(reason) => (false, reason),
        };
        let unchanged = self
            .answer
            .as_ref()
            .is_some_and(|old| old.granted == granted && old.reason == reason && old.at >= request);
        if !unchanged {
            if granted {
                tracing::info!("the updater may restart this daemon");
            } else {
                tracing::info!("the updater may not restart this daemon now: {reason}");
            }
            self.answer = Some(PermissionAnswer {
                granted,
                reason,
                at: clock,
            });
        }
        None
    }
}
