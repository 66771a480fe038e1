//! The phases, step by step; then whole lives of a box with power cuts anywhere.

mod laws;
mod life;

use contract::release::Release;
use semver::Version;

use super::*;
use crate::update::channel::Digest;

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

fn job(strikes: u32) -> Job {
    Job {
        build: build(3),
        from: build(2),
        why: "taking 1.3.0: newer".to_owned(),
        boot: "b1".to_owned(),
        began: Timestamp::UNIX_EPOCH,
        strikes,
    }
}

fn phases(strikes: u32) -> Vec<Phase> {
    let with_job = [
        Phase::Fetching,
        Phase::Staging,
        Phase::Preflight,
        Phase::Asking,
        Phase::Armed,
        Phase::Trial,
        Phase::Proving,
        Phase::Confirmed,
        Phase::Committed,
    ];
    let mut phases = vec![Phase::Idle, Phase::Checking];
    phases.extend(with_job.map(|phase| phase(job(strikes))));
    phases
}

fn woken(boot: &str, stable: u64, trial: Fate) -> Event {
    let (boot, stable) = (boot.to_owned(), build(stable));
    Event::Woken(Look {
        boot,
        stable,
        trial,
        at: Timestamp::UNIX_EPOCH,
    })
}

fn failed(blame: Blame) -> Event {
    let (code, reason) = ("word".to_owned(), "why".to_owned());
    Event::Failed(Failure {
        blame,
        code,
        reason,
        at: Timestamp::UNIX_EPOCH,
    })
}

fn checked(decision: Decision) -> Event {
    Event::Checked(Box::new(Checked {
        decision,
        floor: Some(Version::new(1, 1, 0)),
        strikes: 1,
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
        Note::Skip { build, .. } => format!("skip {}", build.version),
        Note::Strike(build) => format!("strike {}", build.version),
        Note::Setback { build, .. } => format!("setback {}", build.version),
        Note::Well => "well".to_owned(),
        Note::Floor(floor) => format!("floor {floor}"),
        Note::Promoted { build, .. } => format!("promoted {}", build.version),
    };
    let action = |action: &Action| match action {
        Action::Check => "check",
        Action::Fetch(_) => "fetch",
        Action::Stage(_) => "stage",
        Action::Probe(_) => "probe",
        Action::AskLeave(_) => "ask",
        Action::Arm(_) => "arm",
        Action::Watch(_) => "watch",
        Action::Commit(_) => "commit",
        Action::Restart(_) => "restart",
        Action::Revert => "revert",
        Action::Report(Outcome::Settled(_)) => "settled",
        Action::Report(Outcome::Updated { .. }) => "updated",
        Action::Report(Outcome::Postponed { .. }) => "postponed",
        Action::Report(Outcome::Skipped { .. }) => "skipped",
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
fn table(strikes: u32, events: &[(&str, Event)]) -> Vec<String> {
    let all = phases(strikes);
    let lines = events
        .iter()
        .flat_map(|(name, event)| all.iter().map(|phase| line(phase, name, event.clone())));
    lines.filter(|line| !line.ends_with(": ")).collect()
}

#[test]
fn an_attempt_goes_through_its_phases_and_commits_once() {
    let update = Decision::Update {
        offer: offer(3),
        why: crate::update::plan::Why::Newer,
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
            }),
        ),
        ("done", done()),
        ("leave", Event::Leave),
        (
            "no leave",
            Event::NoLeave {
                reason: "draining".to_owned(),
            },
        ),
    ];
    assert_eq!(
        table(0, &events),
        [
            "checking + update -> fetching: floor 1.1.0, fetch",
            "checking + current -> idle: floor 1.1.0, well, settled",
            "checking + backoff -> idle: floor 1.1.0, settled",
            "fetching + done -> staging: stage",
            "staging + done -> preflight: probe",
            "preflight + done -> asking: ask",
            "armed + done -> trial: watch",
            "trial + done -> proving: probe",
            "proving + done -> confirmed: commit",
            "confirmed + done -> committed: promoted 1.3.0, restart",
            "committed + done -> idle: updated",
            "asking + leave -> armed: arm",
            "asking + no leave -> idle: postponed",
        ]
    );
}

#[test]
fn a_failure_of_the_world_is_tried_again_and_one_of_the_release_is_not() {
    assert_eq!(
        table(
            0,
            &[
                ("world", failed(Blame::World)),
                ("release", failed(Blame::Release))
            ]
        ),
        [
            "checking + world -> idle: postponed",
            "fetching + world -> idle: setback 1.3.0, postponed",
            "staging + world -> idle: setback 1.3.0, postponed",
            "preflight + world -> idle: setback 1.3.0, postponed",
            "asking + world -> idle: setback 1.3.0, postponed",
            "armed + world -> idle: setback 1.3.0, revert, postponed",
            "trial + world -> idle: setback 1.3.0, revert, postponed",
            "proving + world -> idle: setback 1.3.0, revert, postponed",
            "confirmed + world -> idle: setback 1.3.0, revert, postponed",
            "committed + world -> idle: postponed",
            "checking + release -> idle: postponed",
            "fetching + release -> idle: skip 1.3.0, skipped",
            "staging + release -> idle: skip 1.3.0, skipped",
            "preflight + release -> idle: skip 1.3.0, skipped",
            "asking + release -> idle: skip 1.3.0, skipped",
            "armed + release -> idle: skip 1.3.0, revert, skipped",
            "trial + release -> idle: skip 1.3.0, revert, skipped",
            "proving + release -> idle: skip 1.3.0, revert, skipped",
            "confirmed + release -> idle: skip 1.3.0, revert, skipped",
            "committed + release -> idle: postponed",
        ]
    );
}

#[test]
fn woken_after_a_cut_with_the_old_stable() {
    let events = |boot| [("woken", woken(boot, 2, Fate::Unproven))];
    let expected = [
        "idle + woken -> checking: check",
        "checking + woken -> checking: check",
        "fetching + woken -> checking: check",
        "staging + woken -> checking: check",
        "preflight + woken -> checking: strike 1.3.0, revert, check",
        "asking + woken -> checking: check",
        "armed + woken -> checking: strike 1.3.0, revert, check",
        "trial + woken -> checking: strike 1.3.0, revert, check",
        "proving + woken -> checking: strike 1.3.0, revert, check",
        "confirmed + woken -> checking: strike 1.3.0, revert, check",
        "committed + woken -> idle: skip 1.3.0, revert, skipped",
    ];
    assert_eq!(table(0, &events("b1")), expected);
    assert_eq!(table(0, &events("b2")), expected);
    // What became of a trial in another boot says nothing of this one's.
    let failed = Fate::Failed("exit-code".to_owned());
    assert_eq!(table(0, &[("woken", woken("b2", 2, failed))]), expected);
    assert_eq!(
        table(0, &[("woken", woken("b1", 2, Fate::Deadline))]),
        expected
    );
}

#[test]
fn a_second_cut_is_taken_for_the_releases_doing() {
    let lines = table(1, &[("woken", woken("b2", 2, Fate::Unproven))]);
    assert_eq!(
        lines[2..],
        [
            "fetching + woken -> checking: check",
            "staging + woken -> checking: check",
            "preflight + woken -> idle: skip 1.3.0, revert, skipped",
            "asking + woken -> checking: check",
            "armed + woken -> idle: skip 1.3.0, revert, skipped",
            "trial + woken -> idle: skip 1.3.0, revert, skipped",
            "proving + woken -> idle: skip 1.3.0, revert, skipped",
            "confirmed + woken -> idle: skip 1.3.0, revert, skipped",
            "committed + woken -> idle: skip 1.3.0, revert, skipped",
        ]
    );
}

#[test]
fn a_trial_that_failed_while_nobody_watched_is_not_tried_again() {
    let failed = Fate::Failed("watchdog".to_owned());
    let lines = table(0, &[("woken", woken("b1", 2, failed))]);
    assert_eq!(
        lines[6..10],
        [
            "armed + woken -> idle: skip 1.3.0, revert, skipped",
            "trial + woken -> idle: skip 1.3.0, revert, skipped",
            "proving + woken -> idle: skip 1.3.0, revert, skipped",
            "confirmed + woken -> idle: skip 1.3.0, revert, skipped",
        ]
    );
}

#[test]
fn woken_behind_the_commit_point_goes_on_from_there() {
    for boot in ["b1", "b2"] {
        let lines = table(1, &[("woken", woken(boot, 3, Fate::Running))]);
        assert_eq!(
            lines[9..],
            [
                "confirmed + woken -> committed: promoted 1.3.0, restart",
                "committed + woken -> committed: restart",
            ]
        );
    }
}

#[test]
fn a_trial_that_nobody_remembers_starting_is_ended() {
    let lines = table(0, &[("woken", woken("b1", 2, Fate::Running))]);
    assert_eq!(lines[0], "idle + woken -> checking: revert, check");
    assert_eq!(lines[1], "checking + woken -> checking: revert, check");
}

#[test]
fn what_is_out_of_place_changes_nothing() {
    for phase in phases(0) {
        for event in [
            Event::Leave,
            Event::Done {
                at: Timestamp::UNIX_EPOCH,
            },
            checked(Decision::Current),
        ] {
            let name = phase.name();
            let line = line(&phase, "x", event);
            let stayed = line == format!("{name} + x -> {name}: ");
            assert!(stayed || !line.ends_with(": "), "{line}");
        }
    }
}

/// A state written by one version is read by the next: these words are a contract.
#[test]
fn phases_are_remembered_by_their_names() {
    for phase in phases(1) {
        let json = serde_json::to_value(&phase).unwrap();
        assert_eq!(json["phase"], phase.name());
        assert_eq!(serde_json::from_value::<Phase>(json).unwrap(), phase);
    }
    let json = serde_json::to_string(&Phase::Trial(job(0))).unwrap();
    assert!(
        json.starts_with("{\"phase\":\"trial\",\"job\":{\"build\":{\"version\":\"1.3.0\""),
        "{json}"
    );
}

/// The drawing, the page and the code name the same transitions.
#[test]
fn the_drawn_machine_is_the_coded_one() {
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
