//! The load balancer: an HTTP listener in front of each target group, and its health checks.
//!
//! It owns sockets only: which listeners exist, which targets may receive requests and what a failed check means is
//! decided by the cloud ([`BalancerSource`]).
//!
//! Like an Application Load Balancer it sends each request to the next target in rotation, and lets requests in flight
//! finish when their target starts draining. Unlike one, it opens a connection per request, and tries the next target
//! when a connection cannot be opened.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::accept::Failures;
use crate::balancer_source::{
    BalancerSource, CheckOutcome, ListenerView, TargetGroupView, TargetView,
};
use crate::ids::{InstanceId, ListenerArn, TargetGroupArn};

/// How often listeners and targets are read from the cloud: often enough that a new target is checked within the
/// shortest health-check interval, 5 s.
const LOOK: Duration = Duration::from_millis(250);
/// An Application Load Balancer's connection timeout.
const CONNECT: Duration = Duration::from_secs(10);
/// An Application Load Balancer's default idle timeout.
const IDLE: Duration = Duration::from_secs(60);

/// Headers that belong to one connection and are not passed on (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

type Body = BoxBody<Bytes, hyper::Error>;

/// Keeps listeners open and checks targets until `stopped` is true.
pub(crate) async fn run(source: Arc<dyn BalancerSource>, mut stopped: watch::Receiver<bool>) {
    let mut open: HashMap<ListenerArn, Open> = HashMap::new();
    let mut checks = Checks::default();
    loop {
        reconcile(&source, &mut open).await;
        checks.start_due(&source);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// One open listener; closes when dropped.
struct Open {
    view: ListenerView,
    serving: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn reconcile(source: &Arc<dyn BalancerSource>, open: &mut HashMap<ListenerArn, Open>) {
    let wanted = source.listeners();
    open.retain(|_, open| wanted.contains(&open.view));
    for view in wanted {
        if open.contains_key(&view.arn) {
            continue;
        }
        match TcpListener::bind(view.bind).await {
            Ok(listener) => {
                let serving = tokio::spawn(serve(
                    listener,
                    Arc::clone(source),
                    view.target_group_arn.clone(),
                ));
                open.insert(view.arn.clone(), Open { view, serving });
            }
            // Retried at the next poll: another process may be releasing the port.
            Err(error) => tracing::warn!(%error, listener = %view.bind, "cannot listen"),
        }
    }
}

async fn serve(
    listener: TcpListener,
    source: Arc<dyn BalancerSource>,
    target_group: TargetGroupArn,
) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    let mut failures = Failures::of("a load balancer");
    loop {
        while connections.try_join_next().is_some() {}
        let Some((stream, client)) = failures.pass(listener.accept().await).await else {
            continue;
        };
        let (source, turn, target_group) =
            (Arc::clone(&source), Arc::clone(&turn), target_group.clone());
        connections.spawn(async move {
            let answer = service_fn(|request| {
                let (source, turn) = (Arc::clone(&source), turn.fetch_add(1, Ordering::Relaxed));
                let target_group = target_group.clone();
                async move {
                    let group = source
                        .target_groups()
                        .into_iter()
                        .find(|group| group.arn == target_group);
                    let targets = group.map_or_else(Vec::new, |group| candidates(&group, turn));
                    Ok::<_, hyper::Error>(forward(request, client, &targets).await)
                }
            });
            // A client may disconnect at any time.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

/// The targets in rotation, the next one first.
fn candidates(group: &TargetGroupView, turn: usize) -> Vec<TargetView> {
    let mut targets: Vec<_> = group
        .targets
        .iter()
        .filter(|target| target.in_rotation)
        .cloned()
        .collect();
    if !targets.is_empty() {
        let first = turn % targets.len();
        targets.rotate_left(first);
    }
    targets
}

/// Sends the request to the first target that accepts a connection, and streams its answer back.
async fn forward(
    request: Request<Incoming>,
    client: SocketAddr,
    targets: &[TargetView],
) -> Response<Body> {
    if targets.is_empty() {
        return error_page(StatusCode::SERVICE_UNAVAILABLE);
    }
    for target in targets {
        let address = (target.address, target.port);
        if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(address)).await {
            return exchange(stream, outgoing(request, client)).await;
        }
    }
    error_page(StatusCode::BAD_GATEWAY)
}

async fn exchange(stream: TcpStream, request: Request<Incoming>) -> Response<Body> {
    let Ok((mut sender, connection)) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
    else {
        return error_page(StatusCode::BAD_GATEWAY);
    };
    // Runs as long as the answer's body is being read.
    tokio::spawn(connection);
    match timeout(IDLE, sender.send_request(request)).await {
        Ok(Ok(mut response)) => {
            strip(response.headers_mut());
            response.map(BodyExt::boxed)
        }
        Ok(Err(_)) => error_page(StatusCode::BAD_GATEWAY),
        Err(_) => error_page(StatusCode::GATEWAY_TIMEOUT),
    }
}

/// The request as the target gets it: same path, host and body, and the caller's address.
fn outgoing(mut request: Request<Incoming>, client: SocketAddr) -> Request<Incoming> {
    let headers = request.headers_mut();
    strip(headers);
    let before = headers
        .get("x-forwarded-for")
        .and_then(|value| value.to_str().ok())
        .map_or_else(String::new, |value| format!("{value}, "));
    if let Ok(value) = HeaderValue::from_str(&format!("{before}{}", client.ip())) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), value);
    }
    headers.insert(
        HeaderName::from_static("x-forwarded-proto"),
        HeaderValue::from_static("http"),
    );
    request
}

/// Removes the headers that belong to one connection.
fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// An error page in the form of an Application Load Balancer's.
fn error_page(status: StatusCode) -> Response<Body> {
    let title = format!(
        "{} {}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default()
    );
    let page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    let mut response = Response::new(
        Full::new(Bytes::from(page))
            .map_err(|never| match never {})
            .boxed(),
    );
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("awselb/2.0"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

/// The time of each target's next check.
#[derive(Default)]
struct Checks {
    due: HashMap<(TargetGroupArn, InstanceId), Instant>,
    running: JoinSet<()>,
}

impl Checks {
    fn start_due(&mut self, source: &Arc<dyn BalancerSource>) {
        while self.running.try_join_next().is_some() {}
        let now = Instant::now();
        let before = std::mem::take(&mut self.due);
        for group in source.target_groups() {
            for target in group.targets.iter().filter(|target| target.checked) {
                let key = (group.arn.clone(), target.instance_id.clone());
                let due = before.get(&key).copied().unwrap_or(now);
                if due > now {
                    self.due.insert(key, due);
                    continue;
                }
                self.due.insert(key, now + group.interval);
                let (source, group, target) = (Arc::clone(source), group.clone(), target.clone());
                self.running.spawn(async move {
                    let outcome = check(&group, &target).await;
                    let report = move || source.report(&group.arn, &target.instance_id, outcome);
                    // It may wait for the disk. A panic in it is reported by the panic handler.
                    let _ = tokio::task::spawn_blocking(report).await;
                });
            }
        }
    }
}

async fn check(group: &TargetGroupView, target: &TargetView) -> CheckOutcome {
    let port = group.port.unwrap_or(target.port);
    match timeout(group.timeout, status(target, port, &group.path)).await {
        Err(_) => CheckOutcome::Timeout,
        Ok(Err(_)) => CheckOutcome::Refused,
        Ok(Ok(status)) if matches(&group.matcher, status) => CheckOutcome::Pass,
        Ok(Ok(status)) => CheckOutcome::WrongStatus(status),
    }
}

async fn status(target: &TargetView, port: u16, path: &str) -> anyhow::Result<u16> {
    let stream = TcpStream::connect((target.address, port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, format!("{}:{port}", target.address))
        .header(header::USER_AGENT, "ELB-HealthChecker/2.0")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut checks = JoinSet::new();
    checks.spawn(connection);
    Ok(sender.send_request(request).await?.status().as_u16())
}

/// Whether a status fits a matcher such as `200`, `200,202` or `200-299`.
fn matches(matcher: &str, status: u16) -> bool {
    matcher.split(',').any(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
            (Ok(low), Ok(high)) => (low..=high).contains(&status),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests;
