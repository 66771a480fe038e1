//! Row B5: every row of the table of permissions is denied in turn, for every command that needs it, over HTTP.
//!
//! The verbs of `roll` are in `roll_stories.rs`, which has a group to roll. Every service's denial is the rehearsal's dial
//! `deny.<service>:<Action>`, which covers every row.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use tokio::process::Command;

use crate::fixture::{self, Fixture, dial, text, until};
use run::permissions::{Action, Need, Verb, needed};

/// An old dead run of another host.
const DEAD: &str = "20250101T000000Z-bake-00000a";

/// Denies each action alone, and runs `imagebuilder`; a row that a command can do without together with another that it cannot,
/// so that it ends soon.
async fn in_turn(
    fixture: &Fixture,
    actions: &[&'static Action],
    arguments: &[&str],
    with_optional: Option<&str>,
    judge: impl AsyncFn(&Action, &std::process::Output),
) {
    for action in actions {
        let mut denied = vec![action.name];
        denied.extend(with_optional.filter(|_| action.need == Need::Optional));
        for name in &denied {
            dial(fixture, &format!("deny.{name}"), "on").await;
        }
        // A bake that is not refused would take minutes.
        let began = async {
            if arguments != ["bake"] {
                std::future::pending::<()>().await;
            }
            until("a run", async || fixture.runs().pop()).await;
        };
        let output = tokio::select! {
            output = fixture.run(arguments) => output,
            () = began => panic!("{} was not found: a bake has begun", action.name),
        };
        for name in &denied {
            dial(fixture, &format!("deny.{name}"), "off").await;
        }
        judge(action, &output).await;
    }
}

/// Refused with exit code 3 and the action's name.
fn refused(action: &Action, output: &std::process::Output) {
    let (name, printed) = (action.name, text(output));
    assert_eq!(output.status.code(), Some(3), "{name}: {printed}");
    assert!(printed.contains(name), "{name}: {printed}");
    assert!(
        printed.contains("refused by preflight"),
        "{name}: {printed}"
    );
    if action.need == Need::Optional {
        let line = format!("denied and not required: {name}");
        assert!(printed.contains(&line), "{name}: {printed}");
    }
}

fn tagged(kind: ResourceType) -> TagSpecification {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    TagSpecification::builder()
        .resource_type(kind)
        .tags(tag("imagebuilder:run", DEAD))
        .tags(tag("imagebuilder:image", "shop"))
        .build()
}

/// A configuration with every feature that needs permissions of its own, and a key in KMS.
async fn with_everything(fixture: &Fixture) -> String {
    let iam = aws_sdk_iam::Client::new(&fixture.config);
    let role = iam.create_role().role_name("shop");
    let role = role.assume_role_policy_document("{}").send().await.unwrap();
    assert!(role.role().is_some());
    let profile = iam.create_instance_profile().instance_profile_name("shop");
    profile.send().await.unwrap();
    let add = iam.add_role_to_instance_profile();
    let add = add.instance_profile_name("shop").role_name("shop");
    add.send().await.unwrap();
    let key = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-4000-8000-000000000000";
    let config = format!(
        "{}share = [\"210987654321\"]\nencrypt = true\nkms_key = \"{key}\"\n[bake.gate]\ninstance_profile = \"shop\"\n",
        fixture::CONFIG
    );
    std::fs::write(fixture.at().join("imagebuilder.toml"), &config).unwrap();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn each_denied_action_is_found_before_the_first_change() {
    let fixture = Fixture::up().await;
    let config = with_everything(&fixture).await;
    let before = fixture.census().await;

    let conditions = [Need::Shares, Need::Key, Need::Profile];
    let actions = needed(&[Verb::Bake, Verb::Packer], &conditions);
    in_turn(
        &fixture,
        &actions,
        &["bake"],
        Some("ec2:CreateImage"),
        async |action, output| {
            refused(action, output);
            let runs = fixture.runs();
            assert_eq!(runs, Vec::<std::path::PathBuf>::new(), "{}", action.name);
        },
    )
    .await;
    assert_eq!(fixture.census().await, before);

    // Permissions without an answer are named, and EC2's dry runs still answer.
    dial(&fixture, "deny.iam:*", "on").await;
    dial(&fixture, "deny.ec2:DescribeVpcs", "on").await;
    let output = fixture.run(&["bake"]).await;
    dial(&fixture, "deny.iam:*", "off").await;
    dial(&fixture, "deny.ec2:DescribeVpcs", "off").await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let printed = text(&output);
    assert!(
        printed.contains("may not call ec2:DescribeVpcs"),
        "{printed}"
    );
    let line = "ssm:GetParameter, ssm:PutParameter, ssm:DeleteParameter";
    let why = "(iam:SimulatePrincipalPolicy is denied)";
    for want in ["not checked: ", line, why] {
        assert!(printed.contains(want), "{want}: {printed}");
    }
    assert_eq!(fixture.census().await, before);

    reaping(&fixture).await;
    assert_eq!(fixture.census().await, before);
    channel(&fixture, &config).await;
    assert_eq!(fixture.census().await, before);
}

/// `reap` names what is denied before it removes anything, and removes the rest.
async fn reaping(fixture: &Fixture) {
    let pair = fixture.ec2.create_key_pair().key_name("old-pair");
    let pair = pair.tag_specifications(tagged(ResourceType::KeyPair));
    pair.send().await.unwrap();
    let group = fixture.ec2.create_security_group();
    let group = group
        .group_name("old-group")
        .description("of a dead run")
        .tag_specifications(tagged(ResourceType::SecurityGroup));
    group.send().await.unwrap();
    let full = fixture.census().await;

    let actions = needed(&[Verb::Reap], &[]);
    in_turn(
        fixture,
        &actions,
        &["reap", "--dry-run"],
        None,
        async |action, output| {
            let (name, printed) = (action.name, text(output));
            // A list that is denied leaves something unknown.
            let lists = name.starts_with("ec2:Describe");
            let code = if lists { Some(5) } else { Some(0) };
            assert_eq!(output.status.code(), code, "{name}: {printed}");
            let warned = printed.find(&format!("may not call {name}"));
            let begun = printed.find(&format!("dead run {DEAD}"));
            assert!(warned.is_some() && warned < begun, "{name}: {printed}");
        },
    )
    .await;
    assert_eq!(fixture.census().await, full);

    dial(fixture, "deny.ec2:DeleteKeyPair", "on").await;
    let half = fixture.run(&["reap"]).await;
    dial(fixture, "deny.ec2:DeleteKeyPair", "off").await;
    assert_eq!(half.status.code(), Some(5), "{}", text(&half));
    let left = fixture.census().await;
    let gone: BTreeSet<_> = full.difference(&left).map(String::as_str).collect();
    assert_eq!(gone, BTreeSet::from(["old-group"]), "{left:?}");
    let rest = fixture.run(&["reap"]).await;
    assert!(rest.status.success(), "{}", text(&rest));
}

/// Refused by a preflight, or at a read that decides whether there is anything to do.
fn found(arguments: &[&str], action: &Action, output: &std::process::Output) {
    let (name, printed) = (action.name, text(output));
    let first = match name {
        "s3:GetObject" => "read s3://shop/agents/",
        "kms:GetPublicKey" => "may not be read: read the public half of KMS key",
        _ => "may not call",
    };
    let first = if printed.contains("may not call") {
        format!("may not call {name}")
    } else {
        first.to_owned()
    };
    assert_eq!(
        output.status.code(),
        Some(3),
        "{arguments:?} {name}: {printed}"
    );
    let named = printed.contains(&first) && printed.contains(name);
    assert!(named, "{arguments:?} {name}: {printed}");
}

/// The verbs of the channel that change something, in a bucket and with a key in KMS.
async fn channel(fixture: &Fixture, config: &str) {
    let python = async |arguments: &[&str]| {
        let moto = std::env::var_os("REHEARSAL_MOTO").map(std::path::PathBuf::from);
        let python = moto.unwrap_or_else(|| {
            let at = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../.cache/venv/bin/moto_server"
            );
            at.into()
        });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/channel/reader.py");
        let made = Command::new(python.with_file_name("python3"))
            .arg(script)
            .args(arguments)
            .envs(fixture.environment())
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{}", text(&made));
        String::from_utf8(made.stdout).unwrap()
    };
    python(&["bucket", "shop"]).await;
    let made = python(&["keys", "ECC_NIST_P256"]).await;
    let key: Vec<String> = serde_json::from_str(&made).unwrap();
    let key = format!("aws-kms:arn:aws:kms:us-east-1:123456789012:key/{}", key[0]);
    let files = "root = [\"file:keys/root-1.pem\"]\nroot_threshold = 1\ntargets = [\"file:keys/targets-1.pem\"]\n";
    let of = |online: &str| {
        let table =
            format!("[channel]\nrepository = \"s3://shop/agents\"\n[channel.keys]\n{files}");
        let text = format!("{config}{table}online = \"{online}\"\n");
        std::fs::write(fixture.at().join("imagebuilder.toml"), text).unwrap();
    };
    let actions = needed(&[Verb::Channel], &[Need::Bucket, Need::SigningKey]);
    of(&key);
    let init = &["channel", "init"];
    in_turn(fixture, &actions, init, None, async |action, output| {
        found(init, action, output);
    })
    .await;
    of("file:keys/online.pem");
    let keys = fixture
        .run(&["channel", "init", "--generate-keys", "keys"])
        .await;
    assert!(keys.status.success(), "{}", text(&keys));
    let publish = ["channel", "publish", "agent", "--version"];
    let publish = |version| [&publish[..], &[version]].concat();
    let first = fixture.run(&publish("1.0.0")).await;
    assert!(first.status.success(), "{}", text(&first));
    // The online key moves into KMS.
    of(&key);
    let objects = python(&["headers", "shop", "agents/"]).await;
    let verbs = [
        publish("1.1.0"),
        vec!["channel", "promote", "1.0.0", "--to", "beta"],
        vec!["channel", "withdraw", "1.0.0", "--reason", "none"],
        vec!["channel", "refresh"],
        vec![
            "channel",
            "rotate-root",
            "--old-key",
            "file:keys/online.pem",
        ],
    ];
    for arguments in verbs {
        in_turn(
            fixture,
            &actions,
            &arguments,
            None,
            async |action, output| {
                found(&arguments, action, output);
            },
        )
        .await;
    }
    assert_eq!(python(&["headers", "shop", "agents/"]).await, objects);
    let rotated = fixture
        .run(&[
            "channel",
            "rotate-root",
            "--old-key",
            "file:keys/online.pem",
        ])
        .await;
    assert!(rotated.status.success(), "{}", text(&rotated));
}
