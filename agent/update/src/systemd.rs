//! systemd, through `systemctl`: starts, stops and reads the units that an attempt drives.
//!
//! It only knows their names: [`super::attempt`] decides what a unit's result means. No shell and no D-Bus client is
//! involved.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use tokio::process::Command;

use super::attempt::{ActiveState, Unit, UnitState, Units};

/// The kernel's file with the boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The same from the unit (`%b`), since the updater's sandbox hides `/proc/sys`.
const BOOT_ID_VARIABLE: &str = "IMAGEBUILDER_BOOT_ID";

/// The properties that are read.
const PROPERTIES: &str = "--property=LoadState,ActiveState,MainPID,Result,ExecMainStatus";

/// `systemctl`.
#[derive(Clone, Debug)]
pub(crate) struct Systemctl {
    program: PathBuf,
}

impl Default for Systemctl {
    fn default() -> Self {
        Self::new(Path::new("systemctl"))
    }
}

impl Systemctl {
    /// With another program instead.
    #[must_use]
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
        }
    }

    /// Runs it to its end. Dropping the future kills it; the job of systemd continues.
    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.program)
            .args(["--no-ask-password", "--no-pager"])
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.program.display()))
    }
}

#[async_trait]
impl Units for Systemctl {
    async fn start(&mut self, unit: Unit) -> Result<()> {
        let name = name(unit);
        // A unit that reached its start limit is refused otherwise. For a unit that systemd has not loaded yet
        // systemctl reports an error, which is ignored.
        self.run(&["reset-failed", name]).await?;
        let done = self.run(&["start", name]).await?;
        if done.status.success() {
            return Ok(());
        }
        let message = first_line(&done.stderr);
        match self.state(unit).await {
            Ok(state) => bail!("cannot start {name}: {} ({message})", state.result),
            Err(_) => bail!("cannot start {name}: {message}"),
        }
    }

    async fn begin(&mut self, unit: Unit) -> Result<()> {
        let name = name(unit);
        self.run(&["reset-failed", name]).await?;
        let done = self.run(&["start", "--no-block", name]).await?;
        if !done.status.success() {
            bail!("cannot start {name}: {}", first_line(&done.stderr));
        }
        Ok(())
    }

    async fn stop(&mut self, unit: Unit) -> Result<()> {
        let name = name(unit);
        let done = self.run(&["stop", name]).await?;
        if !done.status.success() {
            bail!("cannot stop {name}: {}", first_line(&done.stderr));
        }
        // The failure is known by now; a later attempt must not take it for its own.
        self.run(&["reset-failed", name]).await?;
        Ok(())
    }

    async fn state(&mut self, unit: Unit) -> Result<UnitState> {
        let name = name(unit);
        let done = self.run(&["show", PROPERTIES, name]).await?;
        if !done.status.success() {
            bail!(
                "cannot read the state of {name}: {}",
                first_line(&done.stderr)
            );
        }
        parse(&String::from_utf8_lossy(&done.stdout))
            .with_context(|| format!("cannot read the state of {name}"))
    }
}

fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Stable => "imagebuilder-agent.service",
        Unit::Trial => "imagebuilder-agent-trial.service",
    }
}

/// The first line of a program's output, for messages.
fn first_line(message: &[u8]) -> String {
    let message = String::from_utf8_lossy(message);
    let line = message.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("no output").chars().take(200).collect()
}

/// Parses the output of `systemctl show`: a line `Key=value` for each property, in any order.
pub(crate) fn parse(text: &str) -> Result<UnitState> {
    let of = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("systemctl did not print {key}"))
    };
    let load = of("LoadState")?;
    // systemctl shows an unknown unit as an inactive one, and succeeds.
    if load == "not-found" {
        bail!("there is no such unit\nhint: bake an image that contains it");
    }
    let active = match of("ActiveState")? {
        "active" => ActiveState::Active,
        "inactive" => ActiveState::Inactive,
        "failed" => ActiveState::Failed,
        "deactivating" => ActiveState::Deactivating,
        // "reloading", "maintenance", and states of newer releases: in transition.
        _ => ActiveState::Activating,
    };
    let pid: u32 = of("MainPID")?.parse().context("MainPID is not a number")?;
    Ok(UnitState {
        active,
        pid: (pid != 0).then_some(pid),
        result: of("Result")?.to_owned(),
        // Absent before the first run.
        status: of("ExecMainStatus").ok().and_then(|text| text.parse().ok()),
    })
}

/// The id of this boot: 32 hex digits, different for every boot.
///
/// # Errors
/// Neither the unit nor the kernel provides it.
pub(crate) fn boot_id() -> Result<String> {
    let id = match env::var(BOOT_ID_VARIABLE) {
        Ok(id) => id,
        Err(_) => fs::read_to_string(BOOT_ID).with_context(|| {
            format!("cannot identify this boot: neither {BOOT_ID_VARIABLE} nor {BOOT_ID} exists")
        })?,
    };
    plain(&id)
}

/// The kernel writes a UUID with dashes, systemd one without: both are the same boot.
fn plain(id: &str) -> Result<String> {
    let id: String = id.trim().chars().filter(|c| *c != '-').collect();
    if id.len() != 32 || !id.chars().all(|c| c.is_ascii_hexdigit()) {
        bail!("cannot identify this boot: {id:?} is not a boot id");
    }
    Ok(id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
