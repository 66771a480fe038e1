//! Target groups that the Auto Scaling group does not keep: the machine keeps this box in them.
//!
//! Those attached to the group are the group's: it registers a box before it calls it in service, and
//! takes it out before it ends it. Only what the agent registered itself does it deregister.

use std::time::{Duration, Instant};

use super::event::{Action, NoAnswer};
use super::state::{Machine, PHASE_INTERVAL, Place, State};
use crate::balancer::TargetHealth;
use crate::duty::Duty;
use crate::lifecycle::Phase;

/// Between two looks while something is under way.
const INTERVAL: Duration = Duration::from_secs(5);

/// The same while all is well.
const CALM_INTERVAL: Duration = Duration::from_secs(60);

/// How long a load balancer may find a registered box unhealthy before the agent agrees. By default a
/// new target is healthy after two and a half minutes.
const PATIENCE: Duration = Duration::from_secs(300);

/// How this box stands with its target groups, all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Seat {
    /// In none.
    #[default]
    Out,
    /// Being registered; it may have come to pass already.
    Joining,
    /// Registered; when it was last found healthy, or else registered.
    In {
        /// Since then it may be unhealthy.
        since: Instant,
        /// What the load balancers have against it, once that lasts.
        trouble: Option<String>,
    },
    /// Deregistered; the deregistration delay runs.
    Leaving,
}

/// The target groups of the settings, and this box's place in them.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// As the settings name them.
    pub(super) wanted: Vec<String>,
    /// Those of them that are ours to keep, once the group has told which are its own.
    ours: Option<Vec<String>>,
    seat: Seat,
}

impl Traffic {
    /// Whether the box is in no target group of ours.
    pub(super) fn is_out(&self) -> bool {
        self.seat == Seat::Out
    }

    /// What the load balancers have against this box.
    pub(super) fn trouble(&self) -> Option<&str> {
        match &self.seat {
            Seat::In { trouble, .. } => trouble.as_deref(),
            _ => None,
        }
    }
}

impl Machine {
    /// The target groups that the agent has registered this box in.
    pub(crate) fn registered(&self) -> &[String] {
        match &self.traffic.ours {
            Some(ours) if !self.traffic.is_out() => ours,
            _ => &[],
        }
    }

    /// The daemon before this one had registered the box in these.
    pub(crate) fn adopt(&mut self, registered: Vec<String>, now: Instant) {
        if !registered.is_empty() {
            self.traffic.ours = Some(registered);
            self.traffic.seat = Seat::In {
                since: now,
                trouble: None,
            };
        }
    }

    /// Towards being in the target groups while the box serves, and out of them when it must not.
    pub(super) fn keep_traffic(&mut self, now: Instant) {
        let stays = match self.state {
            State::Identifying | State::Judging { .. } | State::Admitting => true,
            State::Serving | State::Ailing(_) => self.aside().is_none(),
            _ => false,
        };
        if stays {
            // One that could not be carried out while the box was to go is of another time.
            self.duties.drop(Duty::Part);
        }
        match self.traffic.seat {
            Seat::Out | Seat::Joining if self.may_join() => self.join(now),
            Seat::Out if self.is_almost_there() => self.ask_again(PHASE_INTERVAL, now),
            Seat::Joining | Seat::In { .. } if !stays => {
                self.duties.drop(Duty::Join);
                self.ensure(Duty::Part, now);
            }
            Seat::In { .. } | Seat::Leaving => self.ensure(Duty::Traffic, now),
            Seat::Out | Seat::Joining => {}
        }
    }

    fn may_join(&self) -> bool {
        let in_service = match &self.place {
            Place::Nowhere => true,
            Place::In(member) => member.phase == Phase::InService,
            Place::Unknown => false,
        };
        self.state == State::Serving && self.aside().is_none() && in_service
    }

    /// The group has taken the answer to its hook, and was last seen before that.
    fn is_almost_there(&self) -> bool {
        let before = |phase: &Phase| phase.is_arriving() || *phase == Phase::PendingProceed;
        self.state == State::Serving
            && !self.traffic.wanted.is_empty()
            && matches!(&self.place, Place::In(member) if before(&member.phase))
    }

    fn join(&mut self, now: Instant) {
        match (&self.traffic.ours, &self.group) {
            _ if self.traffic.wanted.is_empty() => {}
            (None, Some(_)) => self.ensure(Duty::Attached, now),
            (None, None) => self.traffic.ours = Some(self.traffic.wanted.clone()),
            (Some(ours), _) if ours.is_empty() => {}
            (Some(_), _) => self.ensure(Duty::Join, now),
        }
    }

    pub(super) fn attached_seen(&mut self, attached: Result<Vec<String>, NoAnswer>, now: Instant) {
        let Ok(attached) = attached else {
            return self.duties.failed(Duty::Attached, now);
        };
        self.duties.done(Duty::Attached);
        if !self.traffic.is_out() {
            return;
        }
        let (theirs, ours): (Vec<String>, Vec<String>) = self
            .traffic
            .wanted
            .iter()
            .cloned()
            .partition(|name| attached.contains(name));
        for name in theirs {
            self.outbox.push(Action::Announce(format!(
                "the group itself keeps {name}: the agent leaves it alone"
            )));
        }
        self.traffic.ours = Some(ours);
    }

    /// A duty of this module is due.
    pub(super) fn begin_traffic(&mut self, duty: Duty) -> Option<Action> {
        if duty == Duty::Attached {
            return self.group.clone().map(Action::AskAttached);
        }
        let ours = self.traffic.ours.clone()?;
        Some(match duty {
            Duty::Join => {
                // Its answer may get lost: from here on it is ours to undo.
                self.traffic.seat = Seat::Joining;
                Action::Register(ours)
            }
            Duty::Part => Action::Deregister(ours),
            _ => Action::AskTargetHealth(ours),
        })
    }

    pub(super) fn joined(&mut self, outcome: Result<(), NoAnswer>, now: Instant) {
        match outcome {
            Ok(()) => {
                self.duties.done(Duty::Join);
                if self.traffic.seat == Seat::Joining {
                    self.traffic.seat = Seat::In {
                        since: now,
                        trouble: None,
                    };
                    self.duties.at(Duty::Traffic, now + INTERVAL);
                }
            }
            Err(NoAnswer) => self.duties.failed(Duty::Join, now),
        }
    }

    pub(super) fn parted(&mut self, outcome: Result<(), NoAnswer>, now: Instant) {
        match outcome {
            Ok(()) => {
                self.duties.done(Duty::Part);
                self.traffic.seat = Seat::Leaving;
                self.duties.at(Duty::Traffic, now);
            }
            Err(NoAnswer) => self.duties.failed(Duty::Part, now),
        }
    }

    pub(super) fn traffic_seen(&mut self, seen: Result<Vec<TargetHealth>, NoAnswer>, now: Instant) {
        let Ok(seen) = seen else {
            return self.duties.failed(Duty::Traffic, now);
        };
        self.duties.done(Duty::Traffic);
        let gone = seen.iter().all(TargetHealth::is_gone);
        match &mut self.traffic.seat {
            Seat::Leaving if gone => self.traffic.seat = Seat::Out,
            Seat::In { since, trouble } => {
                let missing = seen.iter().any(TargetHealth::is_gone);
                let against = seen.iter().find(|health| !health.is_well());
                match against {
                    None => (*since, *trouble) = (now, None),
                    Some(health) if now.saturating_duration_since(*since) >= PATIENCE => {
                        *trouble = Some(health.words());
                    }
                    Some(_) => {}
                }
                let pause = if against.is_some() {
                    INTERVAL
                } else {
                    CALM_INTERVAL
                };
                self.duties.at(Duty::Traffic, now + pause);
                if missing {
                    // Somebody took it out; while it serves it belongs there.
                    self.traffic.seat = Seat::Joining;
                }
            }
            Seat::Leaving => self.duties.at(Duty::Traffic, now + INTERVAL),
            Seat::Out | Seat::Joining => {}
        }
    }
}
