//! Whole bakes by real Packer over HTTP, against the rehearsal cloud with puppets for instances.
//!
//! Puppets have no SSH, so the template is the built-in one with `communicator = "none"`; everything else is as it is
//! for a user. The test plays the agent: it writes the registry record that a booted instance would write.
//!
//! The rehearsal binary is `REHEARSAL_BIN`, or `rehearsal` beside the binary under test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod denials;
mod fixture;
mod releases;
mod sources;
use std::collections::BTreeSet;

use fixture::{Fixture, PATIENCE, by_ssh, end, rehearsal, text, until, waiting_for_ssh};
use tokio::process::Command;

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_publishes_one_image_and_reuses_it_unchanged() {
    let fixture = Fixture::up().await;
    let output = fixture.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let image = String::from_utf8(output.stdout.clone())
        .unwrap()
        .trim()
        .to_owned();
    assert!(
        image.starts_with("ami-") && !image.contains(char::is_whitespace),
        "bare id on stdout: {image}"
    );
    assert_eq!(fixture.census_but(&image).await, BTreeSet::new());

    let answer = fixture
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

    let runs = fixture.runs();
    let again = fixture.run(&["bake"]).await;
    assert_eq!(
        String::from_utf8_lossy(&again.stdout).trim(),
        image,
        "{}",
        text(&again)
    );
    assert_eq!(fixture.runs(), runs, "an unchanged bake must not bake");
    assert_eq!(fixture.census_but(&image).await, BTreeSet::new());
}

/// Rows B1 and B4: a provisioner's output is only text.
#[tokio::test(flavor = "multi_thread")]
async fn a_bake_publishes_its_own_image_whatever_is_printed() {
    let fixture = Fixture::up().await;
    let (instance, image) = fixture.unrelated().await;
    let before = fixture.census().await;
    let lines = [
        format!("Instance ID: {instance}"),
        format!("AMI: {image}"),
        format!("Creating AMI unrelated from instance {instance}"),
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
    fixture.edit(
        "templates/image.pkr.hcl.tera",
        "  post-processor",
        &provisioner,
    );

    // Refused at its gate and undone.
    let refused = fixture.bake("unfit").await;
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert_eq!(fixture.census().await, before, "{}", text(&refused));
    let out = fixture.new_file(&[], "packer.out").unwrap();
    for line in &lines {
        let message = line.replace(',', "%!(PACKER_COMMA)");
        assert!(out.contains(&message), "{message} was not printed: {out}");
    }

    // Published.
    let output = fixture.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let published = String::from_utf8(output.stdout.clone()).unwrap();
    assert_ne!(published.trim(), image);
    assert_eq!(fixture.census_but(published.trim()).await, before);
}

/// Row B3, by real Packer and its CreateImage.
#[tokio::test(flavor = "multi_thread")]
async fn a_bake_publishes_an_encrypted_image() {
    let fixture = Fixture::up().await;
    fixture.edit(
        "imagebuilder.toml",
        "[bake]\n",
        "[bake]\nencrypt = true\nkms_key = \"alias/images\"\n",
    );
    let output = fixture.bake("fit").await;
    assert!(output.status.success(), "{}", text(&output));
    let image = String::from_utf8(output.stdout.clone()).unwrap();
    let image = image.trim();
    assert_eq!(fixture.census_but(image).await, BTreeSet::new());
    let answer = fixture.ec2.describe_images().image_ids(image).send().await;
    let answer = answer.unwrap();
    let mappings = answer.images()[0].block_device_mappings();
    assert!(!mappings.is_empty());
    for mapping in mappings {
        let ebs = mapping.ebs().unwrap();
        assert_eq!(ebs.encrypted(), Some(true), "{ebs:?}");
        let snapshots = fixture.ec2.describe_snapshots();
        let snapshots = snapshots.snapshot_ids(ebs.snapshot_id().unwrap()).send();
        let snapshot = snapshots.await.unwrap().snapshots()[0].clone();
        assert_eq!(snapshot.encrypted(), Some(true), "{snapshot:?}");
        let key = snapshot.kms_key_id().unwrap_or_default();
        assert!(key.contains("alias/images"), "{snapshot:?}");
    }
}

/// Rows B6 and U2: a profile of `aws login`, which Packer 1.6.6 does not support. The session is as the AWS CLI caches it.
#[tokio::test(flavor = "multi_thread")]
async fn packer_builds_with_the_keys_of_aws_login() {
    const SESSION: &str = "arn:aws:sts::123456789012:assumed-role/admin/me";
    let fixture = Fixture::up().await;
    let home = fixture.at().join("home");
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

    let mut bake = fixture.imagebuilder(&["bake"]);
    bake.env("HOME", &home).env("AWS_PROFILE", "shop");
    // The rehearsal's own variables, and those that hide the developer's AWS account.
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
    let mut agent = std::pin::pin!(fixture.agent("fit"));
    let output = tokio::select! {
        output = &mut output => output,
        () = &mut agent => output.await,
    };
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    // Nowhere but in Packer's environment.
    for run in fixture.runs() {
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

/// `--profile`, `--region` and `--endpoint-url`, against an environment and a configuration that name others; and an overlay.
#[tokio::test(flavor = "multi_thread")]
async fn options_reach_every_call_and_packer() {
    let fixture = Fixture::up().await;
    let home = fixture.at().join("home");
    std::fs::create_dir_all(home.join(".aws")).unwrap();
    let profile = "[profile shop]\naws_access_key_id = AKIASHOP\naws_secret_access_key = of the profile\nregion = eu-west-1\n";
    std::fs::write(home.join(".aws/config"), profile).unwrap();
    let environment = fixture.environment();
    let endpoint = environment
        .iter()
        .find(|(key, _)| key == "AWS_ENDPOINT_URL");
    let endpoint = &endpoint.unwrap().1;
    // What Packer is given is noted by what it runs.
    let provisioner =
        "  provisioner \"shell-local\" {\n    inline = [\"env > seen.env\"]\n  }\n  post-processor";
    fixture.edit(
        "templates/image.pkr.hcl.tera",
        "  post-processor",
        provisioner,
    );
    std::fs::write(
        fixture.at().join("other.toml"),
        "[bake]\nregion = \"ap-south-1\"\n",
    )
    .unwrap();
    let mut bake = fixture.imagebuilder(&["-c", "imagebuilder.toml", "-c", "other.toml", "bake"]);
    bake.args(["--profile", "shop", "--region", "us-east-1"])
        .args(["--endpoint-url", endpoint])
        .env("HOME", &home)
        .env_remove("AWS_CONFIG_FILE")
        .env_remove("AWS_SHARED_CREDENTIALS_FILE")
        .env("AWS_ACCESS_KEY_ID", "AKIAOTHER")
        .env("AWS_PROFILE", "none")
        .env("AWS_REGION", "eu-north-1")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
        .env("AWS_ENDPOINT_URL_SSM", "http://127.0.0.1:1");
    let mut output = std::pin::pin!(bake.output());
    let mut agent = std::pin::pin!(fixture.agent("fit"));
    let output = tokio::select! {
        output = &mut output => output,
        () = &mut agent => output.await,
    };
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let seen = fixture.new_file(&[], "seen.env").unwrap();
    for want in [
        "AWS_ACCESS_KEY_ID=AKIASHOP".to_owned(),
        "AWS_REGION=us-east-1".to_owned(),
        "AWS_DEFAULT_REGION=us-east-1".to_owned(),
        format!("AWS_ENDPOINT_URL={endpoint}"),
    ] {
        assert!(seen.lines().any(|line| line == want), "no {want} in {seen}");
    }
    for name in [
        "AWS_PROFILE=",
        "AWS_ENDPOINT_URL_EC2=",
        "AWS_ENDPOINT_URL_SSM=",
    ] {
        assert!(!seen.lines().any(|line| line.starts_with(name)), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_refuses_with_exit_4_and_nothing_is_left() {
    let fixture = Fixture::up().await;
    let output = fixture.bake("unfit").await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(output.stdout.is_empty());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("the agent reports unfit: as arranged by the test"),
        "{message}"
    );
    assert_eq!(fixture.census().await, BTreeSet::new());
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
    let builder = async |first: usize| {
        let fixture = Fixture::up().await;
        for mark in MARKS.into_iter().skip(first).step_by(4) {
            killed_at(&fixture, mark).await;
        }
    };
    tokio::join!(builder(0), builder(1), builder(2), builder(3));
}

/// Kills a bake when its ledger shows the mark; `reap` must leave nothing.
async fn killed_at(fixture: &Fixture, mark: &str) {
    let known = fixture.runs();
    let mut bake = fixture.imagebuilder(&["bake"]).spawn().unwrap();
    until(mark, async || {
        let packer = fixture.new_file(&known, "packer.out").unwrap_or_default();
        fixture
            .new_ledger(&known)
            .filter(|text| text.contains(mark) || packer.contains(mark))
    })
    .await;
    fixture.kill(&mut bake).await;
    let reaped = fixture.run(&["reap"]).await;
    assert!(
        reaped.status.success(),
        "killed at {mark}: {}",
        text(&reaped)
    );
    assert_eq!(
        fixture.census().await,
        BTreeSet::new(),
        "killed at {mark}: {}",
        text(&reaped)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bake_of_the_same_image_is_refused_meanwhile() {
    let fixture = Fixture::up().await;
    let mut first = fixture.imagebuilder(&["bake"]).spawn().unwrap();
    let mark = "\"step\": \"validate\"";
    until(mark, async || {
        fixture.new_ledger(&[]).filter(|text| text.contains(mark))
    })
    .await;
    let run = fixture.runs().remove(0);
    let run = run.file_name().unwrap().to_str().unwrap();
    let second = fixture.run(&["bake"]).await;
    assert_eq!(second.status.code(), Some(3), "{}", text(&second));
    let message = String::from_utf8_lossy(&second.stderr);
    let pid = first.id().unwrap();
    assert!(message.contains(&format!("process {pid}")), "{message}");
    assert!(message.contains(run), "{message}");
    assert_eq!(fixture.runs().len(), 1, "the refused bake has left a run");

    fixture.kill(&mut first).await;
    let reaped = fixture.run(&["reap"]).await;
    assert!(reaped.status.success(), "{}", text(&reaped));
    let third = fixture.bake("fit").await;
    assert!(third.status.success(), "{}", text(&third));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_publishing_the_next_bake_finishes_the_work() {
    let fixture = Fixture::up().await;
    for mark in [
        "\"step\": \"publish\"",
        "candidate_before",
        "\"step\": \"sweep\"",
    ] {
        let known = fixture.runs();
        std::fs::write(fixture.at().join("orders"), test_support::elf(62, mark)).unwrap();
        let mut bake = fixture.imagebuilder(&["bake"]).spawn().unwrap();
        let mut seen = std::pin::pin!(until(mark, async || {
            fixture
                .new_ledger(&known)
                .filter(|text| text.contains(mark))
        }));
        tokio::select! {
            _ = &mut seen => {}
            () = fixture.agent("fit") => { seen.await; }
        }
        fixture.kill(&mut bake).await;
        let reaped = fixture.run(&["reap"]).await;
        assert!(
            reaped.status.success(),
            "killed at {mark}: {}",
            text(&reaped)
        );
        let baked = fixture.bake("fit").await;
        assert!(
            baked.status.success(),
            "baked again after {mark}: {}",
            text(&baked)
        );
        let image = String::from_utf8(baked.stdout).unwrap().trim().to_owned();
        let mut rest = fixture.census_but(&image).await;
        // Images that were published before this one stay, with their snapshots.
        let published = fixture
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
            assert!(tagged, "{image:?} is neither published nor removed");
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
    let fixture = Fixture::up().await;
    let bake = fixture.imagebuilder(&["bake"]).spawn().unwrap();
    let mark = "\"kind\": \"instance\"";
    until(mark, async || {
        fixture.new_ledger(&[]).filter(|text| text.contains(mark))
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
    assert_eq!(fixture.census().await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_goes_down_ends_the_wait_for_ssh() {
    let fixture = Fixture::up().await;
    by_ssh(&fixture);
    // Its machine fails; it is terminated by a call.
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
        let (bake, id) = waiting_for_ssh(&fixture).await;
        if machine {
            let mut dial = Command::new(rehearsal());
            dial.arg("dial").arg(fixture.at().join("cloud"));
            let dialled = dial.args(["kill-guest", &id]).output().await.unwrap();
            // Puppets without a command have no process to kill; the record that they run is removed.
            assert!(dialled.status.success(), "{}", text(&dialled));
        } else {
            let terminate = fixture.ec2.terminate_instances().instance_ids(&id);
            terminate.send().await.unwrap();
        }
        let output = end(bake).await;
        assert_eq!(output.status.code(), Some(4), "{}", text(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let expected = format!("the builder {id} failed while packer waited for its SSH: {reason}");
        assert!(stderr.contains(&expected), "{stderr}");
        assert_eq!(fixture.census().await, BTreeSet::new());
        for run in fixture.runs() {
            std::fs::remove_dir_all(run).unwrap();
        }
    }
}

/// Row B10: the ledger cannot be written any more, as on a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_while_building_leaves_nothing_behind() {
    let fixture = Fixture::up().await;
    by_ssh(&fixture);
    let bake = fixture.imagebuilder(&["bake"]).spawn().unwrap();
    let mark = "\"step\": \"build\"";
    until(mark, async || {
        fixture.new_ledger(&[]).filter(|text| text.contains(mark))
    })
    .await;
    let run = fixture.runs().remove(0);
    std::fs::create_dir(run.join("ledger.json.new")).unwrap();
    let output = end(bake).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("write the ledger"), "{message}");
    assert_eq!(fixture.census().await, BTreeSet::new());
    let lock = std::fs::File::open(run.join("packer.lock")).unwrap();
    lock.try_lock().expect("its packer is still running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_panics_ends_the_wait_for_ssh() {
    let fixture = Fixture::up_with_puppets(
        "echo '[    1.204] Kernel panic - not syncing: VFS: Unable to mount root fs'\n\
         trap 'exit 0' TERM\ntail -f /dev/null & wait",
    )
    .await;
    by_ssh(&fixture);
    let (bake, id) = waiting_for_ssh(&fixture).await;
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
    assert_eq!(fixture.census().await, BTreeSet::new());
}

/// Row B5: the launch of the gate's instance.
#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_gate_launch_is_refused_before_the_build() {
    let fixture = Fixture::up().await;
    let gate = "\n[bake.gate]\ninstance_type = \"t4g.small\"\nsubnet = \"subnet-0123456789abcdef0\"\n\
                security_groups = [\"sg-0123456789abcdef0\"]\n";
    let config = format!("{}{gate}", fixture::CONFIG);
    std::fs::write(fixture.at().join("imagebuilder.toml"), config).unwrap();
    let output = fixture.run(&["bake"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let printed = text(&output);
    for want in [
        "instance type t4g.small runs arm64",
        "there is no subnet-0123456789abcdef0",
        "there is no sg-0123456789abcdef0",
    ] {
        assert!(printed.contains(want), "{printed}");
    }
    assert_eq!(fixture.census().await, BTreeSet::new());
}
