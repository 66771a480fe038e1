//! Fetching a release: swapped, cut short, without end, and continued after an interruption.

use std::fs;
use std::time::Duration;

use agent_update::channel::{Cause, Offer};

use crate::Setup;
use crate::repository::Repository;
use crate::server::Fault;

const BYTES: &[u8] = b"the agent, version 1.1.0";

/// An instance, the release its channel offers, and the release's path at the server.
async fn setup() -> (Setup, Offer, String) {
    let mut setup = Setup::new().await;
    let offer = setup.well().await.offers.remove(0);
    let path = format!("targets/{}.{}", offer.digest, offer.target);
    (setup, offer, path)
}

#[tokio::test]
async fn a_release_is_streamed_to_its_last_byte() {
    let (setup, offer, path) = setup().await;
    setup.fetch(&offer, &setup.part()).await.unwrap();
    assert_eq!(fs::read(setup.part()).unwrap(), BYTES);
    // And is not asked for again.
    setup.server.seen();
    setup.fetch(&offer, &setup.part()).await.unwrap();
    assert!(setup.server.seen().iter().all(|(asked, _)| *asked != path));
}

#[tokio::test]
async fn a_release_with_a_wrong_digest_is_removed() {
    for (fault, cause) in [
        (Fault::Swapped, Cause::WrongDigest),
        (Fault::Short(5), Cause::WrongDigest),
        (Fault::Endless, Cause::EndlessData),
        (Fault::Announces(1 << 40), Cause::EndlessData),
        (Fault::Status(404), Cause::Missing),
        (Fault::Status(410), Cause::Missing),
        (Fault::Status(403), Cause::Refused),
        (Fault::Status(503), Cause::Refused),
        (
            Fault::Redirect("https://elsewhere.example/"),
            Cause::Refused,
        ),
        (Fault::Portal("text/html; charset=utf-8"), Cause::Refused),
        (Fault::Encoded, Cause::Refused),
    ] {
        let (setup, offer, path) = setup().await;
        let floor = setup.floor();
        setup.server.fault(&path, fault.clone());
        let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
        assert_eq!(refusal.cause, cause, "{fault:?}: {refusal}");
        assert!(!setup.part().exists(), "{fault:?}");
        assert_eq!(setup.floor(), floor, "{fault:?}");
        setup.server.repair();
        setup.fetch(&offer, &setup.part()).await.unwrap();
    }
}

#[tokio::test]
async fn a_release_that_broke_off_is_continued() {
    let (setup, offer, path) = setup().await;
    setup.server.fault(&path, Fault::BreaksOff(10));
    let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Unreachable, "{refusal}");
    assert_eq!(fs::read(setup.part()).unwrap(), &BYTES[..10]);
    setup.server.repair();
    setup.server.seen();
    setup.fetch(&offer, &setup.part()).await.unwrap();
    let last = setup.server.seen().pop().unwrap();
    assert_eq!(last, (path, Some("bytes=10-".to_owned())));
    assert_eq!(fs::read(setup.part()).unwrap(), BYTES);
}

#[tokio::test]
async fn what_was_there_before_is_believed_no_more_than_a_server() {
    let longer = [BYTES, b"!"].concat();
    let other = vec![b'x'; BYTES.len()];
    for before in [&b"the virus, "[..], &longer, &other, b""] {
        let (setup, offer, _) = setup().await;
        fs::write(setup.part(), before).unwrap();
        setup.fetch(&offer, &setup.part()).await.unwrap();
        assert_eq!(fs::read(setup.part()).unwrap(), BYTES, "{before:?}");
    }
}

#[tokio::test]
async fn a_server_may_not_know_ranges_but_not_send_another() {
    let (setup, offer, path) = setup().await;
    fs::write(setup.part(), &BYTES[..7]).unwrap();
    setup.server.fault(&path, Fault::IgnoresRange);
    setup.fetch(&offer, &setup.part()).await.unwrap();
    assert_eq!(fs::read(setup.part()).unwrap(), BYTES);
    fs::write(setup.part(), &BYTES[..7]).unwrap();
    setup.server.fault(&path, Fault::OtherRange);
    let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Refused, "{refusal}");
}

#[tokio::test]
async fn a_release_that_shrank_at_the_server_is_wrong() {
    let (mut setup, offer, path) = setup().await;
    fs::write(setup.part(), &BYTES[..7]).unwrap();
    setup.publish(|it| {
        it.files.insert(path, b"short".to_vec());
    });
    let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::WrongDigest, "{refusal}");
    assert!(!setup.part().exists());
}

#[tokio::test]
async fn a_disk_that_does_not_take_the_release() {
    let (setup, offer, _) = setup().await;
    let nowhere = setup.dir.path().join("no/such/folder/release.part");
    let refusal = setup.fetch(&offer, &nowhere).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Disk, "{refusal}");
}

/// What never ends must not be read as the beginning of a release.
#[tokio::test]
async fn a_part_that_is_no_file() {
    let (setup, offer, _) = setup().await;
    std::os::unix::fs::symlink("/dev/zero", setup.part()).unwrap();
    let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Disk, "{refusal}");
}

#[tokio::test]
async fn a_release_that_comes_too_slowly() {
    for fault in [Fault::Silent, Fault::Stalls, Fault::Drips] {
        let (mut setup, offer, path) = setup().await;
        let patient = setup.place.limits;
        let rate = &mut setup.place.limits.release_rate;
        rate.stall = Duration::from_millis(200);
        rate.window = Duration::from_millis(50);
        rate.least = 1 << 20;
        setup.server.fault(&path, fault.clone());
        let refusal = setup.fetch(&offer, &setup.part()).await.unwrap_err();
        assert_eq!(refusal.cause, Cause::Slow, "{fault:?}: {refusal}");
        // What came is kept for the next run.
        let kept = fs::read(setup.part()).unwrap_or_default();
        assert!(
            BYTES.starts_with(&kept) && kept.len() < BYTES.len(),
            "{fault:?}"
        );
        setup.place.limits = patient;
        setup.server.repair();
        setup.fetch(&offer, &setup.part()).await.unwrap();
    }
}

#[tokio::test]
async fn a_version_with_build_metadata_has_a_name_that_a_url_can_hold() {
    let (mut setup, _, _) = setup().await;
    setup.publish(|it: &mut Repository| {
        it.add_release("1.2.0+build.7", b"another");
        it.next();
    });
    let offer = setup.well().await.offers.pop().unwrap();
    assert_eq!(offer.target, "imagebuilder-agent-1.2.0+build.7-x86_64");
    setup.fetch(&offer, &setup.part()).await.unwrap();
}
