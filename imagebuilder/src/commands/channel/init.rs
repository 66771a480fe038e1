//! `imagebuilder channel init`.

use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::rotate_root::report_draft;
use crate::channel::keys;
use crate::channel::root::Made;
use crate::channel::session::{Access, ChannelSession};
use crate::config::{KeySource, Keys};
use crate::context::Context;
use run::document::Document;
use run::exit::Exit;
use run::ledger::ChannelVersions;

/// Arguments of `channel init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Generate keys in DIR, relative to the configuration: those of [channel.keys] that are in DIR, or a set of three
    /// root keys, one targets key and one online key. Never overwrites one.
    #[arg(long, value_name = "DIR")]
    generate_keys: Option<PathBuf>,
}

/// What `channel init` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer<'a> {
    /// The root of trust in the configuration's folder.
    root: &'a Path,
    /// Where the channel is.
    repository: String,
    /// Where instances read it.
    url: String,
    /// Whether anything was written.
    changed: bool,
    /// Whether instances can read the channel: false while its root lacks signatures.
    published: bool,
    /// The root that lacks signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    draft: Option<PathBuf>,
    /// Versions of the metadata; absent for a draft.
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<ChannelVersions>,
}

impl Document for Answer<'_> {
    const NAME: &'static str = "channel-init";
}

impl Init {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let mut session = ChannelSession::open(context, &config, Access::Write).await?;
        let output = &context.output;
        let mut made_here = false;
        if let Some(folder) = &self.generate_keys {
            let (keys, files) = to_generate(&session.channel.keys, folder)?;
            generate(&session.folder, &files)?;
            if session.channel.keys != keys {
                output.info("add this to the configuration:");
                for line in table(&keys) {
                    output.info(line);
                }
            }
            session.channel.keys = keys;
            made_here = true;
        }
        let step = output.step("init", format!("create a channel in {}", session.place()));
        let made = session.init().await?;
        let known = session.known_path();
        let mut answer = Answer {
            root: &known,
            repository: session.place(),
            url: session
                .channel
                .url(&session.folder, config.bake.region.as_deref()),
            changed: true,
            published: true,
            draft: None,
            versions: None,
        };
        match &made {
            Made::Nothing(verified) => {
                answer.changed = false;
                answer.versions = Some(verified.versions().into());
                step.done("nothing to do: it exists");
            }
            Made::Published(verified) => {
                answer.versions = Some(verified.versions().into());
                step.done(format!("its root of trust is {}", known.display()));
                output.info(format!(
                    "keep {} in version control: images are baked with it",
                    known.display()
                ));
                if made_here {
                    output.info("take the private root keys offline now, each to another holder: they are needed again only by `channel rotate-root`; their *.pub.pem stay here");
                    output.info("the targets key decides what instances run; the online key only lets them learn of it in time");
                }
                output.info("next: `imagebuilder channel publish BINARY`, and `imagebuilder channel refresh` every hour from cron");
            }
            Made::Draft {
                path,
                draft,
                missing,
            } => {
                answer.published = false;
                answer.draft = Some(path.clone());
                step.done("the root lacks signatures");
                report_draft(output, path, draft, missing, "init");
            }
        }
        if output.wants_json() {
            output.json(&answer)?;
        } else {
            let file = answer.draft.as_deref().unwrap_or(&known);
            output.data(file.display().to_string())?;
        }
        Ok(Exit::Done)
    }
}

/// The keys of the channel, and the files that are to be made of them.
fn to_generate(configured: &Keys, folder: &Path) -> anyhow::Result<(Keys, Vec<PathBuf>)> {
    let none =
        configured.root.is_empty() && configured.targets.is_empty() && configured.online.is_none();
    let keys = if none {
        let file = |name: &str| KeySource::File(folder.join(name));
        Keys {
            root: ["root-1.pem", "root-2.pem", "root-3.pem"]
                .map(file)
                .to_vec(),
            targets: vec![file("targets-1.pem")],
            online: Some(file("online.pem")),
            ..configured.clone()
        }
    } else {
        configured.clone()
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for source in keys.root.iter().chain(&keys.targets).chain(&keys.online) {
        if let KeySource::File(path) = source
            && path.starts_with(folder)
            && !files.contains(path)
        {
            files.push(path.clone());
        }
    }
    if files.is_empty() {
        return Err(Exit::Usage
            .error(format!("[channel.keys] names no file in {}", folder.display()))
            .hint("name the folder that contains them, or remove [channel.keys] for a set of fresh keys")
            .into());
    }
    Ok((keys, files))
}

fn generate(folder: &Path, files: &[PathBuf]) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = files.iter().map(|file| folder.join(file)).collect();
    for path in &paths {
        for path in [path.clone(), keys::public_path(path)] {
            if path.exists() {
                return Err(Exit::Usage
                    .error(format!("key {} exists already", path.display()))
                    .hint("it was not changed: run the same without --generate-keys to use the existing keys")
                    .into());
            }
        }
    }
    for path in &paths {
        if let Some(parent) = path.parent() {
            make_private(parent)?;
        }
        keys::generate(path)?;
    }
    Ok(())
}

/// Makes a folder for its owner alone, if it is not there.
fn make_private(folder: &Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("create the folder {}", folder.display()))
}

/// `[channel.keys]` as it is to be written.
fn table(keys: &Keys) -> Vec<String> {
    let list = |sources: &[KeySource]| {
        let all: Vec<String> = sources
            .iter()
            .map(|source| format!("\"{source}\""))
            .collect();
        format!("[{}]", all.join(", "))
    };
    let mut lines = vec![
        "  [channel.keys]".to_owned(),
        format!("  root = {}", list(&keys.root)),
        format!("  root_threshold = {}", keys.root_threshold),
        format!("  targets = {}", list(&keys.targets)),
        format!("  targets_threshold = {}", keys.targets_threshold),
    ];
    lines.extend(
        keys.online
            .iter()
            .map(|online| format!("  online = \"{online}\"")),
    );
    lines
}
