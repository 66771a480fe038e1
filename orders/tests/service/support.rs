//! Starts the service and sends it raw HTTP, so that no client library changes what is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use orders::order::OrderId;
use orders::store::{FileStore, Store};

/// Time limit for everything here, even on a busy machine.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The service, isolated from this machine's settings and from instance metadata.
pub(crate) fn orders() -> Command {
    let mut command = isolated("orders");
    // No lame-duck time by default.
    command.env("ORDERS_LAME_DUCK_SECONDS", "0");
    command
}

/// The load generator, isolated likewise.
pub(crate) fn orders_load() -> Command {
    isolated("orders-load")
}

fn isolated(name: &str) -> Command {
    let mut command = Command::new(program(name));
    for (name, _) in std::env::vars() {
        if name.starts_with("AWS_") || name.starts_with("ORDERS_") {
            command.env_remove(name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// A program of this workspace: its folder contains `deps/`, where this test's own program is.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.parent().and_then(Path::parent).expect("a folder");
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is missing\nhint: cargo build --workspace",
        program.display()
    );
    program
}

const OPERATOR: &str = "operator-0123456789";

/// Adds an operator token, stored in `folder`.
pub(crate) fn operated(mut command: Command, folder: &Path) -> Command {
    let file = folder.join("operator-token");
    std::fs::write(&file, OPERATOR).expect("write the token");
    command.env("ORDERS_OPERATOR_TOKEN_FILE", file);
    command
}

/// A child process; killed when dropped, also when the test fails.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Waits until it exits; returns its exit code and stdout, which must be piped.
    pub(crate) fn outcome(mut self) -> (Option<i32>, String) {
        let mut printed = String::new();
        let stdout = self.0.stdout.as_mut().expect("stdout is piped");
        stdout.read_to_string(&mut printed).expect("UTF-8");
        (self.0.wait().expect("wait").code(), printed)
    }
}

/// A running service; killed when dropped.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    log: Receiver<serde_json::Value>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Starts it with its orders in `folder` and waits until it accepts orders.
    pub(crate) fn start(folder: &Path) -> Self {
        let mut command = orders();
        command.args(["--store", &format!("file://{}", folder.display())]);
        let service = Self::spawn(command);
        service.wait_for("taking orders into");
        service
    }

    /// Starts `command` on a free port and waits until it listens.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("start orders");
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| line.into());
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut service = Self {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            log,
        };
        let listening = service.wait_for("listening");
        service.address = listening["address"]
            .as_str()
            .expect("address")
            .parse()
            .expect("address");
        service
    }

    /// Waits for a log line that contains `text`.
    pub(crate) fn wait_for(&self, text: &str) -> serde_json::Value {
        loop {
            let line = self.log.recv_timeout(TEST_TIMEOUT);
            let line = line.unwrap_or_else(|_| panic!("the log never contained {text:?}"));
            if line.to_string().contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits until it has exited.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().expect("wait")
    }

    /// Opens a connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream
            .set_read_timeout(Some(TEST_TIMEOUT))
            .expect("timeout");
        stream
    }

    /// Sends one request and returns the response.
    pub(crate) fn ask(&self, method: &str, path: &str, media: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let media = if media.is_empty() {
            String::new()
        } else {
            format!("content-type: {media}\r\n")
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{media}\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("send head");
        // A service that refuses may close before it has read everything.
        let _ = stream.write_all(body);
        answer(&mut stream).expect("an answer")
    }

    /// Reads the whole order of a response, with its receipt.
    pub(crate) fn order(&self, placed: &serde_json::Value) -> serde_json::Value {
        let text = |name: &str| placed[name].as_str().expect(name).to_owned();
        self.order_by(&text("id"), &text("receipt_secret"))
    }

    /// Reads the whole order.
    pub(crate) fn order_by(&self, id: &str, receipt: &str) -> serde_json::Value {
        let mut stream = self.connect();
        let head = format!(
            "GET /order/{id} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\
             authorization: Bearer {receipt}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("send head");
        let answer = answer(&mut stream).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Sends an operator's request for `path`; the service must be [`operated`].
    pub(crate) fn ask_as_operator(&self, path: &str) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\
             authorization: Bearer {OPERATOR}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("send head");
        answer(&mut stream).expect("an answer")
    }

    /// Places an order and returns its id.
    pub(crate) fn place(&self) -> String {
        let answer = self.ask("POST", "/order", "application/json", ORDER.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().expect("id").to_owned()
    }
}

pub(crate) const ORDER: &str = r#"{"name":"Ada","address":"1 Rose Row","flower":"spring_tulips"}"#;

/// Sends a signal by name to a child of ours.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(status.expect("kill").success());
}

/// A parsed response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Reads a response up to the end of the connection; `None` if there is none.
pub(crate) fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A reset after the response is harmless.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    })
}

/// The ids of the orders in a file store's folder. The service must have exited, since only one process can
/// open it.
pub(crate) fn kept(folder: &Path) -> Vec<String> {
    let store = FileStore::new(folder.to_owned()).expect("a store");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            let first = OrderId::from_bytes([0; 16]);
            let orders = store.list(first, usize::MAX).await.expect("the orders");
            store.close().await;
            orders.iter().map(|order| order.id.to_string()).collect()
        })
}
