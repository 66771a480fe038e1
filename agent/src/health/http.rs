//! One GET by HTTP/1.1, over TCP or TLS.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::settings::HttpCheck;

/// How much of an answer is searched for `body_contains`.
const SEARCHED: usize = 64 * 1024;

/// Passes if the answer is what the check expects.
pub(super) async fn check(check: &HttpCheck) -> Result<()> {
    let answer = get(check).await?;
    let (path, status) = (check.uri.path(), answer.status());
    let code = status.as_u16();
    if !check.statuses.iter().any(|range| range.contains(&code)) {
        bail!("{path} answered {status}");
    }
    match &check.body_contains {
        Some(text) => search(answer, text.as_bytes())
            .await
            .with_context(|| format!("{path} answered {status}")),
        None => Ok(()),
    }
}

async fn search(answer: Response<Incoming>, wanted: &[u8]) -> Result<()> {
    let mut body = answer.into_body();
    let mut read = Vec::new();
    let found =
        |read: &[u8]| wanted.is_empty() || read.windows(wanted.len()).any(|it| it == wanted);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.context("the answer broke off")?.data_ref() {
            let room = SEARCHED - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
        }
        if read.len() >= SEARCHED {
            break;
        }
    }
    if !found(&read) {
        bail!("body_contains is not in its first {} KiB", SEARCHED / 1024);
    }
    Ok(())
}

/// The answer to one GET.
pub(super) async fn get(check: &HttpCheck) -> Result<Response<Incoming>> {
    let uri = &check.uri;
    let host = uri.host().ok_or_else(|| anyhow!("{uri} has no host"))?;
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((address, port))
        .await
        .with_context(|| format!("cannot connect to {host}:{port}"))?;
    if !secure {
        return request(check, host, stream).await;
    }
    // Read for every check: a renewed file is used without a restart of the agent.
    let config = agent_update::channel::tls(check.ca_file.as_deref())?;
    let name =
        ServerName::try_from(address.to_owned()).context("the host is not a server's name")?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .with_context(|| format!("cannot trust {host}:{port}"))?;
    request(check, host, stream).await
}

async fn request<S>(check: &HttpCheck, host: &str, stream: S) -> Result<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<S>: Read + Write,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("no HTTP")?;
    // It ends once the answer has been read or dropped.
    tokio::spawn(connection);
    let uri = &check.uri;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let agent = format!("imagebuilder-agent/{}", agent_update::version());
    let mut request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, agent)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .context("cannot form the request")?;
    for (name, value) in &check.headers {
        request.headers_mut().insert(name, value.clone());
    }
    sender.send_request(request).await.context("no answer")
}
