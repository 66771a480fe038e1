//! Which checks are accepted, and the refusal of each key that does not fit.

use std::time::Duration;

use anyhow::Result;
use contract::checks::{CheckKind, Purpose, usual_purposes};

use super::super::{Settings, Source, parse};

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
fn a_refused_check_is_named_by_its_key_and_has_no_value() {
    for (check, want) in [
        (
            "",
            "services.web.checks.c.kind: missing\nhint: one of http, https, tcp",
        ),
        ("kind = \"hunter2\"", "expected one of `http`, `https`"),
        (
            "kind = \"tcp\"",
            "services.web.checks.c.address: missing\nhint: kind tcp needs it",
        ),
        (
            "kind = \"tcp\"\naddress = \"hunter2\"",
            "services.web.checks.c.address: not a host and a port\nhint: such as",
        ),
        (
            "kind = \"http\"\nurl = \"http://u:hunter2@x/\"",
            "services.web.checks.c.url: not an address",
        ),
        (
            "kind = \"tcp\"\naddress = \"a:1\"\nurl = \"hunter2\"",
            "services.web.checks.c.url: not a key of kind tcp\nhint: its own keys are address",
        ),
        (
            "kind = \"exec\"\ncommand = [\"hunter2\"]",
            "services.web.checks.c.command: not the absolute path",
        ),
        (
            "kind = \"systemd\"\ntimeout_seconds = 61",
            "services.web.checks.c.timeout_seconds: 61, which is not between 1 and 60",
        ),
        ("kind = \"systemd\"\nunits = \"x\"", "did you mean `unit`?"),
    ] {
        let error = load(&format!("[services.web.checks.c]\n{check}\n")).unwrap_err();
        assert!(error.to_string().contains(want), "{check}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{check}: {error}");
    }
    let error = load("[services.web.checks.\"hunter 2\"]\nkind = \"tcp\"\n").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("services.….checks: not a name\nhint: letters")
    );
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
