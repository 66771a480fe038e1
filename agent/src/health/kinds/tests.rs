//! Each kind against a real peer: well, slow, flapping and lying.

use std::fs;
use std::sync::Arc;

use test_support::write_program;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::settings::HttpCheck;

async fn trouble(kind: CheckKind) -> String {
    match make(&kind).await {
        Ok(()) => String::new(),
        Err(error) => format!("{error:#}"),
    }
}

/// An HTTP server over TCP or TLS that answers every request with `answer`.
async fn serving(answer: &'static str, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            match &tls {
                None => {
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                // A client that does not trust the certificate ends the handshake.
                Some(tls) => {
                    if let Ok(mut stream) = tls.accept(stream).await {
                        let _ = stream.read(&mut request).await;
                        let _ = stream.write_all(answer.as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                }
            }
        }
    });
    port
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn an_http_check_matches_status_and_body() {
    let denied = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    for (answer, statuses, body, want) in [
        (HELLO, 200..=299, None, ""),
        (HELLO, 200..=299, Some("ell"), ""),
        (HELLO, 200..=299, Some("ready"), "body_contains is not in"),
        (HELLO, 401..=401, None, "/gtg answered 200 OK"),
        (denied, 401..=401, None, ""),
        (denied, 200..=299, None, "/gtg answered 401"),
    ] {
        let port = serving(answer, None).await;
        let uri = format!("http://127.0.0.1:{port}/gtg").parse().unwrap();
        let check = HttpCheck {
            statuses: vec![statuses],
            body_contains: body.map(str::to_owned),
            ..HttpCheck::plain(uri)
        };
        let found = trouble(CheckKind::Http(check)).await;
        assert_eq!(found.is_empty(), want.is_empty(), "{answer:?}: {found}");
        assert!(found.contains(want), "{answer:?}: {found}");
    }
}

/// A server's certificate for `name`, and its PEM.
fn certified(name: &str) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config).into(), made.cert.pem())
}

#[tokio::test]
async fn an_https_check_trusts_only_its_own_ca() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let (right, pem) = certified("127.0.0.1");
    let (wrong, _) = certified("127.0.0.1");
    let (misnamed, other) = certified("elsewhere.example");
    for (acceptor, pem, want) in [
        (right, pem.clone(), ""),
        (wrong, pem.clone(), "cannot trust 127.0.0.1:"),
        (misnamed, other, "cannot trust 127.0.0.1:"),
    ] {
        fs::write(&ca, pem).unwrap();
        let port = serving(HELLO, Some(acceptor)).await;
        let check = HttpCheck {
            ca_file: Some(ca.clone()),
            ..HttpCheck::plain(format!("https://127.0.0.1:{port}/").parse().unwrap())
        };
        let found = trouble(CheckKind::Http(check)).await;
        assert_eq!(found.is_empty(), want.is_empty(), "{found}");
        assert!(found.starts_with(want), "{found}");
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_at_once_is_no_pass() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let missing = trouble(CheckKind::Unix(socket.clone())).await;
    assert!(missing.contains("cannot connect to"), "{missing}");
    let unix = UnixListener::bind(&socket).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let kinds = || {
        [
            CheckKind::Tcp(address.clone()),
            CheckKind::Unix(socket.clone()),
        ]
    };
    // The kernel accepts; nobody reads: open, and silent.
    for kind in kinds() {
        assert_eq!(trouble(kind).await, "");
    }
    tokio::spawn(async move { while tcp.accept().await.is_ok() {} });
    tokio::spawn(async move { while unix.accept().await.is_ok() {} });
    for kind in kinds() {
        let found = trouble(kind).await;
        assert!(found.contains("accepted the connection and"), "{found}");
    }
    let gone = trouble(CheckKind::Tcp("127.0.0.1:1".to_owned())).await;
    assert!(gone.contains("cannot connect to 127.0.0.1:1"), "{gone}");
}

fn shell(script: &str) -> CheckKind {
    CheckKind::Exec(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

#[tokio::test]
async fn a_program_passes_with_exit_code_0() {
    assert_eq!(trouble(shell("exit 0")).await, "");
    let found = trouble(shell("echo out; echo why >&2; exit 3")).await;
    assert_eq!(found, "/bin/sh exited with 3: why");
    let found = trouble(shell("kill -9 $$")).await;
    assert_eq!(found, "/bin/sh was killed by signal 9");
    // It gets nothing of the agent's environment, and no descriptor to read from.
    let clean = r#"test -z "$CARGO_MANIFEST_DIR$HOME" && ! read -r line"#;
    assert_eq!(trouble(shell(clean)).await, "");
    let found = trouble(shell("yes flood | head -c 3000000; exit 1")).await;
    assert_eq!(found, "/bin/sh exited with 1: flood");
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    let found = trouble(CheckKind::Exec(vec![plain.display().to_string()])).await;
    assert!(found.contains("cannot run"), "{found}");
}

/// Waits until no process is left that holds the lock.
async fn lock_is_free(lock: &Path) {
    let file = fs::File::open(lock).unwrap();
    let waiting = tokio::task::spawn_blocking(move || file.lock());
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_program_that_forks_and_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    let begun = dir.path().join("begun");
    fs::write(&lock, "").unwrap();
    let holding = |rest: &str| {
        let (lock, begun) = (lock.display(), begun.display());
        shell(&format!(
            "exec 9<{lock}; flock 9; touch {begun}; sleep 1000 & {rest}"
        ))
    };
    // The child is left by a program that ends well.
    assert_eq!(trouble(holding("exit 0")).await, "");
    lock_is_free(&lock).await;
    fs::remove_file(&begun).unwrap();
    // The program hangs, and the check reaches its limit.
    let kind = holding("wait");
    let running = tokio::spawn(async move { trouble(kind).await });
    while !begun.exists() {
        tokio::task::yield_now().await;
    }
    running.abort();
    lock_is_free(&lock).await;
}

#[tokio::test]
async fn a_systemd_check_reads_the_units_state() {
    let dir = tempfile::tempdir().unwrap();
    let systemctl = dir.path().join("systemctl");
    for (printed, want) in [
        ("LoadState=loaded\\nActiveState=active", ""),
        (
            "LoadState=loaded\\nActiveState=failed",
            "x.service is failed",
        ),
        (
            "LoadState=loaded\\nActiveState=activating",
            "x.service is activating",
        ),
        (
            "LoadState=not-found\\nActiveState=inactive",
            "x.service is not installed",
        ),
        ("", "systemd did not report the state of x.service"),
    ] {
        write_program(&systemctl, &format!("#!/bin/sh\nprintf '{printed}\\n'\n"));
        let found = systemd(&systemctl, "x.service").await;
        let found = found
            .err()
            .map_or_else(String::new, |error| format!("{error:#}"));
        assert_eq!(found, want, "{printed}");
    }
}
