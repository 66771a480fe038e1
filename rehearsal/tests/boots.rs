//! Which firmware boots a guest: real QEMU, with SeaBIOS and with UEFI firmware.
//!
//! Needs the AWS CLI beside `$REHEARSAL_MOTO`, which `make` sets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cloud;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cloud::Cloud;
use serde_json::Value;

/// Far longer than anything here takes on a busy machine; only a broken test meets it.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(50);
/// What [`boot_sector`] prints.
const BOOTED: &str = "booted by BIOS";

/// A disk's first sector whose code prints on the serial port and powers the machine off.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xfc, // cld
        0xba, 0xf8, 0x03, // mov dx, 0x3f8: the serial port
        0xbe, 0x1d, 0x7c, // mov si, the text's address
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz off
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0xba, 0x04, 0x06, // off: mov dx, 0x604: where SeaBIOS puts ACPI's PM1a_CNT
        0xb8, 0x00, 0x20, // mov ax, 0x2000: soft off
        0xef, // out dx, ax
        0xf4, // stop: hlt
        0xeb, 0xfd, // jmp stop
    ];
    assert_eq!(sector.len(), 0x1d, "where the text is");
    sector.extend(BOOTED.as_bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// Brings `cloud` up with this base image.
fn up(cloud: &Cloud, disk: &Path, more: &[&str]) {
    let mut command = cloud.rehearsal("up");
    command.args(["--port", "0", "--detach", "--base-image"]);
    let output = command.arg(disk).args(more).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn status(cloud: &Cloud) -> Value {
    let output = cloud.rehearsal("status").arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn base(cloud: &Cloud) -> String {
    let id = status(cloud)["images"][0]["id"].take();
    id.as_str().unwrap().to_owned()
}

fn aws(cloud: &Cloud, arguments: &[&str]) -> String {
    let all = [arguments, &["--output", "text"]].concat();
    cloud.ok("aws", &all).trim().to_owned()
}

/// RunInstances of one; its id.
fn run(cloud: &Cloud, image: &str, kind: &str, more: &[&str]) -> String {
    let one = ["ec2", "run-instances", "--query", "Instances[0].InstanceId"];
    let what = ["--image-id", image, "--instance-type", kind];
    aws(cloud, &[&one[..], &what, more].concat())
}

/// A field of an instance, by its JMESPath.
fn shown(cloud: &Cloud, id: &str, field: &str) -> String {
    let query = format!("Reservations[0].Instances[0].{field}");
    let all = [
        "ec2",
        "describe-instances",
        "--instance-ids",
        id,
        "--query",
        &query,
    ];
    aws(cloud, &all)
}

fn console(cloud: &Cloud, id: &str) -> String {
    let path = cloud.folder().join("guests").join(id).join("console.log");
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn until(what: &str, mut is: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + PATIENCE;
    while let Err(found) = is() {
        assert!(Instant::now() < end, "{what}: {found}");
        std::thread::park_timeout(POLL);
    }
}

/// Past the capture of what tests print.
fn report(text: &str) {
    let line = format!("{text}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn a_type_without_uefi_runs_the_disks_boot_sector() {
    if let Err(reason) = cloud::guests_can_listen() {
        report(&format!("left out: {reason}"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = |name: &str, sector: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, sector).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(1 << 20))
            .unwrap();
        path
    };
    let cloud = Cloud::down();
    let emulated = ["--accelerator", "tcg"];
    up(&cloud, &disk("both.raw", boot_sector()), &emulated);
    let image = base(&cloud);

    let old = run(&cloud, &image, "t2.micro", &[]);
    until("it is booted by BIOS", || {
        let text = console(&cloud, &old);
        text.contains(BOOTED).then_some(()).ok_or(text)
    });
    assert!(console(&cloud, &old).contains("SeaBIOS ("));
    assert_eq!(
        shown(&cloud, &old, "CurrentInstanceBootMode"),
        "legacy-bios"
    );
    until("it is off", || {
        let state = shown(&cloud, &old, "State.Name");
        (state == "stopped").then_some(()).ok_or(state)
    });

    // The same disk under UEFI: its boot sector is not run, and it has nothing else.
    let new = run(&cloud, &image, "t3.micro", &[]);
    until("it is booted by UEFI", || {
        let text = console(&cloud, &new);
        text.contains("BdsDxe: ").then_some(()).ok_or(text)
    });
    assert!(!console(&cloud, &new).contains(BOOTED));
    assert_eq!(shown(&cloud, &new, "CurrentInstanceBootMode"), "uefi");

    // A base image without code for BIOS is not offered to types without UEFI.
    cloud.rehearsal("down").output().unwrap();
    up(&cloud, &disk("uefi.raw", Vec::new()), &emulated);
    let modes = [
        "ec2",
        "describe-images",
        "--query",
        "sort(Images[].BootMode)",
    ];
    assert_eq!(aws(&cloud, &modes), "uefi\tuefi-preferred");
    let uefi_only = ["--filters", "Name=boot-mode,Values=uefi"];
    let query = ["ec2", "describe-images", "--query", "Images[0].ImageId"];
    let uefi_only = aws(&cloud, &[&query[..], &uefi_only].concat());
    let one = ["ec2", "run-instances", "--image-id", &uefi_only];
    let refused = cloud.exec("aws", [&one[..], &["--instance-type", "t2.micro"]].concat());
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains("does not support the boot mode 'uefi'"),
        "{text}"
    );
}

/// Seconds of three boots of the real base image, and of an image made of one of its instances.
#[test]
#[ignore = "takes minutes, and builds the base image where it is not cached: run with --ignored"]
fn the_base_image_boots_by_bios_and_by_uefi() {
    if let Err(reason) = cloud::guests_can_listen() {
        report(&format!("left out: {reason}"));
        return;
    }
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/base-image");
    let built = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
        .args(["base-image", "--cache"])
        .arg(&cache)
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    let disk = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());

    let cloud = Cloud::down();
    up(&cloud, &disk, &[]);
    let image = base(&cloud);
    let key = cloud.folder().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let public = format!("fileb://{}", key.with_extension("pub").display());
    let import = ["ec2", "import-key-pair", "--key-name", "key"];
    aws(
        &cloud,
        &[&import[..], &["--public-key-material", &public]].concat(),
    );

    let boot = |image: &str, kind: &str, mode: &str| {
        let since = Instant::now();
        let id = run(&cloud, image, kind, &["--key-name", "key"]);
        let address = shown(&cloud, &id, "PrivateIpAddress");
        let mut found = String::new();
        until("it answers on SSH", || {
            let output = Command::new("ssh")
                .arg("-i")
                .arg(&key)
                .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
                .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
                .args(["-o", "ConnectTimeout=5"])
                .arg(format!("admin@{address}"))
                .arg("test -d /sys/firmware/efi && echo uefi || echo legacy-bios")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if text.is_empty() {
                return Err(console(&cloud, &id));
            }
            found = text;
            Ok(())
        });
        let seconds = since.elapsed().as_secs_f32();
        report(&format!(
            "{kind} of {image}: {mode}, on SSH after {seconds:.1} s"
        ));
        assert_eq!(found, mode, "{kind}");
        assert_eq!(shown(&cloud, &id, "CurrentInstanceBootMode"), mode);
        id
    };
    let old = boot(&image, "t2.micro", "legacy-bios");
    let make = [
        "ec2",
        "create-image",
        "--instance-id",
        &old,
        "--name",
        "made",
    ];
    let made = aws(&cloud, &make);
    aws(
        &cloud,
        &["ec2", "wait", "image-available", "--image-ids", &made],
    );
    aws(
        &cloud,
        &["ec2", "terminate-instances", "--instance-ids", &old],
    );
    for kind in ["t3.micro", "t2.micro"] {
        let image = if kind == "t3.micro" { &image } else { &made };
        let mode = if kind == "t3.micro" {
            "uefi"
        } else {
            "legacy-bios"
        };
        let id = boot(image, kind, mode);
        aws(
            &cloud,
            &["ec2", "terminate-instances", "--instance-ids", &id],
        );
    }
}
