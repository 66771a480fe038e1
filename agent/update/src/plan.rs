//! Which release this instance takes now, pure: view → decision. Waves, windows, hold, pin, floor, skip list.
//!
//! It must not read a clock, a file or a socket: [`super::attempt`] passes the [`View`]. What overrides what, and
//! why, is in `docs/decisions/0008-waves-floors-and-holds.md`.

mod waves;
mod windows;

#[cfg(test)]
mod tests;

use std::fmt;

use jiff::Timestamp;
use semver::Version;

pub use self::waves::POSITIONS;
pub(crate) use self::waves::{position, reaches};
pub use self::windows::{NotAWindow, Window, Windows};
use super::blame::{self, Count, FailureKind, Failures};
use super::build::Build;
use super::channel::Offer;
use super::permission::{Withheld, longest_withheld};
use super::status::{Hold, Skipped};

/// Everything that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// This instance: `i-…`, or `machine-…` where there is no metadata service.
    pub(crate) instance_id: &'a str,
    /// Its architecture, as [`std::env::consts::ARCH`] names it.
    pub(crate) arch: &'a str,
    /// The channel it follows.
    pub(crate) channel: &'a str,
    /// What the channel offers: [`super::channel::Catalogue::offers`].
    pub(crate) offers: &'a [Offer],
    /// The build that `stable` points to.
    pub(crate) current: &'a Build,
    /// An operator's hold.
    pub(crate) hold: Option<&'a Hold>,
    /// The version an operator pinned.
    pub(crate) pin: Option<&'a Version>,
    /// Releases that are skipped here.
    pub(crate) skipped: &'a [Skipped],
    /// The highest floor seen so far.
    pub(crate) floor: Option<&'a Version>,
    /// When the daemon may be restarted.
    pub(crate) windows: &'a Windows,
    /// Failures of releases that are tried again, by cause.
    pub(crate) failures: &'a [Failures],
    /// When an operator last requested an attempt at once: pauses after earlier failures are over.
    pub(crate) requested_at: Option<Timestamp>,
    /// Whether the daemon has yet to reach its first verdict on this instance.
    pub(crate) first_boot: bool,
    /// Since when the daemon has withheld its permission to be restarted.
    pub(crate) withheld: Option<&'a Withheld>,
}

/// What this instance does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It runs the right release.
    Current,
    /// Take this release now.
    Update {
        /// What.
        offer: Offer,
        /// Why.
        why: Why,
    },
    /// Signed metadata withdrew the running release and names another one: take that now.
    Rollback {
        /// What.
        offer: Offer,
        /// Why the running release was withdrawn.
        reason: String,
    },
    /// The release's wave has not reached this instance.
    WaitWave {
        /// What it will take.
        offer: Offer,
        /// When.
        at: Timestamp,
    },
    /// Outside of the update windows.
    WaitWindow {
        /// What it will take.
        offer: Offer,
        /// When the next window opens.
        at: Timestamp,
    },
    /// Attempts failed; waiting before the next one.
    WaitBackoff {
        /// What it will take.
        offer: Offer,
        /// When the next attempt is.
        at: Timestamp,
        /// What failed, in one line.
        after: String,
    },
    /// The daemon has yet to reach its first verdict on this instance.
    WaitVerdict {
        /// What it will take.
        offer: Offer,
    },
    /// An operator holds the instance; without the hold it would take this.
    Held {
        /// What it would take.
        offer: Offer,
        /// The end of the hold; `None`: until released.
        until: Option<Timestamp>,
    },
    /// The instance should change, or an operator wants it to, and no release in the channel is suitable.
    Nothing {
        /// Why each candidate is unsuitable.
        reasons: Vec<String>,
    },
}

/// Why a release is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is newer, and its wave has reached this instance.
    Newer,
    /// An operator pinned it.
    Pinned,
    /// The instance is below the floor.
    BelowFloor {
        /// The floor.
        floor: Version,
        /// What was overridden, for messages: `hold`, `pin`, `window`, `wave`.
        overrides: Vec<&'static str>,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer => f.write_str("newer"),
            Self::Pinned => f.write_str("pinned"),
            Self::BelowFloor { floor, overrides } => {
                write!(f, "below the floor {floor}")?;
                if !overrides.is_empty() {
                    write!(f, ", overriding {}", overrides.join(" and "))?;
                }
                Ok(())
            }
        }
    }
}

impl Decision {
    /// The release that it takes now or later.
    #[must_use]
    pub(crate) fn offer(&self) -> Option<&Offer> {
        match self {
            Self::Update { offer, .. }
            | Self::Rollback { offer, .. }
            | Self::WaitWave { offer, .. }
            | Self::WaitWindow { offer, .. }
            | Self::WaitBackoff { offer, .. }
            | Self::WaitVerdict { offer }
            | Self::Held { offer, .. } => Some(offer),
            Self::Current | Self::Nothing { .. } => None,
        }
    }

    /// Whether a withdrawal or the floor requires it: the running release is harmful.
    #[must_use]
    pub(crate) fn is_urgent(&self) -> bool {
        matches!(
            self,
            Self::Rollback { .. }
                | Self::Update {
                    why: Why::BelowFloor { .. },
                    ..
                }
        )
    }

    /// The code: stable, lower case, kebab case; empty while all is well.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Nothing { .. } => "nothing-suitable",
            _ => "",
        }
    }
}

/// One line for messages.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.offer().map(|offer| &offer.release.version);
        match (self, version) {
            (Self::Update { why, .. }, Some(version)) => write!(f, "taking {version}: {why}"),
            (Self::Rollback { reason, .. }, Some(version)) => {
                write!(
                    f,
                    "going back to {version}: the running release was withdrawn: {reason}"
                )
            }
            (Self::WaitWave { at, .. }, Some(version)) => {
                write!(f, "{version} reaches this instance at {at}")
            }
            (Self::WaitWindow { at, .. }, Some(version)) => {
                write!(f, "{version} waits for the window that opens at {at}")
            }
            (Self::WaitBackoff { at, after, .. }, Some(version)) => {
                write!(f, "{version} is tried again at {at}, as it failed: {after}")
            }
            (Self::WaitVerdict { .. }, Some(version)) => {
                write!(
                    f,
                    "{version} waits for the agent's first verdict on this instance"
                )
            }
            (
                Self::Held {
                    until: Some(until), ..
                },
                Some(version),
            ) => {
                write!(f, "held until {until}; would take {version}")
            }
            (Self::Held { until: None, .. }, Some(version)) => {
                write!(f, "held until released; would take {version}")
            }
            (Self::Nothing { reasons }, _) => f.write_str(&reasons.join("; ")),
            _ => f.write_str("current"),
        }
    }
}

/// The current floor: the highest of those in the channel's releases for this architecture and of the one seen
/// before. To be persisted whenever it rises; it never falls.
///
/// A withdrawn release's floor counts too.
#[must_use]
pub(crate) fn floor(view: &View<'_>) -> Option<Version> {
    let floors = view
        .carried()
        .filter_map(|offer| offer.release.floor.as_ref());
    floors.chain(view.floor).max().cloned()
}

/// What this instance does at `now`.
#[must_use]
pub(crate) fn decide(view: &View<'_>, now: Timestamp) -> Decision {
    let floor = floor(view);
    if let Some(floor) = floor
        .as_ref()
        .filter(|floor| view.current.version < **floor)
    {
        return below(view, floor, now);
    }
    let mut reasons = Vec::new();
    if let Some(decision) = rollback(view, floor.as_ref(), &mut reasons) {
        return restrain(view, decision, now);
    }
    let decision = match view.pin {
        Some(pin) => pinned(view, pin, floor.as_ref(), &mut reasons),
        None => newer(view, now, &mut reasons),
    };
    match decision {
        Decision::Current if !reasons.is_empty() => Decision::Nothing { reasons },
        decision => restrain(view, decision, now),
    }
}

/// An instance below the floor takes what gets it above, regardless of hold, pin, window and wave. It keeps serving
/// meanwhile.
fn below(view: &View<'_>, floor: &Version, now: Timestamp) -> Decision {
    let current = &view.current.version;
    let mut reasons = vec![format!("{current} is below the floor {floor}")];
    // No more risk than necessary: of the releases that are high enough, first the newest whose wave has reached this
    // instance; else the one whose wave reaches it next.
    let reach = |offer: &Offer| view.reaches(offer).unwrap_or(Timestamp::MAX).max(now);
    let soonest = |offers: &[&Offer]| {
        // Suspected releases come last.
        let key = |offer: &&&Offer| {
            (
                view.suspected(offer, now).is_some(),
                reach(offer),
                std::cmp::Reverse(offer.release.version.clone()),
            )
        };
        offers.iter().min_by_key(key).copied().cloned()
    };
    let high: Vec<&Offer> = view
        .not_withdrawn()
        .filter(|offer| offer.release.version >= *floor)
        .collect();
    let fit: Vec<&Offer> = high
        .iter()
        .copied()
        .filter(|offer| view.suits(offer, &mut reasons))
        .collect();
    let chosen = match view.pin {
        Some(pin) => fit
            .iter()
            .find(|offer| offer.release.version == *pin)
            .copied()
            .cloned(),
        None => None,
    };
    let stepping_stone = || {
        // The releases that are high enough may require an intermediate one first.
        let leads = |offer: &&Offer| {
            let version = &offer.release.version;
            high.iter().any(|high| {
                high.release
                    .min_from
                    .as_ref()
                    .is_some_and(|from| from <= version)
            })
        };
        let between: Vec<&Offer> = view
            .not_withdrawn()
            .filter(|offer| offer.release.version > *current && offer.release.version < *floor)
            .filter(leads)
            .filter(|offer| view.suits(offer, &mut Vec::new()))
            .collect();
        soonest(&between)
    };
    let Some(offer) = chosen.or_else(|| soonest(&fit)).or_else(stepping_stone) else {
        if high.is_empty() {
            reasons.push("the channel has no such release".to_owned());
        }
        return Decision::Nothing { reasons };
    };
    if let Some((at, after)) = view.paused(&offer, now) {
        return Decision::WaitBackoff { offer, at, after };
    }
    let why = Why::BelowFloor {
        floor: floor.clone(),
        overrides: overridden(view, &offer, now),
    };
    Decision::Update { offer, why }
}

/// What would keep the instance from taking this release now if it were not below the floor.
fn overridden(view: &View<'_>, offer: &Offer, now: Timestamp) -> Vec<&'static str> {
    let mut overrides = Vec::new();
    if view.held(now).is_some() {
        overrides.push("hold");
    }
    if view.pin.is_some_and(|pin| *pin != offer.release.version) {
        overrides.push("pin");
    }
    if !view.windows.open(now) {
        overrides.push("window");
    }
    if view.pin.is_none() && view.reaches(offer).is_none_or(|at| at > now) {
        overrides.push("wave");
    }
    overrides
}

/// The release that replaces a withdrawn one, as signed metadata names it.
fn rollback(
    view: &View<'_>,
    floor: Option<&Version>,
    reasons: &mut Vec<String>,
) -> Option<Decision> {
    let running = |offer: &&Offer| {
        offer.digest == view.current.digest || offer.release.version == view.current.version
    };
    let running = view.carried().find(running)?;
    let withdrawal = running.release.withdrawn.as_ref()?;
    // The named release may have been withdrawn since: then follow its own replacement. At most as many steps as
    // there are releases, since the metadata may contain a circle.
    let mut to = withdrawal.rollback_to.as_ref()?;
    for _ in 0..view.offers.len() {
        let mut named = view.carried().filter(|offer| offer.release.version == *to);
        let Some(offer) = named.next() else {
            reasons.push(format!("{to}, to go back to, is not in the channel"));
            return None;
        };
        if let Some(next) = &offer.release.withdrawn {
            let Some(next) = next.rollback_to.as_ref() else {
                reasons.push(format!("{to}, to go back to, was withdrawn too"));
                return None;
            };
            to = next;
            continue;
        }
        if floor.is_some_and(|floor| to < floor) {
            reasons.push(format!("{to}, to go back to, is below the floor"));
            return None;
        }
        return view.suits(offer, reasons).then(|| Decision::Rollback {
            offer: offer.clone(),
            reason: withdrawal.reason.clone(),
        });
    }
    reasons.push(format!("{to}, to go back to, was withdrawn too"));
    None
}

/// Exactly the version that an operator pinned.
fn pinned(
    view: &View<'_>,
    pin: &Version,
    floor: Option<&Version>,
    reasons: &mut Vec<String>,
) -> Decision {
    if *pin == view.current.version {
        return Decision::Current;
    }
    if floor.is_some_and(|floor| pin < floor) {
        reasons.push(format!("pinned {pin} is below the floor"));
        return Decision::Current;
    }
    let Some(offer) = view.carried().find(|offer| offer.release.version == *pin) else {
        reasons.push(format!("pinned {pin} is not in the channel"));
        return Decision::Current;
    };
    if offer.release.withdrawn.is_some() {
        reasons.push(format!("pinned {pin} was withdrawn"));
        return Decision::Current;
    }
    if !view.suits(offer, reasons) {
        return Decision::Current;
    }
    Decision::Update {
        offer: offer.clone(),
        why: Why::Pinned,
    }
}

/// The newest release whose wave has reached this instance and that is not suspected; else a suspected one, which
/// then waits; else the one whose wave reaches the instance first.
fn newer(view: &View<'_>, now: Timestamp, reasons: &mut Vec<String>) -> Decision {
    let mut next: Option<(Timestamp, &Offer)> = None;
    let mut taken: Option<&Offer> = None;
    let mut suspected: Option<&Offer> = None;
    let mut passed_over = Vec::new();
    for offer in view.not_withdrawn() {
        let version = &offer.release.version;
        if *version <= view.current.version || !view.suits(offer, &mut passed_over) {
            continue;
        }
        match view.reaches(offer) {
            Some(at) if at <= now => {
                let place = match view.suspected(offer, now) {
                    Some(_) => &mut suspected,
                    None => &mut taken,
                };
                if place.is_none_or(|other| other.release.version < *version) {
                    *place = Some(offer);
                }
            }
            Some(at) => {
                let sooner = |(soonest, other): (Timestamp, &Offer)| {
                    at < soonest || at == soonest && other.release.version < *version
                };
                if next.is_none_or(sooner) {
                    next = Some((at, offer));
                }
            }
            None => passed_over.push(format!("the waves of {version} end before this instance")),
        }
    }
    match (taken.or(suspected), next) {
        (Some(offer), _) => Decision::Update {
            offer: offer.clone(),
            why: Why::Newer,
        },
        (None, Some((at, offer))) => Decision::WaitWave {
            offer: offer.clone(),
            at,
        },
        (None, None) => {
            reasons.append(&mut passed_over);
            Decision::Current
        }
    }
}

/// What delays a decision: a hold, the first verdict, the windows, and pauses after failures.
fn restrain(view: &View<'_>, decision: Decision, now: Timestamp) -> Decision {
    let (offer, may_wait) = match &decision {
        Decision::Update { offer, .. } => (offer.clone(), true),
        // A withdrawn release is harmful: it is replaced outside of windows too.
        Decision::Rollback { offer, .. } => (offer.clone(), false),
        _ => return decision,
    };
    if let Some(hold) = view.held(now) {
        return Decision::Held {
            offer,
            until: hold.until,
        };
    }
    if view.awaits_verdict(!may_wait) {
        return Decision::WaitVerdict { offer };
    }
    if may_wait && !view.windows.open(now) {
        return Decision::WaitWindow {
            offer,
            at: view.windows.next(now),
        };
    }
    if let Some((at, after)) = view.paused(&offer, now) {
        return Decision::WaitBackoff { offer, at, after };
    }
    decision
}

impl<'a> View<'a> {
    /// The channel's releases for this architecture.
    fn carried(&self) -> impl Iterator<Item = &'a Offer> + use<'a> {
        let (arch, channel) = (self.arch, self.channel);
        self.offers.iter().filter(move |offer| {
            offer.release.arch == arch && offer.release.channels.contains_key(channel)
        })
    }

    /// Those that were not withdrawn.
    fn not_withdrawn(&self) -> impl Iterator<Item = &'a Offer> + use<'a> {
        self.carried()
            .filter(|offer| offer.release.withdrawn.is_none())
    }

    /// Whether this instance may take an offer directly; else adds the reason why not.
    fn suits(&self, offer: &Offer, reasons: &mut Vec<String>) -> bool {
        let version = &offer.release.version;
        if let Some(skipped) = self
            .skipped
            .iter()
            .find(|skipped| skipped.build.digest == offer.digest)
        {
            reasons.push(format!("{version} failed here: {}", skipped.reason));
            return false;
        }
        match &offer.release.min_from {
            Some(from) if self.current.version < *from => {
                reasons.push(format!("{version} requires {from} or newer first"));
                false
            }
            _ => true,
        }
    }

    /// When an offer's wave reaches this instance; `None`: never.
    fn reaches(&self, offer: &Offer) -> Option<Timestamp> {
        let rollout = offer.release.channels.get(self.channel)?;
        reaches(rollout, position(&offer.digest, self.instance_id))
    }

    /// The end of the pause after failed attempts at this offer, and the reason of the last one.
    fn paused(&self, offer: &Offer, now: Timestamp) -> Option<(Timestamp, String)> {
        let (until, _, count) = self.pending(offer, now)?;
        Some((until, count.reason.clone()))
    }

    /// The same if the offer is suspected on this host.
    fn suspected(&self, offer: &Offer, now: Timestamp) -> Option<Timestamp> {
        let (until, kind, _) = self.pending(offer, now)?;
        kind.is_suspect().then_some(until)
    }

    fn pending(
        &self,
        offer: &Offer,
        now: Timestamp,
    ) -> Option<(Timestamp, FailureKind, &'a Count)> {
        let build = Build {
            version: offer.release.version.clone(),
            digest: offer.digest.clone(),
        };
        blame::of(self.failures, &build)?.until(now, self.requested_at)
    }

    /// Whether to wait for the daemon's first verdict, for a limited time.
    fn awaits_verdict(&self, urgent: bool) -> bool {
        let over = |withheld: &Withheld| withheld.lasted() >= longest_withheld(urgent);
        self.first_boot && !self.withheld.is_some_and(over)
    }

    /// The hold, unless it has ended.
    fn held(&self, now: Timestamp) -> Option<&'a Hold> {
        self.hold
            .filter(|hold| hold.until.is_none_or(|until| now < until))
    }
}
