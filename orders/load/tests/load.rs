//! The built load generator at a built service, end to end over HTTP.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions its tests share"
)]

#[path = "../../tests/service/proxy.rs"]
mod proxy;
#[expect(dead_code, reason = "the tests of the service need more of it")]
#[path = "../../tests/service/support.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use proxy::Proxy;
use support::{Running, Service, TEST_TIMEOUT, orders, orders_load, signal};

fn run(args: &[&str]) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = with_long_timeout(args).output().unwrap();
    let printed = String::from_utf8(stdout).unwrap();
    let text = format!("{printed}{}", String::from_utf8_lossy(&stderr));
    (status.code().unwrap_or_else(|| panic!("{text}")), printed)
}

/// A command whose orders have a time limit for a busy machine, unless the arguments set one.
fn with_long_timeout(args: &[&str]) -> Command {
    let mut command = orders_load();
    command.args(args);
    if args[0] == "run" && !args.contains(&"--timeout") {
        command.args(["--timeout", "240s"]);
    }
    command
}

fn last(printed: &str) -> &str {
    printed.lines().last().unwrap_or_default()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_placed_order_is_found_and_a_lost_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let place = folder.path().join("orders");
    let store = format!("file://{}", place.display());
    let histogram = folder.path().join("load.hgrm");
    let service = Service::start(&place);
    let url = format!("http://{}/", service.address);
    let load = [
        "run",
        "--url",
        &url,
        "--rate",
        "100",
        "--duration",
        "500ms",
        "--ledger",
        path(&ledger),
    ];

    let (code, printed) = run(&load);
    assert_eq!(
        (code, last(&printed)),
        (0, "orders: placed 50, failed 0; the store was not checked"),
        "{printed}"
    );
    let more = [
        "--arrivals",
        "burst=25",
        "--connections",
        "4",
        "--json",
        "--histogram",
        path(&histogram),
    ];
    let (code, printed) = run(&[&load[..], &more].concat());
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (code, &report["placed"], &report["found"]),
        (0, &50.into(), &serde_json::Value::Null),
        "{printed}"
    );
    assert!(
        report["latency_ms"]["p99.9"].as_f64() > Some(0.0),
        "{printed}"
    );
    let histogram = std::fs::read_to_string(histogram).unwrap();
    assert!(
        histogram.contains("Total count    =           50]"),
        "{histogram}"
    );

    drop(service);
    let check = ["check", "--ledger", path(&ledger), "--store", &store];
    let (code, printed) = run(&check);
    assert_eq!(
        (code, last(&printed)),
        (
            0,
            "orders: placed 100, failed 0, found 100, lost 0, twice 0"
        ),
        "{printed}"
    );

    let lost = "01a1fa53-de62-772a-801d-28f5e714e855";
    let entries = std::fs::read_to_string(&ledger).unwrap();
    std::fs::write(&ledger, format!("{entries}acked 50 {lost}\n")).unwrap();
    let (code, printed) = run(&check);
    assert_eq!(
        (code, last(&printed)),
        (
            3,
            "orders: placed 101, failed 0, found 100, lost 1, twice 0"
        ),
        "{printed}"
    );
    assert!(printed.contains(&format!("lost: {lost}")), "{printed}");

    // One id for two orders is one order: the other one is lost.
    let kept = entries
        .lines()
        .find(|line| line.starts_with("acked 7 "))
        .unwrap();
    let again = kept.replace("acked 7 ", "acked 51 ");
    std::fs::write(&ledger, format!("{entries}{again}\n")).unwrap();
    let (code, printed) = run(&check);
    assert_eq!(
        (code, last(&printed)),
        (
            3,
            "orders: placed 101, failed 0, found 100, lost 1, twice 0"
        ),
        "{printed}"
    );
}

#[test]
fn a_missing_store_is_an_error_not_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let entries = "run 3f1c09d2a7b4e865 2026-01-01T09:00:00Z\n\
                   acked 0 01a1fa53-de62-772a-801d-28f5e714e855\n";
    std::fs::write(&ledger, entries).unwrap();
    let nowhere = folder.path().join("nowhere");
    for store in [
        format!("file://{}", nowhere.display()),
        format!("sqlite://{}/orders.db", nowhere.display()),
    ] {
        let (code, printed) = run(&["check", "--ledger", path(&ledger), "--store", &store]);
        assert_eq!(
            (code, last(&printed)),
            (
                1,
                "orders: placed 1, failed 0; the store could not be checked"
            ),
            "{printed}"
        );
        assert!(!nowhere.exists(), "a check makes nothing");
    }
}

#[test]
fn a_check_by_the_services_list_equals_one_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let token = folder.path().join("token");
    std::fs::write(&token, "a token long enough\n").unwrap();
    let mut command = orders();
    command
        .args([
            "--store",
            &format!("file://{}/orders", folder.path().display()),
        ])
        .env("ORDERS_OPERATOR_TOKEN_FILE", &token);
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let url = format!("http://{}", service.address);
    let mut load = vec!["run", "--url", &url, "--rate", "500", "--duration", "3s"];
    load.extend([
        "--ledger",
        path(&ledger),
        "--operator-token-file",
        path(&token),
    ]);
    let (code, printed) = run(&load);
    assert_eq!(
        (code, last(&printed)),
        (
            0,
            "orders: placed 1500, failed 0, found 1500, lost 0, twice 0"
        ),
        "{printed}"
    );

    // An order placed with the marks of the load's order is a duplicate.
    let began = std::fs::read_to_string(&ledger).unwrap();
    let run_id = began.split(' ').nth(1).unwrap();
    let order = format!(
        r#"{{"name":"A","address":"B","flower":"spring_tulips","load_run":"{run_id}","load_number":7}}"#
    );
    let id = service
        .ask("POST", "/order", "application/json", order.as_bytes())
        .json()["id"]
        .to_string();
    let check = [
        "check",
        "--ledger",
        path(&ledger),
        "--url",
        &url,
        "--operator-token-file",
    ];
    let (code, printed) = run(&[&check[..], &[path(&token)]].concat());
    assert_eq!(
        (code, last(&printed)),
        (
            3,
            "orders: placed 1500, failed 0, found 1500, lost 0, twice 1"
        ),
        "{printed}"
    );
    let twice = format!("twice: {} and ", id.trim_matches('"'));
    assert!(
        printed.contains(&twice) && printed.contains(&format!("order 7 of run {run_id}")),
        "{printed}"
    );

    // A check that fails reports neither found nor lost orders.
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "another token\n").unwrap();
    let (code, printed) = run(&[&check[..], &[path(&wrong)]].concat());
    assert_eq!(
        (code, last(&printed)),
        (
            1,
            "orders: placed 1500, failed 0; the store could not be checked"
        ),
        "{printed}"
    );
}

#[test]
fn a_retry_after_a_lost_response_makes_one_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("orders");
    let service = Service::start(&store);
    let proxy = Proxy::open();
    proxy.set_target(service.address);
    proxy.lose_every(5);
    let ledger = folder.path().join("ledger");
    let url = format!("http://{}", proxy.address);
    let mut load = vec!["run", "--url", &url, "--rate", "100", "--duration", "500ms"];
    load.extend(["--ledger", path(&ledger), "--json"]);
    let (code, printed) = run(&[&load[..], &["--retries", "100"]].concat());
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &report["placed"]), (0, &50.into()), "{printed}");
    assert!(report["replayed"].as_u64() > Some(4), "{printed}");

    // Without retries it does not learn that the order was placed.
    let (code, printed) = run(&load);
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(code, 1, "{printed}");
    let failed = report["failed"].as_u64().unwrap();
    drop(service);
    let store = format!("file://{}", store.display());
    let (_, printed) = run(&[
        "check",
        "--ledger",
        path(&ledger),
        "--store",
        &store,
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (&report["found"], &report["lost"], &report["unacknowledged"]),
        (&(100 - failed).into(), &0.into(), &failed.into()),
        "{printed}"
    );
    assert_eq!(report["twice"], serde_json::json!([]), "{printed}");
}

#[test]
fn connections_are_reused() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("orders"));
    let proxy = Proxy::open();
    proxy.set_target(service.address);
    let url = format!("http://{}/order", proxy.address);
    let mut load = vec!["run", "--url", &url, "--rate", "400", "--duration", "1s"];
    load.extend(["--connections", "4", "--ledger", "/dev/null"]);
    let (code, printed) = run(&load);
    assert_eq!(
        (code, last(&printed)),
        (0, "orders: placed 400, failed 0; the store was not checked"),
        "{printed}"
    );
    assert_eq!(proxy.connections(), 4);
}

#[test]
fn latency_counts_from_when_an_order_was_due() {
    // Answers one order at a time, 20 ms each, while one is due every 10 ms.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let slow = std::thread::spawn(move || {
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap() == 0 {
                    return;
                }
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let answered = Instant::now() + Duration::from_millis(20);
            while let Some(left) = answered.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"id\":\"x\"}";
            reader.get_mut().write_all(answer).unwrap();
        }
    });
    let mut load = vec!["run", "--url", &url, "--rate", "100", "--duration", "1s"];
    load.extend([
        "--connections",
        "1",
        "--ledger",
        "/dev/null",
        "--timeout",
        "240s",
        "--json",
    ]);
    let (code, printed) = run(&load);
    slow.join().unwrap();
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &report["placed"]), (0, &100.into()), "{printed}");
    let millis = |which: &str, quantile: &str| report[which][quantile].as_f64().unwrap();
    // The hundredth was due after 990 ms and answered after 2000 ms at the earliest.
    assert!(millis("latency_ms", "max") > 1000.0, "{printed}");
    assert!(millis("latency_ms", "p50") > 480.0, "{printed}");
    assert!(
        millis("service_ms", "p50") < millis("latency_ms", "p50"),
        "{printed}"
    );
}

#[test]
fn https_trusts_the_systems_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("orders"));
    let make_certificate = |name: &str| {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-days", "2", "-newkey", "ec", "-nodes"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=shop"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &format!("{name}.key"), "-out", name])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        folder.path().join(name)
    };
    let certificate = make_certificate("shop.pem");
    let untrusted = make_certificate("untrusted.pem");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![CertificateDer::from_pem_file(&certificate).unwrap()],
        PrivateKeyDer::from_pem_file(folder.path().join("shop.pem.key")).unwrap(),
    )
    .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let inner = service.address;
    runtime.spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut outer) = acceptor.accept(stream).await {
                    let mut inner = tokio::net::TcpStream::connect(inner).await.unwrap();
                    // Either side may end it.
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                }
            });
        }
    });
    let load = |trusted: &Path| {
        let output =
            with_long_timeout(&["run", "--url", &url, "--rate", "50", "--duration", "200ms"])
                .args(["--ledger", "/dev/null"])
                .env("SSL_CERT_FILE", trusted)
                .output()
                .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), printed)
    };
    let (code, printed) = load(&certificate);
    assert_eq!(
        (code, last(&printed)),
        (
            Some(0),
            "orders: placed 10, failed 0; the store was not checked"
        ),
        "{printed}"
    );
    let (code, printed) = load(&untrusted);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("failed 10: connect: invalid peer certificate"),
        "{printed}"
    );
}

#[test]
fn failures_count_and_have_their_reason() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    // Nothing listens on port 1.
    let (code, printed) = run(&[
        "run",
        "--url",
        "http://127.0.0.1:1",
        "--rate",
        "100",
        "--duration",
        "100ms",
        "--ledger",
        path(&ledger),
    ]);
    assert_eq!(
        (code, last(&printed)),
        (1, "orders: placed 0, failed 10; the store was not checked"),
        "{printed}"
    );
    assert!(
        printed.contains("failed 10: connect: Connection refused"),
        "{printed}"
    );
    let entries = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(
        entries
            .lines()
            .filter(
                |line| line.starts_with("failed ") && line.contains(" connect: Connection refused")
            )
            .count(),
        10,
        "{entries}"
    );

    let service = Service::start(&folder.path().join("orders"));
    let url = format!("http://{}", service.address);
    let (code, printed) = run(&[
        "run",
        "--url",
        &url,
        "--rate",
        "100",
        "--duration",
        "100ms",
        "--flower",
        "cactus",
        "--ledger",
        path(&ledger),
    ]);
    assert_eq!(code, 1);
    assert!(printed.contains("failed 10: status 422"), "{printed}");
}

#[test]
fn until_stopped_ends_on_either_signal_with_its_result() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("orders"));
    for name in ["TERM", "INT"] {
        let ledger = folder.path().join(name);
        let url = format!("http://{}", service.address);
        let child = with_long_timeout(&["run", "--url", &url, "--rate", "200"])
            .args(["--duration", "until-stopped", "--ledger", path(&ledger)])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let child = Running(child);
        let deadline = Instant::now() + TEST_TIMEOUT;
        let acked = || {
            std::fs::read_to_string(&ledger)
                .unwrap_or_default()
                .lines()
                .filter(|line| line.starts_with("acked "))
                .count()
        };
        while acked() < 20 {
            assert!(Instant::now() < deadline, "it places no orders");
            std::thread::yield_now();
        }
        signal(&child.0, name);
        let (code, printed) = child.outcome();
        assert_eq!(code, Some(0), "{printed}");
        assert!(
            last(&printed).starts_with(&format!("orders: placed {}, failed 0;", acked())),
            "{printed}"
        );
    }
}

#[test]
fn invalid_flags_exit_with_2_and_a_cause() {
    for (args, part) in [
        (
            &["run", "--url", "shop", "--ledger", "/dev/null"][..],
            "has no scheme",
        ),
        (
            &["check", "--ledger", "/nonexistent", "--store", "file:///x"],
            "read the ledger",
        ),
        (&["check", "--ledger", "/dev/null"], "--store <URL>"),
        (&[], "Usage: orders-load"),
    ] {
        let output = orders_load().args(args).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {printed}");
        assert!(printed.contains(part), "{args:?}: {printed}");
    }
}

#[test]
fn help_of_every_verb() {
    for (name, verb) in [
        ("help", &[][..]),
        ("help-run", &["run"]),
        ("help-check", &["check"]),
    ] {
        let output = orders_load()
            .args(verb)
            .arg("--help")
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}");
        insta::assert_snapshot!(name, String::from_utf8_lossy(&output.stdout));
    }
}
