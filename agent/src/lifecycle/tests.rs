//! The lifecycle with a simulated group, on simulated time; results are transcripts.

mod draining;
mod image_tests;
mod life;
mod notices;
mod out_of_service;
mod properties;
mod remedy;
mod traffic;

use self::life::{Life, hook, service, terms};
use super::*;
use crate::settings::{Drain, Serving};

#[test]
fn without_a_group_an_instance_is_judged_and_serves() {
    let mut life = Life::alone();
    life.until(30);
    assert_eq!(life.transcript(), ["0 Judging", "4 Fit"]);
    assert_eq!(life.registry, Some(Verdict::Fit));
    assert_eq!(life.lifecycle.state_name(), "serving");
    assert_eq!(life.lifecycle.waiting_for(), "serving, in no group");
}

#[test]
fn a_fit_instance_completes_its_launch_hook() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.until(30);
    assert_eq!(
        life.transcript(),
        ["0 Judging", "4 Fit", "4 CONTINUE on in: Accepted"]
    );
    assert_eq!(life.lifecycle.waiting_for(), "serving in group fleet");
}

/// A lifecycle that continues from a previous daemon, in a group that has the instance in `phase`.
fn after(stage: LifeStage, verdict: Verdict, phase: Phase) -> Life {
    let mut life = Life::in_group(phase);
    life.lifecycle.resume_from(PreviousDaemon {
        stage,
        judgement: Judgement {
            verdict,
            reason: match verdict {
                Verdict::Draining => "the group is terminating this instance".to_owned(),
                _ => String::new(),
            },
        },
        drained_for: Duration::ZERO,
        group: Some("fleet".into()),
        recorded: true,
        round: Round::new(),
    });
    life
}

#[test]
fn a_restarted_daemon_goes_on_where_the_one_before_it_left() {
    let mut life = after(LifeStage::Serving, Verdict::Fit, Phase::InService);
    life.until(600);
    assert_eq!(
        (life.lifecycle.state_name(), life.transcript().len()),
        ("serving", 0)
    );
    let mut life = after(LifeStage::Admitting, Verdict::Fit, Phase::PendingWait);
    life.until(600);
    assert_eq!(life.transcript(), ["0 CONTINUE on in: Accepted"]);
    let mut life = after(LifeStage::Ailing, Verdict::Unfit, Phase::InService);
    life.until(600);
    assert_eq!(life.transcript(), ["10 Fit"]);
    let mut life = after(LifeStage::Ailing, Verdict::Unfit, Phase::InService);
    life.healthy = false;
    life.until(90);
    assert_eq!(life.transcript(), ["60 reported unhealthy"]);
    let mut life = after(LifeStage::Refusing, Verdict::Unfit, Phase::PendingWait);
    life.until(600);
    assert_eq!(life.transcript(), ["0 ABANDON on in: Accepted"]);
    let mut life = after(LifeStage::Abandoned, Verdict::Unfit, Phase::TerminatingWait);
    life.until(600);
    assert_eq!(
        (life.lifecycle.state_name(), life.transcript().len()),
        ("abandoned", 0)
    );
    for verdict in [Verdict::Draining, Verdict::Unfit] {
        let mut life = after(LifeStage::Draining, verdict, Phase::TerminatingWait);
        life.until(600);
        assert_eq!(
            life.transcript(),
            ["5 record_removed", "5 CONTINUE on out: Accepted"],
            "{verdict:?}"
        );
        let mut life = after(LifeStage::Departing, verdict, Phase::TerminatingProceed);
        life.until(600);
        assert_eq!(life.transcript(), ["0 record_removed"], "{verdict:?}");
        assert_eq!(
            (life.lifecycle.state_name(), life.writes.len()),
            ("gone", 0),
            "{verdict:?}"
        );
    }
}

#[test]
fn a_past_is_read_only_where_state_and_verdict_belong_together() {
    for (state, verdict) in [
        ("judging", Verdict::Judging),
        ("serving", Verdict::Unfit),
        ("refusing", Verdict::Fit),
        ("draining", Verdict::Fit),
        ("", Verdict::Fit),
    ] {
        assert_eq!(LifeStage::parse(state, verdict), None, "{state}");
    }
    assert_eq!(
        LifeStage::parse("gone", Verdict::Draining),
        Some(LifeStage::Departing)
    );
}

#[test]
fn a_restart_needs_an_instance_in_service_or_without_a_group() {
    let mut life = Life::in_group(Phase::PendingWait);
    assert_eq!(life.lifecycle.readiness(), Readiness::NotKnown);
    life.until(1);
    let busy = |life: &Life| match life.lifecycle.readiness() {
        Readiness::Busy(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(busy(&life), "this instance is not in service yet");
    life.until(2);
    assert_eq!(busy(&life), "this instance is not in service yet");
    life.until(60);
    life.place = Some(Phase::Other("Standby".into()));
    life.target_state = Some(TargetState::Other("Standby".into()));
    life.until(70);
    assert_eq!(busy(&life), "the group has this instance in Standby");
    life.place = Some(Phase::InService);
    life.target_state = Some(TargetState::InService);
    life.api = false;
    life.until(75);
    assert_eq!(life.lifecycle.readiness(), Readiness::NotKnown);
    life.api = true;
    life.until(90);
    assert_eq!(life.lifecycle.readiness(), Readiness::Settled);
    // Unfit, it may: the next version may fix it.
    life.healthy = false;
    life.until(120);
    assert_eq!(life.lifecycle.state_name(), "ailing");
    assert_eq!(life.lifecycle.readiness(), Readiness::Settled);
    life.target_state = Some(TargetState::Terminated);
    life.until(123);
    assert_eq!(busy(&life), "this instance is being terminated");
    let mut life = Life::alone();
    life.until(60);
    assert_eq!(life.lifecycle.readiness(), Readiness::Settled);
}

#[test]
fn passes_must_be_in_a_row() {
    let mut life = Life::alone();
    life.until(3);
    life.healthy = false;
    life.until(5);
    life.healthy = true;
    life.until(20);
    assert_eq!(life.transcript(), ["0 Judging", "10 Fit"]);
}

#[test]
fn an_instance_unfit_at_the_deadline_abandons_its_launch() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.healthy = false;
    life.until(300);
    let unfit = "60 Unfit not fit within 60 s: orders answered 503";
    assert_eq!(
        life.transcript(),
        ["0 Judging", unfit, "60 ABANDON on in: Accepted"]
    );
    assert_eq!(life.registry, Some(Verdict::Unfit));
    assert_eq!(life.lifecycle.state_name(), "abandoned");
}

#[test]
fn an_abandoned_instance_keeps_its_reason() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.healthy = false;
    life.until(70);
    life.target_state = Some(TargetState::Terminated);
    life.until(73);
    assert_eq!(life.lifecycle.state_name(), "draining");
    assert_eq!(life.registry, Some(Verdict::Unfit));
    life.until(90);
    assert_eq!(
        life.transcript()[3..],
        ["75 record_removed", "75 CONTINUE on out: Accepted"]
    );
}

#[test]
fn refused_settings_abandon_the_launch_at_once() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.terms = Err("user data:2:1: unknown key `x`".to_owned());
    life.until(60);
    assert_eq!(
        life.transcript(),
        [
            "0 Unfit settings refused: user data:2:1: unknown key `x`",
            "0 ABANDON on in: Accepted"
        ]
    );
}

#[test]
fn refused_settings_never_request_a_replacement() {
    let mut life = Life::in_group(Phase::InService);
    life.terms = Err("x".to_owned());
    life.until(3600);
    assert_eq!(life.transcript(), ["0 Unfit settings refused: x"]);
}

#[test]
fn heartbeats_are_at_most_a_third_of_the_timeout_apart() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.hooks.launching = hook("in", 30);
    life.healthy = false;
    life.until(200);
    assert!(life.beats.len() >= 6, "{:?}", life.beats);
    let mut last = 0;
    for beat in &life.beats {
        assert!(beat - last <= 10, "{:?}", life.beats);
        last = *beat;
    }
    assert!(last <= 60 && last > 49, "{:?}", life.beats);
}

#[test]
fn the_real_state_decides_what_no_active_action_means() {
    // Too early: the hook becomes active later.
    let mut life = Life::in_group(Phase::Pending);
    life.until(9);
    assert_eq!(life.lifecycle.state_name(), "admitting");
    life.place = Some(Phase::PendingWait);
    life.until(20);
    assert_eq!(life.log.last().unwrap(), "10 CONTINUE on in: Accepted");
    // Timed out with CONTINUE, or answered by another: in service already, no further answer.
    let mut life = Life::in_group(Phase::PendingWait);
    life.until(3);
    life.place = Some(Phase::InService);
    life.until(60);
    assert_eq!(
        life.transcript(),
        ["0 Judging", "4 Fit", "4 CONTINUE on in: NotActive"]
    );
    assert_eq!(life.lifecycle.state_name(), "serving");
    // Timed out with ABANDON: on its way out.
    let mut life = Life::in_group(Phase::PendingWait);
    life.until(3);
    life.place = Some(Phase::TerminatingWait);
    life.until(60);
    assert_eq!(
        life.transcript()[2..],
        [
            "4 CONTINUE on in: NotActive",
            "6 Draining the group is terminating this instance",
            "11 record_removed",
            "11 CONTINUE on out: Accepted"
        ]
    );
}

#[test]
fn a_reboot_in_service_answers_no_hook() {
    let mut life = Life::in_group(Phase::InService);
    life.until(60);
    assert_eq!(life.transcript(), ["0 Judging", "4 Fit"]);
}

#[test]
fn an_api_that_is_away_only_delays() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.api = false;
    life.until(100);
    assert_eq!(life.transcript(), ["0 Judging", "4 Fit"]);
    life.api = true;
    life.until(111);
    assert_eq!(life.lifecycle.state_name(), "serving");
    // The record can wait longer: see `registry::pace`.
    life.until(500);
    assert_eq!(life.registry, Some(Verdict::Fit));
}

#[test]
fn a_metadata_service_that_is_late_only_delays() {
    let mut life = Life::alone();
    life.imds = false;
    life.until(100);
    assert_eq!(life.lifecycle.state_name(), "identifying");
    assert!(life.transcript().is_empty());
    life.imds = true;
    life.until(130);
    assert_eq!(life.lifecycle.state_name(), "serving");
}

#[test]
fn a_late_membership_still_gets_the_hook_answered() {
    let mut life = Life::alone();
    life.until(30);
    assert_eq!(life.lifecycle.state_name(), "serving");
    life.target_state = Some(TargetState::InService);
    life.place = Some(Phase::PendingWait);
    life.hooks.launching = hook("in", 300);
    life.until(60);
    assert_eq!(life.log.last().unwrap(), "30 CONTINUE on in: Accepted");
    assert_eq!(life.lifecycle.state_name(), "serving");
}

#[test]
fn imds_and_api_that_disagree_do_not_mean_no_group() {
    let mut life = Life::alone();
    life.target_state = Some(TargetState::InService);
    life.until(30);
    assert_eq!(life.lifecycle.state_name(), "admitting");
    life.place = Some(Phase::InService);
    life.until(40);
    assert_eq!(life.lifecycle.state_name(), "serving");
}

/// Hooks come, go and are renamed while instances live.
#[test]
fn a_termination_hook_created_after_boot_is_answered() {
    let mut life = Life::in_group(Phase::InService);
    life.hooks.terminating = Vec::new();
    life.until(600);
    life.hooks.terminating = hook("new", 3600);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::Terminating);
    life.until(610);
    life.place = Some(Phase::TerminatingWait);
    life.until(630);
    assert_eq!(
        life.log.last().unwrap(),
        "611 CONTINUE on new: Accepted",
        "{:#?}",
        life.log
    );
    assert_eq!(life.lifecycle.state_name(), "gone");
}

#[test]
fn a_hook_that_was_renamed_is_answered_under_its_new_name() {
    // A termination hook, while the instance serves.
    let mut life = Life::in_group(Phase::InService);
    life.until(600);
    life.hooks.terminating = hook("renamed", 3600);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(630);
    assert_eq!(
        life.log.last().unwrap(),
        "605 CONTINUE on renamed: Accepted",
        "{:#?}",
        life.log
    );
    // After the drain began: because of the refused answer.
    let mut life = Life::in_group(Phase::InService);
    life.until(600);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(604);
    life.hooks.terminating = hook("renamed", 3600);
    life.until(640);
    assert!(
        life.transcript()
            .contains(&"605 CONTINUE on out: NotActive"),
        "{:#?}",
        life.log
    );
    assert!(
        life.log
            .last()
            .unwrap()
            .ends_with("CONTINUE on renamed: Accepted"),
        "{:#?}",
        life.log
    );
    // A launch hook, while the instance is at its gate.
    let mut life = Life::in_group(Phase::PendingWait);
    life.until(3);
    life.hooks.launching = hook("renamed", 300);
    life.until(60);
    assert!(
        life.log
            .last()
            .unwrap()
            .ends_with("CONTINUE on renamed: Accepted"),
        "{:#?}",
        life.log
    );
    assert_eq!(life.lifecycle.state_name(), "serving");
}

#[test]
fn a_hook_created_while_draining_is_answered() {
    let mut life = Life::in_group(Phase::InService);
    life.hooks.terminating = Vec::new();
    life.until(600);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::Terminating);
    life.until(640);
    life.hooks.terminating = hook("late", 3600);
    life.place = Some(Phase::TerminatingWait);
    life.until(700);
    assert!(
        life.log
            .last()
            .unwrap()
            .ends_with("CONTINUE on late: Accepted"),
        "{:#?}",
        life.log
    );
}

#[test]
fn a_changed_target_state_has_the_hooks_read_again() {
    let mut life = Life::in_group(Phase::InService);
    life.until(60);
    assert_eq!(life.asked_hooks, 1);
    for (number, target) in (2..).zip([None, Some(TargetState::InService)]) {
        life.target_state = target;
        let end = life.at() + 60;
        life.until(end);
        assert_eq!(life.asked_hooks, number, "{number}");
    }
}

/// A group whose launch takes long costs no more calls for that.
#[test]
fn refused_answers_do_not_have_the_hooks_read_every_time() {
    let mut life = Life::in_group(Phase::Pending);
    life.until(304);
    let refused = life
        .transcript()
        .iter()
        .filter(|line| line.ends_with("NotActive"))
        .count();
    assert!(refused > 100, "{refused}");
    assert!(life.asked_hooks <= 35, "{}", life.asked_hooks);
}

#[test]
fn failing_every_second_check_makes_the_instance_unfit() {
    for (flaps, unfit) in [(2, true), (4, false), (5, false)] {
        let mut life = Life::in_group(Phase::InService);
        life.until(30);
        life.flaps = flaps;
        life.until(600);
        let transcript = life.transcript().iter().any(|line| line.contains("Unfit"));
        assert_eq!(transcript, unfit, "{flaps}: {:#?}", life.log);
        if unfit {
            let line = life
                .transcript()
                .into_iter()
                .find(|line| line.contains("Unfit"))
                .unwrap();
            assert!(
                line.contains("8 of the last ")
                    && line.ends_with("checks failed: orders answered 503"),
                "{line}"
            );
            // Well again it is not judged by what was.
            life.flaps = 0;
            life.until(700);
            assert!(
                life.log.last().unwrap().ends_with(" Fit"),
                "{:#?}",
                life.log
            );
        }
    }
}

#[test]
fn an_instance_becomes_unfit_and_recovers_with_hysteresis() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.healthy = false;
    life.until(28);
    life.healthy = true;
    life.until(60);
    assert_eq!(
        life.transcript(),
        ["0 Judging", "4 Fit"],
        "two failures are not three"
    );
    life.healthy = false;
    life.until(131);
    assert_eq!(life.log.last().unwrap(), "71 Unfit orders answered 503");
    assert_eq!(life.registry, Some(Verdict::Unfit));
    life.healthy = true;
    life.until(300);
    assert_eq!(life.log[3..], ["131 reported unhealthy", "141 Fit"]);
    assert_eq!(life.registry, Some(Verdict::Fit));
}

#[test]
fn a_lasting_failure_requests_a_replacement_repeatedly() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.healthy = false;
    life.until(170);
    assert_eq!(
        life.transcript()[2..],
        [
            "31 Unfit orders answered 503",
            "91 reported unhealthy",
            "151 reported unhealthy"
        ]
    );
}

#[test]
fn no_replacement_is_asked_for_outside_of_service() {
    for place in [None, Some(Phase::Other("Standby".to_owned()))] {
        let row = format!("{place:?}");
        let mut life = Life::in_group(Phase::InService);
        life.until(21);
        life.healthy = false;
        life.place = place;
        life.until(300);
        assert_eq!(
            life.transcript()[2..],
            ["31 Unfit orders answered 503"],
            "{row}"
        );
    }
}

#[test]
fn a_terminated_instance_drains_and_answers_its_hook() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::Terminating);
    life.until(40);
    assert_eq!(
        life.transcript()[2..],
        [
            "22 Draining the group is terminating this instance",
            "27 record_removed"
        ]
    );
    assert_eq!(life.lifecycle.state_name(), "departing");
    life.place = Some(Phase::TerminatingWait);
    life.until(60);
    assert_eq!(life.log.last().unwrap(), "41 CONTINUE on out: Accepted");
    assert_eq!((life.lifecycle.state_name(), life.registry), ("gone", None));
    assert_eq!(life.lifecycle.next_due(), None);
}

#[test]
fn a_draining_instance_is_not_reported_unhealthy() {
    let mut life = Life::in_group(Phase::InService);
    life.hooks.terminating = hook("out", 30);
    let drain = Drain {
        settle: Duration::from_secs(120),
        deadline: Duration::from_secs(600),
        ..terms().drain
    };
    life.terms = Ok(Terms { drain, ..terms() });
    life.until(21);
    life.healthy = false;
    life.until(50);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(240);
    assert_eq!(
        life.transcript()[2..],
        [
            "31 Unfit orders answered 503",
            "50 Draining the group is terminating this instance",
            "170 record_removed",
            "170 CONTINUE on out: Accepted"
        ]
    );
    assert!(life.beats.len() >= 12, "{:?}", life.beats);
    assert!(
        life.beats.windows(2).all(|pair| pair[1] - pair[0] <= 10),
        "{:?}",
        life.beats
    );
}

#[test]
fn without_a_termination_hook_draining_only_removes_the_record() {
    let mut life = Life::in_group(Phase::InService);
    life.hooks.terminating = Vec::new();
    life.until(21);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(60);
    assert_eq!(
        life.transcript()[2..],
        [
            "22 Draining the group is terminating this instance",
            "27 record_removed"
        ]
    );
    assert_eq!(life.lifecycle.state_name(), "gone");
}

#[test]
fn a_parameter_store_that_is_away_does_not_hold_up_the_end() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.parameters = false;
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(60);
    let last = life.log.last().unwrap();
    assert!(
        last.ends_with("CONTINUE on out: Accepted"),
        "{:?}",
        life.log
    );
    assert_eq!(
        life.registry,
        Some(Verdict::Fit),
        "left behind, and read as what it is: stale"
    );
}

#[test]
fn a_record_still_to_be_written_does_not_put_off_its_removal() {
    let mut life = Life::in_group(Phase::InService);
    let drain = Drain {
        settle: Duration::ZERO,
        ..terms().drain
    };
    life.terms = Ok(Terms { drain, ..terms() });
    life.until(21);
    life.healthy = false;
    life.until(32);
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(60);
    assert_eq!(
        life.transcript()[2..],
        [
            "31 Unfit orders answered 503",
            "32 Draining the group is terminating this instance",
            "32 record_removed",
            "32 CONTINUE on out: Accepted"
        ]
    );
}

#[test]
fn a_flapping_service_does_not_flood_the_registry() {
    let mut life = Life::in_group(Phase::InService);
    life.terms = Ok(Terms {
        serving: Serving {
            passes: 1,
            failures: 1,
            interval: Duration::from_millis(500),
            replace_after: None,
            ..terms().serving
        },
        ..terms()
    });
    life.until(10);
    let before = life.writes.len();
    for second in 10..110 {
        life.healthy = !life.healthy;
        life.until(second);
    }
    let writes = life.writes.len() - before;
    assert!(writes <= 3, "{writes} writes in 100 s");
}

#[test]
fn becoming_unfit_during_continue_is_not_an_abandon() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.until(3);
    let now = life.now;
    let sick = || Round::from([("orders".to_owned(), service(false, "x"))]);
    life.lifecycle.gate_passed(now);
    for _ in 0..3 {
        life.lifecycle.step(Event::Checked(sick().into()), now);
    }
    assert_eq!(life.lifecycle.state_name(), "refusing");
    let outcome = Ok(Receipt::Accepted);
    let (hook, answer) = ("in".to_owned(), Answer::Continue);
    life.lifecycle.step(
        Event::Answered {
            hook,
            answer,
            outcome,
        },
        now,
    );
    assert_eq!(life.lifecycle.state_name(), "ailing");
}

#[test]
fn a_lost_launch_answer_never_answers_the_termination_hook() {
    let mut life = Life::in_group(Phase::PendingWait);
    life.until(3);
    let now = life.now;
    life.lifecycle.gate_passed(now);
    for action in life.lifecycle.step(Event::Tick, now) {
        if let Action::Complete { hook, answer, .. } = action {
            let outcome = Err(NoAnswer);
            let lost = Event::Answered {
                hook,
                answer,
                outcome,
            };
            life.under_way.push((now + Duration::from_secs(3), lost));
        } else if let Some(answer) = life.play(action) {
            life.under_way.push((now, answer));
        }
    }
    life.target_state = Some(TargetState::Terminated);
    life.place = Some(Phase::TerminatingWait);
    life.until(30);
    let transcript = life.transcript();
    assert!(
        transcript[1].ends_with("Fit") && transcript[2].contains("Draining"),
        "{transcript:?}"
    );
    assert!(transcript[3].ends_with("record_removed"), "{transcript:?}");
    assert!(
        transcript[4].ends_with("CONTINUE on out: Accepted"),
        "{transcript:?}"
    );
}

#[test]
fn a_lost_report_is_not_repeated_once_fit() {
    let mut life = Life::in_group(Phase::InService);
    life.until(21);
    life.healthy = false;
    life.until(90);
    life.lifecycle.duties.at(Duty::Report, life.now);
    assert!(
        life.lifecycle
            .step(Event::Tick, life.now)
            .contains(&Action::ReportUnhealthy)
    );
    life.lifecycle.recovered(life.now);
    life.lifecycle
        .step(Event::Reported(Err(NoAnswer)), life.now);
    life.healthy = true;
    life.until(300);
    assert!(
        !life.log.iter().any(|line| line.contains("reported")),
        "{:?}",
        life.log
    );
}

/// The drawing, the page and the code name the same transitions.
#[test]
fn the_drawn_transitions_are_the_coded_ones() {
    let code = include_str!("transitions.rs");
    let mut coded: Vec<&str> = code
        .split("pub(super) fn ")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .collect();
    coded.sort_unstable();
    let drawn = |text: &'static str, open: &str, close: char| {
        let mut names: Vec<&str> = text
            .split(open)
            .skip(1)
            .filter_map(|rest| rest.split(close).next())
            .map(str::trim)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    assert_eq!(
        drawn(
            include_str!("../../../docs/agent-states.dot"),
            "label=\"",
            '"'
        ),
        coded
    );
    let page = include_str!("../../../docs/agent.md");
    let mermaid = page
        .split("```mermaid")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    assert_eq!(drawn(mermaid, ": ", '\n'), coded);
}
