//! systemd, by its own `systemctl`: starts, stops and looks at the units that an attempt drives.
//!
//! It knows their names and nothing else: whether a unit's end is good or bad is [`super::attempt`]'s to
//! say. No shell is involved, and no D-Bus client: `systemctl` is where systemd is, and speaks to it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use tokio::process::Command;

use super::attempt::{Active, Unit, UnitState, Units};

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The same from the unit (`%b`), since the updater's sandbox hides `/proc/sys`.
const BOOT_ID_VARIABLE: &str = "IMAGEBUILDER_BOOT_ID";

/// What is asked of a unit.
const PROPERTIES: &str = "--property=LoadState,ActiveState,MainPID,Result,ExecMainStatus";

/// `systemctl`.
#[derive(Clone, Debug)]
pub struct Systemctl {
    program: PathBuf,
}

impl Default for Systemctl {
    fn default() -> Self {
        Self::new(Path::new("systemctl"))
    }
}

impl Systemctl {
    /// With another program in its place.
    #[must_use]
    pub fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
        }
    }

    /// Runs it to its end. Dropped, it is killed; a job that it waited for goes on in systemd.
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
        // A unit that used up its start limit is refused otherwise. One that systemd does not know yet has
        // no failure to forget, which is an error to systemctl and none to us.
        self.run(&["reset-failed", name]).await?;
        let done = self.run(&["start", name]).await?;
        if done.status.success() {
            return Ok(());
        }
        let said = first_line(&done.stderr);
        match self.state(unit).await {
            Ok(state) => bail!("cannot start {name}: {} ({said})", state.result),
            Err(_) => bail!("cannot start {name}: {said}"),
        }
    }

    async fn stop(&mut self, unit: Unit) -> Result<()> {
        let name = name(unit);
        let done = self.run(&["stop", name]).await?;
        if !done.status.success() {
            bail!("cannot stop {name}: {}", first_line(&done.stderr));
        }
        // Whoever stops it knows how it failed; a later attempt is not to take that for its own.
        self.run(&["reset-failed", name]).await?;
        Ok(())
    }

    async fn state(&mut self, unit: Unit) -> Result<UnitState> {
        let name = name(unit);
        let done = self.run(&["show", PROPERTIES, name]).await?;
        if !done.status.success() {
            bail!("cannot look at {name}: {}", first_line(&done.stderr));
        }
        parse(&String::from_utf8_lossy(&done.stdout))
            .with_context(|| format!("cannot look at {name}"))
    }
}

fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Stable => "imagebuilder-agent.service",
        Unit::Trial => "imagebuilder-agent-trial.service",
    }
}

/// Of what a program said, enough for a log line.
fn first_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("it said nothing")
        .chars()
        .take(200)
        .collect()
}

/// Reads what `systemctl show` prints: a line `Key=value` for each property, in any order.
pub(crate) fn parse(text: &str) -> Result<UnitState> {
    let of = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("systemctl did not tell {key}"))
    };
    let load = of("LoadState")?;
    // systemctl shows an unknown unit as an inactive one, and succeeds.
    if load == "not-found" {
        bail!("there is no such unit\nhint: the image must bring it; bake it anew");
    }
    let active = match of("ActiveState")? {
        "active" => Active::Active,
        "inactive" => Active::Inactive,
        "failed" => Active::Failed,
        "deactivating" => Active::Deactivating,
        // "reloading", "maintenance", and what newer releases bring: on their way to somewhere.
        _ => Active::Activating,
    };
    let pid: u32 = of("MainPID")?.parse().context("MainPID is no number")?;
    Ok(UnitState {
        active,
        pid: (pid != 0).then_some(pid),
        result: of("Result")?.to_owned(),
        // Only what ran has one.
        status: of("ExecMainStatus").ok().and_then(|text| text.parse().ok()),
    })
}

/// Which boot this is: 32 hex digits, another for every boot.
///
/// # Errors
/// Neither the unit nor the kernel says so.
pub fn boot_id() -> Result<String> {
    let told = match env::var(BOOT_ID_VARIABLE) {
        Ok(told) => told,
        Err(_) => fs::read_to_string(BOOT_ID).with_context(|| {
            format!("cannot tell this boot from another: no {BOOT_ID_VARIABLE}, and no {BOOT_ID}")
        })?,
    };
    plain(&told)
}

/// The kernel writes a UUID with dashes, systemd one without: both are the same boot.
fn plain(told: &str) -> Result<String> {
    let id: String = told.trim().chars().filter(|c| *c != '-').collect();
    if id.len() != 32 || !id.chars().all(|c| c.is_ascii_hexdigit()) {
        bail!("cannot tell this boot from another: {told:?} is no boot id");
    }
    Ok(id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
