//! Runs the program of a check: as the agent's own user, in a process group of its own that is killed at the end.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// The programs' search path: nothing of the agent's environment reaches them.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of each output is kept. The rest is read and dropped, so that the program is not held up.
const KEPT: usize = 4096;

/// How long outputs are read after the program's end: a process that left the group may hold them open.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// The program's process group. Killed when dropped: at the limit, when the check is cancelled, and after the program's
/// end, so that what it started does not stay.
pub(crate) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    pub(crate) fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when nothing is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// The first line of its error output, or else of its output.
    pub(crate) output: String,
}

impl Ended {
    /// The exit status and the output, for messages.
    pub(crate) fn describe(&self) -> String {
        let status = describe(self.status);
        match self.output.as_str() {
            "" => status,
            output => format!("{status}: {output}"),
        }
    }
}

/// How a program ended, for messages.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Passes if the program exits with 0. The caller limits the time by dropping the future.
pub(super) async fn check(command: &[String]) -> Result<()> {
    let ended = run(command).await?;
    if !ended.status.success() {
        let program = command.first().map_or("", String::as_str);
        bail!("{program} {}", ended.describe());
    }
    Ok(())
}

/// Runs a program to its end. Dropping the future kills it and what it started.
pub(crate) async fn run(command: &[String]) -> Result<Ended> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("an empty command");
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let group = ProcessGroup::of(&child);
    let mut reading = JoinSet::new();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    reading.spawn(async move { (1, beginning(stdout).await) });
    reading.spawn(async move { (0, beginning(stderr).await) });
    let status = child
        .wait()
        .await
        .with_context(|| format!("cannot wait for {program}"))?;
    drop(group);
    let mut read = Vec::new();
    let all = async {
        while let Some(Ok(one)) = reading.join_next().await {
            read.push(one);
        }
    };
    // What is still open then was left open by a process that left the group.
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
    read.sort();
    let lines = read.iter().flat_map(|(_, text)| text.lines());
    let output = lines.map(str::trim).find(|line| !line.is_empty());
    Ok(Ended {
        status,
        output: output.unwrap_or_default().to_owned(),
    })
}

/// The beginning of an output, which is read to its end.
async fn beginning(output: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(mut output) = output {
        let mut buffer = [0; KEPT];
        while let Ok(length @ 1..) = output.read(&mut buffer).await {
            let room = KEPT - kept.len();
            kept.extend_from_slice(&buffer[..length.min(room)]);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
