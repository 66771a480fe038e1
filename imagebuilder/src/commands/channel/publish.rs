//! `imagebuilder channel publish`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use semver::Version;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::rollout::{DEFAULT_WAVES, shape, start};
use crate::channel::releases::New;
use crate::channel::session::{Access, ChannelSession, Outcome};
use crate::config::{Arch, Config};
use crate::context::Context;
use cloud::ids::ChannelName;
use run::document::Document;
use run::exit::Exit;

/// A binary prints its version at once or not at all.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest binary, in bytes: an agent has six million.
const MOST: u64 = 256 * 1024 * 1024;

/// Arguments of `channel publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Executable of the agent.
    binary: PathBuf,
    /// Its version [default: from `BINARY --version`].
    #[arg(long)]
    version: Option<Version>,
    /// Its architecture as the kernel names it [default: from the executable].
    #[arg(long, value_parser = ["x86_64", "aarch64"])]
    arch: Option<String>,
    /// Channel to add it to [default: `name` in [channel]].
    #[arg(long)]
    channel: Option<ChannelName>,
    /// Waves: `default`, `fast`, `all-at-once`, a profile of [channel.waves], or a list such as 1%@0h,5%@1h,100%@6h.
    #[arg(long)]
    waves: Option<String>,
    /// Oldest version that may update directly to it.
    #[arg(long, value_name = "VERSION")]
    min_from: Option<Version>,
    /// Oldest version that instances of its channels may keep, whatever hold or window is set.
    #[arg(long, value_name = "VERSION")]
    floor: Option<Version>,
    /// Start of the first wave, such as 2026-11-24T08:00:00Z [default: now].
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
}

/// What `channel publish` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer<'a> {
    /// The name of the binary in the repository.
    target: String,
    /// The release.
    version: String,
    /// Its architecture.
    arch: String,
    /// The binary's digest.
    sha256: String,
    /// The channel that it was published in.
    channel: &'a str,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Document for Answer<'_> {
    const NAME: &'static str = "channel-publish";
}

impl Publish {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let session = ChannelSession::open(context, &config, Access::Write).await?;
        let bytes = read(&self.binary)?;
        let arch = arch(&bytes, self.arch.as_deref(), &config)?;
        let version = match self.version {
            Some(version) => version,
            None => ask_version(&self.binary).await?,
        };
        let digest = Sha256::digest(&bytes);
        let new = New {
            version,
            arch,
            digest: digest.to_vec(),
            length: bytes.len() as u64,
            channel: self.channel.unwrap_or_else(|| session.channel.name.clone()),
            start: start(self.start, session.now),
            waves: self
                .waves
                .map(|text| shape(&text, &session.channel))
                .transpose()?,
            default_waves: shape(DEFAULT_WAVES, &session.channel)?,
            min_from: self.min_from,
            floor: self.floor,
        };
        let name = contract::release::Release::target_name(&new.version, &new.arch);
        let output = &context.output;
        let step = output.step("publish", format!("publish {name} in {}", new.channel));
        let outcome = session.publish(&new, &bytes).await?;
        if outcome.changed {
            let shape = new.waves.as_ref().unwrap_or(&new.default_waves);
            step.done(format!("{shape}, from {}", new.start));
        } else {
            step.done("nothing to do: it exists");
        }
        if output.wants_json() {
            output.json(&Answer {
                target: name,
                version: new.version.to_string(),
                arch: new.arch,
                sha256: hex::encode(digest),
                channel: new.channel.as_str(),
                outcome,
            })?;
        } else {
            output.data(name)?;
        }
        Ok(Exit::Done)
    }
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    let failed = |error| {
        Exit::Usage
            .error(format!("cannot read the binary {}", path.display()))
            .because(anyhow::Error::new(error))
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length == 0 || length > MOST {
        return Err(Exit::Usage
            .error(format!(
                "{} has {length} bytes; a release has 1 to {MOST}",
                path.display()
            ))
            .into());
    }
    Ok(std::fs::read(path).map_err(failed)?.into())
}

/// The architecture: from the executable, which must agree with the flag; scripts have none.
fn arch(bytes: &[u8], asked: Option<&str>, config: &Config) -> anyhow::Result<String> {
    let Some(found) = elf_arch(bytes) else {
        let of_image = match config.image.arch {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "aarch64",
        };
        return Ok(asked.unwrap_or(of_image).to_owned());
    };
    let found = found.map_err(|machine| {
        Exit::Refused.error(format!(
            "the binary is for another machine (ELF e_machine {machine})"
        ))
    })?;
    if let Some(asked) = asked
        && asked != found
    {
        return Err(Exit::Refused
            .error(format!("the binary is for {found}, not for {asked}"))
            .into());
    }
    Ok(found.to_owned())
}

/// From the header of a little-endian ELF file; `e_machine` is at byte 18 (System V ABI, chapter 4).
fn elf_arch(bytes: &[u8]) -> Option<Result<&'static str, u16>> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = bytes.get(18..20)?;
    Some(match u16::from_le_bytes([machine[0], machine[1]]) {
        62 => Ok("x86_64"),
        183 => Ok("aarch64"),
        other => Err(other),
    })
}

/// The last word of the first line that `BINARY --version` prints.
async fn ask_version(binary: &Path) -> anyhow::Result<Version> {
    let refuse = |why: String| {
        Exit::Refused
            .error(format!("{} --version {why}", binary.display()))
            .hint("it has to run here to print its version; for another architecture, pass --version V")
    };
    let program =
        std::fs::canonicalize(binary).with_context(|| format!("find {}", binary.display()))?;
    let asked = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(VERSION_TIMEOUT, asked).await {
        Err(_) => {
            return Err(refuse(format!(
                "printed nothing for {} s",
                VERSION_TIMEOUT.as_secs()
            ))
            .into());
        }
        Ok(Err(error)) => return Err(refuse("cannot be run".to_owned()).because(error).into()),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err(refuse(format!("failed: {}", output.status)).into());
    }
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = printed
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().last())
        .unwrap_or_default();
    Ok(Version::parse(word)
        .map_err(|_| refuse(format!("printed `{word}`, which is not a version")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_names_its_machine() {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(64, 0);
        assert_eq!(elf_arch(&header), Some(Err(0)));
        header[18] = 62;
        assert_eq!(elf_arch(&header), Some(Ok("x86_64")));
        header[18] = 183;
        assert_eq!(elf_arch(&header), Some(Ok("aarch64")));
        assert_eq!(elf_arch(b"\x7fELF"), None);
        assert_eq!(elf_arch(b"#!/bin/sh\n"), None);
    }
}
