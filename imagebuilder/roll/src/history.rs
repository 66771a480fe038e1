//! The group's scaling activities since a refresh began, kept between polls.
//!
//! A poll reads as many pages as can contain something new: those up to the first that contains only activities known to have
//! ended. It does not judge; [`blame`](super::blame) does.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::view::Activity;
use cloud::ids::GroupName;
use cloud::{ActivityOutcome, Answer, Cloud};

/// What is known of a group's activities.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    known: BTreeMap<String, Activity>,
}

impl History {
    /// Reads what happened since the last poll, back to `since`; without a beginning, one page.
    ///
    /// # Errors
    /// When the service fails; what was read before is kept.
    pub(crate) async fn read(
        &mut self,
        cloud: &Cloud,
        group: &GroupName,
        since: Option<Timestamp>,
    ) -> Answer<()> {
        let mut open: BTreeSet<String> = self
            .known
            .values()
            .filter(|activity| activity.outcome == ActivityOutcome::Running)
            .map(|activity| activity.id.clone())
            .collect();
        let mut next: Option<String> = None;
        loop {
            let answer = cloud.fleet.activities(group, next.as_deref()).await?;
            let mut news = false;
            let mut at_the_beginning = since.is_none();
            for activity in answer.page {
                if activity.started < since {
                    at_the_beginning = true;
                    continue;
                }
                open.remove(&activity.id);
                news |= self.known.get(&activity.id) != Some(&activity);
                self.known.insert(activity.id.clone(), activity);
            }
            next = answer.next;
            if next.is_none() || at_the_beginning || (!news && open.is_empty()) {
                return Ok(());
            }
        }
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Activity> {
        self.known.values()
    }
}
