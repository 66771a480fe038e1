//! The same calls by the Rust SDKs and by boto3, over HTTP: both must find the same in the rehearsal cloud.
//!
//! Needs boto3 in the Python environment of `$REHEARSAL_MOTO`, which `make` sets, or on the path; and `rehearsal`
//! beside the program under test: `cargo build -p rehearsal`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use serde_json::{Value, json};

/// A rehearsal cloud of puppets, stopped when dropped.
struct Cloud(tempfile::TempDir);

impl Cloud {
    fn up() -> Self {
        let cloud = Self(tempfile::tempdir().unwrap());
        cloud.info(&["up"], &["--port", "0", "--guests", "puppets", "--detach"]);
        cloud
    }

    /// Runs a command of `rehearsal` that has to succeed; returns its output.
    fn info(&self, verb: &[&str], rest: &[&str]) -> String {
        let output = self.rehearsal(verb, rest);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        printed
    }

    fn rehearsal(&self, verb: &[&str], rest: &[&str]) -> Output {
        let beside = Path::new(env!("CARGO_BIN_EXE_imagebuilder")).with_file_name("rehearsal");
        let program = std::env::var_os("REHEARSAL_BIN").map_or(beside, PathBuf::from);
        let mut command = Command::new(program);
        command.args(verb).arg(self.0.path()).args(rest);
        command.output().unwrap()
    }

    /// The results of boto3.
    fn boto3(&self) -> BTreeMap<String, Value> {
        let python = std::env::var_os("REHEARSAL_MOTO")
            .map(|moto| Path::new(&moto).with_file_name("python3"))
            .filter(|python| python.exists())
            .unwrap_or_else(|| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/same.py");
        let printed = self.info(&["exec"], &["--", python.to_str().unwrap(), script]);
        serde_json::from_str(&printed).unwrap()
    }

    async fn config(&self) -> aws_config::SdkConfig {
        let note = std::fs::read_to_string(self.0.path().join("daemon.json")).unwrap();
        let note: Value = serde_json::from_str(&note).unwrap();
        aws_config::defaults(aws_config::BehaviorVersion::latest())
            .endpoint_url(format!("http://127.0.0.1:{}", note["port"]))
            .region("us-east-1")
            .credentials_provider(aws_sdk_ec2::config::Credentials::new(
                "test", "test", None, None, "test",
            ))
            .load()
            .await
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.rehearsal(&["down"], &[]);
    }
}

/// The service's own code of an answer.
fn code<T, E: ProvideErrorMetadata, R>(answer: Result<T, SdkError<E, R>>) -> Value {
    match answer {
        Ok(_) => json!("no error"),
        Err(error) => json!(error.code()),
    }
}

/// What both read: a parameter, a template, a group without members, a target group.
async fn furnish(config: &aws_config::SdkConfig) {
    let ec2 = aws_sdk_ec2::Client::new(config);
    let images = ec2.describe_images().send().await.unwrap();
    let data = aws_sdk_ec2::types::RequestLaunchTemplateData::builder()
        .set_image_id(images.images()[0].image_id.clone())
        .instance_type(aws_sdk_ec2::types::InstanceType::T3Micro)
        .build();
    let template = ec2.create_launch_template().launch_template_name("shop");
    let template = template.launch_template_data(data).send();
    template.await.unwrap();
    aws_sdk_ssm::Client::new(config)
        .put_parameter()
        .name("/shop/a")
        .value("<1> & \"ü\"")
        .r#type(aws_sdk_ssm::types::ParameterType::String)
        .send()
        .await
        .unwrap();
    let tag = aws_sdk_autoscaling::types::Tag::builder()
        .key("app")
        .value("shop & sons");
    aws_sdk_autoscaling::Client::new(config)
        .create_auto_scaling_group()
        .auto_scaling_group_name("shop")
        .launch_template(
            aws_sdk_autoscaling::types::LaunchTemplateSpecification::builder()
                .launch_template_name("shop")
                .version("1")
                .build(),
        )
        .min_size(0)
        .max_size(3)
        .availability_zones("us-east-1a")
        .tags(tag.build())
        .send()
        .await
        .unwrap();
    let vpcs = ec2.describe_vpcs().send().await.unwrap();
    aws_sdk_elasticloadbalancingv2::Client::new(config)
        .create_target_group()
        .name("shop")
        .protocol(aws_sdk_elasticloadbalancingv2::types::ProtocolEnum::Http)
        .port(8080)
        .set_vpc_id(vpcs.vpcs()[0].vpc_id.clone())
        .health_check_path("/gtg")
        .send()
        .await
        .unwrap();
}

/// The results of the Rust SDK for EC2.
async fn machines(config: &aws_config::SdkConfig, found: &mut BTreeMap<String, Value>) {
    let ec2 = aws_sdk_ec2::Client::new(config);
    let mut note = |name: &str, value: Value| found.insert(name.to_owned(), value);
    let images = ec2.describe_images().send().await.unwrap();
    let image = &images.images()[0];
    note(
        "image",
        json!([
            image.image_id(),
            image.name(),
            image.owner_id(),
            image.architecture().unwrap().as_str(),
            image.creation_date()
        ]),
    );
    let disk = image.block_device_mappings()[0].ebs().unwrap();
    note(
        "image disk",
        json!([
            image.root_device_name(),
            disk.snapshot_id(),
            disk.volume_size()
        ]),
    );
    note(
        "image switches",
        json!([
            image.public(),
            image.ena_support(),
            image.boot_mode().unwrap().as_str(),
            image.state().unwrap().as_str()
        ]),
    );
    let vpcs = ec2.describe_vpcs().send().await.unwrap();
    let vpc = &vpcs.vpcs()[0];
    note(
        "vpc",
        json!([vpc.vpc_id(), vpc.cidr_block(), vpc.is_default()]),
    );
    let subnets = ec2.describe_subnets().send().await.unwrap();
    let mut subnets: Vec<_> = subnets
        .subnets()
        .iter()
        .map(|subnet| {
            (
                subnet.subnet_id(),
                subnet.availability_zone(),
                subnet.map_public_ip_on_launch(),
            )
        })
        .collect();
    subnets.sort_unstable();
    note("subnets", json!(subnets));
    let kinds = ec2
        .describe_instance_types()
        .instance_types(aws_sdk_ec2::types::InstanceType::T3Micro)
        .send()
        .await
        .unwrap();
    let kinds = kinds.instance_types().iter().map(|kind| {
        let name = kind.instance_type().unwrap().as_str();
        json!([name, kind.v_cpu_info().unwrap().default_v_cpus()])
    });
    note("instance type", kinds.collect());
    let versions = ec2
        .describe_launch_template_versions()
        .launch_template_name("shop")
        .versions("$Latest")
        .send()
        .await
        .unwrap();
    let version = &versions.launch_template_versions()[0];
    note(
        "template",
        json!([
            version.launch_template_id(),
            version.version_number(),
            version.default_version(),
            version.launch_template_data().unwrap().image_id()
        ]),
    );
    let unknown = ec2.describe_images().image_ids("ami-0123456789abcdef0");
    note("no image", code(unknown.send().await));
    let odd = ec2.describe_images().image_ids("nonsense");
    note("odd image", code(odd.send().await));
    let unknown = ec2.describe_instances().instance_ids("i-0123456789abcdef0");
    note("no instance", code(unknown.send().await));
    let unknown = ec2
        .describe_snapshots()
        .snapshot_ids("snap-0123456789abcdef0");
    note("no snapshot", code(unknown.send().await));
    let unknown = ec2
        .describe_launch_template_versions()
        .launch_template_name("none");
    note("no template", code(unknown.send().await));
}

/// The results of the other Rust SDKs.
async fn services(config: &aws_config::SdkConfig, found: &mut BTreeMap<String, Value>) {
    let mut note = |name: &str, value: Value| found.insert(name.to_owned(), value);
    let autoscaling = aws_sdk_autoscaling::Client::new(config);
    let groups = autoscaling
        .describe_auto_scaling_groups()
        .send()
        .await
        .unwrap();
    let group = &groups.auto_scaling_groups()[0];
    note(
        "group",
        json!([
            group.auto_scaling_group_arn(),
            group.min_size(),
            group.max_size(),
            group.desired_capacity(),
            group.health_check_type(),
            group.launch_template().unwrap().version()
        ]),
    );
    note("group time", json!(group.created_time().unwrap().secs()));
    note("group tag", json!(group.tags()[0].value()));
    let unknown = autoscaling
        .start_instance_refresh()
        .auto_scaling_group_name("none");
    note("no group", code(unknown.send().await));
    let none = autoscaling
        .cancel_instance_refresh()
        .auto_scaling_group_name("shop");
    note("no refresh", code(none.send().await));

    let ssm = aws_sdk_ssm::Client::new(config);
    let parameter = ssm.get_parameter().name("/shop/a").send().await.unwrap();
    let parameter = parameter.parameter().unwrap();
    note(
        "parameter",
        json!([
            parameter.arn(),
            parameter.value(),
            parameter.version(),
            parameter.r#type().unwrap().as_str()
        ]),
    );
    let modified = parameter.last_modified_date().unwrap();
    note("parameter time", json!(modified.secs()));
    let unknown = ssm.get_parameter().name("/none");
    note("no parameter", code(unknown.send().await));
    let again = ssm.put_parameter().name("/shop/a").value("2");
    let again = again.r#type(aws_sdk_ssm::types::ParameterType::String);
    note("parameter twice", code(again.send().await));

    let elb = aws_sdk_elasticloadbalancingv2::Client::new(config);
    let targets = elb.describe_target_groups().send().await.unwrap();
    let targets = &targets.target_groups()[0];
    note(
        "targets",
        json!([
            targets.target_group_arn(),
            targets.port(),
            targets.health_check_path(),
            targets.matcher().unwrap().http_code()
        ]),
    );
    let unknown = elb.describe_target_groups().names("none");
    note("no targets", code(unknown.send().await));

    let identity = aws_sdk_sts::Client::new(config).get_caller_identity();
    let identity = identity.send().await.unwrap();
    note("identity", json!([identity.account(), identity.arn()]));
}

#[tokio::test]
async fn the_rust_sdks_and_boto3_find_the_same() {
    let cloud = Cloud::up();
    let config = cloud.config().await;
    furnish(&config).await;
    let mut found = BTreeMap::new();
    machines(&config, &mut found).await;
    services(&config, &mut found).await;
    assert_eq!(found, cloud.boto3());

    let codes: BTreeMap<&str, &str> = found
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .filter(|(name, _)| *name != "group tag")
        .collect();
    assert_eq!(
        codes,
        BTreeMap::from([
            ("no group", "ValidationError"),
            ("no image", "InvalidAMIID.NotFound"),
            ("no instance", "InvalidInstanceID.NotFound"),
            ("no parameter", "ParameterNotFound"),
            ("no refresh", "ActiveInstanceRefreshNotFound"),
            ("no snapshot", "InvalidSnapshot.NotFound"),
            ("no template", "InvalidLaunchTemplateName.NotFoundException"),
            ("no targets", "TargetGroupNotFound"),
            ("odd image", "InvalidAMIID.Malformed"),
            ("parameter twice", "ParameterAlreadyExists"),
        ])
    );
}
