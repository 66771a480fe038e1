//! Whole bakes by real Packer over the real wire, against the rehearsal cloud with puppets for instances.
//!
//! Puppets have no SSH, so the template is the built-in one with `communicator = "none"`; everything else is as it is
//! for a user. The test plays the agent: it writes the registry record that a booted box would write.
//!
//! The rehearsal binary is `REHEARSAL_BIN`, or `rehearsal` beside the binary under test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use contract::names::registry_parameter;
use tokio::process::Command;

/// How long anything here may take: Packer's polls are seconds, machines are busy. Only a broken test meets it.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often conditions are looked at.
const LOOK: Duration = Duration::from_millis(5);

fn rehearsal() -> PathBuf {
    let path = std::env::var_os("REHEARSAL_BIN").map_or_else(
        || Path::new(env!("CARGO_BIN_EXE_imagebuilder")).with_file_name("rehearsal"),
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is missing: cargo build -p rehearsal, or set REHEARSAL_BIN",
        path.display()
    );
    path
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A rehearsal cloud's process; it ends with this value.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A rehearsal cloud and a project folder in it. Ends with the test, the folder last: nobody writes there any more.
struct House {
    environment: Vec<(String, String)>,
    _daemon: Daemon,
    folder: tempfile::TempDir,
    ec2: aws_sdk_ec2::Client,
    ssm: aws_sdk_ssm::Client,
}

impl House {
    async fn up() -> Self {
        Self::up_with_puppets("").await
    }

    /// With instances that run this shell script; none for instances that run nothing.
    async fn up_with_puppets(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let puppet = at.join("puppet");
        let command = if script.is_empty() {
            Vec::new()
        } else {
            test_support::write_program(&puppet, &format!("#!/bin/sh\n{script}\n"));
            vec!["--puppet-command".into(), puppet.into_os_string()]
        };
        let disk = std::fs::File::create(at.join("base.raw")).unwrap();
        disk.set_len(1 << 20).unwrap();
        let daemon = std::process::Command::new(rehearsal())
            .arg("up")
            .arg(at.join("cloud"))
            .args(["--guests", "puppets", "--port", "0", "--base-image"])
            .arg(at.join("base.raw"))
            .args(command)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at.join("daemon.log")).unwrap())
            .spawn()
            .unwrap();
        let daemon = Daemon(daemon);
        let environment = until("the rehearsal cloud", async || {
            let output = Command::new(rehearsal())
                .arg("exec")
                .arg(at.join("cloud"))
                .args(["--", "env"])
                .output()
                .await
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let variables = text.lines().filter(|line| line.starts_with("AWS_"));
            let variables: Vec<(String, String)> = variables
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            output.status.success().then_some(variables)
        })
        .await;
        let endpoint = environment
            .iter()
            .find(|(key, _)| key == "AWS_ENDPOINT_URL")
            .unwrap()
            .1
            .clone();
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .endpoint_url(&endpoint)
            .region("us-east-1")
            .credentials_provider(aws_sdk_ec2::config::Credentials::new(
                "test", "test", None, None, "test",
            ))
            .load()
            .await;
        let house = Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            ssm: aws_sdk_ssm::Client::new(&config),
            folder,
            environment,
            _daemon: daemon,
        };
        house.furnish();
        house
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    /// A project: a configuration, two files to bake, and the template without SSH.
    fn furnish(&self) {
        let at = self.at();
        let run = |args: &[&str]| {
            let status = std::process::Command::new(env!("CARGO_BIN_EXE_imagebuilder"))
                .current_dir(at)
                .args(args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
        };
        run(&[
            "--config",
            "unused.toml",
            "init",
            "--templates",
            "templates",
        ]);
        let path = at.join("templates/image.pkr.hcl.tera");
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once("  communicator ").unwrap();
        let (_, tail) = rest.split_once("{%- if run.id %}").unwrap();
        let (middle, rest) = tail.split_once("  provisioner \"file\"").unwrap();
        let (_, end) = rest.split_once("  post-processor").unwrap();
        let text = format!(
            "{head}  communicator = \"none\"\n{{%- if run.id %}}{middle}  post-processor{end}"
        );
        std::fs::write(path, text).unwrap();
        std::fs::write(at.join("agent"), test_support::elf(62, "agent")).unwrap();
        std::fs::write(at.join("orders"), test_support::elf(62, "orders")).unwrap();
        std::fs::write(at.join("imagebuilder.toml"), CONFIG).unwrap();
    }

    fn imagebuilder(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebuilder"));
        command
            .args(args)
            .envs(self.environment.iter().cloned())
            .current_dir(self.at())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE, self.imagebuilder(args).output())
            .await
            .unwrap()
            .unwrap()
    }

    /// Bakes while the test plays the agent of the gate's instance.
    async fn bake(&self, verdict: &str) -> Output {
        let mut output = std::pin::pin!(self.run(&["bake"]));
        let mut agent = std::pin::pin!(self.agent(verdict));
        tokio::select! {
            output = &mut output => output,
            () = &mut agent => output.await,
        }
    }

    /// Waits for the gate's instance and writes its record.
    async fn agent(&self, verdict: &str) {
        let seen = self.instances("tag:Name", "shop gate").await;
        let (id, image) = until("the gate's instance", async || {
            let now = self.instances("tag:Name", "shop gate").await;
            now.into_iter().find(|instance| !seen.contains(instance))
        })
        .await;
        let record = serde_json::json!({
            "schema": 1, "instance_id": id, "image_id": image, "verdict": verdict, "reason": "as the test says",
            "since": "2026-01-01T00:00:00Z", "agent": "0.1.0",
        });
        self.ssm
            .put_parameter()
            .name(registry_parameter("shop", &id))
            .r#type(aws_sdk_ssm::types::ParameterType::String)
            .value(record.to_string())
            .overwrite(true)
            .send()
            .await
            .unwrap();
    }

    /// Instances a filter finds that are not on their way out, with their images.
    async fn instances(&self, filter: &str, value: &str) -> BTreeSet<(String, String)> {
        let filter = aws_sdk_ec2::types::Filter::builder()
            .name(filter)
            .values(value)
            .build();
        let answer = self
            .ec2
            .describe_instances()
            .filters(filter)
            .send()
            .await
            .unwrap();
        answer
            .reservations()
            .iter()
            .flat_map(|reservation| reservation.instances())
            .filter(|instance| {
                let state = instance
                    .state()
                    .and_then(|state| state.name())
                    .unwrap()
                    .as_str();
                !["terminated", "shutting-down"].contains(&state)
            })
            .map(|instance| {
                (
                    instance.instance_id().unwrap().to_owned(),
                    instance.image_id().unwrap().to_owned(),
                )
            })
            .collect()
    }

    /// Everything in the cloud that a bake can leave.
    async fn census(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for state in ["pending", "running", "stopping", "stopped"] {
            all.extend(
                self.instances("instance-state-name", state)
                    .await
                    .into_iter()
                    .map(|(id, _)| id),
            );
        }
        let images = self
            .ec2
            .describe_images()
            .owners("self")
            .send()
            .await
            .unwrap();
        all.extend(
            images
                .images()
                .iter()
                .map(|image| image.image_id().unwrap().to_owned()),
        );
        let snapshots = self
            .ec2
            .describe_snapshots()
            .owner_ids("self")
            .send()
            .await
            .unwrap();
        let made = snapshots.snapshots().iter().filter(|snapshot| {
            snapshot
                .description()
                .is_some_and(|text| text.starts_with("Created by CreateImage"))
                || snapshot.tags().iter().any(|tag| {
                    tag.key()
                        .is_some_and(|key| key.starts_with("imagebuilder:"))
                })
        });
        all.extend(made.map(|snapshot| snapshot.snapshot_id().unwrap().to_owned()));
        let pairs = self.ec2.describe_key_pairs().send().await.unwrap();
        all.extend(
            pairs
                .key_pairs()
                .iter()
                .map(|pair| pair.key_name().unwrap().to_owned()),
        );
        let groups = self.ec2.describe_security_groups().send().await.unwrap();
        let groups = groups
            .security_groups()
            .iter()
            .map(|group| group.group_name().unwrap().to_owned());
        all.extend(groups.filter(|name| name != "default"));
        let volumes = self.ec2.describe_volumes().send().await.unwrap();
        let volumes = volumes.volumes().iter();
        all.extend(volumes.map(|volume| volume.volume_id().unwrap().to_owned()));
        let interfaces = self.ec2.describe_network_interfaces().send().await.unwrap();
        let interfaces = interfaces.network_interfaces().iter();
        all.extend(interfaces.map(|one| one.network_interface_id().unwrap().to_owned()));
        let parameters = self
            .ssm
            .get_parameters_by_path()
            .path("/imagebuilder")
            .recursive(true);
        let parameters = parameters.send().await.unwrap();
        all.extend(
            parameters
                .parameters()
                .iter()
                .map(|parameter| parameter.name().unwrap().to_owned()),
        );
        all
    }

    /// The census without a completely published image, whose id is given.
    async fn census_but(&self, image: &str) -> BTreeSet<String> {
        let mut all = self.census().await;
        let answer = self
            .ec2
            .describe_images()
            .image_ids(image)
            .send()
            .await
            .unwrap();
        assert!(all.remove(image), "{image} is not there");
        assert!(
            all.remove("/imagebuilder/shop/candidate"),
            "no candidate pointer"
        );
        for mapping in answer.images()[0].block_device_mappings() {
            if let Some(snapshot) = mapping.ebs().and_then(|ebs| ebs.snapshot_id()) {
                all.remove(snapshot);
            }
        }
        all
    }

    fn runs(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.at().join(".imagebuilder/runs")) else {
            return Vec::new();
        };
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        runs
    }

    /// Kills a bake. A child that it was just starting has its locks until it is its own program, and would be taken for
    /// the bake itself.
    async fn kill(&self, bake: &mut tokio::process::Child) {
        bake.start_kill().unwrap();
        bake.wait().await.unwrap();
        let locks = self.runs().into_iter().map(|run| run.join("lock"));
        let locks = locks.chain([self.at().join(".imagebuilder/shop.lock")]);
        for file in locks.filter_map(|path| std::fs::File::open(path).ok()) {
            tokio::task::block_in_place(|| file.lock()).unwrap();
        }
    }

    /// The ledger of the only run that `known` does not hold.
    fn new_ledger(&self, known: &[PathBuf]) -> Option<String> {
        self.new_file(known, "ledger.json")
    }

    /// A file of the only run that `known` does not hold.
    fn new_file(&self, known: &[PathBuf], file: &str) -> Option<String> {
        let run = self.runs().into_iter().find(|run| !known.contains(run))?;
        std::fs::read_to_string(run.join(file)).ok()
    }

    /// Changes a file of the project.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.at().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// A running instance and an image made from it, which no run of ours has to do with.
    async fn neighbours(&self) -> (String, String) {
        let images = self.ec2.describe_images().send().await.unwrap();
        let base = images.images()[0].image_id().unwrap();
        let launched = self
            .ec2
            .run_instances()
            .image_id(base)
            .instance_type(aws_sdk_ec2::types::InstanceType::T3Micro)
            .min_count(1)
            .max_count(1)
            .send()
            .await
            .unwrap();
        let instance = launched.instances()[0].instance_id().unwrap().to_owned();
        until("the neighbour runs", async || {
            let running = self.instances("instance-state-name", "running").await;
            running.iter().any(|(id, _)| *id == instance).then_some(())
        })
        .await;
        let created = self
            .ec2
            .create_image()
            .instance_id(&instance)
            .name("neighbour");
        let image = created.send().await.unwrap().image_id().unwrap().to_owned();
        until("the neighbour's image", async || {
            let images = self.ec2.describe_images().image_ids(&image).send();
            let state = images.await.unwrap().images()[0].state().cloned();
            (state == Some(aws_sdk_ec2::types::ImageState::Available)).then_some(())
        })
        .await;
        (instance, image)
    }
}

const CONFIG: &str = r#"
[image]
name = "shop"
template = "templates"
[image.source]
owners = ["136693071363"]
name = "debian-*"
[image.agent]
binary = "agent"
[services.orders]
binary = "orders"
health_url = "http://127.0.0.1:8080/gtg"
[bake]
region = "us-east-1"
instance_type = "t3.micro"
"#;

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(output: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_publishes_one_image_and_an_unchanged_one_takes_no_second() {
    let house = House::up().await;
    let output = house.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let image = String::from_utf8(output.stdout.clone())
        .unwrap()
        .trim()
        .to_owned();
    assert!(
        image.starts_with("ami-") && !image.contains(char::is_whitespace),
        "bare id on stdout: {image}"
    );
    assert_eq!(house.census_but(&image).await, BTreeSet::new());

    let answer = house
        .ec2
        .describe_images()
        .image_ids(&image)
        .send()
        .await
        .unwrap();
    let tags = answer.images()[0].tags();
    for key in [
        "run",
        "image",
        "digest",
        "source-ami",
        "agent",
        "service",
        "verdict",
    ] {
        let key = format!("imagebuilder:{key}");
        assert!(
            tags.iter().any(|tag| tag.key() == Some(&key)),
            "{key} is missing in {tags:?}"
        );
    }

    let runs = house.runs();
    let again = house.run(&["bake"]).await;
    assert_eq!(
        String::from_utf8_lossy(&again.stdout).trim(),
        image,
        "{}",
        text(&again)
    );
    assert_eq!(house.runs(), runs, "an unchanged bake must not bake");
    assert_eq!(house.census_but(&image).await, BTreeSet::new());
}

/// Rows B1 and B4: whatever a provisioner prints, and whoever it names, is nothing but text.
#[tokio::test(flavor = "multi_thread")]
async fn a_bake_publishes_its_own_image_whatever_its_provisioners_print() {
    let house = House::up().await;
    let (instance, image) = house.neighbours().await;
    let before = house.census().await;
    let lines = [
        format!("Instance ID: {instance}"),
        format!("AMI: {image}"),
        format!("Creating AMI neighbour from instance {instance}"),
        "Creating temporary security group for this instance: default".to_owned(),
        format!("1,amazon-ebs.image,artifact,0,id,us-east-1:{image}"),
        format!("us-east-1: {image}"),
    ];
    let inline: Vec<String> = lines
        .iter()
        .map(|line| format!("\"echo '{line}'\""))
        .collect();
    let provisioner = format!(
        "  provisioner \"shell-local\" {{\n    inline = [{}]\n  }}\n  post-processor",
        inline.join(", ")
    );
    house.edit(
        "templates/image.pkr.hcl.tera",
        "  post-processor",
        &provisioner,
    );

    // Refused at its gate and undone.
    let refused = house.bake("unfit").await;
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert_eq!(house.census().await, before, "{}", text(&refused));
    let out = house.new_file(&[], "packer.out").unwrap();
    for line in &lines {
        let told = line.replace(',', "%!(PACKER_COMMA)");
        assert!(out.contains(&told), "{told} was not printed: {out}");
    }

    // Published.
    let output = house.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let published = String::from_utf8(output.stdout.clone()).unwrap();
    assert_ne!(published.trim(), image);
    assert_eq!(house.census_but(published.trim()).await, before);
}

/// Row B3, by real Packer and its CreateImage.
#[tokio::test(flavor = "multi_thread")]
async fn a_bake_publishes_an_encrypted_image() {
    let house = House::up().await;
    house.edit(
        "imagebuilder.toml",
        "[bake]\n",
        "[bake]\nencrypt = true\nkms_key = \"alias/images\"\n",
    );
    let output = house.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let image = String::from_utf8(output.stdout.clone()).unwrap();
    let image = image.trim();
    assert_eq!(house.census_but(image).await, BTreeSet::new());
    let answer = house.ec2.describe_images().image_ids(image).send().await;
    let answer = answer.unwrap();
    let mappings = answer.images()[0].block_device_mappings();
    assert!(!mappings.is_empty());
    for mapping in mappings {
        let ebs = mapping.ebs().unwrap();
        assert_eq!(ebs.encrypted(), Some(true), "{ebs:?}");
        let snapshots = house.ec2.describe_snapshots();
        let snapshots = snapshots.snapshot_ids(ebs.snapshot_id().unwrap()).send();
        let snapshot = snapshots.await.unwrap().snapshots()[0].clone();
        assert_eq!(snapshot.encrypted(), Some(true), "{snapshot:?}");
        let key = snapshot.kms_key_id().unwrap_or_default();
        assert!(key.contains("alias/images"), "{snapshot:?}");
    }
}

/// Rows B6 and U2: a profile of `aws login`, which Packer 1.6.6 knows nothing of. The session is as the AWS CLI caches it.
#[tokio::test(flavor = "multi_thread")]
async fn packer_builds_with_the_keys_of_aws_login() {
    const SESSION: &str = "arn:aws:sts::123456789012:assumed-role/admin/me";
    let house = House::up().await;
    let home = house.at().join("home");
    let cache = home.join(".aws/login/cache");
    std::fs::create_dir_all(&cache).unwrap();
    let config = format!("[profile shop]\nlogin_session = {SESSION}\nregion = us-east-1\n");
    std::fs::write(home.join(".aws/config"), config).unwrap();
    let token = serde_json::json!({
        "accessToken": {
            "accessKeyId": "ASIALOGINLOGIN",
            "secretAccessKey": "of aws login",
            "sessionToken": "of its session",
            "accountId": "123456789012",
            "expiresAt": "2099-01-01T00:00:00Z",
        },
        "tokenType": "aws_sigv4",
        "refreshToken": "none",
        "clientId": "arn:aws:signin:::devtools/same-device",
        "dpopKey": "none",
    });
    let name = sha256_hex(SESSION.as_bytes());
    std::fs::write(cache.join(format!("{name}.json")), token.to_string()).unwrap();

    let mut bake = house.imagebuilder(&["bake"]);
    bake.env("HOME", &home).env("AWS_PROFILE", "shop");
    // The rehearsal's own, and what keeps the account of whoever runs this out.
    for key in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    ] {
        bake.env_remove(key);
    }
    let mut output = std::pin::pin!(bake.output());
    let mut agent = std::pin::pin!(house.agent("fit"));
    let output = tokio::select! {
        output = &mut output => output,
        () = &mut agent => output.await,
    };
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    // Nowhere but in Packer's environment.
    for run in house.runs() {
        for file in std::fs::read_dir(run).unwrap() {
            let file = file.unwrap().path();
            let content = std::fs::read(&file).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            for secret in ["of aws login", "of its session"] {
                assert!(!content.contains(secret), "{} has {secret}", file.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_refuses_with_exit_4_and_nothing_is_left() {
    let house = House::up().await;
    let output = house.bake("unfit").await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("the agent says unfit: as the test says"),
        "{told}"
    );
    assert_eq!(house.census().await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_recorded_step_reap_empties_the_cloud() {
    // In the ledger, or in what Packer prints.
    const MARKS: [&str; 13] = [
        "\"step\": \"validate\"",
        "\"step\": \"key\"",
        "\"kind\": \"key-pair\"",
        "\"step\": \"security-group\"",
        "\"step\": \"build\"",
        "Launching a source AWS instance",
        "\"kind\": \"instance\"",
        "\"kind\": \"volume\"",
        "Creating AMI",
        "AMI: ami-",
        "\"step\": \"candidate\"",
        "\"step\": \"gate\"",
        "\"kind\": \"parameter\"",
    ];
    // Packer mostly waits: a few clouds at once, each with every fourth mark.
    let lane = async |first: usize| {
        let house = House::up().await;
        for mark in MARKS.into_iter().skip(first).step_by(4) {
            killed_at(&house, mark).await;
        }
    };
    tokio::join!(lane(0), lane(1), lane(2), lane(3));
}

/// Kills a bake when its ledger shows the mark; `reap` must leave nothing.
async fn killed_at(house: &House, mark: &str) {
    let known = house.runs();
    let mut bake = house.imagebuilder(&["bake"]).spawn().unwrap();
    until(mark, async || {
        let packer = house.new_file(&known, "packer.out").unwrap_or_default();
        house
            .new_ledger(&known)
            .filter(|text| text.contains(mark) || packer.contains(mark))
    })
    .await;
    house.kill(&mut bake).await;
    let reaped = house.run(&["reap"]).await;
    assert!(
        reaped.status.success(),
        "killed at {mark}: {}",
        text(&reaped)
    );
    assert_eq!(
        house.census().await,
        BTreeSet::new(),
        "killed at {mark}: {}",
        text(&reaped)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bake_of_the_same_image_is_refused_while_the_first_lives() {
    let house = House::up().await;
    let mut first = house.imagebuilder(&["bake"]).spawn().unwrap();
    let mark = "\"step\": \"validate\"";
    until(mark, async || {
        house.new_ledger(&[]).filter(|text| text.contains(mark))
    })
    .await;
    let run = house.runs().remove(0);
    let run = run.file_name().unwrap().to_str().unwrap();
    let second = house.run(&["bake"]).await;
    assert_eq!(second.status.code(), Some(3), "{}", text(&second));
    let told = String::from_utf8_lossy(&second.stderr);
    let pid = first.id().unwrap();
    assert!(told.contains(&format!("process {pid}")), "{told}");
    assert!(told.contains(run), "{told}");
    assert_eq!(house.runs().len(), 1, "the refused bake has left a run");

    house.kill(&mut first).await;
    let reaped = house.run(&["reap"]).await;
    assert!(reaped.status.success(), "{}", text(&reaped));
    let third = house.bake("fit").await;
    assert!(third.status.success(), "{}", text(&third));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_publishing_reap_and_the_next_bake_finish_the_work() {
    let house = House::up().await;
    for mark in [
        "\"step\": \"publish\"",
        "candidate-before",
        "\"step\": \"sweep\"",
    ] {
        let known = house.runs();
        std::fs::write(house.at().join("orders"), test_support::elf(62, mark)).unwrap();
        let mut bake = house.imagebuilder(&["bake"]).spawn().unwrap();
        let mut seen = std::pin::pin!(until(mark, async || {
            house.new_ledger(&known).filter(|text| text.contains(mark))
        }));
        tokio::select! {
            _ = &mut seen => {}
            () = house.agent("fit") => { seen.await; }
        }
        house.kill(&mut bake).await;
        let reaped = house.run(&["reap"]).await;
        assert!(
            reaped.status.success(),
            "killed at {mark}: {}",
            text(&reaped)
        );
        let baked = house.bake("fit").await;
        assert!(
            baked.status.success(),
            "baked again after {mark}: {}",
            text(&baked)
        );
        let image = String::from_utf8(baked.stdout).unwrap().trim().to_owned();
        let mut rest = house.census_but(&image).await;
        // Images that were published before this one stay, with their snapshots.
        let published = house
            .ec2
            .describe_images()
            .owners("self")
            .send()
            .await
            .unwrap();
        for image in published.images() {
            let tagged = image
                .tags()
                .iter()
                .any(|tag| tag.key() == Some("imagebuilder:verdict"));
            assert!(tagged, "{image:?} is neither published nor gone");
            rest.remove(image.image_id().unwrap());
            for mapping in image.block_device_mappings() {
                rest.remove(
                    mapping
                        .ebs()
                        .and_then(|ebs| ebs.snapshot_id())
                        .unwrap_or_default(),
                );
            }
        }
        assert_eq!(rest, BTreeSet::new(), "killed at {mark}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_is_exit_13_and_nothing_is_left() {
    let house = House::up().await;
    let bake = house.imagebuilder(&["bake"]).spawn().unwrap();
    let mark = "\"kind\": \"instance\"";
    until(mark, async || {
        house.new_ledger(&[]).filter(|text| text.contains(mark))
    })
    .await;
    let id = i32::try_from(bake.id().unwrap()).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(id).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let output = tokio::time::timeout(PATIENCE, bake.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(13), "{}", text(&output));
    assert_eq!(house.census().await, BTreeSet::new());
}

/// A project whose builder is waited for on SSH, for a day if need be.
fn by_ssh(house: &House) {
    let config = CONFIG.replace("template = \"templates\"\n", "");
    let config = format!("{config}ssh_timeout_seconds = 86400\ntimeout_seconds = 86400\n");
    std::fs::write(house.at().join("imagebuilder.toml"), config).unwrap();
}

/// Begins a bake and waits until its Packer waits for SSH; the bake and its builder.
async fn waiting_for_ssh(house: &House) -> (tokio::process::Child, String) {
    let bake = house.imagebuilder(&["bake"]).spawn().unwrap();
    until("packer waits for SSH", async || {
        let run = house.runs().pop()?;
        let output = std::fs::read_to_string(run.join("packer.out")).ok()?;
        output.contains("Waiting for SSH").then_some(())
    })
    .await;
    let builder = house.instances("instance-state-name", "running").await;
    let (id, _) = builder.into_iter().next().unwrap();
    (bake, id)
}

async fn end(bake: tokio::process::Child) -> Output {
    tokio::time::timeout(PATIENCE, bake.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_goes_down_ends_the_wait_for_ssh() {
    let house = House::up().await;
    by_ssh(&house);
    // Its machine dies; somebody terminates it.
    for (machine, reason) in [
        (
            true,
            "it was terminated: Server.InternalError: the instance's machine died",
        ),
        (
            false,
            "it was terminated: Client.UserInitiatedShutdown: User initiated shutdown",
        ),
    ] {
        let (bake, id) = waiting_for_ssh(&house).await;
        if machine {
            let mut dial = Command::new(rehearsal());
            dial.arg("dial").arg(house.at().join("cloud"));
            let dialled = dial.args(["kill-guest", &id]).output().await.unwrap();
            // Puppets without a command have no process to kill; their word that they run is taken back.
            assert!(dialled.status.success(), "{}", text(&dialled));
        } else {
            let terminate = house.ec2.terminate_instances().instance_ids(&id);
            terminate.send().await.unwrap();
        }
        let output = end(bake).await;
        assert_eq!(output.status.code(), Some(4), "{}", text(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let expected = format!("the builder {id} failed while packer waited for its SSH: {reason}");
        assert!(stderr.contains(&expected), "{stderr}");
        assert_eq!(house.census().await, BTreeSet::new());
        for run in house.runs() {
            std::fs::remove_dir_all(run).unwrap();
        }
    }
}

/// Row B10: the ledger cannot be written any more, as on a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_while_building_leaves_neither_packer_nor_resources() {
    let house = House::up().await;
    by_ssh(&house);
    let bake = house.imagebuilder(&["bake"]).spawn().unwrap();
    let mark = "\"step\": \"build\"";
    until(mark, async || {
        house.new_ledger(&[]).filter(|text| text.contains(mark))
    })
    .await;
    let run = house.runs().remove(0);
    std::fs::create_dir(run.join("ledger.json.new")).unwrap();
    let output = end(bake).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("write the ledger"), "{told}");
    assert_eq!(house.census().await, BTreeSet::new());
    let lock = std::fs::File::open(run.join("packer.lock")).unwrap();
    lock.try_lock().expect("its packer lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_panics_ends_the_wait_for_ssh() {
    let house = House::up_with_puppets(
        "echo '[    1.204] Kernel panic - not syncing: VFS: Unable to mount root fs'\n\
         trap 'exit 0' TERM\ntail -f /dev/null & wait",
    )
    .await;
    by_ssh(&house);
    let (bake, id) = waiting_for_ssh(&house).await;
    let output = end(bake).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let expected = format!(
        "the builder {id} failed while packer waited for its SSH: its console shows a panic: \
         Kernel panic - not syncing: VFS: Unable to mount root fs"
    );
    assert!(stderr.contains(&expected), "{stderr}");
    assert!(
        stderr.contains(&format!("the end of {id}'s console:")),
        "{stderr}"
    );
    assert_eq!(house.census().await, BTreeSet::new());
}
