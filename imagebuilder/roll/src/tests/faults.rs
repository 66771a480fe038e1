//! Interruptions of a roll: faults of the service, changes by others, detaching, and being killed.

use super::*;

#[tokio::test]
async fn throttling_and_timeouts_never_end_the_watch() {
    let fixture = Fixture::new("");
    // The first observation, for the plan, has to succeed.
    fixture.aws.during("start_refresh", |state| {
        for call in [
            "refreshes",
            "activities",
            "group",
            "health",
            "named",
            "refresh",
            "instances_tagged",
        ] {
            let faults = [
                Fault::Refused(throttled()),
                Fault::AnswerLost,
                Fault::Refused(failure("InternalFailure")),
            ];
            for fault in faults {
                state.calls.fault(call, fault);
            }
        }
    });
    assert_eq!(fixture.roll().await.code, 0);
    fixture.assert_rolled("throttled");
}

#[tokio::test]
async fn a_lost_answer_of_start_is_found_and_not_asked_twice() {
    for fault in [
        Fault::AnswerLost,
        Fault::Refused(failure("ResourceContention")),
    ] {
        let what = format!("{fault:?}");
        let fixture = Fixture::new("");
        fixture.aws.fault("start_refresh", fault);
        assert_eq!(fixture.roll().await.code, 0, "{what}");
        fixture.assert_rolled(&what);
    }
    // The SDK repeated the call: the second answer is the fault of a second refresh.
    let fixture = Fixture::new("");
    fixture.aws.fault(
        "start_refresh",
        Fault::Refused(failure("InstanceRefreshInProgressFault")),
    );
    fixture.aws.during("start_refresh", |state| {
        state.begin_refresh(8);
    });
    assert_eq!(fixture.roll().await.code, 0);
    fixture.assert_rolled("retried");
    // A fault that contradicts the list is accepted only after several tries.
    let fixture = Fixture::new("");
    for _ in 0..5 {
        fixture.aws.fault(
            "start_refresh",
            Fault::Refused(failure(REFRESH_IN_PROGRESS)),
        );
    }
    assert_eq!(fixture.roll().await.code, 16);
    let fixture = Fixture::new("");
    fixture.aws.fault(
        "start_refresh",
        Fault::Refused(failure(REFRESH_IN_PROGRESS)),
    );
    assert_eq!(fixture.roll().await.code, 0);
    // Another refresh is not ours.
    let fixture = Fixture::new("");
    fixture.aws.fault(
        "start_refresh",
        Fault::Refused(failure(REFRESH_IN_PROGRESS)),
    );
    fixture.aws.during("start_refresh", |state| {
        state.begin_refresh(6);
    });
    assert_eq!(fixture.roll().await.code, 16);
}

#[tokio::test]
async fn what_changes_between_plan_and_start_is_refused() {
    let fixture = Fixture::new("");
    fixture
        .aws
        .during("make_version", |state| state.save(SavedVersion::Number(6)));
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .text
            .contains("was changed while the roll was being prepared"),
        "{}",
        ended.text
    );
    assert!(fixture.aws.state().refreshes.is_empty());
    let fixture = Fixture::new("");
    fixture.aws.during("make_version", |state| {
        state.begin_refresh(6);
    });
    assert_eq!(fixture.roll().await.code, 16);
}

#[tokio::test]
async fn a_version_that_came_out_wrong_is_not_rolled() {
    let fixture = Fixture::new("");
    fixture.aws.state().misshapen = Some("without a key pair".into());
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .text
            .contains("differs from it in more than the image"),
        "{}",
        ended.text
    );
    assert!(fixture.aws.state().refreshes.is_empty());
}

#[tokio::test]
async fn an_irreversible_refresh_is_cancelled() {
    let fixture = Fixture::new("");
    fixture.aws.state().unhealthy.insert(sample::image("ami-2"));
    fixture
        .aws
        .fault("roll_back", Fault::Refused(failure(IRREVERSIBLE)));
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 10);
    assert!(
        ended.text.contains("was cancelled, its members are mixed"),
        "{}",
        ended.text
    );
    assert_eq!(fixture.pointers()[1].as_deref(), Some("ami-1"));
}

#[tokio::test]
async fn agents_reasons_are_shown_after_an_auto_rollback() {
    let fixture = Fixture::new("max_failed_launches = 0");
    fixture.aws.state().unhealthy.insert(sample::image("ami-2"));
    let turned: VecDeque<_> = [
        RefreshStatus::RollbackInProgress,
        RefreshStatus::RollbackSuccessful,
    ]
    .into();
    let ended = async {
        // After the first instance was lost.
        while fixture.aws.state().activities.is_empty() {
            tokio::task::yield_now().await;
        }
        fixture.aws.state().statuses = turned;
    };
    let (ended, ()) = tokio::join!(fixture.roll(), ended);
    assert_eq!(ended.code, 11, "{}", ended.text);
    assert!(
        fixture
            .output
            .messages()
            .contains(&"  i-4 unfit: orders: /gtg answers 503".to_owned())
    );
    fixture.assert_back();
}

#[tokio::test]
async fn a_rollback_call_is_repeated_until_it_succeeds() {
    let fixture = Fixture::new("");
    fixture.aws.state().unhealthy.insert(sample::image("ami-2"));
    fixture.aws.fault("roll_back", Fault::Refused(throttled()));
    fixture.aws.fault("roll_back", Fault::Refused(throttled()));
    assert_eq!(fixture.roll().await.code, 11);
    fixture.assert_back();
}

#[tokio::test]
async fn a_long_watch_detaches_and_watch_resumes() {
    let mut fixture = Fixture::new("");
    fixture.settings.watch_timeout = Some(Duration::ZERO);
    let ended = fixture.roll().await;
    insta::assert_snapshot!(fixture.transcript(&ended));
    assert_eq!(ended.code, 15);
    assert_eq!(outcome(fixture.runs.path()), [None]);
    fixture.settings = fast(sample::settings(""));
    assert_eq!(fixture.watch().await.code, 0);
    fixture.assert_rolled("watched on");
    assert_eq!(outcome(fixture.runs.path()), [Some("done".into())]);
}

#[tokio::test]
async fn ctrl_c_detaches_from_a_refresh_and_stops_before_one() {
    let fixture = Fixture::new("");
    fixture.signals.send(1).unwrap();
    let early = fixture.roll().await;
    assert_eq!(early.code, 13);
    fixture.assert_back();
    assert!(fixture.aws.state().refreshes.is_empty());

    let fixture = Fixture::new("");
    let asked = async {
        // As soon as the rollback has begun.
        while fixture.aws.state().refreshes.is_empty() {
            tokio::task::yield_now().await;
        }
        fixture.signals.send(1).unwrap();
    };
    let (ended, ()) = tokio::join!(fixture.roll(), asked);
    assert_eq!(ended.code, 15);
    assert!(
        ended.text.contains("imagebuilder roll watch"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("imagebuilder roll rollback"),
        "{}",
        ended.text
    );
    assert!(
        fixture
            .aws
            .state()
            .calls
            .made
            .iter()
            .all(|call| *call != "roll_back" && *call != "cancel_refresh")
    );
}

/// Killed at every call, before it was done and after: the operator's next command, `roll`
/// or `roll watch`, always ends with the fleet rolled once.
#[tokio::test]
async fn killed_at_any_call_the_next_command_finishes() {
    let calls = {
        let fixture = Fixture::new("healthy_rounds = 1");
        fixture.roll().await;
        std::mem::take(&mut fixture.aws.state().calls.made)
    };
    for (index, name) in calls.iter().enumerate() {
        // A read has no effect, whether it was answered or not.
        let writes = [
            "make_version",
            "start_refresh",
            "refreshes",
            "refresh",
            "point",
        ]
        .contains(name);
        for fault in [Fault::Hangs, Fault::HangsAfter]
            .into_iter()
            .take(if writes { 2 } else { 1 })
        {
            let what = format!("killed at call {} ({name}, {fault:?})", index + 1);
            let fixture = Fixture::new("healthy_rounds = 1");
            fixture.aws.fault_at(Nth::Call(index + 1), fault);
            let hung = fixture.aws.hung();
            tokio::select! {
                ended = fixture.roll() => panic!("{what}: it was not killed: {}", ended.text),
                () = hung.notified() => {}
            }
            let mut next = fixture.roll().await;
            if next.code == 16 {
                next = fixture.watch().await;
            }
            assert_eq!(next.code, 0, "{what}: {}", next.text);
            fixture.assert_rolled(&what);
        }
    }
}

/// A call that hangs does not delay a stop.
#[tokio::test]
async fn ctrl_c_works_while_a_call_hangs() {
    for (call, code) in [("hooks", 13), ("activities", 15)] {
        let fixture = Fixture::new("");
        fixture.aws.fault(call, Fault::Hangs);
        let hung = fixture.aws.hung();
        let signals = async {
            hung.notified().await;
            fixture.signals.send(1).unwrap();
        };
        let (ended, ()) = tokio::join!(fixture.roll(), signals);
        assert_eq!(ended.code, code, "{call}: {}", ended.text);
    }
}

/// Row R12: the permissions of a roll are checked before its first change, and each denial is refused or named.
#[tokio::test]
async fn every_denied_action_is_found_before_the_first_change() {
    use run::permissions::{Asked, Need, Verb, needed};
    let conditions = [Need::Targets, Need::Profile, Need::Version];
    for silent in [false, true] {
        for action in needed(&[Verb::Roll], &conditions) {
            let name = action.name;
            let fixture = Fixture::new("alarms = [\"sick\"]");
            {
                let mut state = fixture.aws.state();
                state.alarms.insert("sick".into(), "OK".into());
                state.policy.denied.insert(name);
                state.policy.silent = silent;
            }
            let ended = fixture.roll().await;
            if ended.code == 0 {
                let by_iam_alone = action.asked == Asked::Simulation;
                let optional = action.need == Need::Optional;
                assert!(optional || silent && by_iam_alone, "{name} was not found");
                let messages = fixture.output.messages();
                let named = messages.iter().any(|line| {
                    (line.contains("not checked: ") || line.contains("not required: "))
                        && line.contains(name)
                });
                assert!(named, "{name}: {messages:#?}");
            } else {
                assert_eq!(ended.code, 3, "{name}: {ended:?}");
                assert!(ended.text.contains(name), "{name}: {ended:?}");
                let state = fixture.aws.state();
                assert_eq!(state.template.latest, 7, "{name}");
                assert!(state.refreshes.is_empty(), "{name}");
                let runs = std::fs::read_dir(fixture.runs.path()).unwrap().count();
                assert_eq!(runs, 0, "{name}");
            }
        }
    }
}

/// Row R12: verbs for an active refresh, and rollbacks, warn by name before their first change and are never refused.
#[tokio::test]
async fn verbs_that_continue_name_what_is_denied() {
    use run::permissions::{Asked, Denial, Need, Resource, Verb, needed};
    let conditions = [Need::Targets, Need::Profile];
    for verb in [
        Verb::Watch,
        Verb::Rollback,
        Verb::RollbackRefresh,
        Verb::Verify,
    ] {
        assert_eq!(verb.denial(), Denial::Warns, "{verb:?}");
        for (silent, action) in needed(&[verb], &conditions)
            .into_iter()
            .flat_map(|action| [(false, action), (true, action)])
        {
            let what = format!("{verb:?} without {}, silent {silent}", action.name);
            let fixture = Fixture::new("healthy_rounds = 1");
            match verb {
                Verb::Watch | Verb::Rollback => {
                    let mut state = fixture.aws.state();
                    state.add_version(8, "ami-2");
                    state.begin_refresh(8);
                }
                _ => assert_eq!(fixture.roll().await.code, 0, "{what}"),
            }
            if verb == Verb::Verify {
                fixture.aws.state().point("current", "ami-1");
            }
            {
                let policy = &mut fixture.aws.state().policy;
                policy.denied.insert(action.name);
                policy.silent = silent;
            }
            let printed = fixture.output.messages().len();
            let ended = match verb {
                Verb::Watch => fixture.watch().await,
                Verb::Verify => fixture.roll().await,
                _ => fixture.rollback().await,
            };
            assert_eq!(ended.code, 0, "{what}: {}", ended.text);
            let messages = &fixture.output.messages()[printed..];
            // A dry run for something that does not exist gives no answer.
            let by_iam_alone = action.asked == Asked::Simulation
                || action.resource == Resource::Ec2("instance") && action.asked != Asked::Launch;
            let kind = match (silent && by_iam_alone, action.need) {
                (true, _) => "not checked: ",
                (false, Need::Optional) => "not required: ",
                (false, _) => " ",
            };
            let named = messages
                .iter()
                .position(|line| line.contains(kind) && line.contains(action.name));
            let named = named.unwrap_or_else(|| panic!("{what}: {messages:#?}"));
            let changes = ["watch group", "verify every member", "start a refresh"];
            let first = messages
                .iter()
                .position(|line| changes.iter().any(|step| line.contains(step)));
            assert!(Some(named) < first, "{what}: {messages:#?}");
        }
    }
}

/// A smoke test that fails at the end starts a refresh, if the run was recorded here.
#[tokio::test]
async fn a_watch_checks_permissions_of_a_possible_rollback() {
    for (roll, may) in [("", false), ("smoke_test = [\"./test\"]", true)] {
        let mut fixture = Fixture::new(roll);
        fixture.settings.watch_timeout = Some(Duration::ZERO);
        assert_eq!(fixture.roll().await.code, 15, "{roll}");
        fixture.settings = fast(sample::settings(roll));
        fixture.aws.state().policy.asked.clear();
        assert_eq!(fixture.watch().await.code, 0, "{roll}");
        let state = fixture.aws.state();
        let asked = &state.policy.asked;
        for (action, want) in [
            ("autoscaling:RollbackInstanceRefresh", true),
            ("autoscaling:StartInstanceRefresh", may),
            ("ec2:CreateLaunchTemplateVersion", false),
        ] {
            assert_eq!(asked.contains(action), want, "{roll}: {action}");
        }
    }
}

/// An adopted refresh is handled like one that is watched.
#[tokio::test]
async fn a_roll_that_adopts_names_what_is_denied() {
    let fixture = Fixture::new("");
    {
        let mut state = fixture.aws.state();
        state.add_version(8, "ami-2");
        state.begin_refresh(8);
        state.policy.denied.insert("ssm:PutParameter");
    }
    let adopt = Request {
        busy: Busy::Adopt,
        ..Fixture::request()
    };
    assert_eq!(fixture.verb("roll", &adopt).await.code, 0);
    let messages = fixture.output.messages();
    let at = |text: &str| messages.iter().position(|line| line.contains(text));
    let named = at("may not call ssm:PutParameter");
    assert!(
        named.is_some() && named < at("watch group"),
        "{messages:#?}"
    );
}

/// The first call of a rollback: when it is denied, nothing was changed.
#[tokio::test]
async fn a_rollback_that_is_denied_is_refused_by_name() {
    let fixture = Fixture::new("");
    {
        let mut state = fixture.aws.state();
        state.add_version(8, "ami-2");
        state.begin_refresh(8);
    }
    // The service decides its target, not the pointers.
    fixture
        .aws
        .fault("parameter", Fault::Refused(denied("read a pointer")));
    fixture
        .aws
        .fault("roll_back", Fault::Refused(denied("roll back")));
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 3, "{ended:?}");
    for want in [
        "you are not allowed to roll back",
        "RollbackInstanceRefresh",
    ] {
        assert!(ended.text.contains(want), "{ended:?}");
    }
}

#[tokio::test]
async fn an_alarm_that_is_missing_or_not_ok_refuses_the_roll() {
    let fixture = Fixture::new("alarms = [\"fine\", \"sick\", \"new\", \"none\"]");
    for (name, state) in [
        ("fine", "OK"),
        ("sick", "ALARM"),
        ("new", "INSUFFICIENT_DATA"),
    ] {
        let alarms = &mut fixture.aws.state().alarms;
        alarms.insert(name.to_owned(), state.to_owned());
    }
    for extent in [Extent::Plan, Extent::Whole] {
        let request = Request {
            extent,
            ..Fixture::request()
        };
        let ended = fixture.verb("roll", &request).await;
        assert_eq!(ended.code, 3, "{extent:?}: {ended:?}");
        for want in [
            "alarm sick is ALARM",
            "alarm new is INSUFFICIENT_DATA",
            "there is no alarm none",
        ] {
            assert!(ended.text.contains(want), "{extent:?}, {want}: {ended:?}");
        }
        assert!(!ended.text.contains("fine"), "{extent:?}: {ended:?}");
    }
    assert_eq!(fixture.aws.state().template.latest, 7);
    assert_eq!(std::fs::read_dir(fixture.runs.path()).unwrap().count(), 0);
}
