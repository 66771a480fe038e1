//! What makes the AMI: one step of the bake, behind one trait.
//!
//! Today there is one lane, Packer. Gate, publish and ledger do not know which one made the image.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::gate;
use super::instance_health::{self, Lost};
use crate::cancel::Cancel;
use crate::cloud::Instances;
use crate::exit::Exit;
use crate::ids::ImageId;
use crate::ledger::{Kind, Ledger};
use crate::output::Step;
use crate::packer::{self, Ended, Line, Packer, Reader};
use crate::stage::TEMPLATE;

/// How many of Packer's last lines a failure shows.
const LAST_LINES: usize = 12;

/// Makes an AMI from a staged run folder.
#[async_trait]
pub(crate) trait Lane: Send + Sync {
    /// Refuses what cannot work, before anything is created.
    async fn check(&self, folder: &Path) -> anyhow::Result<()>;
    /// Makes the image, recording every id the moment it is known.
    async fn build(
        &self,
        ledger: &mut Ledger,
        step: &mut Step,
        cancel: &Cancel,
        deadline: Duration,
    ) -> anyhow::Result<ImageId>;
}

/// The Packer lane.
pub(crate) struct PackerLane {
    /// The Packer that builds.
    pub(crate) packer: Packer,
    /// Where its builder is.
    pub(crate) instances: Arc<dyn Instances>,
}

#[async_trait]
impl Lane for PackerLane {
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
        let running = self
            .packer
            .start(&folder, TEMPLATE, ledger.packer_lock()?)?;
        let mut heard = Heard::default();
        let (waiting, waits) = watch::channel(false);
        let run = ledger.run().clone();
        let mut lost = None;
        let watched = async {
            lost = Some(instance_health::lost(self.instances.as_ref(), &run, waits).await);
        };
        let ended = running
            .follow(cancel, deadline, watched, |line| {
                heard.listen(line, step);
                waiting.send_replace(heard.waiting_for_ssh);
                record(ledger, line)
            })
            .await;
        match ended? {
            Ended::Interrupted => Err(lost_builder(lost)),
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
            Ended::Exited(status) if status.success() => heard.image.ok_or_else(|| {
                Exit::BakeFailed
                    .error("packer succeeded but named no AMI")
                    .hint(format!("see {}", folder.join(packer::OUTPUT).display()))
                    .into()
            }),
            Ended::Exited(_) => Err(heard.failure(&folder)),
        }
    }
}

/// A build whose builder never answers.
fn lost_builder(lost: Option<Lost>) -> anyhow::Error {
    let Some(Lost {
        id,
        reason,
        console,
    }) = lost
    else {
        return Exit::BakeFailed.error("packer was interrupted").into();
    };
    Exit::BakeFailed
        .error(format!(
            "the builder {id} failed while packer waited for its SSH: {reason}"
        ))
        .hint(gate::console_end(&id, &console))
        .into()
}

/// Writes what a line tells into the ledger.
pub(super) fn record(ledger: &mut Ledger, line: &Line) -> anyhow::Result<()> {
    match line {
        Line::SecurityGroup(name) => ledger.intend(Kind::SecurityGroup, name),
        Line::Instance(id) => ledger.exists(Kind::Instance, "", id),
        Line::CreatingImage(name) => ledger.intend(Kind::Image, name),
        Line::Image(id) => {
            let intended = ledger
                .open_things()
                .into_iter()
                .find(|thing| thing.kind == Kind::Image && thing.id.is_none())
                .map(|thing| thing.name)
                .unwrap_or_default();
            ledger.exists(Kind::Image, &intended, id)
        }
        Line::Say(_) | Line::Error(_) | Line::Script(_) | Line::WaitingForSsh | Line::Connected => {
            Ok(())
        }
    }
}

/// Reads a dead run's Packer output again, so that its ledger knows what its process had no time to record.
pub(crate) fn catch_up(ledger: &mut Ledger) -> anyhow::Result<()> {
    let folder = ledger.folder().to_owned();
    if !folder.join(packer::OUTPUT).exists() {
        return Ok(());
    }
    Reader::open(&folder)?.read(&mut |line| record(ledger, line))
}

/// What was heard from Packer, as far as its failure may have to tell it.
#[derive(Debug, Default)]
struct Heard {
    image: Option<ImageId>,
    script: Option<String>,
    waiting_for_ssh: bool,
    errors: Vec<String>,
    last: Vec<String>,
}

impl Heard {
    fn listen(&mut self, line: &Line, step: &mut Step) {
        match line {
            Line::Say(text) => {
                if text.starts_with("Stopping the source instance") {
                    self.script = None;
                }
                // Packer tells every tag of every resource; the template shows them all at once.
                if !text.starts_with("Adding tag") {
                    step.waiting(text.lines().next().unwrap_or_default());
                }
                self.keep(text);
            }
            Line::Error(text) => {
                self.errors.push(text.clone());
                self.keep(text);
            }
            Line::WaitingForSsh => {
                self.waiting_for_ssh = true;
                step.waiting("Waiting for SSH to become available...");
            }
            Line::Connected => {
                self.waiting_for_ssh = false;
                step.waiting("Connected to SSH!");
            }
            Line::SecurityGroup(_) => step.waiting("creating a temporary security group"),
            Line::Instance(id) => step.waiting(format!("builder {id} is starting")),
            Line::CreatingImage(name) => step.waiting(format!("creating AMI {name}")),
            Line::Image(id) => {
                self.image = ImageId::parse(id.as_str()).ok();
                step.waiting(format!("waiting for {id} to become available"));
            }
            Line::Script(path) => {
                self.script = Some(path.clone());
                step.waiting(format!("running {path}"));
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
        let said = self.errors.first().map_or("packer failed", String::as_str);
        let said = said.lines().next().unwrap_or_default();
        if let Some(script) = &self.script {
            return Exit::BakeFailed
                .error(format!("provisioning failed in {script}: {said}"))
                .hint(format!(
                    "its last words:\n  {}\nall of them: {}",
                    self.last.join("\n  "),
                    log.display()
                ))
                .into();
        }
        if self.waiting_for_ssh {
            return Exit::BakeFailed
                .error(format!("the builder never answered on SSH: {said}"))
                .hint(
                    "check `ssh_username`, `ssh_interface`, `ssh_port`, `subnet` and `source_cidrs`: \
                     can this machine reach the builder, and does the source image know that user?",
                )
                .into();
        }
        Exit::BakeFailed
            .error(format!("packer failed: {said}"))
            .hint(format!(
                "its last words:\n  {}\nall of them: {}",
                self.last.join("\n  "),
                log.display()
            ))
            .into()
    }
}
