//! The tests of an image: staged on it by `imagebuilder`, and run by its agent at the gate of a bake and nowhere else.
//!
//! The request to run them is the last line of the gate's user data. A line that begins with `#` is a comment in whatever
//! else user data may be: the agent's settings, cloud-config, a script. No instance of a fleet has it.

use serde::{Deserialize, Serialize};

/// The folder of the scripts on the image.
pub const DIR: &str = "/usr/lib/imagebuilder/tests";

/// The list of the tests on the image: [`ImageTests`] as JSON.
pub const LIST: &str = "/usr/lib/imagebuilder/tests/tests.json";

/// The file whose existence lets the unit that runs the tests start: written by the agent's `configure` for a request.
pub const REQUESTED: &str = "/run/imagebuilder/image-tests";

/// The last line of user data that requests the tests.
pub const REQUEST: &str = "#imagebuilder-agent: run the tests of this image";

/// Begins the names under which a registry record has tests among the services.
const SERVICE: &str = "test.";

/// Most tests of an image, so that their results fit the registry record, which has 4 KiB.
pub const MOST: usize = 16;

/// Longest name of a test, for the same reason.
pub const LONGEST_NAME: usize = 32;

/// The one schema number this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// The tests of an image, in the order in which they are run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTests {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The tests.
    pub tests: Vec<ImageTest>,
}

/// One test: a program that passes with exit code 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTest {
    /// Its name, also in the registry record and in messages.
    pub name: String,
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Seconds after which it is killed and has failed.
    pub timeout_seconds: u64,
    /// The user it runs as.
    pub user: String,
}

/// The name under which a registry record has a test's result.
#[must_use]
pub fn service(test: &str) -> String {
    format!("{SERVICE}{test}")
}

/// Whether a name in a registry record is a test's.
#[must_use]
pub fn is_test(service: &str) -> bool {
    service.starts_with(SERVICE)
}

/// Whether user data requests the tests.
#[must_use]
pub fn is_requested(user_data: &str) -> bool {
    let last = user_data.lines().rev().find(|line| !line.trim().is_empty());
    last.is_some_and(|line| line.trim_end() == REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_line_requests_the_tests() {
        for (user_data, want) in [
            (REQUEST.to_owned(), true),
            (
                format!("#cloud-config\npackages: []\n{REQUEST}\r\n\n"),
                true,
            ),
            (format!("{REQUEST}\n#!/bin/sh\n"), false),
            (format!("echo {REQUEST}\n"), false),
            (format!("{REQUEST} please\n"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_requested(&user_data), want, "{user_data:?}");
        }
        assert!(is_test(&service("smoke")) && !is_test("tester"));
    }
}
