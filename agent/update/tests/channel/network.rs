//! Between the instance and the channel: statuses, portals, redirects, slowness, TLS, folders, and settings
//! that cannot be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agent_update::channel::{Cause, Channel as _, Place, TufChannel};
use rustls::ServerConfig;

use crate::Setup;
use crate::repository::{Repository, now};
use crate::server::{Fault, Server};

const TIMESTAMP: &str = "metadata/timestamp.json";

#[tokio::test]
async fn statuses_in_place_of_the_timestamp() {
    let mut setup = Setup::new().await;
    for (status, cause) in [
        (403, Cause::Refused),
        (404, Cause::Missing),
        (410, Cause::Missing),
        (204, Cause::Refused),
        (206, Cause::Refused),
        (400, Cause::Refused),
        (416, Cause::Refused),
        (429, Cause::Refused),
        (500, Cause::Refused),
        (503, Cause::Refused),
        (511, Cause::Refused),
    ] {
        setup.server.fault(TIMESTAMP, Fault::Status(status));
        let message = setup.refused(cause).await;
        assert!(message.starts_with("timestamp.json"), "{status}: {message}");
        assert!(!message.contains("at length"), "{status}: {message}");
    }
    setup.server.repair();
    setup.well().await;
}

/// S3 answers 403 for a missing file to a caller that may not list the bucket.
#[tokio::test]
async fn only_a_403_or_404_ends_the_chain_of_roots() {
    let mut setup = Setup::new().await;
    for status in [403, 404] {
        setup
            .server
            .fault("metadata/2.root.json", Fault::Status(status));
        setup.well().await;
    }
    setup.publish(|it| it.rotate("root"));
    for status in [500, 503, 301] {
        setup
            .server
            .fault("metadata/2.root.json", Fault::Status(status));
        setup.refused(Cause::Refused).await;
    }
}

#[tokio::test]
async fn a_captive_portal() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    setup
        .server
        .fault(TIMESTAMP, Fault::Portal("text/html; charset=utf-8"));
    let message = setup.refused(Cause::Refused).await;
    assert!(message.contains("captive portal"), "{message}");
    // One that lies about what it is.
    setup
        .server
        .fault(TIMESTAMP, Fault::Portal("application/json"));
    setup.refused(Cause::Malformed).await;
    setup.server.repair();
    setup.well().await;
}

#[tokio::test]
async fn no_redirect_is_followed_and_its_secrets_are_hidden() {
    let mut setup = Setup::new().await;
    for (to, expected) in [
        (
            "http://portal.example/login?token=hush",
            "302 to http://portal.example;",
        ),
        (
            "https://user:hush@other.example/x",
            "302 to https://other.example;",
        ),
        ("/timestamp.json?hush", "302 to the same host;"),
        ("http://[", "302 to nowhere;"),
    ] {
        setup.server.fault(TIMESTAMP, Fault::Redirect(to));
        setup.server.seen();
        let refused = setup.refused(Cause::Refused).await;
        assert!(
            refused.contains(expected) && !refused.contains("hush"),
            "{to}: {refused}"
        );
        assert_eq!(setup.server.seen().len(), 2, "{to}");
    }
    setup.server.repair();
    setup.well().await;
}

#[tokio::test]
async fn metadata_that_breaks_off_or_is_cut_short_or_encoded() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    for (fault, cause) in [
        (Fault::BreaksOff(40), Cause::Unreachable),
        (Fault::Short(40), Cause::Malformed),
        (Fault::Encoded, Cause::Refused),
    ] {
        setup.server.fault(TIMESTAMP, fault);
        setup.refused(cause).await;
    }
    setup.server.repair();
    setup.well().await;
}

/// The first file is the slow one, so that no honest answer has to be fast on a busy host.
#[tokio::test]
async fn metadata_that_comes_too_slowly() {
    let mut setup = Setup::new().await;
    setup.publish(|it| it.rotate("root"));
    let first = "metadata/2.root.json";
    let patient = setup.place.limits;
    let rate = &mut setup.place.limits.metadata_rate;
    rate.stall = Duration::from_millis(200);
    rate.window = Duration::from_millis(50);
    rate.least = 1 << 20;
    for (fault, expected) in [
        (Fault::Silent, "2.root.json: nothing came for 200ms"),
        (Fault::Stalls, "2.root.json: nothing came for 200ms"),
        (Fault::Drips, "2.root.json: "),
    ] {
        setup.server.fault(first, fault.clone());
        let refused = setup.refused(Cause::Slow).await;
        assert!(refused.starts_with(expected), "{fault:?}: {refused}");
    }
    // Fast enough by the rate, never done.
    setup.place.limits = patient;
    setup.place.limits.metadata_rate.total = Duration::from_millis(300);
    setup.server.fault(first, Fault::Drips);
    let refused = setup.refused(Cause::Slow).await;
    assert_eq!(refused, "2.root.json: not whole after 300ms");
    // Each file within its time, all of them not.
    setup.place.limits = patient;
    setup.place.limits.refresh = Duration::from_millis(300);
    let refused = setup.refused(Cause::Slow).await;
    assert_eq!(refused, "the metadata was not whole after 300ms");
    setup.place.limits = patient;
    setup.server.repair();
    setup.well().await;
}

#[tokio::test]
async fn no_server_answers() {
    let mut setup = Setup::new().await;
    // Bound and never listened at: nobody else gets the port, and no child has a copy that still listens.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = closed.local_addr().unwrap();
    let right = setup.place.clone();
    setup.place.metadata_url = format!("http://{address}/metadata");
    setup.refused(Cause::Unreachable).await;
    setup.place = right;
    setup.well().await;
}

#[tokio::test]
async fn a_server_without_tls_where_there_should_be_some() {
    let mut setup = Setup::new().await;
    setup.place.metadata_url = setup.server.url.replace("http://", "https://") + "/metadata";
    setup.refused(Cause::Untrusted).await;
}

#[tokio::test]
async fn a_server_needs_a_trusted_certificate() {
    let mut setup = Setup::new().await;
    let ours = authority();
    let other = authority();
    let pem = setup.dir.path().join("ca.pem");
    for (row, name, trusted, well) in [
        ("its own authority", "localhost", Some(&ours), true),
        ("another authority", "localhost", Some(&other), false),
        ("the system's authorities", "localhost", None, false),
        ("another name", "elsewhere.example", Some(&ours), false),
    ] {
        let files = setup.repository.files.clone();
        let server = Server::start_tls(files, certified(name, &ours)).await;
        setup.place = Place::new(&server.url, &setup.place.trust, &setup.place.store);
        if let Some((certificate, _)) = trusted {
            fs::write(&pem, certificate.pem()).unwrap();
            setup.place.ca_file = Some(pem.clone());
        }
        if well {
            let offer = setup.well().await.offers.remove(0);
            setup.fetch(&offer, &setup.part()).await.unwrap();
        } else {
            let message = setup.refused(Cause::Untrusted).await;
            assert!(message.contains("certificate"), "{row}: {message}");
        }
    }
}

pub(crate) type Authority = (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>);

pub(crate) fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate, rcgen::Issuer::new(params, key))
}

pub(crate) fn certified(name: &str, (_, authority): &Authority) -> ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap()
}

#[tokio::test]
async fn a_folder_is_a_channel_too() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.add_release("1.2.0+a", b"the agent, version 1.2.0");
        it.next();
    });
    let folder = setup.dir.path().join("channel");
    lay_out(&setup.repository, &folder);
    let url = format!("file://{}/", folder.display());
    let right = Place::new(&url, &setup.place.trust, &setup.place.store);
    setup.place = right;
    let offer = setup.well().await.offers.pop().unwrap();
    fs::write(setup.part(), b"the agent, ").unwrap();
    setup.fetch(&offer, &setup.part()).await.unwrap();
    assert_eq!(fs::read(setup.part()).unwrap(), b"the agent, version 1.2.0");
    fs::remove_file(folder.join(TIMESTAMP)).unwrap();
    setup.refused(Cause::Missing).await;
    fs::create_dir(folder.join(TIMESTAMP)).unwrap();
    setup.refused(Cause::Missing).await;
    fs::remove_dir(folder.join(TIMESTAMP)).unwrap();
    fs::write(folder.join(TIMESTAMP), vec![b' '; 17 << 10]).unwrap();
    setup.refused(Cause::EndlessData).await;
}

/// A role whose name leads out of the folder is asked for within it; a target's is not asked for.
#[tokio::test]
async fn names_that_lead_out_of_the_channel() {
    let mut setup = Setup::new().await;
    let folder = setup.dir.path().join("channel");
    let secret = setup.dir.path().join("secret");
    fs::write(&secret, b"hush").unwrap();
    let digest = crate::repository::sha256(b"hush");
    for name in [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "a//b",
        "./secret",
        "a\\b",
        "a\u{0}b",
    ] {
        setup.publish(|it| {
            let target = serde_json::json!({"length": 4, "hashes": {"sha256": digest}});
            it.targets.insert(name.to_owned(), target);
            it.next();
        });
        lay_out(&setup.repository, &folder);
        let url = format!("file://{}", folder.display());
        setup.place = Place::new(&url, &setup.place.trust, &setup.place.store);
        let mut channel = TufChannel::open(&setup.place).unwrap();
        channel.refresh(now()).await.unwrap();
        let target = channel.find(name, now()).await.unwrap();
        let refusal = channel
            .fetch_target(&target, &setup.part())
            .await
            .unwrap_err();
        assert!(
            matches!(refusal.cause, Cause::Malformed | Cause::Missing),
            "{name}: {refusal}"
        );
        assert!(!setup.part().exists(), "{name}");
    }
}

#[tokio::test]
async fn urls_and_files_that_cannot_be_a_channel() {
    let setup = Setup::fresh().await;
    for (url, expected) in [
        ("http://updates.example", "is http:// without plain_http"),
        ("ftp://updates.example", "is neither https:// nor file://"),
        ("updates.example", "is neither https:// nor file://"),
        ("", "is none"),
        (
            "file://relative/path",
            "is file:// without an absolute path",
        ),
        ("https://user:hush@updates.example", "carries credentials"),
        (
            "https://updates.example/?token=hush",
            "carries a query or a fragment",
        ),
    ] {
        let mut place = Place::new(url, &setup.place.trust, &setup.place.store);
        place.metadata_url = url.to_owned();
        let refusal = TufChannel::open(&place).err().unwrap();
        assert_eq!(refusal.cause, Cause::Misconfigured, "{url}: {refusal}");
        assert!(
            refusal.detail.contains(expected) && !refusal.detail.contains("hush"),
            "{url}: {refusal}"
        );
    }
    let pem = setup.dir.path().join("ca.pem");
    for bytes in [
        None,
        Some(""),
        Some("not PEM"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(bytes) = bytes {
            fs::write(&pem, bytes).unwrap();
        }
        let mut place = setup.place.clone();
        place.ca_file = Some(pem.clone());
        let refusal = TufChannel::open(&place).err().unwrap();
        assert_eq!(refusal.cause, Cause::Misconfigured, "{bytes:?}: {refusal}");
        assert!(
            refusal.detail.starts_with("ca_file "),
            "{bytes:?}: {refusal}"
        );
    }
}

fn lay_out(repository: &Repository, folder: &Path) {
    for (path, bytes) in &repository.files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
