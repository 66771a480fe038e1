//! Schemathesis generates valid and invalid requests from the OpenAPI document and validates every response.
//! Version and seed are fixed, so two runs send the same requests.

use std::path::Path;
use std::process::Command;

use crate::support::{Service, orders};

const TOKEN: &str = "schemathesis-0123456789";
/// Examples per operation in each generating phase; about 20 s in all on two busy cores.
const EXAMPLES: &str = "20";

#[test]
fn schemathesis_finds_no_difference_in_orders() {
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
    // A schema cannot express which times are ahead of the clock, and which cursors are valid.
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

/// A separate test, since accounts need another store and soon reach their rate limits.
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
    // These have no links to follow, and a schema cannot express which logins are taken.
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

/// Runs Schemathesis on the service, in `folder`; returns how many operations it tested, and of how many.
fn try_all(service: &Service, folder: &Path, more: &[&str]) -> (u32, u32) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/venv/bin/schemathesis");
    assert!(
        program.exists(),
        "{} is not there\nhint: make/setup.sh test installs it",
        program.display()
    );
    let output = Command::new(&program)
        // Keeps its files out of the working directory.
        .current_dir(folder)
        .env("HOME", folder)
        .env("NO_COLOR", "1")
        .args(["run", &format!("http://{}/openapi.json", service.address)])
        .args(["--seed", "4", "--max-examples", EXAMPLES])
        .args(["--generation-database", "none"])
        // Slow generation only means that the machine is busy.
        .args(["--suppress-health-check", "too_slow"])
        .args(["--request-timeout", "120", "--output-sanitize", "false"])
        .args(more)
        .output()
        .expect("start schemathesis");
    let printed = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{failed}");
    // A run without tests would succeed too.
    assert!(
        printed.contains("Coverage") && printed.contains(" passed"),
        "{printed}"
    );
    let tested = printed.lines().find_map(|line| {
        let (selected, all) = line.trim().strip_prefix("Selected: ")?.split_once('/')?;
        Some((selected.parse().ok()?, all.parse().ok()?))
    });
    tested.unwrap_or_else(|| panic!("{printed}"))
}
