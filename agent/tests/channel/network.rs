//! Between the instance and the channel: statuses, portals, redirects, slowness, TLS, folders, and settings
//! that cannot be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use imagebuilder_agent::update::channel::{Channel as _, Place, TufChannel};
use imagebuilder_agent::update::refusal::Cause;
use rustls::ServerConfig;

use crate::World;
use crate::repository::{Repository, now};
use crate::server::{Fault, Server};

const TIMESTAMP: &str = "metadata/timestamp.json";

#[tokio::test]
async fn statuses_in_place_of_the_timestamp() {
    let mut world = World::new().await;
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
        world.server.fault(TIMESTAMP, Fault::Status(status));
        let said = world.refused(cause).await;
        assert!(said.starts_with("timestamp.json"), "{said}");
        assert!(!said.contains("at length"), "{said}");
    }
    world.server.mend();
    world.well().await;
}

/// S3 says 403 for what is not there to whoever may not list the bucket.
#[tokio::test]
async fn only_a_403_or_404_ends_the_chain_of_roots() {
    let mut world = World::new().await;
    for status in [403, 404] {
        world
            .server
            .fault("metadata/2.root.json", Fault::Status(status));
        world.well().await;
    }
    world.publish(|it| it.rotate("root"));
    for status in [500, 503, 301] {
        world
            .server
            .fault("metadata/2.root.json", Fault::Status(status));
        world.refused(Cause::Refused).await;
    }
}

#[tokio::test]
async fn a_captive_portal() {
    let mut world = World::new().await;
    world.publish(Repository::next);
    world
        .server
        .fault(TIMESTAMP, Fault::Portal("text/html; charset=utf-8"));
    let said = world.refused(Cause::Refused).await;
    assert!(said.contains("captive portal"), "{said}");
    // One that lies about what it is.
    world
        .server
        .fault(TIMESTAMP, Fault::Portal("application/json"));
    world.refused(Cause::Malformed).await;
    world.server.mend();
    world.well().await;
}

#[tokio::test]
async fn no_redirect_is_followed_and_its_secrets_are_hidden() {
    let mut world = World::new().await;
    for (to, said) in [
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
        world.server.fault(TIMESTAMP, Fault::Redirect(to));
        world.server.seen();
        let refused = world.refused(Cause::Refused).await;
        assert!(
            refused.contains(said) && !refused.contains("hush"),
            "{refused}"
        );
        assert_eq!(world.server.seen().len(), 2);
    }
    world.server.mend();
    world.well().await;
}

#[tokio::test]
async fn metadata_that_breaks_off_or_is_cut_short_or_encoded() {
    let mut world = World::new().await;
    world.publish(Repository::next);
    for (fault, cause) in [
        (Fault::BreaksOff(40), Cause::Unreachable),
        (Fault::Short(40), Cause::Malformed),
        (Fault::Encoded, Cause::Refused),
    ] {
        world.server.fault(TIMESTAMP, fault);
        world.refused(cause).await;
    }
    world.server.mend();
    world.well().await;
}

/// The first file is the slow one, so that no honest answer has to be fast on a busy machine.
#[tokio::test]
async fn metadata_that_comes_too_slowly() {
    let mut world = World::new().await;
    world.publish(|it| it.rotate("root"));
    let first = "metadata/2.root.json";
    let patient = world.place.limits;
    let rate = &mut world.place.limits.metadata_rate;
    rate.stall = Duration::from_millis(200);
    rate.window = Duration::from_millis(50);
    rate.least = 1 << 20;
    for (fault, said) in [
        (Fault::Silent, "2.root.json: nothing came for 200ms"),
        (Fault::Stalls, "2.root.json: nothing came for 200ms"),
        (Fault::Drips, "2.root.json: "),
    ] {
        world.server.fault(first, fault);
        let refused = world.refused(Cause::Slow).await;
        assert!(refused.starts_with(said), "{refused}");
    }
    // Fast enough by the rate, never done.
    world.place.limits = patient;
    world.place.limits.metadata_rate.total = Duration::from_millis(300);
    world.server.fault(first, Fault::Drips);
    let refused = world.refused(Cause::Slow).await;
    assert_eq!(refused, "2.root.json: not whole after 300ms");
    // Each file within its time, all of them not.
    world.place.limits = patient;
    world.place.limits.refresh = Duration::from_millis(300);
    let refused = world.refused(Cause::Slow).await;
    assert_eq!(refused, "the metadata was not whole after 300ms");
    world.place.limits = patient;
    world.server.mend();
    world.well().await;
}

#[tokio::test]
async fn no_server_answers() {
    let mut world = World::new().await;
    // Bound and never listened at: nobody else gets the port, and no child has a copy that still listens.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = closed.local_addr().unwrap();
    let right = world.place.clone();
    world.place.metadata_url = format!("http://{address}/metadata");
    world.refused(Cause::Unreachable).await;
    world.place = right;
    world.well().await;
}

#[tokio::test]
async fn a_server_without_tls_where_there_should_be_some() {
    let mut world = World::new().await;
    world.place.metadata_url = world.server.url.replace("http://", "https://") + "/metadata";
    world.refused(Cause::Untrusted).await;
}

#[tokio::test]
async fn a_server_needs_a_trusted_certificate() {
    let mut world = World::new().await;
    let ours = authority();
    let other = authority();
    let pem = world.dir.path().join("ca.pem");
    for (name, signed_by, trusted, well) in [
        ("localhost", &ours, Some(&ours), true),
        ("localhost", &ours, Some(&other), false),
        ("localhost", &ours, None, false),
        ("elsewhere.example", &ours, Some(&ours), false),
    ] {
        let files = world.repository.files.clone();
        let server = Server::start_tls(files, certified(name, signed_by)).await;
        world.place = Place::new(&server.url, &world.place.trust, &world.place.store);
        if let Some((certificate, _)) = trusted {
            fs::write(&pem, certificate.pem()).unwrap();
            world.place.ca_file = Some(pem.clone());
        }
        if well {
            let offer = world.well().await.offers.remove(0);
            world.fetch(&offer, &world.part()).await.unwrap();
        } else {
            let said = world.refused(Cause::Untrusted).await;
            assert!(said.contains("certificate"), "{said}");
        }
    }
}

type Authority = (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>);

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate, rcgen::Issuer::new(params, key))
}

fn certified(name: &str, (_, authority): &Authority) -> ServerConfig {
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
    let mut world = World::new().await;
    world.publish(|it| {
        it.add_release("1.2.0+a", b"the agent, version 1.2.0");
        it.next();
    });
    let folder = world.dir.path().join("channel");
    lay_out(&world.repository, &folder);
    let url = format!("file://{}/", folder.display());
    let right = Place::new(&url, &world.place.trust, &world.place.store);
    world.place = right;
    let offer = world.well().await.offers.pop().unwrap();
    fs::write(world.part(), b"the agent, ").unwrap();
    world.fetch(&offer, &world.part()).await.unwrap();
    assert_eq!(fs::read(world.part()).unwrap(), b"the agent, version 1.2.0");
    fs::remove_file(folder.join(TIMESTAMP)).unwrap();
    world.refused(Cause::Missing).await;
    fs::create_dir(folder.join(TIMESTAMP)).unwrap();
    world.refused(Cause::Missing).await;
    fs::remove_dir(folder.join(TIMESTAMP)).unwrap();
    fs::write(folder.join(TIMESTAMP), vec![b' '; 17 << 10]).unwrap();
    world.refused(Cause::EndlessData).await;
}

/// A role whose name leads out of the folder is asked for within it; a target's is not asked for.
#[tokio::test]
async fn names_that_lead_out_of_the_channel() {
    let mut world = World::new().await;
    let folder = world.dir.path().join("channel");
    let secret = world.dir.path().join("secret");
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
        world.publish(|it| {
            let target = serde_json::json!({"length": 4, "hashes": {"sha256": digest}});
            it.targets.insert(name.to_owned(), target);
            it.next();
        });
        lay_out(&world.repository, &folder);
        let url = format!("file://{}", folder.display());
        world.place = Place::new(&url, &world.place.trust, &world.place.store);
        let mut channel = TufChannel::open(&world.place).unwrap();
        channel.refresh(now()).await.unwrap();
        let target = channel.find(name, now()).await.unwrap();
        let refusal = channel
            .fetch_target(&target, &world.part())
            .await
            .unwrap_err();
        assert!(
            matches!(refusal.cause, Cause::Malformed | Cause::Missing),
            "{refusal}"
        );
        assert!(!world.part().exists());
    }
}

#[tokio::test]
async fn urls_and_files_that_cannot_be_a_channel() {
    let world = World::fresh().await;
    for (url, said) in [
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
        let mut place = Place::new(url, &world.place.trust, &world.place.store);
        place.metadata_url = url.to_owned();
        let refusal = TufChannel::open(&place).err().unwrap();
        assert_eq!(refusal.cause, Cause::Misconfigured, "{refusal}");
        assert!(
            refusal.detail.contains(said) && !refusal.detail.contains("hush"),
            "{refusal}"
        );
    }
    let pem = world.dir.path().join("ca.pem");
    for bytes in [
        None,
        Some(""),
        Some("not PEM"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(bytes) = bytes {
            fs::write(&pem, bytes).unwrap();
        }
        let mut place = world.place.clone();
        place.ca_file = Some(pem.clone());
        let refusal = TufChannel::open(&place).err().unwrap();
        assert_eq!(refusal.cause, Cause::Misconfigured, "{refusal}");
        assert!(refusal.detail.starts_with("ca_file "), "{refusal}");
    }
}

fn lay_out(repository: &Repository, folder: &Path) {
    for (path, bytes) in &repository.files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
