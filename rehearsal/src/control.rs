//! Asking a running cloud's back door, below `/_rehearsal/` on the same port: what `status`, `dial` and
//! `down` use. `back_door` answers.
//!
//! No AWS client ever asks for these paths. The key that opens them is in the cloud's folder, readable
//! by its owner alone, so that neither a guest nor a page in a browser can turn a dial.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Flock, FlockType};

use crate::guests::accelerator::Accelerator;
use crate::store;

/// Where the daemon writes down its port and pid.
pub(crate) const DAEMON_FILE: &str = "daemon.json";

/// What a founding daemon makes before the state: no reason to refuse the folder.
const OWN_FILES: [&str; 3] = ["lock", "daemon.log", DAEMON_FILE];

/// The header that carries [`DaemonInfo::key`].
pub(crate) const KEY_HEADER: &str = "x-rehearsal-key";

/// What a running daemon says of itself in [`DAEMON_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct DaemonInfo {
    /// Its process.
    pub(crate) pid: u32,
    /// The port of its door.
    pub(crate) port: u16,
    /// What opens its back door; another one each time it comes up.
    pub(crate) key: String,
    /// What its guests run under; none where they are no virtual machines.
    #[serde(default)]
    pub(crate) accelerator: Option<Accelerator>,
}

/// An answer waits for the disk at most, which a busy machine can keep waiting; a daemon that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a daemon holds the folder. Only asks: who took the lock to find out would keep a daemon that is coming up
/// just now from having it.
///
/// # Errors
/// When the lock cannot be read.
pub(crate) fn is_up(folder: &Path) -> anyhow::Result<bool> {
    let path = folder.join("lock");
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let holder = rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::WriteLock));
    Ok(holder
        .with_context(|| format!("ask who holds {}", path.display()))?
        .is_some())
}

/// Refuses a folder in which no cloud was founded.
///
/// # Errors
/// When it is none.
pub(crate) fn check_is_cloud(folder: &Path) -> anyhow::Result<()> {
    if !folder.join(store::FILE).exists() {
        bail!(
            "{} is not a cloud\nhint: `rehearsal up {0}` founds one",
            folder.display()
        );
    }
    Ok(())
}

/// Refuses to found a cloud among somebody's files.
///
/// # Errors
/// When the folder holds something and was never a cloud, or is no folder.
pub(crate) fn check_can_create(folder: &Path) -> anyhow::Result<()> {
    if check_is_cloud(folder).is_ok() {
        return Ok(());
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    for entry in entries {
        let name = entry
            .with_context(|| format!("read {}", folder.display()))?
            .file_name();
        // What a daemon that did not come up leaves, and may come up beside.
        if !OWN_FILES.iter().any(|own| name == *own) {
            bail!(
                "{} is not a cloud, and holds {}\nhint: name a folder of its own; it need not exist",
                folder.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// Reads what the daemon of `folder` wrote down; none when it is down.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn running_daemon(folder: &Path) -> anyhow::Result<Option<DaemonInfo>> {
    // What a killed daemon left behind says nothing: the lock does.
    if check_is_cloud(folder).is_err() || !is_up(folder)? {
        return Ok(None);
    }
    let path = folder.join(DAEMON_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "the cloud in {} is coming up or going down\nhint: try again",
                folder.display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let info = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "read {}\nhint: another release of rehearsal keeps this cloud up; end it by the pid in there",
            path.display()
        )
    })?;
    Ok(Some(info))
}

/// Reads what the daemon of `folder` wrote down.
///
/// # Errors
/// When the folder is no cloud, or its cloud is down.
pub(crate) fn daemon_info(folder: &Path) -> anyhow::Result<DaemonInfo> {
    check_is_cloud(folder)?;
    match running_daemon(folder)? {
        Some(info) => Ok(info),
        None => bail!(
            "the cloud in {} is down\nhint: `rehearsal up {0}`",
            folder.display()
        ),
    }
}

/// Asks the daemon that wrote `info`.
///
/// # Errors
/// When it does not answer, or refuses; the message is its own.
pub(crate) async fn ask(
    info: &DaemonInfo,
    method: Method,
    path: &str,
    body: String,
) -> anyhow::Result<String> {
    let port = info.port;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .method(method)
        .uri(format!("http://127.0.0.1:{port}/_rehearsal/{path}"))
        .header(KEY_HEADER, &info.key)
        .body(Full::new(Bytes::from(body)))
        .context("build the request")?;
    let exchange = async {
        let answer = client
            .request(request)
            .await
            .with_context(|| format!("the cloud at port {port} is down"))?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .context("read the answer")?
            .to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("{text}");
        }
        Ok(text)
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("the cloud at port {port} does not answer"))?
}
