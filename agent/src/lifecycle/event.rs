//! The lifecycle's interface with the daemon's loop: events in, actions out.
//!
//! Types only.

use std::time::Duration;

use contract::registry::Verdict;
use jiff::Timestamp;

use super::terms::Terms;
use crate::balancer::TargetHealth;
use crate::fleet::Peers;
use crate::health::{Checked, DrainAnswer};
use crate::hooks::{Answer, Hooks, Membership, Receipt};
use crate::identity::TargetState;
use crate::notice::{Scheduled, SpotNotices};

/// A call failed or was not answered; the reason is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer;

/// What was observed. Every event but [`Event::Tick`] and [`Event::ClockJumped`] is the result of the action with its
/// name.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Only time passed.
    Tick,
    /// The instance id and the terms, or why the settings were refused.
    Identified(Result<(String, Result<Terms, String>), NoAnswer>),
    /// A round of health checks.
    Checked(Checked),
    /// The target lifecycle state.
    TargetStateSeen(Result<Option<TargetState>, NoAnswer>),
    /// Spot's notices, and the time of day.
    SpotSeen(Result<SpotNotices, NoAnswer>, Timestamp),
    /// The scheduled events, and the time of day.
    ScheduleSeen(Result<Vec<Scheduled>, NoAnswer>, Timestamp),
    /// The time of day jumped: the instance was suspended, or its clock was set.
    ClockJumped,
    /// The instance's membership.
    MembershipSeen(Result<Option<Membership>, NoAnswer>),
    /// The group's hooks.
    HooksSeen(Result<Hooks, NoAnswer>),
    /// The result of an answer to a hook.
    Answered {
        /// The hook.
        hook: String,
        /// The answer it was given.
        answer: Answer,
        /// The group's response.
        outcome: Result<Receipt, NoAnswer>,
    },
    /// The result of a heartbeat.
    HeartbeatSent(Result<Receipt, NoAnswer>),
    /// The record was written.
    RecordWritten(Result<(), NoAnswer>),
    /// The record was removed.
    RecordRemoved(Result<(), NoAnswer>),
    /// The target groups that are attached to the group.
    AttachedSeen(Result<Vec<String>, NoAnswer>),
    /// The instance was registered with the target groups.
    Registered(Result<(), NoAnswer>),
    /// It was deregistered.
    Deregistered(Result<(), NoAnswer>),
    /// The instance's health in each target group.
    TargetHealthSeen(Result<Vec<TargetHealth>, NoAnswer>),
    /// A restart of the failing services was requested.
    Restarted(Result<(), NoAnswer>),
    /// The services' answer to whether they are still busy.
    DrainChecked(DrainAnswer),
    /// The health of the group's other instances.
    PeersSeen(Result<Peers, NoAnswer>),
    /// The group was asked to replace the instance.
    Reported(Result<(), NoAnswer>),
}

/// What the loop does next. All but [`Action::Declare`], [`Action::Announce`] and [`Action::Warn`] return an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the instance's identity and the settings.
    Identify,
    /// Check all services.
    Check {
        /// The interval that the answers must fit into.
        interval: Duration,
    },
    /// Read the target lifecycle state.
    AskTargetState,
    /// Read Spot's notices.
    AskSpot,
    /// Read the scheduled events.
    AskSchedule,
    /// Read the membership.
    AskMembership,
    /// Read the hooks of this group.
    AskHooks(String),
    /// Answer a hook.
    Complete {
        /// The group.
        group: String,
        /// The hook.
        hook: String,
        /// The answer.
        answer: Answer,
    },
    /// Send a heartbeat for a hook.
    Heartbeat {
        /// The group.
        group: String,
        /// The hook.
        hook: String,
    },
    /// Write the registry record from the current verdict and round.
    WriteRecord,
    /// Remove the registry record.
    RemoveRecord,
    /// Read which target groups are attached to this group.
    AskAttached(String),
    /// Register the instance with these target groups.
    Register(Vec<String>),
    /// Deregister it from them.
    Deregister(Vec<String>),
    /// Read the instance's health in these target groups.
    AskTargetHealth(Vec<String>),
    /// Request a restart of these services.
    Restart(Vec<String>),
    /// Ask the services whether they are still busy.
    CheckDrain,
    /// Read the health of the other instances of this group.
    AskPeers(String),
    /// Ask the group to replace the instance.
    ReportUnhealthy,
    /// The verdict changed: print it.
    Declare(Judgement),
    /// Print a notice that is not a verdict.
    Announce(String),
    /// Log a warning.
    Warn(String),
}

/// The verdict and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The judgement.
    pub(crate) verdict: Verdict,
    /// One line; empty while all is well.
    pub(crate) reason: String,
}
