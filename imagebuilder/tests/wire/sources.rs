//! What an image is built from and gets besides its files, by real Packer: a source that a parameter names, own tags, volumes, the
//! builder's profile and user data.

use std::collections::BTreeSet;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{Filter, ImdsSupportValues, InstanceAttributeName, Tag, VolumeType};

use crate::fixture::{Fixture, end, text, waiting_for_ssh};

const USER_DATA: &str = "#cloud-config\npreserve_hostname: true\n";
/// The same in base64.
const ENCODED: &str = "I2Nsb3VkLWNvbmZpZwpwcmVzZXJ2ZV9ob3N0bmFtZTogdHJ1ZQo=";

fn is_ours(tags: &[Tag]) -> bool {
    tags.iter()
        .any(|tag| tag.key() == Some("team") && tag.value() == Some("shop @ sons"))
}

fn own() -> Filter {
    Filter::builder()
        .name("tag:team")
        .values("shop @ sons")
        .build()
}

/// A configuration that names everything that this file is about.
async fn configured(fixture: &Fixture) {
    let iam = aws_sdk_iam::Client::new(&fixture.config);
    let role = iam.create_role().role_name("builder");
    let role = role.assume_role_policy_document("{}").send();
    role.await.unwrap();
    let profile = iam.create_instance_profile();
    let profile = profile.instance_profile_name("builder").send();
    profile.await.unwrap();
    let add = iam.add_role_to_instance_profile();
    let add = add.instance_profile_name("builder").role_name("builder");
    add.send().await.unwrap();
    let images = fixture.ec2.describe_images().send().await.unwrap();
    let name = images.images()[0].name().unwrap().to_owned();
    let release = name.split('-').nth(1).unwrap();
    std::fs::write(fixture.at().join("builder.yaml"), USER_DATA).unwrap();
    fixture.edit(
        "imagebuilder.toml",
        "owners = [\"136693071363\"]\nname = \"debian-*\"\n",
        &format!("ssm_parameter = \"/aws/service/debian/release/{release}/latest/amd64\"\n"),
    );
    fixture.edit(
        "imagebuilder.toml",
        "[image.agent]\n",
        "[image.root_volume]\nsize_gib = 12\ntype = \"gp3\"\niops = 4000\n\
         [[image.volume]]\ndevice = \"/dev/sdf\"\nsize_gib = 3\ntype = \"gp2\"\ndelete_on_termination = false\n\
         [tags]\nteam = \"shop @ sons\"\n[image.agent]\n",
    );
    fixture.edit(
        "imagebuilder.toml",
        "[bake]\n",
        "[bake]\ninstance_profile = \"builder\"\nuser_data = \"builder.yaml\"\n",
    );
}

/// What has the builder waited for on SSH, for a day if need be.
const BY_SSH: [(&str, &str); 2] = [
    ("template = \"templates\"\n", "# by SSH\n"),
    (
        "[bake]\n",
        "[bake]\nssh_timeout_seconds = 86400\ntimeout_seconds = 86400\n",
    ),
];

/// Checks the builder and what is made for it while Packer waits for its SSH; then it is terminated.
async fn builder(fixture: &Fixture) {
    for (from, to) in BY_SSH {
        fixture.edit("imagebuilder.toml", from, to);
    }
    let (bake, id) = waiting_for_ssh(fixture).await;
    let ec2 = &fixture.ec2;
    let answer = ec2.describe_instances().instance_ids(&id).send();
    let answer = answer.await.unwrap();
    let instance = &answer.reservations()[0].instances()[0];
    assert!(is_ours(instance.tags()), "{instance:?}");
    let profile = instance.iam_instance_profile().unwrap();
    assert!(profile.arn().unwrap().ends_with("/builder"), "{profile:?}");
    let user_data = ec2.describe_instance_attribute().instance_id(&id);
    let user_data = user_data.attribute(InstanceAttributeName::UserData).send();
    let user_data = user_data.await.unwrap();
    let encoded = user_data.user_data().unwrap().value();
    assert_eq!(encoded, Some(ENCODED));
    let of = Filter::builder().name("attachment.instance-id").values(&id);
    let volumes = ec2.describe_volumes().filters(of.build()).send();
    let volumes = volumes.await.unwrap();
    let mut sizes: Vec<_> = volumes.volumes().iter().map(|one| one.size()).collect();
    sizes.sort();
    assert_eq!(sizes, [Some(3), Some(12)]);
    assert!(volumes.volumes().iter().all(|one| is_ours(one.tags())));
    let pairs = ec2.describe_key_pairs().filters(own()).send();
    assert_eq!(pairs.await.unwrap().key_pairs().len(), 1);
    let groups = ec2.describe_security_groups().filters(own()).send();
    assert_eq!(groups.await.unwrap().security_groups().len(), 1);
    let terminate = ec2.terminate_instances().instance_ids(&id).send();
    terminate.await.unwrap();
    let output = end(bake).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    // The volume that its instance left behind was removed as well.
    assert_eq!(fixture.census().await, BTreeSet::new());
    for (to, from) in BY_SSH {
        fixture.edit("imagebuilder.toml", from, to);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_carries_tags_volumes_and_user_data() {
    let fixture = Fixture::up().await;
    configured(&fixture).await;
    builder(&fixture).await;
    let output = fixture.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let id = String::from_utf8(output.stdout.clone()).unwrap();
    let id = id.trim();
    assert_eq!(fixture.census_but(id).await, BTreeSet::new());

    let answer = fixture.ec2.describe_images().image_ids(id).send();
    let answer = answer.await.unwrap();
    let image = &answer.images()[0];
    assert!(is_ours(image.tags()), "{image:?}");
    let key = "imagebuilder:source-parameter";
    assert!(image.tags().iter().any(|tag| tag.key() == Some(key)));
    assert_eq!(image.imds_support(), Some(&ImdsSupportValues::V20));
    let mut found = Vec::new();
    for mapping in image.block_device_mappings() {
        let ebs = mapping.ebs().unwrap();
        found.push((
            mapping.device_name().unwrap(),
            ebs.volume_size().unwrap(),
            ebs.volume_type().unwrap().clone(),
            ebs.delete_on_termination().unwrap(),
        ));
        let snapshot = fixture.ec2.describe_snapshots();
        let snapshot = snapshot.snapshot_ids(ebs.snapshot_id().unwrap()).send();
        assert!(is_ours(snapshot.await.unwrap().snapshots()[0].tags()));
    }
    let want = [
        ("/dev/xvda", 12, VolumeType::Gp3, true),
        ("/dev/sdf", 3, VolumeType::Gp2, false),
    ];
    assert_eq!(found, want);
    let gate = Filter::builder().name("tag:Name").values("shop gate");
    let gate = fixture
        .ec2
        .describe_instances()
        .filters(gate.build())
        .send();
    let gate = gate.await.unwrap();
    assert!(is_ours(gate.reservations()[0].instances()[0].tags()));

    // The same image as a source, once it is deprecated.
    let deprecation = fixture.ec2.enable_image_deprecation().image_id(id);
    let past = DateTime::from_secs(1_600_000_000);
    deprecation.deprecate_at(past).send().await.unwrap();
    let config = std::fs::read_to_string(fixture.at().join("imagebuilder.toml")).unwrap();
    let line = config
        .lines()
        .find(|line| line.starts_with("ssm_parameter"));
    fixture.edit(
        "imagebuilder.toml",
        line.unwrap(),
        &format!("id = \"{id}\""),
    );
    let refused = fixture.run(&["bake"]).await;
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    let message = text(&refused);
    assert!(message.contains("is deprecated since 2020-"), "{message}");
    assert!(message.contains("`deprecated = true`"), "{message}");
}
