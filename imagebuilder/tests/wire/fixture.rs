//! A rehearsal cloud with a project folder, and the operations of the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use contract::names::registry_parameter;
use tokio::process::Command;

/// How long anything here may take: Packer polls every few seconds, and machines are busy. Only a failing test reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// How often conditions are polled.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn rehearsal() -> PathBuf {
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

pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A rehearsal cloud's process; it is stopped when dropped.
pub(crate) struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A rehearsal cloud and a project folder in it. Dropped with the test, the folder last, when no process writes there any more.
pub(crate) struct Fixture {
    environment: Vec<(String, String)>,
    _daemon: Daemon,
    folder: tempfile::TempDir,
    pub(crate) config: aws_config::SdkConfig,
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) ssm: aws_sdk_ssm::Client,
}

impl Fixture {
    pub(crate) async fn up() -> Self {
        Self::up_with_puppets("").await
    }

    /// With instances that run this shell script; none for instances that run nothing.
    pub(crate) async fn up_with_puppets(script: &str) -> Self {
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
        let fixture = Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            ssm: aws_sdk_ssm::Client::new(&config),
            config,
            folder,
            environment,
            _daemon: daemon,
        };
        fixture.furnish();
        fixture
    }

    /// The environment of a program in this cloud.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    pub(crate) fn at(&self) -> &Path {
        self.folder.path()
    }

    /// A project: a configuration, two files to bake, and the template without SSH.
    pub(crate) fn furnish(&self) {
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
        // All provisioners go, from behind the line that names the source.
        let source = "  sources = [\"source.amazon-ebs.image\"]\n";
        let (middle, rest) = tail.split_once(source).unwrap();
        let (_, end) = rest.split_once("  post-processor").unwrap();
        let text = format!(
            "{head}  communicator = \"none\"\n{{%- if run.id %}}{middle}{source}  post-processor{end}"
        );
        std::fs::write(path, text).unwrap();
        std::fs::write(at.join("agent"), test_support::elf(62, "agent")).unwrap();
        std::fs::write(at.join("orders"), test_support::elf(62, "orders")).unwrap();
        std::fs::write(at.join("imagebuilder.toml"), CONFIG).unwrap();
    }

    pub(crate) fn imagebuilder(&self, args: &[&str]) -> Command {
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

    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE, self.imagebuilder(args).output())
            .await
            .unwrap()
            .unwrap()
    }

    /// Bakes while the test plays the agent of the gate's instance.
    pub(crate) async fn bake(&self, verdict: &str) -> Output {
        let mut output = std::pin::pin!(self.run(&["bake"]));
        let mut agent = std::pin::pin!(self.agent(verdict));
        tokio::select! {
            output = &mut output => output,
            () = &mut agent => output.await,
        }
    }

    /// Waits for the gate's instance and writes its record.
    pub(crate) async fn agent(&self, verdict: &str) {
        let seen = self.instances("tag:Name", "shop gate").await;
        let (id, image) = until("the gate's instance", async || {
            let now = self.instances("tag:Name", "shop gate").await;
            now.into_iter().find(|instance| !seen.contains(instance))
        })
        .await;
        let record = serde_json::json!({
            "schema": 1, "instance_id": id, "image_id": image, "verdict": verdict, "reason": "as arranged by the test",
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

    /// Instances that match a filter and are not terminating, with their images.
    pub(crate) async fn instances(&self, filter: &str, value: &str) -> BTreeSet<(String, String)> {
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
    pub(crate) async fn census(&self) -> BTreeSet<String> {
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

    /// The same without a completely published image, whose id is given.
    pub(crate) async fn census_but(&self, image: &str) -> BTreeSet<String> {
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

    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.at().join(".imagebuilder/runs")) else {
            return Vec::new();
        };
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        runs
    }

    /// Kills a bake. A child that it was just starting has its locks until its exec, and would be mistaken for
    /// the bake itself.
    pub(crate) async fn kill(&self, bake: &mut tokio::process::Child) {
        bake.start_kill().unwrap();
        bake.wait().await.unwrap();
        let locks = self.runs().into_iter().map(|run| run.join("lock"));
        let locks = locks.chain([self.at().join(".imagebuilder/shop.lock")]);
        for file in locks.filter_map(|path| std::fs::File::open(path).ok()) {
            tokio::task::block_in_place(|| file.lock()).unwrap();
        }
    }

    /// The ledger of the only run that `known` does not hold.
    pub(crate) fn new_ledger(&self, known: &[PathBuf]) -> Option<String> {
        self.new_file(known, "ledger.json")
    }

    /// A file of the only run that `known` does not hold.
    pub(crate) fn new_file(&self, known: &[PathBuf], file: &str) -> Option<String> {
        let run = self.runs().into_iter().find(|run| !known.contains(run))?;
        std::fs::read_to_string(run.join(file)).ok()
    }

    /// Changes a file of the project.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.at().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// A running instance and an image made from it, unrelated to our runs.
    pub(crate) async fn unrelated(&self) -> (String, String) {
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
        until("the other instance runs", async || {
            let running = self.instances("instance-state-name", "running").await;
            running.iter().any(|(id, _)| *id == instance).then_some(())
        })
        .await;
        let created = self
            .ec2
            .create_image()
            .instance_id(&instance)
            .name("unrelated");
        let image = created.send().await.unwrap().image_id().unwrap().to_owned();
        until("the other instance's image", async || {
            let images = self.ec2.describe_images().image_ids(&image).send();
            let state = images.await.unwrap().images()[0].state().cloned();
            (state == Some(aws_sdk_ec2::types::ImageState::Available)).then_some(())
        })
        .await;
        (instance, image)
    }
}

/// Sets a dial of the rehearsal cloud.
pub(crate) async fn dial(fixture: &Fixture, name: &str, value: &str) {
    let output = Command::new(rehearsal())
        .arg("dial")
        .arg(fixture.at().join("cloud"))
        .args([name, value])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

pub(crate) const CONFIG: &str = r#"
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
wait_for_cloud_init = false
"#;

pub(crate) fn text(output: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A project whose builder is waited for on SSH, for a day if need be.
pub(crate) fn by_ssh(fixture: &Fixture) {
    let config = CONFIG.replace("template = \"templates\"\n", "");
    let config = format!("{config}ssh_timeout_seconds = 86400\ntimeout_seconds = 86400\n");
    std::fs::write(fixture.at().join("imagebuilder.toml"), config).unwrap();
}

/// Begins a bake and waits until its Packer waits for SSH; the bake and its builder.
pub(crate) async fn waiting_for_ssh(fixture: &Fixture) -> (tokio::process::Child, String) {
    let bake = fixture.imagebuilder(&["bake"]).spawn().unwrap();
    until("packer waits for SSH", async || {
        let run = fixture.runs().pop()?;
        let output = std::fs::read_to_string(run.join("packer.out")).ok()?;
        output.contains("Waiting for SSH").then_some(())
    })
    .await;
    let builder = fixture.instances("instance-state-name", "running").await;
    let (id, _) = builder.into_iter().next().unwrap();
    (bake, id)
}

pub(crate) async fn end(bake: tokio::process::Child) -> Output {
    tokio::time::timeout(PATIENCE, bake.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}
