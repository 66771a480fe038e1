//! A stand-in for S3 and CloudWatch that responds at once, or after a set delay, for measuring order services.
//!
//! It must be cheap, so that the services under test use the machine: one thread, which keeps only the hashes of keys.
//! It verifies no signatures and returns no objects: to a reader its buckets are empty. The tests of the stores use
//! real servers instead.
//!
//! `stand-in [PUT_DELAY_MS]` prints its port and serves until its standard input ends. `GET /-/count` returns the number
//! of puts, of objects they created, and of other calls.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Requests so far.
#[derive(Debug, Default)]
struct Seen {
    puts: u64,
    /// Hashes of keys: with 64 bits, two of a million keys collide once in 37 million runs.
    objects: HashSet<u64>,
    others: u64,
}

fn main() -> anyhow::Result<()> {
    let delay = std::env::args().nth(1).map_or(Ok(0), |text| text.parse());
    let delay = Duration::from_millis(delay.context("the delay is a number of milliseconds")?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?.port());
        // The parent holds the other end; when it closes, this program exits.
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            served = serve(listener, delay) => served,
            _ = ended => Ok(()),
        }
    })
}

#[expect(clippy::print_stdout, reason = "the port is the program's output")]
fn announce(port: u16) {
    println!("{port}");
}

async fn serve(listener: TcpListener, delay: Duration) -> anyhow::Result<()> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let seen = Arc::clone(&seen);
        let service = service_fn(move |request| answer(request, Arc::clone(&seen), delay));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
    delay: Duration,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    // A response before the end of the body would close the connection.
    while let Some(Ok(_)) = body.frame().await {}
    let put = head.method == Method::PUT;
    {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if head.uri.path() == "/-/count" {
            let count = format!(
                r#"{{"puts": {}, "objects": {}, "others": {}}}"#,
                seen.puts,
                seen.objects.len(),
                seen.others
            );
            return Ok(Response::new(count.into()));
        }
        if put {
            let mut hasher = DefaultHasher::new();
            head.uri.path().hash(&mut hasher);
            seen.puts += 1;
            seen.objects.insert(hasher.finish());
        } else {
            seen.others += 1;
        }
    }
    if put && !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut response = Response::new(Full::default());
    match head.method {
        Method::PUT => {
            let tag = header::HeaderValue::from_static("\"d41d8cd98f00b204e9800998ecf8427e\"");
            response.headers_mut().insert(header::ETAG, tag);
        }
        // CloudWatch's JSON protocol; callers of the query protocol only check the status.
        Method::POST => *response.body_mut() = "{}".into(),
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = "<Error><Code>NoSuchKey</Code></Error>".into();
        }
    }
    Ok(response)
}
