//! A real repository in a folder, with fresh keys, through every reason to refuse.

use std::path::Path;

use jiff::SignedDuration;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::channel::folder::Folder;
use crate::channel::keys;
use crate::channel::releases::{self, New};
use crate::channel::seen::Seen;
use crate::channel::session::{ChannelSession, keyring};
use crate::channel::waves::Shape;
use crate::config::Config;
use crate::staging::{Content, Staging};
use crate::template::Facts;
use cloud::ids::ImageId;
use run::output::Output;

const CONFIG: &str = r#"
[image]
name = "shop"
[image.source]
owners = ["136693071363"]
name = "debian-12-*"
[image.agent]
binary = "agent"
[channel]
repository = "repository"
url = "https://agents.example/shop"
ca_file = "ca.pem"
[channel.keys]
root = ["file:root.pem"]
root_threshold = 1
targets = ["file:targets.pem"]
online = "file:online.pem"
"#;

struct Shop {
    folder: tempfile::TempDir,
    config: Config,
    session: ChannelSession,
}

impl Shop {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        for key in ["root.pem", "targets.pem", "online.pem"] {
            keys::generate(&at.join(key)).unwrap();
        }
        std::fs::write(at.join("agent"), test_support::elf(62, "the agent")).unwrap();
        std::fs::write(at.join("ca.pem"), "certificates").unwrap();
        let config = Config::parse(CONFIG, "test.toml").unwrap();
        let session = ChannelSession {
            channel: config.channel.clone().unwrap(),
            folder: at.clone(),
            store: Box::new(Folder::writing(at.join("repository")).unwrap()),
            keyring: keyring(at.clone(), cloud::aws::Connection::default()),
            seen: Seen(at.join("seen.json")),
            output: Output::captured(),
            now: Timestamp::now(),
            cloud: Some(cloud::testing::InMemoryAws::default().cloud()),
            connection: cloud::aws::Connection::default(),
        };
        session.init().await.unwrap();
        Self {
            folder,
            config,
            session,
        }
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    async fn publish(&self, binary: &str, version: &str, arch: &str, floor: Option<&str>) {
        let new = New {
            version: Version::parse(version).unwrap(),
            arch: arch.to_owned(),
            digest: Sha256::digest(binary).to_vec(),
            length: binary.len() as u64,
            channel: ChannelName::stable(),
            start: self.session.now,
            waves: None,
            default_waves: Shape::default(),
            min_from: None,
            floor: floor.map(|floor| Version::parse(floor).unwrap()),
        };
        self.session
            .change(|targets| releases::publish(targets, &new), async || Ok(()))
            .await
            .unwrap();
    }

    async fn admitted(&self, after: SignedDuration) -> Result<Option<Version>, String> {
        let verified = self.session.verified().await.unwrap();
        let agent = crate::image::sha256(b"the agent");
        admit(
            &verified,
            &ChannelName::stable(),
            Arch::X86_64,
            &agent,
            self.session.now + after,
        )
        .map_err(|failure| {
            let error = anyhow::Error::from(failure);
            assert_eq!(Exit::of(&error), Exit::Refused);
            format!("{error:#} | {}", run::exit::hint(&error).unwrap())
        })
    }
}

#[tokio::test]
async fn an_agent_that_the_channel_would_replace_is_not_baked() {
    let shop = Shop::new().await;
    assert_eq!(shop.admitted(SignedDuration::ZERO).await, Ok(None));

    shop.publish("the agent", "0.1.0", "x86_64", None).await;
    assert_eq!(
        shop.admitted(SignedDuration::ZERO).await,
        Ok(Some(Version::new(0, 1, 0)))
    );
    let printed = shop
        .admitted(SignedDuration::from_hours(25))
        .await
        .unwrap_err();
    assert!(
        printed.contains("timestamp metadata expired at"),
        "{printed}"
    );
    assert!(
        printed.contains("imagebuilder channel refresh"),
        "{printed}"
    );

    // Another machine's floor is none of this one's.
    shop.publish("another", "0.3.0", "aarch64", Some("0.3.0"))
        .await;
    assert!(shop.admitted(SignedDuration::ZERO).await.is_ok());
    shop.publish("a newer", "0.2.0", "x86_64", Some("0.2.0"))
        .await;
    let printed = shop.admitted(SignedDuration::ZERO).await.unwrap_err();
    assert!(
        printed.starts_with("agent 0.1.0 is below the floor of channel stable, 0.2.0 | "),
        "{printed}"
    );

    let version = Version::new(0, 1, 0);
    let now = shop.session.now;
    shop.session
        .change(
            |targets| releases::withdraw(targets, &version, "forgets the roses", None, now),
            async || Ok(()),
        )
        .await
        .unwrap();
    let printed = shop.admitted(SignedDuration::ZERO).await.unwrap_err();
    assert!(
        printed.contains("agent 0.1.0 was withdrawn at ") && printed.contains("forgets the roses"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_build_for_another_machine_is_not_baked() {
    let shop = Shop::new().await;
    shop.publish("the agent", "0.1.0", "aarch64", None).await;
    let printed = shop.admitted(SignedDuration::ZERO).await.unwrap_err();
    assert!(
        printed.starts_with(
            "the agent was published as 0.1.0 for aarch64, and the image is for x86_64 | "
        ),
        "{printed}"
    );
}

#[tokio::test]
async fn root_and_settings_are_inputs_but_daily_metadata_is_not() {
    let shop = Shop::new().await;
    let facts = Facts::of_no_bake(ImageId::parse("ami-1").unwrap());
    let digest = |staging: &Staging, config: &Config| {
        let (digest, parts) = staging.digest(config, &facts, "").unwrap();
        let labels: Vec<String> = parts.into_iter().map(|(label, _)| label).collect();
        (digest, labels)
    };
    let gather = |config: &Config| Staging::gather(config, shop.root(), None).unwrap();

    let mut staging = gather(&shop.config);
    let (before, labels) = digest(&staging, &shop.config);
    for counted in [
        "file /usr/share/imagebuilder-agent/channel/root.json",
        "file /etc/imagebuilder/channel-ca.pem",
        "file /etc/imagebuilder/agent.toml",
    ] {
        assert!(labels.iter().any(|label| label == counted), "{labels:?}");
    }
    staging.remember(snapshot(&shop.session.verified().await.unwrap()));
    assert_eq!(digest(&staging, &shop.config).0, before);

    let run = shop.root().join("run");
    staging.write(&run, "", &serde_json::json!({})).unwrap();
    let at = run.join("imagebuilder/root/usr/share/imagebuilder-agent/channel");
    let mut there: Vec<String> = std::fs::read_dir(at.join("metadata"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, ["snapshot.json", "targets.json", "timestamp.json"]);
    let list = std::fs::read_to_string(run.join("imagebuilder/files")).unwrap();
    assert!(
        list.contains("0644 /usr/share/imagebuilder-agent/channel/metadata/targets.json\n"),
        "{list}"
    );

    // Other settings, another root: other images. No channel: none of it.
    let other = Config::parse(&CONFIG.replace("/shop\"", "/other\""), "test.toml").unwrap();
    assert_ne!(digest(&gather(&other), &other).0, before);
    let none = Config::parse(CONFIG.split("[channel]").next().unwrap(), "test.toml").unwrap();
    let (_, labels) = digest(&gather(&none), &none);
    assert!(
        !labels.iter().any(|label| label.contains("channel")),
        "{labels:?}"
    );
    shop.session.rotate(&[], true).await.unwrap();
    assert_ne!(digest(&gather(&shop.config), &shop.config).0, before);

    let Content::Bytes(settings) = staging.files["/etc/imagebuilder/agent.toml"]
        .content
        .clone()
    else {
        panic!("the settings are rendered")
    };
    let settings = String::from_utf8(settings);
    assert!(
        settings.unwrap().contains(
            "\n[update]\nchannel = \"stable\"\nurl = \"https://agents.example/shop\"\nca_file = \"/etc/imagebuilder/channel-ca.pem\"\n"
        )
    );
}

#[tokio::test]
async fn a_newer_root_is_staged_as_history() {
    let shop = Shop::new().await;
    let known = std::fs::read(shop.session.known_path()).unwrap();
    shop.session.rotate(&[], true).await.unwrap();
    std::fs::write(shop.session.known_path(), known).unwrap();
    let files = snapshot(&shop.session.verified().await.unwrap());
    assert!(
        files.contains_key("root_history/2.root.json"),
        "{:?}",
        files.keys()
    );
    assert!(!files.contains_key("1.root.json"));
}
