//! Schemathesis makes requests out of the OpenAPI document, good ones and bad ones, and judges every
//! answer by it. Its version and its seed are fixed: two runs ask the same.

use std::path::Path;
use std::process::Command;

use crate::support::{Service, orders};

const TOKEN: &str = "schemathesis-0123456789";
/// Examples an operation in each phase that makes its own; some 20 s in all on two busy cores.
const EXAMPLES: &str = "20";

#[test]
fn schemathesis_finds_no_difference_between_document_and_service() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let mut command = orders();
    let store = folder.path().join("store");
    command
        .args(["--store", &format!("file://{}", store.display())])
        .env("ORDERS_OPERATOR_TOKEN_FILE", &token)
        .env("ORDERS_CANDIDATES", "embedded");
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let operator = format!("Authorization: Bearer {TOKEN}");
    let operator = ["--header", operator.as_str()];
    let but_the_list = ["--exclude-path-regex", "^/orders$"];
    let but_the_list = [&operator[..], &but_the_list].concat();
    let (selected, all) = try_all(&service, folder.path(), &but_the_list);
    // Which times are ahead of the clock, and which cursors were given out, is more than a schema can say.
    let the_list = [
        "--include-path-regex",
        "^/orders$",
        "--phases",
        "examples,coverage,fuzzing",
        "--exclude-checks",
        "positive_data_acceptance",
    ];
    let the_list = [&operator[..], &the_list].concat();
    let (list, _) = try_all(&service, folder.path(), &the_list);
    assert!(
        selected + list == all && list == 1 && all >= 14,
        "{selected} and {list} of {all}"
    );
}

/// Apart, since accounts need another store, and soon answer that there were too many tries.
#[test]
fn schemathesis_finds_no_difference_in_accounts() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orders();
    let store = folder.path().join("orders.db");
    command
        .args(["--store", &format!("sqlite://{}", store.display())])
        .env("ORDERS_ACCOUNTS", "true");
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let paths = ["--include-path-regex", "^/(account|session)"];
    // There are no links to follow among these; and which logins and passwords are taken is more
    // than a schema can say.
    let apart = [
        "--phases",
        "examples,coverage,fuzzing",
        "--exclude-checks",
        "positive_data_acceptance",
    ];
    let (selected, _) = try_all(
        &service,
        folder.path(),
        &[paths.as_slice(), &apart].concat(),
    );
    assert!(selected >= 5, "{selected}");
}

/// Lets it try the service, in `folder`; how many operations it tried, and of how many.
fn try_all(service: &Service, folder: &Path, more: &[&str]) -> (u32, u32) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/venv/bin/schemathesis");
    assert!(
        program.exists(),
        "{} is not there; hint: make/setup.sh test installs it",
        program.display()
    );
    let output = Command::new(&program)
        // It leaves nothing where it runs, nor finds anything there.
        .current_dir(folder)
        .env("HOME", folder)
        .env("NO_COLOR", "1")
        .args(["run", &format!("http://{}/openapi.json", service.address)])
        .args(["--seed", "4", "--max-examples", EXAMPLES])
        .args(["--generation-database", "none"])
        // How fast examples are made says how busy the machine is, and nothing else.
        .args(["--suppress-health-check", "too_slow"])
        .args(["--request-timeout", "120", "--output-sanitize", "false"])
        .args(more)
        .output()
        .expect("start schemathesis");
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
    // A run that tested nothing would be a success too.
    assert!(
        said.contains("Coverage") && said.contains(" passed"),
        "{said}"
    );
    let tested = said.lines().find_map(|line| {
        let (selected, all) = line.trim().strip_prefix("Selected: ")?.split_once('/')?;
        Some((selected.parse().ok()?, all.parse().ok()?))
    });
    tested.unwrap_or_else(|| panic!("{said}"))
}
