//! A proxy between the instance and the channel: through it, past it, and one that refuses, breaks off or lies.

use std::net::SocketAddr;

use agent_update::channel::{Cause, Place};
use agent_update::proxy::{Proxy, ProxySettings};
use test_support::proxy::{Behaviour, Proxy as Loopback};

use crate::Setup;
use crate::network::{authority, certified};
use crate::repository::Repository;
use crate::server::Server;

const CREDENTIALS: &str = "Basic dXNlcjpodXNo";
const NAME: &str = "updates.corp.example";

fn through(url: &str, no_proxy: &[&str]) -> Proxy {
    let settings = ProxySettings {
        https: Some(url.to_owned()),
        http: Some(url.to_owned()),
        no_proxy: Some(no_proxy.iter().map(|it| (*it).to_owned()).collect()),
    };
    settings.over(|_| None).unwrap()
}

/// The proxy's URL with the credentials of [`CREDENTIALS`].
fn with_credentials(proxy: &Loopback) -> String {
    format!("http://user:hush@{}", proxy.address)
}

/// A channel at a name that only the proxy can reach, over TLS.
struct Behind {
    setup: Setup,
    proxy: Loopback,
    server: Server,
}

impl Behind {
    async fn new() -> Self {
        let mut setup = Setup::fresh().await;
        let ours = authority();
        let server =
            Server::start_tls(setup.repository.files.clone(), certified(NAME, &ours)).await;
        let proxy = Loopback::start();
        proxy.lead_to(address(&server));
        let url = format!("https://{NAME}");
        setup.place = Place::new(&url, &setup.place.trust, &setup.place.store);
        let pem = setup.dir.path().join("ca.pem");
        std::fs::write(&pem, ours.0.pem()).unwrap();
        setup.place.ca_file = Some(pem);
        setup.place.proxy = through(&with_credentials(&proxy), &[]);
        Self {
            setup,
            proxy,
            server,
        }
    }
}

fn address(server: &Server) -> SocketAddr {
    let port = server.url.rsplit(':').next().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
}

#[tokio::test]
async fn https_goes_through_a_tunnel_to_the_last_byte() {
    let Behind {
        mut setup,
        proxy,
        server: _server,
    } = Behind::new().await;
    proxy.behave(Behaviour::Demands(CREDENTIALS));
    let offer = setup.well().await.offers.remove(0);
    setup.fetch(&offer, &setup.part()).await.unwrap();
    assert_eq!(
        std::fs::read(setup.part()).unwrap(),
        b"the agent, version 1.1.0"
    );
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    for request in seen {
        assert_eq!(request.line, format!("CONNECT {NAME}:443 HTTP/1.1"));
        assert_eq!(request.authorization.as_deref(), Some(CREDENTIALS));
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_or_closes_is_named_without_secrets() {
    let Behind {
        mut setup,
        proxy,
        server: _server,
    } = Behind::new().await;
    setup.well().await;
    for (behaviour, expected) in [
        (
            Behaviour::Demands("Basic another"),
            "authorization required",
        ),
        (Behaviour::Answers(502), "unsuccessful"),
        (Behaviour::Closes, "unexpected end of file"),
    ] {
        proxy.behave(behaviour);
        let message = setup.refused(Cause::Unreachable).await;
        let named = format!("proxy {}: ", proxy.address);
        assert!(message.contains(&named), "{behaviour:?}: {message}");
        assert!(message.contains(expected), "{behaviour:?}: {message}");
        assert!(
            !message.contains("hush") && !message.contains("dXNlc"),
            "{message}"
        );
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:hush@{}", gone.local_addr().unwrap());
    drop(gone);
    setup.place.proxy = through(&url, &[]);
    let message = setup.refused(Cause::Unreachable).await;
    assert!(
        message.contains("proxy 127.0.0.1:") && !message.contains("hush"),
        "{message}"
    );
}

#[tokio::test]
async fn a_tunnel_that_breaks_off_changes_nothing() {
    let Behind {
        mut setup,
        proxy,
        server: _server,
    } = Behind::new().await;
    let offer = setup.well().await.offers.remove(0);
    // In the middle of TLS's handshake, and of the first answer.
    for bytes in [1, 100, 1_000] {
        proxy.behave(Behaviour::BreaksOff(bytes));
        setup.refused(Cause::Unreachable).await;
        let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
        assert_eq!(refusal.cause, Cause::Unreachable, "{bytes}: {refusal}");
    }
    proxy.behave(Behaviour::Serves);
    setup.well().await;
    setup.fetch(&offer, &setup.part()).await.unwrap();
}

/// A proxy is trusted no more than any other part of the way.
#[tokio::test]
async fn a_proxy_that_lies_is_refused() {
    let Behind {
        mut setup,
        proxy,
        server: _server,
    } = Behind::new().await;
    setup.well().await;
    // Another server's certificate: an authority of the proxy's own, which decrypts everything.
    let interceptor = Server::start_tls(
        setup.repository.files.clone(),
        certified(NAME, &authority()),
    )
    .await;
    proxy.lead_to(address(&interceptor));
    let message = setup.refused(Cause::Untrusted).await;
    assert!(message.contains("certificate"), "{message}");

    // Without TLS, signatures and digests still hold.
    let mut setup = Setup::new().await;
    setup.place.proxy = through(&proxy.url(), &[]);
    proxy.lead_to(address(&setup.server));
    let offer = setup.well().await.offers.remove(0);
    proxy.behave(Behaviour::Garbles("timestamp.json"));
    setup.refused(Cause::Malformed).await;
    proxy.behave(Behaviour::Garbles("/targets/"));
    let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::WrongDigest, "{refusal}");
    assert!(!setup.part().exists());
    // What it kept from earlier.
    let old = Server::start(setup.repository.files.clone()).await;
    proxy.behave(Behaviour::Serves);
    setup.publish(Repository::next);
    setup.well().await;
    proxy.lead_to(address(&old));
    setup.refused(Cause::Rollback).await;
}

#[tokio::test]
async fn http_is_forwarded_with_credentials() {
    let mut setup = Setup::new().await;
    let proxy = Loopback::start();
    proxy.behave(Behaviour::Demands(CREDENTIALS));
    setup.place.proxy = through(&with_credentials(&proxy), &[]);
    setup.well().await;
    let seen = proxy.seen();
    let first = format!("GET {}/metadata/", setup.server.url);
    assert!(!seen.is_empty());
    for request in seen {
        assert!(request.line.starts_with(&first), "{}", request.line);
        assert_eq!(request.authorization.as_deref(), Some(CREDENTIALS));
    }
    proxy.behave(Behaviour::Demands("Basic another"));
    let message = setup.refused(Cause::Refused).await;
    assert!(
        message.contains("407") && !message.contains("hush"),
        "{message}"
    );
}

#[tokio::test]
async fn what_no_proxy_names_is_reached_directly() {
    let mut setup = Setup::new().await;
    let proxy = Loopback::start();
    for no_proxy in [&["127.0.0.1"][..], &["10.0.0.0/8", "127.0.0.0/8"], &["*"]] {
        setup.place.proxy = through(&proxy.url(), no_proxy);
        setup.well().await;
        assert_eq!(proxy.seen(), [], "{no_proxy:?}");
    }
    setup.place.metadata_url = setup.place.metadata_url.replace("127.0.0.1", "localhost");
    for (no_proxy, direct) in [
        ("localhost", true),
        (".localhost", true),
        ("host", false),
        ("127.0.0.0/8", false),
    ] {
        setup.place.proxy = through(&proxy.url(), &[no_proxy]);
        setup.well().await;
        assert_eq!(proxy.seen().is_empty(), direct, "{no_proxy}");
    }
}
