//! Whole rolls over the fake service: what is told, what is left behind, and every way to be interrupted.

mod faults;
mod losses;
mod versions;
mod ways;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch::Sender;

use super::fake::{Fault, Service, meant, throttled};
use super::plan::Consent;
use super::smoke::{Occasion, Smoke};
use super::verbs::{self, Busy, Extent, Request};
use super::{RollContext, sample};
use crate::cancel::Cancel;
use crate::cloud::{IRREVERSIBLE, REFRESH_IN_PROGRESS, RefreshStatus, SavedVersion, TemplateRef};
use crate::config::{Settings, SmokeTest};
use crate::exit::Exit;
use crate::ids::ImageName;
use crate::output::Output;

/// Settings for a service whose time is made of looks: hardly any pause between two of them.
fn hasty(mut settings: Settings) -> Settings {
    settings.poll = Duration::from_millis(1);
    settings
}

/// Answers smoke tests in order, and passes when it has no more answers.
#[derive(Debug, Default)]
struct Answers(Mutex<VecDeque<Result<(), String>>>);

#[async_trait]
impl Smoke for Answers {
    async fn run(&self, _test: &SmokeTest, _occasion: &Occasion) -> Result<(), String> {
        self.0.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }
}

/// Everything one story needs.
struct Stage {
    service: Service,
    settings: Settings,
    output: Output,
    cancel: Cancel,
    asks: Sender<u32>,
    smoke: Answers,
    runs: tempfile::TempDir,
}

/// How a verb ended: its code, and error and hint as `main` prints them.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: u8,
    words: String,
}

impl Stage {
    fn new(roll: &str) -> Self {
        let (asks, cancel) = Cancel::manual();
        Self {
            service: Service::new(3),
            settings: hasty(sample::settings(roll)),
            output: Output::kept(),
            cancel,
            asks,
            smoke: Answers::default(),
            runs: tempfile::tempdir().unwrap(),
        }
    }

    fn request() -> Request {
        Request {
            image: None,
            consents: Vec::new(),
            busy: Busy::Refuse,
            extent: Extent::Whole,
        }
    }

    async fn verb(&self, verb: &str, request: &Request) -> Ended {
        let image = ImageName::parse("shop").unwrap();
        let cloud = self.service.cloud();
        let context = RollContext {
            cloud: &cloud,
            image: &image,
            settings: &self.settings,
            output: &self.output,
            cancel: &self.cancel,
            smoke: &self.smoke,
        };
        let runs = self.runs.path();
        let result = match verb {
            "roll" => verbs::roll(&context, request, runs).await,
            "watch" => verbs::watch(&context, runs).await,
            "rollback" => verbs::rollback(&context, request, runs).await,
            other => panic!("no verb {other}"),
        };
        match result {
            Ok(exit) => Ended {
                code: exit.code(),
                words: String::new(),
            },
            Err(error) => {
                let hint = crate::exit::hint(&error)
                    .map(|hint| format!("\nhint: {}", hint.replace('\n', "\nhint: ")));
                Ended {
                    code: Exit::of(&error).code(),
                    words: format!("error: {error:#}{}", hint.unwrap_or_default()),
                }
            }
        }
    }

    async fn roll(&self) -> Ended {
        self.verb("roll", &Self::request()).await
    }

    async fn watch(&self) -> Ended {
        self.verb("watch", &Self::request()).await
    }

    async fn rollback(&self) -> Ended {
        self.verb("rollback", &Self::request()).await
    }

    /// The whole transcript, with what differs from run to run made the same.
    fn transcript(&self, ended: &Ended) -> String {
        let mut lines = self.output.story();
        if !ended.words.is_empty() {
            lines.push(ended.words.clone());
        }
        lines.push(format!("exit code {}", ended.code));
        normal(&lines.join("\n"))
    }

    fn pointers(&self) -> [Option<String>; 3] {
        let state = self.service.state();
        ["candidate", "current", "previous"]
            .map(|pointer| state.pointer(pointer).map(ToOwned::to_owned))
    }

    /// Nothing but a finished roll to ami-2 on version 8, and no trace of a second attempt.
    fn assert_rolled(&self, what: &str) {
        let state = self.service.state();
        assert_eq!(state.on(8), 3, "{what}");
        assert_eq!(state.saved(), SavedVersion::Number(8), "{what}");
        assert_eq!(state.refreshes.len(), 1, "{what}");
        assert_eq!(state.template.latest, 8, "{what}");
        drop(state);
        assert_eq!(
            self.pointers(),
            ["ami-2", "ami-2", "ami-1"].map(|image| Some(image.into())),
            "{what}"
        );
    }

    /// The fleet as it was, the pointers untouched.
    fn assert_back(&self) {
        let state = self.service.state();
        assert_eq!(state.on(7), 3);
        assert_eq!(state.saved(), SavedVersion::Number(7));
        drop(state);
        assert_eq!(
            self.pointers(),
            [Some("ami-2".into()), Some("ami-1".into()), None]
        );
    }
}

/// Durations are the machine's.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(" (0.") {
        let end = rest[at..].find(')').map_or(rest.len(), |end| at + end + 1);
        out.push_str(&rest[..at]);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn outcome(runs: &Path) -> Vec<Option<String>> {
    crate::ledger::Ledger::all(runs)
        .unwrap()
        .into_iter()
        .map(|found| match found {
            crate::ledger::Found::Dead(ledger) => ledger.journal().outcome.clone(),
            found => panic!("{found:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_roll_that_succeeds() {
    let stage = Stage::new("");
    let ended = stage.roll().await;
    insta::assert_snapshot!(stage.transcript(&ended));
    stage.assert_rolled("plain");
    assert_eq!(outcome(stage.runs.path()), [Some("done".into())]);
}

#[tokio::test]
async fn the_first_roll_of_all_remembers_what_ran_before() {
    let stage = Stage::new("");
    stage
        .service
        .state()
        .parameters
        .remove("/imagebuilder/shop/current");
    assert_eq!(stage.roll().await.code, 0);
    stage.assert_rolled("no pointer but the candidate");
}

#[tokio::test]
async fn a_registry_record_of_another_schema_is_no_record() {
    let stage = Stage::new("");
    for value in stage.service.state().parameters.values_mut() {
        *value = value
            .replace("\"schema\":1", "\"schema\":2")
            .replace("fit", "unfit");
    }
    stage.service.state().schema = 2;
    assert_eq!(stage.roll().await.code, 0);
    assert!(
        !stage
            .output
            .story()
            .iter()
            .any(|line| line.contains("agent"))
    );
}

#[tokio::test]
async fn rolled_again_there_is_nothing_to_do() {
    let stage = Stage::new("");
    stage.roll().await;
    stage.service.state().point("current", "ami-1");
    let told = stage.output.story().len();
    let ended = stage.roll().await;
    assert_eq!(ended.code, 0);
    insta::assert_snapshot!(normal(&stage.output.story()[told..].join("\n")));
    stage.assert_rolled("the lagging pointer is mended");
}

#[tokio::test]
async fn boxes_that_abandon_are_rolled_back_with_their_agents_reasons() {
    let stage = Stage::new("");
    stage.service.state().sick.insert(sample::image("ami-2"));
    let ended = stage.roll().await;
    insta::assert_snapshot!(stage.transcript(&ended));
    stage.assert_back();
    // Asked again, it says the same.
    let again = stage.watch().await;
    assert_eq!(again.code, 11);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let stage = Stage::new("");
    let request = Request {
        extent: Extent::Plan,
        ..Stage::request()
    };
    assert_eq!(stage.verb("roll", &request).await.code, 0);
    stage.assert_back();
    let changing = ["make_version", "start_refresh", "save_version", "point"];
    assert!(
        stage
            .service
            .state()
            .calls
            .iter()
            .all(|call| !changing.contains(call))
    );
    assert!(outcome(stage.runs.path()).is_empty());
}

#[tokio::test]
async fn another_refresh_is_refused_waited_for_or_adopted() {
    let busy = |roll: &str| {
        let stage = Stage::new(roll);
        let mut state = stage.service.state();
        state
            .template
            .versions
            .push(sample::version(8, "ami-2", "by hand"));
        state.template.latest = 8;
        state.begin(
            &TemplateRef {
                id: sample::TEMPLATE.into(),
                version: 8,
            },
            Vec::new(),
            true,
        );
        drop(state);
        stage
    };
    let refused = busy("").roll().await;
    assert_eq!(refused.code, 16);
    insta::assert_snapshot!(refused.words);

    let waiting = busy("");
    let wait = Request {
        busy: Busy::Wait,
        ..Stage::request()
    };
    // It went to the very image: nothing is left to do but to prove it.
    assert_eq!(waiting.verb("roll", &wait).await.code, 0);
    waiting.assert_rolled("waited");

    let adopting = busy("");
    let adopt = Request {
        busy: Busy::Adopt,
        ..Stage::request()
    };
    assert_eq!(adopting.verb("roll", &adopt).await.code, 0);
    adopting.assert_rolled("adopted");

    // One that goes elsewhere is nobody's to adopt.
    let elsewhere = busy("");
    let other = Request {
        busy: Busy::Adopt,
        image: Some(sample::image("ami-0")),
        ..Stage::request()
    };
    assert_eq!(elsewhere.verb("roll", &other).await.code, 16);

    let mut impatient = busy("");
    impatient.settings.watch_timeout = Some(Duration::ZERO);
    impatient.service.state().statuses = vec![RefreshStatus::InProgress; 9].into();
    assert_eq!(impatient.verb("roll", &wait).await.code, 15);
}

#[tokio::test]
async fn a_group_on_latest_is_pinned_first() {
    let stage = Stage::new("");
    stage.service.state().save(SavedVersion::Latest);
    assert_eq!(stage.roll().await.code, 3);
    let request = Request {
        consents: vec![Consent::PinFirst],
        ..Stage::request()
    };
    assert_eq!(stage.verb("roll", &request).await.code, 0);
    stage.assert_rolled("pinned");
    let state = stage.service.state();
    let at = |name| state.calls.iter().position(|call| *call == name).unwrap();
    assert!(at("save_version") < at("start_refresh"));
}

#[tokio::test]
async fn every_ending_of_the_service_has_its_code() {
    for (status, code) in [
        (RefreshStatus::Failed, 10),
        (RefreshStatus::RollbackSuccessful, 11),
        (RefreshStatus::RollbackFailed, 12),
        (RefreshStatus::Cancelled, 13),
    ] {
        let stage = Stage::new("");
        stage.service.state().meanwhile = Some(("start_refresh", |_| {}));
        stage.service.state().statuses = vec![
            RefreshStatus::Unknown("Marinating".into()),
            RefreshStatus::InProgress,
            status.clone(),
        ]
        .into();
        assert_eq!(stage.roll().await.code, code, "{status}");
        assert_eq!(stage.pointers()[1].as_deref(), Some("ami-1"), "{status}");
    }
}

#[tokio::test]
async fn a_finished_fleet_that_is_not_in_order_is_not_verified() {
    let mut limping = Stage::new("");
    limping.settings.verify_timeout = Some(Duration::from_millis(20));
    limping
        .service
        .state()
        .limping
        .insert(sample::image("ami-2"));
    let ended = limping.roll().await;
    assert_eq!(ended.code, 14);
    assert!(
        ended
            .words
            .contains("unhealthy to its target group Target.Timeout"),
        "{}",
        ended.words
    );
    assert_eq!(limping.pointers()[1].as_deref(), Some("ami-1"));

    let protected = Stage::new("");
    protected.service.state().group.members[1].protected = true;
    let ended = protected.roll().await;
    assert_eq!(ended.code, 14);
    assert!(
        ended
            .words
            .contains("i-2 runs version 7, not 8, protected from scale-in"),
        "{}",
        ended.words
    );
}

#[tokio::test]
async fn an_empty_fleet_gets_its_version_saved() {
    let stage = Stage::new("");
    {
        let mut state = stage.service.state();
        state.group.members.clear();
        state.running.clear();
        state.group.size.desired = 0;
    }
    assert_eq!(stage.roll().await.code, 0);
    assert_eq!(stage.service.state().saved(), SavedVersion::Number(8));
}

#[tokio::test]
async fn smoke_tests_at_checkpoints_and_at_the_end_send_the_fleet_back() {
    let test = "smoke_test = [\"probe\"]\ncheckpoints = [30]";
    let no = || Err("exit status: 1: order lost".to_owned());
    let passing = Stage::new(test);
    assert_eq!(passing.roll().await.code, 0);
    passing.assert_rolled("passed");

    let early = Stage::new(test);
    early.smoke.0.lock().unwrap().push_back(no());
    let ended = early.roll().await;
    assert_eq!(ended.code, 18);
    assert!(
        ended
            .words
            .contains("the smoke test failed: exit status: 1: order lost"),
        "{}",
        ended.words
    );
    early.assert_back();

    let late = Stage::new(test);
    late.smoke.0.lock().unwrap().extend([Ok(()), no()]);
    let ended = late.roll().await;
    assert_eq!(ended.code, 18);
    assert!(
        ended
            .words
            .contains("all members are back on version 7 with ami-1"),
        "{}",
        ended.words
    );
    late.assert_back();
    assert_eq!(late.service.state().refreshes.len(), 2);
}

#[tokio::test]
async fn rollback_turns_an_active_refresh_around() {
    let mut stage = Stage::new("");
    stage.settings.watch_timeout = Some(Duration::ZERO);
    assert_eq!(stage.roll().await.code, 15);
    stage.settings = hasty(sample::settings(""));
    let told = stage.output.story().len();
    let ended = stage.rollback().await;
    assert_eq!(ended.code, 0, "{}", ended.words);
    insta::assert_snapshot!(normal(&stage.output.story()[told..].join("\n")));
    stage.assert_back();
}

#[tokio::test]
async fn rollback_after_the_end_is_a_roll_to_what_was_recorded_or_pointed_at() {
    for recorded in [true, false] {
        let stage = Stage::new("");
        assert_eq!(stage.roll().await.code, 0);
        // What ran before may never have seen a gate: it has served, which is proof enough.
        for image in stage.service.state().images.values_mut() {
            image.tags.clear();
        }
        if !recorded {
            for entry in std::fs::read_dir(stage.runs.path()).unwrap() {
                std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        }
        let ended = stage.rollback().await;
        assert_eq!(ended.code, 0, "{}", ended.words);
        let state = stage.service.state();
        let back = if recorded { 7 } else { 9 };
        assert_eq!(
            (state.on(back), state.saved()),
            (3, SavedVersion::Number(back))
        );
        drop(state);
        assert_eq!(
            stage.pointers(),
            ["ami-2", "ami-1", "ami-1"].map(|image| Some(image.into())),
            "the release that was left is not to come back by itself"
        );
    }
}

#[tokio::test]
async fn rollback_with_nothing_known_says_so() {
    let stage = Stage::new("");
    let ended = stage.rollback().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .words
            .contains("nothing is known of what group shop ran before"),
        "{}",
        ended.words
    );
}

#[tokio::test]
async fn watch_without_a_refresh_says_so() {
    let ended = Stage::new("").watch().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended.words.contains("has had no refresh"),
        "{}",
        ended.words
    );
}

#[tokio::test]
async fn no_group_and_no_candidate_are_named() {
    let stage = Stage::new("");
    stage.service.state().group.name = "other".parse().unwrap();
    let ended = stage.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .words
            .contains("there is no Auto Scaling group shop in us-east-1"),
        "{}",
        ended.words
    );
    let stage = Stage::new("");
    stage
        .service
        .state()
        .parameters
        .remove("/imagebuilder/shop/candidate");
    let ended = stage.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .words
            .contains("/imagebuilder/shop/candidate points at no image"),
        "{}",
        ended.words
    );
}
