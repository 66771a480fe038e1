//! What is known about a drain, and whether it ends now. Pure: [`super::draining`] feeds and follows it.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::health::{DrainAnswer, Unclear};

/// What is known about the current drain.
#[derive(Debug)]
pub(super) struct Progress {
    /// When it began.
    pub(super) began: Instant,
    /// Whether the services are asked.
    pub(super) asks: bool,
    /// When the running or last question was asked.
    pub(super) asked: Option<Instant>,
    /// What the services answered last.
    pub(super) answer: Option<DrainAnswer>,
    /// Whether they are done, which an answer from before `free_since` does not show.
    done: bool,
    /// Since when only the services are waited for.
    pub(super) free_since: Option<Instant>,
    /// The group no longer waits for the instance.
    pub(super) released: bool,
    /// The unclear answers that were logged.
    pub(super) warned: BTreeSet<Unclear>,
    /// Whether it was logged that nothing holds the instance.
    pub(super) warned_of_no_hook: bool,
}

impl Progress {
    /// A drain that begins now.
    pub(super) fn new(began: Instant, asks: bool) -> Self {
        Self {
            began,
            asks,
            asked: None,
            answer: None,
            done: false,
            free_since: None,
            released: false,
            warned: BTreeSet::new(),
            warned_of_no_hook: false,
        }
    }

    /// Takes the answer to the question that was asked last. "Done" counts only if that was late enough.
    pub(super) fn answered(&mut self, answer: DrainAnswer) {
        let late_enough = self
            .asked
            .zip(self.free_since)
            .is_some_and(|(asked, free)| asked >= free);
        self.done = late_enough && answer == DrainAnswer::Done;
        self.answer = Some(answer);
    }

    /// Whether nothing is waited for but time.
    pub(super) fn is_done(&self) -> bool {
        !self.asks || self.done
    }

    /// What the services are doing, as far as it is known.
    pub(super) fn describe(&self) -> String {
        match &self.answer {
            Some(DrainAnswer::Busy) => "the services are still busy".to_owned(),
            Some(DrainAnswer::Unclear { detail, .. }) => {
                format!("the services count as busy: {detail}")
            }
            Some(DrainAnswer::Done) | None => "waiting for the services to finish".to_owned(),
        }
    }
}

/// A drain as [`decide`] sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Its earliest end.
    pub(super) until: Instant,
    /// Its latest end.
    pub(super) deadline: Instant,
    /// The load balancers have deregistered the instance.
    pub(super) deregistered: bool,
    /// The services are done, or are not asked.
    pub(super) done: bool,
    /// The group no longer waits.
    pub(super) released: bool,
}

/// What follows for a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Goes,
    /// It ends, and nothing is left to be done.
    Finished,
    /// It ends at its deadline, with something left to be done.
    Overdue,
    /// It ends because the group no longer waits, with something left to be done.
    Released,
}

/// Whether a drain ends now.
pub(super) fn decide(view: View, now: Instant) -> Outcome {
    if now >= view.until && view.deregistered && view.done {
        Outcome::Finished
    } else if view.released {
        Outcome::Released
    } else if now >= view.deadline {
        Outcome::Overdue
    } else {
        Outcome::Goes
    }
}
