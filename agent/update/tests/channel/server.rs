//! A release server that misbehaves on purpose: HTTP/1.1 by hand, since no library would send this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::repository::Files;

/// What is wrong with the answer for one path.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, with a page of its own.
    Status(u16),
    /// 302 to there.
    Redirect(&'static str),
    /// 200 with a login page, of this content type.
    Portal(&'static str),
    /// Bytes without end, of unknown length.
    Endless,
    /// A length far beyond what comes.
    Announces(u64),
    /// The right length, and then only this many bytes of it.
    BreaksOff(usize),
    /// Only this many bytes, announced as all.
    Short(usize),
    /// Other bytes of the same length.
    Swapped,
    /// Announces compressed contents.
    Encoded,
    /// The whole file, whatever range was asked for.
    IgnoresRange,
    /// Some other range than the one asked for.
    OtherRange,
    /// Accepts the request and never answers.
    Silent,
    /// The head, and then nothing.
    Stalls,
    /// A byte now and then.
    Drips,
}

/// A connection, with TLS or without.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

#[derive(Default)]
struct State {
    files: Files,
    faults: BTreeMap<String, Fault>,
    /// The requests: path, and what range was asked for.
    seen: Vec<(String, Option<String>)>,
}

/// Ends with the test that holds it.
pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(files: Files) -> Self {
        Self::listen(files, None).await
    }

    /// `https://localhost:…`, with this certificate.
    pub(crate) async fn start_tls(files: Files, tls: ServerConfig) -> Self {
        Self::listen(files, Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn listen(files: Files, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let state = Arc::new(Mutex::new(State {
            files,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // Dropped with the task, and so are the connections.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                open.spawn(async move {
                    // A client that has had enough goes away: that is what is tested.
                    let _ = match tls {
                        Some(tls) => answer(&mut tls.accept(stream).await?, &state).await,
                        None => answer(&mut { stream }, &state).await,
                    };
                    std::io::Result::Ok(())
                });
            }
        });
        Self { url, state, task }
    }

    pub(crate) fn serve(&self, files: &Files) {
        self.state.lock().unwrap().files.clone_from(files);
    }

    pub(crate) fn fault(&self, path: &str, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.faults.insert(path.to_owned(), fault);
    }

    pub(crate) fn repair(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

async fn answer(stream: &mut impl Wire, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = vec![stream.read_u8().await?];
    if head != b"G" {
        // Such as the beginning of TLS.
        return whole(stream, "400 Bad Request", "", b"").await;
    }
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let path = path.trim_start_matches('/').replace("%2b", "+");
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: "))
        .map(str::to_owned);
    let (file, fault) = {
        let mut state = state.lock().unwrap();
        state.seen.push((path.clone(), range.clone()));
        (
            state.files.get(&path).cloned(),
            state.faults.get(&path).cloned(),
        )
    };
    let start = range
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let Some(file) = file else {
        let status = match fault {
            Some(Fault::Status(status)) => status,
            _ => 404,
        };
        return whole(
            stream,
            &format!("{status} No"),
            "",
            b"<Error>no such key</Error>",
        )
        .await;
    };
    let length = file.len();
    let (ok, none) = ("200 OK", "");
    match fault {
        None if start > length => whole(stream, "416 Range", none, b"").await,
        None if start > 0 => {
            let part = format!("Content-Range: bytes {start}-{}/{length}\r\n", length - 1);
            whole(stream, "206 Partial Content", &part, &file[start..]).await
        }
        None | Some(Fault::IgnoresRange) => whole(stream, ok, none, &file).await,
        Some(Fault::OtherRange) => {
            let part = format!("Content-Range: bytes 0-{}/{length}\r\n", length - 1);
            whole(stream, "206 Partial Content", &part, &file).await
        }
        Some(Fault::Status(status)) => {
            whole(
                stream,
                &format!("{status} No"),
                none,
                b"an error, at length",
            )
            .await
        }
        Some(Fault::Redirect(to)) => {
            whole(stream, "302 Found", &format!("Location: {to}\r\n"), b"").await
        }
        Some(Fault::Portal(kind)) => {
            let kind = format!("Content-Type: {kind}\r\n");
            whole(stream, ok, &kind, b"<html>Welcome to our hotel</html>").await
        }
        Some(Fault::Encoded) => whole(stream, ok, "Content-Encoding: gzip\r\n", &file).await,
        Some(Fault::Short(bytes)) => whole(stream, ok, none, &file[..bytes]).await,
        Some(Fault::Swapped) => whole(stream, ok, none, &vec![b'x'; length]).await,
        Some(Fault::BreaksOff(bytes)) => partly(stream, length as u64, &file[..bytes]).await,
        Some(Fault::Announces(length)) => partly(stream, length, &file).await,
        Some(Fault::Endless) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Stalls) => {
            partly(stream, length as u64, b"").await?;
            std::future::pending().await
        }
        Some(Fault::Drips) => {
            partly(stream, length as u64, b"").await?;
            let mut beat = tokio::time::interval(Duration::from_millis(5));
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for byte in file {
                beat.tick().await;
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
            }
            Ok(())
        }
    }
}

async fn whole(
    stream: &mut impl Wire,
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

async fn partly(stream: &mut impl Wire, length: u64, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
