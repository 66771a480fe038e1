//! Drains whose services are asked: how long they take, and what shortens them.

use jiff::Timestamp;

use super::life::{Life, hook, terms};
use crate::health::{DrainAnswer, Unclear};
use crate::lifecycle::progress::{Outcome, Progress, View, decide};
use crate::lifecycle::*;
use crate::notice::Scheduled;
use crate::settings::{Drain, OnFailure};

/// An instance in service whose services answer `answers(second)` when they are asked.
fn asked(deadline: u64, answers: fn(u64) -> DrainAnswer) -> Life {
    let mut life = Life::in_group(Phase::InService);
    life.terms = Ok(Terms {
        drain: Drain {
            deadline: Duration::from_secs(deadline),
            poll: Some(Duration::from_secs(5)),
            ..terms().drain
        },
        ..terms()
    });
    life.answers = answers;
    life.until(21);
    life
}

/// The group terminates it at 22.
fn terminated(deadline: u64, answers: fn(u64) -> DrainAnswer) -> Life {
    let mut life = asked(deadline, answers);
    terminate(&mut life);
    life
}

fn terminate(life: &mut Life) {
    (life.target_state, life.place) = (Some(TargetState::Terminated), Some(Phase::TerminatingWait));
}

fn busy_until(at: u64, end: u64) -> DrainAnswer {
    match at < end {
        true => DrainAnswer::Busy,
        false => DrainAnswer::Done,
    }
}

fn unclear(kind: Unclear, detail: &str) -> DrainAnswer {
    DrainAnswer::Unclear {
        kind,
        detail: detail.to_owned(),
    }
}

#[test]
fn a_drain_ends_when_all_is_done_or_at_its_deadline() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for (now, deregistered, done, released, outcome) in [
        (4, true, true, false, Outcome::Goes),
        (5, true, true, false, Outcome::Finished),
        (5, false, true, false, Outcome::Goes),
        (5, true, false, false, Outcome::Goes),
        (59, false, false, false, Outcome::Goes),
        (60, true, true, false, Outcome::Finished),
        (60, false, true, false, Outcome::Overdue),
        (60, true, false, false, Outcome::Overdue),
        (4, true, true, true, Outcome::Released),
        (9, true, false, true, Outcome::Released),
        (9, true, true, true, Outcome::Finished),
        (60, false, false, true, Outcome::Released),
    ] {
        let view = View {
            until: at(5),
            deadline: at(60),
            deregistered,
            done,
            released,
        };
        assert_eq!(decide(view, at(now)), outcome, "{now}: {view:?}");
    }
}

#[test]
fn only_a_late_question_shows_that_services_are_done() {
    let start = Instant::now();
    let free = start + Duration::from_secs(5);
    let mut drain = Progress::new(start, true);
    drain.asked = Some(start);
    drain.answered(DrainAnswer::Done);
    assert!(!drain.is_done(), "the load balancers still send requests");
    (drain.free_since, drain.asked) = (Some(free), Some(free));
    assert!(!drain.is_done(), "the last question is not answered yet");
    drain.answered(DrainAnswer::Busy);
    assert!(!drain.is_done());
    drain.answered(DrainAnswer::Done);
    assert!(drain.is_done());
    assert!(Progress::new(start, false).is_done(), "nothing is asked");
}

#[test]
fn a_worker_that_is_busy_for_90_s_is_waited_for() {
    let mut life = terminated(600, |at| busy_until(at, 22 + 90));
    life.hooks.terminating = hook("out", 30);
    life.until(100);
    assert_eq!(
        life.lifecycle.waiting_for(),
        "draining; the services are still busy"
    );
    assert_eq!(life.registry, Some(Verdict::Draining));
    life.until(200);
    assert_eq!(
        life.transcript()[2..],
        [
            "22 Draining the group is terminating this instance",
            "112 record_removed",
            "112 CONTINUE on out: Accepted"
        ]
    );
    // At the start, when the least time is over, and every five seconds.
    assert_eq!(life.questions[..4], [22, 27, 32, 37]);
    assert_eq!(life.questions.last(), Some(&112));
    assert!(
        life.beats.windows(2).all(|pair| pair[1] - pair[0] <= 10) && life.beats.len() >= 9,
        "{:?}",
        life.beats
    );
    assert_eq!(life.lifecycle.next_due(), None, "nothing is asked any more");
}

/// A worker may take on another task until the load balancers have deregistered the instance.
#[test]
fn an_early_done_does_not_count() {
    let mut life = asked(3600, |_| DrainAnswer::Done);
    life.slowness = 900;
    terminate(&mut life);
    life.until(27);
    assert_eq!(life.lifecycle.state_name(), "draining");
    assert!(life.questions[0] <= 23, "{:?}", life.questions);
    life.until(40);
    let ended = life.log.iter().find(|line| line.contains("removed"));
    assert!(
        ended.is_some_and(|line| line.starts_with("27") || line.starts_with("28")),
        "{:?}",
        life.log
    );
    let mut life = asked(3600, |at| busy_until(at, 27));
    let ours = "arn:aws:elasticloadbalancing:r:1:targetgroup/ours/1";
    life.lifecycle.adopt(vec![ours.to_owned()], life.now);
    (life.registered, life.balancers) = (true, "draining");
    terminate(&mut life);
    life.until(60);
    assert_eq!(life.lifecycle.state_name(), "draining", "{:?}", life.log);
    let before = life.questions.len();
    life.balancers = "healthy";
    life.until(70);
    assert!(life.questions.len() > before, "{:?}", life.questions);
    assert_eq!(life.lifecycle.state_name(), "gone", "{:?}", life.log);
}

#[test]
fn a_service_that_is_busy_for_ever_ends_at_the_deadline() {
    for (on_failure, answer) in [
        (OnFailure::Continue, "CONTINUE"),
        (OnFailure::Abandon, "ABANDON"),
    ] {
        let mut life = terminated(60, |_| DrainAnswer::Busy);
        life.lifecycle.terms.drain.on_failure = on_failure;
        life.until(200);
        assert_eq!(
            life.transcript()[3..],
            [
                "82 warned: the drain ends at its deadline: the services are still busy".to_owned(),
                "82 record_removed".to_owned(),
                format!("82 {answer} on out: Accepted"),
            ]
        );
    }
}

#[test]
fn unclear_answers_count_as_busy_and_warn_once_a_kind() {
    let mut life = terminated(3600, |at| match at {
        0..40 => unclear(Unclear::Failed, "cannot connect"),
        40..60 if at % 2 == 0 => unclear(Unclear::Status(503), "answered 503"),
        40..60 => unclear(Unclear::Status(500), "answered 500"),
        60..70 => unclear(Unclear::Failed, "cannot connect"),
        at => busy_until(at, 80),
    });
    life.until(38);
    assert_eq!(
        life.lifecycle.waiting_for(),
        "draining; the services count as busy: cannot connect"
    );
    life.until(200);
    let warned: Vec<&str> = life
        .transcript()
        .into_iter()
        .filter(|line| line.contains("warned"))
        .collect();
    let text = "warned: cannot find out whether the services are busy, so they count as busy:";
    assert_eq!(
        warned,
        [
            format!("22 {text} cannot connect"),
            format!("42 {text} answered 503"),
            format!("47 {text} answered 500"),
        ]
    );
    assert_eq!(life.log.last().unwrap(), "82 CONTINUE on out: Accepted");
}

#[test]
fn an_instance_that_never_was_fit_has_nothing_to_finish() {
    // At its gate, and after its launch was abandoned.
    for seconds in [10, 100] {
        let mut life = Life::in_group(Phase::PendingWait);
        life.terms = asked(3600, |_| DrainAnswer::Busy).terms;
        (life.healthy, life.answers) = (false, |_| DrainAnswer::Busy);
        life.until(seconds);
        terminate(&mut life);
        life.until(seconds + 20);
        assert_eq!(life.lifecycle.state_name(), "gone", "{:?}", life.log);
        assert!(life.questions.is_empty(), "{seconds}");
    }
    // One that is unfit now may have work from before.
    let mut life = asked(3600, |_| DrainAnswer::Busy);
    life.healthy = false;
    life.until(60);
    assert_eq!(life.lifecycle.state_name(), "ailing");
    terminate(&mut life);
    life.until(120);
    assert_eq!(life.lifecycle.state_name(), "draining");
}

#[test]
fn a_spot_notice_cuts_the_deadline_and_asks_on() {
    let mut life = asked(3600, |_| DrainAnswer::Busy);
    life.interrupt("terminate", 145);
    life.until(200);
    let why = "Spot interruption: terminate at 1970-01-01T00:02:25Z";
    assert_eq!(
        life.transcript()[2..],
        [
            format!("25 announced: {why}"),
            format!("25 Draining {why}"),
            "130 warned: the drain ends at its deadline: the services are still busy".to_owned(),
            "130 record_removed".to_owned(),
        ]
    );
    assert!(life.questions.len() >= 20, "{:?}", life.questions);
    let mut life = asked(3600, |at| busy_until(at, 60));
    life.interrupt("terminate", 145);
    life.until(200);
    assert_eq!(life.log.last().unwrap(), "60 record_removed");
}

#[test]
fn a_spot_notice_cuts_a_drain_that_the_group_began() {
    let mut life = terminated(3600, |_| DrainAnswer::Busy);
    life.until(1000);
    life.spot.rebalance = Some(Timestamp::UNIX_EPOCH);
    life.until(1100);
    assert_eq!(life.lifecycle.state_name(), "draining", "only advice");
    life.interrupt("terminate", 1220);
    life.until(1300);
    assert_eq!(
        life.transcript()[4..],
        [
            "1102 announced: Spot interruption: terminate at 1970-01-01T00:20:20Z",
            "1102 warned: EC2 stops this instance at 1970-01-01T00:20:20Z: the drain ends before",
            "1205 warned: the drain ends at its deadline: the services are still busy",
            "1205 record_removed",
            "1205 CONTINUE on out: Accepted"
        ]
    );
}

#[test]
fn a_withdrawn_notice_ends_the_questions() {
    let mut life = asked(3600, |_| DrainAnswer::Busy);
    life.schedule = vec![Scheduled {
        id: "instance-event-1".to_owned(),
        code: "instance-retirement".to_owned(),
        not_before: Timestamp::from_second(300).ok(),
    }];
    life.until(100);
    assert_eq!(life.lifecycle.state_name(), "draining");
    life.schedule.clear();
    life.until(200);
    assert_eq!(life.lifecycle.state_name(), "serving");
    let asked = life.questions.len();
    life.until(300);
    assert_eq!(life.questions.len(), asked);
}

#[test]
fn the_hooks_longest_time_cuts_the_deadline() {
    let mut life = terminated(7200, |_| DrainAnswer::Busy);
    life.hooks.terminating = hook("out", 30);
    life.until(4000);
    assert_eq!(
        life.transcript()[3..],
        [
            "22 warned: hook out holds this instance for at most 3000 s: the drain ends before",
            "3007 warned: the drain ends at its deadline: the services are still busy",
            "3007 record_removed",
            "3007 CONTINUE on out: Accepted"
        ]
    );
    assert!(
        life.beats.windows(2).all(|pair| pair[1] - pair[0] <= 10),
        "{:?}",
        life.beats
    );
}

#[test]
fn a_hook_that_is_over_ends_the_drain() {
    for place in [Some(Phase::TerminatingProceed), None] {
        let mut life = terminated(600, |_| DrainAnswer::Busy);
        life.hooks.terminating = hook("out", 30);
        life.until(60);
        life.place = place.clone();
        life.until(200);
        assert_eq!(life.lifecycle.state_name(), "gone", "{place:?}");
        let warned = &life.transcript()[3];
        assert!(
            warned.ends_with(
                "since the group no longer waits for this instance: the services are still busy"
            ),
            "{place:?}: {:?}",
            life.log
        );
        let asked = life.questions.last().unwrap();
        assert!((60..80).contains(asked), "{place:?}: {asked}");
    }
}

#[test]
fn failed_heartbeats_are_repeated_in_time() {
    // Two of three fail.
    let mut life = terminated(3600, |at| busy_until(at, 600));
    life.hooks.terminating = hook("out", 30);
    life.beats_fail = |number| number % 3 != 0;
    life.until(700);
    let gap = life.beats.windows(2).map(|it| it[1] - it[0]).max();
    assert!(gap.is_some_and(|gap| gap < 30), "{:?}", life.beats);
    assert!(life.beats.last().is_some_and(|last| *last > 570));
    assert_eq!(life.lifecycle.state_name(), "gone");
    // The API is away for 15 s of each minute.
    let mut life = terminated(3600, |at| busy_until(at, 600));
    life.hooks.terminating = hook("out", 60);
    for second in 22..700 {
        life.api = second % 60 >= 15;
        life.until(second);
    }
    let gap = life.beats.windows(2).map(|it| it[1] - it[0]).max();
    assert!(gap.is_some_and(|gap| gap < 60), "{:?}", life.beats);
    assert_eq!(life.lifecycle.state_name(), "gone");
    // A role that lacks the permission: the drain goes on, and the group is not flooded.
    let mut life = terminated(3600, |at| busy_until(at, 600));
    life.hooks.terminating = hook("out", 3600);
    life.beats_fail = |_| true;
    life.until(700);
    assert!(
        life.beats.is_empty() && life.heartbeats <= 8,
        "{}",
        life.heartbeats
    );
    assert!(life.asked_hooks <= 8, "{}", life.asked_hooks);
    assert_eq!(life.lifecycle.state_name(), "gone");
}

#[test]
fn without_a_hook_a_busy_drain_warns_once() {
    let mut life = asked(3600, |at| busy_until(at, 60));
    life.hooks.terminating = Vec::new();
    terminate(&mut life);
    life.until(120);
    let warned = "the group has no termination hook for the agent";
    let lines = life.log.iter().filter(|line| line.contains(warned));
    assert_eq!(lines.count(), 1, "{:?}", life.log);
    assert!(life.beats.is_empty());
    assert_eq!(life.lifecycle.state_name(), "gone");
}

#[test]
fn a_restarted_daemon_keeps_the_deadline() {
    let mut life = Life::in_group(Phase::TerminatingWait);
    life.target_state = Some(TargetState::Terminated);
    life.terms = asked(100, |_| DrainAnswer::Busy).terms;
    life.answers = |_| DrainAnswer::Busy;
    life.lifecycle.resume_from(PreviousDaemon {
        stage: LifeStage::Draining,
        judgement: Judgement {
            verdict: Verdict::Draining,
            reason: ENDED_BY_GROUP.to_owned(),
        },
        drained_for: Duration::from_secs(70),
        group: Some("fleet".to_owned()),
        recorded: true,
        round: Round::new(),
    });
    life.until(60);
    assert!(!life.questions.is_empty());
    assert_eq!(life.log.last().unwrap(), "30 CONTINUE on out: Accepted");
}
