//! moto, a local server for S3 and DynamoDB, for the tests of the built binary.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::answer;

/// A running server; stops when dropped.
pub(crate) struct Moto {
    child: Child,
    address: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    pub(crate) fn start() -> Self {
        let mut child = program()
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("moto does not start: {error}\nhint: run `make setup`"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("Running on http://")?.1.trim().to_owned()))
            .expect("moto ended before it listened");
        // Its log must be read, or it blocks when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Configures a command to use it.
    pub(crate) fn reach(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_REGION", "eu-north-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
    }

    /// Creates a bucket.
    pub(crate) fn make_bucket(&self, name: &str) {
        let body = "<CreateBucketConfiguration><LocationConstraint>eu-north-1\
                    </LocationConstraint></CreateBucketConfiguration>";
        self.ask(&format!("PUT /{name}"), "s3", "", body);
    }

    /// Creates a table for orders.
    pub(crate) fn make_table(&self, name: &str) {
        let body = format!(
            r#"{{"TableName":"{name}","BillingMode":"PAY_PER_REQUEST","AttributeDefinitions":[
                {{"AttributeName":"pk","AttributeType":"S"}},{{"AttributeName":"sk","AttributeType":"S"}}],
                "KeySchema":[{{"AttributeName":"pk","KeyType":"HASH"}},{{"AttributeName":"sk","KeyType":"RANGE"}}]}}"#
        );
        let header = "content-type: application/x-amz-json-1.0\r\n\
                      x-amz-target: DynamoDB_20120810.CreateTable\r\n";
        self.ask("POST /", "dynamodb", header, &body);
    }

    fn ask(&self, what: &str, service: &str, header: &str, body: &str) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        // It reads service and region from the signature and does not verify it.
        write!(
            stream,
            "{what} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{header}authorization: \
             AWS4-HMAC-SHA256 Credential=test/20260101/eu-north-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=0\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let answer = answer(&mut stream).expect("an answer of moto's");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// `tests/moto_in_turn.py`, run by the Python that has moto: the installed one, else that in `PATH`.
fn program() -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set_up = here.join("../.cache/venv/bin/python3");
    let mut command = match std::env::var_os("ORDERS_TEST_MOTO") {
        Some(moto) => Command::new(Path::new(&moto).with_file_name("python3")),
        None if set_up.exists() => Command::new(set_up),
        None => Command::new("python3"),
    };
    command.arg(here.join("tests/moto_in_turn.py"));
    command
}
