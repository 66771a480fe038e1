//! Every help page, as a user sees it at 100 columns.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

fn help(verbs: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_imagebuilder-agent"))
        .args(verbs)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{verbs:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The subcommands that a help page lists, without clap's own `help`.
fn subcommands(page: &str) -> Vec<String> {
    let listed = page.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        // Descriptions that are wrapped continue further to the right.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn record(verbs: &[&str]) {
    let page = help(verbs);
    insta::assert_snapshot!(
        ["help"]
            .iter()
            .chain(verbs)
            .copied()
            .collect::<Vec<_>>()
            .join("-"),
        page
    );
    for name in subcommands(&page) {
        record(&[verbs, &[&name]].concat());
    }
}

#[test]
fn help_of_every_verb() {
    record(&[]);
}

/// A password in the wrong place is in the shell's history, but not in a log as well.
#[test]
fn usage_errors_repeat_no_password() {
    for arguments in [
        &["status", "--endpoint-url", "http://me:hush@x"][..],
        &["http://me:hush@x"],
        &["status", "http://me:hush@x"],
        &["--log", "http://me:hush@x", "status"],
        &["configure", "--patience=http://me:hush@x"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_imagebuilder-agent"))
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.starts_with("error: ") && !text.contains("hush"),
            "{text}"
        );
    }
}
