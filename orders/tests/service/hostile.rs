//! Malicious input over real sockets: each has its response, memory stays bounded, and other clients are
//! served.
//!
//! Exact time limits are tested on a paused clock in `orders/src/server/tests.rs`; this tests the built
//! binary and its real limits.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Answer, ORDER, Service, answer};

const JSON: &str = "application/json";

/// Sends raw `bytes`; returns the response, if there is one.
fn raw(service: &Service, bytes: &[u8]) -> Option<Answer> {
    let mut stream = service.connect();
    // A service that refuses may close before it has read everything.
    let _ = stream.write_all(bytes);
    answer(&mut stream)
}

/// Resident memory in KiB.
fn resident(service: &Service) -> u64 {
    let path = format!("/proc/{}/status", service.child.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next();
    number.unwrap().parse().unwrap()
}

/// A connection with an incomplete request for an order.
fn opened(service: &Service, length: &str) -> TcpStream {
    let mut stream = service.connect();
    write!(
        stream,
        "POST /order HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
    )
    .unwrap();
    stream
}

#[test]
fn a_huge_body_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let before = resident(&service);
    for (length, piece) in [
        ("content-length: 1000000000", "x".repeat(8000)),
        (
            "transfer-encoding: chunked",
            format!("1f40\r\n{}\r\n", "x".repeat(8000)),
        ),
    ] {
        let mut stream = opened(&service, length);
        // Until it is refused, far below the announced length.
        let sent = (0..2000).take_while(|_| stream.write_all(piece.as_bytes()).is_ok());
        let sent = sent.count();
        let mut printed = [0; 12];
        let read = stream.read_exact(&mut printed);
        assert!(sent < 2000 || read.is_ok(), "{length}: it read it all");
        if read.is_ok() {
            assert_eq!(&printed, b"HTTP/1.1 413", "{length}");
        }
    }
    // A client that waits for 100 Continue, like curl, gets the refusal instead.
    let mut stream = opened(
        &service,
        "expect: 100-continue\r\ncontent-length: 1000000000",
    );
    let refused = answer(&mut stream).unwrap();
    assert_eq!(refused.status, 413, "{refused:?}");
    let grown = resident(&service).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB for bodies that were refused");
    service.place();
}

#[test]
fn slow_bodies_and_heads_are_refused_while_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let begun = Instant::now();
    let mut body = opened(&service, "content-length: 60");
    body.write_all(b"{\"name\":").unwrap();
    let mut head = service.connect();
    head.write_all(b"GET /gtg HTTP/1.1\r\nhost: ").unwrap();
    service.place();
    assert_eq!(service.ask("GET", "/gtg", "", b"").status, 200);
    for (slow, mut stream) in [("body", body), ("head", head)] {
        let refused = answer(&mut stream).unwrap();
        assert_eq!(refused.status, 408, "{slow}: {refused:?}");
        assert!(
            refused.head.contains("application/problem+json"),
            "{slow}: {refused:?}"
        );
        assert_eq!(refused.json()["status"], 408, "{slow}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(9), "too soon");
}

#[test]
fn floods_of_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let before = resident(&service);
    let many = "x-a: b\r\n".repeat(1000);
    let long = format!("x-a: {}\r\n", "b".repeat(100_000));
    let path = format!("/{}", "a".repeat(100_000));
    for (path, headers) in [("/gtg", &many), ("/gtg", &long), (&*path, &String::new())] {
        for _ in 0..20 {
            let request = format!("GET {path} HTTP/1.1\r\nhost: s\r\n{headers}\r\n");
            let refused = raw(&service, request.as_bytes()).expect("an answer");
            assert!([414, 431].contains(&refused.status), "{refused:?}");
        }
    }
    // Many heads that never end, each just below the limit: they cost their own size only.
    let mut halves: Vec<_> = (0..200).map(|_| service.connect()).collect();
    for half in &mut halves {
        write!(half, "GET / HTTP/1.1\r\nx-a: {}", "b".repeat(15_000)).unwrap();
    }
    service.place();
    let grown = resident(&service).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for 200 heads");
}

#[test]
fn invalid_http_is_refused_and_smuggles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let length = ORDER.len();
    let order = format!("host: s\r\ncontent-type: {JSON}");
    let table: Vec<(Vec<u8>, &[u16])> = vec![
        (b"HELO mail.example\r\n\r\n".to_vec(), &[400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[]),
        (b"GET / HTTP/9.9\r\nhost: s\r\n\r\n".to_vec(), &[400, 505]),
        (b"GET /a b HTTP/1.1\r\nhost: s\r\n\r\n".to_vec(), &[400]),
        (b"GET / HTTP/1.1\r\nhost: s\r\nx: a\0b\r\n\r\n".to_vec(), &[400]),
        (b"GET / HTTP/1.1\r\nhost: s\r\nx y: z\r\n\r\n".to_vec(), &[400]),
        (
            format!("POST /order HTTP/1.1\r\n{order}\r\ncontent-length: {length}\r\ncontent-length: 3\r\n\r\n{ORDER}")
                .into_bytes(),
            &[400],
        ),
        (
            format!("POST /order HTTP/1.1\r\n{order}\r\ncontent-length: -1\r\n\r\n{ORDER}").into_bytes(),
            &[400],
        ),
        (
            format!("POST /order HTTP/1.1\r\n{order}\r\ntransfer-encoding: chunked, gzip\r\n\r\n{ORDER}")
                .into_bytes(),
            &[400],
        ),
        (
            format!("POST /order HTTP/1.1\r\n{order}\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{ORDER}\r\n0\r\n\r\n")
                .into_bytes(),
            &[400],
        ),
        (
            b"CONNECT evil.example:443 HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n".to_vec(),
            &[400, 404, 405],
        ),
    ];
    for (bytes, statuses) in table {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let Some(refused) = raw(&service, &bytes) else {
            // HTTP/2 gets no HTTP/1.1 response.
            assert!(statuses.is_empty(), "no answer to {shown:?}");
            continue;
        };
        assert!(statuses.contains(&refused.status), "{shown:?}: {refused:?}");
        assert!(!refused.body.contains("received"), "{shown:?}: {refused:?}");
    }
    // Length and chunks together: RFC 9112 requires the chunks or an error. A second request that a reader by
    // the length would see must not be answered.
    let both = format!(
        "POST /order HTTP/1.1\r\n{order}\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /version HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n"
    );
    let mut stream = service.connect();
    stream.write_all(both.as_bytes()).unwrap();
    let answered = answer(&mut stream).unwrap();
    assert_eq!(answered.status, 400, "{answered:?}");
    service.place();
}

#[test]
fn ambiguous_bodies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let with = |field: &str| ORDER.replace("\"Ada\"", field).into_bytes();
    let table: Vec<(Vec<u8>, u16)> = vec![
        (with("NaN"), 400),
        (with("Infinity"), 400),
        (with("-Infinity"), 400),
        (with("1e999"), 400),
        (with("\"A\",\"name\":\"B\""), 400),
        (with("\"A\",\"n\\u0061me\":\"B\""), 400),
        (with("\"\\ud800\""), 400),
        (with("\"a\\u0000b\""), 422),
        (with("\"a\u{202e}b\""), 200),
        (with("{\"a\":{\"a\":{}}}"), 422),
        (b"{\"name\":\"\xff\xfe\"}".to_vec(), 400),
        (b"\xef\xbb\xbf{}".to_vec(), 400),
        ([ORDER.as_bytes(), b"{}"].concat(), 400),
        ([ORDER.as_bytes(), b"\0"].concat(), 400),
        ("[".repeat(30_000).into_bytes(), 400),
        (b"\"name\"".to_vec(), 422),
    ];
    for (body, status) in table {
        let answered = service.ask("POST", "/order", JSON, &body);
        let shown = String::from_utf8_lossy(&body);
        assert_eq!(answered.status, status, "{shown:.80}: {answered:?}");
    }
}

#[test]
fn no_path_leads_out_of_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    std::fs::write(folder.path().join("secret.json"), "{\"name\":\"secret\"}").unwrap();
    for path in [
        "/order/../secret",
        "/order/..%2fsecret",
        "/order/%2e%2e/secret",
        "/order/secret",
        "/order/secret.json",
        "/order/secret%00",
        "/order/%2fetc%2fpasswd",
        "/order//etc/passwd",
        "//order/secret",
        "/./order/secret",
        "/shop.css/../../etc/passwd",
        "/..",
        "/%",
        "/%zz",
        "/order/%ff%fe",
        "/order/00000000-0000-0000-0000-00000000000g",
        "/order/..\\..\\secret",
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n").into_bytes();
        let answered = raw(&service, &request).unwrap_or_else(|| panic!("no answer to {path}"));
        assert!(
            [400, 404].contains(&answered.status),
            "{path}: {answered:?}"
        );
        assert!(!answered.body.contains("secret\""), "{path}: {answered:?}");
        assert!(!answered.body.contains("root:"), "{path}: {answered:?}");
    }
    // A request in proxy form uses the path of its URL, nothing else.
    let proxied =
        b"GET http://evil.example/version HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(&service, proxied).unwrap().status, 200);
}

#[test]
fn ten_thousand_idle_connections_are_cheap() {
    const COUNT: usize = 10_000;
    /// Below the limit of active connections and the listen queue.
    const AT_ONCE: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    // Before the test raises its own limit: the service must raise its own.
    let service = Service::start(folder.path());
    let resource = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(resource);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        hard >= 20_000,
        "the limit on open files is {hard}\nhint: ulimit -Hn 65536"
    );
    limit.current = Some(hard.min(20_000));
    rustix::process::setrlimit(resource, limit).unwrap();

    service.place();
    let before = resident(&service);
    let per = |after: u64| after.saturating_sub(before) * 1024 / COUNT as u64;
    let mut idle = Vec::new();
    for _ in 0..COUNT / AT_ONCE {
        idle.extend((0..AT_ONCE).map(|_| service.connect()));
        // The last one is served, so all were accepted: none waits for the kernel to retry.
        assert_eq!(service.ask("GET", "/gtg", "", b"").status, 200);
    }
    service.place();
    assert_eq!(service.ask("GET", "/gtg", "", b"").status, 200);
    let silent = per(resident(&service));
    assert!(silent < 3 * 1024, "{silent} bytes each for the silent");

    // After a request each releases its buffers. Many at once, since one after the other would take a busy
    // machine longer than the idle limit.
    for some in idle.chunks_mut(AT_ONCE) {
        for stream in &mut *some {
            stream
                .write_all(b"GET /gtg HTTP/1.1\r\nhost: s\r\n\r\n")
                .unwrap();
        }
        for stream in some {
            let mut printed = [0; 12];
            stream.read_exact(&mut printed).unwrap();
            assert_eq!(&printed, b"HTTP/1.1 200");
        }
    }
    service.place();
    let asked = resident(&service);
    println!("{before} KiB, {silent} bytes for a silent one; {asked} KiB once all have asked");
    // The limit in the shop's unit.
    assert!(asked < 128 * 1024, "{asked} KiB once all have asked");
}
