//! What `docs/agent.md` states about the tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn functions(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| {
                let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric())?;
                Some(rest[..end].to_owned())
            });
            into.extend(names);
            // The table of interrupted phases makes its tests by macro, one name in each row.
            into.extend(
                text.lines()
                    .filter_map(|line| line.trim().split_once(':'))
                    .filter(|(name, _)| name.starts_with("killed_"))
                    .map(|(name, _)| name.to_owned()),
            );
        }
    }
}

#[test]
fn every_fault_in_the_documented_table_names_tests_that_exist() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    for folder in ["src", "tests", "update"] {
        functions(&here.join(folder), &mut known);
    }
    let page = fs::read_to_string(here.join("../docs/agent.md")).unwrap();
    let section = page.split("\n## Failures").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| {
            line.starts_with("| ") && !line.starts_with("| fault") && !line.starts_with("| ---")
        })
        .collect();
    assert!(rows.len() > 20, "the table is missing");
    for row in rows {
        let tests = row.rsplit(" | ").next().unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            let name = name.rsplit("::").next().unwrap();
            let exists = match name.split_once(['…', '<', '*']) {
                Some((beginning, _)) => known.iter().any(|known| known.starts_with(beginning)),
                None => known.contains(name),
            };
            assert!(exists, "no such test: {name}");
        }
    }
}
