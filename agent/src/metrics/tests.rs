//! The exposition as a golden text, checked against the format's grammar and the page that describes it.

use std::collections::BTreeSet;

use agent_update::channel::Digest;
use agent_update::status::{Hold, Skipped};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::health::Round;
use crate::hooks::Answer;
use crate::lifecycle::NoAnswer;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn build(version: &str, digit: &str) -> Build {
    Build {
        version: version.parse().unwrap(),
        digest: Digest::parse(&digit.repeat(64)).unwrap(),
    }
}

fn service(version: &str, healthy: bool) -> contract::registry::Service {
    contract::registry::Service {
        version: version.into(),
        healthy,
        detail: String::new(),
    }
}

fn reported() -> UpdaterStatus {
    UpdaterStatus {
        phase: "waiting".into(),
        code: "expired".into(),
        channel: "stable".into(),
        stable: Some(build("1.2.0", "a")),
        factory: Some(build("1.0.0", "f")),
        wanted: Some(build("1.3.0", "c")),
        hold: Some(Hold {
            until: None,
            reason: String::new(),
        }),
        skipped: vec![Skipped {
            build: build("1.1.0", "b"),
            reason: "crashed".into(),
            at: at(0),
            attempts: Some(3),
        }],
        metadata: Some([1, 40, 30, 20]),
        metadata_expires: Some(at(86_400)),
        checked_at: Some(at(50)),
        verified_at: Some(at(-3600)),
        updated_at: Some(at(-7200)),
        ..UpdaterStatus::default()
    }
}

/// A meter that has seen something of everything.
fn busy() -> Meter {
    let meter = Meter::default();
    meter.called("PutParameter", None);
    meter.called("PutParameter", Some(Fault::Throttled));
    meter.called("DescribeLifecycleHooks", Some(Fault::Denied));
    let answered = |outcome| Event::Answered {
        hook: "in".into(),
        answer: Answer::Continue,
        outcome,
    };
    meter.count_event(&answered(Ok(Receipt::Accepted)));
    meter.count_event(&answered(Err(NoAnswer)));
    let round = Round::from([("orders".to_owned(), service("1", true))]);
    meter.count_event(&Event::Checked(round.into()));
    meter.counts().last_round = Some(at(59));
    meter.set_updater_status(Some(reported()));
    // The same check again, then one that ended well.
    meter.set_updater_status(Some(reported()));
    meter.set_updater_status(Some(UpdaterStatus {
        code: String::new(),
        checked_at: Some(at(55)),
        ..reported()
    }));
    meter.set_status(&DaemonStatus {
        agent: "1.2.0".into(),
        started_at: Some(at(0)),
        instance_id: "i-1".into(),
        image_id: "ami-1".into(),
        image: "shop".into(),
        group: Some("fleet \"a\\b\"\n".into()),
        state: "serving".into(),
        verdict: Some(Verdict::Fit),
        since: at(10).to_string(),
        services: [
            ("nginx".to_owned(), service("", false)),
            ("orders".to_owned(), service("1.2.3", true)),
        ]
        .into(),
        restarts: [("nginx".to_owned(), 2)].into(),
        ..DaemonStatus::default()
    });
    meter
}

#[test]
fn the_exposition_is_this_text() {
    let text = busy().exposition(at(60));
    assert_eq!(text, include_str!("tests/golden.txt"), "{text}");
}

/// The format's own rules, as `promtool check metrics` holds them: a family's lines stand together under
/// one HELP and one TYPE, no series twice, counters end in `_total`, every value is a number.
fn check(text: &str) {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let mut lines = text.lines().peekable();
    assert!(text.is_empty() || text.ends_with('\n'));
    while let Some(help) = lines.next() {
        let (family, words) = help
            .strip_prefix("# HELP ")
            .unwrap()
            .split_once(' ')
            .unwrap();
        assert!(family.chars().all(name) && family.starts_with("imagebuilder_agent_"));
        assert!(words.ends_with('.'), "{help}");
        assert!(families.insert(family.to_owned()), "{family} twice");
        let kind = lines
            .next()
            .unwrap()
            .strip_prefix(&format!("# TYPE {family} "));
        assert_eq!(
            kind == Some("counter"),
            family.ends_with("_total"),
            "{family}"
        );
        let mut samples = 0;
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (labelled, value) = sample.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let labels = labelled.strip_prefix(family).unwrap();
            if let Some(inner) = labels.strip_prefix('{') {
                let mut rest = inner.strip_suffix('}').unwrap();
                while !rest.is_empty() {
                    let (label, quoted) = rest.split_once("=\"").unwrap();
                    assert!(label.chars().all(name), "{sample}");
                    let mut escaped = false;
                    let end = quoted.find(|c| {
                        let end = c == '"' && !escaped;
                        escaped = c == '\\' && !escaped;
                        end
                    });
                    rest = &quoted[end.unwrap() + 1..];
                    rest = rest.strip_prefix(',').unwrap_or(rest);
                }
            } else {
                assert_eq!(labels, "", "{sample}");
            }
            assert!(series.insert(labelled.to_owned()), "{labelled} twice");
            samples += 1;
        }
        assert!(samples > 0, "{family} has no samples");
    }
}

#[test]
fn the_exposition_keeps_the_rules_of_its_format() {
    check(&Meter::default().exposition(at(0)));
    check(&busy().exposition(at(60)));
}

#[test]
fn the_page_lists_exactly_the_families() {
    let text = busy().exposition(at(60));
    let reported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    let page: BTreeSet<&str> = include_str!("../../../docs/agent.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `imagebuilder_agent_"))
        .filter_map(|rest| rest.split(['`', '{']).next())
        .collect();
    let page: BTreeSet<String> = page
        .iter()
        .map(|name| format!("imagebuilder_agent_{name}"))
        .collect();
    assert_eq!(
        page.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        reported
    );
}

#[test]
fn codes_of_a_strange_updater_do_not_become_series_without_end() {
    let meter = Meter::default();
    for n in 0..1000 {
        meter.set_updater_status(Some(UpdaterStatus {
            code: format!("code-{n}"),
            checked_at: Some(at(n)),
            ..UpdaterStatus::default()
        }));
    }
    meter.set_updater_status(Some(UpdaterStatus {
        code: "x\"y\n".into(),
        checked_at: Some(at(-1)),
        ..UpdaterStatus::default()
    }));
    let counts = meter.counts();
    assert_eq!(counts.refusals.len(), MOST_CODES + 1);
    let others = 1001 - u64::try_from(MOST_CODES).unwrap();
    assert_eq!(counts.refusals["other"], others);
}

async fn asked(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn only_scrapes_are_answered_and_slow_clients_are_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = tokio::spawn(http::answer(listener, busy()));
    // Three silent connections leave room for a fourth.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let answer = asked(port, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let kind = format!("content-type: {}", Exposition::TYPE);
    assert!(head.contains(&kind), "{head}");
    check(text);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            "405",
        ),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = asked(port, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer}"
        );
    }
    let endless = format!(
        "GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(100_000)
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The server may close the connection while the client still writes.
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    answering.abort();
}
