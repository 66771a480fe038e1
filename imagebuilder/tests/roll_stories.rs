//! Whole rolls over the rehearsal cloud: real SDK calls, a real refresh engine, puppets for instances.
//!
//! Each test has a cloud of its own, stopped when dropped. The cloud's program is `$REHEARSAL_BIN`, else `rehearsal`
//! beside the program under test: `cargo build -p rehearsal` makes it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use aws_sdk_autoscaling::types::{
    DesiredConfiguration, LaunchTemplateSpecification, LifecycleHookSpecification,
    RefreshPreferences,
};
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, InstanceType,
    LaunchTemplateIamInstanceProfileSpecificationRequest, RequestLaunchTemplateData, Tag,
};
use aws_sdk_elasticloadbalancingv2::types::{
    Action, ActionTypeEnum, ProtocolEnum, TargetGroupAttribute,
};
use aws_sdk_ssm::types::ParameterType;

use run::permissions::{self, Need, Verb, needed};

const IMAGEBUILDER: &str = env!("CARGO_BIN_EXE_imagebuilder");
/// Instances of the stories' group.
const SIZE: i32 = 2;
/// How long to wait for the cloud; it usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// The cloud's program.
fn rehearsal() -> PathBuf {
    let beside = Path::new(IMAGEBUILDER).with_file_name("rehearsal");
    let program = std::env::var_os("REHEARSAL_BIN").map_or(beside, PathBuf::from);
    assert!(
        program.exists(),
        "{} does not exist: `cargo build -p rehearsal`, or name it in REHEARSAL_BIN",
        program.display()
    );
    program
}

/// A cloud with a flower shop, and a working folder.
struct Shop {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    ec2: aws_sdk_ec2::Client,
    autoscaling: aws_sdk_autoscaling::Client,
    ssm: aws_sdk_ssm::Client,
    images: [String; 2],
}

impl Shop {
    /// Starts the cloud and creates the shop: a group of two on the first image, behind a target
    /// group and a launch hook; the second image is the verified candidate.
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unhealthy = folder.path().join("sick");
        std::fs::write(&unhealthy, "").expect("write the list of unhealthy images");
        let puppet = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories/puppet.py");
        let cloud = folder.path().join("cloud");
        info(
            Command::new(rehearsal())
                .arg("up")
                .arg(&cloud)
                .args([
                    "--port",
                    "0",
                    "--guests",
                    "puppets",
                    "--detach",
                    "--puppet-command",
                ])
                .arg(format!(
                    "python3 {} {}",
                    puppet.display(),
                    unhealthy.display()
                )),
        );
        let printed = info(
            Command::new(rehearsal())
                .arg("exec")
                .arg(&cloud)
                .args(["--", "env"]),
        );
        let environment: BTreeMap<String, String> = String::from_utf8_lossy(&printed.stdout)
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| name.starts_with("AWS_"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let credentials = Credentials::new(
            &environment["AWS_ACCESS_KEY_ID"],
            &environment["AWS_SECRET_ACCESS_KEY"],
            None,
            None,
            "story",
        );
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(environment["AWS_REGION"].clone()))
            .endpoint_url(&environment["AWS_ENDPOINT_URL"])
            .credentials_provider(credentials)
            .load()
            .await;
        let mut shop = Self {
            folder,
            environment,
            ec2: aws_sdk_ec2::Client::new(&config),
            autoscaling: aws_sdk_autoscaling::Client::new(&config),
            ssm: aws_sdk_ssm::Client::new(&config),
            images: [String::new(), String::new()],
        };
        for at in 0..shop.images.len() {
            shop.images[at] = shop.register(&format!("shop-{at}")).await;
        }
        shop.stock(&aws_sdk_elasticloadbalancingv2::Client::new(&config))
            .await;
        shop
    }

    /// An image on the base image's disk with the gate verdict `fit`.
    async fn register(&self, name: &str) -> String {
        let base = self
            .ec2
            .describe_images()
            .owners("136693071363")
            .send()
            .await;
        let base = base.expect("find the base image");
        let snapshot = base.images()[0].block_device_mappings()[0]
            .ebs()
            .and_then(|ebs| ebs.snapshot_id())
            .expect("the base image's snapshot");
        let disk = BlockDeviceMapping::builder()
            .device_name("/dev/xvda")
            .ebs(EbsBlockDevice::builder().snapshot_id(snapshot).build())
            .build();
        let image = self
            .ec2
            .register_image()
            .name(name)
            .architecture(aws_sdk_ec2::types::ArchitectureValues::X8664)
            .root_device_name("/dev/xvda")
            .virtualization_type("hvm")
            .ena_support(true)
            .block_device_mappings(disk)
            .send()
            .await
            .expect("register an image")
            .image_id
            .expect("its id");
        let verdict = Tag::builder()
            .key("imagebuilder:verdict")
            .value("fit")
            .build();
        self.ec2
            .create_tags()
            .resources(&image)
            .tags(verdict)
            .send()
            .await
            .expect("tag the image");
        image
    }

    /// Creates template, target group, group and pointers; waits until every instance serves.
    async fn stock(&self, balancer: &aws_sdk_elasticloadbalancingv2::Client) {
        let data = RequestLaunchTemplateData::builder()
            .image_id(&self.images[0])
            .instance_type(InstanceType::T3Micro)
            .iam_instance_profile(
                LaunchTemplateIamInstanceProfileSpecificationRequest::builder()
                    .name("shop")
                    .build(),
            )
            .build();
        self.ec2
            .create_launch_template()
            .launch_template_name("shop")
            .launch_template_data(data)
            .send()
            .await
            .expect("create a launch template");
        let vpc = self
            .ec2
            .describe_vpcs()
            .send()
            .await
            .expect("list VPCs")
            .vpcs()[0]
            .vpc_id
            .clone();
        let targets = balancer
            .create_target_group()
            .name("shop")
            .protocol(ProtocolEnum::Http)
            .port(8080)
            .set_vpc_id(vpc)
            .health_check_path("/gtg")
            .health_check_interval_seconds(5)
            .health_check_timeout_seconds(2)
            .healthy_threshold_count(2)
            .send()
            .await
            .expect("create a target group");
        let targets = targets.target_groups()[0].target_group_arn.clone();
        balancer
            .modify_target_group_attributes()
            .set_target_group_arn(targets.clone())
            .attributes(
                TargetGroupAttribute::builder()
                    .key("deregistration_delay.timeout_seconds")
                    .value("0")
                    .build(),
            )
            .send()
            .await
            .expect("shorten the draining");
        // Targets that no listener uses are not checked.
        let subnets = self.ec2.describe_subnets().send().await;
        let subnets = subnets.expect("list subnets").subnets.expect("subnets");
        let balancers = balancer
            .create_load_balancer()
            .name("shop")
            .set_subnets(Some(
                subnets
                    .into_iter()
                    .take(2)
                    .filter_map(|subnet| subnet.subnet_id)
                    .collect(),
            ))
            .send()
            .await
            .expect("create a load balancer");
        balancer
            .create_listener()
            .set_load_balancer_arn(balancers.load_balancers()[0].load_balancer_arn.clone())
            .protocol(ProtocolEnum::Http)
            .port(8080)
            .default_actions(
                Action::builder()
                    .r#type(ActionTypeEnum::Forward)
                    .set_target_group_arn(targets.clone())
                    .build(),
            )
            .send()
            .await
            .expect("create a listener");
        let hook = LifecycleHookSpecification::builder()
            .lifecycle_hook_name("gate")
            .lifecycle_transition("autoscaling:EC2_INSTANCE_LAUNCHING")
            .default_result("ABANDON")
            .heartbeat_timeout(300)
            .build();
        self.autoscaling
            .create_auto_scaling_group()
            .auto_scaling_group_name("shop")
            .launch_template(version("1"))
            .min_size(0)
            .max_size(3 * SIZE)
            .desired_capacity(SIZE)
            .availability_zones("us-east-1a")
            .set_target_group_arns(targets.map(|arn| vec![arn]))
            .lifecycle_hook_specification_list(hook)
            .send()
            .await
            .expect("create the group");
        for (pointer, image) in [("current", &self.images[0]), ("candidate", &self.images[1])] {
            self.ssm
                .put_parameter()
                .name(format!("/imagebuilder/shop/{pointer}"))
                .value(image)
                .r#type(ParameterType::String)
                .data_type("aws:ec2:image")
                .send()
                .await
                .expect("set a pointer");
        }
        let open = async {
            let mut beat = tokio::time::interval(Duration::from_millis(200));
            // The service validates a pointer's image after it has answered.
            while self.serving("1").await != usize::try_from(SIZE).expect("a size")
                || self.pointer("current").await.is_none()
                || self.pointer("candidate").await.is_none()
            {
                beat.tick().await;
            }
        };
        if tokio::time::timeout(PATIENCE, open).await.is_err() {
            let diary = self.autoscaling.describe_scaling_activities();
            let diary = diary.auto_scaling_group_name("shop").send().await;
            panic!("the shop does not open: {diary:?}");
        }
    }

    /// How many instances of a version are in service.
    async fn serving(&self, version: &str) -> usize {
        let answer = self
            .autoscaling
            .describe_auto_scaling_groups()
            .auto_scaling_group_names("shop");
        let answer = answer.send().await.expect("describe the group");
        answer.auto_scaling_groups()[0]
            .instances()
            .iter()
            .filter(|member| {
                member
                    .lifecycle_state()
                    .is_some_and(|state| state.as_str() == "InService")
            })
            .filter(|member| {
                member.launch_template().and_then(|own| own.version()) == Some(version)
            })
            .count()
    }

    /// The value of a pointer.
    async fn pointer(&self, pointer: &str) -> Option<String> {
        let name = format!("/imagebuilder/shop/{pointer}");
        self.ssm
            .get_parameter()
            .name(name)
            .send()
            .await
            .ok()?
            .parameter?
            .value
    }

    /// Instances of this image are unfit from now on.
    fn sicken(&self, image: &str) {
        std::fs::write(self.folder.path().join("sick"), image)
            .expect("write the list of unhealthy images");
    }

    /// `imagebuilder` in the shop's folder, with the cloud in its environment.
    fn imagebuilder(&self, arguments: &[&str]) -> Command {
        let config = self.folder.path().join("imagebuilder.toml");
        std::fs::write(&config, CONFIGURATION).expect("write the configuration");
        let mut command = Command::new(IMAGEBUILDER);
        command
            .current_dir(self.folder.path())
            .args(arguments)
            .envs(&self.environment)
            .env("CI", "true")
            .stdin(Stdio::null());
        command
    }

    /// Sets a dial of the cloud.
    fn dial(&self, name: &str, value: &str) {
        info(
            Command::new(rehearsal())
                .arg("dial")
                .arg(self.folder.path().join("cloud"))
                .args([name, value]),
        );
    }

    /// Runs `imagebuilder` without one permission. One that it can do without is denied with `besides`, so that it goes no
    /// further.
    fn without(&self, action: Denied, besides: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let mut denied = vec![format!("deny.{}", action.name)];
        if action.need == Need::Optional && !besides.is_empty() {
            denied.push(format!("deny.{besides}"));
        }
        denied.iter().for_each(|name| self.dial(name, "on"));
        let ended = self.run(arguments);
        denied.iter().for_each(|name| self.dial(name, "off"));
        ended
    }

    /// Runs `roll watch` until it watches, then stops it; its exit code and messages up to there.
    fn watch_a_moment(&self) -> (Option<i32>, String) {
        let mut command = self.imagebuilder(&["roll", "watch"]);
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("imagebuilder runs");
        let mut messages = String::new();
        for line in BufReader::new(child.stderr.take().expect("its story")).lines() {
            let line = line.expect("read its story");
            if line.starts_with("watch group") {
                info(Command::new("kill").arg("-INT").arg(child.id().to_string()));
            }
            messages.push_str(&line);
            messages.push('\n');
        }
        (child.wait().expect("imagebuilder ends").code(), messages)
    }

    /// Saves the group on a version of its template.
    async fn save(&self, number: &str) {
        let update = self.autoscaling.update_auto_scaling_group();
        update
            .auto_scaling_group_name("shop")
            .launch_template(version(number))
            .send()
            .await
            .expect("save a version");
    }

    /// Deletes a version of the template; the newest one becomes the default.
    async fn forget_version(&self, number: &str) {
        let default = self.ec2.modify_launch_template();
        let default = default.launch_template_name("shop").default_version("2");
        default.send().await.expect("another default version");
        let delete = self.ec2.delete_launch_template_versions();
        let delete = delete.launch_template_name("shop").versions(number);
        delete.send().await.expect("delete a version");
    }

    /// The numbers of the template's versions.
    async fn versions(&self) -> Vec<String> {
        let versions = self.ec2.describe_launch_template_versions();
        let versions = versions.launch_template_name("shop").send().await;
        let versions = versions.expect("list versions");
        let versions = versions.launch_template_versions().iter();
        versions
            .filter_map(|version| version.version_number().map(|number| number.to_string()))
            .collect()
    }

    /// Points a pointer at an image, and waits until it does.
    async fn point(&self, pointer: &str, image: &str) {
        self.ssm
            .put_parameter()
            .name(format!("/imagebuilder/shop/{pointer}"))
            .value(image)
            .r#type(ParameterType::String)
            .data_type("aws:ec2:image")
            .overwrite(true)
            .send()
            .await
            .expect("set a pointer");
        let set = async {
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            while self.pointer(pointer).await.as_deref() != Some(image) {
                beat.tick().await;
            }
        };
        let set = tokio::time::timeout(PATIENCE, set).await;
        set.expect("the pointer is validated");
    }

    /// Starts a refresh to a version that does not end in a test's time.
    async fn begin(&self, number: &str) {
        self.autoscaling
            .start_instance_refresh()
            .auto_scaling_group_name("shop")
            .desired_configuration(
                DesiredConfiguration::builder()
                    .launch_template(version(number))
                    .build(),
            )
            .preferences(RefreshPreferences::builder().instance_warmup(3600).build())
            .send()
            .await
            .expect("start a refresh");
    }

    /// The state of the newest refresh.
    async fn refresh(&self) -> String {
        let refreshes = self.autoscaling.describe_instance_refreshes();
        let refreshes = refreshes.auto_scaling_group_name("shop").send().await;
        let refreshes = refreshes.expect("list refreshes");
        let status = refreshes.instance_refreshes()[0].status();
        status.expect("its status").as_str().to_owned()
    }

    /// Runs `imagebuilder` to its end; its exit code, and its transcript with varying parts
    /// replaced.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self
            .imagebuilder(arguments)
            .output()
            .expect("imagebuilder runs");
        (output.status.code(), self.transcript(arguments, &output))
    }

    fn transcript(&self, arguments: &[&str], output: &Output) -> String {
        let mut names = Names::default();
        names.give(&self.images[0], "ami-old");
        names.give(&self.images[1], "ami-new");
        let mut lines = vec![format!("$ imagebuilder {}", arguments.join(" "))];
        let printed = String::from_utf8_lossy(&output.stderr);
        let mut step = "";
        for line in printed.lines() {
            if !line.starts_with(' ') {
                step = line.split(' ').next().unwrap_or_default();
            }
            // The intermediate states that a watch prints depend on its timing.
            if line.starts_with(' ') && ["watch", "verify"].contains(&step) {
                continue;
            }
            lines.push(names.plain(line));
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            lines.push(format!("stdout: {}", names.plain(line)));
        }
        lines.push(format!("exit code {:?}", output.status.code()));
        lines.join("\n")
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // The failure of the test itself is shown instead.
        let _ = Command::new(rehearsal())
            .arg("down")
            .arg(self.folder.path().join("cloud"))
            .output();
    }
}

const CONFIGURATION: &str = r#"
[image]
name = "shop"
[image.source]
owners = ["136693071363"]
name = "debian-*"
[image.agent]
binary = "imagebuilder-agent"
[fleet]
group = "shop"
launch_template = "shop"
target_group = "shop"
[roll]
min_healthy_percentage = 100
max_healthy_percentage = 150
instance_warmup_seconds = 1
max_failed_launches = 2
poll_seconds = 1
healthy_rounds = 2
verify_timeout_seconds = 600
"#;

/// The shop's template in this version.
fn version(number: &str) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification::builder()
        .launch_template_name("shop")
        .version(number)
        .build()
}

/// Runs a command that has to succeed.
fn info(command: &mut Command) -> Output {
    let output = command.output().expect("the program runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Stable names for ids that differ in every run.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn give(&mut self, id: &str, name: &str) {
        self.0.push((id.to_owned(), name.to_owned()));
    }

    /// A line with ids replaced in the order in which they appear, and without durations.
    fn plain(&mut self, line: &str) -> String {
        let mut out = Vec::new();
        for word in line.split(' ') {
            let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            let kind = if core.len() == 36 && core.split('-').count() == 5 {
                Some("refresh")
            } else {
                ["i", "lt"].into_iter().find(|kind| {
                    core.strip_prefix(kind)
                        .and_then(|rest| rest.strip_prefix('-'))
                        .is_some_and(|rest| rest.len() >= 8)
                })
            };
            if let Some(kind) = kind
                && !self.0.iter().any(|(id, _)| id == core)
            {
                let number = self
                    .0
                    .iter()
                    .filter(|(_, name)| name.starts_with(kind))
                    .count()
                    + 1;
                self.give(core, &format!("{kind}-{number}"));
            }
            let named = self.0.iter().find(|(id, _)| id == core);
            out.push(named.map_or_else(
                || word.to_owned(),
                |(id, name)| word.replace(id.as_str(), name),
            ));
        }
        let line = out.join(" ");
        match line.rfind(" (") {
            Some(at) if line.ends_with(" s)") => line[..at].to_owned(),
            _ => line,
        }
    }
}

/// Starts `imagebuilder` and returns when a line of its output begins with this text.
fn until(command: &mut Command, beginning: &str) -> Child {
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("imagebuilder runs");
    let mut printed = BufReader::new(child.stderr.take().expect("its story"));
    let mut line = String::new();
    while printed.read_line(&mut line).expect("read its story") > 0 {
        if line.starts_with(beginning) {
            // The rest of the output is not used, but its pipe must not break.
            std::thread::spawn(move || std::io::copy(&mut printed, &mut std::io::sink()));
            return child;
        }
        line.clear();
    }
    let ended = child.wait().expect("imagebuilder ends");
    panic!("{ended}: the story ended before {beginning:?}");
}

#[tokio::test]
async fn a_roll_ends_verified_with_the_pointers_moved() {
    let shop = Shop::open().await;
    let (code, first) = shop.run(&["roll"]);
    assert_eq!(code, Some(0), "{first}");
    assert_eq!(shop.serving("2").await, 2);
    assert_eq!(
        shop.pointer("current").await.as_ref(),
        Some(&shop.images[1])
    );
    assert_eq!(
        shop.pointer("previous").await.as_ref(),
        Some(&shop.images[0])
    );
    let (_, second) = shop.run(&["roll"]);
    let (_, back) = shop.run(&["roll", "rollback"]);
    assert_eq!(shop.serving("1").await, 2);
    insta::assert_snapshot!([first, second, back].join("\n\n"));
}

#[tokio::test]
async fn instances_that_abandon_their_hook_are_rolled_back() {
    let shop = Shop::open().await;
    shop.sicken(&shop.images[1]);
    let (code, printed) = shop.run(&["roll"]);
    assert_eq!(code, Some(11), "{printed}");
    assert_eq!(shop.serving("1").await, 2);
    assert_eq!(
        shop.pointer("current").await.as_ref(),
        Some(&shop.images[0])
    );
    assert_eq!(shop.pointer("previous").await, None);
    insta::assert_snapshot!(printed);
}

#[tokio::test]
async fn a_second_refresh_is_refused() {
    let shop = Shop::open().await;
    shop.begin("1").await;
    let (code, printed) = shop.run(&["roll"]);
    assert_eq!(code, Some(16), "{printed}");
}

#[tokio::test]
async fn a_roll_that_was_left_or_killed_is_finished_by_watch() {
    for signal in ["-INT", "-KILL"] {
        let shop = Shop::open().await;
        let mut roll = until(&mut shop.imagebuilder(&["roll"]), "watch group");
        info(Command::new("kill").arg(signal).arg(roll.id().to_string()));
        let left = roll.wait().expect("imagebuilder ends");
        assert_eq!(left.code(), (signal == "-INT").then_some(15), "{signal}");
        let (code, printed) = shop.run(&["roll", "watch"]);
        assert_eq!(code, Some(0), "{signal}: {printed}");
        assert_eq!(shop.serving("2").await, 2);
        assert_eq!(
            shop.pointer("current").await.as_ref(),
            Some(&shop.images[1])
        );
        assert_eq!(
            shop.pointer("previous").await.as_ref(),
            Some(&shop.images[0])
        );
    }
}

#[tokio::test]
async fn a_throttled_api_is_tolerated() {
    let shop = Shop::open().await;
    let dial = |service: &str| shop.dial(&format!("throttle.{service}"), "3");
    // Only calls that the instances do not use: they have no SDK that retries.
    dial("ec2");
    dial("elasticloadbalancing");
    let (code, printed) = shop.run(&["roll"]);
    assert_eq!(code, Some(0), "{printed}");
    dial("autoscaling");
    dial("ssm");
    let (code, printed) = shop.run(&["status"]);
    assert_eq!(code, Some(0), "{printed}");
    let requests = std::fs::read_to_string(shop.folder.path().join("cloud/requests.jsonl"));
    let requests = requests.expect("the cloud's journal");
    for refusal in ["RequestLimitExceeded", "Throttling", "ThrottlingException"] {
        assert!(
            requests.contains(&format!("\"{refusal}\"")),
            "nothing was refused with {refusal}"
        );
    }
}

/// Row R14.
#[tokio::test]
async fn template_versions_of_earlier_rolls_are_deleted() {
    let shop = Shop::open().await;
    let config = format!("{CONFIGURATION}keep_template_versions = 1\n");
    std::fs::write(shop.folder.path().join("keep.toml"), config).expect("write");
    let images = [
        shop.images[1].clone(),
        shop.register("shop-2").await,
        shop.register("shop-3").await,
    ];
    for image in &images {
        let (code, printed) = shop.run(&["--config", "keep.toml", "roll", image]);
        assert_eq!(code, Some(0), "{printed}");
    }
    let mut versions = shop.versions().await;
    versions.sort_unstable();
    // 1 was not made by a roll and is the default; 3 is the version before; 2 was unused.
    assert_eq!(versions, ["1", "3", "4"]);
}

/// A row of the table of permissions.
type Denied = &'static permissions::Action;

/// Row R12: an alarm is missing, not OK, and OK; then every row of the table of permissions is denied in turn for every verb of
/// a roll. Nothing that is refused or warned of here changes anything.
#[tokio::test]
async fn each_denied_action_is_found_by_every_verb_of_a_roll() {
    let shop = Shop::open().await;
    shop.save("$Default").await;
    let alarmed = format!("{CONFIGURATION}alarms = [\"sick\"]\n");
    std::fs::write(shop.folder.path().join("alarmed.toml"), alarmed).expect("write");
    let roll = ["--config", "alarmed.toml", "roll", "--pin-first"];
    let (code, printed) = shop.run(&roll);
    assert_eq!(code, Some(3), "{printed}");
    assert!(printed.contains("there is no alarm sick"), "{printed}");
    shop.dial("alarm.sick", "ALARM");
    let (code, printed) = shop.run(&roll);
    assert_eq!(code, Some(3), "{printed}");
    assert!(printed.contains("alarm sick is ALARM"), "{printed}");
    shop.dial("alarm.sick", "OK");

    let conditions = [Need::Targets, Need::Profile, Need::Version, Need::Pin];
    for action in needed(&[Verb::Roll], &conditions) {
        let (code, printed) = shop.without(action, "ec2:CreateLaunchTemplateVersion", &roll);
        assert_eq!(code, Some(3), "{}: {printed}", action.name);
        assert_named(action, &printed);
    }
    let untouched = async || {
        assert_eq!(shop.serving("1").await, 2);
        assert_eq!(shop.versions().await, ["1"]);
        assert_eq!(shop.pointer("previous").await, None);
        assert!(!shop.folder.path().join(".imagebuilder/runs").exists());
    };
    untouched().await;
    let (code, printed) = shop.run(&roll);
    assert_eq!(code, Some(0), "{printed}");

    // On its target: it is verified, and its pointers are behind.
    shop.point("current", &shop.images[0]).await;
    for action in needed(&[Verb::Verify], &conditions) {
        let (code, printed) = shop.without(action, "", &["roll", "--dry-run"]);
        assert_warned(action, code, &printed);
    }

    // A rollback with only a pointer, to an image without a template version.
    shop.point("current", &shop.images[1]).await;
    std::fs::remove_dir_all(shop.folder.path().join(".imagebuilder")).expect("forget the runs");
    shop.save("$Latest").await;
    shop.forget_version("1").await;
    let back = ["roll", "rollback", "--pin-first", "--dry-run"];
    for action in needed(&[Verb::RollbackRefresh], &conditions) {
        let (code, printed) = shop.without(action, "", &back);
        assert_warned(action, code, &printed);
    }

    // A refresh that does not end in the test's time.
    shop.save("2").await;
    shop.begin("2").await;
    for action in needed(&[Verb::Rollback], &conditions) {
        let (code, printed) = shop.without(action, "", &["roll", "rollback", "--dry-run"]);
        assert_warned(action, code, &printed);
    }
    for action in needed(&[Verb::Watch], &conditions) {
        let name = format!("deny.{}", action.name);
        shop.dial(&name, "on");
        let (code, printed) = shop.watch_a_moment();
        shop.dial(&name, "off");
        let went_on = (code, printed.contains("watch group")) == (Some(15), true);
        let code = if went_on { Some(0) } else { code };
        assert_warned(action, code, &printed);
    }
    shop.dial("deny.autoscaling:RollbackInstanceRefresh", "on");
    let (code, printed) = shop.run(&["roll", "rollback"]);
    assert_eq!(code, Some(3), "{printed}");
    assert!(
        printed.contains("you are not allowed to roll back"),
        "{printed}"
    );
    assert_eq!(shop.refresh().await, "InProgress");
    assert_eq!(shop.versions().await, ["2"]);
}

/// The action is named as denied, or as not required.
fn assert_named(action: Denied, printed: &str) {
    let name = action.name;
    let optional = action.need == Need::Optional;
    let ways = [
        ("may not call ", !optional),
        ("may not launch from the group's template: ", !optional),
        ("denied and not required: ", optional),
    ];
    let named = printed.lines().any(|line| {
        let before = line.split(name).next().filter(|before| *before != line);
        before.is_some_and(|before| ways.iter().any(|(way, is)| *is && before.contains(way)))
    });
    assert!(named, "{name}: {printed}");
}

/// It is named, and the command continues; only a denied read ends it, with exit code 3.
fn assert_warned(action: Denied, code: Option<i32>, printed: &str) {
    // What an observation needs.
    const LOOKS: [&str; 8] = [
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplateVersions",
        "ssm:GetParameter",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLifecycleHooks",
        "autoscaling:DescribeInstanceRefreshes",
        "elasticloadbalancing:DescribeTargetHealth",
    ];
    assert_named(action, printed);
    let polls = LOOKS.contains(&action.name);
    let expected = code == Some(0) || code == Some(3) && polls;
    assert!(expected, "{} {code:?}: {printed}", action.name);
}
