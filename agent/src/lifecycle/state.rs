//! The states, and everything that is kept between two events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::event::{Action, Judgement};
use super::previous::PreviousDaemon;
use super::progress::Progress;
use super::remedy::Remedy;
use super::terms::Terms;
use super::traffic::Traffic;
use super::window::Window;
use crate::duty::Duties;
use crate::health::Round;
use crate::hooks::{Membership, OurHooks};
use crate::identity::TargetState;
use crate::notice::Notices;
use crate::registry::pace::Pace;

/// Interval between reads of the membership while the group is about to change it.
pub(super) const PHASE_INTERVAL: Duration = Duration::from_secs(2);

/// The same while the agent has nothing to do in that state (in a warm pool, for example).
pub(super) const IDLE_PHASE_INTERVAL: Duration = Duration::from_secs(30);

/// Reason of a drain because the group terminates the instance.
pub(crate) const ENDED_BY_GROUP: &str = "the group is terminating this instance";

/// The state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waiting for the metadata service.
    Identifying,
    /// At the gate, until the deadline.
    Judging {
        /// The gate's deadline.
        deadline: Instant,
    },
    /// Fit; the launch hook, if there is one, has yet to take CONTINUE.
    Admitting,
    /// Fit and in service, or fit and in no group.
    Serving,
    /// Unfit; the launch hook, if there is one, has yet to take ABANDON.
    Refusing,
    /// Unfit with no launch hook to answer; may recover.
    Ailing(Replacement),
    /// Passed the gate, and kept out of service by the group: in the warm pool, on standby or detached. In a warm
    /// pool the launch hook has yet to take CONTINUE.
    Resting,
    /// ABANDON was taken: the group will terminate this instance.
    Abandoned,
    /// Draining: deregistering, and waiting for the last requests.
    Draining {
        /// Earliest end.
        until: Instant,
        /// Latest end, even if something remains to be done.
        deadline: Instant,
    },
    /// Drained; the record is removed, then the termination hook has to take CONTINUE.
    Departing {
        /// Whether the record is removed, or removing it was given up.
        record_removed: bool,
    },
    /// The termination hook is answered; waiting for the shutdown.
    Released,
}

/// The replacement of an unfit instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// Disabled in the settings.
    Never,
    /// Requested at this time.
    At(Instant),
    /// Being requested: the group must first report this instance as in service.
    Asking,
    /// Being requested: the health of the group's other instances is checked.
    Weighing,
}

/// The instance's membership, as last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not read yet, or out of date.
    Unknown,
    /// In no group.
    Nowhere,
    /// In a group.
    In(Membership),
}

/// The lifecycle: a state, what was observed, and the timetable.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(super) state: State,
    pub(super) terms: Terms,
    pub(super) duties: Duties,
    /// `None` until read for the first time.
    pub(super) target_state: Option<Option<TargetState>>,
    pub(super) place: Place,
    pub(super) hooks: Option<OurHooks>,
    /// When the hooks were read.
    pub(super) hooks_read: Option<Instant>,
    /// The group, once known.
    pub(super) group: Option<String>,
    /// Whether the launch hook's answer was accepted since the group last started this instance.
    pub(super) launch_hook_answered: bool,
    pub(super) notices: Notices,
    /// When notices were last read.
    pub(super) notices_read_at: Option<Timestamp>,
    /// The instance drains because of a notice, and the group has not terminated it yet.
    pub(super) draining_for_notice: bool,
    /// What is known about the drain, once it began.
    pub(super) drain: Option<Progress>,
    /// The drain reached its deadline.
    pub(super) overdue: bool,
    /// The last heartbeat had no answer: the next one does not wait for its usual time.
    pub(super) heartbeat_owed: bool,
    /// The instance was fit at some time: its services may have work.
    pub(super) ever_fit: bool,
    /// The settings were refused, which leaves nothing to check.
    pub(super) without_settings: bool,
    pub(super) passes: u32,
    pub(super) failures: u32,
    pub(super) window: Window,
    pub(super) round: Round,
    /// The services whose liveness checks failed in the last round.
    pub(super) dead: BTreeSet<String>,
    /// Consecutive rounds in which a liveness check failed.
    pub(super) dead_rounds: u32,
    pub(super) judgement: Option<Judgement>,
    /// What the previous daemon left, until the instance is identified.
    pub(super) previous: Option<PreviousDaemon>,
    pub(super) pace: Pace,
    pub(super) remedy: Remedy,
    pub(super) traffic: Traffic,
    pub(super) outbox: Vec<Action>,
}

impl Lifecycle {
    /// The lifecycle of a daemon that has just started.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Identifying,
            terms: Terms::fallback(),
            duties: Duties::new(""),
            target_state: None,
            place: Place::Unknown,
            hooks: None,
            hooks_read: None,
            group: None,
            launch_hook_answered: false,
            notices: Notices::default(),
            notices_read_at: None,
            draining_for_notice: false,
            drain: None,
            overdue: false,
            heartbeat_owed: false,
            ever_fit: false,
            without_settings: false,
            passes: 0,
            failures: 0,
            window: Window::default(),
            round: Round::new(),
            dead: BTreeSet::new(),
            dead_rounds: 0,
            judgement: None,
            previous: None,
            pace: Pace::default(),
            remedy: Remedy::default(),
            traffic: Traffic::default(),
            outbox: Vec::new(),
        }
    }
}
