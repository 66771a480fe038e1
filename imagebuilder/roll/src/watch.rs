//! Decides what to do about an active refresh: its view and the time in, the next step out.
//!
//! Pure: it makes no calls and does not wait. Its state machine is drawn in `docs/roll.md`.

use std::time::Duration;

use super::blame::{Lost, blamed};
use super::plan::Direction;
use super::view::{Refresh, RefreshStatus};
use crate::settings::Settings;
use run::exit::Exit;

/// What is to be done next about a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Only poll again; with what is being waited for, as text.
    Poll(String),
    /// Run the smoke test: this percentage of the fleet is new.
    Test(u32),
    /// Stop the refresh for this reason: rolled back where possible, else cancelled.
    Stop(Cause),
    /// The service is done: verify it, member by member.
    Verify,
    /// It is over, and did not succeed.
    End(Ending),
    /// The time limit is reached; the refresh continues without us.
    Detach,
}

/// Why we stop a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// These instances of the new version were lost, or could not be launched, because of the image.
    Lost(Vec<Lost>),
    /// The smoke test failed, with its last line.
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
    /// Why the service was requested to stop the refresh, once it was.
    pub(crate) stopped: Option<Cause>,
}

/// What one poll of a refresh found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// The refresh.
    pub(crate) refresh: &'a Refresh,
    /// What was lost of the new version since it began.
    pub(crate) lost: &'a [Lost],
    /// The group's desired capacity.
    pub(crate) desired: u32,
    /// Its direction. A rollback is never itself rolled back.
    pub(crate) direction: Direction,
}

/// Decides. `watched` is how long it has been watched, `limit` how long it may be. See the module.
pub(crate) fn watch(
    seen: &Seen<'_>,
    settings: &Settings,
    progress: &Progress,
    watched: Duration,
    limit: Duration,
) -> Next {
    let refresh = seen.refresh;
    match refresh.status {
        RefreshStatus::Successful => return Next::Verify,
        RefreshStatus::Failed => return Next::End(Ending::Failed),
        RefreshStatus::Cancelled => return Next::End(Ending::Cancelled),
        RefreshStatus::RollbackSuccessful => return Next::End(Ending::RolledBack),
        RefreshStatus::RollbackFailed => return Next::End(Ending::RollbackFailed),
        RefreshStatus::Pending | RefreshStatus::InProgress | RefreshStatus::Baking => {
            if progress.stopped.is_none()
                && seen.direction == Direction::Forward
                && let Some(next) = forward(seen, settings, progress)
            {
                return next;
            }
        }
        RefreshStatus::Cancelling
        | RefreshStatus::RollbackInProgress
        | RefreshStatus::Unknown(_) => {}
    }
    if watched >= limit {
        return Next::Detach;
    }
    Next::Poll(waiting_for(refresh))
}

/// The next step of a refresh to a new release, if one is due.
fn forward(seen: &Seen<'_>, settings: &Settings, progress: &Progress) -> Option<Next> {
    let refresh = seen.refresh;
    if let Some(most) = settings.max_failed_launches.of(seen.desired) {
        let lost = blamed(seen.lost);
        if lost.len() >= most {
            return Some(Next::Stop(Cause::Lost(lost)));
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

/// One line on where a refresh is and what it waits for, AWS's explanation verbatim.
pub(crate) fn waiting_for(refresh: &Refresh) -> String {
    let mut line = format!("{} {} %", refresh.status, refresh.percent);
    if let RefreshStatus::Unknown(_) = refresh.status {
        line.push_str(" (unknown status, treated as still running)");
    }
    let reason = refresh.reason.trim();
    if !reason.is_empty() {
        line.push_str(": ");
        line.push_str(reason);
    }
    line
}

/// The exit code of an ending, given why we stopped it, if we did.
///
/// A failed rollback outweighs its cause: that fleet needs an operator now.
pub(crate) fn exit(ending: Ending, stopped: Option<&Cause>) -> Exit {
    match (ending, stopped) {
        (Ending::RollbackFailed, _) => Exit::RollbackFailed,
        (_, Some(Cause::SmokeTest(_))) => Exit::SmokeTestFailed,
        (Ending::RolledBack, _) => Exit::RolledBack,
        (Ending::Cancelled, Some(Cause::Lost(_))) | (Ending::Failed, _) => Exit::RollFailed,
        (Ending::Cancelled, None) => Exit::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::super::blame::Reason;
    use super::super::sample;
    use super::*;

    fn decide(
        refresh: &Refresh,
        lost: &[Lost],
        roll: &str,
        progress: &Progress,
        watched: u64,
        direction: Direction,
    ) -> Next {
        let seen = Seen {
            refresh,
            lost,
            desired: 10,
            direction,
        };
        let settings = sample::settings(roll);
        let limit = Duration::from_secs(60);
        watch(
            &seen,
            &settings,
            progress,
            Duration::from_secs(watched),
            limit,
        )
    }

    fn next(refresh: &Refresh) -> Next {
        decide(
            refresh,
            &[],
            "",
            &Progress::default(),
            0,
            Direction::Forward,
        )
    }

    fn lost(id: &str, reason: Reason) -> Lost {
        Lost {
            instance: (!id.is_empty()).then(|| sample::instance(id)),
            reason,
        }
    }

    #[test]
    fn every_status_has_its_next_step() {
        let poll = |text: &str| Next::Poll(text.into());
        for (status, expected) in [
            ("Pending", poll("Pending 0 %")),
            ("InProgress", poll("InProgress 0 %")),
            ("Baking", poll("Baking 0 %")),
            ("Cancelling", poll("Cancelling 0 %")),
            ("RollbackInProgress", poll("RollbackInProgress 0 %")),
            (
                "Marinating",
                poll("Marinating 0 % (unknown status, treated as still running)"),
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
    fn the_services_explanation_is_shown_verbatim() {
        let mut refresh = sample::refresh("InProgress");
        refresh.percent = 33;
        refresh.reason =
            "Waiting for instances to warm up before continuing. For example: i-1 is warming up."
                .into();
        assert_eq!(
            next(&refresh),
            Next::Poll(
                "InProgress 33 %: Waiting for instances to warm up before continuing. For example: \
                 i-1 is warming up."
                    .into()
            )
        );
    }

    #[test]
    fn the_watch_ends_by_time_only_while_the_refresh_runs() {
        let at = |status: &str, seconds| {
            decide(
                &sample::refresh(status),
                &[],
                "",
                &Progress::default(),
                seconds,
                Direction::Forward,
            )
        };
        assert!(matches!(at("InProgress", 59), Next::Poll(_)));
        assert_eq!(at("InProgress", 60), Next::Detach);
        assert_eq!(at("Marinating", 60), Next::Detach);
        assert_eq!(at("RollbackInProgress", 60), Next::Detach);
        assert_eq!(at("Successful", 9999), Next::Verify);
        assert_eq!(at("Failed", 9999), Next::End(Ending::Failed));
    }

    #[test]
    fn what_the_image_lost_stops_the_refresh_at_the_limit() {
        let at = |lost: &[Lost], status: &str, roll: &str, progress: &Progress, direction| {
            decide(&sample::refresh(status), lost, roll, progress, 0, direction)
        };
        let two = "max_failed_launches = 2";
        let fresh = Progress::default();
        let both = [
            lost("i-1", Reason::Abandoned),
            lost("", Reason::Unlaunchable("the image does not exist".into())),
        ];
        let stop = Next::Stop(Cause::Lost(both.to_vec()));
        assert_eq!(
            at(&both, "InProgress", two, &fresh, Direction::Forward),
            stop
        );
        assert_eq!(at(&both, "Pending", two, &fresh, Direction::Forward), stop);
        let goes_on = |next| assert!(matches!(next, Next::Poll(_)), "{next:?}");
        goes_on(at(
            &both[..1],
            "InProgress",
            two,
            &fresh,
            Direction::Forward,
        ));
        // What others did, however often, is not the image's fault.
        let others = [
            Reason::ScaledIn,
            Reason::Replaced,
            Reason::Operator,
            Reason::Spot,
            Reason::Capacity("no capacity".into()),
            Reason::Unknown("?".into()),
        ];
        let others: Vec<Lost> = others
            .into_iter()
            .enumerate()
            .map(|(number, reason)| lost(&format!("i-{number}"), reason))
            .collect();
        goes_on(at(&others, "InProgress", two, &fresh, Direction::Forward));
        // A share of the desired capacity, which is ten.
        let share = "max_failed_launches = \"20%\"";
        assert_eq!(
            at(&both, "InProgress", share, &fresh, Direction::Forward),
            stop
        );
        goes_on(at(
            &both,
            "InProgress",
            "max_failed_launches = \"21%\"",
            &fresh,
            Direction::Forward,
        ));
        goes_on(at(
            &both,
            "InProgress",
            "max_failed_launches = 0",
            &fresh,
            Direction::Forward,
        ));
        // On the rollback, or once asked, there is nothing more to stop.
        goes_on(at(&both, "InProgress", two, &fresh, Direction::Back));
        goes_on(at(
            &both,
            "RollbackInProgress",
            two,
            &fresh,
            Direction::Forward,
        ));
        goes_on(at(&both, "Marinating", two, &fresh, Direction::Forward));
        let asked = Progress {
            stopped: Some(Cause::Lost(Vec::new())),
            ..Progress::default()
        };
        goes_on(at(&both, "InProgress", two, &asked, Direction::Forward));
    }

    #[test]
    fn the_smoke_test_runs_once_per_checkpoint_and_while_baking() {
        let decide = |status: &str, percent, tested| {
            let mut refresh = sample::refresh(status);
            refresh.percent = percent;
            refresh.checkpoints = vec![20, 50, 100];
            let progress = Progress {
                tested,
                stopped: None,
            };
            let roll = "smoke_test = [\"true\"]\ncheckpoints = [20, 50]";
            decide(&refresh, &[], roll, &progress, 0, Direction::Forward)
        };
        assert!(matches!(decide("InProgress", 19, 0), Next::Poll(_)));
        assert_eq!(decide("InProgress", 20, 0), Next::Test(20));
        assert!(matches!(decide("InProgress", 30, 20), Next::Poll(_)));
        // Checkpoints the service jumped over need no test of their own.
        assert_eq!(decide("InProgress", 60, 0), Next::Test(50));
        assert!(matches!(decide("InProgress", 100, 50), Next::Poll(_)));
        assert_eq!(decide("Baking", 100, 50), Next::Test(100));
        assert!(matches!(decide("Baking", 100, 100), Next::Poll(_)));
    }

    #[test]
    fn endings_have_their_exit_codes() {
        let lost = Cause::Lost(Vec::new());
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
