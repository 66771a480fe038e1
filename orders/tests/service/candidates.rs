//! The candidate service's client, with its sequence of calls, against the built binary.

use crate::support::{Service, orders};

#[test]
fn the_seeds_client_is_served_and_no_name_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = orders();
        command
            .args(["--store", &format!("file://{}", folder.path().display())])
            .env("ORDERS_CANDIDATES", "embedded");
        let service = Service::spawn(command);
        service.wait_for("taking orders into");
        service
    };
    let mut service = start();
    let name = "/candidate/Geheimnis%20Smith";
    assert_eq!(service.ask("GET", "/gtg", "", b"").status, 200);
    assert_eq!(service.ask("GET", "/candidates", "", b"").status, 404);
    for body in [&b""[..], b"party=ind", &[b'x'; 100_000]] {
        let kept = service.ask("POST", name, "application/x-www-form-urlencoded", body);
        assert_eq!(kept.status, 200, "{} bytes", body.len());
        assert_eq!(kept.body, "{\"CandidateName\":\"Geheimnis Smith\"}\n");
    }
    let one = service.ask("GET", name, "", b"");
    assert_eq!(one.status, 200);
    assert_eq!(one.body, "[{\"CandidateName\": \"Geheimnis Smith\"}]");
    assert!(one.head.contains("content-type: text/html"), "{one:?}");
    let all = service.ask("GET", "/candidates", "", b"");
    assert_eq!((all.status, &all.body), (200, &one.body));
    service.signal("TERM");
    loop {
        let line = service.wait_for("").to_string();
        assert!(!line.contains("Geheimnis"), "{line}");
        if line.contains("stopped; every request") {
            break;
        }
    }
    assert!(service.ended().success());
    // They are stored.
    let all = start().ask("GET", "/candidates", "", b"");
    assert_eq!((all.status, all.body), (200, one.body));
}

#[test]
fn candidates_are_off_by_default() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let answer = service.ask("GET", "/candidates", "", b"");
    assert_eq!(answer.status, 404);
    assert!(
        answer.head.contains("application/problem+json"),
        "{answer:?}"
    );
}
