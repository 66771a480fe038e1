//! The embedded store under the built binary: a file that may not grow, one that vanishes, one that two
//! want, a clean end and an unclean one.

use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Answer, PATIENCE, Service, kept, operated, orders};

const JSON: &str = "application/json";

/// Places an order large enough to fill a file soon.
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

/// Lets the service's files grow to `bytes` at most; no limit when there is none.
pub(crate) fn limit_files(service: &Service, bytes: Option<u64>) {
    let pid = Pid::from_child(&service.child);
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(pid), Resource::Fsize, limit).unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_cannot_grow_refuses_and_goes_on_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    // Else the limit would end it by a signal, where a full disk is an error.
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
    wait_until("it never took orders again", || {
        let answer = place_large(&service);
        answer.status == 200
    });
    wait_until("it never said that it works", || {
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
fn a_vanished_folder_is_said_and_refused() {
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
    wait_until("it never said so", || {
        service
            .ask_as_operator("/gtg?details")
            .body
            .contains("was deleted while it was in use")
    });
    assert!(!here.exists(), "nothing was begun in its place");
    std::fs::rename(&away, &here).unwrap();
    wait_until("it never said that it works", || {
        service.ask("GET", "/gtg", "", b"").status == 200
    });
    let second = service.place();
    drop(service);
    assert_eq!(kept(&here), [first, second]);
}

#[test]
fn only_one_process_has_it_open_and_the_other_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("orders");
    let ledger = folder.path().join("ledger");
    let service = Service::start(&place);
    let load = orders()
        .args(["load", "--rate", "20", "--duration", "100ms", "--url"])
        .arg(format!("http://{}/", service.address))
        .arg("--ledger")
        .arg(&ledger)
        .output()
        .unwrap();
    assert_eq!(load.status.code(), Some(0), "{load:?}");
    let check = || {
        let mut command = orders();
        command.args(["check", "--ledger"]).arg(&ledger);
        command.args(["--store", &format!("file://{}", place.display())]);
        command.output().unwrap()
    };
    let refused = check();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another process has it open"), "{said}");
    assert!(said.contains("hint: stop it"), "{said}");
    drop(service);
    let found = check();
    assert_eq!(found.status.code(), Some(0), "{found:?}");
}

#[test]
fn a_clean_end_leaves_nothing_to_mend_and_an_unclean_one_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (signal, said) in [
        ("TERM", "store opened"),
        ("KILL", "store opened"),
        ("TERM", "store opened and repaired after an unclean end"),
    ] {
        let mut command = orders();
        command.args(["--store", &format!("file://{}", folder.path().display())]);
        let mut service = Service::spawn(command);
        let opened = service.wait_for("store opened");
        assert_eq!(opened["message"], said, "{opened}");
        service.wait_for("taking orders into");
        service.place();
        service.signal(signal);
        service.ended();
    }
    assert_eq!(kept(folder.path()).len(), 3);
}
