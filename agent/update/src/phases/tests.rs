//! The phases, step by step; then whole lives of an instance with power cuts anywhere.

mod life;
mod properties;

use contract::release::Release;
use semver::Version;

use super::*;
use crate::channel::Digest;

pub(super) fn build(minor: u64) -> Build {
    Build {
        version: Version::new(1, minor, 0),
        digest: Digest::parse(&format!("{minor:064x}")).unwrap(),
    }
}

pub(super) fn offer(minor: u64) -> Offer {
    let build = build(minor);
    let release = serde_json::json!({
        "schema": 1, "kind": "agent", "version": build.version, "arch": "x86_64",
        "channels": {"stable": {"since": "1970-01-01T00:00:00Z"}},
    });
    Offer {
        target: Release::target_name(&build.version, "x86_64"),
        digest: build.digest,
        length: 1,
        release: serde_json::from_value(release).unwrap(),
    }
}

fn job(crashes: u32) -> Job {
    Job {
        build: build(3),
        from: build(2),
        why: "taking 1.3.0: newer".to_owned(),
        boot: "b1".to_owned(),
        began: Timestamp::UNIX_EPOCH,
        crashes,
        urgent: false,
        withheld: None,
        overruled: false,
        worse: None,
    }
}

fn phases(crashes: u32) -> Vec<Phase> {
    let with_job = [
        Phase::Fetching,
        Phase::Staging,
        Phase::Preflight,
        Phase::Asking,
        Phase::Armed,
        Phase::Trial,
        Phase::Comparing,
        Phase::Proving,
        Phase::Confirmed,
        Phase::Committed,
    ];
    let mut phases = vec![Phase::Idle, Phase::Checking];
    phases.extend(with_job.map(|phase| phase(job(crashes))));
    phases
}

fn run_started(boot: &str, stable: u64, trial: TrialResult) -> Event {
    let (boot, stable) = (boot.to_owned(), build(stable));
    Event::Started(Observation {
        boot,
        stable,
        trial,
        at: Timestamp::UNIX_EPOCH,
    })
}

fn failed(kind: FailureKind) -> Event {
    let (code, reason) = ("word".to_owned(), "why".to_owned());
    Event::Failed(Failure {
        kind,
        code,
        reason,
        at: Timestamp::UNIX_EPOCH,
    })
}

fn checked(decision: Decision) -> Event {
    Event::Checked(Box::new(Checked {
        decision,
        floor: Some(Version::new(1, 1, 0)),
        crashes: 1,
        withheld: None,
        withdrawals: Withdrawals::default(),
        stable: build(2),
        boot: "b1".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    }))
}

/// `armed + done -> trial: watch`
fn line(phase: &Phase, name: &str, event: Event) -> String {
    let before = phase.name();
    let step = step(phase.clone(), event);
    let note = |note: &Note| match note {
        Note::SkipRelease { build, .. } => format!("skip {}", build.version),
        Note::Failed { build, kind, .. } => format!("{kind:?} {}", build.version).to_lowercase(),
        Note::Runs { build, .. } => format!("runs {}", build.version),
        Note::Withheld(_) => "withheld".to_owned(),
        Note::NotWithheld => "given".to_owned(),
        Note::Withdrawals(_) => "withdrawals".to_owned(),
        Note::Well => "well".to_owned(),
        Note::Floor(floor) => format!("floor {floor}"),
        Note::Promoted { build, .. } => format!("promoted {}", build.version),
    };
    let action = |action: &Action| match action {
        Action::Check => "check",
        Action::Fetch(_) => "fetch",
        Action::Stage(_) => "stage",
        Action::Probe(_) => "probe",
        Action::AskPermission(_) => "ask",
        Action::Arm(_) => "arm",
        Action::Watch { asks: true, .. } => "watch",
        Action::Watch { asks: false, .. } => "watch unasked",
        Action::Compare(_) => "compare",
        Action::Commit(_) => "commit",
        Action::Restart(_) => "restart",
        Action::Revert => "revert",
        Action::Report(Outcome::Settled(_)) => "settled",
        Action::Report(Outcome::Updated { .. }) => "updated",
        Action::Report(Outcome::Postponed { .. }) => "postponed",
        Action::Report(Outcome::Failed { skipped: false, .. }) => "failed",
        Action::Report(Outcome::Failed { skipped: true, .. }) => "skipped",
    };
    let notes = step.notes.iter().map(note);
    let did: Vec<String> = notes
        .chain(step.actions.iter().map(action).map(str::to_owned))
        .collect();
    format!(
        "{before} + {name} -> {}: {}",
        step.phase.name(),
        did.join(", ")
    )
}

/// Every line that does something, of the events given.
fn table(crashes: u32, events: &[(&str, Event)]) -> Vec<String> {
    let all = phases(crashes);
    let lines = events
        .iter()
        .flat_map(|(name, event)| all.iter().map(|phase| line(phase, name, event.clone())));
    lines.filter(|line| !line.ends_with(": ")).collect()
}

#[test]
fn an_attempt_goes_through_its_phases_and_commits_once() {
    let update = Decision::Update {
        offer: offer(3),
        why: crate::plan::Why::Newer,
    };
    let done = || Event::Done {
        at: Timestamp::UNIX_EPOCH,
    };
    let events = [
        ("update", checked(update)),
        ("current", checked(Decision::Current)),
        (
            "backoff",
            checked(Decision::WaitBackoff {
                offer: offer(3),
                at: Timestamp::UNIX_EPOCH,
                after: "slow".to_owned(),
            }),
        ),
        ("done", done()),
        ("leave", Event::Permitted),
        (
            "no leave",
            Event::NotPermitted {
                reason: "draining".to_owned(),
                at: Timestamp::UNIX_EPOCH,
            },
        ),
        ("worse", Event::Worsened(Regression::Unfit)),
    ];
    assert_eq!(
        table(0, &events),
        [
            "checking + update -> fetching: floor 1.1.0, withdrawals, fetch",
            "checking + current -> idle: floor 1.1.0, withdrawals, well, given, settled",
            "checking + backoff -> idle: floor 1.1.0, withdrawals, settled",
            "fetching + done -> staging: stage",
            "staging + done -> preflight: probe",
            "preflight + done -> asking: ask",
            "armed + done -> trial: watch",
            "trial + done -> proving: probe",
            "comparing + done -> idle: environment 1.3.0, postponed",
            "proving + done -> confirmed: commit",
            "confirmed + done -> committed: promoted 1.3.0, restart",
            "committed + done -> idle: updated",
            "asking + leave -> armed: given, arm",
            "asking + no leave -> idle: withheld, postponed",
            "trial + worse -> comparing: revert, compare",
        ]
    );
}

#[test]
fn a_failure_is_counted_by_its_cause() {
    assert_eq!(
        table(
            0,
            &[
                ("environment", failed(FailureKind::Environment)),
                ("sickness", failed(FailureKind::Unhealthy)),
                ("crash", failed(FailureKind::Crashed)),
            ]
        ),
        [
            "checking + environment -> idle: postponed",
            "fetching + environment -> idle: environment 1.3.0, postponed",
            "staging + environment -> idle: environment 1.3.0, postponed",
            "preflight + environment -> idle: environment 1.3.0, postponed",
            "asking + environment -> idle: environment 1.3.0, postponed",
            "armed + environment -> idle: environment 1.3.0, revert, postponed",
            "trial + environment -> idle: environment 1.3.0, revert, postponed",
            "comparing + environment -> idle: environment 1.3.0, postponed",
            "proving + environment -> idle: environment 1.3.0, revert, postponed",
            "confirmed + environment -> idle: environment 1.3.0, revert, postponed",
            "committed + environment -> idle: postponed",
            "checking + sickness -> idle: postponed",
            "fetching + sickness -> idle: unhealthy 1.3.0, failed",
            "staging + sickness -> idle: unhealthy 1.3.0, failed",
            "preflight + sickness -> idle: unhealthy 1.3.0, failed",
            "asking + sickness -> idle: unhealthy 1.3.0, failed",
            "armed + sickness -> idle: unhealthy 1.3.0, revert, failed",
            "trial + sickness -> idle: unhealthy 1.3.0, revert, failed",
            "comparing + sickness -> idle: unhealthy 1.3.0, failed",
            "proving + sickness -> idle: unhealthy 1.3.0, revert, failed",
            "confirmed + sickness -> idle: unhealthy 1.3.0, revert, failed",
            "committed + sickness -> idle: postponed",
            "checking + crash -> idle: postponed",
            "fetching + crash -> idle: crashed 1.3.0, failed",
            "staging + crash -> idle: crashed 1.3.0, failed",
            "preflight + crash -> idle: crashed 1.3.0, failed",
            "asking + crash -> idle: crashed 1.3.0, failed",
            "armed + crash -> idle: crashed 1.3.0, revert, failed",
            "trial + crash -> idle: crashed 1.3.0, revert, failed",
            "comparing + crash -> idle: crashed 1.3.0, failed",
            "proving + crash -> idle: crashed 1.3.0, revert, failed",
            "confirmed + crash -> idle: crashed 1.3.0, revert, failed",
            "committed + crash -> idle: postponed",
        ]
    );
}

/// Everything else is tried again, however often it failed.
#[test]
fn only_the_third_crash_condemns() {
    for (crashes, kind, skips) in [
        (0, FailureKind::Crashed, false),
        (1, FailureKind::Crashed, false),
        (2, FailureKind::Crashed, true),
        (9, FailureKind::Environment, false),
        (9, FailureKind::Unhealthy, false),
    ] {
        for line in table(crashes, &[("x", failed(kind))]) {
            let counted = line.contains("1.3.0");
            assert_eq!(
                line.contains("skip 1.3.0"),
                skips && counted,
                "{crashes} {kind:?}: {line}"
            );
            assert_eq!(
                line.ends_with("skipped"),
                skips && counted,
                "{crashes} {kind:?}: {line}"
            );
        }
    }
}

fn withheld(minutes: u64) -> Withheld {
    Withheld {
        since: Timestamp::UNIX_EPOCH,
        reason: "busy".to_owned(),
        last: Some(Timestamp::UNIX_EPOCH),
        seconds: minutes * 60,
    }
}

fn refused() -> Event {
    Event::NotPermitted {
        reason: "busy".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn permission_is_withheld_until_its_bound_and_then_overruled() {
    for (urgent, before, expected) in [
        (false, None, "asking + x -> idle: withheld, postponed"),
        (false, Some(1439), "asking + x -> idle: withheld, postponed"),
        (false, Some(1440), "asking + x -> armed: given, arm"),
        (true, Some(9), "asking + x -> idle: withheld, postponed"),
        (true, Some(10), "asking + x -> armed: given, arm"),
        (true, None, "asking + x -> idle: withheld, postponed"),
    ] {
        let phase = Phase::Asking(Job {
            urgent,
            withheld: before.map(withheld),
            ..job(0)
        });
        assert_eq!(
            line(&phase, "x", refused()),
            expected,
            "urgent: {urgent}, {before:?}"
        );
        // What was taken without it is not asked at the trial's end.
        if let Phase::Armed(job) = step(phase, refused()).phase {
            assert!(job.overruled, "urgent: {urgent}, {before:?}");
            let done = Event::Done {
                at: Timestamp::UNIX_EPOCH,
            };
            let line = line(&Phase::Armed(job), "done", done);
            assert_eq!(
                line, "armed + done -> trial: watch unasked",
                "urgent: {urgent}, {before:?}"
            );
        }
    }
}

/// What is not asked for is not withheld: neither in a wave that has not come, nor under a hold.
#[test]
fn permission_that_is_not_requested_is_not_withheld() {
    let at = Timestamp::UNIX_EPOCH;
    for (decision, note) in [
        (Decision::WaitVerdict { offer: offer(3) }, Some("withheld")),
        (
            Decision::WaitWindow {
                offer: offer(3),
                at,
            },
            None,
        ),
        (
            Decision::WaitWave {
                offer: offer(3),
                at,
            },
            Some("given"),
        ),
        (
            Decision::Held {
                offer: offer(3),
                until: None,
            },
            Some("given"),
        ),
        (Decision::Current, Some("given")),
    ] {
        let line = line(&Phase::Checking, "x", checked(decision));
        let reported = ["withheld", "given"]
            .into_iter()
            .find(|word| line.contains(&format!(" {word},")));
        assert_eq!(reported, note, "{note:?}: {line}");
    }
}

#[test]
fn long_withheld_permission_is_reported() {
    for (urgent, minutes, code) in [
        (false, 59, NOT_PERMITTED),
        (false, 60, WITHHELD),
        (true, 0, WITHHELD),
    ] {
        let phase = Phase::Asking(Job {
            urgent,
            withheld: Some(withheld(minutes)),
            ..job(0)
        });
        let step = step(phase, refused());
        let Some(Action::Report(Outcome::Postponed { code: c, .. })) = step.actions.last() else {
            panic!("{step:?}");
        };
        assert_eq!(c, code, "urgent: {urgent}, {minutes}");
    }
}

#[test]
fn started_after_a_cut_with_the_old_stable() {
    let events = |boot| [("started", run_started(boot, 2, TrialResult::NotRun))];
    let expected = [
        "idle + started -> checking: runs 1.2.0, check",
        "checking + started -> checking: runs 1.2.0, check",
        "fetching + started -> checking: check",
        "staging + started -> checking: check",
        "preflight + started -> checking: interrupted 1.3.0, revert, check",
        "asking + started -> checking: check",
        "armed + started -> checking: interrupted 1.3.0, revert, check",
        "trial + started -> checking: interrupted 1.3.0, revert, check",
        "comparing + started -> checking: interrupted 1.3.0, revert, check",
        "proving + started -> checking: interrupted 1.3.0, revert, check",
        "confirmed + started -> checking: interrupted 1.3.0, revert, check",
        "committed + started -> idle: unhealthy 1.3.0, revert, failed",
    ];
    for crashes in [0, 9] {
        assert_eq!(table(crashes, &events("b1")), expected, "{crashes}");
        assert_eq!(table(crashes, &events("b2")), expected, "{crashes}");
    }
    // The result of a trial in another boot does not apply to this one.
    assert_eq!(
        table(0, &[("started", run_started("b2", 2, died()))]),
        expected
    );
    assert_eq!(
        table(
            0,
            &[("started", run_started("b1", 2, TrialResult::Deadline))]
        ),
        expected
    );
}

fn died() -> TrialResult {
    TrialResult::Failed {
        kind: FailureKind::Crashed,
        reason: "the trial ended with watchdog".to_owned(),
    }
}

#[test]
fn a_trial_that_failed_unwatched_is_counted_by_its_cause() {
    for (crashes, result, came) in [
        (0, died(), "crashed 1.3.0, revert, failed"),
        (2, died(), "crashed 1.3.0, skip 1.3.0, revert, skipped"),
        (
            2,
            TrialResult::Failed {
                kind: FailureKind::Environment,
                reason: "the trial ended with signal".to_owned(),
            },
            "environment 1.3.0, revert, postponed",
        ),
    ] {
        let lines = table(crashes, &[("started", run_started("b1", 2, result))]);
        for phase in ["armed", "trial", "proving", "confirmed"] {
            let wanted = format!("{phase} + started -> idle: {came}");
            assert!(
                lines.contains(&wanted),
                "{crashes}, {came}: {wanted}: {lines:#?}"
            );
        }
    }
}

#[test]
fn started_behind_the_commit_point_goes_on_from_there() {
    for boot in ["b1", "b2"] {
        let lines = table(
            1,
            &[("started", run_started(boot, 3, TrialResult::Running))],
        );
        assert_eq!(
            lines[10..],
            [
                "confirmed + started -> committed: promoted 1.3.0, restart",
                "committed + started -> committed: restart",
            ],
            "{boot}"
        );
    }
}

#[test]
fn a_trial_without_an_attempt_is_ended() {
    let lines = table(
        0,
        &[("started", run_started("b1", 2, TrialResult::Running))],
    );
    assert_eq!(
        lines[0],
        "idle + started -> checking: runs 1.2.0, revert, check"
    );
    assert_eq!(
        lines[1],
        "checking + started -> checking: runs 1.2.0, revert, check"
    );
}

#[test]
fn what_is_out_of_place_changes_nothing() {
    for phase in phases(0) {
        for event in [
            Event::Permitted,
            Event::Done {
                at: Timestamp::UNIX_EPOCH,
            },
            checked(Decision::Current),
        ] {
            let (name, row) = (phase.name(), format!("{event:?}"));
            let line = line(&phase, "x", event);
            let stayed = line == format!("{name} + x -> {name}: ");
            assert!(stayed || !line.ends_with(": "), "{row}: {line}");
        }
    }
}

/// A state written by one version is read by the next: these names are stable.
#[test]
fn phases_are_remembered_by_their_names() {
    for phase in phases(1) {
        let json = serde_json::to_value(&phase).unwrap();
        assert_eq!(json["phase"], phase.name(), "{phase:?}");
        assert_eq!(
            serde_json::from_value::<Phase>(json).unwrap(),
            phase,
            "{phase:?}"
        );
    }
    let json = serde_json::to_string(&Phase::Trial(job(0))).unwrap();
    assert!(
        json.starts_with("{\"phase\":\"trial\",\"job\":{\"build\":{\"version\":\"1.3.0\""),
        "{json}"
    );
}

/// The drawing, the page and the code name the same transitions.
#[test]
fn the_drawn_transitions_are_the_coded_ones() {
    let code = include_str!("transitions.rs");
    let code = code
        .split("/// What several transitions have in common.")
        .next()
        .unwrap();
    let coded: std::collections::BTreeSet<&str> = code
        .split("pub(super) fn ")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .collect();
    let drawn = |text: &'static str, open: &str, close: char| {
        let names = text
            .split(open)
            .skip(1)
            .filter_map(|rest| rest.split(close).next());
        names
            .map(str::trim)
            .collect::<std::collections::BTreeSet<&str>>()
    };
    let dot = include_str!("../../../../docs/agent-update-states.dot");
    assert_eq!(drawn(dot, "label=\"", '"'), coded);
    let page = include_str!("../../../../docs/agent.md");
    let mermaid = page
        .split("```mermaid")
        .nth(2)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    assert_eq!(drawn(mermaid, ": ", '\n'), coded);
    // And the same edges, all from and to phases that there are.
    let names: Vec<&str> = phases(0).iter().map(Phase::name).collect();
    let edges = |text: &'static str, arrow: &str, ends: char| {
        let lines = text
            .lines()
            .filter(|line| line.contains(arrow) && !line.contains("[*]"));
        let mut edges: Vec<(String, String, String)> = lines
            .map(|line| {
                let (from, rest) = line.split_once(arrow).unwrap();
                let (to, rest) = rest.split_once(ends).unwrap();
                let label: String = rest
                    .chars()
                    .filter(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                let label = label.trim_start_matches("label").to_owned();
                (from.trim().to_owned(), to.trim().to_owned(), label)
            })
            .collect();
        edges.sort();
        edges
    };
    let of_dot = edges(dot, " -> ", '[');
    assert_eq!(of_dot, edges(mermaid, " --> ", ':'));
    for (from, to, _) in &of_dot {
        assert!(
            names.contains(&from.as_str()) && names.contains(&to.as_str()),
            "{from} -> {to}"
        );
    }
}
