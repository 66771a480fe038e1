//! Kills, stops and disk failures: accepted orders are stored, others are refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::time::Instant;

use crate::support::{ORDER, Service, TEST_TIMEOUT, answer, kept, operated, orders};

/// Places orders on one connection until it breaks; records the id of each that was answered.
fn place_until_broken(mut stream: TcpStream, acked: &Mutex<Vec<String>>) {
    let request = format!(
        "POST /order HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{ORDER}",
        ORDER.len()
    );
    let mut seen = Vec::new();
    while stream.write_all(request.as_bytes()).is_ok() {
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if let Some((_, rest)) = text.split_once(r#"{"id":""#)
                && let Some((id, rest)) = rest.split_once('"')
                && rest.ends_with('}')
            {
                assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                acked.lock().unwrap().push(id.to_owned());
                seen.clear();
                break;
            }
            let mut piece = [0; 1024];
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => seen.extend_from_slice(&piece[..count]),
            }
        }
    }
}

#[test]
fn kill_9_under_load_loses_no_accepted_order() {
    let folder = tempfile::tempdir().unwrap();
    let acked = Mutex::new(Vec::new());
    for round in 1..=4 {
        let mut service = Service::start(folder.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let stream = service.connect();
                scope.spawn(|| place_until_broken(stream, &acked));
            }
            let deadline = Instant::now() + TEST_TIMEOUT;
            while acked.lock().unwrap().len() < round * 100 {
                assert!(Instant::now() < deadline, "too few orders were accepted");
                std::thread::yield_now();
            }
            service.signal("KILL");
        });
        assert!(!service.ended().success());
    }
    let service = Service::start(folder.path());
    let mut acked = acked.into_inner().unwrap();
    let placed = acked.len();
    acked.sort();
    acked.dedup();
    assert_eq!(acked.len(), placed, "no id was given twice");
    for id in acked {
        let found = service.ask("GET", &format!("/order/{id}"), "", b"");
        assert_eq!(found.status, 200, "order {id} is lost");
    }
}

#[test]
fn sigterm_finishes_requests_and_exits_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path());
    let idle = service.connect();
    let mut half = service.connect();
    // With Expect, 100 Continue shows when the service has begun with this request.
    write!(
        half,
        "POST /order HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        ORDER.len()
    )
    .unwrap();
    let mut go_on = [0; 25];
    half.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    service.signal("TERM");
    service.wait_for("finishing the requests in progress");
    let deadline = Instant::now() + TEST_TIMEOUT;
    while TcpStream::connect(service.address).is_ok() {
        assert!(Instant::now() < deadline, "it still accepts connections");
    }
    half.write_all(ORDER.as_bytes()).unwrap();
    let answer = answer(&mut half).expect("the order under way is answered");
    assert_eq!(answer.status, 200, "{answer:?}");
    service.wait_for("every request in progress was answered");
    assert_eq!(service.ended().code(), Some(0));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(kept(folder.path()), [id]);
    drop(idle);
}

/// Clients that keep their connections, and a stop without deregistration.
#[test]
fn sigterm_lets_clients_use_their_connections_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orders();
    command.env("ORDERS_LAME_DUCK_SECONDS", "300");
    command.args(["--store", &format!("file://{}", folder.path().display())]);
    let mut service = Service::spawn(command);
    service.wait_for("taking orders into");
    let ask = |stream: &mut TcpStream| {
        let head = "POST /order HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n";
        write!(
            stream,
            "{head}content-length: {}\r\n\r\n{ORDER}",
            ORDER.len()
        )
        .unwrap();
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('}') {
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {text}");
            text.push(char::from(byte[0]));
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        text.to_lowercase().contains("connection: close")
    };
    let mut clients: Vec<TcpStream> = (0..48).map(|_| service.connect()).collect();
    for client in &mut clients {
        assert!(!ask(client));
    }
    service.signal("TERM");
    service.wait_for("finishing the requests in progress");
    assert_eq!(service.ask("GET", "/gtg", "", b"").status, 503);
    for client in &mut clients {
        assert!(ask(client), "the response closes the connection");
    }
    assert_eq!(service.ask("GET", "/order", "", b"").status, 200);
    // Skips the lame-duck time of five minutes.
    service.signal("INT");
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn a_stop_has_a_time_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orders();
    command.args(["--drain-seconds", "0", "--store"]);
    command.arg(format!("file://{}", folder.path().display()));
    let mut service = Service::spawn(command);
    let mut stuck = service.connect();
    write!(
        stuck,
        "POST /order HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    )
    .unwrap();
    stuck.read_exact(&mut [0; 25]).unwrap();
    service.signal("TERM");
    service.wait_for("some requests were cut off");
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn an_unusable_folder_is_reported_and_used_when_restored() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("orders");
    std::fs::write(&place, b"a file where a folder should be").unwrap();
    let mut command = operated(orders(), folder.path());
    command.args(["--store", &format!("file://{}", place.display())]);
    let service = Service::spawn(command);
    service.wait_for("the store does not work");
    assert_eq!(service.ask("GET", "/gtg", "", b"").status, 503);
    let details = service.ask_as_operator("/gtg?details").json();
    assert!(
        details["detail"]
            .as_str()
            .unwrap()
            .contains("create the folder"),
        "{details}"
    );
    let refused = service.ask("POST", "/order", "application/json", ORDER.as_bytes());
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 2"), "{refused:?}");
    assert!(
        !refused.body.contains(place.to_str().unwrap()),
        "{refused:?}"
    );
    std::fs::remove_file(&place).unwrap();
    service.wait_for("taking orders into");
    assert_eq!(service.ask("GET", "/gtg", "", b"").status, 200);
    service.place();
}

#[test]
fn systemd_gets_readiness_and_status() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let mut command = orders();
    command.env("NOTIFY_SOCKET", &path);
    command.args([
        "--store",
        &format!("file://{}/orders", folder.path().display()),
    ]);
    let service = Service::spawn(command);
    // Everything received so far, up to and including `text`. The store may be ready before the first message
    // is sent, so the split into messages may vary; the order may not.
    let mut printed = String::new();
    let mut read_until = |text: &str| {
        while !printed.contains(text) {
            let mut piece = [0; 4096];
            let count = socket
                .recv(&mut piece)
                .unwrap_or_else(|_| panic!("{text} is not in {printed}"));
            printed.push_str(&String::from_utf8_lossy(&piece[..count]));
            printed.push('\n');
        }
        printed.clone()
    };
    assert!(read_until("STATUS=").starts_with("READY=1\n"));
    read_until("STATUS=taking orders into file://");
    service.signal("TERM");
    let all = read_until("STOPPING=1");
    assert!(all.find("STATUS=taking") < all.find("STOPPING=1"), "{all}");
}
