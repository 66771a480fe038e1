//! Status, dials, the request log and the admin API of a cloud of puppets, from outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cloud for tests that inject faults.
struct Cloud(cloud::Cloud);

impl Cloud {
    fn up() -> Self {
        Self(cloud::Cloud::of_puppets("sleep infinity"))
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        self.0.rehearsal(verb).args(arguments).output().unwrap()
    }

    /// The only instance's part of the status, once it is in that state.
    fn instance_when(&self, state: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let instance = self.status()["instances"][0].clone();
            if instance["state"] == state {
                return instance;
            }
            assert!(Instant::now() < end, "never {state}: {instance}");
        }
    }

    fn ok(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.run(verb, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {arguments:?}: {message}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error of a command that must fail.
    fn refusal(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.run(verb, arguments);
        assert!(!output.status.success(), "{verb} {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ok("status", &["--json"])).unwrap()
    }

    fn note(&self) -> Value {
        serde_json::from_str(&self.0.read("daemon.json")).unwrap()
    }

    /// One request, and all that comes back until the cloud closes the connection.
    fn send(&self, request: &str) -> String {
        let port = u16::try_from(self.note()["port"].as_u64().unwrap()).unwrap();
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    fn call(&self, service: &str, head: &str, body: &str) -> String {
        self.send(&format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nuser-agent: tester/1 secret\r\n{head}\
             authorization: AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{service}/aws4_request, Signature=s\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn put_parameter(&self, name: &str) -> String {
        self.call(
            "ssm",
            "x-amz-target: AmazonSSM.PutParameter\r\n",
            &format!(r#"{{"Name":"{name}","Value":"hidden","Type":"String"}}"#),
        )
    }

    fn identity(&self) -> String {
        self.call("sts", "", "Action=GetCallerIdentity&Version=2011-06-15")
    }
}

#[test]
fn status_reports_a_cloud_that_is_up_or_down() {
    let cloud = Cloud::up();
    let (status, note) = (cloud.status(), cloud.note());
    assert_eq!(status["up"], true);
    assert_eq!(status["pid"], note["pid"]);
    assert_eq!(status["port"], note["port"]);
    let endpoint = status["endpoint"].as_str().unwrap();
    assert!(cloud.ok("status", &[]).starts_with(endpoint));

    cloud.ok("down", &[]);
    let output = cloud.run("status", &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.ends_with(b": down\n"));
    let output = cloud.run("status", &["--json"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"{\"up\":false}\n");
}

#[test]
fn a_folder_that_is_no_cloud_has_no_status() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
        .arg("status")
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a cloud"));
}

#[test]
fn the_admin_api_requires_the_key_and_no_origin() {
    let cloud = Cloud::up();
    let note = cloud.note();
    let key = note["key"].as_str().unwrap();
    for (head, expected) in [
        (String::new(), "403"),
        ("x-rehearsal-key: guess\r\n".to_owned(), "403"),
        (
            format!("x-rehearsal-key: {key}\r\norigin: http://127.0.0.1\r\n"),
            "403",
        ),
        (format!("x-rehearsal-key: {key}\r\n"), "200"),
    ] {
        let answer = cloud.send(&format!(
            "POST /_rehearsal/down HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}content-length: 0\r\n\r\n"
        ));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{head}: {answer}"
        );
    }
}

#[test]
fn only_the_owner_can_read_the_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let cloud = Cloud::up();
    for file in ["daemon.json", "state.redb", "requests.jsonl"] {
        let metadata = std::fs::metadata(cloud.0.folder().join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{file}");
    }
}

#[test]
fn dials_are_listed_set_and_kept() {
    let cloud = Cloud::up();
    let all = cloud.ok("dial", &[]);
    assert!(all.contains("stall-limit") && all.contains("lose-answers.<service>.<Action>"));
    for (name, value) in [
        ("stall-limit", "90"),
        ("throttle.ec2", "3"),
        ("alarm.too many", "ALARM"),
        ("lose-answers.ssm.PutParameter", "2"),
    ] {
        assert_eq!(
            cloud.ok("dial", &[name, value]),
            format!("{name} is {value}\n"),
            "{name}"
        );
    }
    let changed = |cloud: &Cloud| -> Vec<String> {
        let status = cloud.status();
        let dials = status["dials"].as_array().unwrap();
        dials
            .iter()
            .map(|dial| dial["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let kept = ["stall-limit", "throttle.ec2", "alarm.too many"];
    let all = [&kept[..], &["lose-answers.ssm.PutParameter"]].concat();
    assert_eq!(changed(&cloud), all);
    cloud.ok("down", &[]);
    cloud.0.rise(None, &[]);
    assert_eq!(changed(&cloud), kept);

    for (name, value, expected) in [
        ("stal-limit", "1", "did you mean `stall-limit`?"),
        ("stall-limit", "soon", "takes a number of seconds"),
        ("kill-guest", "i-0", "no machine runs"),
    ] {
        let message = cloud.refusal("dial", &[name, value]);
        assert!(message.contains(expected), "{name} {value}: {message}");
    }
}

#[test]
fn a_throttled_service_has_its_own_error() {
    let cloud = Cloud::up();
    for (service, every, status, code) in [
        ("ec2", "1", "503", "<Code>RequestLimitExceeded</Code>"),
        ("sts", "1", "400", "<Code>Throttling</Code>"),
        ("ssm", "1", "400", "ThrottlingException"),
        ("s3", "1", "503", "<Code>SlowDown</Code>"),
    ] {
        cloud.ok("dial", &[&format!("throttle.{service}"), every]);
        let answer = cloud.call(
            service,
            "x-amz-target: AmazonSSM.GetParameter\r\n",
            if service == "ssm" {
                "{}"
            } else {
                "Action=DescribeImages"
            },
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(code),
            "{service}: {answer}"
        );
    }
    cloud.ok("dial", &["throttle.sts", "2"]);
    let refused = [(); 4].map(|()| cloud.identity().contains("Throttling"));
    assert_eq!(refused, [false, true, false, true]);
}

#[test]
fn a_call_with_a_lost_answer_is_carried_out() {
    let cloud = Cloud::up();
    cloud.ok("dial", &["lose-answers.ssm.PutParameter", "1"]);
    assert_eq!(cloud.put_parameter("/a"), "");
    let again = cloud.put_parameter("/a");
    assert!(again.contains("ParameterAlreadyExists"), "{again}");
}

#[test]
fn the_request_log_has_service_and_action_and_no_secrets() {
    let cloud = Cloud::up();
    cloud.ok("dial", &["lose-answers.ssm.PutParameter", "1"]);
    cloud.put_parameter("/a");
    cloud.put_parameter("/a");
    cloud.identity();
    let request_log = cloud.0.read("requests.jsonl");
    let lines: Vec<Value> = request_log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let message: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["service"].as_str().unwrap(),
                line["action"].as_str().unwrap(),
                line["status"].as_u64(),
                line["error"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        message,
        [
            ("ssm", "PutParameter", None, None),
            (
                "ssm",
                "PutParameter",
                Some(400),
                Some("ParameterAlreadyExists")
            ),
            ("sts", "GetCallerIdentity", Some(200), None),
        ]
    );
    assert!(lines.iter().all(|line| line["agent"] == "tester/1"));
    for secret in ["hidden", "AKIA", "secret", "Signature"] {
        assert!(!request_log.contains(secret), "{secret}: {request_log}");
    }
}

#[test]
fn machines_and_images_are_listed_and_a_guest_can_be_killed() {
    let cloud = Cloud::up();
    let status = cloud.status();
    let image = &status["images"][0];
    assert_eq!(image["owner"], "136693071363");
    assert_eq!(image["state"], "available");
    let image = image["id"].as_str().unwrap();
    let answer = cloud.call(
        "ec2",
        "",
        &format!("Action=RunInstances&ImageId={image}&MinCount=1&MaxCount=1&InstanceType=t3.micro"),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let instance = cloud.instance_when("running");
    assert_eq!(instance["image"], image);
    assert_eq!(instance["type"], "t3.micro");
    let (id, pid) = (instance["id"].as_str().unwrap(), &instance["pid"]);
    let message = cloud.ok("status", &[]);
    for part in [id, image, &format!("process {pid}")] {
        assert!(message.contains(part), "{part}: {message}");
    }

    cloud.ok("dial", &["kill-guest", id]);
    let stopped = cloud.instance_when("stopped");
    assert_eq!(stopped["pid"], Value::Null);

    cloud.ok("dial", &["slow-boot", "3600"]);
    let start = format!("Action=StartInstances&InstanceId.1={id}");
    cloud.call("ec2", "", &start);
    assert_eq!(cloud.instance_when("pending")["pid"], Value::Null);
    cloud.ok("dial", &["slow-boot", "0"]);
    cloud.instance_when("running");
}

#[test]
fn without_descriptors_the_log_stays_short_and_the_cloud_runs() {
    let cloud = Cloud(cloud::Cloud::down());
    let mut up = Command::new("sh");
    let limited = up
        .args(["-c", r#"ulimit -n 48 && exec "$@""#, "sh"])
        .arg(env!("CARGO_BIN_EXE_rehearsal"))
        .arg("up")
        .arg(cloud.0.folder())
        .args(["--port", "0", "--guests", "puppets", "--detach"]);
    assert!(limited.status().unwrap().success());
    let port = u16::try_from(cloud.note()["port"].as_u64().unwrap()).unwrap();
    let complaints = || {
        let log = cloud.0.read("daemon.log");
        log.lines()
            .filter(|line| line.contains("cannot be accepted"))
            .count()
    };
    let end = Instant::now() + PATIENCE;
    // The system takes connections for it that it cannot take itself.
    let mut open = Vec::new();
    while complaints() == 0 {
        open.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
        assert!(Instant::now() < end, "{} connections", open.len());
    }
    drop(open);
    assert!(cloud.identity().contains("<Account>"));
    // One a minute.
    let most = 2 + usize::try_from((Instant::now() + PATIENCE - end).as_secs() / 60).unwrap();
    assert!(complaints() <= most, "{} complaints", complaints());
}

#[test]
fn the_proxy_connects_to_all_hosts_but_aws() {
    let cloud = Cloud::up();
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    let aws = "ec2.us-east-1.amazonaws.com:443";
    let close = "host: x\r\nconnection: close\r\n";
    let refused = cloud.send(&connect(aws).replace("host: ", &format!("{close}x: ")));
    let (line, _) = refused.split_once("\r\n").unwrap();
    assert!(
        line.starts_with(
            "HTTP/1.1 403 rehearsal exec: ec2.us-east-1.amazonaws.com is the real AWS"
        ),
        "{refused}"
    );

    let other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = other.local_addr().unwrap();
    let port = u16::try_from(cloud.note()["port"].as_u64().unwrap()).unwrap();
    let mut here = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    here.write_all(connect(&target.to_string()).as_bytes())
        .unwrap();
    let (mut there, _) = other.accept().unwrap();
    there.write_all(b"hello").unwrap();
    drop(there);
    let mut answer = String::new();
    here.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );

    let script = r#"echo "$HTTPS_PROXY $https_proxy $NO_PROXY $AWS_EC2_METADATA_DISABLED""#;
    let mut exec = cloud.0.rehearsal("exec");
    exec.args(["--", "sh", "-c", script]);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        exec.env_remove(name);
    }
    exec.env("NO_PROXY", "*");
    let proxy = format!("http://127.0.0.1:{port}");
    let message = String::from_utf8(exec.output().unwrap().stdout).unwrap();
    let expected = format!("{proxy} {proxy} localhost,127.0.0.1,::1,127.0.0.0/8 true\n");
    assert_eq!(message, expected);
}

#[test]
fn a_body_that_ends_early_is_an_incomplete_body() {
    let cloud = Cloud::up();
    let port = u16::try_from(cloud.note()["port"].as_u64().unwrap()).unwrap();
    for service in ["ec2", "iam"] {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{service}/aws4_request, Signature=s\r\n\
             content-length: 100\r\n\r\nAction="
        );
        connection.write_all(head.as_bytes()).unwrap();
    }
    let end = Instant::now() + PATIENCE;
    let named = || {
        let request_log = cloud.0.read("requests.jsonl");
        request_log.matches("\"IncompleteBody\"").count()
    };
    while named() < 2 {
        assert!(Instant::now() < end, "{}", cloud.0.read("requests.jsonl"));
    }
}

#[test]
fn a_dry_run_creates_no_key() {
    let cloud = Cloud::up();
    let asked = "Action=CreateKeyPair&KeyName=k&KeyType=ed25519";
    let dry = cloud.call("ec2", "", &format!("{asked}&DryRun=true"));
    assert!(dry.contains("<Code>DryRunOperation</Code>"), "{dry}");
    let made = cloud.call("ec2", "", asked);
    assert!(made.contains("<keyMaterial>"), "{made}");
    let again = cloud.call("ec2", "", &format!("{asked}&DryRun=true"));
    assert!(again.contains("InvalidKeyPair.Duplicate"), "{again}");

    cloud.ok("down", &[]);
    let mut without_programs = cloud.0.rehearsal("up");
    without_programs
        .args(["--port", "0", "--guests", "puppets", "--detach"])
        .env("PATH", "/nowhere");
    assert!(without_programs.status().unwrap().success());
    let other = "Action=CreateKeyPair&KeyName=other";
    let made = cloud.call("ec2", "", other);
    assert!(made.contains("run ssh-keygen"), "{made}");
    let dry = cloud.call("ec2", "", &format!("{other}&DryRun=true"));
    assert!(dry.contains("<Code>DryRunOperation</Code>"), "{dry}");
}
