//! Resources that disappear or are removed during a roll, and what is blamed.

use super::*;
use cloud::{ActivityOutcome, GroupMember, Lifecycle, TemplateRef};

/// An instance that was launched and then taken out of service.
fn taken(state: &mut AwsState, id: &str, why: &str) {
    let launch = format!("Launching a new EC2 instance: {id}");
    state.add_activity(&launch, "", ActivityOutcome::Done, "");
    let cause = format!(
        "At 2026-11-30T06:30:00Z an instance was taken out of service in response to {why}"
    );
    let end = format!("Terminating EC2 instance: {id}");
    state.add_activity(&end, &cause, ActivityOutcome::Done, "");
}

#[tokio::test]
async fn scaling_out_and_in_again_blames_no_release() {
    let fixture = Fixture::new("");
    fixture.aws.during("refresh", |state| {
        for number in 90..96 {
            taken(
                state,
                &format!("i-{number}"),
                "a difference between desired and actual capacity, shrinking the capacity from 7 to 3.",
            );
        }
    });
    assert_eq!(fixture.roll().await.code, 0);
    fixture.assert_rolled("scaled");
    let messages = fixture.output.messages().join("\n");
    assert!(
        messages.contains("i-90 was lost: the group was scaled in"),
        "{messages}"
    );
}

#[tokio::test]
async fn health_checks_blame_the_release_over_the_whole_refresh() {
    let fixture = Fixture::new("");
    fixture.aws.during("refresh", |state| {
        for number in 0..3 {
            taken(
                state,
                &format!("i-9{number}"),
                "an ELB system health check failure.",
            );
        }
        // Followed by two pages of irrelevant activities.
        for number in 0..250 {
            let moves = format!("Moving EC2 instance to Standby: i-8{number}");
            state.add_activity(&moves, "", ActivityOutcome::Done, "");
        }
    });
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 11, "{}", ended.text);
    assert!(
        ended
            .text
            .contains("3 instances of the new version were lost, each because it failed the load balancer's health checks"),
        "{}",
        ended.text
    );
    fixture.assert_back();
}

#[tokio::test]
async fn hopeless_launches_end_the_roll_but_missing_capacity_does_not() {
    let never = "The image id '[ami-2]' does not exist. Launching EC2 instance failed.";
    let capacity = "We currently do not have sufficient t3.large capacity in the Availability Zone you requested.";
    for (message, code) in [(never, 11), (capacity, 0)] {
        let fixture = Fixture::new("");
        let fails = async {
            while fixture.aws.state().refreshes.is_empty() {
                tokio::task::yield_now().await;
            }
            let mut state = fixture.aws.state();
            for _ in 0..4 {
                state.add_activity(
                    &format!("Launching a new EC2 instance.  Status Reason: {message}"),
                    "",
                    ActivityOutcome::Failed,
                    message,
                );
            }
        };
        let (ended, ()) = tokio::join!(fixture.roll(), fails);
        assert_eq!(ended.code, code, "{message}: {}", ended.text);
        let messages = fixture.output.messages();
        let printed = messages
            .iter()
            .filter(|line| line.contains("no instance: "))
            .count();
        assert_eq!(printed, 1, "{message}: it is printed once: {messages:?}");
        if code == 11 {
            assert!(ended.text.contains(never), "{}", ended.text);
            assert!(
                ended.text.contains("missing or forbidden"),
                "{}",
                ended.text
            );
        }
    }
}

#[tokio::test]
async fn old_instances_that_only_drain_are_no_failure() {
    let fixture = Fixture::new("");
    fixture.aws.during("start_refresh", |state| {
        state.group_mut().members.push(GroupMember {
            instance: sample::instance("i-77"),
            lifecycle: Lifecycle::parse("Terminating:Wait"),
            healthy: true,
            template: Some(TemplateRef {
                id: sample::TEMPLATE.into(),
                version: 7,
            }),
            protected: true,
        });
    });
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    let messages = fixture.output.messages().join("\n");
    assert!(
        messages.contains("3 of 3 verified; 1 old instances are still terminating"),
        "{messages}"
    );
}

#[tokio::test]
async fn a_deleted_group_is_named_with_only_possible_hints() {
    type Happens = fn(&mut AwsState);
    let cases: [(&'static str, Happens, &str); 3] = [
        (
            "refresh",
            |state| state.group = None,
            "group shop was deleted",
        ),
        (
            "activities",
            |state| state.group = None,
            "group shop was deleted",
        ),
        ("instances_tagged", |_| {}, ""),
    ];
    for (call, happens, expected) in cases {
        let fixture = Fixture::new("");
        let deletes = async {
            while fixture.aws.state().refreshes.is_empty() {
                tokio::task::yield_now().await;
            }
            fixture.aws.during(call, happens);
        };
        let (ended, ()) = tokio::join!(fixture.roll(), deletes);
        if expected.is_empty() {
            assert_eq!(ended.code, 0, "{call}");
            continue;
        }
        assert_eq!(ended.code, 10, "{call}: {}", ended.text);
        assert!(ended.text.contains(expected), "{call}: {}", ended.text);
        for absent in ["whose refresh continues", "roll rollback"] {
            assert!(!ended.text.contains(absent), "{call}: {}", ended.text);
        }
    }
}

#[tokio::test]
async fn a_recreated_group_lacks_our_refresh() {
    let fixture = Fixture::new("");
    let anew = async {
        while fixture.aws.state().on(8) == 0 {
            tokio::task::yield_now().await;
        }
        fixture.aws.state().refreshes.clear();
    };
    let (ended, ()) = tokio::join!(fixture.roll(), anew);
    assert_eq!(ended.code, 10, "{}", ended.text);
    assert!(
        ended.text.contains("the group was recreated"),
        "{}",
        ended.text
    );
    let state = fixture.aws.state();
    let asked = state
        .calls
        .made
        .iter()
        .filter(|call| **call == "refresh")
        .count();
    assert!(asked < 50, "asked {asked} times for what had been there");
}

#[tokio::test]
async fn a_launch_template_that_is_deleted_is_named_by_every_verb() {
    let mut fixture = Fixture::new("");
    fixture.settings.verify_timeout = Some(Duration::from_millis(20));
    let deletes = async {
        while fixture.aws.state().on(8) == 0 {
            tokio::task::yield_now().await;
        }
        fixture.aws.state().template_exists = false;
    };
    let (ended, ()) = tokio::join!(fixture.roll(), deletes);
    assert_eq!(ended.code, 14, "{}", ended.text);
    for verb in ["roll", "watch", "rollback"] {
        let ended = fixture.verb(verb, &Fixture::request()).await;
        assert_eq!(ended.code, 3, "{verb}: {}", ended.text);
        assert!(
            ended.text.contains("does not exist any more") && ended.text.contains("hint: "),
            "{verb}: {}",
            ended.text
        );
    }
}

#[tokio::test]
async fn a_pointer_failure_still_reports_the_fleet_as_verified() {
    let fixture = Fixture::new("");
    let refused = denied("point parameter /imagebuilder/shop/previous");
    fixture.aws.fault("point", Fault::Refused(refused));
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 1);
    assert!(
        ended
            .text
            .contains("every member of group shop is verified on ami-2"),
        "{}",
        ended.text
    );
    // Following the hint is enough.
    assert_eq!(fixture.roll().await.code, 0);
    fixture.assert_rolled("pointers moved by the second");
}

#[tokio::test]
async fn waiting_for_another_refresh_offers_nothing_against_it() {
    let mut fixture = Fixture::new("");
    {
        let mut state = fixture.aws.state();
        state.begin_refresh(6);
        state.statuses = vec![RefreshStatus::InProgress; 9].into();
    }
    fixture.settings.watch_timeout = Some(Duration::ZERO);
    let wait = Request {
        busy: Busy::Wait,
        ..Fixture::request()
    };
    let ended = fixture.verb("roll", &wait).await;
    assert_eq!(ended.code, 15);
    assert!(!ended.text.contains("rollback"), "{}", ended.text);
    assert!(ended.text.contains("nothing was started"), "{}", ended.text);
}

#[tokio::test]
async fn a_caller_who_may_not_list_activities_still_watches() {
    let fixture = Fixture::new("");
    let denied = denied("list scaling activities");
    fixture.aws.refuse("activities", denied);
    assert_eq!(fixture.roll().await.code, 0);
    let messages = fixture.output.messages();
    let printed = messages
        .iter()
        .filter(|line| line.contains("the service alone decides"))
        .count();
    assert_eq!(printed, 1, "{messages:?}");
}

/// The cost of one poll does not grow with what cannot have changed.
#[tokio::test]
async fn a_poll_reads_only_what_can_have_changed() {
    let calls = |size: u32| async move {
        let mut fixture = Fixture::new("");
        fixture.aws = InMemoryAws::with_fleet(size);
        let aws = fixture.aws.clone();
        let began = async {
            while aws.state().on(8) == 0 {
                tokio::task::yield_now().await;
            }
            let at = {
                let mut state = aws.state();
                state.statuses = vec![RefreshStatus::InProgress; 40].into();
                state.calls.made.len()
            };
            while !aws.state().statuses.is_empty() {
                tokio::task::yield_now().await;
            }
            at
        };
        let (ended, at) = tokio::join!(fixture.roll(), began);
        assert_eq!(ended.code, 0, "{}", ended.text);
        let state = fixture.aws.state();
        // Two polls are allowed for calls that were active when the pause began.
        let polls: Vec<&[&str]> = state.calls.made[at..]
            .split(|call| *call == "refresh")
            .skip(2)
            .take(30)
            .collect();
        polls.iter().map(|observe| observe.len()).max().unwrap()
    };
    let (few, many) = (calls(3).await, calls(60).await);
    assert_eq!(few, many);
    assert!(few <= 3, "{few} calls beside the refresh's own");
}
