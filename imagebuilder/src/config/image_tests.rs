//! `[[image.test]]`: the tests that the gate has run on the candidate; as written, with every shape checked.
//!
//! Scripts are read where they are staged. What a test is on the image is [`contract::image_tests`]'.

use std::collections::BTreeSet;
use std::path::PathBuf;

use contract::image_tests::{DIR, ImageTest, LONGEST_NAME, MOST};
use serde::Deserialize;

use super::closed::account_name;

/// Longest time limit of a test, in seconds: an hour, as long as a lifecycle hook waits by default.
const LONGEST_SECONDS: u32 = 3600;

/// `[[image.test]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    /// Its name in messages, and its script's on the image.
    pub(crate) name: String,
    /// The script here.
    pub(crate) script: Option<PathBuf>,
    /// Or a program of the image, by its absolute path, and its arguments.
    command: Option<Vec<String>>,
    /// Seconds after which it is killed and has failed.
    #[serde(default = "minute")]
    timeout_seconds: u32,
    /// The user it runs as.
    #[serde(default = "nobody")]
    user: String,
}

fn minute() -> u32 {
    60
}

fn nobody() -> String {
    "nobody".to_owned()
}

impl Test {
    /// Where its script is on the image.
    pub(crate) fn dest(&self) -> String {
        format!("{DIR}/{}", self.name)
    }

    /// The test as the agent reads it.
    pub(crate) fn on_image(&self) -> ImageTest {
        let command = self.command.clone();
        ImageTest {
            name: self.name.clone(),
            command: command.unwrap_or_else(|| vec![self.dest()]),
            timeout_seconds: self.timeout_seconds.into(),
            user: self.user.clone(),
        }
    }

    fn findings(&self) -> Vec<String> {
        let at = format!("[[image.test]] {}:", self.name.escape_debug());
        let mut findings = Vec::new();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if !(1..=LONGEST_NAME).contains(&self.name.len()) || !self.name.chars().all(fits) {
            findings.push(format!(
                "[[image.test]] name `{}` is not a test's name: letters, digits, `-` and `_`, at most {LONGEST_NAME}",
                self.name.escape_debug()
            ));
        }
        match (&self.script, &self.command) {
            (None, None) => findings.push(format!("{at} set `script` or `command`")),
            (Some(_), Some(_)) => {
                findings.push(format!("{at} has script and command: remove one of them"));
            }
            (None, Some(command)) => {
                let first = command.first().map_or("", String::as_str);
                if !first.starts_with('/') || command.iter().any(|word| word.contains('\0')) {
                    findings.push(format!(
                        "{at} command `{}` is not the absolute path of a program and its arguments: such as [\"/usr/sbin/nginx\", \"-t\"]",
                        first.escape_debug()
                    ));
                }
            }
            (Some(_), None) => {}
        }
        if !(1..=LONGEST_SECONDS).contains(&self.timeout_seconds) {
            findings.push(format!(
                "{at} timeout_seconds is {}; it must be 1 to {LONGEST_SECONDS}",
                self.timeout_seconds
            ));
        }
        if !account_name(&self.user) {
            findings.push(format!(
                "{at} user `{}` is not a name, such as nobody or root",
                self.user.escape_debug()
            ));
        }
        findings
    }
}

/// What no image's tests can be, where the gate lasts `limit` seconds. No service has a name that begins as that of a test's result:
/// it would need a dot.
pub(super) fn findings(tests: &[Test], limit: u32) -> Vec<String> {
    if tests.is_empty() {
        return Vec::new();
    }
    let mut findings: Vec<String> = tests.iter().flat_map(Test::findings).collect();
    let mut names = BTreeSet::new();
    for test in tests.iter().filter(|test| !names.insert(&test.name)) {
        findings.push(format!(
            "[[image.test]] {} is there twice",
            test.name.escape_debug()
        ));
    }
    if tests.len() > MOST {
        findings.push(format!(
            "[[image.test]] there are {} tests, and the agent reports at most {MOST}: have one script run several",
            tests.len()
        ));
    }
    let sum = tests
        .iter()
        .fold(0, |sum: u32, test| sum.saturating_add(test.timeout_seconds));
    if sum >= limit {
        findings.push(format!(
            "[bake.gate] timeout_seconds is {limit}, and the tests alone may take {sum} s: raise it, or lower timeout_seconds of [[image.test]]"
        ));
    }
    findings
}

#[cfg(test)]
mod tests;
