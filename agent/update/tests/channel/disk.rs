//! The metadata on this instance: full and broken disks, and what the image knows.

use std::fs;

use agent_update::channel::Cause;

use crate::Setup;
use crate::repository::{Repository, days, now};

#[tokio::test]
async fn without_a_root_of_trust_nothing_is_believed() {
    let setup = Setup::fresh().await;
    let root = setup.place.trust.join("root.json");
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
        setup.refused(Cause::NoRoot).await;
    }
    fs::remove_file(&root).unwrap();
    setup.refused(Cause::NoRoot).await;
}

/// A floor that could not be stored is not used, at any of the writes.
#[tokio::test]
async fn a_disk_that_does_not_keep_the_metadata() {
    for file in [
        "root_history/2.root.json",
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ] {
        let mut setup = Setup::new().await;
        setup.publish(|it| {
            it.rotate("root");
            it.next();
        });
        // Where the new file would be written first: root, as whom tests may run, is stopped by this too.
        let taken = setup.place.store.join(format!("{file}.new"));
        fs::create_dir(&taken).unwrap();
        let message = setup.refused_above(Cause::Disk).await;
        assert!(message.contains(file), "{file}: {message}");
        fs::remove_dir(&taken).unwrap();
        assert_eq!(setup.well().await.versions, [2, 2, 2, 2], "{file}");
        assert_eq!(
            setup.versions().into_values().collect::<Vec<_>>(),
            [2; 4],
            "{file}"
        );
    }
}

#[tokio::test]
async fn a_disk_that_keeps_nothing_new_is_well_while_nothing_is_new() {
    let mut setup = Setup::new().await;
    for file in [
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ] {
        fs::create_dir(setup.place.store.join(format!("{file}.new"))).unwrap();
    }
    setup.well().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_made() {
    let mut setup = Setup::fresh().await;
    let file = setup.dir.path().join("file");
    fs::write(&file, "").unwrap();
    setup.place.store = file.join("tuf");
    setup.refused(Cause::Disk).await;
}

#[tokio::test]
async fn a_new_instance_begins_at_the_floor_of_its_image() {
    let mut setup = Setup::fresh().await;
    let old = setup.repository.clone();
    setup.publish(Repository::next);
    setup.bake();
    setup.server.serve(&old.files);
    let refusal = setup.run(now()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Rollback, "{refusal}");
    assert_eq!(setup.versions()["timestamp.json"], 2);
    setup.serve();
    assert_eq!(setup.well().await.versions, [1, 2, 2, 2]);
}

/// Also when what the image knows has expired long ago.
#[tokio::test]
async fn an_old_image_has_a_floor_still() {
    let mut setup = Setup::fresh().await;
    let old = setup.repository.clone();
    setup.publish(Repository::next);
    setup.bake();
    setup.repository = old;
    setup.publish(|it| {
        it.role("timestamp").expires = now() + days(400);
        it.role("root").expires = now() + days(400);
        let keys = it.role("root").keys.clone();
        it.next_root(&keys);
        it.sign("timestamp");
    });
    let refusal = setup.run(now() + days(300)).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Rollback, "{refusal}");
}

#[tokio::test]
async fn the_floor_is_the_higher_of_store_and_image() {
    let mut setup = Setup::new().await;
    let first = setup.repository.clone();
    setup.publish(Repository::next);
    setup.bake();
    let second = setup.repository.clone();
    // The image knows more than the store.
    setup.server.serve(&first.files);
    setup.refused_above(Cause::Rollback).await;
    assert_eq!(setup.versions()["snapshot.json"], 2);
    // The store knows more than the image.
    setup.publish(Repository::next);
    setup.well().await;
    setup.server.serve(&second.files);
    setup.refused(Cause::Rollback).await;
    assert_eq!(setup.versions()["timestamp.json"], 3);
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
            let mut setup = Setup::new().await;
            let first = setup.repository.clone();
            setup.publish(Repository::next);
            setup.bake();
            setup.well().await;
            setup.publish(Repository::next);
            setup.well().await;
            let path = setup.place.store.join(file);
            fs::write(&path, breaks(&fs::read(&path).unwrap())).unwrap();
            setup.server.serve(&first.files);
            let refusal = setup.run(now()).await.unwrap_err();
            assert_eq!(refusal.cause, Cause::Rollback, "{file}: {refusal}");
            assert!(
                setup.place.store.join(format!("{file}.broken")).exists(),
                "{file}"
            );
            assert!(setup.versions()["timestamp.json"] >= 2, "{file}");
            setup.serve();
            assert_eq!(setup.well().await.versions, [1, 3, 3, 3], "{file}");
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
        let mut setup = Setup::new().await;
        let first = setup.repository.clone();
        setup.publish(Repository::next);
        setup.bake();
        setup.well().await;
        let path = setup.place.store.join(file);
        let mut changed: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        changed["signed"]["version"] = 1_000_000.into();
        fs::write(&path, changed.to_string()).unwrap();
        setup.server.serve(&first.files);
        let refusal = setup.run(now()).await.unwrap_err();
        assert_eq!(refusal.cause, Cause::Rollback, "{role}: {refusal}");
        setup.serve();
        assert_eq!(setup.well().await.versions, [1, 2, 2, 2], "{role}");
    }
}

#[tokio::test]
async fn a_chain_that_broke_on_disk_does_not_go_back_to_older_keys() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.rotate("root");
        it.rotate("root");
        it.next();
    });
    setup.well().await;
    fs::write(setup.place.store.join("root_history/2.root.json"), "{").unwrap();
    let mut hidden = setup.repository.files.clone();
    hidden.remove("metadata/2.root.json");
    setup.server.serve(&hidden);
    let message = setup.refused_above(Cause::Rollback).await;
    assert_eq!(
        message,
        "the chain of roots ends at 1, root 3 was trusted before"
    );
    setup.serve();
    assert_eq!(setup.well().await.versions[0], 3);
}

#[tokio::test]
async fn a_new_channel_does_not_inherit_the_old_ones_floor() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.rotate("root");
        it.rotate("timestamp");
        it.next();
        it.next();
    });
    setup.well().await;
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
    fs::write(setup.place.trust.join("root.json"), other.root()).unwrap();
    setup.server.serve(&other.files);
    assert_eq!(setup.well().await.versions, [1, 1, 1, 1]);
}

/// What one instance has verified must not make it verify on another disk: nothing is kept in memory.
#[tokio::test]
async fn a_store_that_was_lost_begins_anew() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    setup.bake();
    setup.well().await;
    fs::remove_dir_all(&setup.place.store).unwrap();
    assert_eq!(setup.well().await.versions, [1, 2, 2, 2]);
    assert_eq!(setup.versions().len(), 4);
}
