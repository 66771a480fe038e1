//! Makes one check of each kind. A pass is `Ok`; the caller limits the time by dropping the future.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use super::{exec, http};
use crate::image_tests;
use crate::settings::CheckKind;

/// How long a connection must stay open: a proxy or a socket unit accepts for a service that is not there, and closes.
const STAYS_OPEN: Duration = Duration::from_millis(200);

/// Makes the check once.
pub(super) async fn make(kind: &CheckKind) -> Result<()> {
    match kind {
        CheckKind::Http(check) => http::check(check).await,
        CheckKind::Tcp(address) => tcp(address).await,
        CheckKind::Unix(socket) => unix(socket).await,
        CheckKind::Exec(command) => exec::check(command).await,
        CheckKind::Test { results, name } => image_tests::check(results, name),
        CheckKind::Systemd(unit) => systemd(Path::new("systemctl"), unit).await,
    }
}

async fn tcp(address: &str) -> Result<()> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    stays_open(stream, address).await
}

async fn unix(socket: &Path) -> Result<()> {
    let at = socket.display().to_string();
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot connect to {at}"))?;
    stays_open(stream, &at).await
}

async fn stays_open(mut stream: impl AsyncRead + Unpin, at: &str) -> Result<()> {
    match tokio::time::timeout(STAYS_OPEN, stream.read(&mut [0; 1])).await {
        Ok(Ok(0)) => bail!("{at} accepted the connection and closed it"),
        Ok(Err(error)) => {
            Err(error).with_context(|| format!("{at} accepted the connection and reset it"))
        }
        // A greeting, or silence: the peer waits for a request.
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

async fn systemd(systemctl: &Path, unit: &str) -> Result<()> {
    let shown = Command::new(systemctl)
        .args([
            "show",
            "--property=LoadState",
            "--property=ActiveState",
            "--",
            unit,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run systemctl")?;
    let text = String::from_utf8_lossy(&shown.stdout);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    match (value("LoadState="), value("ActiveState=")) {
        (_, Some("active")) => Ok(()),
        (Some("not-found"), _) => bail!("{unit} is not installed"),
        (_, Some(state)) => bail!("{unit} is {state}"),
        (_, None) => bail!("systemd did not report the state of {unit}"),
    }
}

#[cfg(test)]
mod tests;
