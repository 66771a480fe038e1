//! Notices with the built binary: an order is published to a topic, and a topic that does not respond delays
//! no order and loses no notice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use crate::support::{Service, TEST_TIMEOUT, operated, orders};

const TOPIC: &str = "arn:aws:sns:eu-north-1:123456789012:order-notices";

/// A server that responds 200 to every post; returns its endpoint and the bodies.
fn topic() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || {
                while let Some(body) = take_post(&stream) {
                    if sender.send(body).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (endpoint, received)
}

fn take_post(mut stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .ok()?;
    String::from_utf8(body).ok()
}

fn with_topic(folder: &Path, endpoint: &str) -> Command {
    let mut command = orders();
    command
        .args(["--store", &format!("file://{}", folder.display())])
        .env("ORDERS_NOTICES_TOPIC", TOPIC)
        .env("AWS_ENDPOINT_URL_SNS", endpoint)
        .env("AWS_REGION", "eu-north-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    command
}

#[test]
fn a_notice_has_no_customer_data() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, received) = topic();
    let service = Service::spawn(with_topic(folder.path(), &endpoint));
    service.wait_for("taking orders into");
    let id = service.place();
    let body = received.recv_timeout(TEST_TIMEOUT).expect("a notice");
    assert!(body.starts_with("Action=Publish&"), "{body}");
    assert!(body.contains(&id), "{body}");
    for secret in ["Ada", "Rose"] {
        assert!(!body.contains(secret), "{body}");
    }
}

#[test]
fn a_topic_that_does_not_respond_delays_no_order() {
    let folder = tempfile::tempdir().unwrap();
    // It listens and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let command = operated(with_topic(folder.path(), &endpoint), folder.path());
    let mut service = Service::spawn(command);
    service.wait_for("taking orders into");
    for _ in 0..50 {
        service.place();
    }
    let metrics = service.ask_as_operator("/metrics").body;
    let waiting = metrics
        .lines()
        .find_map(|line| line.strip_prefix("orders_notices_waiting "))
        .and_then(|count| count.parse().ok());
    // Eight are in progress, plus eight for each time that the first ones timed out meanwhile.
    assert!(waiting.is_some_and(|count: u32| count >= 10), "{metrics}");
    service.signal("TERM");
    service.wait_for("some notices were not sent");
    assert_eq!(service.ended().code(), Some(0));
}
