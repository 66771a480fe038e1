//! Everything the cloud does not answer itself, answered by `moto`, a mock of AWS in Python.
//!
//! It owns the child `moto_server`: started when the first foreign request comes, on a port that the
//! system gives it and its log names, and killed with this process however that ends. Requests and answers pass through as streams,
//! with all headers that are not about one connection. It understands none of them.
//!
//! What `moto` remembers lives as long as the child: orders in S3 are there until the cloud goes down,
//! and no longer. A child that died is started again, empty, and the log says so.

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

/// Names the program to start instead of the `moto_server` on the path.
const PROGRAM: &str = "REHEARSAL_MOTO";
/// Python imports all of moto first, which takes a while on a busy machine with a cold disk.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How often a starting moto's log is looked at.
const POLL: Duration = Duration::from_millis(50);
/// What its log says once it listens, before the port.
const LISTENS: &str = "Running on http://127.0.0.1:";

/// Headers about one connection and not about what it carries. `Expect` is among them: this side has
/// answered it already.
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

/// What a request carries: the stream it came in, or what was read of it.
pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Why moto cannot answer.
#[derive(Debug)]
pub(crate) enum MotoError {
    /// There is no such program.
    Missing(String),
    /// It does not start, or broke off.
    Broken(String),
}

/// The program that the environment names.
pub(crate) fn program() -> OsString {
    std::env::var_os(PROGRAM)
        .filter(|program| !program.is_empty())
        .unwrap_or_else(|| "moto_server".into())
}

/// The mock behind the door.
pub(crate) struct Moto {
    program: OsString,
    log: PathBuf,
    client: Client<HttpConnector, Body>,
    running: Mutex<Option<Running>>,
}

/// A child that answers.
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
    /// The moto that the environment names, logging into the cloud's `folder`. Nothing is started yet.
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

    /// Passes a request on, and its answer back.
    ///
    /// # Errors
    /// When moto is not there or does not answer.
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
            MotoError::Broken(format!("moto broke off: {error}; {}", self.see()))
        })?;
        without_connection(answer.headers_mut());
        Ok(answer)
    }

    /// The child, started if there is none. Who comes while it starts waits for the same one.
    async fn running(&self) -> Result<Running, MotoError> {
        let mut running = self.running.lock().await;
        match &*running {
            Some(there) if !there.has_ended() => return Ok(there.clone()),
            Some(_) => tracing::error!("moto ended, and starts again with nothing in it"),
            None => {}
        }
        let program = which::which(&self.program).map_err(|_| {
            MotoError::Missing(format!(
                "this service is answered by moto, and there is no {}; install it (pip install 'moto[server]') \
                 or name it in {PROGRAM} before `rehearsal up`",
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
        tracing::info!(port, "moto has started, for what is not answered here");
        Ok(Running { port, ended })
    }

    fn see(&self) -> String {
        format!("see {}", self.log.display())
    }
}

/// Starts the child; what is returned turns true when it has ended. The thread that starts it waits for it to end: Linux kills a process with
/// `PR_SET_PDEATHSIG` when the *thread* that started it ends.
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
    // A group of its own: Ctrl-C is for the daemon, which takes moto with it when it is done.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let ended = Arc::new(AtomicBool::new(false));
    let (told, outcome) = std::sync::mpsc::channel();
    let ends = Arc::clone(&ended);
    std::thread::Builder::new()
        .name("moto".to_owned())
        .spawn(move || {
            let child = command.spawn();
            let spawned = child.as_ref().map(|_| ()).map_err(std::io::Error::kind);
            // Whoever asked for it waits for this word.
            let _ = told.send(spawned);
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

/// Waits until the child listens, and hears from its log where.
async fn port(log: &Path, ended: &AtomicBool) -> anyhow::Result<u16> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        if ended.load(Ordering::SeqCst) {
            bail!("moto ended as it started");
        }
        let said =
            std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
        if let Some(port) = named(&said) {
            return Ok(port);
        }
        if Instant::now() > end {
            bail!("moto did not listen within {} s", START_PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The port in moto's log, once its line is whole.
fn named(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once(LISTENS)?;
    rest.split_once('\n')?.0.trim().parse().ok()
}

/// Takes away what is about one connection, what `Connection` itself names included.
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
    fn headers_of_a_connection_stay_behind() {
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
    async fn a_moto_that_is_not_there_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        let moto = Moto::new(
            "/no/such/moto_server".into(),
            folder.path().join("moto.log"),
        );
        let Err(MotoError::Missing(said)) = moto.running().await else {
            panic!("it was found");
        };
        assert!(
            said.contains("/no/such/moto_server") && said.contains("pip install 'moto[server]'"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_moto_that_ends_at_once_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let moto = Moto::new("false".into(), folder.path().join("moto.log"));
        let Err(MotoError::Broken(said)) = moto.running().await else {
            panic!("it answered");
        };
        assert!(
            said.contains("moto ended as it started") && said.contains("moto.log"),
            "{said}"
        );
    }
}
