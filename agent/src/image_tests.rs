//! The image's own tests, at the gate of a bake: a round of checks has each as a service of its own, so that the instance is fit
//! only when all have passed, and the registry record names each with its result.
//!
//! The daemon is unprivileged and runs none: it reads what `run-image-tests` (`test_runner`) wrote. Without a request in user data nothing
//! of this module happens.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use contract::checks::{Check, CheckKind, Purpose};
use contract::image_tests::{self, ImageTests, SCHEMA};
use serde::{Deserialize, Serialize};

use crate::bounded;
use crate::settings::{Refused, Service, ServiceName, Settings};

#[cfg(test)]
mod tests;

/// The file of the results.
pub(crate) const RESULTS: &str = "/run/imagebuilder-tests/results.json";

/// Longest list of tests, and longest file of results.
const LONGEST: u64 = 256 * 1024;

/// How much longer the gate lasts than its tests may take: they begin when the services pass, and end in one round of checks.
const SLACK: Duration = Duration::from_secs(30);

/// The results so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Why each test failed; `None`: it passed. By name.
    pub(crate) tests: BTreeMap<String, Option<String>>,
    /// Whether all have ended.
    pub(crate) done: bool,
}

/// A test failed, and all have ended: no later round can pass.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// The settings with the tests of `list` as services, if `user_data` requests them.
pub(crate) fn requested(
    mut settings: Settings,
    user_data: Option<&str>,
    list: &Path,
    results: &Path,
) -> Result<Settings> {
    if !user_data.is_some_and(image_tests::is_requested) {
        return Ok(settings);
    }
    let list = read_list(list)?;
    let others: Vec<String> = settings
        .services
        .iter()
        .map(|service| service.name.to_string())
        .collect();
    for test in &list.tests {
        settings.gate.deadline += Duration::from_secs(test.timeout_seconds);
        settings.services.push(Service {
            name: ServiceName::parse(&image_tests::service(&test.name))?,
            unit: format!("test {}", test.name),
            checks: vec![Check {
                name: String::new(),
                kind: CheckKind::Test {
                    results: results.to_owned(),
                    name: test.name.clone(),
                },
                timeout: None,
                purposes: [Purpose::Readiness].into(),
            }],
            after: others.clone(),
            version: None,
            environment: BTreeMap::new(),
        });
    }
    settings.gate.deadline += SLACK;
    Ok(settings)
}

/// The list on the image. A request without one is refused: no instance is fit whose tests did not run.
pub(crate) fn read_list(path: &Path) -> Result<ImageTests> {
    let refused = |why: String| -> anyhow::Error {
        Refused::because(format!(
            "user data requests the tests of this image: {}: {why}\nhint: bake the image with [[image.test]]",
            path.display()
        ))
        .into()
    };
    let text = bounded::read(path, LONGEST).map_err(|error| refused(error.to_string()))?;
    let text = text.ok_or_else(|| refused("no such file".to_owned()))?;
    let list: ImageTests =
        serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    if list.schema != SCHEMA {
        return Err(refused(format!("unknown schema {}", list.schema)));
    }
    Ok(list)
}

/// Passes if the test `name` has passed.
pub(crate) fn check(results: &Path, name: &str) -> Result<()> {
    let text = bounded::read(results, LONGEST)
        .with_context(|| format!("cannot read {}", results.display()))?;
    let results: Results = match text {
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("cannot read {}", results.display()))?,
        None => Results::default(),
    };
    match results.tests.get(name) {
        None if results.done => bail!("was not run"),
        None => bail!("has not ended yet"),
        Some(None) => Ok(()),
        Some(Some(why)) if results.done => Err(Failed(why.clone()).into()),
        Some(Some(why)) => bail!("{why}"),
    }
}
