//! The machine's states, and all that it keeps between two events.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::event::{Action, Standing};
use super::past::Past;
use super::remedy::Remedy;
use super::terms::Terms;
use super::traffic::Traffic;
use super::window::Window;
use crate::duty::Duties;
use crate::health::Round;
use crate::identity::Target;
use crate::lifecycle::{Membership, OurHooks};
use crate::notice::Notices;
use crate::registry::pace::Pace;

/// Before the group is asked again where it has us, while it is still on its way there.
pub(super) const PHASE_INTERVAL: Duration = Duration::from_secs(2);

/// The same while the group has us where the agent has nothing to do (a warm pool, say).
pub(super) const IDLE_PHASE_INTERVAL: Duration = Duration::from_secs(30);

/// Why a box drains that its group is ending.
pub(crate) const ENDED_BY_GROUP: &str = "the group is ending this box";

/// Where the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waiting for the metadata service.
    Identifying,
    /// At the gate, until the deadline.
    Judging {
        /// When the gate closes.
        deadline: Instant,
    },
    /// Fit; the launch hook, if there is one, has yet to take CONTINUE.
    Admitting,
    /// Fit and in service, or fit and alone.
    Serving,
    /// Unfit; the launch hook, if there is one, has yet to take ABANDON.
    Refusing,
    /// Unfit with no launch hook to answer; may recover.
    Ailing(Replacement),
    /// Through the gate, and kept out of service by the group: in the warm pool, on standby or detached.
    /// In a warm pool the launch hook has yet to take CONTINUE.
    Resting,
    /// ABANDON was taken: the group will end this box.
    Abandoned,
    /// Told to go; keeping still.
    Draining {
        /// How long at least.
        until: Instant,
        /// How long at most, should something remain to be done.
        deadline: Instant,
    },
    /// Settled; the record has to go, then the termination hook has to take CONTINUE.
    Departing {
        /// Whether the record is gone, or given up on.
        erased: bool,
    },
    /// Nothing left to do but wait for the power to go.
    Gone,
}

/// How an unfit box stands with being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// Settings say no.
    Never,
    /// To be asked for then.
    At(Instant),
    /// Being asked for: the group must first say that it has us in service.
    Asking,
    /// Being asked for: the group's other boxes are looked at.
    Weighing,
}

/// What the group last said of this instance's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not asked, or out of date.
    Unknown,
    /// In no group.
    Nowhere,
    /// In a group.
    In(Membership),
}

/// The machine: a state, what it has seen, and its timetable.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) state: State,
    pub(super) terms: Terms,
    pub(super) duties: Duties,
    /// `None` until heard for the first time.
    pub(super) target: Option<Option<Target>>,
    pub(super) place: Place,
    pub(super) hooks: Option<OurHooks>,
    /// When the hooks were read.
    pub(super) hooks_read: Option<Instant>,
    /// The group, once it was seen to have us.
    pub(super) group: Option<String>,
    /// Whether a launch hook took our answer, since the group last called.
    pub(super) answered: bool,
    pub(super) notices: Notices,
    /// The time of day at which notices were last listened for.
    pub(super) heard_at: Option<Timestamp>,
    /// The box leaves because of a notice, and the group has not said so yet.
    pub(super) noticed: bool,
    /// The drain ran into its deadline.
    pub(super) overdue: bool,
    /// The settings were refused, which leaves nothing to check.
    pub(super) blind: bool,
    pub(super) passes: u32,
    pub(super) failures: u32,
    pub(super) window: Window,
    pub(super) round: Round,
    pub(super) standing: Option<Standing>,
    /// A life before this one, until the box is identified.
    pub(super) past: Option<Past>,
    pub(super) pace: Pace,
    pub(super) remedy: Remedy,
    pub(super) traffic: Traffic,
    pub(super) outbox: Vec<Action>,
}

impl Machine {
    /// A machine that knows nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Identifying,
            terms: Terms::fallback(),
            duties: Duties::new(""),
            target: None,
            place: Place::Unknown,
            hooks: None,
            hooks_read: None,
            group: None,
            answered: false,
            notices: Notices::default(),
            heard_at: None,
            noticed: false,
            overdue: false,
            blind: false,
            passes: 0,
            failures: 0,
            window: Window::default(),
            round: Round::new(),
            standing: None,
            past: None,
            pace: Pace::default(),
            remedy: Remedy::default(),
            traffic: Traffic::default(),
            outbox: Vec::new(),
        }
    }
}
