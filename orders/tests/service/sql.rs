//! The SQL stores under the built binary: a file that cannot grow, a server that stops and restarts.

use std::time::Instant;

use crate::files::{id, limit_files, place_large};
use crate::servers::{Kind, PASSWORD, Server};
use crate::support::{Service, TEST_TIMEOUT, orders};

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn are_there(service: &Service, acked: &[String]) {
    for id in acked {
        let found = service.ask("GET", &format!("/order/{id}"), "", b"");
        assert_eq!(found.status, 200, "order {id} is lost");
    }
}

#[test]
fn a_sqlite_file_that_cannot_grow_refuses_orders() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite://{}/orders.db", folder.path().display());
    // Without this the limit would kill it by a signal, while a full disk is an error.
    let plain = orders();
    let mut command = std::process::Command::new("env");
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .arg("--ignore-signal=XFSZ")
        .arg(plain.get_program())
        .args(["--store", &store]);
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let mut acked = vec![service.place()];
    limit_files(&service, Some(256 * 1024));
    let refused = loop {
        let answer = place_large(&service);
        if answer.status != 200 {
            break answer;
        }
        acked.push(id(&answer));
        assert!(acked.len() < 10_000, "it never refused");
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.head.contains("retry-after: "), "{refused:?}");
    limit_files(&service, None);
    wait_until("it never accepted orders again", || {
        place_large(&service).status == 200
    });
    wait_until("it never reported ready", || {
        service.ask("GET", "/gtg", "", b"").status == 200
    });
    are_there(&service, &acked);
    drop(service);
    let mut command = orders();
    command.args(["--store", &store]);
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    are_there(&service, &acked);
}

#[test]
fn a_database_outage_is_reported_and_loses_nothing() {
    for kind in [Kind::MariaDb, Kind::Postgres] {
        let mut server = Server::start(kind);
        let mut command = orders();
        command
            .args(["--store", &server.url_at(server.port())])
            .env("ORDERS_STORE_PASSWORD_FILE", server.password_file())
            .env("ORDERS_STORE_TLS", "off");
        let service = Service::spawn(command);
        service.wait_for("taking orders into");
        let mut acked = vec![service.place()];
        server.kill();
        let refused = place_large(&service);
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.head.contains("retry-after: "), "{refused:?}");
        assert!(!refused.body.contains(PASSWORD), "{refused:?}");
        // On a busy machine the first probe may only report a timeout.
        while !{
            let printed = service.wait_for("the store failed its probe").to_string();
            assert!(!printed.contains(PASSWORD), "{printed}");
            printed.contains("connect to")
        } {}
        wait_until("it never reported the failure", || {
            service.ask("GET", "/gtg", "", b"").status == 503
        });
        server.start_again();
        wait_until("it never reported ready", || {
            service.ask("GET", "/gtg", "", b"").status == 200
        });
        acked.push(service.place());
        are_there(&service, &acked);
    }
}
