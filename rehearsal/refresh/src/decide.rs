//! The refresh as a pure state machine: from a plain view of the group and the time to moves.
//!
//! Owns the arithmetic and the order of replacements. Must not change anything: `advance` records what was decided.

use jiff::{SignedDuration, Timestamp};

use crate::preferences::{InStandby, Protected};
use crate::refresh::{AlarmState, Mark, Refresh, RefreshStatus};
use crate::stall::Pace;
use crate::switches::{Batches, NoMaxOrder, Rounding, StallReset, Switches, ToUpdate};

/// The longest a refresh may be active.
const LONGEST: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The role of a member in the refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To be replaced.
    Old,
    /// Launched by it, or while it was active.
    New,
    /// Not affected: ignored or matching.
    Outside,
}

/// A member that counts towards desired capacity, as input to the refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// The instance.
    pub id: String,
    /// Its role in the refresh.
    pub role: Role,
    /// InService, not Pending.
    pub in_service: bool,
    /// Healthy.
    pub healthy: bool,
    /// In service for the warm-up time.
    pub warm: bool,
    /// Protected from scale-in.
    pub protected: bool,
}

impl MemberView {
    fn works(&self) -> bool {
        self.in_service && self.healthy && (self.warm || self.role != Role::New)
    }

    fn updated(&self) -> bool {
        self.role == Role::New && self.works()
    }
}

/// The group and its alarms, as input to the refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// DesiredCapacity now.
    pub desired: u32,
    /// MaxSize now.
    pub max_size: u32,
    /// Members that count, in the order in which they would be removed.
    pub members: Vec<MemberView>,
    /// Old members in standby.
    pub standby: Vec<String>,
    /// Whether any member is being removed.
    pub removing: bool,
    /// The alarms it watches, with their states.
    pub alarms: Vec<(String, AlarmState)>,
    /// InstanceRefresh, Launch or Terminate is suspended.
    pub suspended: bool,
}

/// One step to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Pending → InProgress.
    Begin,
    /// Remove an old member.
    Terminate(String),
    /// Launch an instance with the target template.
    Launch,
    /// A checkpoint is reached: emit an event where one is due, then wait.
    Checkpoint {
        /// The percentage of the event; none when it is 100.
        reached: Option<u32>,
        /// The next checkpoint.
        next: usize,
        /// When the delay ends.
        until: Timestamp,
    },
    /// InProgress → Baking.
    Bake(Timestamp),
    /// End the refresh.
    End(RefreshStatus, Option<String>),
    /// Start a rollback.
    RollBack(String),
}

/// The output of the state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The steps, in order.
    pub moves: Vec<Move>,
    /// PercentageComplete now.
    pub percent: u32,
    /// InstancesToUpdate now.
    pub to_update: u32,
    /// StatusReason now.
    pub reason: Option<String>,
    /// How the stall clock runs.
    pub pace: Pace,
    /// Whether there is progress, as the switch `stall-reset` defines it.
    pub progress: bool,
    /// The highest progress so far.
    pub mark: Mark,
    /// Members that are healthy and warm for the first time.
    pub newly_ready: Vec<String>,
}

/// How many members must work: `ceil(desired * min / 100)`.
pub fn min_working(desired: u32, min: u32) -> u32 {
    (desired * min).div_ceil(100)
}

/// How many may exist at once.
pub fn max_existing(desired: u32, max: u32, rounding: Rounding) -> u32 {
    match rounding {
        Rounding::Floor => desired * max / 100,
        Rounding::Ceil => (desired * max).div_ceil(100),
    }
}

/// How many members the group may have now without the surplus being scaled in: new members are launched before the old
/// ones are removed.
pub fn allowance(refresh: &Refresh, view: &View, now: Timestamp, switches: &Switches) -> u32 {
    let holds = refresh.hold_until.is_some_and(|until| now < until);
    let replaces = matches!(
        refresh.status,
        RefreshStatus::InProgress | RefreshStatus::RollbackInProgress | RefreshStatus::Cancelling
    );
    if holds || !replaces {
        return view.desired;
    }
    let by_max = refresh.preferences.max.map_or(view.desired, |max| {
        max_existing(view.desired, max, switches.max_rounding)
    });
    let takeable = tally(refresh, view).takeable;
    // One above desired is always possible: when the bounds permit neither, a launch comes first.
    by_max
        .max(view.desired.saturating_add(1))
        .min(view.desired.saturating_add(takeable))
}

/// `now` plus whole seconds, never overflowing.
pub fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// Counts of members.
struct Tally {
    total: u32,
    updated: u32,
    started: u32,
    working: u32,
    /// Members in the scope of this refresh: desired less those outside.
    scope: u32,
    /// Old members that may be removed now.
    takeable: u32,
    /// Old members that may not be removed, because they are protected.
    blocked: u32,
}

fn count<'a>(members: impl Iterator<Item = &'a MemberView>) -> u32 {
    u32::try_from(members.count()).unwrap_or(u32::MAX)
}

fn blocked(refresh: &Refresh, member: &MemberView) -> bool {
    member.protected && refresh.preferences.protected != Protected::Refresh
}

fn tally(refresh: &Refresh, view: &View) -> Tally {
    let of = |wanted: &dyn Fn(&&MemberView) -> bool| count(view.members.iter().filter(wanted));
    let outside = of(&|m| m.role == Role::Outside);
    Tally {
        total: of(&|_| true),
        updated: of(&|m| m.updated()),
        started: of(&|m| m.role == Role::New),
        working: of(&|m| m.works()),
        scope: view.desired.saturating_sub(outside),
        takeable: of(&|m| m.role == Role::Old && !blocked(refresh, m)),
        blocked: of(&|m| m.role == Role::Old && blocked(refresh, m)),
    }
}

/// Decides what to do now.
pub fn decide(refresh: &Refresh, view: &View, now: Timestamp, switches: &Switches) -> Decision {
    let t = tally(refresh, view);
    let mut decision = Decision {
        percent: percent(refresh, view, &t, switches),
        to_update: to_update(refresh, &t, switches),
        newly_ready: view
            .members
            .iter()
            .filter(|m| m.updated() && !refresh.seen_ready.contains(&m.id))
            .map(|m| m.id.clone())
            .collect(),
        mark: mark(refresh, &t),
        ..Decision::default()
    };
    decision.progress = match switches.stall_reset {
        StallReset::NewlyReady => !decision.newly_ready.is_empty(),
        StallReset::MoreUpdated | StallReset::Never => {
            decision.mark.scope == refresh.mark.scope
                && decision.mark.updated > refresh.mark.updated
        }
    };
    match refresh.status {
        RefreshStatus::Pending if refresh.todo.is_empty() => {
            decision
                .moves
                .push(Move::End(RefreshStatus::Successful, None));
        }
        RefreshStatus::Pending => decision.moves.push(Move::Begin),
        RefreshStatus::Cancelling => {
            let under_way = view.removing || view.members.iter().any(|m| !m.in_service);
            if !refresh.cancel_waits || !under_way {
                decision.moves.push(Move::End(
                    RefreshStatus::Cancelled,
                    Some("Cancelled due to user request.".to_owned()),
                ));
            }
        }
        RefreshStatus::Baking => bake(refresh, view, now, switches, &mut decision),
        RefreshStatus::InProgress | RefreshStatus::RollbackInProgress => {
            replace(refresh, view, &t, now, switches, &mut decision);
        }
        RefreshStatus::Successful
        | RefreshStatus::Failed
        | RefreshStatus::Cancelled
        | RefreshStatus::RollbackFailed
        | RefreshStatus::RollbackSuccessful => {}
    }
    decision
}

fn mark(refresh: &Refresh, t: &Tally) -> Mark {
    let before = refresh.mark;
    Mark {
        scope: t.scope,
        updated: if before.scope == t.scope {
            before.updated.max(t.updated)
        } else {
            t.updated
        },
    }
}

fn percent(refresh: &Refresh, view: &View, t: &Tally, switches: &Switches) -> u32 {
    if let Some(rollback) = &refresh.rollback {
        let left = t.takeable + t.blocked;
        return (rollback.percent * left)
            .checked_div(rollback.to_undo)
            .unwrap_or(0)
            .min(rollback.percent);
    }
    let matching = if switches.percent_counts_matching {
        count(
            view.members
                .iter()
                .filter(|m| refresh.matching.contains(&m.id)),
        )
    } else {
        0
    };
    (100 * (t.updated + matching))
        .checked_div(t.scope + matching)
        .unwrap_or(100)
        .min(100)
}

fn to_update(refresh: &Refresh, t: &Tally, switches: &Switches) -> u32 {
    match (&refresh.rollback, switches.to_update) {
        (Some(rollback), _) => rollback.to_update,
        (None, ToUpdate::NotStarted) => t.scope.saturating_sub(t.started),
        (None, ToUpdate::NotUpdated) => t.scope.saturating_sub(t.updated),
    }
}

fn bake(
    refresh: &Refresh,
    view: &View,
    now: Timestamp,
    switches: &Switches,
    decision: &mut Decision,
) {
    if switches.alarms_while_baking
        && let Some(alarm) = in_state(view, AlarmState::Alarm)
    {
        decision.moves.push(fail(refresh, alarm_text(alarm)));
    } else if refresh.bake_until.is_none_or(|until| now >= until) {
        decision.moves.push(Move::End(done(refresh), None));
    } else {
        decision.reason = Some("Waiting for the bake time to end.".to_owned());
    }
}

fn replace(
    refresh: &Refresh,
    view: &View,
    t: &Tally,
    now: Timestamp,
    switches: &Switches,
    decision: &mut Decision,
) {
    if let Some(alarm) = in_state(view, AlarmState::Alarm)
        && refresh.rollback.is_none()
    {
        decision.moves.push(fail(refresh, alarm_text(alarm)));
        return;
    }
    if now.duration_since(refresh.started) >= LONGEST {
        let text = "The instance refresh was active for longer than 14 days.";
        decision.moves.push(fail(refresh, text.to_owned()));
        return;
    }
    if view.suspended {
        decision.reason = Some(
            "Waiting for the InstanceRefresh, Launch and Terminate processes to be resumed."
                .to_owned(),
        );
        return;
    }
    if let Some(alarm) = in_state(view, AlarmState::InsufficientData)
        && refresh.rollback.is_none()
    {
        decision.reason = Some(format!(
            "Waiting for the CloudWatch alarm {alarm} to have sufficient data."
        ));
        return;
    }
    if let Some(until) = refresh.hold_until.filter(|until| now < *until) {
        decision.reason = Some(format!(
            "Waiting for the checkpoint delay to end at {until:.0}."
        ));
        return;
    }

    let goal = goal(refresh, t, switches);
    let in_flight = t.started - t.updated;
    let standby_waits = goal == t.scope && !view.standby.is_empty();
    if in_flight == 0 && t.total <= view.desired && t.updated >= goal && !standby_waits {
        if goal == t.scope && view.removing && switches.success_waits_for_leaving {
            decision.reason = Some("Waiting for instances to be terminated.".to_owned());
            return;
        }
        reach_goal(refresh, t, now, switches, decision);
        return;
    }

    let (terminate, launch) = step(refresh, view, t, goal, switches);
    let held = switches.batches == Batches::Strict && in_flight > 0;
    if !held {
        let unworking = |m: &&MemberView| !m.works();
        let takeable = view
            .members
            .iter()
            .filter(|m| m.role == Role::Old && !blocked(refresh, m));
        let victims = takeable
            .clone()
            .filter(unworking)
            .chain(takeable.filter(|m| m.works()))
            .take(usize::try_from(terminate).unwrap_or(usize::MAX));
        decision
            .moves
            .extend(victims.map(|m| Move::Terminate(m.id.clone())));
        decision.moves.extend((0..launch).map(|_| Move::Launch));
    }
    if refresh.preferences.standby == InStandby::Terminate {
        let in_standby = view.standby.iter().cloned();
        decision.moves.extend(in_standby.map(Move::Terminate));
    }
    wait(refresh, view, t, now, switches, decision);
}

/// Replaced instances required for the next checkpoint.
fn goal(refresh: &Refresh, t: &Tally, switches: &Switches) -> u32 {
    let percent = checkpoints(refresh, switches)
        .get(refresh.next_checkpoint)
        .copied()
        .unwrap_or(100);
    (percent * t.scope).div_ceil(100)
}

/// Checkpoints in force: none in a rollback, unless the switch `checkpoints-in-rollback` is on.
fn checkpoints<'a>(refresh: &'a Refresh, switches: &Switches) -> &'a [u32] {
    if refresh.rollback.is_some() && !switches.checkpoints_in_rollback {
        &[]
    } else {
        &refresh.preferences.checkpoints
    }
}

fn reach_goal(
    refresh: &Refresh,
    t: &Tally,
    now: Timestamp,
    switches: &Switches,
    decision: &mut Decision,
) {
    let points = checkpoints(refresh, switches);
    let percent = (100 * t.updated).checked_div(t.scope).unwrap_or(100);
    // Skipped checkpoints get no event of their own.
    let reached = points
        .iter()
        .rposition(|point| *point <= percent)
        .filter(|position| *position >= refresh.next_checkpoint)
        .or_else(|| (refresh.next_checkpoint < points.len()).then_some(refresh.next_checkpoint));
    match reached {
        Some(position) if position + 1 < points.len() => {
            let until = after(now, i64::from(refresh.preferences.checkpoint_delay));
            decision.moves.push(Move::Checkpoint {
                reached: Some(points[position]),
                next: position + 1,
                until,
            });
        }
        last => {
            if let Some(point) = last.map(|position| points[position]).filter(|p| *p < 100) {
                decision.moves.push(Move::Checkpoint {
                    reached: Some(point),
                    next: points.len(),
                    until: now,
                });
            }
            let bakes = refresh.rollback.is_none() || switches.checkpoints_in_rollback;
            decision
                .moves
                .push(if bakes && refresh.preferences.bake > 0 {
                    Move::Bake(after(now, i64::from(refresh.preferences.bake)))
                } else {
                    Move::End(done(refresh), None)
                });
        }
    }
}

/// How many to terminate and how many to launch now.
fn step(refresh: &Refresh, view: &View, t: &Tally, goal: u32, switches: &Switches) -> (u32, u32) {
    let keep = min_working(view.desired, refresh.preferences.min);
    let free = goal.saturating_sub(t.started);
    // Old members to remove until the checkpoint, less those removed already.
    let old = t.takeable + t.blocked;
    let to_retire = old
        .saturating_sub(t.scope.saturating_sub(goal))
        .min(t.takeable);
    // Removing one that does not work costs no working capacity.
    let idle = count(
        view.members
            .iter()
            .filter(|m| m.role == Role::Old && !m.works() && !blocked(refresh, m)),
    );
    let spare = t.working.saturating_sub(keep) + idle;
    let in_flight = t.started - t.updated;

    let together = refresh.preferences.max.is_none()
        && !(refresh.preferences.min == 100 && switches.no_max_order == NoMaxOrder::LaunchFirst);
    if together {
        let n = free.min(to_retire).min(spare);
        // The bound is exceeded so that small groups make progress, but never while a member is missing.
        let n = if n == 0 && in_flight == 0 && t.total >= view.desired {
            free.min(to_retire).min(1)
        } else {
            n
        };
        // A surplus (desired capacity was lowered) is removed without replacement.
        let surplus = t
            .total
            .saturating_sub(view.desired)
            .min(to_retire - n)
            .min(spare.saturating_sub(n));
        return (n + surplus, n);
    }
    let terminate = spare.min(to_retire);
    let max = refresh.preferences.max.unwrap_or(100);
    let mut cap = max_existing(view.desired, max, switches.max_rounding);
    if !switches.surge_beyond_max_size {
        cap = cap.min(view.max_size);
    }
    // A launch is useful only where an old member can be removed for it, or a member is missing.
    let useful = (t.takeable + view.desired).saturating_sub(t.total);
    let free = free.min(useful);
    let launch = cap.saturating_sub(t.total - terminate).min(free);
    if terminate == 0 && launch == 0 && in_flight == 0 && free > 0 {
        return (0, 1);
    }
    (terminate, launch)
}

/// Sets the reason for waiting, and fails the refresh when it has waited too long.
fn wait(
    refresh: &Refresh,
    view: &View,
    t: &Tally,
    now: Timestamp,
    switches: &Switches,
    decision: &mut Decision,
) {
    let new = || view.members.iter().filter(|m| m.role == Role::New);
    let warming = new().find(|m| m.in_service && m.healthy && !m.warm);
    let unready = new().find(|m| !m.in_service || !m.healthy);
    let retiring = decision
        .moves
        .iter()
        .any(|m| matches!(m, Move::Terminate(_)));
    decision.reason = if let Some(member) = warming {
        Some(format!(
            "Waiting for instances to warm up before continuing. For example: {} is warming up.",
            member.id
        ))
    } else if let Some(member) = unready {
        Some(format!(
            "Waiting for remaining instances to be available. For example: {} has insufficient data to evaluate its health with Amazon EC2.",
            member.id
        ))
    } else if t.takeable == 0 && t.blocked > 0 {
        view.members
            .iter()
            .find(|m| m.role == Role::Old && blocked(refresh, m))
            .map(|member| {
                format!(
                    "Waiting for remaining instances to be available. For example: {} is protected. Remove instance scale-in protection to continue.",
                    member.id
                )
            })
    } else if t.takeable == 0 && !view.standby.is_empty() {
        view.standby.first().map(|id| {
            format!(
                "Waiting for remaining instances to be available. For example: {id} is in Standby. Take it out of standby to continue."
            )
        })
    } else {
        None
    };
    decision.pace = if retiring {
        Pace::Paused
    } else if warming.is_some() {
        Pace::Warming
    } else {
        Pace::Idle
    };
    let stood = refresh.stall.reading(refresh.preferences.warmup, now);
    let limit = SignedDuration::from_secs(i64::from(switches.stall_limit));
    if decision.pace != Pace::Paused && !decision.progress && stood >= limit {
        let what = decision
            .reason
            .take()
            .unwrap_or_else(|| "Replacements keep failing to launch.".to_owned());
        let text = format!(
            "The instance refresh made no progress for {} seconds. {what}",
            switches.stall_limit
        );
        decision.moves = vec![fail(refresh, text)];
    }
}

fn in_state(view: &View, wanted: AlarmState) -> Option<&str> {
    view.alarms
        .iter()
        .find(|(_, state)| *state == wanted)
        .map(|(name, _)| name.as_str())
}

fn alarm_text(alarm: &str) -> String {
    format!("The CloudWatch alarm {alarm} went into the ALARM state.")
}

fn done(refresh: &Refresh) -> RefreshStatus {
    if refresh.rollback.is_some() {
        RefreshStatus::RollbackSuccessful
    } else {
        RefreshStatus::Successful
    }
}

fn fail(refresh: &Refresh, why: String) -> Move {
    if refresh.rollback.is_some() {
        Move::End(RefreshStatus::RollbackFailed, Some(why))
    } else if refresh.preferences.auto_rollback && refresh.irreversible.is_none() {
        Move::RollBack(why)
    } else {
        Move::End(RefreshStatus::Failed, Some(why))
    }
}
