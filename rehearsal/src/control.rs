//! The client of a running cloud's admin API (`admin`), below `/_rehearsal/` on the endpoint's port: `status`, `dial`
//! and `down` use it. Also the checks whether a folder holds a cloud, and whether that is up.
//!
//! The key of the admin API is in the cloud's folder, readable by its owner alone, so that neither a guest nor a page
//! in a browser can set a dial.

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
use support::shell::quoted_path;

use crate::guests::accelerator::Accelerator;
use crate::store;

/// The file with the running daemon's port, pid and key.
pub(crate) const DAEMON_FILE: &str = "daemon.json";

/// Files that a daemon creates before the state: a folder with only these may become a cloud.
const OWN_FILES: [&str; 3] = ["lock", "daemon.log", DAEMON_FILE];

/// The header that carries [`DaemonInfo::key`].
pub(crate) const KEY_HEADER: &str = "x-rehearsal-key";

/// A running daemon, as [`DAEMON_FILE`] describes it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct DaemonInfo {
    /// Its process id.
    pub(crate) pid: u32,
    /// The port of its endpoint.
    pub(crate) port: u16,
    /// The key of its admin API; a new one at each start.
    pub(crate) key: String,
    /// The accelerator of its guests; none for puppets.
    #[serde(default)]
    pub(crate) accelerator: Option<Accelerator>,
}

/// How long a request may take. The daemon waits for the disk at most, which can be slow on a busy host; one that takes
/// longer is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a daemon holds the folder's lock. Queries the lock without taking it: taking it could make a daemon that
/// starts right now fail.
///
/// # Errors
/// When the lock cannot be read.
pub(crate) fn is_up(folder: &Path) -> anyhow::Result<bool> {
    let path = folder.join("lock");
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let holder = rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::WriteLock));
    Ok(holder
        .with_context(|| format!("query the lock {}", path.display()))?
        .is_some())
}

/// Refuses a folder that holds no cloud.
///
/// # Errors
/// When it holds none.
pub(crate) fn check_is_cloud(folder: &Path) -> anyhow::Result<()> {
    if !folder.join(store::FILE).exists() {
        bail!(
            "{} is not a cloud\nhint: `rehearsal up {}` creates one",
            folder.display(),
            quoted_path(folder)
        );
    }
    Ok(())
}

/// Refuses to create a cloud among other files.
///
/// # Errors
/// When the folder holds other files and no cloud, or is not a folder.
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
        // A daemon that failed to start leaves only its own files.
        if !OWN_FILES.iter().any(|own| name == *own) {
            bail!(
                "{} is not a cloud, and contains {}\nhint: choose an empty folder; it need not exist",
                folder.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// Reads [`DAEMON_FILE`] in `folder`; none when the cloud is down.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn running_daemon(folder: &Path) -> anyhow::Result<Option<DaemonInfo>> {
    // A killed daemon leaves its file behind; only the lock shows that it runs.
    if check_is_cloud(folder).is_err() || !is_up(folder)? {
        return Ok(None);
    }
    let path = folder.join(DAEMON_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "the cloud in {} is starting or stopping\nhint: try again",
                folder.display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let info = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "read {}\nhint: stop the cloud with the release of rehearsal that runs it, or kill the pid in the file",
            path.display()
        )
    })?;
    Ok(Some(info))
}

/// Reads [`DAEMON_FILE`] in `folder`.
///
/// # Errors
/// When the folder holds no cloud, or the cloud is down.
pub(crate) fn daemon_info(folder: &Path) -> anyhow::Result<DaemonInfo> {
    check_is_cloud(folder)?;
    match running_daemon(folder)? {
        Some(info) => Ok(info),
        None => bail!(
            "the cloud in {} is down\nhint: `rehearsal up {}`",
            folder.display(),
            quoted_path(folder)
        ),
    }
}

/// Sends a request to the daemon that `info` describes.
///
/// # Errors
/// When it does not answer, or refuses; a refusal's text is the daemon's.
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
