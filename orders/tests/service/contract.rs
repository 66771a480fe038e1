//! The contract of `docs/orders.md`, line by line.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use crate::support::{ORDER, Service, kept, orders};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A request, and what its response must have.
struct Row<'a> {
    method: &'a str,
    path: &'a str,
    media: &'a str,
    body: &'a [u8],
    status: u16,
    /// A part of the body; the whole of it if empty.
    part: &'a str,
}

fn row<'a>(method: &'a str, path: &'a str, status: u16, part: &'a str) -> Row<'a> {
    Row {
        method,
        path,
        media: "",
        body: b"",
        status,
        part,
    }
}

fn get<'a>(path: &'a str, status: u16, part: &'a str) -> Row<'a> {
    row("GET", path, status, part)
}

fn order<'a>(media: &'a str, body: &'a [u8], status: u16, part: &'a str) -> Row<'a> {
    Row {
        media,
        body,
        ..row("POST", "/order", status, part)
    }
}

#[test]
fn every_request_gets_its_documented_response() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let huge = format!(r#"{{"name":"{}"}}"#, "x".repeat(40_000));
    let deep = format!(r#"{{"name":{}1"#, "[".repeat(5000));
    let (huge, deep) = (huge.as_bytes(), deep.as_bytes());
    let good = ORDER.as_bytes();
    let form = b"name=A+B&address=%C3%85&flower=spring_tulips";
    let unknown = "/order/01a1fa53-de62-772a-801d-28f5e714e855";
    let outside = "/order/..%2f..%2fetc%2fpasswd";
    let missing = r#"{"field":"name","message":"is missing"}"#;
    for expected in [
        get("/order", 200, "Order endpoint OK"),
        get("/gtg", 200, ""),
        row("HEAD", "/gtg", 200, ""),
        get("/gtg?details", 200, r#""connected":"true""#),
        get("/gtg?details=", 200, r#""instance-id":"unknown""#),
        get("/gtg?x=1&details=true", 200, r#""connected":"true""#),
        get("/gtg?detailss", 200, ""),
        get("/version", 200, r#"{"version":""#),
        get("/", 200, "<title>Flower shop</title>"),
        get("/shop.js", 200, "use strict"),
        get("/shop.css", 200, "--rose"),
        order(JSON, good, 200, r#""message":"Order received""#),
        order("Application/JSON; charset=utf-8", good, 200, "\"id\""),
        order("application/x+json", good, 200, "\"id\""),
        order(FORM, form, 200, "\"id\""),
        order("", good, 415, "send application/json or"),
        order("text/plain", good, 415, "send application/json or"),
        order(JSON, b"", 400, "is not JSON"),
        order(JSON, b"{\"name\":", 400, "is not JSON"),
        order(JSON, b"{\"a\":NaN}", 400, "is not JSON"),
        order(JSON, b"{\"name\":\"\xff\"}", 400, "is not JSON"),
        order(JSON, deep, 400, "recursion limit"),
        order(
            JSON,
            br#"{"name":"A","name":"B"}"#,
            400,
            "duplicate field `name`",
        ),
        order(FORM, b"name=A&name=B", 400, "duplicate field `name`"),
        order(FORM, b"name=\xff", 400, "not UTF-8"),
        order(FORM, b"name=%ff", 400, "not UTF-8"),
        order(JSON, b"null", 422, "must be a JSON object"),
        order(JSON, b"[1,2]", 422, "must be a JSON object"),
        order(JSON, b"{}", 422, missing),
        order(JSON, huge, 413, "at most 32768 bytes"),
        row("PUT", "/order", 405, "PUT is not allowed"),
        get("/order/", 404, "no such path"),
        get(outside, 404, "no order with this id"),
        get(unknown, 404, "no order with"),
    ] {
        check(&service, &expected);
    }
    assert!(
        service
            .ask("PUT", "/order", "", b"")
            .head
            .contains("allow: ")
    );
    drop(service);
    assert_eq!(kept(folder.path()).len(), 4, "refused ones left nothing");
}

fn check(service: &Service, row: &Row<'_>) {
    let Row {
        method,
        path,
        media,
        body,
        status,
        part,
    } = *row;
    let answer = service.ask(method, path, media, body);
    let body = String::from_utf8_lossy(body);
    let asked = format!("{method} {path} {media} {body:.60}");
    assert_eq!(answer.status, status, "{asked}: {answer:?}");
    if status >= 400 {
        let problem = "content-type: application/problem+json";
        assert!(answer.head.contains(problem), "{asked}: {answer:?}");
        assert_eq!(answer.json()["status"], status, "{asked}");
    }
    if part.is_empty() {
        assert_eq!(answer.body, "", "{asked}");
    }
    assert!(
        answer.body.contains(part),
        "{asked}: {part} is not in {answer:?}"
    );
    assert!(answer.head.contains("x-request-id: "), "{asked}");
    let is_closed = !answer.head.contains("access-control-");
    assert!(is_closed, "{asked}: CORS is closed");
}

#[test]
fn an_order_is_returned_as_it_was_placed() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let body =
        r#"{"name":" Åsa ","address":"1 Row\nTown","flower":"blossom_mix","card":"Hi","qty":2}"#;
    let placed = service.ask("POST", "/order", JSON, body.as_bytes()).json();
    let id = placed["id"].as_str().unwrap();
    let order = service.order(&placed);
    assert_eq!(order["id"], id);
    assert_eq!(order["name"], "Åsa");
    assert_eq!(order["address"], "1 Row\nTown");
    assert_eq!((&order["card"], &order["qty"]), (&"Hi".into(), &2.into()));
    drop(service);
    assert_eq!(kept(folder.path()), [id]);
}

#[test]
fn only_a_valid_request_id_of_the_caller_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    for (sent, kept) in [("Root=1-67891233-abc", true), ("a b<script>", false)] {
        let mut stream = service.connect();
        write!(
            stream,
            "GET /version HTTP/1.1\r\nhost: s\r\nconnection: close\r\nx-request-id: {sent}\r\n\r\n"
        )
        .unwrap();
        let answer = crate::support::answer(&mut stream).unwrap();
        let printed = format!("x-request-id: {}\r\n", sent.to_lowercase());
        assert_eq!(answer.head.contains(&printed), kept, "{answer:?}");
    }
}

#[test]
fn the_page_has_a_strict_policy() {
    let folder = tempfile::tempdir().unwrap();
    let head = Service::start(folder.path()).ask("GET", "/", "", b"").head;
    for part in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "nosniff",
        "no-referrer",
    ] {
        assert!(head.contains(part), "{part} is not in {head}");
    }
    assert!(!head.contains("unsafe"), "{head}");
}

#[test]
fn the_log_has_no_customers_data() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let secret = ORDER.replace("Ada", "Geheimnis");
    let placed = service.ask("POST", "/order", JSON, secret.as_bytes());
    assert_eq!(service.order(&placed.json())["name"], "Geheimnis");
    service.ask(
        "POST",
        "/order",
        JSON,
        secret.replace("tulips", "weed").as_bytes(),
    );
    service.ask("GET", "/Geheimnis?Geheimnis", "", b"");
    service.signal("TERM");
    loop {
        let line = service.wait_for("").to_string();
        assert!(!line.contains("Geheimnis"), "{line}");
        assert!(!line.contains("shop_receipt_"), "{line}");
        if line.contains("stopped; every request") {
            break;
        }
    }
}

#[test]
fn the_instance_id_is_read_in_the_background() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = orders();
    command
        .args(["--store", &format!("file://{}", folder.path().display())])
        .env_remove("AWS_EC2_METADATA_DISABLED")
        .env(
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            format!("http://{}", listener.local_addr().unwrap()),
        );
    // It listens and responds while the metadata service is silent.
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let details = || service.ask("GET", "/gtg?details", "", b"").json();
    assert_eq!(details()["instance-id"], "unknown");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            loop {
                let head: Vec<String> = reader
                    .by_ref()
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|l| !l.is_empty())
                    .collect();
                let Some(first) = head.first() else { break };
                let with_token = head
                    .iter()
                    .any(|l| l.eq_ignore_ascii_case("x-aws-ec2-metadata-token: T"));
                let body = match first.as_str() {
                    "PUT /latest/api/token HTTP/1.1" => "T",
                    "GET /latest/meta-data/instance-id HTTP/1.1" if with_token => "i-0abc",
                    _ => "wrong",
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    use std::io::Read;
    let deadline = std::time::Instant::now() + crate::support::TEST_TIMEOUT;
    while details()["instance-id"] != "i-0abc" {
        assert!(std::time::Instant::now() < deadline, "{}", details());
    }
}

#[test]
fn invalid_settings_exit_with_2_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.toml");
    std::fs::write(&file, "stroe = 'x'\n").unwrap();
    let file = file.to_str().unwrap();
    let table = [
        (
            vec!["--config", file],
            2,
            "unknown key `stroe`\nhint: did you mean `store`?",
        ),
        (
            vec!["--store", "here"],
            2,
            "hint: write file:///var/lib/orders, s3://",
        ),
        (vec!["--lisen", "x"], 2, "--listen"),
        (vec!["--listen", "192.0.2.1:1"], 1, "listen on 192.0.2.1:1"),
    ];
    for (args, code, part) in table {
        let output = orders().args(&args).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {printed}");
        assert!(printed.contains(part), "{args:?}: {printed}");
    }
}

#[test]
fn moved_verbs_are_refused_by_name() {
    for (args, expected) in [
        (
            &["load", "--url", "http://127.0.0.1:1", "--ledger", "l"][..],
            "error: `orders load` is not part of the service any more\n\
             hint: run `orders-load run` with the same flags\n",
        ),
        (
            &["check", "--help"],
            "error: `orders check` is not part of the service any more\n\
             hint: run `orders-load check` with the same flags\n",
        ),
    ] {
        let output = orders().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(printed, expected, "{args:?}");
    }
}

#[test]
fn the_help_page() {
    let output = orders()
        .arg("--help")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success());
    insta::assert_snapshot!("help", String::from_utf8_lossy(&output.stdout));
}
