//! What goes wrong on the way: faults of the service, changes by others, detaching, and being killed.

use super::*;
use crate::cloud::{CloudError, Kind};

#[tokio::test]
async fn throttling_and_silence_never_end_the_watch() {
    let stage = Stage::new("");
    // The first look has to succeed: it is the plan's.
    stage.service.state().meanwhile = Some(("start_refresh", |state| {
        for call in [
            "refreshes",
            "activities",
            "group",
            "health",
            "named",
            "refresh",
            "instances_tagged",
        ] {
            let faults = state.faults.entry(call).or_default();
            faults.push_back(Fault::Refused(throttled()));
            faults.push_back(Fault::AnswerLost);
            faults.push_back(Fault::Refused(meant("InternalFailure")));
        }
    }));
    assert_eq!(stage.roll().await.code, 0);
    stage.assert_rolled("throttled");
}

#[tokio::test]
async fn a_lost_answer_of_start_is_found_and_not_asked_twice() {
    for fault in [
        Fault::AnswerLost,
        Fault::Refused(meant("ResourceContention")),
    ] {
        let stage = Stage::new("");
        stage.service.fault("start_refresh", fault);
        assert_eq!(stage.roll().await.code, 0);
        stage.assert_rolled("lost");
    }
    // The SDK asked again by itself: the second answer is the fault of a second refresh.
    let stage = Stage::new("");
    stage.service.fault(
        "start_refresh",
        Fault::Refused(meant("InstanceRefreshInProgressFault")),
    );
    stage.service.state().meanwhile = Some(("start_refresh", |state| {
        state.begin(
            &TemplateRef {
                id: sample::TEMPLATE.into(),
                version: 8,
            },
            Vec::new(),
            true,
        );
    }));
    assert_eq!(stage.roll().await.code, 0);
    stage.assert_rolled("retried");
    // A fault that contradicts the list is believed only after several tries.
    let stage = Stage::new("");
    for _ in 0..5 {
        stage
            .service
            .fault("start_refresh", Fault::Refused(meant(REFRESH_IN_PROGRESS)));
    }
    assert_eq!(stage.roll().await.code, 16);
    let stage = Stage::new("");
    stage
        .service
        .fault("start_refresh", Fault::Refused(meant(REFRESH_IN_PROGRESS)));
    assert_eq!(stage.roll().await.code, 0);
    // Somebody else's is not ours.
    let stage = Stage::new("");
    stage
        .service
        .fault("start_refresh", Fault::Refused(meant(REFRESH_IN_PROGRESS)));
    stage.service.state().meanwhile = Some(("start_refresh", |state| {
        state.begin(
            &TemplateRef {
                id: sample::TEMPLATE.into(),
                version: 6,
            },
            Vec::new(),
            true,
        );
    }));
    assert_eq!(stage.roll().await.code, 16);
}

#[tokio::test]
async fn what_changes_between_plan_and_start_is_refused() {
    let stage = Stage::new("");
    stage.service.state().meanwhile =
        Some(("make_version", |state| state.save(SavedVersion::Number(6))));
    let ended = stage.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .words
            .contains("was changed while the roll was being prepared"),
        "{}",
        ended.words
    );
    assert!(stage.service.state().refreshes.is_empty());
    let stage = Stage::new("");
    stage.service.state().meanwhile = Some(("make_version", |state| {
        state.begin(
            &TemplateRef {
                id: sample::TEMPLATE.into(),
                version: 6,
            },
            Vec::new(),
            true,
        );
    }));
    assert_eq!(stage.roll().await.code, 16);
}

#[tokio::test]
async fn a_version_that_came_out_wrong_is_not_rolled() {
    let stage = Stage::new("");
    stage.service.state().misshapen = Some("without a key pair".into());
    let ended = stage.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .words
            .contains("differs from it in more than the image"),
        "{}",
        ended.words
    );
    assert!(stage.service.state().refreshes.is_empty());
}

#[tokio::test]
async fn what_cannot_go_back_is_cancelled() {
    let stage = Stage::new("");
    stage.service.state().sick.insert(sample::image("ami-2"));
    stage
        .service
        .fault("roll_back", Fault::Refused(meant(IRREVERSIBLE)));
    let ended = stage.roll().await;
    assert_eq!(ended.code, 10);
    assert!(
        ended.words.contains("was cancelled, its members are mixed"),
        "{}",
        ended.words
    );
    assert_eq!(stage.pointers()[1].as_deref(), Some("ami-1"));
}

#[tokio::test]
async fn when_the_service_rolls_back_by_itself_the_agents_are_heard_too() {
    let stage = Stage::new("max_failed_launches = 0");
    stage.service.state().sick.insert(sample::image("ami-2"));
    let turned: VecDeque<_> = [
        RefreshStatus::RollbackInProgress,
        RefreshStatus::RollbackSuccessful,
    ]
    .into();
    let ended = async {
        // After the first box was lost.
        while stage.service.state().activities.is_empty() {
            tokio::task::yield_now().await;
        }
        stage.service.state().statuses = turned;
    };
    let (ended, ()) = tokio::join!(stage.roll(), ended);
    assert_eq!(ended.code, 11, "{}", ended.words);
    assert!(
        stage
            .output
            .story()
            .contains(&"  i-4 unfit: orders: /gtg answers 503".to_owned())
    );
    stage.assert_back();
}

#[tokio::test]
async fn rolling_back_is_asked_again_until_it_is_heard() {
    let stage = Stage::new("");
    stage.service.state().sick.insert(sample::image("ami-2"));
    stage
        .service
        .fault("roll_back", Fault::Refused(throttled()));
    stage
        .service
        .fault("roll_back", Fault::Refused(throttled()));
    assert_eq!(stage.roll().await.code, 11);
    stage.assert_back();
}

#[tokio::test]
async fn a_long_watch_detaches_and_watch_goes_on() {
    let mut stage = Stage::new("");
    stage.settings.watch_timeout = Some(Duration::ZERO);
    let ended = stage.roll().await;
    insta::assert_snapshot!(stage.transcript(&ended));
    assert_eq!(ended.code, 15);
    assert_eq!(outcome(stage.runs.path()), [None]);
    stage.settings = hasty(sample::settings(""));
    assert_eq!(stage.watch().await.code, 0);
    stage.assert_rolled("watched on");
    assert_eq!(outcome(stage.runs.path()), [Some("done".into())]);
}

#[tokio::test]
async fn ctrl_c_detaches_from_a_refresh_and_stops_before_one() {
    let stage = Stage::new("");
    stage.asks.send(1).unwrap();
    let early = stage.roll().await;
    assert_eq!(early.code, 13);
    stage.assert_back();
    assert!(stage.service.state().refreshes.is_empty());

    let stage = Stage::new("");
    let asked = async {
        // As soon as the refresh has begun to turn.
        while stage.service.state().refreshes.is_empty() {
            tokio::task::yield_now().await;
        }
        stage.asks.send(1).unwrap();
    };
    let (ended, ()) = tokio::join!(stage.roll(), asked);
    assert_eq!(ended.code, 15);
    assert!(
        ended.words.contains("imagebuilder roll watch"),
        "{}",
        ended.words
    );
    assert!(
        ended.words.contains("imagebuilder roll rollback"),
        "{}",
        ended.words
    );
    assert!(
        stage
            .service
            .state()
            .calls
            .iter()
            .all(|call| *call != "roll_back" && *call != "cancel_refresh")
    );
}

/// Killed at every single call, before it was done and after: what the operator types next, `roll`
/// or `roll watch`, always ends with the fleet rolled once.
#[tokio::test]
async fn killed_at_any_call_the_next_command_finishes() {
    let calls = {
        let stage = Stage::new("healthy_rounds = 1");
        stage.roll().await;
        std::mem::take(&mut stage.service.state().calls)
    };
    for (index, name) in calls.iter().enumerate() {
        // A read that was answered and one that was not leave the same behind.
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
            let stage = Stage::new("healthy_rounds = 1");
            stage.service.state().killed_at = Some((index + 1, fault));
            let hung = stage.service.hung();
            tokio::select! {
                ended = stage.roll() => panic!("{what}: it was not killed: {}", ended.words),
                () = hung.notified() => {}
            }
            stage.service.state().killed_at = None;
            let mut next = stage.roll().await;
            if next.code == 16 {
                next = stage.watch().await;
            }
            assert_eq!(next.code, 0, "{what}: {}", next.words);
            stage.assert_rolled(&what);
        }
    }
}

/// A call that takes for ever does not hold up whoever wants to go.
#[tokio::test]
async fn ctrl_c_is_heard_while_the_service_is_silent() {
    for (call, code) in [("hooks", 13), ("activities", 15)] {
        let stage = Stage::new("");
        stage.service.fault(call, Fault::Hangs);
        let hung = stage.service.hung();
        let asks = async {
            hung.notified().await;
            stage.asks.send(1).unwrap();
        };
        let (ended, ()) = tokio::join!(stage.roll(), asks);
        assert_eq!(ended.code, code, "{call}: {}", ended.words);
    }
}

/// Row R12: what a roll will need is asked before its first change, and each denial is found or named.
#[tokio::test]
async fn every_denied_action_is_found_before_the_first_change() {
    use crate::permissions::{Asked, Need, Verb, needed};
    let conditions = [Need::Targets, Need::Profile, Need::Version];
    for silent in [false, true] {
        for action in needed(&[Verb::Roll], &conditions) {
            let name = action.name;
            let stage = Stage::new("alarms = [\"sick\"]");
            {
                let mut state = stage.service.state();
                state.alarms.insert("sick".into(), "OK".into());
                state.policy.denied.insert(name);
                state.policy.silent = silent;
            }
            let ended = stage.roll().await;
            if ended.code == 0 {
                let by_iam_alone = action.asked == Asked::Simulation;
                let optional = action.need == Need::Optional;
                assert!(optional || silent && by_iam_alone, "{name} was not found");
                let story = stage.output.story();
                let named = story.iter().any(|line| {
                    (line.contains("not checked: ") || line.contains("done without: "))
                        && line.contains(name)
                });
                assert!(named, "{name}: {story:#?}");
            } else {
                assert_eq!(ended.code, 3, "{name}: {ended:?}");
                assert!(ended.words.contains(name), "{name}: {ended:?}");
                let state = stage.service.state();
                assert_eq!(state.template.latest, 7, "{name}");
                assert!(state.refreshes.is_empty(), "{name}");
                assert_eq!(std::fs::read_dir(stage.runs.path()).unwrap().count(), 0);
            }
        }
    }
}

/// Row R12: what runs already, and what brings a fleet back, is warned by name before its first change and never refused.
#[tokio::test]
async fn what_goes_on_in_any_case_names_what_is_denied() {
    use crate::permissions::{Asked, Denial, Need, Resource, Verb, needed};
    let conditions = [Need::Targets, Need::Profile];
    for verb in [Verb::Watch, Verb::Rollback, Verb::WayBack, Verb::Prove] {
        assert_eq!(verb.denial(), Denial::Warns);
        for (silent, action) in needed(&[verb], &conditions)
            .into_iter()
            .flat_map(|action| [(false, action), (true, action)])
        {
            let what = format!("{verb:?} without {}, silent {silent}", action.name);
            let stage = Stage::new("healthy_rounds = 1");
            match verb {
                Verb::Watch | Verb::Rollback => {
                    let mut state = stage.service.state();
                    let version = sample::version(8, "ami-2", "by hand");
                    state.template.versions.push(version);
                    state.template.latest = 8;
                    let to = TemplateRef {
                        id: sample::TEMPLATE.into(),
                        version: 8,
                    };
                    state.begin(&to, Vec::new(), true);
                }
                _ => assert_eq!(stage.roll().await.code, 0, "{what}"),
            }
            if verb == Verb::Prove {
                stage.service.state().point("current", "ami-1");
            }
            {
                let policy = &mut stage.service.state().policy;
                policy.denied.insert(action.name);
                policy.silent = silent;
            }
            let told = stage.output.story().len();
            let ended = match verb {
                Verb::Watch => stage.watch().await,
                Verb::Prove => stage.roll().await,
                _ => stage.rollback().await,
            };
            assert_eq!(ended.code, 0, "{what}: {}", ended.words);
            let story = &stage.output.story()[told..];
            // A dry run of what does not exist says nothing.
            let by_iam_alone = action.asked == Asked::Simulation
                || action.resource == Resource::Ec2("instance") && action.asked != Asked::Launch;
            let kind = match (silent && by_iam_alone, action.need) {
                (true, _) => "not checked: ",
                (false, Need::Optional) => "done without: ",
                (false, _) => " ",
            };
            let named = story
                .iter()
                .position(|line| line.contains(kind) && line.contains(action.name));
            let named = named.unwrap_or_else(|| panic!("{what}: {story:#?}"));
            let changes = ["watch group", "verify every member", "start a refresh"];
            let first = story
                .iter()
                .position(|line| changes.iter().any(|step| line.contains(step)));
            assert!(Some(named) < first, "{what}: {story:#?}");
        }
    }
}

/// A smoke test that fails at the end starts a refresh, of a run that is known here.
#[tokio::test]
async fn a_watch_asks_for_the_way_back_that_it_may_start() {
    for (roll, may) in [("", false), ("smoke_test = [\"./test\"]", true)] {
        let mut stage = Stage::new(roll);
        stage.settings.watch_timeout = Some(Duration::ZERO);
        assert_eq!(stage.roll().await.code, 15);
        stage.settings = hasty(sample::settings(roll));
        stage.service.state().policy.asked.clear();
        assert_eq!(stage.watch().await.code, 0);
        let state = stage.service.state();
        let asked = &state.policy.asked;
        assert!(asked.contains("autoscaling:RollbackInstanceRefresh"));
        assert_eq!(asked.contains("autoscaling:StartInstanceRefresh"), may);
        assert!(!asked.contains("ec2:CreateLaunchTemplateVersion"));
    }
}

/// A refresh that is adopted is gone on with like one that is watched.
#[tokio::test]
async fn a_roll_that_adopts_names_what_is_denied() {
    let stage = Stage::new("");
    {
        let mut state = stage.service.state();
        state
            .template
            .versions
            .push(sample::version(8, "ami-2", "by hand"));
        state.template.latest = 8;
        let to = TemplateRef {
            id: sample::TEMPLATE.into(),
            version: 8,
        };
        state.begin(&to, Vec::new(), true);
        state.policy.denied.insert("ssm:PutParameter");
    }
    let adopt = Request {
        busy: Busy::Adopt,
        ..Stage::request()
    };
    assert_eq!(stage.verb("roll", &adopt).await.code, 0);
    let story = stage.output.story();
    let at = |words: &str| story.iter().position(|line| line.contains(words));
    let named = at("may not call ssm:PutParameter");
    assert!(named.is_some() && named < at("watch group"), "{story:#?}");
}

/// The one call that a rollback begins with: denied, nothing was changed.
#[tokio::test]
async fn a_rollback_that_is_denied_is_refused_by_name() {
    let stage = Stage::new("");
    {
        let mut state = stage.service.state();
        state
            .template
            .versions
            .push(sample::version(8, "ami-2", "by hand"));
        let to = TemplateRef {
            id: sample::TEMPLATE.into(),
            version: 8,
        };
        state.begin(&to, Vec::new(), true);
    }
    let denied = |call| {
        Fault::Refused(CloudError::new(
            Kind::Denied,
            call,
            "AccessDenied",
            "as arranged",
        ))
    };
    // Where it goes is the service's affair, not the pointers'.
    stage.service.fault("parameter", denied("read a pointer"));
    stage.service.fault("roll_back", denied("roll back"));
    let ended = stage.rollback().await;
    assert_eq!(ended.code, 3, "{ended:?}");
    for want in ["may not be rolled back by you", "RollbackInstanceRefresh"] {
        assert!(ended.words.contains(want), "{ended:?}");
    }
}

#[tokio::test]
async fn an_alarm_that_is_missing_or_not_ok_refuses_the_roll() {
    let stage = Stage::new("alarms = [\"fine\", \"sick\", \"new\", \"none\"]");
    for (name, state) in [
        ("fine", "OK"),
        ("sick", "ALARM"),
        ("new", "INSUFFICIENT_DATA"),
    ] {
        let alarms = &mut stage.service.state().alarms;
        alarms.insert(name.to_owned(), state.to_owned());
    }
    for extent in [Extent::Plan, Extent::Whole] {
        let request = Request {
            extent,
            ..Stage::request()
        };
        let ended = stage.verb("roll", &request).await;
        assert_eq!(ended.code, 3, "{ended:?}");
        for want in [
            "alarm sick is ALARM",
            "alarm new is INSUFFICIENT_DATA",
            "there is no alarm none",
        ] {
            assert!(ended.words.contains(want), "{ended:?}");
        }
        assert!(!ended.words.contains("fine"), "{ended:?}");
    }
    assert_eq!(stage.service.state().template.latest, 7);
    assert_eq!(std::fs::read_dir(stage.runs.path()).unwrap().count(), 0);
}
