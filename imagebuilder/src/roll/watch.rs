//! Decides what to do about a refresh that is under way: its view and the time in, the next step out.
//!
//! Pure: it must not look, act or wait. The machine it makes is drawn in `docs/roll.md`.

use std::time::Duration;

use super::view::{Activity, Refresh, RefreshStatus};
use crate::config::Settings;
use crate::exit::Exit;
use crate::ids::InstanceId;

/// What is to be done next about a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing but to look again; what is being waited for, for people.
    Look(String),
    /// Run the smoke test: this percentage of the fleet is new.
    Test(u32),
    /// Make the service stop, for this reason: back where it can, else cancelled.
    Stop(Cause),
    /// The service is done: prove it, member by member.
    Verify,
    /// It is over, and not well.
    End(Ending),
    /// Watched long enough; the refresh goes on without us.
    Detach,
}

/// Why we make the service stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// So many boxes of the new version were launched and lost.
    LostBoxes(Vec<InstanceId>),
    /// The smoke test failed, and what it said last.
    SmokeTest(String),
}

/// How a refresh that did not succeed ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It failed and was not rolled back.
    Failed,
    /// It was rolled back.
    RolledBack,
    /// Rolling it back failed.
    RollbackFailed,
    /// It was cancelled; members are mixed.
    Cancelled,
}

/// What this watch has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The highest percentage at which the smoke test has passed.
    pub(crate) tested: u32,
    /// Why the service was asked to stop, once it was.
    pub(crate) stopped: Option<Cause>,
}

/// Decides. See the module.
pub(crate) fn watch(
    refresh: &Refresh,
    activities: &[Activity],
    settings: &Settings,
    progress: &Progress,
    watched: Duration,
) -> Next {
    match refresh.status {
        RefreshStatus::Successful => return Next::Verify,
        RefreshStatus::Failed => return Next::End(Ending::Failed),
        RefreshStatus::Cancelled => return Next::End(Ending::Cancelled),
        RefreshStatus::RollbackSuccessful => return Next::End(Ending::RolledBack),
        RefreshStatus::RollbackFailed => return Next::End(Ending::RollbackFailed),
        RefreshStatus::Pending | RefreshStatus::InProgress | RefreshStatus::Baking => {
            if progress.stopped.is_none()
                && let Some(next) = forward(refresh, activities, settings, progress)
            {
                return next;
            }
        }
        RefreshStatus::Cancelling
        | RefreshStatus::RollbackInProgress
        | RefreshStatus::Unknown(_) => {}
    }
    if watched >= settings.watch_timeout {
        return Next::Detach;
    }
    Next::Look(waiting_for(refresh))
}

/// What a refresh on its way forward calls for, if anything.
fn forward(
    refresh: &Refresh,
    activities: &[Activity],
    settings: &Settings,
    progress: &Progress,
) -> Option<Next> {
    if let Some(most) = settings.max_failed_launches {
        let lost = lost_boxes(refresh, activities);
        if lost.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Some(Next::Stop(Cause::LostBoxes(lost)));
        }
    }
    settings.smoke_test.as_ref()?;
    let reached = match refresh.status {
        RefreshStatus::Baking => Some(100),
        _ => refresh
            .checkpoints
            .iter()
            .copied()
            .filter(|checkpoint| *checkpoint < 100 && *checkpoint <= refresh.percent)
            .max(),
    };
    reached
        .filter(|percent| *percent > progress.tested)
        .map(Next::Test)
}

/// Boxes that were launched since the refresh began and lost before they served, each once.
///
/// While a refresh with a desired configuration goes forward, every launch of the group uses it, so
/// all of them are boxes of the new version.
pub(crate) fn lost_boxes(refresh: &Refresh, activities: &[Activity]) -> Vec<InstanceId> {
    let mut lost: Vec<InstanceId> = activities
        .iter()
        .filter(|activity| refresh.started.is_none() || activity.started >= refresh.started)
        .filter_map(Activity::lost_box)
        .collect();
    lost.sort();
    lost.dedup();
    lost
}

/// One line on where a refresh is and what it waits for, AWS's explanation verbatim.
pub(crate) fn waiting_for(refresh: &Refresh) -> String {
    let mut line = format!("{} {} %", refresh.status, refresh.percent);
    if let RefreshStatus::Unknown(_) = refresh.status {
        line.push_str(" (a status this program does not know; taken as still running)");
    }
    let reason = refresh.reason.trim();
    if !reason.is_empty() {
        line.push_str(": ");
        line.push_str(reason);
    }
    line
}

/// The exit code for an ending, in the light of why we stopped it, if we did.
///
/// A failed rollback outweighs its cause: that fleet needs somebody now.
pub(crate) fn exit(ending: Ending, stopped: Option<&Cause>) -> Exit {
    match (ending, stopped) {
        (Ending::RollbackFailed, _) => Exit::RollbackFailed,
        (_, Some(Cause::SmokeTest(_))) => Exit::SmokeTestFailed,
        (Ending::RolledBack, _) => Exit::RolledBack,
        (Ending::Cancelled, Some(Cause::LostBoxes(_))) | (Ending::Failed, _) => Exit::RollFailed,
        (Ending::Cancelled, None) => Exit::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn next(refresh: &Refresh) -> Next {
        watch(
            refresh,
            &[],
            &sample::settings(""),
            &Progress::default(),
            Duration::ZERO,
        )
    }

    #[test]
    fn every_status_has_its_next_step() {
        let look = |text: &str| Next::Look(text.into());
        for (status, expected) in [
            ("Pending", look("Pending 0 %")),
            ("InProgress", look("InProgress 0 %")),
            ("Baking", look("Baking 0 %")),
            ("Cancelling", look("Cancelling 0 %")),
            ("RollbackInProgress", look("RollbackInProgress 0 %")),
            (
                "Marinating",
                look(
                    "Marinating 0 % (a status this program does not know; taken as still running)",
                ),
            ),
            ("Successful", Next::Verify),
            ("Failed", Next::End(Ending::Failed)),
            ("Cancelled", Next::End(Ending::Cancelled)),
            ("RollbackSuccessful", Next::End(Ending::RolledBack)),
            ("RollbackFailed", Next::End(Ending::RollbackFailed)),
        ] {
            assert_eq!(next(&sample::refresh(status)), expected, "{status}");
        }
    }

    #[test]
    fn the_service_s_explanation_is_shown_as_it_is() {
        let mut refresh = sample::refresh("InProgress");
        refresh.percent = 33;
        refresh.reason =
            "Waiting for instances to warm up before continuing. For example: i-1 is warming up."
                .into();
        assert_eq!(
            next(&refresh),
            Next::Look(
                "InProgress 33 %: Waiting for instances to warm up before continuing. For example: \
                 i-1 is warming up."
                    .into()
            )
        );
    }

    #[test]
    fn the_watch_ends_by_time_only_while_the_refresh_runs() {
        let settings = sample::settings("watch_timeout_seconds = 60");
        let at = |status: &str, seconds| {
            watch(
                &sample::refresh(status),
                &[],
                &settings,
                &Progress::default(),
                Duration::from_secs(seconds),
            )
        };
        assert!(matches!(at("InProgress", 59), Next::Look(_)));
        assert_eq!(at("InProgress", 60), Next::Detach);
        assert_eq!(at("Marinating", 60), Next::Detach);
        assert_eq!(at("RollbackInProgress", 60), Next::Detach);
        assert_eq!(at("Successful", 9999), Next::Verify);
        assert_eq!(at("Failed", 9999), Next::End(Ending::Failed));
    }

    #[test]
    fn lost_boxes_of_this_refresh_stop_it_at_the_limit() {
        let settings = sample::settings("max_failed_launches = 2");
        let decide = |activities: &[Activity], status: &str, progress: &Progress| {
            watch(
                &sample::refresh(status),
                activities,
                &settings,
                progress,
                Duration::ZERO,
            )
        };
        let fresh = Progress::default();
        let one = sample::lost("i-1", 10);
        let two = sample::lost("i-2", 20);
        assert!(matches!(
            decide(std::slice::from_ref(&one), "InProgress", &fresh),
            Next::Look(_)
        ));
        // The same box twice is one box; a launch before the refresh is not its fault.
        assert!(matches!(
            decide(&[one.clone(), one.clone()], "InProgress", &fresh),
            Next::Look(_)
        ));
        let early = sample::lost("i-9", -10);
        assert!(matches!(
            decide(&[one.clone(), early], "InProgress", &fresh),
            Next::Look(_)
        ));
        // No capacity: no box came up, so it says nothing of the image.
        let mut no_box = two.clone();
        no_box.description = "Launching a new EC2 instance.  Status Reason: no capacity".into();
        assert!(matches!(
            decide(&[one.clone(), no_box], "InProgress", &fresh),
            Next::Look(_)
        ));
        // A box still on its way.
        let mut running = two.clone();
        running.outcome = crate::cloud::ActivityOutcome::Running;
        assert!(matches!(
            decide(&[one.clone(), running], "InProgress", &fresh),
            Next::Look(_)
        ));

        let both = [two, one];
        let stop = Next::Stop(Cause::LostBoxes(vec![
            sample::instance("i-1"),
            sample::instance("i-2"),
        ]));
        assert_eq!(decide(&both, "InProgress", &fresh), stop);
        assert_eq!(decide(&both, "Pending", &fresh), stop);
        // On the way back, or once asked, there is nothing more to stop.
        assert!(matches!(
            decide(&both, "RollbackInProgress", &fresh),
            Next::Look(_)
        ));
        assert!(matches!(decide(&both, "Marinating", &fresh), Next::Look(_)));
        let asked = Progress {
            stopped: Some(Cause::LostBoxes(Vec::new())),
            ..Progress::default()
        };
        assert!(matches!(decide(&both, "InProgress", &asked), Next::Look(_)));
    }

    #[test]
    fn zero_leaves_lost_boxes_to_the_service() {
        let lost = [
            sample::lost("i-1", 1),
            sample::lost("i-2", 2),
            sample::lost("i-3", 3),
        ];
        let settings = sample::settings("max_failed_launches = 0");
        let next = watch(
            &sample::refresh("InProgress"),
            &lost,
            &settings,
            &Progress::default(),
            Duration::ZERO,
        );
        assert!(matches!(next, Next::Look(_)));
    }

    #[test]
    fn the_smoke_test_runs_once_at_each_checkpoint_reached_and_while_baking() {
        let settings = sample::settings("smoke_test = [\"true\"]\ncheckpoints = [20, 50]");
        let decide = |status: &str, percent, tested| {
            let mut refresh = sample::refresh(status);
            refresh.percent = percent;
            refresh.checkpoints = vec![20, 50, 100];
            let progress = Progress {
                tested,
                stopped: None,
            };
            watch(&refresh, &[], &settings, &progress, Duration::ZERO)
        };
        assert!(matches!(decide("InProgress", 19, 0), Next::Look(_)));
        assert_eq!(decide("InProgress", 20, 0), Next::Test(20));
        assert!(matches!(decide("InProgress", 30, 20), Next::Look(_)));
        // Checkpoints the service jumped over need no test of their own.
        assert_eq!(decide("InProgress", 60, 0), Next::Test(50));
        assert!(matches!(decide("InProgress", 100, 50), Next::Look(_)));
        assert_eq!(decide("Baking", 100, 50), Next::Test(100));
        assert!(matches!(decide("Baking", 100, 100), Next::Look(_)));
    }

    #[test]
    fn endings_have_their_exit_codes() {
        let lost = Cause::LostBoxes(Vec::new());
        let smoke = Cause::SmokeTest("503".into());
        for (ending, stopped, code) in [
            (Ending::Failed, None, 10),
            (Ending::RolledBack, None, 11),
            (Ending::RolledBack, Some(&lost), 11),
            (Ending::RolledBack, Some(&smoke), 18),
            (Ending::RollbackFailed, None, 12),
            (Ending::RollbackFailed, Some(&smoke), 12),
            (Ending::Cancelled, None, 13),
            (Ending::Cancelled, Some(&lost), 10),
            (Ending::Cancelled, Some(&smoke), 18),
        ] {
            assert_eq!(exit(ending, stopped).code(), code, "{ending:?} {stopped:?}");
        }
    }
}
