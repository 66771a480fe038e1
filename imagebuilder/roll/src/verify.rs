//! Verifies a finished roll: a view of the fleet and what is expected in, its flaws out.
//!
//! Pure: it makes no calls and does not wait. "Successful" only means that the service replaced what it
//! meant to; protected, standby and retained members survive it, and so does an unhealthy target.

use std::fmt;
use std::time::Duration;

use contract::registry::Verdict;

use super::plan::Target;
use super::view::{FleetView, Launches, Lifecycle, Member, SavedVersion};
use cloud::ids::InstanceId;

/// Something that is wrong with a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The member, or `None` when it is the group's own flaw.
    pub(crate) instance: Option<InstanceId>,
    /// What is wrong.
    pub(crate) what: String,
    /// Whether waiting can resolve it.
    pub(crate) nature: Nature,
}

/// Whether waiting can resolve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It may be resolved by waiting: something is still launching, terminating, or being checked.
    Settling,
    /// It will not change by itself.
    Lasting,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{instance} {}", self.what),
            None => write!(f, "the group {}", self.what),
        }
    }
}

/// Why a fleet is not verified: at least one flaw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaws {
    first: Flaw,
    rest: Vec<Flaw>,
}

impl Flaws {
    /// All of them; `None` when there are none.
    pub(crate) fn of(flaws: Vec<Flaw>) -> Option<Self> {
        let mut flaws = flaws.into_iter();
        Some(Self {
            first: flaws.next()?,
            rest: flaws.collect(),
        })
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flaw> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

impl fmt::Display for Flaws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        match self.rest.len() {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// The terminating members of other versions: nothing waits for them.
pub(crate) fn leaving(members: &[Member], target: &Target) -> usize {
    members
        .iter()
        .filter(|member| matches!(member.lifecycle, Lifecycle::Leaving(_)))
        .filter(|member| !member.runs(&target.template_id, target.version))
        .count()
}

/// Everything that prevents this fleet from being verified on `target`.
pub(crate) fn flaws(view: &FleetView, target: &Target) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    if let Some(what) = saved_elsewhere(view, target) {
        flaws.push(Flaw {
            instance: None,
            what,
            nature: Nature::Settling,
        });
    }
    let in_service = view
        .members
        .iter()
        .filter(|member| member.lifecycle == Lifecycle::InService)
        .count();
    let wanted = usize::try_from(view.size.desired).unwrap_or(usize::MAX);
    if in_service < wanted {
        let what = format!("has {in_service} of {wanted} members in service");
        flaws.push(Flaw {
            instance: None,
            what,
            nature: Nature::Settling,
        });
    }
    let records = view.members.iter().any(|member| member.record.is_some());
    for member in &view.members {
        if let Some((what, nature)) = flaw_of(member, view, target, records) {
            flaws.push(Flaw {
                instance: Some(member.instance.clone()),
                what,
                nature,
            });
        }
    }
    flaws
}

/// How the group is saved, if not on the target version.
fn saved_elsewhere(view: &FleetView, target: &Target) -> Option<String> {
    match &view.launches {
        Launches::Template(template)
            if template.id == target.template_id
                && template.saved == SavedVersion::Number(target.version) =>
        {
            None
        }
        Launches::Template(template) => Some(format!(
            "is saved on version {} of template {}",
            template.saved, template.name
        )),
        Launches::Deleted { id, .. } => Some(format!(
            "launches from launch template {id}, which does not exist any more"
        )),
        Launches::Configuration { .. } | Launches::Mixed { .. } => {
            Some("is not saved on a launch template any more".into())
        }
    }
}

/// The first flaw of one member. `records` is whether this group's instances keep
/// registry records, so that one without a record is a flaw.
fn flaw_of(
    member: &Member,
    view: &FleetView,
    target: &Target,
    records: bool,
) -> Option<(String, Nature)> {
    let matching = member.runs(&target.template_id, target.version);
    match &member.lifecycle {
        Lifecycle::InService => {}
        // A terminating instance serves no traffic, and a new instance in standby was not promised to.
        Lifecycle::Leaving(_) => return None,
        Lifecycle::Standby if matching => return None,
        Lifecycle::Standby => {
            return Some(("is in standby and was not replaced".into(), Nature::Lasting));
        }
        Lifecycle::Retained => {
            return Some((
                "was retained after its termination and still runs".into(),
                Nature::Lasting,
            ));
        }
        state @ (Lifecycle::Coming(_) | Lifecycle::Other(_)) => {
            return Some((format!("is {state}"), Nature::Settling));
        }
    }
    version_flaw(member, target)
        .or_else(|| health_flaw(member, view))
        .or_else(|| record_flaw(member, target, records))
}

/// What is wrong with its template version or image.
fn version_flaw(member: &Member, target: &Target) -> Option<(String, Nature)> {
    if !member.runs(&target.template_id, target.version) {
        let runs = member.template.as_ref().map_or_else(
            || "no version of a launch template".to_owned(),
            |own| format!("version {}", own.version),
        );
        let why = if member.protected {
            ", protected from scale-in"
        } else {
            ""
        };
        return Some((
            format!("runs {runs}, not {}{why}", target.version),
            Nature::Lasting,
        ));
    }
    match &member.image {
        None => Some(("is not known to EC2 yet".into(), Nature::Settling)),
        Some(image) if *image != target.image => Some((
            format!("runs image {image}, not {}", target.image),
            Nature::Lasting,
        )),
        Some(_) => None,
    }
}

/// What is wrong with its health to the group and to its target groups.
fn health_flaw(member: &Member, view: &FleetView) -> Option<(String, Nature)> {
    if !member.healthy {
        return Some(("is Unhealthy to the group".into(), Nature::Settling));
    }
    if !view.target_groups.is_empty() && member.targets.is_empty() {
        return Some(("is in no target group".into(), Nature::Settling));
    }
    if let Some(unhealthy) = member.targets.iter().find(|one| !one.is_healthy()) {
        let space = if unhealthy.reason.is_empty() { "" } else { " " };
        return Some((
            format!(
                "is {} to its target group{space}{}",
                unhealthy.state, unhealthy.reason
            ),
            Nature::Settling,
        ));
    }
    None
}

/// What is wrong with its agent's record. `records` is whether every member has one.
fn record_flaw(member: &Member, target: &Target, records: bool) -> Option<(String, Nature)> {
    let Some(record) = &member.record else {
        return records.then(|| ("has no registry record".into(), Nature::Settling));
    };
    if record.verdict != Verdict::Fit {
        let verdict = verdict_text(record.verdict);
        let colon = if record.reason.is_empty() { "" } else { ": " };
        return Some((
            format!("reports {verdict}{colon}{}", record.reason),
            Nature::Settling,
        ));
    }
    (record.image != target.image.as_str()).then(|| {
        (
            format!("has a registry record of image {}", record.image),
            Nature::Settling,
        )
    })
}

/// A verdict as the registry spells it.
pub(crate) fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Judging => "judging",
        Verdict::Fit => "fit",
        Verdict::Unfit => "unfit",
        Verdict::Resting => "resting",
        Verdict::Draining => "draining",
        _ => "unknown",
    }
}

/// Consecutive polls without flaws, and with lasting ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rounds {
    good: u32,
    hopeless: u32,
}

/// What a poll of a finished fleet leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Poll again.
    Again,
    /// Every member was healthy in enough consecutive polls.
    Verified,
    /// It cannot be verified.
    GiveUp,
}

impl Rounds {
    /// Counts one poll. A lasting flaw has to be seen as often as a healthy fleet has to: the
    /// service's answers are not always from the same moment.
    pub(crate) fn observe(
        &mut self,
        flaws: &[Flaw],
        rounds: u32,
        limit: Duration,
        verified: Duration,
    ) -> Verification {
        self.good = if flaws.is_empty() { self.good + 1 } else { 0 };
        let hopeless = flaws.iter().any(|flaw| flaw.nature == Nature::Lasting)
            && flaws
                .iter()
                .all(|flaw| flaw.nature == Nature::Lasting || flaw.instance.is_none());
        self.hopeless = if hopeless { self.hopeless + 1 } else { 0 };
        if self.good >= rounds {
            Verification::Verified
        // A poll that found no flaw is no reason to give up, however late it is.
        } else if self.hopeless >= rounds || (verified >= limit && !flaws.is_empty()) {
            Verification::GiveUp
        } else {
            Verification::Again
        }
    }

    /// Consecutive polls without flaws so far.
    pub(crate) fn good(&self) -> u32 {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::super::view::TargetHealth;
    use super::*;

    /// A healthy fleet of three that runs `target()`.
    fn healthy() -> FleetView {
        sample::fleet(3, 8, "ami-2")
    }

    fn target() -> Target {
        sample::target(8, "ami-2")
    }

    fn texts(view: &FleetView) -> Vec<String> {
        flaws(view, &target())
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_healthy_fleet_has_no_flaws() {
        assert_eq!(texts(&healthy()), [""; 0]);
        let mut empty = healthy();
        empty.members.clear();
        empty.size.desired = 0;
        assert_eq!(texts(&empty), [""; 0]);
    }

    #[test]
    fn every_flaw_is_named_and_sorted_by_whether_waiting_helps() {
        type Spoil = fn(&mut FleetView);
        let cases: [(Spoil, &str, Nature); 16] = [
            (
                |view| sample::template(view).saved = SavedVersion::Number(7),
                "the group is saved on version 7 of template shop",
                Nature::Settling,
            ),
            (
                |view| sample::template(view).saved = SavedVersion::Latest,
                "the group is saved on version $Latest of template shop",
                Nature::Settling,
            ),
            (
                |view| view.size.desired = 4,
                "the group has 3 of 4 members in service",
                Nature::Settling,
            ),
            (
                |view| view.members[0].template.as_mut().unwrap().version = 7,
                "i-1 runs version 7, not 8",
                Nature::Lasting,
            ),
            (
                |view| {
                    view.members[0].template.as_mut().unwrap().version = 7;
                    view.members[0].protected = true;
                },
                "i-1 runs version 7, not 8, protected from scale-in",
                Nature::Lasting,
            ),
            (
                |view| view.members[0].template = None,
                "i-1 runs no version of a launch template, not 8",
                Nature::Lasting,
            ),
            (
                |view| view.members[0].image = Some(sample::image("ami-1")),
                "i-1 runs image ami-1, not ami-2",
                Nature::Lasting,
            ),
            (
                |view| view.members[0].image = None,
                "i-1 is not known to EC2 yet",
                Nature::Settling,
            ),
            (
                |view| view.members[0].healthy = false,
                "i-1 is Unhealthy to the group",
                Nature::Settling,
            ),
            (
                |view| view.members[0].targets.clear(),
                "i-1 is in no target group",
                Nature::Settling,
            ),
            (
                |view| {
                    view.members[0].targets[0] = TargetHealth {
                        state: "unhealthy".into(),
                        reason: "Target.Timeout".into(),
                    };
                },
                "i-1 is unhealthy to its target group Target.Timeout",
                Nature::Settling,
            ),
            (
                |view| view.members[0].record = None,
                "i-1 has no registry record",
                Nature::Settling,
            ),
            (
                |view| {
                    let record = view.members[0].record.as_mut().unwrap();
                    record.verdict = Verdict::Unfit;
                    record.reason = "orders: 503".into();
                },
                "i-1 reports unfit: orders: 503",
                Nature::Settling,
            ),
            (
                |view| view.members[0].record.as_mut().unwrap().image = "ami-1".into(),
                "i-1 has a registry record of image ami-1",
                Nature::Settling,
            ),
            (
                |view| {
                    view.members
                        .push(sample::member("i-9", 7, "ami-1", "Standby"))
                },
                "i-9 is in standby and was not replaced",
                Nature::Lasting,
            ),
            (
                |view| {
                    view.members
                        .push(sample::member("i-9", 8, "ami-2", "Terminating:Retained"))
                },
                "i-9 was retained after its termination and still runs",
                Nature::Lasting,
            ),
        ];
        for (spoil, expected, nature) in cases {
            let mut view = healthy();
            spoil(&mut view);
            let found = flaws(&view, &target());
            let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(texts, [expected]);
            assert_eq!(found[0].nature, nature, "{expected}");
        }
    }

    #[test]
    fn terminating_and_new_standby_members_are_no_flaw() {
        let mut view = healthy();
        view.members
            .push(sample::member("i-8", 8, "ami-2", "Terminating"));
        // An old one that drains: its connections end by themselves.
        for (id, state) in [
            ("i-5", "Terminating"),
            ("i-6", "Terminating:Wait"),
            ("i-7", "Detaching"),
        ] {
            view.members.push(sample::member(id, 7, "ami-1", state));
        }
        assert_eq!(leaving(&view.members, &target()), 3);
        view.members
            .push(sample::member("i-9", 8, "ami-2", "Standby"));
        assert_eq!(texts(&view), [""; 0]);
    }

    #[test]
    fn a_group_without_records_needs_none() {
        let mut view = healthy();
        for member in &mut view.members {
            member.record = None;
        }
        assert_eq!(texts(&view), [""; 0]);
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn verification_takes_consecutive_polls_or_the_time_limit() {
        let flaw = |nature| Flaw {
            instance: Some(sample::instance("i-1")),
            what: "x".into(),
            nature,
        };
        let settling = [flaw(Nature::Settling)];
        let lasting = [flaw(Nature::Lasting)];
        let both = [flaw(Nature::Lasting), flaw(Nature::Settling)];
        let early = Duration::from_secs(1);
        let run = |polls: &[&[Flaw]]| {
            let mut rounds = Rounds::default();
            polls
                .iter()
                .map(|flaws| rounds.observe(flaws, 2, LIMIT, early))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            run(&[&[], &[]]),
            [Verification::Again, Verification::Verified]
        );
        assert_eq!(
            run(&[&[], &settling, &[], &[]]),
            [
                Verification::Again,
                Verification::Again,
                Verification::Again,
                Verification::Verified
            ]
        );
        assert_eq!(
            run(&[&lasting, &lasting]),
            [Verification::Again, Verification::GiveUp]
        );
        // While anything else still settles, nothing is given up before its time.
        assert_eq!(run(&[&both, &both, &both]), [Verification::Again; 3]);
        let late = |flaws: &[Flaw]| Rounds::default().observe(flaws, 2, LIMIT, LIMIT);
        assert_eq!(late(&settling), Verification::GiveUp);
        // Giving up has a reason.
        assert_eq!(late(&[]), Verification::Again);
    }
}
