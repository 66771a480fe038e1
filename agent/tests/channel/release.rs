//! Fetching a release: swapped, cut short, without end, and continued after an interruption.

use std::fs;
use std::time::Duration;

use imagebuilder_agent::update::channel::Offer;
use imagebuilder_agent::update::refusal::Cause;

use crate::World;
use crate::repository::Repository;
use crate::server::Fault;

const BYTES: &[u8] = b"the agent, version 1.1.0";

/// An instance, the release its channel offers, and the release's path at the server.
async fn world() -> (World, Offer, String) {
    let mut world = World::new().await;
    let offer = world.well().await.offers.remove(0);
    let path = format!("targets/{}.{}", offer.digest, offer.target);
    (world, offer, path)
}

#[tokio::test]
async fn a_release_is_streamed_to_its_last_byte() {
    let (world, offer, path) = world().await;
    world.fetch(&offer, &world.part()).await.unwrap();
    assert_eq!(fs::read(world.part()).unwrap(), BYTES);
    // And is not asked for again.
    world.server.seen();
    world.fetch(&offer, &world.part()).await.unwrap();
    assert!(world.server.seen().iter().all(|(asked, _)| *asked != path));
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
        let (world, offer, path) = world().await;
        let floor = world.floor();
        world.server.fault(&path, fault.clone());
        let refusal = world.fetch(&offer, &world.part()).await.unwrap_err();
        assert_eq!(refusal.cause, cause, "{fault:?}: {refusal}");
        assert!(!world.part().exists(), "{fault:?}");
        assert_eq!(world.floor(), floor);
        world.server.mend();
        world.fetch(&offer, &world.part()).await.unwrap();
    }
}

#[tokio::test]
async fn a_release_that_broke_off_is_continued() {
    let (world, offer, path) = world().await;
    world.server.fault(&path, Fault::BreaksOff(10));
    let refusal = world.fetch(&offer, &world.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Unreachable, "{refusal}");
    assert_eq!(fs::read(world.part()).unwrap(), &BYTES[..10]);
    world.server.mend();
    world.server.seen();
    world.fetch(&offer, &world.part()).await.unwrap();
    let last = world.server.seen().pop().unwrap();
    assert_eq!(last, (path, Some("bytes=10-".to_owned())));
    assert_eq!(fs::read(world.part()).unwrap(), BYTES);
}

#[tokio::test]
async fn what_was_there_before_is_believed_no_more_than_a_server() {
    let longer = [BYTES, b"!"].concat();
    let other = vec![b'x'; BYTES.len()];
    for before in [&b"the virus, "[..], &longer, &other, b""] {
        let (world, offer, _) = world().await;
        fs::write(world.part(), before).unwrap();
        world.fetch(&offer, &world.part()).await.unwrap();
        assert_eq!(fs::read(world.part()).unwrap(), BYTES);
    }
}

#[tokio::test]
async fn a_server_may_not_know_ranges_but_not_send_another() {
    let (world, offer, path) = world().await;
    fs::write(world.part(), &BYTES[..7]).unwrap();
    world.server.fault(&path, Fault::IgnoresRange);
    world.fetch(&offer, &world.part()).await.unwrap();
    assert_eq!(fs::read(world.part()).unwrap(), BYTES);
    fs::write(world.part(), &BYTES[..7]).unwrap();
    world.server.fault(&path, Fault::OtherRange);
    let refusal = world.fetch(&offer, &world.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Refused, "{refusal}");
}

#[tokio::test]
async fn a_release_that_shrank_at_the_server_is_wrong() {
    let (mut world, offer, path) = world().await;
    fs::write(world.part(), &BYTES[..7]).unwrap();
    world.publish(|it| {
        it.files.insert(path, b"short".to_vec());
    });
    let refusal = world.fetch(&offer, &world.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::WrongDigest, "{refusal}");
    assert!(!world.part().exists());
}

#[tokio::test]
async fn a_disk_that_does_not_take_the_release() {
    let (world, offer, _) = world().await;
    let nowhere = world.dir.path().join("no/such/folder/release.part");
    let refusal = world.fetch(&offer, &nowhere).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Disk, "{refusal}");
}

/// What never ends must not be read as the beginning of a release.
#[tokio::test]
async fn a_part_that_is_no_file() {
    let (world, offer, _) = world().await;
    std::os::unix::fs::symlink("/dev/zero", world.part()).unwrap();
    let refusal = world.fetch(&offer, &world.part()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Disk, "{refusal}");
}

#[tokio::test]
async fn a_release_that_comes_too_slowly() {
    for fault in [Fault::Silent, Fault::Stalls, Fault::Drips] {
        let (mut world, offer, path) = world().await;
        let patient = world.place.limits;
        let rate = &mut world.place.limits.release_rate;
        rate.stall = Duration::from_millis(200);
        rate.window = Duration::from_millis(50);
        rate.least = 1 << 20;
        world.server.fault(&path, fault.clone());
        let refusal = world.fetch(&offer, &world.part()).await.unwrap_err();
        assert_eq!(refusal.cause, Cause::Slow, "{fault:?}: {refusal}");
        // What came is kept for the next run.
        let kept = fs::read(world.part()).unwrap_or_default();
        assert!(BYTES.starts_with(&kept) && kept.len() < BYTES.len());
        world.place.limits = patient;
        world.server.mend();
        world.fetch(&offer, &world.part()).await.unwrap();
    }
}

#[tokio::test]
async fn a_version_with_build_metadata_has_a_name_that_a_url_can_hold() {
    let (mut world, _, _) = world().await;
    world.publish(|it: &mut Repository| {
        it.add_release("1.2.0+build.7", b"another");
        it.next();
    });
    let offer = world.well().await.offers.pop().unwrap();
    assert_eq!(offer.target, "imagebuilder-agent-1.2.0+build.7-x86_64");
    world.fetch(&offer, &world.part()).await.unwrap();
}
