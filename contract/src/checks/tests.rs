//! Which checks are accepted, and every key that is not.

use super::*;

fn table(json: &str) -> CheckTable {
    serde_json::from_str(json).unwrap()
}

/// Each finding as a sentence.
fn findings(json: &str) -> Vec<String> {
    let found = table(json).check("c", "web.service").unwrap_err();
    let sentence = |it: Finding| {
        let value = it.value.map_or_else(String::new, |it| format!(" `{it}`"));
        format!("{}{value} is {}: {}", it.key, it.problem, it.fix)
    };
    found.into_iter().map(sentence).collect()
}

#[test]
fn every_kind_is_read_with_its_keys() {
    for (json, want) in [
        (r#"{"kind":"tcp","address":"db:1"}"#, "Tcp(\"db:1\")"),
        (r#"{"kind":"unix","socket":"/run/x"}"#, "Unix(\"/run/x\")"),
        (
            r#"{"kind":"exec","command":["/bin/a","b"]}"#,
            "Exec([\"/bin/a\", \"b\"])",
        ),
        (r#"{"kind":"systemd"}"#, "Systemd(\"web.service\")"),
        (
            r#"{"kind":"systemd","unit":"-.mount"}"#,
            "Systemd(\"-.mount\")",
        ),
        (
            r#"{"kind":"https","url":"https://[::1]/a","ca_file":"/ca","headers":{"x-a":"b"},"expect_status":["401","200-204"],"body_contains":"ok"}"#,
            "Http(HttpCheck { uri: https://[::1]/a, ca_file: Some(\"/ca\"), headers: [(\"x-a\", \"b\")], statuses: [401..=401, 200..=204], body_contains: Some(\"ok\") })",
        ),
        (
            r#"{"kind":"http","url":"http://x:8080/"}"#,
            "Http(HttpCheck { uri: http://x:8080/, ca_file: None, headers: [], statuses: [200..=299], body_contains: None })",
        ),
    ] {
        let check = table(json).check("c", "web.service").unwrap();
        assert_eq!(format!("{:?}", check.kind), want, "{json}");
        assert_eq!(check.purposes, usual_purposes(), "{json}");
    }
    let given = r#"{"kind":"systemd","timeout_seconds":60,"purpose":["startup"]}"#;
    let check = table(given).check("c", "web.service").unwrap();
    assert_eq!(check.timeout, Some(Duration::from_secs(60)));
    assert_eq!(check.purposes, [Purpose::Startup].into());
}

#[test]
fn values_that_no_check_can_have_are_findings() {
    for (json, want) in [
        ("{}", "kind is missing: one of http, https"),
        (r#"{"kind":"tcp"}"#, "address is missing: kind tcp needs it"),
        (
            r#"{"kind":"tcp","address":"db"}"#,
            "address `db` is not a host and a port",
        ),
        (
            r#"{"kind":"tcp","address":"db:0"}"#,
            "address `db:0` is not a host and a port",
        ),
        (
            r#"{"kind":"http","url":"http://x/","ca_file":"/x"}"#,
            "ca_file is not a key of kind http: its own keys are url",
        ),
        (
            r#"{"kind":"https","url":"https://x/","ca_file":"x"}"#,
            "ca_file `x` is not an absolute path",
        ),
        (
            r#"{"kind":"https","url":"http://x/"}"#,
            "url `http://x/` is not an address that a check of kind https",
        ),
        (
            r#"{"kind":"https","url":"https://u:p@x/"}"#,
            "url `https://u:p@x/` is not an address",
        ),
        (
            r#"{"kind":"https","url":"https:///gtg"}"#,
            "url `https:///gtg` is not an address",
        ),
        (
            r#"{"kind":"http","url":"http://x:99999/"}"#,
            "url `http://x:99999/` is not an address",
        ),
        (
            r#"{"kind":"http","url":"http://x:0/"}"#,
            "url `http://x:0/` is not an address",
        ),
        (
            r#"{"kind":"http","url":"http://x/","expect_status":["200","2xx"]}"#,
            "expect_status `2xx` is not a status code",
        ),
        (
            r#"{"kind":"http","url":"http://x/","expect_status":["300-200"]}"#,
            "expect_status `300-200` is not",
        ),
        (
            r#"{"kind":"http","url":"http://x/","expect_status":[]}"#,
            "expect_status is empty",
        ),
        (
            r#"{"kind":"http","url":"http://x/","headers":{"a":"b\n"}}"#,
            "headers `a` is not a header",
        ),
        (
            r#"{"kind":"http","url":"http://x/","headers":{"Connection":"x"}}"#,
            "headers `Connection` is not a header",
        ),
        (
            r#"{"kind":"unix","socket":"run/x"}"#,
            "socket `run/x` is not an absolute path",
        ),
        (
            r#"{"kind":"exec","command":[]}"#,
            "command `` is not the absolute path",
        ),
        (
            r#"{"kind":"exec","command":["true"]}"#,
            "command `true` is not the absolute path",
        ),
        (
            r#"{"kind":"exec","command":["/a","b\u0000"]}"#,
            "command `/a` is not the absolute path",
        ),
        (
            r#"{"kind":"systemd","unit":"a b"}"#,
            "unit `a b` is not the name of a systemd unit",
        ),
        (
            r#"{"kind":"systemd","purpose":[]}"#,
            "purpose is empty: one or more of startup",
        ),
        (
            r#"{"kind":"systemd","timeout_seconds":61}"#,
            "timeout_seconds is 61, which is not between 1 and 60",
        ),
    ] {
        let found = findings(json);
        assert_eq!(found.len(), 1, "{json}: {found:?}");
        assert!(found[0].starts_with(want), "{json}: {found:?}");
    }
}

#[test]
fn all_findings_of_a_check_are_there_without_their_values() {
    let json = r#"{"kind":"https","url":"hunter2","headers":{"a b":"hunter2"},"expect_status":["hunter2"],"ca_file":"hunter2","unit":"hunter2","timeout_seconds":0}"#;
    let found = table(json).check("c", "web.service").unwrap_err();
    let keys: Vec<&str> = found.iter().map(|it| it.key).collect();
    let want = [
        "unit",
        "timeout_seconds",
        "url",
        "ca_file",
        "headers",
        "expect_status",
    ];
    assert_eq!(keys, want);
    for finding in found {
        let printed = format!("{}{}", finding.problem, finding.fix);
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

#[test]
fn a_later_table_overrides_by_key() {
    let merged = table(r#"{"kind":"tcp","address":"a:1"}"#).over(table(r#"{"address":"b:2"}"#));
    let check = merged.check("c", "web.service").unwrap();
    assert!(matches!(&check.kind, CheckKind::Tcp(at) if at == "b:2"));
}

#[test]
fn names_are_plain_and_bounded() {
    let longest = "a".repeat(LONGEST_NAME);
    assert!(["a", "A-1_b.c", &longest].into_iter().all(is_name));
    assert!(
        !["", "a b", "a/b", "ä", &format!("{longest}a")]
            .into_iter()
            .any(is_name)
    );
}

#[test]
fn an_order_has_known_names_and_no_cycle() {
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
    for (services, want) in [
        (
            vec![
                ("a", names(&["b"])),
                ("b", names(&[])),
                ("c", names(&["a", "b"])),
            ],
            vec![],
        ),
        (
            vec![("a", names(&["x"])), ("b", names(&["b"]))],
            vec![
                OrderFinding::Unknown {
                    service: "a",
                    other: "x",
                },
                OrderFinding::Cycle(vec!["b"]),
            ],
        ),
        (
            vec![
                ("a", names(&["b"])),
                ("b", names(&["a"])),
                ("c", names(&[])),
            ],
            vec![OrderFinding::Cycle(vec!["a", "b"])],
        ),
    ] {
        let after = services
            .iter()
            .map(|(name, after)| (*name, after.as_slice()))
            .collect();
        assert_eq!(order_findings(&after), want, "{services:?}");
    }
}
