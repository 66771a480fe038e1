//! The phases of an attempt, pure: Phase × Event → (Phase, Notes, Actions). Drawn in
//! `docs/agent-update-states.dot` with the method names on its edges.
//!
//! It must not read a clock, a file or a socket: [`super::attempt`] brings what was seen as an [`Event`].
//! After every step the new phase and all notes are persisted in *one* write, and only then are the
//! actions carried out, in order; so that the power may go at any moment, and the next run begins with
//! [`Event::Woken`] in the phase that was reached.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::board::Build;
use super::channel::Offer;
use super::plan::Decision;

/// Where an attempt is. What runs the new code only ever begins in [`Phase::Preflight`], and `stable` only
/// moves in [`Phase::Confirmed`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", content = "job", rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing under way.
    #[default]
    Idle,
    /// Reading the channel and deciding.
    Checking,
    /// Streaming the release into `staging/`.
    Fetching(Job),
    /// Making a slot of it.
    Staging(Job),
    /// Its self-test runs, in the updater's own sandbox.
    Preflight(Job),
    /// Waiting for the daemon's leave to be restarted.
    Asking(Job),
    /// Pointing `trial` to it and starting the trial unit, which stops the stable one.
    Armed(Job),
    /// It is the box's daemon, watched until it has soaked.
    Trial(Job),
    /// Soaked; its self-test runs once more: it must be able to update again.
    Proving(Job),
    /// Proven; `stable` is being moved, by one rename: the commit point.
    Confirmed(Job),
    /// `stable` has moved; the stable unit is being started in the trial's place.
    Committed(Job),
}

/// One attempt at one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What is to become stable.
    pub build: Build,
    /// What was stable when the attempt began.
    pub from: Build,
    /// Why, for people: `newer`, `pinned`, …
    pub why: String,
    /// The kernel's boot id when the attempt began.
    pub boot: String,
    /// When it began.
    pub began: Timestamp,
    /// Attempts at this digest that were cut short before this one.
    #[serde(default)]
    pub strikes: u32,
}

/// What the driver saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A run begins: always the first event, whatever the phase.
    Woken(Look),
    /// The channel was read, verified and decided upon.
    Checked {
        /// The decision.
        decision: Box<Decision>,
        /// Strikes so far against the digest it takes.
        strikes: u32,
        /// This boot.
        boot: String,
        /// Now.
        at: Timestamp,
    },
    /// The last action went well.
    Done,
    /// The last action failed.
    Failed(Failure),
    /// The daemon gave leave to be restarted, or does not run.
    Leave,
    /// It refused, or did not answer in time.
    NoLeave {
        /// Its reason.
        reason: String,
    },
}

/// What a run finds at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The kernel's boot id.
    pub boot: String,
    /// What `stable` points to.
    pub stable: Build,
    /// What became of the trial unit in this boot.
    pub trial: Fate,
    /// Now.
    pub at: Timestamp,
}

/// What became of the trial unit in this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was not started, or was stopped in order.
    Unproven,
    /// It runs, or is being started or stopped.
    Running,
    /// It ran into its deadline (`RuntimeMaxSec=`) before anybody confirmed it.
    Deadline,
    /// It failed by itself: exit, signal, watchdog, start timeout.
    Failed(String),
}

/// An action that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault it was.
    pub blame: Blame,
    /// One word for programs, kebab: a [`super::refusal::Cause::code`], or `preflight`, `trial-exit`, ….
    pub code: String,
    /// One line for people.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Whose fault a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The release's: it is not tried again on this box.
    Release,
    /// The network's, the channel's, the disk's: tried again later.
    World,
}

/// What is to be remembered, in one write together with the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Never try this digest here again.
    Skip {
        /// What failed.
        build: Build,
        /// Why, in one line.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// An attempt at this digest was cut short.
    Strike(Build),
    /// An attempt came to nothing through no fault of the release: count it, see [`Setback`](super::plan::Setback).
    Setback {
        /// Why, in one line.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The channel was read and nothing is wrong: forget the setback.
    Well,
    /// This build was promoted: forget its strikes and the setback.
    Promoted {
        /// What is stable now.
        build: Build,
        /// When.
        at: Timestamp,
    },
}

/// What the driver is to do, in order, each answered by one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Refresh the channel and decide: answered with [`Event::Checked`], or [`Event::Failed`].
    Check,
    /// Stream the offer into `staging/`.
    Fetch(Offer),
    /// Make a slot of the part.
    Stage(Build),
    /// Run `update probe` of the slot.
    Probe(Build),
    /// Ask the daemon for leave: answered with [`Event::Leave`] or [`Event::NoLeave`].
    AskLeave(Build),
    /// Re-hash the slot, point `trial` to it, start the trial unit.
    Arm(Build),
    /// Watch the trial until it has soaked.
    Watch(Build),
    /// Move `stable` to the slot: one rename.
    Commit(Build),
    /// Start the stable unit, which stops the trial, and see it run; then collect unused slots.
    Restart(Build),
    /// Back to stable: stop the trial unit if it runs, see the stable unit run, drop the link `trial`, collect.
    /// Not answered: the run ends, or goes on with the next action.
    Revert,
    /// Say how the run ended. Not answered.
    Report(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do now.
    Settled(Box<Decision>),
    /// The box runs a new stable.
    Updated {
        /// What.
        to: Build,
        /// From what.
        from: Build,
    },
    /// Nothing changed, for a reason that will pass.
    Postponed {
        /// One word for programs.
        code: String,
        /// One line for people.
        reason: String,
    },
    /// The release failed here and is not tried again.
    Skipped {
        /// What failed.
        build: Build,
        /// One word for programs.
        code: String,
        /// One line for people.
        reason: String,
    },
}
