//! Starts the service and speaks HTTP to it by hand, so that nothing between hides what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use orders::order::OrderId;
use orders::store::{FileStore, Store};

/// Nothing here takes this long, however busy the machine; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, away from this machine's own settings and from any instance metadata.
pub(crate) fn orders() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
    for (name, _) in std::env::vars() {
        if name.starts_with("AWS_") || name.starts_with("ORDERS_") {
            command.env_remove(name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    // Nobody is to be waited for, but where a test says so.
    command.env("ORDERS_LAME_DUCK_SECONDS", "0");
    command
}

const OPERATOR: &str = "operator-0123456789";

/// Gives the service an operator, whose token lies in `folder`.
pub(crate) fn operated(mut command: Command, folder: &Path) -> Command {
    let file = folder.join("operator-token");
    std::fs::write(&file, OPERATOR).expect("write the token");
    command.env("ORDERS_OPERATOR_TOKEN_FILE", file);
    command
}

/// A child of ours; it is killed with this value, also when the test fails.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Waits until it ends by itself; its exit code and what it said on stdout, which must be piped.
    pub(crate) fn outcome(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let stdout = self.0.stdout.as_mut().expect("stdout is piped");
        stdout.read_to_string(&mut said).expect("UTF-8");
        (self.0.wait().expect("wait").code(), said)
    }
}

/// A running service; it is killed with this value.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    log: Receiver<serde_json::Value>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Starts it with its orders in `folder` and waits until it takes orders.
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
        let (tell, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| line.into());
                if tell.send(line).is_err() {
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

    /// Waits for a line of the log that contains `text`.
    pub(crate) fn wait_for(&self, text: &str) -> serde_json::Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("the log never said {text:?}"));
            if line.to_string().contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().expect("wait")
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    }

    /// One request and its answer.
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
        // A service that refuses may close before it has read all.
        let _ = stream.write_all(body);
        answer(&mut stream).expect("an answer")
    }

    /// The whole of the order that an answer is about, by its receipt.
    pub(crate) fn order(&self, placed: &serde_json::Value) -> serde_json::Value {
        let text = |name: &str| placed[name].as_str().expect(name).to_owned();
        self.order_by(&text("id"), &text("receipt_secret"))
    }

    /// The whole of an order.
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

    /// What an operator's request for `path` is answered; the service was given [`operated`].
    pub(crate) fn ask_as_operator(&self, path: &str) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\
             authorization: Bearer {OPERATOR}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("send head");
        answer(&mut stream).expect("an answer")
    }

    /// Places an order and gives its id.
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

/// An answer, taken apart.
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

/// Reads an answer up to the end of the connection; `None` when there is none.
pub(crate) fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A reset after the answer loses nothing of it.
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

/// The ids of the orders in a store's folder. Only for one process at a time: the service must have
/// ended.
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
