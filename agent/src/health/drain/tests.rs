//! Each way of asking against a real peer: slow, flapping, lying, absent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const DONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const BUSY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbusy";

/// Far more than an answer takes, also on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that gives these answers by turns; and how often it was asked.
async fn serving(answers: &'static [&'static str]) -> (Uri, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            let request = std::str::from_utf8(&request[..length]).unwrap();
            assert!(request.starts_with("GET /busy?all=1 HTTP/1.1"), "{request}");
            let turn = count.fetch_add(1, Ordering::Relaxed);
            let _ = stream
                .write_all(answers[turn % answers.len()].as_bytes())
                .await;
        }
    });
    let uri = format!("http://127.0.0.1:{port}/busy?all=1");
    (uri.parse().unwrap(), asked)
}

async fn asked(kind: DrainCheckKind, timeout: Duration) -> DrainAnswer {
    ask(&DrainCheck { kind, timeout }).await
}

/// The kind and the message of an unclear answer.
fn unclear(answer: DrainAnswer) -> (Unclear, String) {
    match answer {
        DrainAnswer::Unclear { kind, detail } => (kind, detail),
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn only_204_is_done_and_only_200_is_busy() {
    for (answer, want) in [(DONE, DrainAnswer::Done), (BUSY, DrainAnswer::Busy)] {
        let (uri, _) = serving(Box::leak(Box::new([answer]))).await;
        let found = asked(DrainCheckKind::Url(uri), PATIENCE).await;
        assert_eq!(found, want, "{answer}");
    }
    for (answer, kind, words) in [
        (
            "HTTP/1.1 503 X\r\n\r\n",
            Unclear::Status(503),
            "/busy answered 503 Service Unavailable, which is neither 204 nor 200",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",
            Unclear::Status(302),
            "/busy answered 302",
        ),
        ("HTTP/1.1 202 A\r\n\r\n", Unclear::Status(202), "/busy"),
        ("SSH-2.0-OpenSSH_9.2\r\n", Unclear::Failed, "no answer: "),
        ("", Unclear::Failed, "no answer: "),
    ] {
        let (uri, _) = serving(Box::leak(Box::new([answer]))).await;
        let found = unclear(asked(DrainCheckKind::Url(uri), PATIENCE).await);
        assert_eq!(found.0, kind, "{answer:?}: {found:?}");
        assert!(found.1.starts_with(words), "{answer:?}: {found:?}");
    }
}

#[tokio::test]
async fn a_flapping_service_is_asked_anew_each_time() {
    let (uri, count) = serving(&[BUSY, DONE]).await;
    let mut found = Vec::new();
    for _ in 0..4 {
        found.push(asked(DrainCheckKind::Url(uri.clone()), PATIENCE).await);
    }
    let (busy, done) = (DrainAnswer::Busy, DrainAnswer::Done);
    assert_eq!(found, [busy.clone(), done.clone(), busy, done]);
    assert_eq!(count.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_refused_connection_and_silence_are_unclear() {
    let refused = DrainCheckKind::Url("http://127.0.0.1:1/busy".parse().unwrap());
    let (kind, detail) = unclear(asked(refused, PATIENCE).await);
    assert_eq!(kind, Unclear::Failed);
    assert!(
        detail.starts_with("cannot connect to 127.0.0.1:1: "),
        "{detail}"
    );
    // The kernel accepts; nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/busy", silent.local_addr().unwrap());
    let slow = DrainCheckKind::Url(uri.parse().unwrap());
    let found = unclear(asked(slow, Duration::from_millis(300)).await);
    assert_eq!(found, (Unclear::Late, "no answer within 0.3 s".to_owned()));
}

fn shell(script: &str) -> DrainCheckKind {
    DrainCheckKind::Command(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

#[tokio::test]
async fn a_programs_exit_code_is_its_answer() {
    assert_eq!(asked(shell("exit 0"), PATIENCE).await, DrainAnswer::Done);
    let flood = "yes flood | head -c 3000000; exit 75";
    assert_eq!(asked(shell(flood), PATIENCE).await, DrainAnswer::Busy);
    for (script, kind, words) in [
        (
            "echo no queue >&2; exit 1",
            Unclear::Exit(1),
            "/bin/sh exited with 1: no queue",
        ),
        ("exit 204", Unclear::Exit(204), "/bin/sh exited with 204"),
        (
            "kill -9 $$",
            Unclear::Killed,
            "/bin/sh was killed by signal 9",
        ),
    ] {
        let found = unclear(asked(shell(script), PATIENCE).await);
        assert_eq!(found, (kind, words.to_owned()), "{script}");
    }
    let absent = DrainCheckKind::Command(vec!["/no/such/program".to_owned()]);
    let (kind, detail) = unclear(asked(absent, PATIENCE).await);
    assert_eq!(kind, Unclear::Failed);
    assert!(
        detail.starts_with("cannot run /no/such/program"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_program_that_hangs_is_late() {
    let found = unclear(asked(shell("sleep 1000"), Duration::from_millis(300)).await);
    assert_eq!(found.0, Unclear::Late);
}
