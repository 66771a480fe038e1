//! Kill -9 under load, over every store: what was acknowledged is there, and nothing is there twice.
//!
//! Two loads at once, on a service that is killed again and again: one tries every order until it is
//! placed, under one idempotency key; the other takes the first answer, or none, for what it is.
//!
//! Each has few connections: a busy machine then makes orders wait with the loads, and not pile up in the
//! service and its store until all of them are too late.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::front::Front;
use crate::moto::Moto;
use crate::servers::{Kind, Server};
use crate::support::{PATIENCE, Running, Service, orders, signal};

/// How often the service is killed.
const KILLS: usize = 4;

/// A store about to be proven, and how a command reaches it.
struct Place<'a> {
    store: String,
    reach: &'a dyn Fn(&mut Command),
    /// Orders a second of each load.
    rate: u32,
    /// Of these, how many may be under way at once.
    connections: u32,
    /// Orders acknowledged between two kills.
    between: usize,
}

/// A load being driven at the front.
struct Load {
    child: Running,
    ledger: PathBuf,
}

impl Load {
    fn start(front: &Front, ledger: PathBuf, place: &Place<'_>, retries: u32) -> Self {
        let child = orders()
            .args(["load", "--url", &format!("http://{}", front.address)])
            .args(["--rate", &place.rate.to_string(), "--arrivals", "poisson"])
            .args(["--connections", &place.connections.to_string()])
            // Whoever is killed is noticed at once; whoever is slow is waited for.
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

    /// How many orders were acknowledged so far.
    fn acked(&self) -> usize {
        self.count(|line| line.starts_with("acked "))
    }

    /// How many were sent so far and failed.
    fn failed(&self) -> usize {
        self.count(|line| line.starts_with("failed ") && !line.ends_with("not sent"))
    }

    /// Stops it; its exit code and its result.
    fn stop(self) -> (i32, serde_json::Value) {
        signal(&self.child.0, "TERM");
        let (code, said) = self.child.outcome();
        (code.unwrap(), serde_json::from_str(&said).unwrap())
    }
}

/// What a check of `ledger` says, with its exit code. On a busy machine the list may take a store longer than
/// the service waits for it; then there is no answer yet, neither good nor bad.
fn check(ledger: &Path, how: &[&str], reach: &dyn Fn(&mut Command)) -> (i32, serde_json::Value) {
    let mut answer = None;
    wait_until("the orders could not be looked up", || {
        let mut command = orders();
        command.args(["check", "--json", "--ledger"]).arg(ledger);
        reach(command.args(how));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let result: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        let is_one = !result["found"].is_null();
        answer = Some((output.status.code().unwrap(), result));
        is_one
    });
    answer.unwrap()
}

/// Waits until `done`, as long as a busy machine may need.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        // Leaves the two processors to those who are waited for.
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

fn survives_kills(place: &Place<'_>) {
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
    let front = Front::open();
    let mut service = serve();
    front.lead_to(service.address);
    let patient = Load::start(&front, folder.path().join("patient"), place, 1000);
    let rash = Load::start(&front, folder.path().join("rash"), place, 0);
    let acked = || patient.acked() + rash.acked();
    for kill in 0..=KILLS {
        let enough = acked() + place.between;
        wait_until("too few orders were placed", || acked() >= enough);
        if kill < KILLS {
            service.signal("KILL");
            assert!(!service.ended().success());
            let felt = rash.failed() + 1;
            wait_until("no order met the dead service", || rash.failed() >= felt);
            service = serve();
            front.lead_to(service.address);
        }
    }

    let ledgers = [patient.ledger.clone(), rash.ledger.clone()];
    let (code, result) = rash.stop();
    assert!(code == 0 || code == 1, "{result}");
    let (code, result) = patient.stop();
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
    survives_kills(&Place {
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
    survives_kills(&Place {
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
    survives_kills(&Place {
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
    survives_kills(&Place {
        store: format!("sqlite://{}/orders.db", folder.path().display()),
        reach: &|_| {},
        rate: 100,
        connections: 16,
        between: 100,
    });
}

fn sql_loses_nothing(kind: Kind) {
    let server = Server::start(kind);
    survives_kills(&Place {
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
