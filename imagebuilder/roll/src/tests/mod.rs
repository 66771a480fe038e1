//! Whole rolls over the in-memory AWS: the messages, the resulting state, and every interruption. Samples for the tables of the
//! pure modules are in [`sample`].

mod earlier;
mod faults;
mod losses;
mod rollbacks;
pub(super) mod sample;
mod versions;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch::Sender;

use super::RollContext;
use super::plan::Consent;
use super::smoke::{Occasion, Smoke};
use super::verbs::{self, Busy, Extent, Request};
use crate::settings::{Settings, SmokeTest};
use cloud::ids::ImageName;
use cloud::testing::{AwsState, Fault, InMemoryAws, Nth, denied, failure, throttled};
use cloud::{IRREVERSIBLE, REFRESH_IN_PROGRESS, RefreshStatus, SavedVersion};
use run::cancel::Cancel;
use run::exit::Exit;
use run::output::Output;

/// Every call that a roll may make.
const CALLS: [&str; 23] = [
    "activities",
    "cancel_refresh",
    "console",
    "delete",
    "delete_version",
    "drain_seconds",
    "group",
    "groups_from",
    "health",
    "hooks",
    "image",
    "instance",
    "instances_tagged",
    "make_version",
    "named",
    "parameter",
    "point",
    "refresh",
    "refreshes",
    "roll_back",
    "save_version",
    "start_refresh",
    "template",
];

/// Settings for a service that advances at each poll: hardly any pause between two of them.
fn fast(mut settings: Settings) -> Settings {
    settings.poll = Duration::from_millis(1);
    settings
}

/// Answers smoke tests in order, and passes when it has no more answers.
#[derive(Debug, Default)]
struct SmokeResults(Mutex<VecDeque<Result<(), String>>>);

#[async_trait]
impl Smoke for SmokeResults {
    async fn run(&self, _test: &SmokeTest, _occasion: &Occasion) -> Result<(), String> {
        self.0.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }
}

/// Everything one story needs.
struct Fixture {
    aws: InMemoryAws,
    settings: Settings,
    output: Output,
    cancel: Cancel,
    signals: Sender<u32>,
    smoke: SmokeResults,
    runs: tempfile::TempDir,
}

/// How a verb ended: its code, and error and hint as `main` prints them.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: u8,
    text: String,
}

impl Fixture {
    fn new(roll: &str) -> Self {
        let (signals, cancel) = Cancel::manual();
        Self {
            aws: InMemoryAws::with_fleet(3),
            settings: fast(sample::settings(roll)),
            output: Output::captured(),
            cancel,
            signals,
            smoke: SmokeResults::default(),
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
        let cloud = self.aws.cloud();
        let context = RollContext {
            cloud: &cloud,
            image: &image,
            arch: None,
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
        let foreign = |call: &&str| !CALLS.contains(call);
        let made = self.aws.state().calls.made.clone();
        assert_eq!(made.into_iter().find(|call| foreign(call)), None, "{verb}");
        match result {
            Ok(exit) => Ended {
                code: exit.code(),
                text: String::new(),
            },
            Err(error) => {
                let hint = run::exit::hint(&error)
                    .map(|hint| format!("\nhint: {}", hint.replace('\n', "\nhint: ")));
                Ended {
                    code: Exit::of(&error).code(),
                    text: format!("error: {error:#}{}", hint.unwrap_or_default()),
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

    /// The whole transcript, with varying parts replaced.
    fn transcript(&self, ended: &Ended) -> String {
        let mut lines = self.output.messages();
        if !ended.text.is_empty() {
            lines.push(ended.text.clone());
        }
        lines.push(format!("exit code {}", ended.code));
        normal(&lines.join("\n"))
    }

    fn pointers(&self) -> [Option<String>; 3] {
        let state = self.aws.state();
        ["candidate", "current", "previous"]
            .map(|pointer| state.pointer(pointer).map(ToOwned::to_owned))
    }

    /// Exactly one finished roll to ami-2 on version 8, without a second attempt.
    fn assert_rolled(&self, what: &str) {
        let state = self.aws.state();
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
        let state = self.aws.state();
        assert_eq!(state.on(7), 3);
        assert_eq!(state.saved(), SavedVersion::Number(7));
        drop(state);
        assert_eq!(
            self.pointers(),
            [Some("ami-2".into()), Some("ami-1".into()), None]
        );
    }
}

/// Durations depend on the machine.
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
    run::ledger::Ledger::all(runs)
        .unwrap()
        .into_iter()
        .map(|found| match found {
            run::ledger::Found::Dead(ledger) => ledger.journal().outcome.clone(),
            found => panic!("{found:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_roll_that_succeeds() {
    let fixture = Fixture::new("");
    let ended = fixture.roll().await;
    insta::assert_snapshot!(fixture.transcript(&ended));
    fixture.assert_rolled("plain");
    assert_eq!(outcome(fixture.runs.path()), [Some("done".into())]);
}

#[tokio::test]
async fn the_first_roll_of_all_remembers_what_ran_before() {
    let fixture = Fixture::new("");
    fixture
        .aws
        .state()
        .parameters
        .remove("/imagebuilder/shop/current");
    assert_eq!(fixture.roll().await.code, 0);
    fixture.assert_rolled("no pointer but the candidate");
}

#[tokio::test]
async fn a_registry_record_of_another_schema_is_no_record() {
    let fixture = Fixture::new("");
    for value in fixture.aws.state().parameters.values_mut() {
        *value = value
            .replace("\"schema\":1", "\"schema\":2")
            .replace("fit", "unfit");
    }
    fixture.aws.state().schema = Some(2);
    assert_eq!(fixture.roll().await.code, 0);
    assert!(
        !fixture
            .output
            .messages()
            .iter()
            .any(|line| line.contains("agent"))
    );
}

#[tokio::test]
async fn rolled_again_there_is_nothing_to_do() {
    let fixture = Fixture::new("");
    fixture.roll().await;
    fixture.aws.state().point("current", "ami-1");
    let printed = fixture.output.messages().len();
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 0);
    insta::assert_snapshot!(normal(&fixture.output.messages()[printed..].join("\n")));
    fixture.assert_rolled("the pointer that is behind is moved");
}

#[tokio::test]
async fn abandoned_launches_are_rolled_back_with_reasons() {
    let fixture = Fixture::new("");
    fixture.aws.state().unhealthy.insert(sample::image("ami-2"));
    let ended = fixture.roll().await;
    insta::assert_snapshot!(fixture.transcript(&ended));
    fixture.assert_back();
    // Requested again, the result is the same.
    let again = fixture.watch().await;
    assert_eq!(again.code, 11);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let fixture = Fixture::new("");
    let request = Request {
        extent: Extent::Plan,
        ..Fixture::request()
    };
    assert_eq!(fixture.verb("roll", &request).await.code, 0);
    fixture.assert_back();
    let changing = ["make_version", "start_refresh", "save_version", "point"];
    assert!(
        fixture
            .aws
            .state()
            .calls
            .made
            .iter()
            .all(|call| !changing.contains(call))
    );
    assert!(outcome(fixture.runs.path()).is_empty());
}

#[tokio::test]
async fn another_refresh_is_refused_waited_for_or_adopted() {
    let busy = |roll: &str| {
        let fixture = Fixture::new(roll);
        let mut state = fixture.aws.state();
        state.add_version(8, "ami-2");
        state.begin_refresh(8);
        drop(state);
        fixture
    };
    let refused = busy("").roll().await;
    assert_eq!(refused.code, 16);
    insta::assert_snapshot!(refused.text);

    let waiting = busy("");
    let wait = Request {
        busy: Busy::Wait,
        ..Fixture::request()
    };
    // Its target was this image: it only has to be verified.
    assert_eq!(waiting.verb("roll", &wait).await.code, 0);
    waiting.assert_rolled("waited");

    let adopting = busy("");
    let adopt = Request {
        busy: Busy::Adopt,
        ..Fixture::request()
    };
    assert_eq!(adopting.verb("roll", &adopt).await.code, 0);
    adopting.assert_rolled("adopted");

    // One with another target cannot be adopted.
    let elsewhere = busy("");
    let other = Request {
        busy: Busy::Adopt,
        image: Some(sample::image("ami-0")),
        ..Fixture::request()
    };
    assert_eq!(elsewhere.verb("roll", &other).await.code, 16);

    let mut impatient = busy("");
    impatient.settings.watch_timeout = Some(Duration::ZERO);
    impatient.aws.state().statuses = vec![RefreshStatus::InProgress; 9].into();
    assert_eq!(impatient.verb("roll", &wait).await.code, 15);
}

#[tokio::test]
async fn a_group_on_latest_is_pinned_first() {
    let fixture = Fixture::new("");
    fixture.aws.state().save(SavedVersion::Latest);
    assert_eq!(fixture.roll().await.code, 3);
    let request = Request {
        consents: vec![Consent::PinFirst],
        ..Fixture::request()
    };
    assert_eq!(fixture.verb("roll", &request).await.code, 0);
    fixture.assert_rolled("pinned");
    let state = fixture.aws.state();
    let at = |name| {
        state
            .calls
            .made
            .iter()
            .position(|call| *call == name)
            .unwrap()
    };
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
        let fixture = Fixture::new("");
        fixture.aws.state().statuses = vec![
            RefreshStatus::Unknown("Marinating".into()),
            RefreshStatus::InProgress,
            status.clone(),
        ]
        .into();
        assert_eq!(fixture.roll().await.code, code, "{status}");
        assert_eq!(fixture.pointers()[1].as_deref(), Some("ami-1"), "{status}");
    }
}

#[tokio::test]
async fn a_finished_fleet_with_flaws_is_not_verified() {
    let mut limping = Fixture::new("");
    limping.settings.verify_timeout = Some(Duration::from_millis(20));
    limping.aws.state().limping.insert(sample::image("ami-2"));
    let ended = limping.roll().await;
    assert_eq!(ended.code, 14);
    assert!(
        ended
            .text
            .contains("unhealthy to its target group Target.Timeout"),
        "{}",
        ended.text
    );
    assert_eq!(limping.pointers()[1].as_deref(), Some("ami-1"));

    let protected = Fixture::new("");
    protected.aws.state().group_mut().members[1].protected = true;
    let ended = protected.roll().await;
    assert_eq!(ended.code, 14);
    assert!(
        ended
            .text
            .contains("i-2 runs version 7, not 8, protected from scale-in"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn an_empty_fleet_gets_its_version_saved() {
    let fixture = Fixture::new("");
    {
        let mut state = fixture.aws.state();
        state.group_mut().members.clear();
        state.instances.clear();
        state.group_mut().size.desired = 0;
    }
    assert_eq!(fixture.roll().await.code, 0);
    assert_eq!(fixture.aws.state().saved(), SavedVersion::Number(8));
}

#[tokio::test]
async fn failed_smoke_tests_roll_the_fleet_back() {
    let test = "smoke_test = [\"probe\"]\ncheckpoints = [30]";
    let no = || Err("exit status: 1: order lost".to_owned());
    let passing = Fixture::new(test);
    assert_eq!(passing.roll().await.code, 0);
    passing.assert_rolled("passed");

    let early = Fixture::new(test);
    early.smoke.0.lock().unwrap().push_back(no());
    let ended = early.roll().await;
    assert_eq!(ended.code, 18);
    assert!(
        ended
            .text
            .contains("the smoke test failed: exit status: 1: order lost"),
        "{}",
        ended.text
    );
    early.assert_back();

    let late = Fixture::new(test);
    late.smoke.0.lock().unwrap().extend([Ok(()), no()]);
    let ended = late.roll().await;
    assert_eq!(ended.code, 18);
    assert!(
        ended
            .text
            .contains("all members are back on version 7 with ami-1"),
        "{}",
        ended.text
    );
    late.assert_back();
    assert_eq!(late.aws.state().refreshes.len(), 2);
}

#[tokio::test]
async fn rollback_reverses_an_active_refresh() {
    let mut fixture = Fixture::new("");
    fixture.settings.watch_timeout = Some(Duration::ZERO);
    assert_eq!(fixture.roll().await.code, 15);
    fixture.settings = fast(sample::settings(""));
    let printed = fixture.output.messages().len();
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    insta::assert_snapshot!(normal(&fixture.output.messages()[printed..].join("\n")));
    fixture.assert_back();
}

#[tokio::test]
async fn rollback_after_the_end_rolls_to_the_version_before() {
    for recorded in [true, false] {
        let what = format!("recorded {recorded}");
        let fixture = Fixture::new("");
        assert_eq!(fixture.roll().await.code, 0, "{what}");
        // The image before needs no gate verdict: it has served.
        for image in fixture.aws.state().images.values_mut() {
            image.tags.clear();
        }
        if !recorded {
            for entry in std::fs::read_dir(fixture.runs.path()).unwrap() {
                std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        }
        let ended = fixture.rollback().await;
        assert_eq!(ended.code, 0, "{what}: {}", ended.text);
        let state = fixture.aws.state();
        let back = if recorded { 7 } else { 9 };
        let found = (state.on(back), state.saved());
        assert_eq!(found, (3, SavedVersion::Number(back)), "{what}");
        drop(state);
        assert_eq!(
            fixture.pointers(),
            ["ami-2", "ami-1", "ami-1"].map(|image| Some(image.into())),
            "{what}: the release that was left is not to come back by itself"
        );
    }
}

#[tokio::test]
async fn rollback_without_a_known_version_is_refused() {
    let fixture = Fixture::new("");
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .text
            .contains("it is unknown what group shop ran before"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn watch_without_a_refresh_is_refused() {
    let ended = Fixture::new("").watch().await;
    assert_eq!(ended.code, 3);
    assert!(ended.text.contains("has had no refresh"), "{}", ended.text);
}

#[tokio::test]
async fn no_group_and_no_candidate_are_named() {
    let fixture = Fixture::new("");
    fixture.aws.state().group = None;
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .text
            .contains("there is no Auto Scaling group shop in us-east-1"),
        "{}",
        ended.text
    );
    let fixture = Fixture::new("");
    fixture
        .aws
        .state()
        .parameters
        .remove("/imagebuilder/shop/candidate");
    let ended = fixture.roll().await;
    assert_eq!(ended.code, 3);
    assert!(
        ended
            .text
            .contains("/imagebuilder/shop/candidate points at no image"),
        "{}",
        ended.text
    );
}
