//! Which checks are accepted, and the refusal of each key that does not fit.

use super::super::{Settings, Source, parse};
use super::*;

fn load(services: &str) -> Result<Settings> {
    let text = format!("image = \"shop\"\n{services}");
    Settings::validate(parse(Source::UserData, &text)?)
}

#[test]
fn a_service_without_checks_is_checked_by_its_unit() {
    let settings = load("[services.web]\nunit = \"nginx.service\"\n").unwrap();
    let [check] = &settings.services[0].checks[..] else {
        panic!("{settings:?}");
    };
    assert!(matches!(&check.kind, CheckKind::Systemd(unit) if unit == "nginx.service"));
    assert_eq!(check.purposes, usual_purposes());
}

#[test]
fn health_url_and_named_checks_are_made_together() {
    let text = "[services.web]\nhealth_url = \"http://127.0.0.1/\"\n[services.web.checks.db]\nkind = \"tcp\"\n\
                address = \"127.0.0.1:3306\"\ntimeout_seconds = 9\npurpose = [\"readiness\"]\n";
    let settings = load(text).unwrap();
    let [url, db] = &settings.services[0].checks[..] else {
        panic!("{settings:?}");
    };
    assert!(matches!(&url.kind, CheckKind::Http(_)) && url.name.is_empty());
    assert!(matches!(&db.kind, CheckKind::Tcp(at) if at == "127.0.0.1:3306"));
    assert_eq!(db.timeout, Some(Duration::from_secs(9)));
    assert_eq!(db.purposes, [Purpose::Readiness].into());
}

#[test]
fn a_check_that_does_not_fit_its_kind_is_refused_by_key() {
    for (check, want) in [
        ("", "services.web.checks.c.kind: missing"),
        ("kind = \"smtp\"", "expected one of `http`, `https`"),
        ("kind = \"tcp\"", "services.web.checks.c.address: missing"),
        (
            "kind = \"tcp\"\naddress = \"db\"",
            "address: not a host and a port",
        ),
        (
            "kind = \"tcp\"\naddress = \"db:0\"",
            "address: not a host and a port",
        ),
        (
            "kind = \"tcp\"\naddress = \"a:1\"\nurl = \"x\"",
            "c.url: not a key of kind tcp",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nca_file = \"/x\"",
            "c.ca_file: not a key of kind http",
        ),
        (
            "kind = \"https\"\nurl = \"http://x/\"",
            "c.url: not an address",
        ),
        (
            "kind = \"https\"\nurl = \"https://u:p@x/\"",
            "c.url: not an address",
        ),
        (
            "kind = \"https\"\nurl = \"https:///gtg\"",
            "c.url: not an address",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nexpect_status = [\"2xx\"]",
            "expect_status: not status codes",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nexpect_status = [\"300-200\"]",
            "expect_status: not status codes",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nheaders = { a = \"b\\n\" }",
            "headers: not a header",
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\nheaders = { Connection = \"x\" }",
            "headers: not a header",
        ),
        (
            "kind = \"unix\"\nsocket = \"run/x\"",
            "socket: not an absolute path",
        ),
        ("kind = \"exec\"", "c.command: missing"),
        (
            "kind = \"exec\"\ncommand = []",
            "c.command: does not begin with the absolute path",
        ),
        (
            "kind = \"exec\"\ncommand = [\"true\"]",
            "c.command: does not begin with the absolute path",
        ),
        ("kind = \"systemd\"\npurpose = []", "c.purpose: empty"),
        (
            "kind = \"systemd\"\ntimeout_seconds = 61",
            "c.timeout_seconds: 61 is not between 1 and 60",
        ),
        ("kind = \"systemd\"\nunits = \"x\"", "did you mean `unit`?"),
    ] {
        let error = load(&format!("[services.web.checks.c]\n{check}\n")).unwrap_err();
        assert!(error.to_string().contains(want), "{check}: {error}");
    }
}

#[test]
fn an_order_has_known_names_and_no_cycle() {
    let text = "[services.app]\nafter = [\"db\"]\n[services.db]\n[services.web]\nafter = [\"app\", \"db\"]\n";
    assert!(load(text).is_ok());
    for (text, want) in [
        (
            "[services.app]\nafter = [\"bd\"]\n[services.db]\n",
            "did you mean `db`?",
        ),
        (
            "[services.app]\nafter = [\"app\"]\n",
            "app wait for each other",
        ),
        (
            "[services.a]\nafter = [\"b\"]\n[services.b]\nafter = [\"a\"]\n[services.c]\n",
            "a, b wait for each other",
        ),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.to_string().contains(want), "{text}: {error}");
    }
}
