//! The process host, with puppets of a few lines of shell.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::*;
use crate::ids::InstanceId;
use crate::imds_source::ImdsFacts;

/// Far longer than a shell takes; only a broken test meets it.
const PATIENCE: Duration = Duration::from_secs(120);

struct OnlyOne;

impl ImdsSource for OnlyOne {
    fn facts(&self, instance_id: &InstanceId) -> Option<ImdsFacts> {
        Some(ImdsFacts {
            instance_id: instance_id.to_owned(),
            image_id: "ami-1".into(),
            instance_type: "t3.micro".to_owned(),
            region: "us-east-1".to_owned(),
            zone: "us-east-1a".to_owned(),
            account_id: "123456789012".to_owned(),
            private_ip: "127.76.0.9".to_owned(),
            architecture: "x86_64".to_owned(),
            pending_time: "2026-01-01T00:00:00Z".to_owned(),
            user_data: Vec::new(),
            public_keys: BTreeMap::new(),
            role: None,
            target_lifecycle_state: None,
            spot: false,
            notices: crate::imds_source::Notices::default(),
            tags: None,
            tokens_required: false,
            endpoint_port: 4800,
        })
    }
}

/// An address that is this test's and this process's: metadata is served there at one port. No cloud has it.
fn address(test: u8) -> Ipv4Addr {
    let [low, high, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, 200 + test, high, low)
}

/// A host of puppets that run `script`, and one guest of it.
fn fixture(script: &str, test: u8) -> (tempfile::TempDir, Arc<dyn VmHost>, GuestSpec) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("puppet");
    test_support::write_program(&program, &format!("#!/bin/sh\n{script}\n"));
    let kind = HostKind::Puppets {
        command: Some(program.display().to_string()),
    };
    let host = open(&kind, folder.path(), Arc::new(OnlyOne)).unwrap();
    let guest = GuestSpec {
        id: "i-1".into(),
        address: address(test),
        ports: Vec::new(),
        vcpus: 1,
        memory_mib: 64,
        disk: folder.path().join("none"),
        firmware: Firmware::Uefi,
        imds: folder.path().join("imds.sock"),
        image_id: "ami-1".into(),
        emulated: false,
    };
    (folder, host, guest)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

fn output(host: &Arc<dyn VmHost>) -> String {
    String::from_utf8_lossy(&host.console(&"i-1".into())).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puppet_gets_its_identity_and_powers_off_on_request() {
    let script = r#"trap 'echo bye; exit 0' TERM
echo "$REHEARSAL_INSTANCE_ID $REHEARSAL_IMAGE_ID $REHEARSAL_ADDRESS $AWS_ENDPOINT_URL key=$AWS_ACCESS_KEY_ID"
tail -f /dev/null & wait"#;
    let (_folder, host, guest) = fixture(script, 0);
    assert_eq!(host.state(&"i-1".into()), GuestState::Absent);
    host.start(&guest).unwrap();
    until("the puppet speaks", || output(&host).contains('\n')).await;
    let address = guest.address;
    assert_eq!(
        output(&host),
        format!("i-1 ami-1 {address} http://127.0.0.1:4800 key=\n")
    );
    assert_eq!(host.state(&"i-1".into()), GuestState::Running);
    assert!(host.pid(&"i-1".into()).is_some());
    host.forget(&"i-1".into());
    assert_eq!(
        host.state(&"i-1".into()),
        GuestState::Running,
        "a running guest is not forgotten"
    );
    host.power_off(&"i-1".into());
    until("it powers off", || {
        host.state(&"i-1".into()) == GuestState::PoweredOff
    })
    .await;
    assert!(output(&host).ends_with("bye\n"));
    assert!(host.pid(&"i-1".into()).is_none());
    host.start(&guest).unwrap();
    until("it starts again", || {
        output(&host).matches("ami-1").count() == 2
    })
    .await;
    host.kill(&"i-1".into());
    until("it is killed", || {
        host.state(&"i-1".into()) == GuestState::Dead
    })
    .await;
    host.forget(&"i-1".into());
    assert_eq!(host.state(&"i-1".into()), GuestState::Absent);
    assert!(output(&host).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puppet_that_fails_is_dead_and_one_that_ends_is_off() {
    for (test, script, becomes) in [
        (1, "exit 0", GuestState::PoweredOff),
        (2, "exit 3", GuestState::Dead),
    ] {
        let (_folder, host, guest) = fixture(script, test);
        host.start(&guest).unwrap();
        until(script, || host.state(&"i-1".into()) != GuestState::Running).await;
        assert_eq!(host.state(&"i-1".into()), becomes, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_ends_the_guest_without_a_hang() {
    let (folder, host, guest) = fixture("exit 0", 3);
    std::fs::remove_file(folder.path().join("puppet")).unwrap();
    host.start(&guest).unwrap();
    until("setpriv gives up", || {
        host.state(&"i-1".into()) == GuestState::Dead
    })
    .await;
    assert!(output(&host).contains("No such file"), "{}", output(&host));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_puppet_started_ends_with_it() {
    let script = r#"exec 3> "$(dirname "$0")/held"
sleep infinity & exit 0"#;
    let (folder, host, guest) = fixture(script, 4);
    let held = folder.path().join("held");
    let made = std::process::Command::new("mkfifo").arg(&held).status();
    assert!(made.unwrap().success());
    host.start(&guest).unwrap();
    // End of file proves that no `sleep` runs any more. Read on a thread, which a broken test can leave behind.
    let (ends, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || ends.send(std::fs::read(held)));
    let read = ended.recv_timeout(PATIENCE).expect("the sleeper ends");
    assert!(read.unwrap().is_empty());
    assert_eq!(host.state(&"i-1".into()), GuestState::PoweredOff);
}
