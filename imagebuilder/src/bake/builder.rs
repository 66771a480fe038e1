//! What makes the AMI: one step of the bake, behind one trait.
//!
//! There is one implementation, Packer. Gate, publish and ledger do not know which one made the image.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::gate;
use super::instance_health::{self, Lost};
use crate::packer::{self, Ended, Line, Packer};
use crate::staging::TEMPLATE;
use cloud::ids::ImageId;
use cloud::{CloudError, Credentials, Identity, Instances};
use run::cancel::Cancel;
use run::exit::Exit;
use run::ledger::{Kind, Ledger};
use run::output::Step;

/// How often the builder instance is polled until it and its volume are in the ledger.
const POLL: Duration = Duration::from_secs(2);

/// How many of Packer's last lines a failure shows.
const LAST_LINES: usize = 12;

/// Makes an AMI from a staged run folder.
#[async_trait]
pub(crate) trait Builder: Send + Sync {
    /// Refuses an invalid template, before anything is created.
    async fn check(&self, folder: &Path) -> anyhow::Result<()>;
    /// Makes the image. The id is the one in the program's output: the caller has to verify with the API that this image is
    /// this run's.
    async fn build(
        &self,
        ledger: &mut Ledger,
        step: &mut Step,
        cancel: &Cancel,
        deadline: Duration,
    ) -> anyhow::Result<ImageId>;
}

/// Builds with Packer.
pub(crate) struct PackerBuilder {
    /// The program.
    pub(crate) packer: Packer,
    /// Where the builder instance is polled.
    pub(crate) instances: Arc<dyn Instances>,
    /// The source of Packer's credentials.
    pub(crate) identity: Arc<dyn Identity>,
}

#[async_trait]
impl Builder for PackerBuilder {
    async fn check(&self, folder: &Path) -> anyhow::Result<()> {
        self.packer.init(folder, TEMPLATE).await?;
        self.packer.validate(folder, TEMPLATE).await
    }

    async fn build(
        &self,
        ledger: &mut Ledger,
        step: &mut Step,
        cancel: &Cancel,
        deadline: Duration,
    ) -> anyhow::Result<ImageId> {
        let folder = ledger.folder().to_owned();
        let credentials = self.identity.credentials().await?;
        if let Some(text) = ends_early(credentials.as_ref(), jiff::Timestamp::now(), deadline) {
            step.info(text);
        }
        let lock = ledger.packer_lock()?;
        let running = self
            .packer
            .start(&folder, TEMPLATE, lock, credentials.as_ref())?;
        let mut transcript = Transcript::new(&ledger.journal().region);
        let (waiting, waits) = watch::channel(false);
        let run = ledger.run().clone();
        let mut stopped = None;
        let watched = async {
            let lost = instance_health::lost(self.instances.as_ref(), &run, waits);
            stopped = Some(tokio::select! {
                lost = lost => lost_builder(lost),
                error = self.record_builder(ledger) => error,
            });
        };
        let ended = running
            .follow(cancel, deadline, watched, |line| {
                transcript.read(line, step);
                waiting.send_replace(transcript.waiting_for_ssh);
            })
            .await;
        match ended? {
            Ended::Interrupted => {
                Err(stopped.unwrap_or_else(|| anyhow::anyhow!("packer was interrupted")))
            }
            Ended::Cancelled => Err(Exit::Cancelled
                .error("cancelled while packer was building")
                .into()),
            Ended::TimedOut => Err(Exit::BakeFailed
                .error(format!(
                    "packer did not finish within {} s",
                    deadline.as_secs()
                ))
                .hint(format!(
                    "its log is {}; `timeout_seconds` in [bake] sets the limit",
                    folder.display()
                ))
                .into()),
            Ended::Exited(status) if status.success() => transcript.image.ok_or_else(|| {
                Exit::BakeFailed
                    .error("packer succeeded but named no AMI")
                    .hint(format!("see {}", folder.join(packer::OUTPUT).display()))
                    .into()
            }),
            Ended::Exited(_) => Err(transcript.failure(&folder)),
        }
    }
}

impl PackerBuilder {
    /// Writes the builder and its volume into the ledger as soon as the API shows them: what is made from them later is
    /// identified by them, even when they are terminated. Ends only when the ledger cannot be written.
    async fn record_builder(&self, ledger: &mut Ledger) -> anyhow::Error {
        loop {
            match record_builder(self.instances.as_ref(), ledger).await {
                Ok(Ok(true)) => return std::future::pending().await,
                // A failed poll is repeated, and the sweep polls once more.
                Ok(Ok(false) | Err(_)) => tokio::time::sleep(POLL).await,
                Err(error) => return error,
            }
        }
    }
}

/// Records what the API shows of the run's builder; whether that was everything.
pub(super) async fn record_builder(
    instances: &dyn Instances,
    ledger: &mut Ledger,
) -> anyhow::Result<Result<bool, CloudError>> {
    let run = ledger.run().clone();
    let seen = async {
        let builders = instances.ever_tagged(contract::tags::RUN, run.as_str());
        let volumes = instances.volumes_tagged(contract::tags::RUN, Some(run.as_str()));
        Ok((builders.await?, volumes.await?))
    };
    let (builders, volumes) = match seen.await {
        Ok(seen) => seen,
        Err(error) => return Ok(Err(error)),
    };
    let builders: Vec<_> = builders.iter().filter_map(|b| b.owned_by(&run)).collect();
    let volumes: Vec<_> = volumes.iter().filter_map(|v| v.owned_by(&run)).collect();
    for builder in &builders {
        ledger.exists(Kind::Instance, "", builder)?;
    }
    for volume in &volumes {
        ledger.exists(Kind::Volume, "", volume)?;
    }
    Ok(Ok(!builders.is_empty() && !volumes.is_empty()))
}

/// A warning of credentials that expire before the build's time limit.
fn ends_early(
    credentials: Option<&Credentials>,
    now: jiff::Timestamp,
    limit: Duration,
) -> Option<String> {
    let expires = credentials?.expires?;
    let left = u64::try_from(expires.duration_since(now).as_secs()).unwrap_or(0);
    (left < limit.as_secs()).then(|| {
        format!(
            "warning: the credentials end in {} min, and the build may take {} (`timeout_seconds`): one that takes longer fails then",
            left / 60,
            limit.as_secs().div_ceil(60)
        )
    })
}

/// The error of a build whose builder never answers.
fn lost_builder(lost: Lost) -> anyhow::Error {
    let Lost {
        id,
        reason,
        console,
    } = lost;
    Exit::BakeFailed
        .error(format!(
            "the builder {id} failed while packer waited for its SSH: {reason}"
        ))
        .hint(gate::console_end(&id, &console))
        .into()
}

/// What Packer's output reported so far, as needed to explain a failure.
#[derive(Debug)]
struct Transcript {
    region: String,
    image: Option<ImageId>,
    script: Option<String>,
    waiting_for_ssh: bool,
    /// Packer's own reason.
    reason: Option<String>,
    /// The first error it printed, which may be a provisioner's.
    error: Option<String>,
    last: Vec<String>,
}

impl Transcript {
    fn new(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            image: None,
            script: None,
            waiting_for_ssh: false,
            reason: None,
            error: None,
            last: Vec::new(),
        }
    }

    fn read(&mut self, line: &Line, step: &mut Step) {
        match line {
            Line::Message(text) => {
                if text.starts_with("Stopping the source instance") {
                    self.script = None;
                }
                // Packer prints every tag of every resource; the template shows them all at once.
                if !text.starts_with("Adding tag") {
                    step.waiting(text.lines().next().unwrap_or_default());
                }
                self.keep(text);
            }
            Line::Error(text) => {
                self.error.get_or_insert_with(|| text.clone());
                self.keep(text);
            }
            Line::Failed(text) => self.reason = Some(text.clone()),
            Line::WaitingForSsh => {
                self.waiting_for_ssh = true;
                step.waiting("Waiting for SSH to become available...");
            }
            Line::Connected => {
                self.waiting_for_ssh = false;
                step.waiting("Connected to SSH!");
            }
            Line::Script(path) => {
                self.script = Some(path.clone());
                step.waiting(format!("running {path}"));
            }
            Line::Artifact(images) => {
                let here = images.iter().find(|(region, _)| *region == self.region);
                if let Some((_, id)) = here {
                    self.image = ImageId::parse(id.as_str()).ok();
                }
            }
        }
    }

    fn keep(&mut self, text: &str) {
        self.last.extend(text.lines().map(ToOwned::to_owned));
        let extra = self.last.len().saturating_sub(LAST_LINES);
        self.last.drain(..extra);
    }

    fn failure(&self, folder: &Path) -> anyhow::Error {
        let log = folder.join(packer::OUTPUT);
        let printed = self.reason.as_ref().or(self.error.as_ref());
        let printed = printed.map_or("packer failed", String::as_str);
        let printed = printed.lines().next().unwrap_or_default();
        if let Some(script) = &self.script {
            return Exit::BakeFailed
                .error(format!("provisioning failed in {script}: {printed}"))
                .hint(format!(
                    "its last lines:\n  {}\nall of them: {}",
                    self.last.join("\n  "),
                    log.display()
                ))
                .into();
        }
        if self.waiting_for_ssh {
            return Exit::BakeFailed
                .error(format!("the builder never answered on SSH: {printed}"))
                .hint(
                    "check `ssh_username`, `ssh_interface`, `ssh_port`, `subnet` and `source_cidrs`: \
                     this machine must reach the builder, and the source image must have that user",
                )
                .into();
        }
        Exit::BakeFailed
            .error(format!("packer failed: {printed}"))
            .hint(format!(
                "its last lines:\n  {}\nall of them: {}",
                self.last.join("\n  "),
                log.display()
            ))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_expire_during_the_build_are_warned_of() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let keys = |expires: Option<&str>| Credentials {
            access_key_id: "AKIAEXAMPLE".to_owned(),
            secret_access_key: "secret".to_owned(),
            session_token: None,
            expires: expires.map(|at| at.parse().unwrap()),
        };
        let limit = Duration::from_secs(5400);
        for (expires, warned) in [
            (None, false),
            (Some("2026-01-01T08:00:00Z"), false),
            (Some("2026-01-01T01:00:00Z"), true),
            (Some("2025-12-31T00:00:00Z"), true),
        ] {
            let found = ends_early(Some(&keys(expires)), now, limit);
            assert_eq!(found.is_some(), warned, "{expires:?}");
        }
        assert_eq!(ends_early(None, now, limit), None);
        let shown = format!("{:?}", keys(None));
        assert!(
            !shown.contains("secret") && !shown.contains("AKIA"),
            "{shown}"
        );
    }
}
