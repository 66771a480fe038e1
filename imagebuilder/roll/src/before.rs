//! The version before: the version that a fleet returns to.
//!
//! Rule: there is one definition, used by every rollback (the service's own, `roll rollback` at any time, the return after a failed
//! smoke test). As long as a refresh has not moved the group's saved version, the version before is the saved one: what is
//! being replaced, or was replaced in part. Once it has, it is the version that the run which moved it recorded before its first
//! change, else the image of the pointers. A fleet that was rolled back already has none: rolling back twice is the same as
//! rolling back once.
//!
//! Pure: it makes no calls and changes nothing.

use super::plan::{Direction, Target};
use super::view::{FleetView, Launches, Refresh, RefreshStatus, SavedVersion, TemplateUse};
use cloud::ids::ImageId;
use run::ledger::RollRecord;

/// The pointers that matter to a rollback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointed {
    /// What the last verified roll went to.
    pub(crate) current: Option<ImageId>,
    /// What was `current` before that.
    pub(crate) previous: Option<ImageId>,
}

/// Where the fleet returns to if it is rolled back now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RollbackTarget {
    /// A refresh is active: the service rolls back to the saved version.
    Service,
    /// A refresh ended before it moved the group: back to the version that is saved.
    Saved(Target),
    /// The group was moved: back to what the run that moved it recorded.
    Recorded(Target),
    /// The group was moved and no run is recorded here: back to this image.
    Pointed(ImageId),
    /// The fleet was rolled back already, to this version.
    Done(Target),
    /// The version before is unknown.
    Unknown,
}

/// The version that a refresh replaces: the saved one as long as it differs from the refresh's target, because that is what the
/// service rolls back to; else what the run recorded.
pub(crate) fn origin(
    template: &TemplateUse,
    refresh: &Refresh,
    recorded: Option<&RollRecord>,
) -> Option<Target> {
    saved(template)
        .filter(|saved| Some(saved.reference()) != refresh.desired)
        .filter(|_| matches!(template.saved, SavedVersion::Number(_)))
        .or_else(|| recorded.and_then(|recorded| recorded.previous.clone()))
}

/// The version the group is saved on, if it has a literal image.
pub(crate) fn saved(template: &TemplateUse) -> Option<Target> {
    let number = template.number();
    let image = template.version(number)?.image.literal()?.clone();
    Some(Target {
        template_id: template.id.clone(),
        version: number,
        image,
    })
}

/// The newest refresh, if it ended before it moved the group: members may be of two versions, and the saved one is the version before.
pub(crate) fn unfinished(view: &FleetView) -> Option<&Refresh> {
    let Launches::Template(template) = &view.launches else {
        return None;
    };
    let newest = view.refresh.as_ref()?;
    let stayed = matches!(
        newest.status,
        RefreshStatus::Failed | RefreshStatus::Cancelled | RefreshStatus::RollbackFailed
    );
    let desired = newest.desired.as_ref()?;
    let elsewhere = desired.id != template.id || desired.version != template.number();
    (stayed && elsewhere).then_some(newest)
}

/// Decides. `recorded` lists what runs recorded of refreshes of this group, newest first.
pub(crate) fn rollback_target(
    view: &FleetView,
    recorded: &[RollRecord],
    pointed: &Pointed,
) -> RollbackTarget {
    if view.active_refresh().is_some() {
        return RollbackTarget::Service;
    }
    let Launches::Template(template) = &view.launches else {
        return RollbackTarget::Unknown;
    };
    let Some(saved) = saved(template) else {
        return RollbackTarget::Unknown;
    };
    if unfinished(view).is_some() {
        return RollbackTarget::Saved(saved);
    }
    // The service has rolled it back, and the saved version never changed.
    if let Some(newest) = &view.refresh
        && newest.status == RefreshStatus::RollbackSuccessful
        && newest.desired.as_ref() != Some(&saved.reference())
    {
        return RollbackTarget::Done(saved);
    }
    let moved = recorded.iter().find(|run| {
        let target = run.target.as_ref();
        target.is_some_and(|target| target.reference() == saved.reference())
            && (run.direction == Direction::Back
                || (run.previous.is_some() && run.previous != run.target))
    });
    if let Some(run) = moved {
        return match (run.direction, &run.previous) {
            (Direction::Back, _) => RollbackTarget::Done(saved),
            (Direction::Forward, Some(previous)) => RollbackTarget::Recorded(previous.clone()),
            (Direction::Forward, None) => RollbackTarget::Unknown,
        };
    }
    match (&pointed.current, &pointed.previous) {
        // A roll that was never verified moved the group, and not the pointers.
        (Some(current), _) if *current != saved.image => RollbackTarget::Pointed(current.clone()),
        // The state of the pointers after a rollback.
        (Some(_), Some(previous)) if *previous == saved.image => RollbackTarget::Done(saved),
        (_, Some(previous)) => RollbackTarget::Pointed(previous.clone()),
        (_, None) => RollbackTarget::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use cloud::TemplateRef;
    use cloud::ids::GroupName;

    fn recorded(refresh: &str, to: u64, from: Option<u64>, direction: Direction) -> RollRecord {
        let target = |number| sample::target(number, &format!("ami-{}", number - 6));
        RollRecord {
            group: GroupName::parse("shop").unwrap(),
            direction,
            previous: from.map(target),
            target: Some(target(to)),
            intended: None,
            refresh: Some(refresh.to_owned()),
            stopped: None,
        }
    }

    fn pointed(current: &str, previous: &str) -> Pointed {
        let image = |id: &str| (!id.is_empty()).then(|| sample::image(id));
        Pointed {
            current: image(current),
            previous: image(previous),
        }
    }

    /// A fleet saved on version 8 (ami-2), whose newest refresh went to `desired` and ended like this.
    fn view(status: &str, desired: u64) -> FleetView {
        let mut view = sample::fleet(3, 8, "ami-2");
        let template = sample::template(&mut view);
        template.versions = (6..=9)
            .map(|number| sample::version(number, &format!("ami-{}", number - 6), ""))
            .collect();
        if !status.is_empty() {
            let mut refresh = sample::refresh(status);
            refresh.desired = Some(TemplateRef {
                id: sample::TEMPLATE.into(),
                version: desired,
            });
            view.refresh = Some(refresh);
        }
        view
    }

    #[test]
    fn there_is_one_version_before_whatever_happened() {
        let two = || sample::target(8, "ami-2");
        let one = || sample::target(7, "ami-1");
        let ami = |id| RollbackTarget::Pointed(sample::image(id));
        let none: &[RollRecord] = &[];
        let rolled = &[recorded("r-1", 8, Some(7), Direction::Forward)][..];
        let back = &[
            recorded("r-2", 8, Some(9), Direction::Back),
            recorded("r-1", 9, Some(8), Direction::Forward),
        ][..];
        let cases = [
            // (status, desired, runs, current, previous) → rollback
            (
                "InProgress",
                9,
                rolled,
                "ami-2",
                "ami-1",
                RollbackTarget::Service,
            ),
            (
                "RollbackInProgress",
                9,
                none,
                "",
                "",
                RollbackTarget::Service,
            ),
            // Half-way: always the saved version, on a first roll too, whatever the runs and pointers contain.
            (
                "Cancelled",
                9,
                rolled,
                "ami-2",
                "ami-1",
                RollbackTarget::Saved(two()),
            ),
            (
                "Failed",
                9,
                rolled,
                "ami-2",
                "ami-1",
                RollbackTarget::Saved(two()),
            ),
            (
                "RollbackFailed",
                9,
                none,
                "",
                "",
                RollbackTarget::Saved(two()),
            ),
            ("Cancelled", 9, none, "", "", RollbackTarget::Saved(two())),
            // Back already.
            (
                "RollbackSuccessful",
                9,
                rolled,
                "ami-2",
                "ami-1",
                RollbackTarget::Done(two()),
            ),
            (
                "Successful",
                8,
                back,
                "ami-2",
                "ami-2",
                RollbackTarget::Done(two()),
            ),
            (
                "Successful",
                8,
                none,
                "ami-2",
                "ami-2",
                RollbackTarget::Done(two()),
            ),
            // Moved.
            (
                "Successful",
                8,
                rolled,
                "ami-2",
                "ami-0",
                RollbackTarget::Recorded(one()),
            ),
            ("Successful", 8, none, "ami-2", "ami-1", ami("ami-1")),
            // Moved, and never verified: the pointers stayed.
            ("Successful", 8, none, "ami-1", "ami-0", ami("ami-1")),
            // The group was saved by hand on the version of a cancelled refresh.
            (
                "Cancelled",
                8,
                rolled,
                "ami-1",
                "ami-0",
                RollbackTarget::Recorded(one()),
            ),
            ("", 0, none, "ami-2", "ami-1", ami("ami-1")),
            ("", 0, none, "", "ami-1", ami("ami-1")),
            ("", 0, none, "ami-2", "", RollbackTarget::Unknown),
            ("", 0, none, "", "", RollbackTarget::Unknown),
        ];
        for (status, desired, runs, current, previous, expected) in cases {
            let found = rollback_target(&view(status, desired), runs, &pointed(current, previous));
            assert_eq!(found, expected, "{status} to {desired}, current {current}");
        }
    }

    #[test]
    fn a_run_to_the_same_version_is_no_version_before() {
        let runs = [
            recorded("r-2", 8, Some(8), Direction::Forward),
            recorded("r-1", 8, Some(7), Direction::Forward),
        ];
        let found = rollback_target(&view("Successful", 8), &runs, &Pointed::default());
        assert_eq!(found, RollbackTarget::Recorded(sample::target(7, "ami-1")));
    }

    #[test]
    fn a_refresh_replaces_the_saved_or_the_recorded_version() {
        let mut fleet = view("InProgress", 9);
        let refresh = fleet.refresh.clone().unwrap();
        let run = recorded("r-1", 9, Some(7), Direction::Forward);
        let template = sample::template(&mut fleet);
        assert_eq!(
            origin(template, &refresh, Some(&run)),
            Some(sample::target(8, "ami-2"))
        );
        template.saved = SavedVersion::Number(9);
        assert_eq!(origin(template, &refresh, Some(&run)), run.previous);
        assert_eq!(origin(template, &refresh, None), None);
        template.saved = SavedVersion::Latest;
        assert_eq!(origin(template, &refresh, None), None);
    }
}
