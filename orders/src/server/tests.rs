//! Connections over pipes, on a paused clock that advances when every task waits.

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Larger than any pipe and buffer here.
const BIG: usize = 300_000;

/// A running server under test.
struct Scene {
    shared: Arc<Shared>,
    stop: watch::Sender<StopPhase>,
    /// Lets `/held` respond.
    go: Arc<Semaphore>,
}

impl Scene {
    fn new(bounds: Bounds) -> Self {
        let go = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&go);
        let held = move || async move {
            let _ = gate.acquire().await;
            "held"
        };
        let router = Router::new()
            .route("/", get(async || "hi"))
            .route("/held", get(held))
            .route("/big", get(async || vec![b'x'; BIG]));
        let (stop, phase) = watch::channel(StopPhase::Open);
        let shared = Arc::new(Shared {
            bounds,
            router,
            slots: Arc::new(Semaphore::new(bounds.connections)),
            active: Arc::new(Semaphore::new(bounds.active)),
            evict_idle: Notify::new(),
            evict_slow: Notify::new(),
            phase,
            open: Gauge::default(),
            shed: AtomicU64::new(0),
            begun: Instant::now(),
        });
        Self { shared, stop, go }
    }

    async fn connect(&self) -> DuplexStream {
        let (client, server) = duplex(16 * 1024);
        admit(server, None, &self.shared).await;
        client
    }

    /// Open connections, and how many of them are active.
    fn count(&self) -> (usize, usize) {
        let bounds = self.shared.bounds;
        let open = self.shared.open.get();
        let slots = bounds.connections - self.shared.slots.available_permits();
        assert_eq!(usize::try_from(open).unwrap(), slots);
        (
            slots,
            bounds.active - self.shared.active.available_permits(),
        )
    }
}

async fn send(stream: &mut DuplexStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads one response with a content-length, and no byte more.
async fn answer(stream: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    loop {
        text.push(stream.read_u8().await.unwrap());
        let so_far = String::from_utf8_lossy(&text);
        let Some((head, body)) = so_far.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            return so_far.into_owned();
        }
    }
}

/// Reads to the end; also returns the seconds it took.
async fn rest(stream: &mut DuplexStream) -> (String, u64) {
    let begun = Instant::now();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (text, begun.elapsed().as_secs())
}

/// Lets all tasks run until they wait, without firing a timer of half a second or more.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

const GET: &str = "GET / HTTP/1.1\r\nhost: s\r\n\r\n";
const HELD: &str = "GET /held HTTP/1.1\r\nhost: s\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_after_their_time_limit() {
    let scene = Scene::new(Bounds::default());
    let mut mute = scene.connect().await;
    assert_eq!(rest(&mut mute).await, (String::new(), 75));

    let mut stream = scene.connect().await;
    for _ in 0..3 {
        send(&mut stream, GET).await;
        assert!(answer(&mut stream).await.ends_with("hi"));
        assert_eq!(scene.count(), (1, 1));
        // Longer than it may be active, shorter than it may be idle.
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(scene.count(), (1, 0), "it gave its memory back");
    }
    let (response, seconds) = rest(&mut stream).await;
    assert_eq!(response, "");
    assert!((5..=9).contains(&seconds), "{seconds}");
    assert_eq!(scene.count(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_arrives_too_slowly_is_refused() {
    let scene = Scene::new(Bounds::default());
    for before in ["", GET] {
        let mut stream = scene.connect().await;
        send(&mut stream, before).await;
        if !before.is_empty() {
            answer(&mut stream).await;
        }
        let begun = Instant::now();
        send(&mut stream, "GET / HTTP/1.1\r\nx-a: ").await;
        let (mut read, mut write) = tokio::io::split(stream);
        let trickle = tokio::spawn(async move {
            while write.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut response = String::new();
        read.read_to_string(&mut response).await.unwrap();
        assert!(
            response.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{response}"
        );
        let seconds = begun.elapsed().as_secs();
        assert!((9..=15).contains(&seconds), "{seconds}");
        trickle.abort();
        let _ = trickle.await;
        drop(read);
    }
    settle().await;
    assert_eq!(scene.count(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_closed_a_slow_one_is_not() {
    let scene = Scene::new(Bounds::default());
    let ask = "GET /big HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
    let mut deaf = scene.connect().await;
    send(&mut deaf, ask).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(scene.count(), (1, 1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.count(), (0, 0));

    let mut slow = scene.connect().await;
    send(&mut slow, ask).await;
    let mut got = Vec::new();
    let mut piece = vec![0; 20_000];
    loop {
        tokio::time::sleep(Duration::from_secs(20)).await;
        match slow.read(&mut piece).await.unwrap() {
            0 => break,
            count => got.extend_from_slice(&piece[..count]),
        }
    }
    assert!(got.len() > BIG, "{}", got.len());
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_connection_is_evicted_first() {
    let scene = Scene::new(Bounds {
        connections: 2,
        ..Bounds::default()
    });
    let mut first = scene.connect().await;
    settle().await;
    let mut second = scene.connect().await;
    settle().await;
    let mut third = scene.connect().await;
    assert_eq!(rest(&mut first).await, (String::new(), 0));
    for stream in [&mut second, &mut third] {
        send(stream, GET).await;
        assert!(answer(stream).await.ends_with("hi"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_is_not_evicted() {
    let scene = Scene::new(Bounds {
        connections: 2,
        active: 1,
        ..Bounds::default()
    });
    let mut first = scene.connect().await;
    send(&mut first, HELD).await;
    settle().await;
    // No active slot.
    let mut second = scene.connect().await;
    send(&mut second, GET).await;
    let (response, seconds) = rest(&mut second).await;
    assert!(
        response.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{response}"
    );
    assert!(response.contains("\r\nretry-after: 2\r\n"), "{response}");
    assert_eq!(seconds, 1);
    drop(second);
    settle().await;
    // No connection slot.
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut stream = scene.connect().await;
        send(&mut stream, HELD).await;
        others.push(stream);
    }
    let (response, _) = rest(&mut others[1]).await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    // It was asked to close and does so after its response.
    scene.go.add_permits(1);
    let (response, _) = rest(&mut first).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.ends_with("held"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn incomplete_heads_and_idle_connections_are_evicted() {
    let scene = Scene::new(Bounds {
        active: 1,
        ..Bounds::default()
    });
    let mut half = scene.connect().await;
    send(&mut half, "GET / HTTP/1.1\r\n").await;
    settle().await;
    let mut second = scene.connect().await;
    send(&mut second, GET).await;
    assert!(answer(&mut second).await.ends_with("hi"));
    assert!(rest(&mut half).await.0.starts_with("HTTP/1.1 503 "));
    // The second still has the slot but no request in progress: it stays, idle.
    let mut third = scene.connect().await;
    send(&mut third, GET).await;
    assert!(answer(&mut third).await.ends_with("hi"));
    send(&mut second, GET).await;
    assert!(answer(&mut second).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_all_answered() {
    let scene = Scene::new(Bounds::default());
    let mut stream = scene.connect().await;
    send(&mut stream, &format!("{GET}{GET}{}", &GET[..20])).await;
    for _ in 0..2 {
        assert!(answer(&mut stream).await.ends_with("hi"));
    }
    // Long enough to be idle, with half a request in the buffer.
    tokio::time::sleep(Duration::from_secs(5)).await;
    send(&mut stream, &GET[20..]).await;
    assert!(answer(&mut stream).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_closes_idle_connections_and_finishes_requests() {
    let scene = Scene::new(Bounds::default());
    let mut rested = scene.connect().await;
    send(&mut rested, GET).await;
    answer(&mut rested).await;
    let mut served = scene.connect().await;
    send(&mut served, HELD).await;
    let mut silent = scene.connect().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut fresh = scene.connect().await;
    scene.stop.send(StopPhase::Stopping).unwrap();
    assert_eq!(rest(&mut silent).await, (String::new(), 0));
    assert_eq!(rest(&mut rested).await, (String::new(), 0));
    // A new connection may have a request on its way.
    settle().await;
    send(&mut fresh, GET).await;
    let (response, _) = rest(&mut fresh).await;
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.ends_with("hi"), "{response}");
    scene.go.add_permits(1);
    let (response, _) = rest(&mut served).await;
    assert!(response.ends_with("held"), "{response}");
    drop((served, fresh));
    settle().await;
    assert_eq!(scene.count(), (0, 0));
}

/// Clients that keep their connections and do not know of the stop: each gets a response that announces it,
/// whatever state its connection was in.
#[tokio::test(start_paused = true)]
async fn a_lame_duck_answers_and_closes_every_connection() {
    let scene = Scene::new(Bounds::default());
    let mut parked = scene.connect().await;
    send(&mut parked, GET).await;
    answer(&mut parked).await;
    let mut silent = scene.connect().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut rested = scene.connect().await;
    send(&mut rested, GET).await;
    answer(&mut rested).await;
    let mut half = scene.connect().await;
    send(&mut half, &GET[..20]).await;
    let mut served = scene.connect().await;
    send(&mut served, HELD).await;
    settle().await;
    scene.stop.send(StopPhase::LameDuck).unwrap();
    settle().await;
    let mut fresh = scene.connect().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    send(&mut half, &GET[20..]).await;
    for stream in [&mut parked, &mut silent, &mut rested, &mut fresh] {
        send(stream, GET).await;
    }
    scene.go.add_permits(1);
    for stream in [
        &mut parked,
        &mut silent,
        &mut rested,
        &mut fresh,
        &mut half,
        &mut served,
    ] {
        let (response, _) = rest(stream).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        assert!(response.contains("connection: close"), "{response}");
    }
    // Idle connections are closed when the time is over.
    let mut silent = scene.connect().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.stop.send(StopPhase::Stopping).unwrap();
    assert_eq!(rest(&mut silent).await, (String::new(), 0));
}

/// A client that closes its side after sending still gets its response, even a late one.
#[tokio::test(start_paused = true)]
async fn a_client_may_close_its_side_and_wait() {
    let scene = Scene::new(Bounds::default());
    for (asked, expected) in [
        (GET, "hi"),
        (HELD, "held"),
        (&*format!("{GET}{HELD}"), "held"),
    ] {
        let mut stream = scene.connect().await;
        send(&mut stream, asked).await;
        stream.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        scene.go.add_permits(1);
        let (response, _) = rest(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{asked}: {response}");
        assert!(response.ends_with(expected), "{asked}: {response}");
    }
    // Half a request, and the client has closed its side: nothing to wait for.
    let mut stream = scene.connect().await;
    send(&mut stream, &GET[..20]).await;
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.1, 0);
    drop(stream);
    settle().await;
    assert_eq!(scene.count(), (0, 0));
}

#[test]
fn there_are_no_more_connections_than_open_files() {
    let bounds = Bounds::default().within_open_files();
    let limit = open_files(bounds.connections).unwrap();
    assert!(bounds.connections < limit, "{bounds:?} {limit}");
    assert!(bounds.active <= bounds.connections, "{bounds:?}");
}
