//! Kill -9 under load, for every store: every acknowledged order is stored exactly once.
//!
//! Two loads at once, on a service that is killed again and again: one retries every order with one
//! idempotency key until it is placed; the other never retries.
//!
//! Each has few connections: on a busy machine orders then wait in the load generators, and do not pile up in
//! the service and its store until all of them time out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::moto::Moto;
use crate::proxy::Proxy;
use crate::servers::{Kind, Server};
use crate::support::{Running, Service, TEST_TIMEOUT, orders, orders_load, signal};

/// How often the service is killed.
const KILLS: usize = 4;

/// A store to test, and how a command reaches it.
struct TestedStore<'a> {
    store: String,
    reach: &'a dyn Fn(&mut Command),
    /// Orders per second of each load.
    rate: u32,
    /// Connections of each load.
    connections: u32,
    /// Orders acknowledged between two kills.
    between: usize,
}

/// A load that runs against the proxy.
struct Load {
    child: Running,
    ledger: PathBuf,
}

impl Load {
    fn start(proxy: &Proxy, ledger: PathBuf, place: &TestedStore<'_>, retries: u32) -> Self {
        let child = orders_load()
            .args(["run", "--url", &format!("http://{}", proxy.address)])
            .args(["--rate", &place.rate.to_string(), "--arrivals", "poisson"])
            .args(["--connections", &place.connections.to_string()])
            // A killed service is noticed at once; a slow one is waited for.
            .args(["--timeout", "60s"])
            .args(["--duration", "until-stopped", "--json"])
            .args(["--retries", &retries.to_string(), "--ledger"])
            .arg(&ledger)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let child = Running(child);
        Self { child, ledger }
    }

    fn count(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        let ledger = std::fs::read_to_string(&self.ledger).unwrap_or_default();
        ledger.lines().filter(|line| is_meant(line)).count()
    }

    /// Acknowledged orders so far.
    fn acked(&self) -> usize {
        self.count(|line| line.starts_with("acked "))
    }

    /// Orders that were sent and failed so far.
    fn failed(&self) -> usize {
        self.count(|line| line.starts_with("failed ") && !line.ends_with("not sent"))
    }

    /// Stops it; returns its exit code and result.
    fn stop(self) -> (i32, serde_json::Value) {
        signal(&self.child.0, "TERM");
        let (code, printed) = self.child.outcome();
        (code.unwrap(), serde_json::from_str(&printed).unwrap())
    }
}

/// The result of a check of `ledger`, with its exit code. On a busy machine the service may time out while
/// reading the list; then the check is repeated.
fn check(ledger: &Path, how: &[&str], reach: &dyn Fn(&mut Command)) -> (i32, serde_json::Value) {
    let mut answer = None;
    wait_until("the orders could not be looked up", || {
        let mut command = orders_load();
        command.args(["check", "--json", "--ledger"]).arg(ledger);
        reach(command.args(how));
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        let result: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{printed}"));
        let is_one = !result["found"].is_null();
        answer = Some((output.status.code().unwrap(), result));
        is_one
    });
    answer.unwrap()
}

/// Waits until `done`, as long as a busy machine may need.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * TEST_TIMEOUT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        // Leaves the CPUs to the other processes.
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

fn survives_kills(place: &TestedStore<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "the operator's own token\n").unwrap();
    let serve = || {
        let mut command = orders();
        command
            .args(["--store", &place.store])
            .env("ORDERS_LOG", "info")
            .env("ORDERS_OPERATOR_TOKEN_FILE", &token);
        (place.reach)(&mut command);
        let service = Service::spawn(command);
        service.wait_for("taking orders into");
        service
    };
    let proxy = Proxy::open();
    let mut service = serve();
    proxy.set_target(service.address);
    let retrying = Load::start(&proxy, folder.path().join("retrying"), place, 1000);
    let single = Load::start(&proxy, folder.path().join("single"), place, 0);
    let acked = || retrying.acked() + single.acked();
    for kill in 0..=KILLS {
        let enough = acked() + place.between;
        wait_until("too few orders were placed", || acked() >= enough);
        if kill < KILLS {
            service.signal("KILL");
            assert!(!service.ended().success());
            let failures = single.failed() + 1;
            wait_until("no order met the dead service", || {
                single.failed() >= failures
            });
            service = serve();
            proxy.set_target(service.address);
        }
    }

    let ledgers = [retrying.ledger.clone(), single.ledger.clone()];
    let (code, result) = single.stop();
    assert!(code == 0 || code == 1, "{result}");
    let (code, result) = retrying.stop();
    assert_eq!((code, &result["failed"]), (0, &0.into()), "{result}");

    let url = format!("http://{}", service.address);
    let token = token.to_str().unwrap();
    let through_the_service = ["--url", &url, "--operator-token-file", token];
    let in_the_store = ["--store", &place.store];
    for how in [&through_the_service[..], &in_the_store[..]] {
        if how == in_the_store {
            service.signal("KILL");
            assert!(!service.ended().success());
        }
        for ledger in &ledgers {
            let (code, result) = check(ledger, how, place.reach);
            assert_eq!(result["lost"], 0, "{ledger:?} {how:?}: {result}");
            assert_eq!(
                result["twice"],
                serde_json::json!([]),
                "{ledger:?} {how:?}: {result}"
            );
            assert_eq!(
                result["found"], result["placed"],
                "{ledger:?} {how:?}: {result}"
            );
            assert!(code < 2, "{code}");
        }
    }
}

#[test]
fn files_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    survives_kills(&TestedStore {
        store: format!("file://{}/orders", folder.path().display()),
        reach: &|_| {},
        rate: 100,
        connections: 16,
        between: 100,
    });
}

#[test]
fn s3_loses_nothing() {
    let moto = Moto::start();
    moto.make_bucket("shop");
    survives_kills(&TestedStore {
        store: "s3://shop/orders".to_owned(),
        reach: &|command| moto.reach(command),
        rate: 5,
        connections: 4,
        between: 20,
    });
}

#[test]
fn dynamodb_loses_nothing() {
    let moto = Moto::start();
    moto.make_table("shop-orders");
    survives_kills(&TestedStore {
        store: "dynamodb://shop-orders".to_owned(),
        reach: &|command| moto.reach(command),
        rate: 5,
        connections: 4,
        between: 20,
    });
}

#[test]
fn sqlite_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    survives_kills(&TestedStore {
        store: format!("sqlite://{}/orders.db", folder.path().display()),
        reach: &|_| {},
        rate: 100,
        connections: 16,
        between: 100,
    });
}

fn sql_loses_nothing(kind: Kind) {
    let server = Server::start(kind);
    survives_kills(&TestedStore {
        store: server.url_at(server.port()),
        reach: &|command| {
            command
                .env("ORDERS_STORE_TLS", "off")
                .env("ORDERS_STORE_PASSWORD_FILE", server.password_file());
        },
        rate: 25,
        connections: 8,
        between: 50,
    });
}

#[test]
fn mariadb_loses_nothing() {
    sql_loses_nothing(Kind::MariaDb);
}

#[test]
fn postgresql_loses_nothing() {
    sql_loses_nothing(Kind::Postgres);
}
