//! Checks that are refused before anything is created.

use super::super::Config;

const IMAGE: &str = "[image]\nname = \"shop\"\n[image.source]\nowners = [\"self\"]\nname = \"x-*\"\n\
    [image.agent]\nbinary = \"agent\"\n";

fn refusal(services: &str) -> String {
    let error = Config::parse(&format!("{IMAGE}{services}"), "ib.toml").unwrap_err();
    error.to_string()
}

#[test]
fn a_check_that_can_never_pass_is_refused_when_read() {
    for (check, want) in [
        (
            "kind = \"exec\"\ncommand = [\"true\"]",
            "[services.web.checks.c] command `true` is not the absolute path of a program",
        ),
        (
            "kind = \"exec\"\ncommand = []",
            "command `` is not the absolute path",
        ),
        (
            "kind = \"https\"\nurl = \"https:///gtg\"",
            "url `https:///gtg` is not an address",
        ),
        (
            "kind = \"https\"\nurl = \"http://x/\"",
            "such as https://127.0.0.1:8080/gtg",
        ),
        (
            "kind = \"tcp\"\naddress = \"3306\"",
            "address `3306` is not a host and a port",
        ),
        (
            "kind = \"unix\"\nsocket = \"x.sock\"",
            "socket `x.sock` is not an absolute path",
        ),
        (
            "kind = \"systemd\"\nunit = \"web\"",
            "unit `web` is not the whole name of a systemd unit: such as web.service",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nexpect_status = [\"2xx\"]",
            "expect_status `2xx`",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nexpect_status = []",
            "expect_status is empty",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nheaders = { \"a b\" = \"c\" }",
            "`a b` is not a header",
        ),
        ("kind = \"http\"", "url is missing: kind http needs it"),
        ("kind = \"systemd\"\npurpose = []", "purpose is empty"),
        (
            "kind = \"systemd\"\ntimeout_seconds = 0",
            "timeout_seconds is 0, which is not between 1 and 60",
        ),
        (
            "timeout_seconds = 1",
            "[services.web.checks.c] kind is missing: one of http",
        ),
        ("kind = \"systemd\"\nunits = \"x\"", "unknown field `units`"),
        (
            "kind = \"https\"\nurl = \"https://x/\"\nca_file = \"ca.pem\"",
            "ca_file `ca.pem` is not an absolute path",
        ),
    ] {
        let message = refusal(&format!("[services.web.checks.c]\n{check}\n"));
        assert!(message.contains(want), "{check}: {message}");
    }
}

#[test]
fn all_findings_of_checks_and_order_are_reported_at_once() {
    let message = refusal(
        "[services.app]\nafter = [\"bd\", \"web\"]\n[services.web]\nafter = [\"app\"]\n[services.db.checks.c]\n\
         kind = \"tcp\"\nurl = \"x\"\ncommand = [\"x\"]\n",
    );
    for want in [
        "[services.app] after names `bd`, which is not a service here; did you mean `db`?",
        "[services] app, web wait for each other",
        "[services.db.checks.c] url is not a key of kind tcp: its own keys are address",
        "[services.db.checks.c] command is not a key of kind tcp",
        "[services.db.checks.c] address is missing",
    ] {
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
}
