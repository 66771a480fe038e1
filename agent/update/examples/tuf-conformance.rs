//! The agent's channel behind the command line of the public TUF conformance suite
//! (theupdateframework/tuf-conformance, `CLIENT-CLI.md`). Not shipped.
//!
//! ```text
//! tuf-conformance --metadata-dir DIR init TRUSTED_ROOT
//! tuf-conformance --metadata-dir DIR --metadata-url URL refresh
//! tuf-conformance --metadata-dir DIR --metadata-url URL --target-name NAME… --target-base-url URL
//!                 --target-dir DIR download
//! ```
//!
//! Exit code 0, or 1 with the refusal on stderr. `docs/decisions/0006-the-tuf-client.md` describes how the
//! suite is run.

use std::path::PathBuf;
use std::process::ExitCode;

use agent_update::channel::{Channel as _, Place, TufChannel};
use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use jiff::Timestamp;

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    metadata_dir: PathBuf,
    #[arg(long, default_value = "http://127.0.0.1:9")]
    metadata_url: String,
    #[arg(long)]
    target_name: Vec<String>,
    #[arg(long)]
    target_base_url: Option<String>,
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Takes a root for the one to trust.
    Init {
        /// The root.
        trusted_root: PathBuf,
    },
    /// Brings the metadata up to date.
    Refresh,
    /// And then downloads targets.
    Download,
}

impl Cli {
    /// As on an instance, the root of trust is apart from the store, and the store's chain hangs on it.
    fn place(&self) -> Place {
        let trust = self.metadata_dir.join("trust");
        let mut place = Place::new("http://127.0.0.1:9", &trust, &self.metadata_dir);
        place.metadata_url.clone_from(&self.metadata_url);
        if let Some(url) = &self.target_base_url {
            place.targets_url.clone_from(url);
        }
        place.plain_http = true;
        place
    }

    async fn run(&self) -> Result<()> {
        let place = self.place();
        if let Verb::Init { trusted_root } = &self.verb {
            std::fs::create_dir_all(&place.trust)?;
            std::fs::copy(trusted_root, place.trust.join("root.json"))?;
            TufChannel::open(&place)?;
            return Ok(());
        }
        let now = Timestamp::now();
        let mut channel = TufChannel::open(&place)?;
        channel.refresh(now).await?;
        if !matches!(self.verb, Verb::Download) {
            return Ok(());
        }
        let into = self.target_dir.as_ref().context("no --target-dir")?;
        for name in &self.target_name {
            if name.split('/').any(|part| part == "..") {
                bail!("{name} leads out of the target directory");
            }
            let file = into.join(name.trim_start_matches('/'));
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let target = channel.find(name, now).await?;
            channel.fetch_target(&target, &file).await?;
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the suite shows it beside a failed test"
            )]
            {
                eprintln!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
