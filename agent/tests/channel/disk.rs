//! The metadata on this instance: full and broken disks, and what the image knows.

use std::fs;

use imagebuilder_agent::update::refusal::Cause;

use crate::World;
use crate::repository::{Repository, days, now};

#[tokio::test]
async fn without_a_root_of_trust_nothing_is_believed() {
    let world = World::fresh().await;
    let root = world.place.trust.join("root.json");
    let good = fs::read(&root).unwrap();
    let mut unsigned: serde_json::Value = serde_json::from_slice(&good).unwrap();
    unsigned["signatures"] = serde_json::json!([]);
    let mut changed: serde_json::Value = serde_json::from_slice(&good).unwrap();
    changed["signed"]["version"] = 7.into();
    for bytes in [
        unsigned.to_string().into_bytes(),
        changed.to_string().into_bytes(),
        good[..good.len() / 2].to_vec(),
        Vec::new(),
    ] {
        fs::write(&root, bytes).unwrap();
        world.refused(Cause::NoRoot).await;
    }
    fs::remove_file(&root).unwrap();
    world.refused(Cause::NoRoot).await;
}

/// The floor that could not be kept is not gone by, at any of the writes.
#[tokio::test]
async fn a_disk_that_does_not_keep_the_metadata() {
    for file in [
        "root_history/2.root.json",
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ] {
        let mut world = World::new().await;
        world.publish(|it| {
            it.rotate("root");
            it.next();
        });
        // Where the new file would be written first: root, as whom tests may run, is stopped by this too.
        let taken = world.place.store.join(format!("{file}.new"));
        fs::create_dir(&taken).unwrap();
        let said = world.refused_above(Cause::Disk).await;
        assert!(said.contains(file), "{said}");
        fs::remove_dir(&taken).unwrap();
        assert_eq!(world.well().await.versions, [2, 2, 2, 2]);
        assert_eq!(world.versions().into_values().collect::<Vec<_>>(), [2; 4]);
    }
}

#[tokio::test]
async fn a_disk_that_keeps_nothing_new_is_well_while_nothing_is_new() {
    let mut world = World::new().await;
    for file in [
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ] {
        fs::create_dir(world.place.store.join(format!("{file}.new"))).unwrap();
    }
    world.well().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_made() {
    let mut world = World::fresh().await;
    let file = world.dir.path().join("file");
    fs::write(&file, "").unwrap();
    world.place.store = file.join("tuf");
    world.refused(Cause::Disk).await;
}

#[tokio::test]
async fn a_new_instance_begins_at_the_floor_of_its_image() {
    let mut world = World::fresh().await;
    let old = world.repository.clone();
    world.publish(Repository::next);
    world.bake();
    world.server.serve(&old.files);
    let refusal = world.run(now()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Rollback, "{refusal}");
    assert_eq!(world.versions()["timestamp.json"], 2);
    world.serve();
    assert_eq!(world.well().await.versions, [1, 2, 2, 2]);
}

/// Also when what the image knows has expired long ago.
#[tokio::test]
async fn an_old_image_has_a_floor_still() {
    let mut world = World::fresh().await;
    let old = world.repository.clone();
    world.publish(Repository::next);
    world.bake();
    world.repository = old;
    world.publish(|it| {
        it.role("timestamp").expires = now() + days(400);
        it.role("root").expires = now() + days(400);
        let keys = it.role("root").keys.clone();
        it.next_root(&keys);
        it.sign("timestamp");
    });
    let refusal = world.run(now() + days(300)).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Rollback, "{refusal}");
}

#[tokio::test]
async fn the_floor_is_the_higher_of_store_and_image() {
    let mut world = World::new().await;
    let first = world.repository.clone();
    world.publish(Repository::next);
    world.bake();
    let second = world.repository.clone();
    // The image knows more than the store.
    world.server.serve(&first.files);
    world.refused_above(Cause::Rollback).await;
    assert_eq!(world.versions()["snapshot.json"], 2);
    // The store knows more than the image.
    world.publish(Repository::next);
    world.well().await;
    world.server.serve(&second.files);
    world.refused(Cause::Rollback).await;
    assert_eq!(world.versions()["timestamp.json"], 3);
}

#[tokio::test]
async fn broken_files_are_moved_aside_and_the_image_has_the_floor() {
    type Breaks = fn(&[u8]) -> Vec<u8>;
    let breaks: [Breaks; 4] = [
        |it| it[..it.len() / 2].to_vec(),
        |_| Vec::new(),
        |_| vec![0; 4096],
        |it| it.iter().map(|byte| !byte).collect(),
    ];
    for file in [
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ] {
        for breaks in breaks {
            let mut world = World::new().await;
            let first = world.repository.clone();
            world.publish(Repository::next);
            world.bake();
            world.well().await;
            world.publish(Repository::next);
            world.well().await;
            let path = world.place.store.join(file);
            fs::write(&path, breaks(&fs::read(&path).unwrap())).unwrap();
            world.server.serve(&first.files);
            let refusal = world.run(now()).await.unwrap_err();
            assert_eq!(refusal.cause, Cause::Rollback, "{file}: {refusal}");
            assert!(
                world.place.store.join(format!("{file}.broken")).exists(),
                "{file}"
            );
            assert!(world.versions()["timestamp.json"] >= 2, "{file}");
            world.serve();
            assert_eq!(world.well().await.versions, [1, 3, 3, 3], "{file}");
        }
    }
}

/// JSON still, but no longer what was signed.
#[tokio::test]
async fn a_changed_file_gives_no_floor_and_hides_none() {
    for (file, role) in [
        ("timestamp.json", "timestamp"),
        ("snapshot.json", "snapshot"),
    ] {
        let mut world = World::new().await;
        let first = world.repository.clone();
        world.publish(Repository::next);
        world.bake();
        world.well().await;
        let path = world.place.store.join(file);
        let mut changed: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        changed["signed"]["version"] = 1_000_000.into();
        fs::write(&path, changed.to_string()).unwrap();
        world.server.serve(&first.files);
        let refusal = world.run(now()).await.unwrap_err();
        assert_eq!(refusal.cause, Cause::Rollback, "{role}: {refusal}");
        world.serve();
        assert_eq!(world.well().await.versions, [1, 2, 2, 2], "{role}");
    }
}

#[tokio::test]
async fn a_chain_that_broke_on_disk_does_not_go_back_to_older_keys() {
    let mut world = World::new().await;
    world.publish(|it| {
        it.rotate("root");
        it.rotate("root");
        it.next();
    });
    world.well().await;
    fs::write(world.place.store.join("root_history/2.root.json"), "{").unwrap();
    let mut hidden = world.repository.files.clone();
    hidden.remove("metadata/2.root.json");
    world.server.serve(&hidden);
    let said = world.refused_above(Cause::Rollback).await;
    assert_eq!(
        said,
        "the chain of roots ends at 1, root 3 was trusted before"
    );
    world.serve();
    assert_eq!(world.well().await.versions[0], 3);
}

#[tokio::test]
async fn a_new_channel_does_not_inherit_the_old_ones_floor() {
    let mut world = World::new().await;
    world.publish(|it| {
        it.rotate("root");
        it.rotate("timestamp");
        it.next();
        it.next();
    });
    world.well().await;
    let mut other = Repository::new();
    for role in crate::repository::ROLES {
        for _ in 0..9 {
            other.key();
        }
        let key = other.key();
        other.role(role).keys = vec![key];
    }
    other.files.clear();
    other.sign("root");
    other.publish();
    fs::write(world.place.trust.join("root.json"), other.root()).unwrap();
    world.server.serve(&other.files);
    assert_eq!(world.well().await.versions, [1, 1, 1, 1]);
}

/// What one instance has verified must not make it verify on another disk: nothing is kept in memory.
#[tokio::test]
async fn a_store_that_was_lost_begins_anew() {
    let mut world = World::new().await;
    world.publish(Repository::next);
    world.bake();
    world.well().await;
    fs::remove_dir_all(&world.place.store).unwrap();
    assert_eq!(world.well().await.versions, [1, 2, 2, 2]);
    assert_eq!(world.versions().len(), 4);
}
