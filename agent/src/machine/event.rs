//! What happens to the machine and what it asks for: the whole of its traffic with the loop.
//!
//! Types only.

use std::time::Duration;

use contract::registry::Verdict;
use jiff::Timestamp;

use super::terms::Terms;
use crate::balancer::TargetHealth;
use crate::fleet::Peers;
use crate::health::Round;
use crate::identity::Target;
use crate::lifecycle::{Answer, Hooks, Membership, Receipt};
use crate::notice::{Scheduled, SpotNotices};

/// Something was asked for and no answer came; the reason is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer;

/// What the world brought. Every event but [`Event::Tick`] and [`Event::Woken`] is the end of the action of
/// its name.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Only time went by.
    Tick,
    /// Who the box is, and its settings, or why they were refused.
    Identified(Result<(String, Result<Terms, String>), NoAnswer>),
    /// A round of health checks.
    Checked(Round),
    /// What the group wants of the instance.
    TargetSeen(Result<Option<Target>, NoAnswer>),
    /// What Spot announces, and the time of day.
    SpotHeard(Result<SpotNotices, NoAnswer>, Timestamp),
    /// The scheduled events, and the time of day.
    ScheduleHeard(Result<Vec<Scheduled>, NoAnswer>, Timestamp),
    /// The time of day has jumped: the box was asleep, or its clock was set.
    Woken,
    /// Where the group has the instance.
    MembershipSeen(Result<Option<Membership>, NoAnswer>),
    /// The group's hooks.
    HooksSeen(Result<Hooks, NoAnswer>),
    /// What became of an answer to a hook.
    Answered {
        /// The hook.
        hook: String,
        /// The answer it was given.
        answer: Answer,
        /// What the group made of it.
        outcome: Result<Receipt, NoAnswer>,
    },
    /// What became of a heartbeat.
    Beaten(Result<Receipt, NoAnswer>),
    /// The record was written.
    Recorded(Result<(), NoAnswer>),
    /// The record was taken away.
    Erased(Result<(), NoAnswer>),
    /// The target groups that the group keeps itself.
    AttachedSeen(Result<Vec<String>, NoAnswer>),
    /// The box was registered with the target groups.
    Registered(Result<(), NoAnswer>),
    /// It was deregistered.
    Deregistered(Result<(), NoAnswer>),
    /// How the target groups find it, one answer each.
    TargetHealthSeen(Result<Vec<TargetHealth>, NoAnswer>),
    /// A restart of the sick services was requested.
    Restarted(Result<(), NoAnswer>),
    /// The health of the group's other boxes.
    PeersSeen(Result<Peers, NoAnswer>),
    /// The group was asked to replace the instance.
    Reported(Result<(), NoAnswer>),
}

/// What the loop is to do. All but [`Action::Declare`] and [`Action::Announce`] come back as
/// an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Find out who the box is and read the settings.
    Identify,
    /// Ask all services.
    Check {
        /// The interval the answers must fit into.
        interval: Duration,
    },
    /// Ask what the group wants of the instance.
    AskTarget,
    /// Ask what Spot announces.
    AskSpot,
    /// Ask for the scheduled events.
    AskSchedule,
    /// Ask where the group has the instance.
    AskMembership,
    /// Ask for the hooks of this group.
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
    /// Keep a hook waiting.
    Heartbeat {
        /// The group.
        group: String,
        /// The hook.
        hook: String,
    },
    /// Write the registry record from the current standing and round.
    Record,
    /// Take the registry record away.
    Erase,
    /// Ask which target groups this group keeps itself.
    AskAttached(String),
    /// Register the instance with these target groups.
    Register(Vec<String>),
    /// Deregister it from them.
    Deregister(Vec<String>),
    /// Ask how they find it.
    AskTargetHealth(Vec<String>),
    /// Request a restart of these services.
    Restart(Vec<String>),
    /// Look at the other boxes of this group.
    AskPeers(String),
    /// Ask the group to replace the instance.
    ReportUnhealthy,
    /// The verdict changed: say so to the people.
    Declare(Standing),
    /// Something that people should know and that is no verdict.
    Announce(String),
}

/// The verdict and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The judgement.
    pub(crate) verdict: Verdict,
    /// One line; empty while all is well.
    pub(crate) reason: String,
}
