//! The file store under the built binary: a file that cannot grow, a deleted one, one that two processes
//! want, clean and unclean ends.

use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Answer, Service, TEST_TIMEOUT, kept, operated, orders, orders_load};

const JSON: &str = "application/json";

/// Places an order that is large enough to fill a file soon.
pub(crate) fn place_large(service: &Service) -> Answer {
    let mut order = serde_json::json!({"name":"Ada","address":"1 Row","flower":"spring_tulips"});
    for field in 0..16 {
        order[format!("card{field}")] = "x".repeat(500).into();
    }
    service.ask("POST", "/order", JSON, order.to_string().as_bytes())
}

pub(crate) fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Limits the service's files to `bytes`; no limit if `None`.
pub(crate) fn limit_files(service: &Service, bytes: Option<u64>) {
    let pid = Pid::from_child(&service.child);
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(pid), Resource::Fsize, limit).unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_refuses_orders_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    // Without this the limit would kill it by a signal, while a full disk is an error.
    let mut command = std::process::Command::new("env");
    let plain = orders();
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .args(["--ignore-signal=XFSZ"])
        .arg(plain.get_program());
    command.arg("--store");
    command.arg(format!("file://{}", folder.path().display()));
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let mut acked = vec![service.place()];
    let file = folder.path().join("orders.redb");
    let size = std::fs::metadata(&file).unwrap().len();
    limit_files(&service, Some(size));
    let refused = loop {
        let answer = place_large(&service);
        if answer.status != 200 {
            break answer;
        }
        acked.push(id(&answer));
        assert!(acked.len() < 100_000, "it never refused");
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.head.contains("retry-after: "), "{refused:?}");
    service.wait_for("File too large");
    limit_files(&service, None);
    wait_until("it never accepted orders again", || {
        let answer = place_large(&service);
        answer.status == 200
    });
    wait_until("it never reported ready", || {
        service.ask("GET", "/gtg", "", b"").status == 200
    });
    for id in &acked {
        let found = service.ask("GET", &format!("/order/{id}"), "", b"");
        assert_eq!(found.status, 200, "order {id} is lost");
    }
    drop(service);
    let kept = kept(folder.path());
    assert!(acked.iter().all(|id| kept.contains(id)));
}

#[test]
fn a_deleted_folder_is_reported_and_orders_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (folder.path().join("here"), folder.path().join("away"));
    let mut command = operated(orders(), folder.path());
    command.args(["--store", &format!("file://{}", here.display())]);
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let first = service.place();
    std::fs::rename(&here, &away).unwrap();
    let refused = place_large(&service);
    assert_eq!(refused.status, 503, "{refused:?}");
    wait_until("it never reported the failure", || {
        service
            .ask_as_operator("/gtg?details")
            .body
            .contains("was deleted while it was in use")
    });
    assert!(!here.exists(), "nothing was begun in its place");
    std::fs::rename(&away, &here).unwrap();
    wait_until("it never reported ready", || {
        service.ask("GET", "/gtg", "", b"").status == 200
    });
    let second = service.place();
    drop(service);
    assert_eq!(kept(&here), [first, second]);
}

#[test]
fn a_second_process_is_refused_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("orders");
    let ledger = folder.path().join("ledger");
    let service = Service::start(&place);
    let load = orders_load()
        .args(["run", "--rate", "20", "--duration", "100ms", "--url"])
        .arg(format!("http://{}/", service.address))
        .arg("--ledger")
        .arg(&ledger)
        .output()
        .unwrap();
    assert_eq!(load.status.code(), Some(0), "{load:?}");
    let check = || {
        let mut command = orders_load();
        command.args(["check", "--ledger"]).arg(&ledger);
        command.args(["--store", &format!("file://{}", place.display())]);
        command.output().unwrap()
    };
    let refused = check();
    let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{printed}");
    assert!(printed.contains("another process has it open"), "{printed}");
    assert!(printed.contains("hint: stop it"), "{printed}");
    drop(service);
    let found = check();
    assert_eq!(found.status.code(), Some(0), "{found:?}");
}

#[test]
fn only_an_unclean_end_needs_a_repair() {
    let folder = tempfile::tempdir().unwrap();
    for (signal, printed) in [
        ("TERM", "store opened"),
        ("KILL", "store opened"),
        ("TERM", "store opened and repaired after an unclean end"),
    ] {
        let mut command = orders();
        command.args(["--store", &format!("file://{}", folder.path().display())]);
        let mut service = Service::spawn(command);
        let opened = service.wait_for("store opened");
        assert_eq!(opened["message"], printed, "{opened}");
        service.wait_for("taking orders into");
        service.place();
        service.signal(signal);
        service.ended();
    }
    assert_eq!(kept(folder.path()).len(), 3);
}
