//! The updater's wish to restart the daemon, and the daemon's answer.
//!
//! The updater holds no credentials and knows nothing of the group, so before it arms a trial it asks,
//! by `asks_leave_since` in its own standing; the daemon answers with [`PermissionAnswer`] in its. Nothing is
//! latched: an answer is for the wish of that moment, and a wish that nobody withdrew goes out of date.
//!
//! This module decides and keeps what it was told; [`crate::run`] reads the file and asks the group.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::lifecycle::{NoAnswer, Readiness};
use crate::status_file::PermissionAnswer;

#[cfg(test)]
mod tests;

/// How often the updater's standing is looked at: a read of a small file in memory.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Between two questions to the group: one fleet's instances share the account's quota of calls.
const ASK_SPACING: Duration = Duration::from_secs(60);

/// A wish older than this (or from a clock so far ahead) is one that an updater left behind: it waits
/// one minute for its answer.
const OUT_OF_DATE: SignedDuration = SignedDuration::from_secs(300);

/// What the updater wishes, by its standing; a standing that cannot be read wishes nothing.
///
/// Only the one field is read, so that a standing of another version, strange in all else, is understood.
pub(crate) fn requested_since(status: &str) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Status {
        #[serde(default)]
        asks_leave_since: Option<Timestamp>,
    }
    let status = serde_json::from_str::<Status>(status);
    status.ok().and_then(|status| status.asks_leave_since)
}

/// What the group said of its instance refreshes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refreshes {
    /// None is under way.
    None,
    /// This one is.
    Active(String),
    /// It did not say.
    Unknown,
}

/// What is to be asked of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefreshQuery {
    /// The group.
    pub(crate) group: String,
}

/// Where wishes come in and answers go out.
#[derive(Debug, Default)]
pub(crate) struct UpdatePermission {
    request: Option<Timestamp>,
    answer: Option<PermissionAnswer>,
    asked: Option<(Instant, String)>,
    refreshes: Option<Refreshes>,
}

impl UpdatePermission {
    /// What the updater's standing says now.
    pub(crate) fn set_request(&mut self, request: Option<Timestamp>) {
        self.request = request;
    }

    /// What the group answered: the id of the refresh that is under way, if one is.
    pub(crate) fn refreshes_seen(&mut self, refreshes: Result<Option<String>, NoAnswer>) {
        self.refreshes = Some(match refreshes {
            Ok(None) => Refreshes::None,
            Ok(Some(refresh)) => Refreshes::Active(refresh),
            Err(NoAnswer) => Refreshes::Unknown,
        });
    }

    /// The answer to show; `None` while there is no wish or no answer yet.
    pub(crate) fn answer(&self) -> Option<&PermissionAnswer> {
        self.answer.as_ref()
    }

    /// Answers the wish, or says what must be asked first. `now` and `clock` are the same moment.
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
                        "group {group} did not say whether it is being refreshed"
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
