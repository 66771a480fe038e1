//! Target groups that are not attached to the Auto Scaling group: the agent registers this instance in them.
//!
//! Attached target groups are managed by the group: it registers an instance before it is in service, and deregisters
//! it before it is terminated. The agent deregisters only what it registered itself.

use std::time::{Duration, Instant};

use super::event::{Action, NoAnswer};
use super::state::{Lifecycle, PHASE_INTERVAL, Place, State};
use crate::balancer::TargetHealth;
use crate::duty::Duty;
use crate::hooks::Phase;

/// Poll interval while a registration changes.
const INTERVAL: Duration = Duration::from_secs(5);

/// The same while the target is healthy.
const CALM_INTERVAL: Duration = Duration::from_secs(60);

/// How long a target may be unhealthy before the instance counts as unfit. By default a new target is healthy after
/// two and a half minutes.
const PATIENCE: Duration = Duration::from_secs(300);

/// The registration of this instance in all its target groups together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Registration {
    /// In no target group.
    #[default]
    NotRegistered,
    /// Being registered; some calls may have succeeded.
    Registering,
    /// Registered.
    Registered {
        /// When it was last healthy, or else registered.
        since: Instant,
        /// Why the target is unhealthy, once that lasts.
        trouble: Option<String>,
    },
    /// Deregistered; the deregistration delay runs.
    Deregistering,
}

/// The target groups of the settings, and the registration in them.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// From the settings.
    pub(super) wanted: Vec<String>,
    /// Those of them that the agent manages, once it is known which are attached to the group.
    ours: Option<Vec<String>>,
    registration: Registration,
}

impl Traffic {
    /// Whether the agent has registered the instance nowhere.
    pub(super) fn is_out(&self) -> bool {
        self.registration == Registration::NotRegistered
    }

    /// Why this instance's target is unhealthy.
    pub(super) fn trouble(&self) -> Option<&str> {
        match &self.registration {
            Registration::Registered { trouble, .. } => trouble.as_deref(),
            _ => None,
        }
    }
}

impl Lifecycle {
    /// The target groups that the agent has registered this instance in.
    pub(crate) fn registered(&self) -> &[String] {
        match &self.traffic.ours {
            Some(ours) if !self.traffic.is_out() => ours,
            _ => &[],
        }
    }

    /// Takes over the registrations of the previous daemon.
    pub(crate) fn adopt(&mut self, registered: Vec<String>, now: Instant) {
        if !registered.is_empty() {
            self.traffic.ours = Some(registered);
            self.traffic.registration = Registration::Registered {
                since: now,
                trouble: None,
            };
        }
    }

    /// Registers the instance while it serves, and deregisters it when it must not.
    pub(super) fn keep_traffic(&mut self, now: Instant) {
        let stays = match self.state {
            State::Identifying | State::Judging { .. } | State::Admitting => true,
            State::Serving | State::Ailing(_) => self.out_of_service().is_none(),
            _ => false,
        };
        if stays {
            // A deregistration that failed while the instance was to leave is no longer wanted.
            self.duties.drop(Duty::Deregister);
        }
        match self.traffic.registration {
            Registration::NotRegistered | Registration::Registering if self.may_register() => {
                self.register_when_in_service(now)
            }
            Registration::NotRegistered if self.is_nearly_in_service() => {
                self.ask_again(PHASE_INTERVAL, now)
            }
            Registration::Registering | Registration::Registered { .. } if !stays => {
                self.duties.drop(Duty::Register);
                self.ensure(Duty::Deregister, now);
            }
            Registration::Registered { .. } | Registration::Deregistering => {
                self.ensure(Duty::Traffic, now)
            }
            Registration::NotRegistered | Registration::Registering => {}
        }
    }

    fn may_register(&self) -> bool {
        let in_service = match &self.place {
            Place::Nowhere => true,
            Place::In(member) => member.phase == Phase::InService,
            Place::Unknown => false,
        };
        self.state == State::Serving && self.out_of_service().is_none() && in_service
    }

    /// The launch hook's answer was accepted after the membership was last read.
    fn is_nearly_in_service(&self) -> bool {
        let before = |phase: &Phase| phase.is_arriving() || *phase == Phase::PendingProceed;
        self.state == State::Serving
            && !self.traffic.wanted.is_empty()
            && matches!(&self.place, Place::In(member) if before(&member.phase))
    }

    fn register_when_in_service(&mut self, now: Instant) {
        match (&self.traffic.ours, &self.group) {
            _ if self.traffic.wanted.is_empty() => {}
            (None, Some(_)) => self.ensure(Duty::Attached, now),
            (None, None) => self.traffic.ours = Some(self.traffic.wanted.clone()),
            (Some(ours), _) if ours.is_empty() => {}
            (Some(_), _) => self.ensure(Duty::Register, now),
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
                "{name} is attached to the group: the agent does not manage it"
            )));
        }
        self.traffic.ours = Some(ours);
    }

    /// Starts a duty of this module that is due.
    pub(super) fn begin_traffic(&mut self, duty: Duty) -> Option<Action> {
        if duty == Duty::Attached {
            return self.group.clone().map(Action::AskAttached);
        }
        let ours = self.traffic.ours.clone()?;
        Some(match duty {
            Duty::Register => {
                // The response may be lost: from now on the registration has to be undone.
                self.traffic.registration = Registration::Registering;
                Action::Register(ours)
            }
            Duty::Deregister => Action::Deregister(ours),
            _ => Action::AskTargetHealth(ours),
        })
    }

    pub(super) fn register_done(&mut self, outcome: Result<(), NoAnswer>, now: Instant) {
        match outcome {
            Ok(()) => {
                self.duties.done(Duty::Register);
                if self.traffic.registration == Registration::Registering {
                    self.traffic.registration = Registration::Registered {
                        since: now,
                        trouble: None,
                    };
                    self.duties.at(Duty::Traffic, now + INTERVAL);
                }
            }
            Err(NoAnswer) => self.duties.failed(Duty::Register, now),
        }
    }

    pub(super) fn deregister_done(&mut self, outcome: Result<(), NoAnswer>, now: Instant) {
        match outcome {
            Ok(()) => {
                self.duties.done(Duty::Deregister);
                self.traffic.registration = Registration::Deregistering;
                self.duties.at(Duty::Traffic, now);
            }
            Err(NoAnswer) => self.duties.failed(Duty::Deregister, now),
        }
    }

    pub(super) fn traffic_seen(&mut self, seen: Result<Vec<TargetHealth>, NoAnswer>, now: Instant) {
        let Ok(seen) = seen else {
            return self.duties.failed(Duty::Traffic, now);
        };
        self.duties.done(Duty::Traffic);
        let all_out = seen.iter().all(TargetHealth::is_not_registered);
        match &mut self.traffic.registration {
            Registration::Deregistering if all_out => {
                self.traffic.registration = Registration::NotRegistered
            }
            Registration::Registered { since, trouble } => {
                let missing = seen.iter().any(TargetHealth::is_not_registered);
                let unhealthy = seen.iter().find(|health| !health.is_well());
                match unhealthy {
                    None => (*since, *trouble) = (now, None),
                    Some(health) if now.saturating_duration_since(*since) >= PATIENCE => {
                        *trouble = Some(health.describe());
                    }
                    Some(_) => {}
                }
                let pause = if unhealthy.is_some() {
                    INTERVAL
                } else {
                    CALM_INTERVAL
                };
                self.duties.at(Duty::Traffic, now + pause);
                if missing {
                    // The target was deregistered by someone else; while the instance serves it is registered again.
                    self.traffic.registration = Registration::Registering;
                }
            }
            Registration::Deregistering => self.duties.at(Duty::Traffic, now + INTERVAL),
            Registration::NotRegistered | Registration::Registering => {}
        }
    }
}
