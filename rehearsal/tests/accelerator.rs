//! Guests on hosts whose virtualisation fails: at the probe, in the middle, and never. Real QEMU and real
//! firmware under emulation; `qemu_stand_in.py` simulates only KVM's failures, since hardware cannot be made to fail.
//!
//! Needs the AWS CLI beside `$REHEARSAL_MOTO`, which `make` sets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cloud::Cloud;
use serde_json::Value;

/// Far longer than anything here takes on a busy machine; only a broken test meets it.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// A host with a KVM of our making.
struct Host {
    folder: tempfile::TempDir,
    disk: PathBuf,
}

impl Host {
    /// `None`, with the reason printed, where this user may not listen at guests' ports.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (bin, disk) = (folder.path().join("bin"), folder.path().join("blank.raw"));
        std::fs::create_dir(&bin).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qemu_stand_in.py");
        test_support::copy_program(&stand_in, &bin.join("qemu-system-x86_64"));
        // Nothing to boot: the firmware ends in its shell, which is all that is needed here.
        std::fs::write(&disk, vec![0_u8; 1 << 20]).unwrap();
        if let Err(reason) = cloud::guests_can_listen() {
            // Past the capture of what tests print: nothing is left out silently.
            let reason = format!("accelerator tests are left out: {reason}\n");
            std::io::stderr().write_all(reason.as_bytes()).unwrap();
            return None;
        }
        Some(Self { folder, disk })
    }

    /// Sets the failure that the stand-in simulates from now on.
    fn plays(&self, what: &str) {
        std::fs::write(self.folder.path().join("bin").join(what), "").unwrap();
    }

    fn environment(&self, command: &mut Command) {
        let real = which("qemu-system-x86_64");
        let path = std::env::var("PATH").unwrap();
        let bin = self.folder.path().join("bin");
        command
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("REAL_QEMU", real)
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env_remove("REHEARSAL_ACCELERATOR");
    }

    fn up(&self, cloud: &Cloud, more: &[&str]) -> Output {
        let mut command = cloud.rehearsal("up");
        self.environment(&mut command);
        command.args(["--port", "0", "--detach", "--base-image"]);
        command.arg(&self.disk).args(more).output().unwrap()
    }

    /// What `doctor` finds, by subject, and its exit code.
    fn doctor(&self, more: &[&str]) -> (Value, Option<i32>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rehearsal"));
        self.environment(&mut command);
        command.args(["doctor", "--json"]).arg(self.folder.path());
        let output = command.args(more).output().unwrap();
        let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let named = checks
            .into_iter()
            .map(|check| (check["subject"].as_str().unwrap().to_owned(), check));
        (Value::Object(named.collect()), output.status.code())
    }
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} is not installed; hint: make setup"))
}

fn status(cloud: &Cloud) -> Value {
    let output = cloud.rehearsal("status").arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until the one instance is as described; the instance.
fn until(cloud: &Cloud, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let instance = status(cloud)["instances"][0].take();
        if is(&instance) {
            return instance;
        }
        assert!(Instant::now() < end, "{what}: {instance}");
        std::thread::park_timeout(POLL);
    }
}

/// Launches the one instance; its id.
fn launch(cloud: &Cloud) -> String {
    let image = status(cloud)["images"][0]["id"].take();
    let launched = cloud.ok(
        "aws",
        &[
            "ec2",
            "run-instances",
            "--image-id",
            image.as_str().unwrap(),
            "--instance-type",
            "t3.micro",
            "--query",
            "Instances[0].InstanceId",
            "--output",
            "text",
        ],
    );
    let id = launched.trim().to_owned();
    until(cloud, "it runs", |instance| !instance["pid"].is_null());
    id
}

/// The status checks and the event of the one instance, as the AWS CLI shows them.
fn checks(cloud: &Cloud, id: &str) -> String {
    let query =
        "InstanceStatuses[0].[SystemStatus.Status,InstanceStatus.Status,Events[0].Description]";
    let arguments = ["--instance-ids", id, "--query", query, "--output", "text"];
    let verb = ["ec2", "describe-instance-status"];
    cloud.ok("aws", &[&verb[..], &arguments[..]].concat())
}

fn console(cloud: &Cloud, id: &str) -> String {
    std::fs::read(cloud.folder().join("guests").join(id).join("console.log"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap()
}

#[test]
fn a_kvm_that_runs_no_guest_code_is_not_used() {
    let Some(host) = Host::new() else { return };
    host.plays("probe-fails");
    let cloud = Cloud::down();
    let refused = host.up(&cloud, &["--accelerator", "kvm"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert_eq!(
        text,
        "error: kvm does not run guest code on this host: KVM internal error. Suberror: 1: emulation failure\n\
         hint: `--accelerator auto` uses emulation instead\n"
    );

    let up = host.up(&cloud, &[]);
    assert!(up.status.success(), "{up:?}");
    let accelerator = status(&cloud)["accelerator"].take();
    assert_eq!(accelerator["accelerator"], "tcg");
    assert_eq!(
        accelerator["why"],
        "kvm: KVM internal error. Suberror: 1: emulation failure"
    );
    let again = host.up(&cloud, &["--accelerator", "kvm"]);
    let text = String::from_utf8(again.stderr).unwrap();
    assert_eq!(again.status.code(), Some(1), "{text}");
    assert!(
        text.contains("is already up with the accelerator tcg\nhint: run `rehearsal down"),
        "{text}"
    );
    for (wanted, verdict, code) in [("auto", "odd", 0), ("kvm", "wrong", 3), ("tcg", "ok", 0)] {
        let (found, ended) = host.doctor(&["--accelerator", wanted]);
        assert_eq!(
            found["accelerator"]["verdict"], verdict,
            "{wanted}: {found}"
        );
        assert_eq!(ended, Some(code), "{wanted}: {found}");
    }
}

#[test]
fn a_kvm_failure_causes_one_restart_under_emulation() {
    let Some(host) = Host::new() else { return };
    let cloud = Cloud::down();
    let up = host.up(&cloud, &[]);
    assert!(up.status.success(), "{up:?}");
    assert_eq!(status(&cloud)["accelerator"]["accelerator"], "kvm");
    let id = launch(&cloud);
    let first = until(&cloud, "it is under KVM", |it| it["accelerator"] == "kvm");
    assert_eq!(checks(&cloud, &id), "ok\tok\tNone\n");

    host.plays("kvm-fails");
    let second = until(&cloud, "it is started again", |it| {
        it["accelerator"] == "tcg" && !it["pid"].is_null() && it["pid"] != first["pid"]
    });
    let text = "KVM internal error. Suberror: 1: emulation failure; started again under emulation";
    assert_eq!(second["fault"], text);
    assert_eq!(second["impaired"], false);
    assert_eq!(second["state"], "running");
    let shown = checks(&cloud, &id);
    assert_eq!(shown, format!("ok\tok\t[Completed] {text}\n"));
    let note = "[rehearsal] KVM internal error. Suberror: 1: emulation failure; this machine starts again under emulation";
    assert!(console(&cloud, &id).contains(note));
    // The firmware runs once more.
    let end = Instant::now() + PATIENCE;
    while !console(&cloud, &id)
        .split(note)
        .nth(1)
        .unwrap()
        .contains("BdsDxe")
    {
        assert!(Instant::now() < end, "{}", console(&cloud, &id));
        std::thread::park_timeout(POLL);
    }
}

#[test]
fn a_panic_or_full_disk_is_shown_and_the_guest_keeps_running() {
    let Some(host) = Host::new() else { return };
    let cloud = Cloud::down();
    let up = host.up(&cloud, &["--accelerator", "tcg"]);
    assert!(up.status.success(), "{up:?}");
    let id = launch(&cloud);
    host.plays("disk-full");
    let full = "no space left on the host's disk; the guest waits for free space";
    until(&cloud, "it is impaired", |it| {
        it["impaired"] == true && it["fault"] == full
    });
    // There is free space: after some seconds it continues by itself.
    until(&cloud, "it continues", |it| {
        it["impaired"] == false && it["fault"] == full
    });
    host.plays("panic");
    let panicked = until(&cloud, "it has panicked", |it| {
        it["fault"] == "kernel panic"
    });
    assert_eq!(panicked["state"], "running");
    assert_eq!(checks(&cloud, &id), "ok\timpaired\tkernel panic\n");
    let text = cloud.rehearsal("status").output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("accelerator tcg (requested)\n"), "{text}");
    assert!(text.contains("  impaired: kernel panic\n"), "{text}");
}
