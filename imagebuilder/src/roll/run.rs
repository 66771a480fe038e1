//! An active refresh, and what the ledger records of it for the commands that start or resume it.

use super::RollContext;
use super::before::{self, Recorded};
use super::limits::{Limits, limits};
use super::plan::{Direction, Target, preferences};
use super::view::{FleetView, Launches, Refresh, TemplateRef};

/// The ledger's keys for what a later `roll watch` or `roll rollback` needs.
pub(crate) mod fact {
    /// The group that is rolled.
    pub(crate) const GROUP: &str = "group";
    /// The version it was on, as `lt-…:7:ami-…`.
    pub(crate) const PREVIOUS: &str = "previous";
    /// The version it replaces the members with, in the same form.
    pub(crate) const TARGET: &str = "target";
    /// When StartInstanceRefresh was about to be called.
    pub(crate) const INTENDED: &str = "refresh-intended";
    /// The refresh's id.
    pub(crate) const REFRESH: &str = "refresh";
    /// Why we stopped it.
    pub(crate) const STOPPED: &str = "stopped";
    /// Present when the refresh is a rollback.
    pub(crate) const BACK: &str = "back";
}

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
        recorded: Option<&Recorded>,
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

impl Target {
    /// The template version without its image.
    pub(crate) fn reference(&self) -> TemplateRef {
        TemplateRef {
            id: self.template_id.clone(),
            version: self.version,
        }
    }

    /// The form it has in the ledger.
    pub(crate) fn record(&self) -> String {
        format!("{}:{}:{}", self.template_id, self.version, self.image)
    }

    /// Reads that form.
    pub(crate) fn from_record(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        Some(Self {
            template_id: parts.next()?.to_owned(),
            version: parts.next()?.parse().ok()?,
            image: parts.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_target_reads_back_from_the_ledger() {
        let target = sample::target(8, "ami-2");
        assert_eq!(target.record(), "lt-1:8:ami-2");
        assert_eq!(Target::from_record("lt-1:8:ami-2"), Some(target));
        for bad in ["", "lt-1:8", "lt-1:x:ami-2", "lt-1:8:x"] {
            assert_eq!(Target::from_record(bad), None, "{bad}");
        }
    }
}
