//! An active refresh, as it is driven and verified.

use super::RollContext;
use super::before;
use super::limits::{Limits, limits};
use super::plan::{Direction, Target, preferences};
use super::view::{FleetView, Launches, Refresh};
use run::ledger::RollRecord;

/// An active refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefreshRun {
    /// The refresh's id.
    pub(crate) refresh: String,
    /// Its target.
    pub(crate) target: Target,
    /// The version that it replaces, if known.
    pub(crate) previous: Option<Target>,
    /// Its direction.
    pub(crate) direction: Direction,
    /// How long it is watched, and how long its verification may take.
    pub(crate) limits: Limits,
}

impl RefreshRun {
    /// A refresh as something to watch: its target with the image in it, and the version that it replaces.
    pub(crate) fn of(
        context: &RollContext<'_>,
        view: &FleetView,
        refresh: &Refresh,
        recorded: Option<&RollRecord>,
        direction: Direction,
    ) -> Option<Self> {
        let Launches::Template(template) = &view.launches else {
            return None;
        };
        let desired = refresh.desired.as_ref()?;
        let version = template.version(desired.version)?;
        (template.id == desired.id).then_some(())?;
        Some(Self {
            refresh: refresh.id.clone(),
            target: Target {
                template_id: template.id.clone(),
                version: desired.version,
                image: version.image.literal()?.clone(),
            },
            previous: before::origin(template, refresh, recorded),
            direction,
            limits: limits(view, context.settings, &preferences(view, context.settings)),
        })
    }
}
