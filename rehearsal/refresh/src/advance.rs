//! A refresh from its start to its end: records what `decide` decided and returns what the caller has to do.
//!
//! Owns every change of a [`Refresh`]. Must not launch or terminate anything.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::decide::{Decision, Move, Role, View, decide};
use crate::preferences::{InStandby, Preferences, Protected};
use crate::refresh::{Mark, Refresh, RefreshEvent, RefreshStatus, RollbackDetails, TemplateRef};
use crate::stall::StallClock;
use crate::switches::{StallReset, Switches};

/// A member of the group when a refresh starts: one that counts towards desired capacity, or is in standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub id: String,
    /// Whether it has the target's template version and instance type already.
    pub matches: bool,
    /// Protected from scale-in.
    pub protected: bool,
    /// In standby, or entering it.
    pub standby: bool,
}

/// What a refresh is started with, checked by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// InstanceRefreshId.
    pub id: String,
    /// Preferences, defaults filled in.
    pub preferences: Preferences,
    /// DesiredConfiguration, when given.
    pub desired: Option<TemplateRef>,
    /// The template of new instances: the desired one, else the saved one.
    pub target: TemplateRef,
    /// The group's saved template.
    pub previous: TemplateRef,
    /// Why the refresh cannot be rolled back, when it cannot.
    pub irreversible: Option<String>,
    /// The group's members.
    pub members: Vec<Candidate>,
}

/// What the caller of [`Refresh::advance`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove this member.
    Terminate(String),
    /// Launch an instance with [`Refresh::target`], and give its id to [`Refresh::adopt`].
    Launch,
    /// The refresh is over. Save [`Refresh::desired`] as the group's template when it was successful.
    Ended(RefreshStatus),
    /// Call [`Refresh::roll_back`] with this reason.
    RollBack(String),
}

impl Refresh {
    /// Starts a refresh at `now`. Which members it replaces is decided here, by skip matching and by what the
    /// preferences say about protected members and those in standby.
    pub fn start(start: Start, now: Timestamp) -> Self {
        let preferences = &start.preferences;
        let skipped = |m: &Candidate| preferences.skip_matching && m.matches;
        let replaced = |m: &Candidate| {
            !(skipped(m)
                || m.protected && preferences.protected == Protected::Ignore
                || m.standby && preferences.standby == InStandby::Ignore)
        };
        let ids = |which: &dyn Fn(&Candidate) -> bool| -> BTreeSet<String> {
            let members = start.members.iter().filter(|m| which(m));
            members.map(|m| m.id.clone()).collect()
        };
        let (matching, todo) = (ids(&skipped), ids(&replaced));
        Self {
            id: start.id,
            status: RefreshStatus::Pending,
            reason: None,
            started: now,
            ended: None,
            preferences: start.preferences,
            desired: start.desired,
            target: start.target,
            previous: start.previous,
            irreversible: start.irreversible,
            to_update: u32::try_from(todo.len()).unwrap_or(u32::MAX),
            todo,
            matching,
            launched: BTreeSet::new(),
            seen_ready: BTreeSet::new(),
            next_checkpoint: 0,
            hold_until: None,
            bake_until: None,
            stall: StallClock::default(),
            mark: Mark::default(),
            percent: 0,
            rollback: None,
            cancel_waits: true,
            events: Vec::new(),
        }
    }

    /// Decides what is next, records it, and returns what the caller has to do, in order. Does nothing when the refresh
    /// is over.
    pub fn advance(&mut self, view: &View, now: Timestamp, switches: &Switches) -> Vec<Action> {
        if !self.status.is_active() {
            return Vec::new();
        }
        let Decision {
            moves,
            percent,
            to_update,
            reason,
            pace,
            progress,
            mark,
            newly_ready,
        } = decide(self, view, now, switches);
        self.percent = percent;
        self.to_update = to_update;
        self.reason = reason;
        if progress {
            let forget = switches.stall_reset != StallReset::Never;
            self.stall.progress(self.preferences.warmup, forget, now);
        }
        self.mark = mark;
        self.seen_ready.extend(newly_ready);
        self.stall.run(pace, now);
        moves
            .into_iter()
            .filter_map(|next| self.record(next, now))
            .collect()
    }

    /// Records a move that concerns the refresh alone, or returns the caller's part.
    fn record(&mut self, next: Move, now: Timestamp) -> Option<Action> {
        match next {
            Move::Terminate(id) => return Some(Action::Terminate(id)),
            Move::Launch => return Some(Action::Launch),
            Move::RollBack(why) => return Some(Action::RollBack(why)),
            Move::End(status, why) => {
                self.end(status, why, now);
                return Some(Action::Ended(status));
            }
            Move::Begin => {
                self.status = RefreshStatus::InProgress;
                self.event("Started", now);
            }
            Move::Checkpoint {
                reached,
                next,
                until,
            } => {
                self.next_checkpoint = next;
                self.hold_until = Some(until);
                if let Some(percent) = reached {
                    self.event(format!("Checkpoint Reached ({percent})"), now);
                }
            }
            Move::Bake(until) => {
                self.status = RefreshStatus::Baking;
                self.bake_until = Some(until);
                self.event("Started Baking", now);
            }
        }
        None
    }

    fn end(&mut self, status: RefreshStatus, why: Option<String>, now: Timestamp) {
        self.status = status;
        self.reason = why;
        self.ended = Some(now);
        let what = match status {
            RefreshStatus::Successful => "Succeeded",
            RefreshStatus::Cancelled => "Cancelled",
            RefreshStatus::RollbackSuccessful => "Rollback Succeeded",
            RefreshStatus::RollbackFailed => "Rollback Failed",
            _ => "Failed",
        };
        self.event(what, now);
    }

    /// Adds an instance that was launched while the refresh is active to its own.
    pub fn adopt(&mut self, id: &str) {
        self.launched.insert(id.to_owned());
    }

    /// The role of a member in this refresh.
    pub fn role(&self, id: &str, protected: bool) -> Role {
        if self.launched.contains(id) {
            Role::New
        } else if !self.todo.contains(id)
            || protected && self.preferences.protected == Protected::Ignore
        {
            Role::Outside
        } else {
            Role::Old
        }
    }

    /// Cancels the refresh or its rollback; with `wait`, replacements in progress are finished first. Returns whether
    /// there was something to cancel: not twice, and not after the end.
    #[must_use]
    pub fn cancel(&mut self, wait: bool) -> bool {
        if !self.status.is_active() || self.status == RefreshStatus::Cancelling {
            return false;
        }
        self.status = RefreshStatus::Cancelling;
        self.cancel_waits = wait;
        true
    }

    /// Whether its status permits a rollback on request. One that is [irreversible](Self::irreversible) cannot be
    /// rolled back in any status.
    pub fn accepts_rollback(&self, switches: &Switches) -> bool {
        match self.status {
            RefreshStatus::Pending | RefreshStatus::InProgress => true,
            RefreshStatus::Baking => switches.rollback_while_baking,
            _ => false,
        }
    }

    /// Starts the rollback: the new members are replaced by ones with the saved template. `remains` reports whether an
    /// instance is still a member and not being removed.
    pub fn roll_back(&mut self, why: String, remains: impl Fn(&str) -> bool, now: Timestamp) {
        self.launched.retain(|id| remains(id));
        self.todo = std::mem::take(&mut self.launched);
        self.matching.clear();
        self.seen_ready.clear();
        self.rollback = Some(RollbackDetails {
            reason: why,
            started: now,
            percent: self.percent,
            to_update: self.to_update,
            to_undo: u32::try_from(self.todo.len()).unwrap_or(u32::MAX),
        });
        self.target = self.previous.clone();
        self.status = RefreshStatus::RollbackInProgress;
        self.reason = None;
        self.next_checkpoint = 0;
        self.hold_until = None;
        self.bake_until = None;
        self.stall = StallClock::default();
        self.mark = Mark::default();
        self.event("Rollback Started", now);
    }

    fn event(&mut self, what: impl Into<String>, at: Timestamp) {
        self.events.push(RefreshEvent {
            at,
            what: what.into(),
        });
    }
}
