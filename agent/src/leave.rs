//! The updater's wish to restart the daemon, and the daemon's answer.
//!
//! The updater holds no credentials and knows nothing of the group, so before it arms a trial it asks,
//! by `asks_leave_since` in its own standing; the daemon answers with [`Leave`] in its. Nothing is
//! latched: an answer is for the wish of that moment, and a wish that nobody withdrew goes out of date.
//!
//! This module decides and keeps what it was told; [`crate::run`] reads the file and asks the group.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::machine::{NoAnswer, Readiness};
use crate::standing::Leave;

#[cfg(test)]
mod tests;

/// How often the updater's standing is looked at: a read of a small file in memory.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// Between two questions to the group: one fleet's boxes share the account's quota of calls.
const ASK_SPACING: Duration = Duration::from_secs(60);

/// A wish older than this (or from a clock so far ahead) is one that an updater left behind: it waits
/// one minute for its answer.
const OUT_OF_DATE: SignedDuration = SignedDuration::from_secs(300);

/// What the updater wishes, by its standing; a standing that cannot be read wishes nothing.
///
/// Only the one field is read, so that a standing of another version, strange in all else, is understood.
pub(crate) fn wish(standing: &str) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Wishing {
        #[serde(default)]
        asks_leave_since: Option<Timestamp>,
    }
    let wishing = serde_json::from_str::<Wishing>(standing);
    wishing.ok().and_then(|wishing| wishing.asks_leave_since)
}

/// What the group said of its instance refreshes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// None is under way.
    Quiet,
    /// This one is.
    Refreshing(String),
    /// It did not say.
    Unknown,
}

/// What is to be asked of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The group.
    pub(crate) group: String,
}

/// Where wishes come in and answers go out.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    wish: Option<Timestamp>,
    answer: Option<Leave>,
    asked: Option<(Instant, String)>,
    word: Option<Word>,
}

impl Desk {
    /// What the updater's standing says now.
    pub(crate) fn wish(&mut self, wish: Option<Timestamp>) {
        self.wish = wish;
    }

    /// What the group answered: the id of the refresh that is under way, if one is.
    pub(crate) fn heard(&mut self, word: Result<Option<String>, NoAnswer>) {
        self.word = Some(match word {
            Ok(None) => Word::Quiet,
            Ok(Some(refresh)) => Word::Refreshing(refresh),
            Err(NoAnswer) => Word::Unknown,
        });
    }

    /// The answer to show; `None` while there is no wish or no answer yet.
    pub(crate) fn answer(&self) -> Option<&Leave> {
        self.answer.as_ref()
    }

    /// Answers the wish, or says what must be asked first. `now` and `clock` are the same moment.
    pub(crate) fn consider(
        &mut self,
        readiness: Readiness,
        group: Option<&str>,
        now: Instant,
        clock: Timestamp,
    ) -> Option<Question> {
        let wish = self
            .wish
            .filter(|wish| clock.duration_since(*wish).abs() <= OUT_OF_DATE);
        let Some(wish) = wish else {
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
                    self.word = None;
                    return Some(Question {
                        group: group.to_owned(),
                    });
                }
                match &self.word {
                    None => return None,
                    Some(Word::Quiet) => Ok(()),
                    Some(Word::Refreshing(refresh)) => {
                        Err(format!("refresh {refresh} of group {group} is under way"))
                    }
                    Some(Word::Unknown) => Err(format!(
                        "group {group} did not say whether it is being refreshed"
                    )),
                }
            }
        };
        let (granted, reason) = match verdict {
            Ok(()) => (true, String::new()),
            Err(reason) => (false, reason),
        };
        let said = self
            .answer
            .as_ref()
            .is_some_and(|old| old.granted == granted && old.reason == reason && old.at >= wish);
        if !said {
            if granted {
                tracing::info!("the updater may restart this daemon");
            } else {
                tracing::info!("the updater may not restart this daemon now: {reason}");
            }
            self.answer = Some(Leave {
                granted,
                reason,
                at: clock,
            });
        }
        None
    }
}
