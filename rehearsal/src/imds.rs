//! The instance metadata service, version 2: what an instance gets from 169.254.169.254.
//!
//! One router serves QEMU guests (over a unix socket that their network reaches) and puppets (over TCP). It answers
//! from [`ImdsFacts`] alone and stores only session tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;

use crate::accept::Failures;
use crate::ids::InstanceId;
use crate::imds_source::{ImdsFacts, ImdsSource, RoleCredentials};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// The longest lifetime of a token that IMDS accepts: six hours.
const LONGEST_TTL: u64 = 21_600;

/// A metadata service; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves an instance's metadata on a unix socket, from inside the runtime.
///
/// # Errors
/// When the socket cannot be created.
pub(crate) fn serve_unix(
    path: &Path,
    source: Arc<dyn ImdsSource>,
    id: &InstanceId,
) -> anyhow::Result<Serving> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // A killed daemon leaves its socket behind, on which binding would fail.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| {
        format!(
            "listen on {}\nhint: a socket's path has at most 107 characters; use a folder with a shorter one",
            path.display()
        )
    })?;
    let imds = Arc::new(Imds::new(source, id));
    let task = tokio::spawn(async move {
        let mut failures = Failures::of("a metadata service");
        loop {
            if let Some((stream, _)) = failures.pass(listener.accept().await).await {
                imds.converse(stream);
            }
        }
    });
    Ok(Serving(task.abort_handle()))
}

/// Serves an instance's metadata over TCP, from inside the runtime.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn serve_tcp(
    address: SocketAddrV4,
    source: Arc<dyn ImdsSource>,
    id: &InstanceId,
) -> anyhow::Result<Serving> {
    let listener = std::net::TcpListener::bind(address)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .with_context(|| format!("listen on {address}"))?;
    let imds = Arc::new(Imds::new(source, id));
    let task = tokio::spawn(async move {
        let mut failures = Failures::of("a metadata service");
        loop {
            if let Some((stream, _)) = failures.pass(listener.accept().await).await {
                imds.converse(stream);
            }
        }
    });
    Ok(Serving(task.abort_handle()))
}

/// One instance's metadata service.
struct Imds {
    source: Arc<dyn ImdsSource>,
    id: InstanceId,
    tokens: Mutex<BTreeMap<String, Instant>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
    ttl: Option<u64>,
}

impl Answer {
    fn text(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            kind: "text/plain",
            body: body.into(),
            ttl: None,
        }
    }

    /// An error page as EC2's.
    fn error(status: StatusCode) -> Self {
        let title = format!(
            "{} - {}",
            status.as_u16(),
            status.canonical_reason().unwrap_or("Error")
        );
        Self {
            status,
            kind: "text/html",
            body: format!(
                "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\t\"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n </body>\n</html>\n"
            )
            .into(),
            ttl: None,
        }
    }
}

impl Imds {
    fn new(source: Arc<dyn ImdsSource>, id: &InstanceId) -> Self {
        Self {
            source,
            id: id.clone(),
            tokens: Mutex::default(),
        }
    }

    fn converse(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let imds = Arc::clone(self);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let answer = imds.answer(
                    request.method(),
                    request.uri().path(),
                    request.headers(),
                    Instant::now(),
                );
                async { Ok::<_, Infallible>(on_the_wire(answer)) }
            });
            // A client may disconnect at any time.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, now: Instant) -> Answer {
        let Some(facts) = self.source.facts(&self.id) else {
            return Answer::error(StatusCode::NOT_FOUND);
        };
        if *method == Method::PUT {
            return if rest_of(path) == Some("api/token") {
                self.issue(headers, now)
            } else {
                Answer::error(StatusCode::METHOD_NOT_ALLOWED)
            };
        }
        if *method != Method::GET && *method != Method::HEAD {
            return Answer::error(StatusCode::METHOD_NOT_ALLOWED);
        }
        match headers.get(TOKEN) {
            // A wrong token is refused even where none is required.
            Some(token) if !self.knows(token, now) => Answer::error(StatusCode::UNAUTHORIZED),
            None if facts.tokens_required => Answer::error(StatusCode::UNAUTHORIZED),
            _ => get(&facts, path),
        }
    }

    fn issue(&self, headers: &HeaderMap, now: Instant) -> Answer {
        // A proxied request is not the instance's own: version 2 prevents this attack.
        if headers.contains_key("x-forwarded-for") {
            return Answer::error(StatusCode::FORBIDDEN);
        }
        let ttl = headers
            .get(TOKEN_TTL)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<u64>().ok())
            .filter(|ttl| (1..=LONGEST_TTL).contains(ttl));
        let Some(ttl) = ttl else {
            return Answer::error(StatusCode::BAD_REQUEST);
        };
        let mut random = [0_u8; 40];
        if getrandom::fill(&mut random).is_err() {
            return Answer::error(StatusCode::SERVICE_UNAVAILABLE);
        }
        let token = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, random);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, end| *end > now);
        tokens.insert(token.clone(), now + Duration::from_secs(ttl));
        Answer {
            ttl: Some(ttl),
            ..Answer::text(token)
        }
    }

    fn knows(&self, token: &HeaderValue, now: Instant) -> bool {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        token
            .to_str()
            .ok()
            .and_then(|token| tokens.get(token))
            .is_some_and(|end| *end > now)
    }
}

fn on_the_wire(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert("server", HeaderValue::from_static("EC2ws"));
    if let Some(ttl) = answer.ttl {
        headers.insert(TOKEN_TTL, HeaderValue::from(ttl));
    }
    response
}

/// The path below its version: `latest`, or a date.
fn rest_of(path: &str) -> Option<&str> {
    let path = path.trim_start_matches('/');
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    let dated = version.len() == 10 && version.starts_with("20");
    (version == "latest" || dated).then_some(rest)
}

fn get(facts: &ImdsFacts, path: &str) -> Answer {
    if path.trim_matches('/').is_empty() {
        return Answer::text("latest");
    }
    let Some(rest) = rest_of(path) else {
        return Answer::error(StatusCode::NOT_FOUND);
    };
    let found = match rest.trim_end_matches('/') {
        "" => Some("dynamic\nmeta-data\nuser-data".into()),
        "user-data" if facts.user_data.is_empty() => None,
        "user-data" => {
            return Answer {
                kind: "application/octet-stream",
                ..Answer::text(facts.user_data.clone())
            };
        }
        rest => {
            let tree = tree(facts);
            tree.get(rest)
                .map(|leaf| Bytes::from(leaf.clone()))
                .or_else(|| listing(&tree, facts, rest))
        }
    };
    found.map_or_else(|| Answer::error(StatusCode::NOT_FOUND), Answer::text)
}

/// The entries directly below `folder`, folders with a trailing slash.
fn listing(tree: &BTreeMap<String, String>, facts: &ImdsFacts, folder: &str) -> Option<Bytes> {
    // The only listing with more than names.
    if folder == "meta-data/public-keys" && !facts.public_keys.is_empty() {
        let keys = facts.public_keys.keys().enumerate();
        let keys: Vec<_> = keys.map(|(at, name)| format!("{at}={name}")).collect();
        return Some(keys.join("\n").into());
    }
    let names: BTreeSet<String> = tree
        .keys()
        .filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'))
        .map(|below| match below.split_once('/') {
            Some((name, _)) => format!("{name}/"),
            None => below.to_owned(),
        })
        .collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n").into())
}

/// Every leaf, by its path below the version.
fn tree(facts: &ImdsFacts) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut add = |path: &str, leaf: String| tree.insert(format!("meta-data/{path}"), leaf);
    let hostname = hostname(facts);
    add("ami-id", facts.image_id.to_string());
    add("ami-launch-index", "0".to_owned());
    add("hostname", hostname.clone());
    add("instance-action", "none".to_owned());
    add("instance-id", facts.instance_id.to_string());
    // A Spot notice set by a dial makes it a Spot Instance: only those get notices.
    let spot = facts.spot || facts.notices.spot.is_some() || facts.notices.rebalance.is_some();
    let life_cycle = if spot { "spot" } else { "on-demand" };
    add("instance-life-cycle", life_cycle.to_owned());
    add("instance-type", facts.instance_type.clone());
    add("local-hostname", hostname);
    add("local-ipv4", facts.private_ip.clone());
    add("placement/availability-zone", facts.zone.clone());
    add("placement/region", facts.region.clone());
    add("services/domain", "amazonaws.com".to_owned());
    add("services/partition", "aws".to_owned());
    add("services/rehearsal-port", facts.endpoint_port.to_string());
    for (at, key) in facts.public_keys.values().enumerate() {
        add(&format!("public-keys/{at}/openssh-key"), key.clone());
    }
    if let Some(state) = &facts.target_lifecycle_state {
        add("autoscaling/target-lifecycle-state", state.clone());
    }
    let notices = &facts.notices;
    if let Some((action, time)) = &notices.spot {
        let notice = serde_json::json!({"action": action, "time": time});
        add("spot/instance-action", notice.to_string());
        // The older path, only for instances that will be stopped or terminated.
        if action == "terminate" {
            add("spot/termination-time", time.clone());
        }
    }
    if let Some(since) = &notices.rebalance {
        let notice = serde_json::json!({"noticeTime": since});
        add("events/recommendations/rebalance", notice.to_string());
    }
    let scheduled: Vec<_> = notices
        .event
        .iter()
        .map(|[code, id, begins, ends]| {
            serde_json::json!({
                "NotBefore": begins,
                "Code": code,
                "Description": format!("The instance is scheduled for {code}"),
                "EventId": id,
                "NotAfter": ends,
                "State": "active",
            })
        })
        .collect();
    add("events/maintenance/history", "[]".to_owned());
    add(
        "events/maintenance/scheduled",
        serde_json::Value::from(scheduled).to_string(),
    );
    for (key, value) in facts.tags.iter().flatten() {
        add(&format!("tags/instance/{key}"), value.clone());
    }
    if let Some(role) = &facts.role {
        add("iam/info", role_info(facts, role));
        add(
            &format!("iam/security-credentials/{}", role.role),
            credentials(facts, role),
        );
    }
    tree.insert(
        "dynamic/instance-identity/document".to_owned(),
        identity_document(facts),
    );
    tree
}

fn role_info(facts: &ImdsFacts, role: &RoleCredentials) -> String {
    let info = serde_json::json!({
        "Code": "Success",
        "LastUpdated": facts.pending_time,
        "InstanceProfileArn": format!("arn:aws:iam::{}:instance-profile/{}", facts.account_id, role.role),
        "InstanceProfileId": "AIPAREHEARSAL00000000",
    });
    format!("{info:#}")
}

fn credentials(facts: &ImdsFacts, role: &RoleCredentials) -> String {
    let credentials = serde_json::json!({
        "Code": "Success",
        "LastUpdated": facts.pending_time,
        "Type": "AWS-HMAC",
        "AccessKeyId": role.access_key_id,
        "SecretAccessKey": role.secret_access_key,
        "Token": role.token,
        "Expiration": role.expiration,
    });
    format!("{credentials:#}")
}

fn identity_document(facts: &ImdsFacts) -> String {
    let identity = serde_json::json!({
        "accountId": facts.account_id,
        "architecture": facts.architecture,
        "availabilityZone": facts.zone,
        "imageId": facts.image_id,
        "instanceId": facts.instance_id,
        "instanceType": facts.instance_type,
        "pendingTime": facts.pending_time,
        "privateIp": facts.private_ip,
        "region": facts.region,
        "version": "2017-09-30",
    });
    format!("{identity:#}")
}

/// `ip-a-b-c-d` in the region's domain; us-east-1's is older than the rule.
fn hostname(facts: &ImdsFacts) -> String {
    let ip = facts.private_ip.replace('.', "-");
    match facts.region.as_str() {
        "us-east-1" => format!("ip-{ip}.ec2.internal"),
        region => format!("ip-{ip}.{region}.compute.internal"),
    }
}

#[cfg(test)]
mod tests;
