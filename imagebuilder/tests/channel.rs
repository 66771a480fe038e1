//! The signed channel as its authors use it, from `channel init` to a rotated root, in a folder and in S3 with keys in
//! KMS; read by independent software, python-tuf.
//!
//! Needs moto, boto3 and tuf in one Python environment: that of `$REHEARSAL_MOTO`, which `make` sets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use test_support::write_program;

fn beside_moto(program: &str) -> PathBuf {
    let set_up = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/venv/bin/moto_server");
    std::env::var_os("REHEARSAL_MOTO")
        .map_or(set_up, PathBuf::from)
        .with_file_name(program)
}

/// A server for S3 and KMS; it is killed when this value is dropped.
struct Moto(Child, String);

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Moto {
    fn start() -> Self {
        let mut child = Command::new(beside_moto("moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("moto_server does not start: {error}; hint: `make setup`")
            });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let endpoint = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("Running on ")
                    .map(|(_, url)| url.trim().to_owned())
            })
            .expect("moto_server ended before it listened");
        // Its log must be read, or it blocks when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child, endpoint)
    }
}

/// An operator's folder, and perhaps a cloud.
struct Fixture {
    folder: tempfile::TempDir,
    cloud: Option<Moto>,
}

const IMAGE: &str = "[image]\nname = \"shop\"\n[image.source]\nowners = [\"self\"]\nname = \"x-*\"\n[image.agent]\nbinary = \"agent\"\n";

impl Fixture {
    fn new(cloud: Option<Moto>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            cloud,
        }
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    fn configure(&self, channel: &str) {
        std::fs::write(
            self.at().join("imagebuilder.toml"),
            format!("{IMAGE}{channel}"),
        )
        .unwrap();
    }

    fn environment(&self, command: &mut Command) {
        command
            .current_dir(self.at())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.at())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        if let Some(Moto(_, endpoint)) = &self.cloud {
            command
                .env("AWS_ENDPOINT_URL", endpoint)
                .env("AWS_REGION", "us-east-1")
                .env("AWS_DEFAULT_REGION", "us-east-1")
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "not-to-be-printed");
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebuilder"));
        self.environment(command.arg("channel").args(args));
        let output = command.output().unwrap();
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(
                !text.contains("PRIVATE") && !text.contains("not-to-be-printed"),
                "{text}"
            );
        }
        output
    }

    /// The line of `doctor` about the channel, whatever else it finds.
    fn doctor(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebuilder"));
        self.environment(command.arg("doctor"));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains(" channel: "));
        line.unwrap_or_else(|| panic!("nothing of the channel: {text}"))
            .to_owned()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a subcommand prints with --json, which its schema describes.
    fn json(&self, args: &[&str]) -> Value {
        let printed = serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap();
        let path = format!(
            "{}/../docs/schemas/imagebuilder-channel-{}.json",
            env!("CARGO_MANIFEST_DIR"),
            args[0]
        );
        let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        if let Err(fault) = validator.validate(&printed) {
            panic!("{args:?}: {fault}\n{printed:#}");
        }
        printed
    }

    /// The exit code and the output.
    fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(output.stdout.is_empty());
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn python(&self, args: &[&str]) -> Value {
        let mut command = Command::new(beside_moto("python3"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/channel/reader.py");
        self.environment(command.arg(script).args(args));
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The channel as python-tuf reads it, from the first root.
    fn read(&self, url: &str, names: &[&str]) -> Value {
        self.python(&[&["read", "first-root.json", url, "store"], names].concat())
    }

    fn agent(&self, version: &str) -> String {
        let name = format!("agent-{version}");
        let path = self.at().join(&name);
        write_program(
            &path,
            &format!("#!/bin/sh\necho imagebuilder-agent {version}\n"),
        );
        name
    }
}

const ONE: &str = "imagebuilder-agent-1.0.0-x86_64";
const TWO: &str = "imagebuilder-agent-1.1.0-x86_64";

/// From the first release to a withdrawn one, with every verb run twice.
fn life(fixture: &Fixture, url: &str) {
    std::fs::copy(
        fixture.at().join("channel-root.json"),
        fixture.at().join("first-root.json"),
    )
    .unwrap();
    assert_eq!(fixture.json(&["init"])["changed"], false);

    let one = fixture.agent("1.0.0");
    assert_eq!(
        fixture.ok(&["publish", &one, "--waves", "all-at-once"]),
        format!("{ONE}\n")
    );
    assert_eq!(fixture.json(&["publish", &one])["changed"], false);
    let read = fixture.read(url, &[ONE]);
    assert_eq!(
        read[ONE]["content"],
        "#!/bin/sh\necho imagebuilder-agent 1.0.0\n"
    );
    assert_eq!(read[ONE]["custom"]["version"], "1.0.0");

    let two = fixture.agent("1.1.0");
    let published = fixture.json(&[
        "publish",
        &two,
        "--channel",
        "beta",
        "--min-from",
        "1.0.0",
        "--floor",
        "1.0.0",
    ]);
    assert_eq!(published["changed"], true);
    assert_eq!(published["versions"]["targets"], 3);
    let promoted = fixture.json(&[
        "promote",
        "1.1.0",
        "--to",
        "stable",
        "--waves",
        "5%@0h,100%@2h",
        "--start",
        "2026-11-24T08:00:00Z",
    ]);
    assert_eq!(promoted["changed"], true);
    assert_eq!(
        fixture.json(&["promote", "1.1.0", "--to", "stable"])["changed"],
        false
    );
    let custom = &fixture.read(url, &[TWO])[TWO]["custom"];
    assert_eq!(
        custom["channels"]["stable"],
        json!({"since": "2026-11-24T08:00:00Z", "waves": [
            {"percent": 5, "at": "2026-11-24T08:00:00Z"}, {"percent": 100, "at": "2026-11-24T10:00:00Z"}]})
    );
    assert_eq!(custom["floor"], "1.0.0");

    std::fs::write(
        fixture.at().join("other"),
        "#!/bin/sh\necho x 1.1.0 # other\n",
    )
    .unwrap();
    let (code, printed) = fixture.refused(&["publish", "other", "--version", "1.1.0"]);
    assert_eq!(code, 3);
    assert!(
        printed.contains("is published already with other bytes"),
        "{printed}"
    );
    assert_eq!(
        fixture.refused(&["promote", "2.0.0", "--to", "stable"]).0,
        3
    );
    assert_eq!(fixture.refused(&["publish", &two, "--waves", "slow"]).0, 2);

    let back = [
        "withdraw",
        "1.1.0",
        "--reason",
        "it forgets orders",
        "--rollback-to",
        "1.0.0",
    ];
    assert_eq!(fixture.json(&back)["changed"], true);
    assert_eq!(fixture.json(&back)["changed"], false);
    let custom = &fixture.read(url, &[TWO])[TWO]["custom"];
    assert_eq!(custom["withdrawn"]["rollback_to"], "1.0.0");
    assert_eq!(fixture.refused(&["promote", "1.1.0", "--to", "beta"]).0, 3);

    let shown = fixture.json(&["show"]);
    assert_eq!(shown["releases"][0]["version"], "1.1.0");
    assert_eq!(
        shown["releases"][0]["withdrawn"]["reason"],
        "it forgets orders"
    );
    assert_eq!(shown["releases"][1]["channels"][0]["open"], 100);
    let before = shown["versions"]["timestamp"].as_u64().unwrap();
    assert_eq!(
        fixture.json(&["refresh"])["versions"]["timestamp"],
        before + 1
    );
    assert!(fixture.ok(&["show"]).contains("WITHDRAWN"));
}

#[test]
fn a_folder_from_fresh_keys_to_a_rotated_root() {
    let fixture = Fixture::new(None);
    fixture.configure("[channel]\nrepository = \"channel\"\n");
    let printed = fixture.run(&["init", "--generate-keys", "keys"]);
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stderr).unwrap();
    assert!(
        printed.contains("take the private root keys offline"),
        "{printed}"
    );
    // The lines that it prints for the configuration are complete.
    let table: String = printed
        .lines()
        .skip_while(|line| !line.contains("[channel.keys]"))
        .take(6)
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    let keys = format!("[channel]\nrepository = \"channel\"\n{table}");
    fixture.configure(&keys);
    let mode = |name: &str| {
        std::fs::metadata(fixture.at().join("keys").join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (
            mode("root-1.pem"),
            mode("root-1.pub.pem"),
            mode("online.pem")
        ),
        (0o600, 0o644, 0o600)
    );
    let (code, printed) = fixture.refused(&["init", "--generate-keys", "keys"]);
    assert_eq!(code, 2);
    assert!(printed.contains("exists already"), "{printed}");

    let url = format!("file://{}/channel", fixture.at().display());
    life(&fixture, &url);
    let printed = fixture.doctor();
    let lasts = "ok     channel: channel verifies; expires: root in 364 d, targets in 89 d";
    assert!(printed.starts_with(lasts), "{printed}");
    let (there, away) = (fixture.at().join("channel"), fixture.at().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let printed = fixture.doctor();
    assert!(printed.starts_with("WRONG  channel: "), "{printed}");
    std::fs::rename(away, there).unwrap();

    // The root keys are moved away; one of them and the online key are changed, in two places.
    for name in ["root-1", "root-2", "root-3"] {
        std::fs::rename(
            fixture.at().join(format!("keys/{name}.pem")),
            fixture.at().join(format!("{name}.pem")),
        )
        .unwrap();
    }
    let openssl = |name: &str| {
        let path = fixture.at().join("keys").join(name);
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    openssl("root-4.pem");
    openssl("online-2.pem");
    fixture.configure(
        &keys
            .replace("root-3", "root-4")
            .replace("online.pem", "online-2.pem"),
    );
    let rotate = ["rotate-root", "--old-key", "file:keys/online.pem"];
    let draft = fixture.json(&rotate);
    assert_eq!(
        (&draft["published"], &draft["signatures"]),
        (&json!(false), &json!(1))
    );
    assert_eq!(fixture.read(&url, &[ONE])["root"], 1);
    let draft = draft["draft"].as_str().unwrap().to_owned();
    for name in ["root-1", "root-2"] {
        fixture.ok(&[
            "rotate-root",
            "--sign",
            &draft,
            "--with",
            &format!("file:{name}.pem"),
        ]);
    }
    let rotated = fixture.json(&rotate);
    assert_eq!(
        (&rotated["published"], &rotated["root"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(fixture.json(&rotate)["changed"], false);
    // A reader with the first root finds the second, and the releases published before.
    let read = fixture.read(&url, &[ONE, TWO]);
    assert_eq!(read["root"], 2);
    fixture.ok(&["refresh"]);
    let three = fixture.agent("1.2.0");
    fixture.ok(&["publish", &three]);
    fixture.read(&url, &["imagebuilder-agent-1.2.0-x86_64"]);
    std::fs::remove_file(fixture.at().join("keys/online-2.pem")).unwrap();
    let (code, printed) = fixture.refused(&["refresh"]);
    assert_eq!(code, 3);
    assert!(printed.contains("there is no key"), "{printed}");
}

#[test]
fn a_bucket_with_keys_in_kms() {
    let fixture = Fixture::new(Some(Moto::start()));
    // P-256 only: moto salts its RSA-PSS signatures longer than KMS does (RFC 8017, section 9.1), and no verifier accepts them.
    let made = fixture.python(&[&["keys"][..], &["ECC_NIST_P256"; 5]].concat());
    let source = |at: usize| format!("\"aws-kms:{}\"", made[at].as_str().unwrap());
    let channel = |bucket: &str| {
        format!(
            "[channel]\nrepository = \"s3://{bucket}/agents\"\n[channel.keys]\nroot = [{}, {}]\ntargets = [{}]\nonline = {}\n",
            source(0),
            source(1),
            source(2),
            source(3),
        )
    };
    fixture.configure(&channel("shop"));
    let (code, printed) = fixture.refused(&["init"]);
    assert_eq!(code, 3);
    assert!(printed.contains("there is no bucket shop"), "{printed}");
    fixture.python(&["bucket", "shop"]);
    assert_eq!(
        fixture.json(&["init"])["url"],
        "https://shop.s3.amazonaws.com/agents"
    );
    let url = format!("{}/shop/agents", fixture.cloud.as_ref().unwrap().1);
    life(&fixture, &url);

    fixture.configure(&channel("shop").replace(&source(3), &source(4)));
    let old = source(3).replace('"', "");
    assert_eq!(fixture.json(&["rotate-root", "--old-key", &old])["root"], 2);
    assert_eq!(fixture.read(&url, &[ONE])["root"], 2);

    let headers = fixture.python(&["headers", "shop", "agents/"]);
    let headers = headers.as_object().unwrap();
    for (key, printed) in headers {
        let kind = if key.ends_with(".json") {
            "application/json"
        } else {
            "application/octet-stream"
        };
        let keep = if key == "agents/metadata/timestamp.json" {
            "no-cache"
        } else {
            "public, max-age=31536000, immutable"
        };
        assert_eq!(printed, &json!([kind, keep]), "{key}");
    }
    assert!(
        headers.contains_key("agents/metadata/1.root.json")
            && headers.contains_key("agents/metadata/2.root.json")
    );
}
