//! An image for two architectures, baked by real Packer; the instances are puppets.

use aws_sdk_ec2::types::{
    ArchitectureValues, BlockDeviceMapping, EbsBlockDevice, RequestLaunchTemplateData,
};

use crate::fixture::{CONFIG, Fixture, text};

/// What differs for arm64.
const ARM64: &str = r#"
[arch.arm64.image.source]
owners = ["self"]
name = "arm64-base"
[arch.arm64.image.agent]
binary = "agent-arm64"
[arch.arm64.services.orders]
binary = "orders-arm64"
[arch.arm64.bake]
instance_type = "t4g.micro"
[fleet]
group = "arm"
"#;

/// Registers a source image for arm64: the base image's disk, which no puppet reads, under another name.
async fn arm64_base(fixture: &Fixture) {
    let images = fixture.ec2.describe_images().send().await.unwrap();
    let mapping = &images.images()[0].block_device_mappings()[0];
    let ebs = EbsBlockDevice::builder().snapshot_id(mapping.ebs().unwrap().snapshot_id().unwrap());
    let device = mapping.device_name().unwrap();
    let mapping = BlockDeviceMapping::builder().device_name(device);
    fixture
        .ec2
        .register_image()
        .name("arm64-base")
        .architecture(ArchitectureValues::Arm64)
        .root_device_name(device)
        .virtualization_type("hvm")
        .ena_support(true)
        .block_device_mappings(mapping.ebs(ebs.build()).build())
        .send()
        .await
        .unwrap();
}

async fn architecture(fixture: &Fixture, image: &str) -> String {
    let images = fixture.ec2.describe_images().image_ids(image).send();
    let images = images.await.unwrap();
    images.images()[0].architecture().unwrap().to_string()
}

async fn release(fixture: &Fixture) -> std::collections::BTreeMap<String, String> {
    let record = fixture
        .ssm
        .get_parameter()
        .name("/imagebuilder/shop/release");
    let record = record.send().await.unwrap();
    let record = record.parameter().unwrap().value().unwrap().to_owned();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    serde_json::from_value(record["images"].clone()).unwrap()
}

/// A group of that instance type, whose instances run the base image.
async fn group(fixture: &Fixture, instance_type: &str, image: &str) {
    let data = RequestLaunchTemplateData::builder()
        .image_id(image)
        .instance_type(instance_type.into());
    fixture
        .ec2
        .create_launch_template()
        .launch_template_name("arm")
        .launch_template_data(data.build())
        .send()
        .await
        .unwrap();
    let template = aws_sdk_autoscaling::types::LaunchTemplateSpecification::builder()
        .launch_template_name("arm")
        .version("1");
    aws_sdk_autoscaling::Client::new(&fixture.config)
        .create_auto_scaling_group()
        .auto_scaling_group_name("arm")
        .min_size(0)
        .max_size(1)
        .desired_capacity(0)
        .availability_zones("us-east-1a")
        .launch_template(template.build())
        .send()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_architectures_are_released_and_rolled_by_type() {
    let fixture = Fixture::up().await;
    arm64_base(&fixture).await;
    let at = fixture.at();
    for file in ["agent", "orders"] {
        let elf = test_support::elf(183, file);
        std::fs::write(at.join(format!("{file}-arm64")), elf).unwrap();
    }
    let list = "name = \"shop\"\narch = [\"x86_64\", \"arm64\"]";
    let config = CONFIG.replacen("name = \"shop\"", list, 1);
    std::fs::write(at.join("imagebuilder.toml"), format!("{config}{ARM64}")).unwrap();

    let agents = async {
        fixture.agent("fit").await;
        fixture.agent("fit").await;
    };
    let (output, ()) = tokio::join!(fixture.run(&["bake"]), agents);
    assert!(output.status.success(), "{}", text(&output));
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let released = release(&fixture).await;
    let lines: Vec<String> = ["x86_64", "arm64"]
        .map(|arch| format!("{arch} {}", released[arch]))
        .to_vec();
    assert_eq!(printed.lines().collect::<Vec<_>>(), lines);
    for (arch, image) in &released {
        assert_eq!(architecture(&fixture, image).await, *arch);
    }

    // The group's instance type decides which of them a roll takes.
    group(&fixture, "t4g.micro", &released["arm64"]).await;
    let plan = fixture
        .run(&["roll", "--dry-run", "--no-gate", "--accept-irreversible"])
        .await;
    let plan = text(&plan);
    assert!(plan.contains(&released["arm64"]), "{plan}");
    assert!(!plan.contains(&released["x86_64"]), "{plan}");
}
