//! Transfers the channel's files over `file://` and `https://`, within limits. It trusts nothing that it transfers;
//! [`super::tuf`] verifies.
//!
//! A proxy is used only where the settings or the environment name one, and is trusted no more than the server.
//! No redirect is followed: the channel is at the URL of the settings, and a captive portal's response is not the
//! channel's. No content encoding is requested or accepted, so that a length is a length. Of a server's text only a
//! status and a host name reach a log.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256, Sha512};
use tokio::time::{Instant, timeout_at};

use support::files;

use super::limits::{Limits, Rate};
use super::route::Route;
use crate::channel::refusal::{Cause, Refusal, chain};
use crate::proxy::Proxy;

/// SHA-256 and SHA-512 of a target, in lower-case hex; at least one is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) sha256: Option<String>,
    pub(super) sha512: Option<String>,
}

/// The base of a channel's files.
#[derive(Debug)]
enum Base {
    Folder(PathBuf),
    Web(String),
}

/// The HTTP client, and how it connects.
#[derive(Debug)]
struct Web {
    client: Client<HttpsConnector<Route>, Empty<Bytes>>,
    route: Route,
}

/// A channel's two folders, and the HTTP client for them.
#[derive(Debug)]
pub(super) struct ChannelFiles {
    metadata: Base,
    targets: Base,
    /// Absent when both are folders on this instance.
    client: Option<Web>,
    metadata_rate: Rate,
    release_rate: Rate,
}

impl ChannelFiles {
    /// Parses the URLs and sets up TLS; the network is not used yet.
    pub(super) fn new(
        metadata: &str,
        targets: &str,
        ca_file: Option<&Path>,
        plain_http: bool,
        proxy: &Proxy,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        let (metadata, targets) = (base(metadata, plain_http)?, base(targets, plain_http)?);
        let web = [&metadata, &targets]
            .iter()
            .any(|base| matches!(base, Base::Web(_)));
        let client = web
            .then(|| client(ca_file, plain_http, proxy))
            .transpose()?;
        Ok(Self {
            metadata,
            targets,
            client,
            metadata_rate: limits.metadata_rate,
            release_rate: limits.release_rate,
        })
    }

    /// A metadata file of at most `cap` bytes. `None`: the server does not have it.
    ///
    /// S3 answers 403 for a missing file to a caller that may not list the bucket. For the next root, whose absence
    /// is the normal end of the chain, 403 and 404 both mean that there is none (`end_of_chain`); for any other file
    /// 403 is a separate refusal, since the channel's own metadata names the file.
    pub(super) async fn metadata(
        &self,
        name: &str,
        cap: u64,
        end_of_chain: bool,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let mut rate_limit = RateLimit::new(name, self.metadata_rate);
        // The library has percent-encoded the name already.
        let mut body = match self
            .open(&self.metadata, name, name, 0, &mut rate_limit)
            .await
        {
            Ok(Answer::Body(body, _)) => body,
            Ok(Answer::None(StatusCode::FORBIDDEN)) if !end_of_chain => {
                return Err(Cause::Refused.because(format!(
                    "{name}: 403 Forbidden, which on S3 may also mean that it is not there"
                )));
            }
            Ok(Answer::None(_) | Answer::Range) => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        if let Some(announced) = body.announced.filter(|announced| *announced > cap) {
            return Err(endless(name, announced, cap));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next(&mut rate_limit).await? {
            let length = (bytes.len() + chunk.len()) as u64;
            // The bytes that arrive count, not the announced length.
            if length > cap {
                return Err(endless(name, length, cap));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Streams a target into `part`, continuing after what is already there; succeeds only with `length` bytes of the
    /// right digests.
    pub(super) async fn target(
        &self,
        path: &str,
        length: u64,
        digests: &Digests,
        part: &Path,
    ) -> Result<(), Refusal> {
        if !flat_or_nested(path) {
            return Err(Cause::Malformed.because(format!("{path:?} is not a file name")));
        }
        loop {
            let mut part_file = PartFile::open(part, length, digests)?;
            let resumed = part_file.have > 0;
            let done = self.append(path, &mut part_file).await;
            match done.and_then(|()| part_file.finish(path)) {
                Ok(()) => return Ok(()),
                // The bytes of an earlier attempt were not from this file: start over without them.
                Err(refusal) if refusal.cause == Cause::WrongDigest && resumed => {}
                Err(refusal) => {
                    part_file.unlink_if_empty()?;
                    return Err(refusal);
                }
            }
        }
    }

    async fn append(&self, path: &str, part_file: &mut PartFile<'_>) -> Result<(), Refusal> {
        if part_file.have == part_file.length {
            return Ok(());
        }
        let mut rate_limit = RateLimit::new(path, self.release_rate);
        let in_url = percent_encoded(path);
        let answer = self.open(
            &self.targets,
            path,
            &in_url,
            part_file.have,
            &mut rate_limit,
        );
        let (mut body, from) = match answer.await? {
            Answer::Body(body, from) => (body, from),
            Answer::None(StatusCode::FORBIDDEN) => {
                return Err(Cause::Refused.because(format!(
                    "{path}: 403 Forbidden, which on S3 may also mean that it is not there"
                )));
            }
            Answer::None(status) => {
                return Err(Cause::Missing.because(format!("{path}: {}", status.as_u16())));
            }
            Answer::Range => {
                part_file.unlink()?;
                return Err(Cause::WrongDigest.because(format!(
                    "{path} is shorter at the server than the {} bytes that are here already",
                    part_file.have
                )));
            }
        };
        if from != part_file.have {
            part_file.restart()?;
        }
        if let Some(announced) = body.announced
            && announced > part_file.length - part_file.have
        {
            part_file.unlink()?;
            return Err(endless(
                path,
                part_file.have.saturating_add(announced),
                part_file.length,
            ));
        }
        while let Some(chunk) = body.next(&mut rate_limit).await? {
            part_file.push(path, &chunk)?;
        }
        Ok(())
    }

    async fn open(
        &self,
        base: &Base,
        path: &str,
        in_url: &str,
        from: u64,
        rate_limit: &mut RateLimit<'_>,
    ) -> Result<Answer, Refusal> {
        match (base, &self.client) {
            (Base::Web(base), Some(client)) => ask(client, base, in_url, from, rate_limit).await,
            (Base::Folder(folder), _) => open_file(folder, path, from),
            (Base::Web(_), None) => Err(Cause::Misconfigured.because("no way to the network")),
        }
    }
}

/// A server's response to a request for one file.
enum Answer {
    /// The file, from this byte on.
    Body(Body, u64),
    /// The file does not exist or is not shown: 403, 404 or 410.
    None(StatusCode),
    /// The requested range begins past the file's end.
    Range,
}

/// The bytes of one file as they arrive.
struct Body {
    stream: Stream,
    /// How many more are announced by the server: enough to refuse early, not to be trusted.
    announced: Option<u64>,
}

enum Stream {
    File(File),
    Web(Incoming),
}

impl Body {
    async fn next(&mut self, rate_limit: &mut RateLimit<'_>) -> Result<Option<Bytes>, Refusal> {
        match &mut self.stream {
            Stream::File(file) => {
                let mut chunk = vec![0; 64 << 10];
                let read = file.read(&mut chunk).map_err(|error| {
                    Cause::Unreachable.because(format!("{}: {error}", rate_limit.name))
                })?;
                chunk.truncate(read);
                Ok((read > 0).then(|| chunk.into()))
            }
            Stream::Web(incoming) => loop {
                match rate_limit.held(incoming.frame()).await? {
                    None => return Ok(None),
                    Some(Err(error)) => {
                        let message = format!("{} broke off: {}", rate_limit.name, chain(&error));
                        return Err(Cause::Unreachable.because(message));
                    }
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            rate_limit.count(data.len())?;
                            return Ok(Some(data));
                        }
                    }
                }
            },
        }
    }
}

/// Enforces a [`Rate`].
struct RateLimit<'a> {
    name: &'a str,
    rate: Rate,
    deadline: Instant,
    since: Instant,
    bytes: u64,
}

impl<'a> RateLimit<'a> {
    fn new(name: &'a str, rate: Rate) -> Self {
        let now = Instant::now();
        Self {
            name,
            rate,
            deadline: now + rate.total,
            since: now,
            bytes: 0,
        }
    }

    /// Waits for the server's next response, within the rate.
    async fn held<T>(&self, next: impl Future<Output = T>) -> Result<T, Refusal> {
        let stalled = Instant::now() + self.rate.stall;
        let (until, limit) = if self.deadline <= stalled {
            (
                self.deadline,
                format!("not whole after {:?}", self.rate.total),
            )
        } else {
            (stalled, format!("nothing came for {:?}", self.rate.stall))
        };
        timeout_at(until, next)
            .await
            .map_err(|_| Cause::Slow.because(format!("{}: {limit}", self.name)))
    }

    /// Counts received bytes.
    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes += bytes as u64;
        let now = Instant::now();
        let (span, least) = (now - self.since, self.rate.least);
        if span < self.rate.window {
            return Ok(());
        }
        if self.bytes < least {
            return Err(Cause::Slow.because(format!(
                "{}: {} bytes in {} s, the least is {least} in {} s",
                self.name,
                self.bytes,
                span.as_secs(),
                self.rate.window.as_secs(),
            )));
        }
        (self.since, self.bytes) = (now, 0);
        Ok(())
    }
}

/// The file that a target is streamed to, hashed as it grows.
struct PartFile<'a> {
    part: &'a Path,
    file: File,
    have: u64,
    length: u64,
    digests: &'a Digests,
    sha256: Sha256,
    sha512: Sha512,
}

impl<'a> PartFile<'a> {
    /// Opens the file and hashes its contents, which are trusted no more than a server's.
    fn open(part: &'a Path, length: u64, digests: &'a Digests) -> Result<Self, Refusal> {
        let open = || -> io::Result<Self> {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(part)?;
            let mut part_file = Self {
                part,
                file,
                have: 0,
                length,
                digests,
                sha256: Sha256::new(),
                sha512: Sha512::new(),
            };
            let metadata = part_file.file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            if metadata.len() > length {
                part_file.file.set_len(0)?;
            }
            let mut chunk = vec![0; 64 << 10];
            loop {
                let read = part_file.file.read(&mut chunk)?;
                if read == 0 {
                    return Ok(part_file);
                }
                part_file.count(&chunk[..read]);
            }
        };
        open().map_err(|error| disk("reading", part, &error))
    }

    fn count(&mut self, bytes: &[u8]) {
        self.have += bytes.len() as u64;
        // Hashing costs more than the network on a small instance: only pinned algorithms.
        if self.digests.sha256.is_some() {
            self.sha256.update(bytes);
        }
        if self.digests.sha512.is_some() {
            self.sha512.update(bytes);
        }
    }

    fn restart(&mut self) -> Result<(), Refusal> {
        self.have = 0;
        self.sha256 = Sha256::new();
        self.sha512 = Sha512::new();
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|error| disk("emptying", self.part, &error))
    }

    fn push(&mut self, path: &str, chunk: &[u8]) -> Result<(), Refusal> {
        if chunk.len() as u64 > self.length - self.have {
            let came = self.have + chunk.len() as u64;
            self.unlink()?;
            return Err(endless(path, came, self.length));
        }
        if let Err(error) = self.file.write_all(chunk) {
            // On a full disk the part is removed: keeping it helps nothing.
            self.unlink()?;
            return Err(disk("writing", self.part, &error));
        }
        self.count(chunk);
        Ok(())
    }

    fn finish(&self, path: &str) -> Result<(), Refusal> {
        let right = |wanted: &Option<String>, found: &[u8]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted == hex::encode(found))
        };
        let pinned = self.digests.sha256.is_some() || self.digests.sha512.is_some();
        let whole = self.have == self.length;
        if !(whole
            && pinned
            && right(&self.digests.sha256, &self.sha256.clone().finalize())
            && right(&self.digests.sha512, &self.sha512.clone().finalize()))
        {
            self.unlink()?;
            return Err(Cause::WrongDigest.because(if whole {
                format!("{path} is not what was signed")
            } else {
                format!("{path} ended after {} of {} bytes", self.have, self.length)
            }));
        }
        self.file
            .sync_all()
            .map_err(|error| disk("syncing", self.part, &error))
    }

    fn unlink(&self) -> Result<(), Refusal> {
        files::remove(self.part).map_err(|error| disk("removing", self.part, &error))
    }

    /// Removes an empty file.
    fn unlink_if_empty(&self) -> Result<(), Refusal> {
        if self.have == 0 {
            self.unlink()
        } else {
            Ok(())
        }
    }
}

async fn ask(
    web: &Web,
    base: &str,
    path: &str,
    from: u64,
    rate_limit: &mut RateLimit<'_>,
) -> Result<Answer, Refusal> {
    let mut request = Request::get(format!("{base}/{path}"))
        .header(
            header::USER_AGENT,
            format!("imagebuilder-agent/{}", crate::version::version()),
        )
        .header(header::ACCEPT_ENCODING, "identity");
    if let Some(credentials) = request
        .uri_ref()
        .and_then(|uri| web.route.authorization(uri))
    {
        request = request.header(header::PROXY_AUTHORIZATION, credentials);
    }
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let request = request
        .body(Empty::new())
        .map_err(|error| Cause::Malformed.because(format!("{path}: {error}")))?;
    let response = rate_limit
        .held(web.client.request(request))
        .await?
        .map_err(|error| {
            let cause = if is_tls(&error) {
                Cause::Untrusted
            } else {
                Cause::Unreachable
            };
            cause.because(format!("{path}: {}", chain(&error)))
        })?;
    check_response(response, path, from)
}

/// Whether a response contains the file.
fn check_response(response: Response<Incoming>, path: &str, from: u64) -> Result<Answer, Refusal> {
    let refused = |what: String| Err(Cause::Refused.because(format!("{path}: {what}")));
    let status = response.status();
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Ok(Answer::None(status));
        }
        StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => return Ok(Answer::Range),
        status if status.is_redirection() => {
            // The host alone: the rest of a URL may carry credentials.
            let to = header(header::LOCATION).and_then(|to| to.parse::<Uri>().ok());
            let to = match &to {
                Some(uri) => match (uri.scheme_str(), uri.host()) {
                    (Some(scheme), Some(host)) => format!("{scheme}://{host}"),
                    _ => "the same host".to_owned(),
                },
                None => "nowhere".to_owned(),
            };
            return refused(format!(
                "{} to {to}; redirects are not followed",
                status.as_u16()
            ));
        }
        status => return refused(format!("the server answered {status}")),
    }
    if let Some(encoding) = header(header::CONTENT_ENCODING).filter(|e| *e != "identity") {
        return refused(format!("content encoding {encoding:.20} was not asked for"));
    }
    if header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) {
        return refused("a web page in place of the file: a captive portal?".to_owned());
    }
    let starts = match status {
        // A server may ignore the range and send everything.
        StatusCode::OK => 0,
        _ => {
            let range =
                header(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
            let start = range.and_then(|range| range.split('-').next()?.parse::<u64>().ok());
            if start != Some(from) || from == 0 {
                return refused("another part of the file than was asked for".to_owned());
            }
            from
        }
    };
    let announced = header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let stream = Stream::Web(response.into_body());
    Ok(Answer::Body(Body { stream, announced }, starts))
}

fn open_file(folder: &Path, path: &str, from: u64) -> Result<Answer, Refusal> {
    if !flat_or_nested(path) {
        return Err(Cause::Malformed.because(format!("{path:?} is not a file name")));
    }
    let open = || -> io::Result<(File, u64)> {
        let path = folder.join(path);
        // Checked before it is opened: opening a pipe would wait for its other end.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from))?;
        Ok((file, length))
    };
    match open() {
        Ok((_, length)) if length < from => Ok(Answer::Range),
        Ok((file, length)) => {
            let (stream, announced) = (Stream::File(file), Some(length - from));
            Ok(Answer::Body(Body { stream, announced }, from))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Answer::None(StatusCode::NOT_FOUND))
        }
        Err(error) => Err(Cause::Unreachable.because(format!("{path}: {error}"))),
    }
}

/// Parses one of the channel's URLs.
fn base(url: &str, plain_http: bool) -> Result<Base, Refusal> {
    let misset =
        |what: &str| Err(Cause::Misconfigured.because(format!("the channel's url {what}")));
    if let Some(path) = url.strip_prefix("file://") {
        let path = Path::new(path);
        return if path.is_absolute() {
            Ok(Base::Folder(path.to_owned()))
        } else {
            misset("is file:// without an absolute path")
        };
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return misset("is none");
    };
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if plain_http => {}
        Some("http") => return misset("is http:// without plain_http"),
        _ => return misset("is neither https:// nor file://"),
    }
    // Neither belongs in settings that every user of the instance may read, nor in a log.
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return misset("carries credentials");
    }
    if uri.query().is_some() || url.contains('#') {
        return misset("carries a query or a fragment");
    }
    Ok(Base::Web(url.trim_end_matches('/').to_owned()))
}

/// The HTTP client: HTTP/1.1, TLS by aws-lc-rs, the system's roots or those of `ca_file`.
fn client(ca_file: Option<&Path>, plain_http: bool, proxy: &Proxy) -> Result<Web, Refusal> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(ca_file)?);
    let builder = if plain_http {
        builder.https_or_http()
    } else {
        builder.https_only()
    };
    let route = Route::new(proxy);
    let connector = builder.enable_http1().wrap_connector(route.clone());
    Ok(Web {
        client: Client::builder(TokioExecutor::new()).build(connector),
        route,
    })
}

/// TLS by aws-lc-rs that trusts the system's roots or those of `ca_file`.
///
/// # Errors
/// The file cannot be read, or has no usable certificate.
pub fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, Refusal> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unusable = |error: String| {
                Cause::Misconfigured.because(format!("ca_file {}: {error}", path.display()))
            };
            let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                certificate
                    .map_err(|error| unusable(error.to_string()))
                    .and_then(|it| roots.add(it).map_err(|error| unusable(error.to_string())))?;
            }
            if roots.is_empty() {
                return Err(unusable("no certificate in it".to_owned()));
            }
        }
        None => {
            // Some stores contain invalid certificates; the valid ones are used.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Cause::Misconfigured.because(format!("TLS: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Whether TLS refused the server.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// Whether a path goes down only: no empty, `.` or `..` part, and nothing that another layer might take
/// for a separator.
fn flat_or_nested(path: &str) -> bool {
    let odd = |c: char| c.is_control() || c == '\\';
    !path.contains(odd)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// RFC 3986: everything but the unreserved characters and the slashes between parts.
fn percent_encoded(path: &str) -> String {
    use std::fmt::Write as _;

    path.bytes().fold(String::new(), |mut text, c| {
        if c.is_ascii_alphanumeric() || b"-._~/".contains(&c) {
            text.push(c.into());
        } else {
            let _ = write!(text, "%{c:02X}");
        }
        text
    })
}

fn endless(name: &str, length: u64, cap: u64) -> Refusal {
    Cause::EndlessData.because(format!(
        "{name}: {length} bytes or more, the limit is {cap}"
    ))
}

fn disk(doing: &str, path: &Path, error: &io::Error) -> Refusal {
    Cause::Disk.because(format!("{doing} {}: {error}", path.display()))
}
