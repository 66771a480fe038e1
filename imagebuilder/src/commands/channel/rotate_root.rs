//! `imagebuilder channel rotate-root`.

use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tough::schema::{Root, Signed};

use crate::channel::author;
use crate::channel::keys::Opened;
use crate::channel::root::{self, Made, read_draft};
use crate::channel::seen::replace_file;
use crate::channel::session::{self, Access, ChannelSession};
use crate::channel::show;
use crate::config::KeySource;
use crate::context::Context;
use run::document::Document;
use run::exit::Exit;
use run::ledger::ChannelVersions;
use run::output::Output;

/// Arguments of `channel rotate-root`.
///
/// The configuration names the new keys; a key that signs now and is no longer named there is given with --old-key.
/// Without enough signatures a draft is written: carry it to the other keys, sign it there with --sign, bring it back,
/// and run the same command again.
#[derive(Debug, Args)]
pub(crate) struct RotateRoot {
    /// Key of the current root, targets or online role that the configuration no longer names; can be repeated.
    #[arg(long, value_name = "SOURCE", conflicts_with = "sign")]
    old_key: Vec<KeySource>,
    /// Sign a new root even if no key changes and the current one does not expire soon.
    #[arg(long, conflicts_with = "sign")]
    renew: bool,
    /// Only add signatures to a draft; needs neither the repository nor a configuration.
    #[arg(long, value_name = "DRAFT")]
    sign: Option<PathBuf>,
    /// Key to sign the draft with; can be repeated [default: the root keys of the configuration].
    #[arg(long, value_name = "SOURCE", requires = "sign")]
    with: Vec<KeySource>,
}

/// What `channel rotate-root` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The version of the root.
    root: u64,
    /// Whether anything was written.
    changed: bool,
    /// Whether instances can read this root.
    published: bool,
    /// The root that lacks signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    draft: Option<PathBuf>,
    /// How many signatures it has.
    signatures: usize,
    /// Versions of the metadata; absent for a draft.
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<ChannelVersions>,
}

impl Document for Answer {
    const NAME: &'static str = "channel-rotate-root";
}

impl RotateRoot {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match &self.sign {
            Some(draft) => self.sign(context, draft).await,
            None => self.rotate(context).await,
        }
    }

    async fn rotate(&self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let session = ChannelSession::open(context, &config, Access::Write).await?;
        let output = &context.output;
        let step = output.step(
            "rotate-root",
            format!("rotate the root of {}", session.place()),
        );
        let answer = match session.rotate(&self.old_key, self.renew).await? {
            Made::Nothing(verified) => {
                let root = verified.root();
                step.done(format!(
                    "nothing to do: root {} is as configured, and good until {}",
                    root.version, root.expires
                ));
                Answer {
                    root: root.version.get(),
                    changed: false,
                    published: true,
                    draft: None,
                    signatures: verified.roots.current.signatures.len(),
                    versions: Some(verified.versions().into()),
                }
            }
            Made::Published(verified) => {
                let root = verified.root();
                step.done(format!(
                    "root {} is good until {}",
                    root.version, root.expires
                ));
                output.info(format!(
                    "keep the new {} in version control: images are baked with it",
                    session.known_path().display()
                ));
                Answer {
                    root: root.version.get(),
                    changed: true,
                    published: true,
                    draft: None,
                    signatures: verified.roots.current.signatures.len(),
                    versions: Some(verified.versions().into()),
                }
            }
            Made::Draft {
                path,
                draft,
                missing,
            } => {
                step.done("the root lacks signatures; nothing was published");
                report_draft(output, &path, &draft, &missing, "rotate-root");
                Answer {
                    root: draft.signed.version.get(),
                    changed: false,
                    published: false,
                    draft: Some(path),
                    signatures: draft.signatures.len(),
                    versions: None,
                }
            }
        };
        if output.wants_json() {
            output.json(&answer)?;
        } else {
            output.data(match &answer.draft {
                Some(draft) => draft.display().to_string(),
                None => answer.root.to_string(),
            })?;
        }
        Ok(Exit::Done)
    }

    async fn sign(&self, context: &Context, path: &Path) -> anyhow::Result<Exit> {
        let output = &context.output;
        let Some(mut draft) = read_draft(path)? else {
            return Err(Exit::Usage
                .error(format!("there is no draft {}", path.display()))
                .into());
        };
        for line in show::draft(&draft.signed) {
            output.info(line);
        }
        let keys = self.signers(context).await?;
        let added = if self.with.is_empty() {
            root::add_signatures(&mut draft, &[], &keys).await?
        } else {
            root::sign_blindly(&mut draft, &keys).await?
        };
        if keys.iter().all(|key| !key.signs()) {
            return Err(Exit::Refused
                .error("none of these keys has its private half here")
                .hint("name one that has it: --with file:PATH or --with aws-kms:KEY")
                .into());
        }
        if added == 0 {
            output.info("nothing to do: these keys have signed it");
        } else {
            replace_file(path, &author::bytes(&draft)?)?;
            output.info(format!(
                "{added} more, {} in all; carry it back",
                draft.signatures.len()
            ));
        }
        if output.wants_json() {
            output.json(&Answer {
                root: draft.signed.version.get(),
                changed: added > 0,
                published: false,
                draft: Some(path.to_owned()),
                signatures: draft.signatures.len(),
                versions: None,
            })?;
        } else {
            output.data(path.display().to_string())?;
        }
        Ok(Exit::Done)
    }

    /// The keys that are to sign a draft.
    async fn signers(&self, context: &Context) -> anyhow::Result<Vec<Opened>> {
        if !self.with.is_empty() {
            // Given on the command line, so from where it was typed.
            return session::keyring(PathBuf::new(), context.connection(None))
                .open_all(&self.with)
                .await;
        }
        let config = context.config()?;
        let connection = context.connection(config.bake.region.as_deref());
        let keyring = session::keyring(context.root(), connection);
        let channel = config.channel()?;
        keyring.open_all(&channel.keys.root).await
    }
}

/// Reports what a draft changes and who has to sign it.
pub(super) fn report_draft(
    output: &Output,
    path: &Path,
    draft: &Signed<Root>,
    missing: &[String],
    verb: &str,
) {
    for line in show::draft(&draft.signed) {
        output.info(line);
    }
    output.info(format!(
        "{} signed; these may still sign: {}",
        draft.signatures.len(),
        missing.join(", ")
    ));
    output.info(format!(
        "carry {0} to them: `imagebuilder channel rotate-root --sign {0} --with file:KEY`; then `imagebuilder channel {verb}` here",
        path.display()
    ));
}
