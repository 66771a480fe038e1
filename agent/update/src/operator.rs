//! The operator's overrides, stored durably for the updater.
//!
//! An attempt that is running is not stopped, which is logged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use semver::Version;

use super::slots::Layout;
use super::state::{Forgiveness, Overrides, State, Store};
use super::status::{Hold, UpdaterStatus, UpdaterStatusFile};
use super::subscription::{Subject, machine_name};

/// Most forgiven releases that are kept: far more than a channel offers at one time.
const MOST_FORGIVEN: usize = 64;

/// The overrides of this instance, and where they are stored. They apply to the instance they were given on: an image
/// made of it does not inherit them.
#[derive(Debug)]
pub struct OperatorOverride {
    store: Store,
    run: PathBuf,
    /// Where the line that confirms an override goes.
    print: fn(&str),
    overrides: Overrides,
    /// The updater's state.
    state: State,
    status: UpdaterStatus,
}

impl OperatorOverride {
    /// Reads what was stored for this instance; `run_dir` is the directory that `configure` writes.
    pub(super) fn open(layout: &Layout, run_dir: &Path, print: fn(&str)) -> Result<Self> {
        let store = Store::new(&layout.state).also_called(machine_name().ok());
        let configured = Subject::read(run_dir).map(|subject| subject.instance_id);
        let instance_id = match configured.or_else(|| store.owner()) {
            Some(instance_id) => instance_id,
            None => machine_name()?,
        };
        Ok(Self {
            overrides: store.overrides(&instance_id),
            state: store.peek(),
            store,
            run: layout.run.clone(),
            print,
            status: UpdaterStatus::read(&layout.run),
        })
    }

    /// `update hold`: takes no update for this period, or until released, except those that the channel's floor
    /// requires. White space in `reason` becomes single blanks.
    ///
    /// # Errors
    /// The period is too long, or the override cannot be written.
    pub fn hold(
        mut self,
        period: Option<SignedDuration>,
        reason: &str,
        now: Timestamp,
    ) -> Result<()> {
        // To the second: it is read by people.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let until = period
            .map(|period| now.checked_add(period))
            .transpose()
            .context("cannot hold for that long\nhint: leave out --for to hold until released")?;
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut line = match until {
            Some(until) => format!("held until {until}"),
            None => "held until released".to_owned(),
        };
        if !reason.is_empty() {
            line = format!("{line}: {reason}");
        }
        self.overrides.hold = Some(Hold { until, reason });
        self.keep(&line)?;
        if let Some(floor) = &self.status.floor {
            tracing::info!("the channel's floor {floor} holds all the same");
        }
        Ok(())
    }

    /// `update release`: ends a hold and a pin.
    ///
    /// # Errors
    /// The overrides cannot be written.
    pub fn release(mut self) -> Result<()> {
        let was = match (self.overrides.hold.take(), self.overrides.pin.take()) {
            (None, None) => {
                (self.print)("nothing was held or pinned");
                return Ok(());
            }
            (Some(_), None) => "released the hold".to_owned(),
            (None, Some(pin)) => format!("released the pin to {pin}"),
            (Some(_), Some(pin)) => format!("released the hold and the pin to {pin}"),
        };
        self.keep(&was)
    }

    /// `update pin`: takes exactly this version, older or newer, and keeps it.
    ///
    /// # Errors
    /// The version is below the channel's floor, or the override cannot be written.
    pub fn pin(mut self, version: Version) -> Result<()> {
        if let Some(floor) = self.status.floor.as_ref().filter(|floor| version < **floor) {
            bail!(
                "cannot pin {version}: the channel's floor is {floor}\n\
                 hint: pin {floor} or newer"
            );
        }
        self.overrides.pin = Some(version.clone());
        self.keep(&format!("pinned {version}"))?;
        tracing::info!(
            "it is taken at the next check; to take it now, run imagebuilder-agent update now"
        );
        Ok(())
    }

    /// `update forgive`: forgets the failures of this version on this host.
    ///
    /// # Errors
    /// The version has not failed here, or the override cannot be written.
    pub fn forgive(mut self, version: Version, now: Timestamp) -> Result<()> {
        if !self.state.holds_against(&version) {
            bail!(
                "cannot forgive {version}: it has not failed on this host\n\
                 hint: run imagebuilder-agent status to see which releases failed"
            );
        }
        // One entry per version: an older one was applied long ago.
        self.overrides.forgiven.retain(|it| it.version != version);
        self.overrides.forgiven.push(Forgiveness {
            version: version.clone(),
            at: now,
        });
        let over = self.overrides.forgiven.len().saturating_sub(MOST_FORGIVEN);
        self.overrides.forgiven.drain(..over);
        self.keep(&format!("forgave {version} its failures on this host"))?;
        tracing::info!(
            "it is tried at the next check; to try it now, run imagebuilder-agent update now"
        );
        Ok(())
    }

    /// `update now`: ends pauses after failed attempts.
    ///
    /// # Errors
    /// The override cannot be written.
    pub fn request_now(mut self, now: Timestamp) -> Result<()> {
        self.overrides.now = Some(now);
        self.store.save_overrides(&self.overrides)
    }

    fn keep(&self, line: &str) -> Result<()> {
        self.store.save_overrides(&self.overrides)?;
        // For `status`, which cannot read the overrides itself; the updater rewrites it whenever it runs.
        if let Err(error) = std::fs::create_dir_all(&self.run) {
            tracing::warn!("cannot make {}: {error}", self.run.display());
        }
        UpdaterStatusFile::new(&self.run).change(|status| {
            status.hold.clone_from(&self.overrides.hold);
            status.pin.clone_from(&self.overrides.pin);
            // Failures that are being forgiven are no longer shown; the updater forgets them when it runs.
            let pending = |version: &Version| {
                let mut forgiven = self.overrides.forgiven.iter();
                forgiven.any(|it| it.version == *version && !self.state.forgiven.contains(it))
            };
            status.skipped.retain(|it| !pending(&it.build.version));
            status.failures.retain(|it| !pending(&it.build.version));
        });
        (self.print)(line);
        let phase = self.status.phase.as_str();
        if !matches!(phase, "" | "idle" | "checking") {
            tracing::warn!("an attempt is under way ({phase}); it is not stopped by this");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blame::FailureKind;
    use crate::build::Build;
    use crate::channel::Digest;
    use crate::status::FILE;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let json = "{\"instance_id\":\"i-1\"}";
            std::fs::write(dir.path().join("update.json"), json).unwrap();
            Self(dir)
        }

        fn operator(&self) -> OperatorOverride {
            OperatorOverride::open(&Layout::below(self.0.path()), self.0.path(), |_| {}).unwrap()
        }

        fn overrides(&self) -> Overrides {
            Store::new(&Layout::below(self.0.path()).state).overrides("i-1")
        }

        fn write(&self, status: &UpdaterStatus) {
            let run = Layout::below(self.0.path()).run;
            std::fs::create_dir_all(&run).unwrap();
            let json = serde_json::to_string(status).unwrap();
            std::fs::write(run.join(FILE), json).unwrap();
        }
    }

    #[test]
    fn hold_pin_and_release_are_stored_for_this_instance() {
        let place = Place::new();
        let now = at("2026-06-01T10:00:00.5Z");
        let period = Some(SignedDuration::from_hours(8));
        place.operator().hold(period, "  fair\nweek ", now).unwrap();
        place.operator().pin(Version::new(1, 2, 0)).unwrap();
        let overrides = place.overrides();
        assert_eq!(overrides.instance_id, "i-1");
        assert_eq!(overrides.pin, Some(Version::new(1, 2, 0)));
        let hold = overrides.hold.unwrap();
        assert_eq!(hold.until, Some(at("2026-06-01T18:00:00Z")));
        assert_eq!(hold.reason, "fair week");
        // Shown at once, also if the updater never ran.
        let reported = UpdaterStatus::read(&Layout::below(place.0.path()).run);
        assert_eq!(
            (reported.hold.unwrap().reason, reported.pin),
            (hold.reason, overrides.pin)
        );
        place.operator().hold(None, "", now).unwrap();
        assert_eq!(place.overrides().hold.unwrap().until, None);
        place.operator().release().unwrap();
        assert_eq!(
            (place.overrides().hold, place.overrides().pin),
            (None, None)
        );
        place.operator().release().unwrap();
    }

    #[test]
    fn a_pin_below_the_floor_is_refused_with_what_would_do() {
        let place = Place::new();
        place.write(&UpdaterStatus {
            floor: Some(Version::new(1, 2, 0)),
            ..UpdaterStatus::default()
        });
        let error = place.operator().pin(Version::new(1, 1, 9)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot pin 1.1.9: the channel's floor is 1.2.0\n\
             hint: pin 1.2.0 or newer"
        );
        assert_eq!(place.overrides().pin, None);
        place.operator().pin(Version::new(1, 2, 0)).unwrap();
    }

    #[test]
    fn wanting_it_now_is_remembered_beside_a_hold() {
        let place = Place::new();
        let now = at("2026-06-01T10:00:00Z");
        place.operator().hold(None, "", now).unwrap();
        place.operator().request_now(now).unwrap();
        assert!(place.overrides().hold.is_some());
        assert_eq!(place.overrides().now, Some(now));
    }

    #[test]
    fn what_failed_is_forgiven_by_version_and_only_once() {
        let place = Place::new();
        let build = |minor: u64| Build {
            version: Version::new(1, minor, 0),
            digest: Digest::parse(&format!("{minor:064x}")).unwrap(),
        };
        let now = at("2026-06-01T10:00:00Z");
        let store = Store::new(&Layout::below(place.0.path()).state);
        let (mut state, _) = store.load("i-1", None).unwrap();
        for _ in 0..3 {
            state.fail(&build(2), FailureKind::Crashed, "crashed", now);
        }
        state.fail(&build(3), FailureKind::Unhealthy, "sick", now);
        store.save(&state).unwrap();
        place.write(&UpdaterStatus {
            skipped: state.skipped.clone(),
            failures: state.failures.clone(),
            ..UpdaterStatus::default()
        });
        let error = place
            .operator()
            .forgive(Version::new(1, 4, 0), now)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot forgive 1.4.0: it has not failed on this host\n\
             hint: run imagebuilder-agent status to see which releases failed"
        );
        place
            .operator()
            .forgive(Version::new(1, 2, 0), now)
            .unwrap();
        let reported = UpdaterStatus::read(&Layout::below(place.0.path()).run);
        assert_eq!((reported.skipped.len(), reported.failures.len()), (0, 1));
        // The updater takes it in; what fails after that is held against the release again.
        state.forgive(&place.overrides().forgiven);
        assert!(!state.holds_against(&Version::new(1, 2, 0)));
        assert!(state.holds_against(&Version::new(1, 3, 0)));
        state.fail(&build(2), FailureKind::Crashed, "crashed", now);
        state.forgive(&place.overrides().forgiven);
        assert!(state.holds_against(&Version::new(1, 2, 0)));
        store.save(&state).unwrap();
        place
            .operator()
            .forgive(Version::new(1, 2, 0), now + SignedDuration::from_secs(1))
            .unwrap();
        state.forgive(&place.overrides().forgiven);
        assert!(!state.holds_against(&Version::new(1, 2, 0)));
    }

    #[test]
    fn a_hold_outlives_a_boot_without_a_metadata_service() {
        let place = Place::new();
        place
            .operator()
            .hold(None, "fair week", Timestamp::now())
            .unwrap();
        let store = Store::new(&Layout::below(place.0.path()).state);
        assert!(store.overrides("machine-0123").hold.is_some());
        // An image made of the instance does not take it along.
        assert_eq!(store.overrides("i-2").hold, None);
        std::fs::write(
            place.0.path().join("update.json"),
            "{\"instance_id\":\"machine-0123\"}",
        )
        .unwrap();
        place.operator().release().unwrap();
        assert_eq!(place.overrides().hold, None);
    }

    #[test]
    fn a_hold_beyond_the_end_of_time_is_refused() {
        let period = Some(SignedDuration::from_hours(i64::from(u32::MAX)));
        assert!(
            Place::new()
                .operator()
                .hold(period, "", Timestamp::now())
                .is_err()
        );
    }
}
