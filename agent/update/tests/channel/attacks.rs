//! Attackers who control the network, the mirror or some of the keys.

use agent_update::channel::Cause;
use jiff::Timestamp;
use serde_json::json;

use crate::Setup;
use crate::repository::{ROLES, Repository, days, now};
use crate::server::Fault;

/// The roles that are fetched at every change.
const LOWER: [&str; 3] = ["timestamp", "snapshot", "targets"];

#[tokio::test]
async fn rollback_of_the_timestamp() {
    let mut setup = Setup::new().await;
    let old = setup.repository.clone();
    setup.publish(Repository::next);
    setup.well().await;
    setup.server.serve(&old.files);
    let message = setup.refused(Cause::Rollback).await;
    assert!(message.contains("timestamp"), "{message}");
    setup.serve();
    setup.well().await;
}

#[tokio::test]
async fn rollback_of_the_snapshot() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    setup.well().await;
    setup.publish(|it| {
        it.role("timestamp").version = 3;
        it.role("snapshot").version = 1;
        it.sign("timestamp");
    });
    let message = setup.refused(Cause::Rollback).await;
    assert!(message.contains("snapshot"), "{message}");
}

#[tokio::test]
async fn rollback_of_the_targets() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    setup.well().await;
    setup.publish(|it| {
        it.role("targets").version = 1;
        it.role("snapshot").version = 3;
        it.role("timestamp").version = 3;
        it.sign("snapshot");
        it.sign("timestamp");
    });
    let message = setup.refused_above(Cause::Rollback).await;
    assert!(message.contains("targets.json"), "{message}");
}

/// With the online key, and in two steps: a timestamp alone makes the library forget its snapshot.
#[tokio::test]
async fn targets_rollback_after_a_timestamp_without_its_snapshot() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    setup.well().await;
    setup.publish(|it| {
        it.role("targets").version = 1;
        it.role("snapshot").version = 3;
        it.role("timestamp").version = 3;
        it.sign("snapshot");
        it.sign("timestamp");
    });
    setup
        .server
        .fault("metadata/3.snapshot.json", Fault::Status(404));
    let mut withheld = setup.repository.files.clone();
    withheld.remove("metadata/3.snapshot.json");
    setup.server.serve(&withheld);
    setup.refused_above(Cause::Missing).await;
    assert_eq!(setup.versions()["timestamp.json"], 3);
    setup.server.repair();
    setup.serve();
    let message = setup.refused(Cause::Rollback).await;
    assert!(
        message.contains("targets.json has version 1, 2 was seen before"),
        "{message}"
    );
    assert_eq!(setup.versions()["snapshot.json"], 2);
}

#[tokio::test]
async fn a_role_that_the_snapshot_drops() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.pinned.insert("beta.json".to_owned(), 4);
        it.next();
    });
    setup.well().await;
    setup.publish(|it| {
        it.pinned.clear();
        it.next();
    });
    let message = setup.refused_above(Cause::Rollback).await;
    assert!(message.contains("beta.json"), "{message}");
}

#[tokio::test]
async fn expired_metadata_of_each_role() {
    for role in ROLES {
        let mut setup = Setup::new().await;
        setup.publish(|it| {
            let keys = it.role("root").keys.clone();
            it.role(role).expires = now() - days(1);
            match role {
                "root" => it.next_root(&keys),
                _ => it.next(),
            }
        });
        let message = setup.refused_above(Cause::Expired).await;
        assert!(
            message.starts_with(&format!("{role} metadata expired at 2026-05-31")),
            "{role}: {message}"
        );
        setup.publish(|it| {
            let keys = it.role("root").keys.clone();
            it.role(role).expires = now() + days(30);
            it.next_root(&keys);
            it.next();
        });
        setup.well().await;
    }
}

/// The mirror keeps serving an old state.
#[tokio::test]
async fn a_freeze_is_detected_at_expiry_and_ends_with_a_new_one() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.role("timestamp").expires = now() + days(1);
        it.next();
    });
    setup.well().await;
    let before = setup.floor();
    for _ in 0..2 {
        let refusal = setup.run(now() + days(2)).await.unwrap_err();
        assert_eq!(refusal.cause, Cause::Expired, "{refusal}");
        assert_eq!(setup.floor(), before);
    }
    // An expired floor is a floor still.
    setup.publish(|it| {
        it.role("timestamp").version = 1;
        it.role("timestamp").expires = now() + days(30);
        it.sign("timestamp");
    });
    let refusal = setup.run(now() + days(2)).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::Rollback, "{refusal}");
    setup.publish(|it| {
        it.role("timestamp").version = 3;
        it.sign("timestamp");
    });
    setup.run(now() + days(2)).await.unwrap();
}

#[tokio::test]
async fn mix_and_match_of_parts_that_were_each_signed_once() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    let mut mixed = setup.repository.files.clone();
    mixed.insert(
        "metadata/2.snapshot.json".into(),
        mixed["metadata/1.snapshot.json"].clone(),
    );
    setup.server.serve(&mixed);
    setup.refused_above(Cause::MixAndMatch).await;
    let mut mixed = setup.repository.files.clone();
    mixed.insert(
        "metadata/2.targets.json".into(),
        mixed["metadata/1.targets.json"].clone(),
    );
    setup.server.serve(&mixed);
    setup.refused_above(Cause::MixAndMatch).await;
    setup.serve();
    setup.well().await;
}

#[tokio::test]
async fn mix_and_match_where_no_hash_is_pinned() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.next();
        // An online key that pins a version only, and another version under its name.
        let mut timestamp = it.signed("timestamp");
        timestamp["meta"]["snapshot.json"] = json!({"version": 2});
        let signature = it.role("timestamp").keys[0].signature(&timestamp);
        it.put("timestamp", &timestamp, vec![signature]);
        let other = it.files["metadata/1.snapshot.json"].clone();
        it.files.insert("metadata/2.snapshot.json".into(), other);
    });
    setup.refused_above(Cause::MixAndMatch).await;
}

#[tokio::test]
async fn a_changed_timestamp_of_the_same_version_is_refused() {
    let mut setup = Setup::new().await;
    let before = setup.floor();
    setup.publish(|it| {
        it.add_release("6.6.6", b"another");
        it.role("targets").version = 2;
        it.role("snapshot").version = 2;
        it.publish();
    });
    let catalogue = setup.well().await;
    assert_eq!(catalogue.offers.len(), 1);
    assert_eq!(setup.floor(), before);
}

#[tokio::test]
async fn an_extreme_fast_forward_is_refused_without_a_trace() {
    for (role, version) in [
        ("timestamp", u64::MAX),
        ("snapshot", 1 << 33),
        ("targets", 1 << 40),
    ] {
        let mut setup = Setup::new().await;
        let honest = setup.repository.clone();
        setup.publish(|it| {
            it.next();
            it.role(role).version = version;
            it.publish();
        });
        let message = setup.refused_above(Cause::FastForward).await;
        assert!(message.contains(&version.to_string()), "{role}: {message}");
        setup.repository = honest;
        setup.publish(Repository::next);
        setup.publish(Repository::next);
        setup.well().await;
    }
}

/// Below the limit it cannot be distinguished from regular releases; TUF has its own recovery (section 6.1).
#[tokio::test]
async fn fast_forward_is_recovered_from_by_rotating_the_keys() {
    for role in LOWER {
        let mut setup = Setup::new().await;
        let honest = setup.repository.clone();
        setup.publish(|it| {
            it.next();
            it.role(role).version = 1 << 31;
            it.publish();
        });
        setup.well().await;
        setup.repository = honest;
        setup.publish(Repository::next);
        setup.publish(Repository::next);
        setup.refused_above(Cause::Rollback).await;
        // What a snapshot pins is forgotten with the snapshot's key, what a timestamp pins with its.
        let rotated: &[&str] = match role {
            "timestamp" => &["timestamp"],
            _ => &["snapshot", "timestamp"],
        };
        setup.publish(|it| {
            for role in rotated {
                it.rotate(role);
            }
            it.next();
        });
        let catalogue = setup.well().await;
        assert_eq!(catalogue.versions[1..], [4, 4, 4], "{role}");
    }
}

#[tokio::test]
async fn endless_data_in_place_of_each_role() {
    for role in ROLES {
        let mut setup = Setup::new().await;
        setup.publish(|it| {
            it.next();
            let keys = it.role("root").keys.clone();
            it.next_root(&keys);
        });
        let path = setup.repository.path(role);
        for fault in [Fault::Endless, Fault::Announces(1 << 40)] {
            setup.server.fault(&path, fault);
            let message = setup.refused_above(Cause::EndlessData).await;
            let name = path.strip_prefix("metadata/").unwrap();
            assert!(message.starts_with(name), "{role}: {message}");
        }
        setup.server.repair();
        setup.well().await;
    }
}

#[tokio::test]
async fn endless_rotation_stops_and_goes_on_where_it_stopped() {
    let mut setup = Setup::new().await;
    setup.place.limits.rotations = 3;
    setup.publish(|it| {
        for _ in 0..7 {
            it.rotate("root");
        }
    });
    for reached in [4, 7] {
        let message = setup.refused_above(Cause::EndlessRotation).await;
        assert_eq!(message, "more than 3 new roots", "{reached}");
        assert_eq!(setup.versions()["root.json"], reached, "{reached}");
    }
    assert_eq!(setup.well().await.versions[0], 8);
}

#[tokio::test]
async fn a_chain_of_forty_roots_is_walked_with_every_key_changing() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        for step in 0..40 {
            it.rotate(ROLES[step % ROLES.len()]);
        }
        it.next();
    });
    assert_eq!(setup.well().await.versions, [41, 2, 2, 2]);
    // And the next run begins where this one ended.
    setup.server.seen();
    setup.well().await;
    assert_eq!(setup.server.seen()[0].0, "metadata/42.root.json");
}

#[tokio::test]
async fn metadata_without_enough_signatures() {
    for role in ROLES {
        let mut setup = Setup::new().await;
        setup.publish(|it| {
            it.next();
            if role == "root" {
                it.role("root").version += 1;
            }
            let signed = it.signed(role);
            it.put(role, &signed, vec![]);
        });
        // The parents pin other bytes now: sign those again, as a holder of the online key could.
        setup.publish(|it| match role {
            "targets" => {
                it.sign("snapshot");
                it.sign("timestamp");
            }
            "snapshot" => it.sign("timestamp"),
            _ => {}
        });
        let message = setup.refused_above(Cause::Unsigned).await;
        assert!(
            message.contains(&format!("{role}: 0/1")),
            "{role}: {message}"
        );
    }
}

#[tokio::test]
async fn metadata_signed_by_other_keys() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        let unknown = it.key();
        it.next();
        it.role("timestamp").version += 1;
        let signed = it.signed("timestamp");
        it.put("timestamp", &signed, vec![unknown.signature(&signed)]);
    });
    setup.refused(Cause::Unsigned).await;
}

#[tokio::test]
async fn one_key_of_two_is_not_enough_however_often_it_signs() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        let (second, before) = (it.key(), it.role("root").keys.clone());
        it.role("targets").keys.push(second);
        it.role("targets").threshold = 2;
        it.next_root(&before);
        it.next();
    });
    setup.well().await;
    for twice in [false, true] {
        setup.publish(|it| {
            it.role("targets").version += 1;
            let signed = it.signed("targets");
            let signature = it.role("targets").keys[0].signature(&signed);
            let signatures = if twice {
                vec![signature.clone(), signature]
            } else {
                vec![signature]
            };
            it.put("targets", &signed, signatures);
            it.role("snapshot").version += 1;
            it.sign("snapshot");
            it.role("timestamp").version += 1;
            it.sign("timestamp");
        });
        let message = setup.refused_above(Cause::Unsigned).await;
        assert_eq!(
            message.contains("duplicate"),
            twice,
            "twice: {twice}: {message}"
        );
    }
}

#[tokio::test]
async fn a_root_that_the_one_before_has_not_signed() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        let key = it.key();
        it.role("root").keys = vec![key];
        it.next_root(&[]);
    });
    setup.refused(Cause::Unsigned).await;
}

#[tokio::test]
async fn a_root_of_another_version_than_its_name() {
    let mut setup = Setup::new().await;
    let first = setup.repository.root().to_vec();
    setup.publish(|it| {
        it.files.insert("metadata/2.root.json".into(), first);
    });
    setup.refused(Cause::Rollback).await;
    setup.publish(|it| {
        let keys = it.role("root").keys.clone();
        it.role("root").version = 4;
        it.next_root(&keys);
        let fifth = it.root().to_vec();
        it.files.insert("metadata/2.root.json".into(), fifth);
    });
    setup.refused(Cause::MixAndMatch).await;
}

#[tokio::test]
async fn what_is_no_metadata_at_all() {
    let deep = "[".repeat(10_000);
    for bytes in [
        "",
        "{}",
        "null",
        "{\"signed\":{},\"signatures\":[]}",
        "\u{0}",
        &deep,
        "1e999",
    ] {
        let mut setup = Setup::new().await;
        setup.publish(|it| {
            it.files
                .insert("metadata/timestamp.json".into(), bytes.into());
        });
        setup.refused(Cause::Malformed).await;
    }
}

/// Nothing that depends on the clock is kept: as soon as it is right, all is well.
#[tokio::test]
async fn a_clock_that_is_ten_years_off_does_no_lasting_harm() {
    let mut setup = Setup::new().await;
    setup.publish(Repository::next);
    let (before, honest) = (setup.floor(), setup.well().await);
    for off in [days(3650), days(-3650), days(-20_000)] {
        let refusal_or_not = setup.run(now() + off).await;
        match refusal_or_not {
            Err(refusal) => assert_eq!(refusal.cause, Cause::Expired, "{off:?}: {refusal}"),
            Ok(catalogue) => assert!(off.is_negative() && catalogue == honest, "{off:?}"),
        }
        assert_eq!(setup.well().await, honest, "{off:?}");
    }
    assert_ne!(setup.floor(), before);
    for odd in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
        let _ = setup.run(odd).await;
        assert_eq!(setup.well().await, honest, "{odd}");
    }
}
