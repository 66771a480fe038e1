//! Parameter Store, load balancing, STS and `moto` over HTTP, as boto3 and the AWS CLI use them.
//!
//! Needs moto, boto3 and the AWS CLI in one Python environment: that of `$REHEARSAL_MOTO`, which
//! `make` sets, or else what is on the path.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use cloud::Cloud;

/// Longer than any killed process takes to end.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn boto3_finds_every_service_as_on_aws() {
    let cloud = Cloud::up(None);
    let sections = ["identity", "parameters", "balancers", "objects", "metrics"];
    cloud.passes("services_protocol.py", &sections);
}

#[test]
fn boto3_gets_access_denied_for_denied_actions() {
    let cloud = Cloud::up(None);
    for action in [
        "ec2:RunInstances",
        "ec2:CreateTags",
        "autoscaling:*",
        "elasticloadbalancing:Describe*",
        "sts:getcalleridentity",
        "ssm:PutParameter",
        "s3:Put*",
        "dynamodb:PutItem",
        "iam:CreateRole",
        "cloudwatch:PutMetricData",
    ] {
        let changed = cloud
            .rehearsal("dial")
            .args([&format!("deny.{action}"), "on"])
            .output()
            .unwrap();
        assert!(changed.status.success(), "{changed:?}");
    }
    cloud.passes("services_protocol.py", &["denied"]);
}

#[test]
fn unsupported_calls_are_refused_by_name() {
    let cloud = Cloud::up(None);
    cloud.passes("services_protocol.py", &["refusals"]);
}

#[test]
fn the_aws_cli_reads_back_what_it_wrote() {
    let cloud = Cloud::up(None);
    cloud.ok(
        "aws",
        &[
            "ssm",
            "put-parameter",
            "--name",
            "/a",
            "--value",
            "1",
            "--type",
            "String",
        ],
    );
    let value = cloud.ok(
        "aws",
        &[
            "ssm",
            "get-parameter",
            "--name",
            "/a",
            "--query",
            "Parameter.Value",
            "--output",
            "text",
        ],
    );
    assert_eq!(value, "1\n");
    cloud.ok("aws", &["s3", "mb", "s3://orders"]);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    cloud.ok("aws", &["s3", "cp", manifest, "s3://orders/a/b"]);
    let copy = cloud.ok("aws", &["s3", "cp", "s3://orders/a/b", "-"]);
    assert_eq!(copy, std::fs::read_to_string(manifest).unwrap());
}

#[test]
fn moto_ends_with_the_daemon_even_when_it_is_killed() {
    let cloud = Cloud::up(None);
    cloud.ok("aws", &["s3", "mb", "s3://orders"]);
    let log = cloud.read("moto.log");
    let (_, port) = log.split_once("http://127.0.0.1:").unwrap();
    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
    let mut connection =
        TcpStream::connect((Ipv4Addr::LOCALHOST, digits.parse().unwrap())).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();

    let note: serde_json::Value = serde_json::from_str(&cloud.read("daemon.json")).unwrap();
    let killed = Command::new("kill")
        .args(["-KILL", &note["pid"].to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    // moto holds the other end, which closes when moto ends.
    let ended = connection.read(&mut [0]);
    assert!(
        !matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            && !matches!(ended, Ok(1..)),
        "{ended:?}"
    );
}

#[test]
fn without_moto_every_protocol_has_an_error_with_a_hint() {
    let cloud = Cloud::up(Some("/no/such/moto_server"));
    for call in [
        ["s3api", "list-buckets"],
        ["dynamodb", "list-tables"],
        ["iam", "list-users"],
    ] {
        let output = cloud.exec("aws", call);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{call:?}");
        assert!(
            message.contains("NotImplemented") && message.contains("pip install 'moto[server]'"),
            "{call:?}: {message}"
        );
    }
}
