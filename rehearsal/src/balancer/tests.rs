//! The balancer in front of small servers on loopback.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::ids::{InstanceId, TargetGroupArn};

const GROUP: &str = "arn:group";
/// Far longer than anything here takes; only a broken test meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cloud of one listener and one target group.
struct OneGroup {
    bind: SocketAddrV4,
    targets: Mutex<Vec<TargetView>>,
    reports: mpsc::UnboundedSender<(String, CheckOutcome)>,
}

impl OneGroup {
    fn set(&self, change: impl FnOnce(&mut Vec<TargetView>)) {
        change(&mut self.targets.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl BalancerSource for OneGroup {
    fn listeners(&self) -> Vec<ListenerView> {
        vec![ListenerView {
            arn: "arn:listener".into(),
            bind: self.bind,
            target_group_arn: GROUP.into(),
        }]
    }

    fn target_groups(&self) -> Vec<TargetGroupView> {
        vec![TargetGroupView {
            arn: GROUP.into(),
            path: "/gtg".into(),
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
            matcher: "200".into(),
            targets: self
                .targets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }]
    }

    fn report(
        &self,
        _target_group_arn: &TargetGroupArn,
        instance_id: &InstanceId,
        outcome: CheckOutcome,
    ) {
        let _ = self.reports.send((instance_id.to_string(), outcome));
    }
}

/// This process's own address, so that no other process gets a port there. No cloud has it.
fn address() -> Ipv4Addr {
    let [low, high, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, 210, high, low)
}

/// A port of [`address`] without a listener, which no other test gets.
fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let port = std::net::TcpListener::bind((address(), 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        if given.insert(port) {
            return port;
        }
    }
}

fn target(id: &str, port: u16) -> TargetView {
    TargetView {
        instance_id: id.into(),
        address: address(),
        port,
        in_rotation: true,
        checked: true,
    }
}

struct Fixture {
    source: Arc<OneGroup>,
    reports: mpsc::UnboundedReceiver<(String, CheckOutcome)>,
    _running: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

async fn fixture(targets: Vec<TargetView>) -> Fixture {
    let (reports, received) = mpsc::unbounded_channel();
    let source = Arc::new(OneGroup {
        bind: SocketAddrV4::new(address(), free_port()),
        targets: Mutex::new(targets),
        reports,
    });
    let (stop, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    running.spawn(run(Arc::clone(&source) as Arc<dyn BalancerSource>, stopped));
    Fixture {
        source,
        reports: received,
        _running: running,
        _stop: stop,
    }
}

/// Answers every request on its port with `status`, `name` and who it came for.
async fn server(running: &mut JoinSet<()>, name: &'static str, status: &'static str) -> u16 {
    let port = free_port();
    let listener = TcpListener::bind((address(), port)).await.unwrap();
    running.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = vec![0; 8192];
                let length = stream.read(&mut request).await.unwrap();
                let seen = String::from_utf8_lossy(&request[..length]).to_lowercase();
                let from = seen
                    .lines()
                    .find(|line| line.starts_with("x-forwarded-for"))
                    .unwrap_or("none");
                let body = format!("{name} {from}");
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

/// Reports that a request has arrived, and answers it once released.
async fn slow_server(running: &mut JoinSet<()>, arrived: Arc<Notify>, release: Arc<Notify>) -> u16 {
    let port = free_port();
    let listener = TcpListener::bind((address(), port)).await.unwrap();
    running.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 8192];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        arrived.notify_one();
        release.notified().await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nat last";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    port
}

/// One request through the listener, retried only until the listener is open.
async fn ask(bind: SocketAddrV4) -> (u16, String) {
    let asked = async {
        let mut stream = loop {
            match TcpStream::connect(bind).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(PATIENCE, asked).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer
        .split("\r\n\r\n")
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    (status, body)
}

#[tokio::test]
async fn requests_rotate_and_carry_the_caller_address() {
    let mut servers = JoinSet::new();
    let a = server(&mut servers, "a", "200 OK").await;
    let b = server(&mut servers, "b", "200 OK").await;
    let fixture = fixture(vec![target("i-a", a), target("i-b", b)]).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(ask(fixture.source.bind).await);
    }
    seen.sort();
    let expected = |name: &str| (200, format!("{name} x-forwarded-for: 127.0.0.1"));
    assert_eq!(
        seen,
        [expected("a"), expected("a"), expected("b"), expected("b")]
    );
}

#[tokio::test]
async fn no_target_is_503_and_a_dead_one_502() {
    let fixture = fixture(Vec::new()).await;
    assert_eq!(ask(fixture.source.bind).await.0, 503);
    fixture
        .source
        .set(|targets| targets.push(target("i-dead", free_port())));
    assert_eq!(ask(fixture.source.bind).await.0, 502);
}

#[tokio::test]
async fn an_unreachable_target_fails_no_request() {
    let mut servers = JoinSet::new();
    let well = server(&mut servers, "well", "200 OK").await;
    let fixture = fixture(vec![target("i-dead", free_port()), target("i-well", well)]).await;
    for _ in 0..4 {
        assert_eq!(ask(fixture.source.bind).await.0, 200);
    }
}

#[tokio::test]
async fn only_targets_in_rotation_get_requests() {
    let mut servers = JoinSet::new();
    let well = server(&mut servers, "well", "200 OK").await;
    let gone = server(&mut servers, "draining", "200 OK").await;
    let fixture = fixture(vec![
        target("i-well", well),
        TargetView {
            in_rotation: false,
            checked: false,
            ..target("i-gone", gone)
        },
    ])
    .await;
    for _ in 0..3 {
        assert!(ask(fixture.source.bind).await.1.starts_with("well"));
    }
}

#[tokio::test]
async fn a_request_in_flight_outlives_its_targets_draining() {
    let mut servers = JoinSet::new();
    let release = Arc::new(Notify::new());
    let arrived = Arc::new(Notify::new());
    let slow = slow_server(&mut servers, Arc::clone(&arrived), Arc::clone(&release)).await;
    let unchecked = TargetView {
        checked: false,
        ..target("i-slow", slow)
    };
    let fixture = fixture(vec![unchecked]).await;
    let bind = fixture.source.bind;
    let asked = tokio::spawn(async move { ask(bind).await });
    timeout(PATIENCE, arrived.notified()).await.unwrap();
    fixture.source.set(|targets| targets[0].in_rotation = false);
    assert_eq!(ask(bind).await.0, 503, "a new request has nowhere to go");
    release.notify_one();
    assert_eq!(asked.await.unwrap(), (200, "at last".to_owned()));
}

#[tokio::test]
async fn every_outcome_of_a_check_is_reported() {
    let mut servers = JoinSet::new();
    let well = server(&mut servers, "well", "200 OK").await;
    let sick = server(&mut servers, "sick", "503 Service Unavailable").await;
    let dead = free_port();
    let mut fixture = fixture(vec![
        target("i-well", well),
        target("i-sick", sick),
        target("i-dead", dead),
    ])
    .await;
    let mut seen = HashMap::new();
    while seen.len() < 3 {
        let (id, outcome) = timeout(PATIENCE, fixture.reports.recv())
            .await
            .unwrap()
            .unwrap();
        seen.insert(id, outcome);
    }
    assert_eq!(seen["i-well"], CheckOutcome::Pass);
    assert_eq!(seen["i-sick"], CheckOutcome::WrongStatus(503));
    assert_eq!(seen["i-dead"], CheckOutcome::Refused);
}

#[test]
fn a_matcher_is_statuses_and_ranges() {
    for (matcher, status, fits) in [
        ("200", 200, true),
        ("200", 201, false),
        ("200,202", 202, true),
        ("200-299", 299, true),
        ("200-299,301", 301, true),
        ("200-299", 300, false),
        ("", 200, false),
        ("x-y", 200, false),
    ] {
        assert_eq!(matches(matcher, status), fits, "{matcher} {status}");
    }
}
