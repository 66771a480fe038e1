//! When the tests are part of the round, and what their results mean.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::health::{Checks, HealthCheck as _};
use crate::settings::Sources;

const IMAGE: &str = "image = \"shop\"\n[services.db]\n[services.db.checks.c]\nkind = \"exec\"\n\
    command = [\"/bin/true\"]\n";
const LIST: &str = r#"{"schema":1,"tests":[
    {"name":"smoke","command":["/usr/lib/imagebuilder/tests/smoke"],"timeout_seconds":60,"user":"nobody"},
    {"name":"port","command":["/bin/true"],"timeout_seconds":300,"user":"root"}]}"#;

struct Instance {
    dir: tempfile::TempDir,
}

impl Instance {
    fn with_list(list: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), IMAGE).unwrap();
        fs::write(dir.path().join("tests.json"), list).unwrap();
        Self { dir }
    }

    fn load(&self, user_data: Option<&str>) -> Result<Settings> {
        let at = |name: &str| self.dir.path().join(name);
        let sources = Sources {
            file: at("agent.toml"),
            drop_ins: at("agent.d"),
        };
        let (list, results) = (at("tests.json"), at("results.json"));
        requested(sources.load(user_data)?, user_data, &list, &results)
    }

    /// The details of a round of checks after these results, and whether no later one can pass.
    async fn round(&self, results: Option<&str>) -> (Vec<String>, bool) {
        if let Some(results) = results {
            fs::write(self.dir.path().join("results.json"), results).unwrap();
        }
        let settings = self.load(Some(image_tests::REQUEST)).unwrap();
        let limit = Duration::from_secs(60);
        let services: Arc<[Service]> = settings.services.into();
        let checked = Checks::default().round(services, limit).await;
        let details = checked.round.into_values().map(|it| it.detail).collect();
        (details, checked.hopeless)
    }
}

#[test]
fn tests_are_services_only_when_user_data_requests_them() {
    let instance = Instance::with_list(LIST);
    for user_data in [None, Some("#imagebuilder-agent\n"), Some("#cloud-config\n")] {
        let settings = instance.load(user_data).unwrap();
        assert_eq!(settings.services.len(), 1, "{user_data:?}");
        assert_eq!(settings.gate.deadline, Duration::from_secs(120));
    }
    let asked = format!(
        "#imagebuilder-agent\n[gate]\ndeadline_seconds = 100\n{}\n",
        image_tests::REQUEST
    );
    let settings = instance.load(Some(&asked)).unwrap();
    let names: Vec<&str> = settings
        .services
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(names, ["db", "test.smoke", "test.port"]);
    assert_eq!(settings.services[1].after, ["db"]);
    assert_eq!(
        settings.gate.deadline,
        Duration::from_secs(100 + 60 + 300) + SLACK
    );
}

#[test]
fn a_request_without_a_readable_list_is_refused() {
    for (list, want) in [
        ("", "EOF while parsing"),
        (r#"{"schema":2,"tests":[]}"#, "unknown schema 2"),
    ] {
        let refusal = Instance::with_list(list)
            .load(Some(image_tests::REQUEST))
            .unwrap_err();
        assert!(
            refusal.is::<Refused>() && refusal.to_string().contains(want),
            "{refusal}"
        );
    }
    let instance = Instance::with_list(LIST);
    fs::remove_file(instance.dir.path().join("tests.json")).unwrap();
    let refusal = instance.load(Some(image_tests::REQUEST)).unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("no such file\nhint: bake the image with"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_round_passes_only_after_every_test() {
    let instance = Instance::with_list(LIST);
    for (results, want, hopeless) in [
        (
            None,
            [
                "",
                "test port: has not ended yet",
                "test smoke: has not ended yet",
            ],
            false,
        ),
        (
            Some(r#"{"tests":{"smoke":"failed: exited with 3"},"done":false}"#),
            [
                "",
                "test port: has not ended yet",
                "test smoke: failed: exited with 3",
            ],
            false,
        ),
        (
            Some(r#"{"tests":{"smoke":"failed: exited with 3","port":null},"done":true}"#),
            ["", "", "test smoke: failed: exited with 3"],
            true,
        ),
        (
            Some(r#"{"tests":{"port":null},"done":true}"#),
            ["", "", "test smoke: was not run"],
            false,
        ),
        (
            Some(r#"{"tests":{"smoke":null,"port":null},"done":true}"#),
            ["", "", ""],
            false,
        ),
    ] {
        let (details, found) = instance.round(results).await;
        assert_eq!(
            (&details[..], found),
            (&want.map(str::to_owned)[..], hopeless),
            "{results:?}"
        );
    }
}
