//! Tests that are refused when the configuration is read, and what the agent gets of the others.

use super::super::Config;
use super::*;

const IMAGE: &str =
    "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"agent\"\n";

fn refusal(more: &str) -> String {
    let error = Config::parse(&format!("{IMAGE}{more}"), "ib.toml").unwrap_err();
    error.to_string()
}

#[test]
fn tests_that_cannot_be_run_are_refused_when_read() {
    let one = "[[image.test]]\nname = \"a\"\n";
    let script = "[[image.test]]\nname = \"a\"\nscript = \"a.sh\"\n";
    for (more, want) in [
        (
            one.to_owned(),
            "[[image.test]] a: set `script` or `command`",
        ),
        (
            format!("{script}command = [\"/a\"]\n"),
            "a: has script and command",
        ),
        (
            format!("{one}command = [\"a\"]\n"),
            "a: command `a` is not the absolute path",
        ),
        (
            format!("{one}command = []\n"),
            "a: command `` is not the absolute path",
        ),
        (
            format!("{script}timeout_seconds = 0\n"),
            "a: timeout_seconds is 0; it must be 1 to 3600",
        ),
        (
            format!("{script}timeout = 5\n"),
            "unknown field `timeout`, expected one of",
        ),
        (
            format!("{script}user = \"a b\"\n"),
            "a: user `a b` is not a name",
        ),
        (
            format!("{script}{script}"),
            "[[image.test]] a is there twice",
        ),
        (
            script.replace("\"a\"", "\"a.b\""),
            "name `a.b` is not a test's name",
        ),
        (
            format!("{script}timeout_seconds = 600\n"),
            "[bake.gate] timeout_seconds is 600, and the tests alone may take 600 s",
        ),
    ] {
        let message = refusal(&more);
        assert!(message.contains(want), "{more}: {message}\nmisses {want}");
    }
    let many: String = (0..=MOST)
        .map(|at| {
            format!("[[image.test]]\nname = \"t{at}\"\nscript = \"a.sh\"\ntimeout_seconds = 1\n")
        })
        .collect();
    assert!(refusal(&many).contains("there are 17 tests"));
}

#[test]
fn a_test_is_unprivileged_and_has_a_minute_by_default() {
    let text = format!(
        "{IMAGE}[[image.test]]\nname = \"smoke\"\nscript = \"tests/smoke.sh\"\n[[image.test]]\nname = \"conf\"\n\
         command = [\"/usr/sbin/nginx\", \"-t\"]\nuser = \"root\"\ntimeout_seconds = 5\n"
    );
    let config = Config::parse(&text, "ib.toml").unwrap();
    let tests: Vec<ImageTest> = config.image.test.iter().map(Test::on_image).collect();
    let smoke = ImageTest {
        name: "smoke".to_owned(),
        command: vec!["/usr/lib/imagebuilder/tests/smoke".to_owned()],
        timeout_seconds: 60,
        user: "nobody".to_owned(),
    };
    assert_eq!(tests[0], smoke);
    assert_eq!(tests[1].command, ["/usr/sbin/nginx", "-t"]);
    assert_eq!(
        (tests[1].timeout_seconds, tests[1].user.as_str()),
        (5, "root")
    );
}
