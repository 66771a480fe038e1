//! `imagebuilder-agent configure`: writes one environment file per service, and the updater's settings, from settings
//! and user data.
//!
//! Runs as root, once per boot, before the services. It checks no health and calls only the metadata service.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use agent_update::proxy::{self, ProxySettings};
use agent_update::subscription::{self, Subject};
use anyhow::{Context, Result};
use contract::image_tests;
use tokio::time::Instant;

use crate::files::replace;
use crate::identity::Metadata;
use crate::settings::{Service, Sources, is_ours};

/// The future of a metadata call, as its trait returns it.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Pause between two attempts at the metadata service, whose client retries by itself as well.
const PAUSE: Duration = Duration::from_secs(1);

/// Mode of an environment file, and of the proxies: they may hold secrets, and root reads them.
const MODE: u32 = 0o640;

/// The file that lets `imagebuilder-tests.service` start: [`image_tests::REQUESTED`].
const IMAGE_TESTS: &str = "image-tests";

/// Mode of the updater's settings, which every user may read.
const PUBLIC: u32 = 0o644;

/// Writes every service's environment file below `run_dir`, and [`subscription::FILE`].
///
/// User data and identity are requested until `patience` has passed: an instance that starts with the image's
/// settings because the network was late would serve with the wrong ones. After that the image's own settings are
/// used.
pub(crate) async fn configure(
    sources: &Sources,
    run_dir: &Path,
    metadata: &dyn Metadata,
    patience: Duration,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    let user_data = ask(deadline, || metadata.user_data()).await;
    match &user_data {
        Some(Some(text)) if is_ours(text) => {
            tracing::info!("user data has settings; they override the image's");
        }
        Some(Some(_)) => tracing::info!("user data has no settings for the agent and is ignored"),
        Some(None) => tracing::info!("no user data; using the image's own settings"),
        None => tracing::warn!(
            "no metadata service within {} s: continuing without user data",
            patience.as_secs()
        ),
    }
    let identity = ask(deadline, || metadata.identity()).await;
    let user_data = user_data.flatten();
    let settings = sources.load(user_data.as_deref())?;
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    for service in &settings.services {
        let path = run_dir.join(format!("{}.env", service.name));
        replace(&path, &environment(service), MODE)?;
        tracing::info!(
            "wrote {} ({} variables)",
            path.display(),
            service.environment.len()
        );
    }
    let request = run_dir.join(IMAGE_TESTS);
    if user_data.as_deref().is_some_and(image_tests::is_requested) {
        tracing::info!("user data requests the tests of this image");
        replace(&request, "", PUBLIC)?;
    }
    let instance_id = match identity {
        Some(identity) => identity.instance_id,
        None => subscription::machine_name()?,
    };
    let subject = Subject {
        instance_id,
        subscription: settings.update,
    };
    let path = run_dir.join(subscription::FILE);
    replace(&path, &subject.to_json()?, PUBLIC)?;
    // Undo the unit's umask, which is meant for the environment files.
    fs::set_permissions(&path, fs::Permissions::from_mode(PUBLIC))
        .with_context(|| format!("cannot open {} to readers", path.display()))?;
    write_proxy(run_dir, &settings.proxy)?;
    match &subject.subscription {
        Some(terms) => tracing::info!(
            "the agent follows channel {} at {}",
            terms.channel,
            terms.url
        ),
        None => tracing::info!("the agent follows no channel"),
    }
    Ok(())
}

/// Writes the settings' proxies for the updater, which runs as root: they may contain a password.
fn write_proxy(run_dir: &Path, settings: &ProxySettings) -> Result<()> {
    let path = run_dir.join(proxy::FILE);
    if settings.is_empty() {
        return support::files::remove(&path)
            .with_context(|| format!("cannot remove {}", path.display()));
    }
    replace(&path, &settings.to_json()?, MODE)
}

/// Calls the metadata service until it answers; `None` if it does not before the deadline.
async fn ask<'a, T>(deadline: Instant, question: impl Fn() -> Answer<'a, T>) -> Option<T> {
    let asking = async {
        loop {
            match question().await {
                Ok(answer) => return answer,
                Err(error) => tracing::warn!("{error:#}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout_at(deadline, asking).await.ok()
}

/// The file in systemd's `EnvironmentFile=` syntax. Keys and values were validated with the settings:
/// no value holds a line break.
fn environment(service: &Service) -> String {
    let mut text = format!(
        "# Written by imagebuilder-agent configure for {}.\n",
        service.unit
    );
    for (key, value) in &service.environment {
        let mut quoted = String::with_capacity(value.len());
        for c in value.chars() {
            if matches!(c, '"' | '\\' | '`' | '$') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}=\"{quoted}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use async_trait::async_trait;

    use super::*;
    use crate::identity::{Identity, TargetState};
    use crate::notice::{Scheduled, SpotNotices};

    struct FakeMetadata(Option<&'static str>);

    #[async_trait]
    impl Metadata for FakeMetadata {
        async fn identity(&self) -> Result<Identity> {
            match self.0 {
                Some(text) if text.ends_with("# no identity") => bail!("no ami-id"),
                Some("") => bail!("unreachable"),
                _ => Ok(Identity {
                    instance_id: "i-1".to_owned(),
                    image_id: "ami-1".to_owned(),
                    host: None,
                }),
            }
        }
        async fn user_data(&self) -> Result<Option<String>> {
            match self.0 {
                Some("") => bail!("unreachable"),
                answer => Ok(answer.map(str::to_owned)),
            }
        }
        async fn target_state(&self) -> Result<Option<TargetState>> {
            bail!("configure has no business with it")
        }
        async fn spot(&self) -> Result<SpotNotices> {
            bail!("configure has no business with it")
        }
        async fn schedule(&self) -> Result<Vec<Scheduled>> {
            bail!("configure has no business with it")
        }
    }

    const IMAGE: &str = "image = \"shop\"\n[services.orders]\nhealth_url = \"http://127.0.0.1:1/\"\n\
        environment = { STORE = 'a \"b\" \\ $c', PLAIN = \"x\" }\n\
        [services.idle]\nhealth_url = \"http://127.0.0.1:2/\"\n";

    async fn configured(answer: Option<&'static str>) -> (tempfile::TempDir, Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), IMAGE).unwrap();
        let sources = Sources {
            file: dir.path().join("agent.toml"),
            drop_ins: dir.path().join("agent.d"),
        };
        let run_dir = dir.path().join("run");
        let done = configure(
            &sources,
            &run_dir,
            &FakeMetadata(answer),
            Duration::from_secs(30),
        )
        .await;
        (dir, done)
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        let text = fs::read_to_string(dir.path().join("run").join(name)).unwrap();
        text.split_once('\n').unwrap().1.to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn environment_files_are_quoted_for_systemd_and_private() {
        let data = "#imagebuilder-agent\nservices.orders.environment.PLAIN = \"y\"";
        let (dir, done) = configured(Some(data)).await;
        done.unwrap();
        assert_eq!(
            read(&dir, "orders.env"),
            "PLAIN=\"y\"\nSTORE=\"a \\\"b\\\" \\\\ \\$c\"\n"
        );
        assert_eq!(read(&dir, "idle.env"), "");
        let mode = fs::metadata(dir.path().join("run/orders.env"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn configure_writes_the_updaters_settings() {
        let data =
            "#imagebuilder-agent\n[update]\nurl = \"https://x.example/c\"\nchannel = \"beta\"";
        let (dir, done) = configured(Some(data)).await;
        done.unwrap();
        let path = dir.path().join("run/update.json");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\n  \"channel\": \"beta\",\n  \"instance_id\": \"i-1\",\n  \"plain_http\": false,\n  \
             \"soak_seconds\": 120,\n  \"url\": \"https://x.example/c\",\n  \"windows\": []\n}\n"
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        // No channel, and no metadata service to name the instance.
        let (dir, done) = configured(Some("")).await;
        done.unwrap();
        let subject = Subject::read(&dir.path().join("run")).unwrap();
        assert!(subject.instance_id.starts_with("machine-"), "{subject:?}");
        assert_eq!(subject.subscription, None);
        // A metadata service with only a part of it provides that part.
        let (dir, done) = configured(Some(
            "#imagebuilder-agent\nupdate.url = \"file:///c\"\n# no identity",
        ))
        .await;
        done.unwrap();
        let subject = Subject::read(&dir.path().join("run")).unwrap();
        assert!(subject.instance_id.starts_with("machine-"), "{subject:?}");
        assert_eq!(subject.subscription.unwrap().url, "file:///c");
    }

    #[tokio::test(start_paused = true)]
    async fn without_settings_in_user_data_the_image_settings_are_used() {
        for answer in [None, Some(""), Some("#cloud-config\nusers: []")] {
            let (dir, done) = configured(answer).await;
            done.unwrap();
            assert!(
                read(&dir, "orders.env").starts_with("PLAIN=\"x\"\n"),
                "{answer:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_request_lets_the_tests_of_the_image_start() {
        let requested = "#cloud-config\n#imagebuilder-agent: run the tests of this image\n";
        for (answer, want) in [
            (None, false),
            (Some("#cloud-config\n"), false),
            (Some(requested), true),
        ] {
            let (dir, done) = configured(answer).await;
            done.unwrap();
            assert_eq!(
                dir.path().join("run").join(IMAGE_TESTS).exists(),
                want,
                "{answer:?}"
            );
        }
        assert!(image_tests::REQUESTED.ends_with(&format!("/{IMAGE_TESTS}")));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_settings_write_nothing() {
        let (dir, done) = configured(Some("#imagebuilder-agent\n[gates]")).await;
        assert!(
            done.unwrap_err()
                .to_string()
                .contains("did you mean `gate`?")
        );
        assert!(!dir.path().join("run").exists());
    }
}
