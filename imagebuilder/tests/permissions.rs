//! The table of permissions, the documentation and the calls of the SDK agree.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use run::permissions::Verb::*;
use run::permissions::*;

/// The actions that a table's row names: `service:Action`, then further ones of the same service.
fn named(row: &str) -> BTreeSet<String> {
    let mut service = "";
    let mut found = BTreeSet::new();
    for text in row.split('`').skip(1).step_by(2) {
        let name = match text.split_once(':') {
            Some((before, name)) => {
                service = before;
                name
            }
            None => text,
        };
        let is_action = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '*');
        if is_action && !service.is_empty() {
            found.insert(format!("{service}:{name}"));
        }
    }
    found
}

fn documented(page: &str, rows: &[&str]) -> BTreeSet<String> {
    let (_, section) = page.split_once("## Permissions").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut found = BTreeSet::new();
    for row in rows {
        let start = format!("| {row}");
        let mut lines = section.lines().filter(|line| line.starts_with(&start));
        let line = lines.next().unwrap_or_else(|| panic!("no row {row}"));
        found.extend(named(line.split_once(" | ").unwrap().1));
    }
    found
}

fn of(verbs: &[Verb]) -> BTreeSet<String> {
    let all = ACTIONS.iter();
    all.filter(|action| action.verbs.iter().any(|verb| verbs.contains(verb)))
        .map(|action| match action.name {
            "kms:ReEncryptFrom" | "kms:ReEncryptTo" => "kms:ReEncrypt*".to_owned(),
            name => name.to_owned(),
        })
        .collect()
}

fn operating(row: &str) -> BTreeSet<String> {
    documented(include_str!("../../docs/operating.md"), &[row])
}

fn rolling(rows: &[&str]) -> BTreeSet<String> {
    documented(include_str!("../../docs/roll.md"), rows)
}

#[test]
fn the_documented_permissions_are_those_of_the_table() {
    assert_eq!(operating("`bake`: ours"), of(&[Bake]));
    assert_eq!(operating("`bake`: Packer"), of(&[Packer]));
    let rows = [
        "reading",
        "rolling",
        "`--pin-first`",
        "alarms",
        "what lost instances",
    ];
    assert_eq!(
        rolling(&rows),
        of(&[Roll, RollbackRefresh, Verify, Watch, Rollback])
    );
    assert_eq!(of(&[Roll]), rolling(&rows));
    assert_eq!(operating("`reap`"), of(&[Reap]));
    assert_eq!(operating("`channel` verbs"), of(&[Channel]));
    let reading = rolling(&["reading"]);
    for (row, verb, unread) in [
        ("`roll watch`", Watch, None),
        (
            "`roll rollback` of an active",
            Rollback,
            Some("ssm:GetParameter"),
        ),
        ("`roll rollback` after", RollbackRefresh, None),
    ] {
        let mut all = &reading | &operating(row);
        all.retain(|name| Some(name.as_str()) != unread);
        assert_eq!(all, of(&[verb]), "{row}");
    }
    let mut verifying = of(&[Verify]);
    assert!(verifying.remove("ssm:PutParameter"));
    assert!(verifying.is_subset(&reading));
}

#[test]
fn the_documented_denials_are_those_of_the_table() {
    let page = include_str!("../../docs/operating.md");
    let (_, table) = page.split_once("| command | its first change |").unwrap();
    for (row, verb) in [
        ("`bake`", Bake),
        ("`bake`", Packer),
        ("`roll` (also", Roll),
        ("`roll` with nothing to do", Verify),
        ("`roll watch`, `roll --adopt`", Watch),
        ("`roll rollback` of an active", Rollback),
        ("`roll rollback` after", RollbackRefresh),
        ("`reap`", Reap),
        ("`channel init`", Channel),
    ] {
        let start = format!("| {row}");
        let line = table.lines().find(|line| line.starts_with(&start)).unwrap();
        let denial = match verb.denial() {
            Denial::Refuses => "| refuses |",
            Denial::Warns => "| warns |",
        };
        assert!(line.ends_with(denial), "{line}");
    }
}

/// Names of SDK operations in a source text, as IAM has them: `.describe_images()` is `DescribeImages`.
fn called(source: &str) -> BTreeSet<String> {
    const VERBS: [&str; 20] = [
        "authorize",
        "cancel",
        "copy",
        "create",
        "delete",
        "deregister",
        "describe",
        "get",
        "import",
        "list",
        "modify",
        "put",
        "register",
        "rollback",
        "run",
        "sign",
        "simulate",
        "start",
        "stop",
        "terminate",
    ];
    let calls = source.split('.').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once("()")?;
        let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let verb = name.split('_').next()?;
        (is_name && (VERBS.contains(&verb) || verb == "update")).then_some(name)
    });
    calls
        .map(|name| {
            let words = name.split('_').filter_map(|word| {
                let (first, rest) = word.split_at_checked(1)?;
                Some(first.to_ascii_uppercase() + rest)
            });
            words.collect()
        })
        .collect()
}

/// An action that is called and not in the table would never be asked for.
#[test]
fn every_call_to_aws_is_in_the_table() {
    // The first needs no permission, the next two are the preflight's own, which continues without; the rest are fields of answers.
    const OTHERS: [&str; 6] = [
        "GetCallerIdentity",
        "GetRole",
        "SimulatePrincipalPolicy",
        "RollbackDetails",
        "RollbackReason",
        "StartTime",
    ];
    let table: BTreeSet<&str> = ACTIONS
        .iter()
        .filter_map(|action| Some(action.name.split_once(':')?.1))
        .chain(OTHERS)
        .collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cloud/src/aws");
    let mut all = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        all.extend(called(&source));
    }
    assert!(all.len() > 40 && all.contains("RunInstances"), "{all:?}");
    let missing: Vec<_> = all
        .iter()
        .filter(|name| !table.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_dry_run_is_of_the_action_that_it_answers_for() {
    let mut names = BTreeSet::new();
    for action in ACTIONS {
        assert!(names.insert(action.name), "{} twice", action.name);
        if let Asked::DryRun(permission) = action.asked {
            assert_eq!(action.name, format!("ec2:{permission:?}"));
        }
    }
}
