//! EC2 and Auto Scaling over HTTP, as boto3 and Packer use them.
//!
//! Needs boto3 in the Python environment of `$REHEARSAL_MOTO`, which `make` sets, or on the path; and
//! Packer on the path.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;

use cloud::Cloud;

#[test]
fn boto3_finds_machines_images_and_disks_as_on_aws() {
    Cloud::up(None).passes("ec2_protocol.py", &[]);
}

#[test]
fn boto3_finds_groups_hooks_and_refreshes_as_on_aws() {
    Cloud::up(None).passes("autoscaling_protocol.py", &[]);
}

#[test]
fn packer_bakes_an_image_and_cleans_up() {
    let cloud = Cloud::up(None);
    let note: serde_json::Value = serde_json::from_str(&cloud.read("daemon.json")).unwrap();
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packer.json");
    let output = cloud
        .rehearsal("exec")
        .args(["--", "packer", "build", "-color=false", "-var"])
        .arg(format!("endpoint=http://127.0.0.1:{}", note["port"]))
        .arg(template)
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}");

    let ask = |arguments: &[&str]| cloud.ok("aws", arguments);
    let images =
        "Images[].[Name,Description,State,Tags[0].Value,BlockDeviceMappings[0].Ebs.VolumeSize]";
    let baked = ask(&[
        "ec2",
        "describe-images",
        "--owners",
        "self",
        "--output",
        "text",
        "--query",
        images,
    ]);
    assert_eq!(baked, "baked\tby packer\tavailable\tshop\t10\n");
    for (what, left) in [
        ("describe-volumes", "Volumes[].VolumeId"),
        ("describe-key-pairs", "KeyPairs[].KeyName"),
        (
            "describe-security-groups",
            "SecurityGroups[?GroupName!=`default`].GroupId",
        ),
        (
            "describe-instances",
            "Reservations[].Instances[?State.Name!=`terminated`].InstanceId",
        ),
    ] {
        let found = ask(&["ec2", what, "--query", left, "--output", "text"]);
        assert_eq!(found.trim(), "", "{what}");
    }
}
