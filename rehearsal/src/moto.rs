//! Services that the cloud does not implement itself, answered by `moto`, a mock of AWS in Python.
//!
//! It owns the child `moto_server`: started with the first request for such a service, on a port that the system
//! assigns and its log contains, and killed with this process however that ends. Requests and answers pass through as
//! streams, with all headers except those about one connection, and are not interpreted.
//!
//! What `moto` stores lasts as long as the child: orders in S3 exist until `down`. A child that died is started again,
//! empty, which is logged.

use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Mutex;

/// The environment variable with the program to start instead of the `moto_server` on the path.
const PROGRAM: &str = "REHEARSAL_MOTO";
/// How long moto may take to start: Python imports all of it first, which is slow on a busy host with a cold disk.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How often the log of a starting moto is read.
const POLL: Duration = Duration::from_millis(50);
/// The text before the port in its log, once it listens.
const LISTENS: &str = "Running on http://127.0.0.1:";

/// Headers about one connection. `Expect` is among them: it has been answered already.
const OF_A_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A request's body: the incoming stream, or the bytes that were read.
pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Why moto cannot answer.
#[derive(Debug)]
pub(crate) enum MotoError {
    /// The program is not installed.
    Missing(String),
    /// It does not start, or the connection broke.
    Broken(String),
}

/// The program to start, from the environment or the default.
pub(crate) fn program() -> OsString {
    std::env::var_os(PROGRAM)
        .filter(|program| !program.is_empty())
        .unwrap_or_else(|| "moto_server".into())
}

/// The child and how to reach it.
pub(crate) struct Moto {
    program: OsString,
    log: PathBuf,
    client: Client<HttpConnector, Body>,
    running: Mutex<Option<Running>>,
}

/// A running child.
#[derive(Clone)]
struct Running {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Running {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Moto {
    /// The moto that the environment selects, logging into the cloud's `folder`. Nothing is started yet.
    pub(crate) fn of_environment(folder: &Path) -> Self {
        Self::new(program(), folder.join("moto.log"))
    }

    fn new(program: OsString, log: PathBuf) -> Self {
        Self {
            program,
            log,
            client: Client::builder(TokioExecutor::new()).build_http(),
            running: Mutex::new(None),
        }
    }

    /// Forwards a request, and returns the answer.
    ///
    /// # Errors
    /// When moto is not installed or does not answer.
    pub(crate) async fn answer(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, MotoError> {
        let running = self.running().await?;
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority(format!("{}:{}", Ipv4Addr::LOCALHOST, running.port))
            .path_and_query(path)
            .build()
            .map_err(|error| MotoError::Broken(error.to_string()))?;
        without_connection(request.headers_mut());
        let mut answer = self.client.request(request).await.map_err(|error| {
            MotoError::Broken(format!(
                "moto closed the connection: {error}; {}",
                self.see()
            ))
        })?;
        without_connection(answer.headers_mut());
        Ok(answer)
    }

    /// The child, started if none runs. Concurrent callers wait for the same start.
    async fn running(&self) -> Result<Running, MotoError> {
        let mut running = self.running.lock().await;
        match &*running {
            Some(there) if !there.has_ended() => return Ok(there.clone()),
            Some(_) => tracing::error!("moto ended, and is started again without its data"),
            None => {}
        }
        let program = which::which(&self.program).map_err(|_| {
            MotoError::Missing(format!(
                "this service is answered by moto, and {} was not found; install it (pip install 'moto[server]') \
                 or set {PROGRAM} to its path before `rehearsal up`",
                self.program.display()
            ))
        })?;
        let started = self
            .start(&program)
            .await
            .map_err(|error| MotoError::Broken(format!("{error:#}; {}", self.see())))?;
        *running = Some(started.clone());
        Ok(started)
    }

    async fn start(&self, program: &Path) -> anyhow::Result<Running> {
        let ended = spawn(program, &self.log)?;
        let port = port(&self.log, &ended).await?;
        tracing::info!(
            port,
            "moto has started, for services that this cloud does not implement"
        );
        Ok(Running { port, ended })
    }

    fn see(&self) -> String {
        format!("see {}", self.log.display())
    }
}

/// Starts the child; the returned flag is set when it has ended. The thread that starts it waits for its end: Linux
/// kills a process with `PR_SET_PDEATHSIG` when the *thread* that started it ends.
fn spawn(program: &Path, log: &Path) -> anyhow::Result<Arc<AtomicBool>> {
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let errors = out.try_clone().context("share moto's log")?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(["-H", "127.0.0.1", "-p", "0"])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors);
    // A process group of its own: Ctrl-C ends the daemon first, which then ends moto.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let ended = Arc::new(AtomicBool::new(false));
    let (sender, outcome) = std::sync::mpsc::channel();
    let ends = Arc::clone(&ended);
    std::thread::Builder::new()
        .name("moto".to_owned())
        .spawn(move || {
            let child = command.spawn();
            let spawned = child.as_ref().map(|_| ()).map_err(std::io::Error::kind);
            // The caller waits for this message.
            let _ = sender.send(spawned);
            if let Ok(mut child) = child {
                let _ = child.wait();
            }
            ends.store(true, Ordering::SeqCst);
        })
        .context("start the thread that starts moto")?;
    outcome
        .recv()
        .context("the thread that starts moto has ended")?
        .map_err(std::io::Error::from)
        .context("start setpriv; it is in the package util-linux")?;
    Ok(ended)
}

/// Waits until the child listens, and reads its port from its log.
async fn port(log: &Path, ended: &AtomicBool) -> anyhow::Result<u16> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        if ended.load(Ordering::SeqCst) {
            bail!("moto ended while starting");
        }
        let message =
            std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
        if let Some(port) = named(&message) {
            return Ok(port);
        }
        if Instant::now() > end {
            bail!("moto did not listen within {} s", START_PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The port in moto's log, once its line is complete.
fn named(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once(LISTENS)?;
    rest.split_once('\n')?.0.trim().parse().ok()
}

/// Removes the headers about one connection, including those that `Connection` names.
fn without_connection(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_headers_are_not_forwarded() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "127.0.0.1:4800"),
            ("authorization", "AWS4-HMAC-SHA256 x"),
            ("expect", "100-continue"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("if-none-match", "*"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        without_connection(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "host", "if-none-match"]);
    }

    #[test]
    fn the_port_is_read_from_a_whole_line() {
        for (log, port) in [
            ("", None),
            (
                "WARNING: a development server.\n * Running on http://127.0.0.1:35",
                None,
            ),
            (
                " * Running on http://127.0.0.1:35713\nPress CTRL+C to quit\n",
                Some(35713),
            ),
            (" * Running on http://127.0.0.1:35713\u{1b}[0m\n", None),
        ] {
            assert_eq!(named(log), port, "{log}");
        }
    }

    #[tokio::test]
    async fn a_missing_moto_is_reported_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let moto = Moto::new(
            "/no/such/moto_server".into(),
            folder.path().join("moto.log"),
        );
        let Err(MotoError::Missing(message)) = moto.running().await else {
            panic!("it was found");
        };
        assert!(
            message.contains("/no/such/moto_server")
                && message.contains("pip install 'moto[server]'"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_moto_that_ends_at_once_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let moto = Moto::new("false".into(), folder.path().join("moto.log"));
        let Err(MotoError::Broken(message)) = moto.running().await else {
            panic!("it answered");
        };
        assert!(
            message.contains("moto ended while starting") && message.contains("moto.log"),
            "{message}"
        );
    }
}
