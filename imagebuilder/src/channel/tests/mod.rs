//! Whole lifetimes of a channel, in a folder and in an in-memory bucket, with the process killed at every write.

mod scene;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use anyhow::bail;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;
use semver::Version;
use sha2::{Digest as _, Sha256};

use self::scene::{Cut, Mortal, Scene};
use super::author;
use super::bucket::Bucket;
use super::folder::Folder;
use super::keys::{Keyring, public_path};
use super::releases::{self, New};
use super::root::{Made, read_draft, sign_blindly};
use super::seen::replace_file;
use super::session::ChannelSession;
use super::store::{Keep, Store as _, Tag, Written};
use super::verify::{self, TIMESTAMP};
use super::waves::Shape;
use crate::config::KeySource;
use cloud::ids::ChannelName;
use run::exit::Exit;
use run::permissions::{Need, Verb, needed};

fn release(version: &str, bytes: &'static [u8], start: Timestamp) -> (New, Bytes) {
    let new = New {
        version: Version::parse(version).unwrap(),
        arch: "x86_64".to_owned(),
        digest: Sha256::digest(bytes).to_vec(),
        length: bytes.len() as u64,
        channel: ChannelName::stable(),
        start,
        waves: None,
        default_waves: Shape::parse("5%@0h,100%@1h").unwrap(),
        min_from: None,
        floor: None,
    };
    (new, Bytes::from_static(bytes))
}

async fn publish(session: &ChannelSession, version: &str) -> anyhow::Result<bool> {
    let bytes: &'static [u8] = format!("agent {version}").into_bytes().leak();
    let (new, bytes) = release(version, bytes, session.now);
    Ok(session.publish(&new, &bytes).await?.changed)
}

async fn promote(session: &ChannelSession, version: &str, to: &str) -> anyhow::Result<bool> {
    let version = Version::parse(version)?;
    let to = ChannelName::parse(to)?;
    let shape = Shape::default();
    let edit = |targets: &_| releases::promote(targets, &version, &to, session.now, None, &shape);
    Ok(session.change(edit, async || Ok(())).await?.changed)
}

async fn withdraw(
    session: &ChannelSession,
    version: &str,
    back: Option<&str>,
) -> anyhow::Result<bool> {
    let version = Version::parse(version)?;
    let back = back.map(Version::parse).transpose()?;
    let edit = |targets: &_| {
        releases::withdraw(
            targets,
            &version,
            "it forgets orders",
            back.as_ref(),
            session.now,
        )
    };
    Ok(session.change(edit, async || Ok(())).await?.changed)
}

async fn rotate(session: &ChannelSession, old: &[KeySource]) -> anyhow::Result<bool> {
    match session.rotate(old, false).await? {
        Made::Nothing(_) => Ok(false),
        Made::Published(_) => Ok(true),
        Made::Draft { .. } => bail!("a draft"),
    }
}

fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Refused, "{error:#}");
    match run::exit::hint(&error) {
        Some(hint) => format!("{error:#} | {hint}"),
        None => format!("{error:#}"),
    }
}

/// Whether a reader may have to wait between two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    None,
    One,
}

/// Kills `verb` at every write, before and after it: a reader sees a consistent repository, the next run completes, and the one
/// after it has nothing to do.
async fn at_every_write(
    prepare: impl AsyncFn() -> Scene,
    verb: impl AsyncFn(&ChannelSession, &Scene) -> anyhow::Result<bool>,
    gap: Gap,
) {
    let mut cuts = 0;
    for cut in [Cut::Before, Cut::After] {
        let mut unreadable = 0;
        for write in 1.. {
            let scene = prepare().await;
            let before = scene.reader().await.ok().map(|seen| seen.versions());
            let session = scene.session_with(Box::new(Mortal {
                inner: Arc::clone(&scene.store),
                left: AtomicI64::new(write),
                cut,
            }));
            let cut_off = verb(&session, &scene).await;
            if cut_off.is_ok() {
                break;
            }
            cuts += 1;
            match (scene.reader().await, before) {
                (Ok(seen), Some(before)) => {
                    assert!(
                        seen.versions()
                            .iter()
                            .zip(before)
                            .all(|(is, was)| *is >= was),
                        "{cut:?} {write}"
                    );
                }
                (Err(_), Some(_)) => unreadable += 1,
                (_, None) => {}
            }
            drop(session);
            verb(&scene.session(), &scene)
                .await
                .unwrap_or_else(|error| panic!("after {cut:?} {write}: {error:#}"));
            scene.reader().await.unwrap();
            assert!(
                !verb(&scene.session(), &scene).await.unwrap(),
                "{cut:?} {write}: done twice"
            );
        }
        assert_eq!(unreadable, usize::from(gap == Gap::One), "{cut:?}");
    }
    assert!(cuts >= 2, "the verb wrote nothing");
}

#[tokio::test]
async fn init_cut_at_every_write_resumes_with_the_same_root() {
    at_every_write(
        async || Scene::in_memory(),
        async |session, _| Ok(matches!(session.init().await?, Made::Published(_))),
        Gap::None,
    )
    .await;
}

#[tokio::test]
async fn publish_promote_withdraw_cut_at_every_write_stay_consistent() {
    let made = async || Scene::in_memory().made().await;
    at_every_write(
        made,
        async |session, _| publish(session, "1.0.0").await,
        Gap::None,
    )
    .await;
    let with_two = async || {
        let scene = Scene::in_memory().made().await;
        publish(&scene.session(), "1.0.0").await.unwrap();
        publish(&scene.session(), "1.1.0").await.unwrap();
        scene
    };
    at_every_write(
        with_two,
        async |session, _| promote(session, "1.1.0", "beta").await,
        Gap::None,
    )
    .await;
    at_every_write(
        with_two,
        async |session, _| withdraw(session, "1.1.0", Some("1.0.0")).await,
        Gap::None,
    )
    .await;
}

/// Every key is replaced, as after a theft.
fn all_anew(scene: &mut Scene) -> Vec<KeySource> {
    let keys = &mut scene.channel.keys;
    let old = keys
        .root
        .iter()
        .chain(&keys.targets)
        .chain(&keys.online)
        .cloned()
        .collect();
    keys.root = ["new-1", "new-2", "new-3"]
        .map(|name| KeySource::File(format!("keys/{name}.pem").into()))
        .to_vec();
    keys.targets = vec![KeySource::File("keys/new-targets.pem".into())];
    keys.online = Some(KeySource::File("keys/new-online.pem".into()));
    for name in ["new-1", "new-2", "new-3", "new-targets", "new-online"] {
        scene.key(name);
    }
    old
}

#[tokio::test]
async fn key_rotation_cut_at_every_write_is_seamless_with_old_keys() {
    let prepare = async || {
        let mut scene = Scene::in_memory().made().await;
        publish(&scene.session(), "1.0.0").await.unwrap();
        all_anew(&mut scene);
        scene
    };
    let old = ["root-1", "root-2", "targets-1", "online"]
        .map(|name| KeySource::File(format!("keys/{name}.pem").into()));
    at_every_write(
        prepare,
        async |session, _| rotate(session, &old).await,
        Gap::None,
    )
    .await;
}

#[tokio::test]
async fn a_lost_online_key_costs_readers_one_write() {
    let prepare = async || {
        let mut scene = Scene::in_memory().made().await;
        publish(&scene.session(), "1.0.0").await.unwrap();
        std::fs::remove_file(scene.at().join("keys/online.pem")).unwrap();
        scene.channel.keys.online = Some(scene.key("online-2"));
        scene
    };
    at_every_write(
        prepare,
        async |session, _| rotate(session, &[]).await,
        Gap::One,
    )
    .await;
}

#[tokio::test]
async fn refresh_touches_no_targets_and_snapshots_only_in_time() {
    let mut scene = Scene::in_memory().made().await;
    publish(&scene.session(), "1.0.0").await.unwrap();
    scene.take_away("targets-1");
    scene.take_away("root-1");
    let before = scene.reader().await.unwrap();
    scene.later(12);
    let is = scene.session().refresh(false).await.unwrap();
    assert_eq!(
        is.versions(),
        [
            1,
            before.versions()[1] + 1,
            before.versions()[2],
            before.versions()[3]
        ]
    );
    assert_eq!(
        is.timestamp.signed.expires,
        scene.now + SignedDuration::from_hours(24)
    );
    // Half of the snapshot's week is over.
    scene.later(4 * 24);
    assert!(
        refusal(publish(&scene.session(), "1.0.1").await)
            .contains("`imagebuilder channel refresh`")
    );
    let is = scene.session().refresh(false).await.unwrap();
    assert_eq!(is.versions()[2], before.versions()[2] + 1);
    assert_eq!(is.targets, before.targets);
    // The targets' 90 days are over: `refresh` fails and does not hide it.
    scene.later(90 * 24);
    let printed = refusal(scene.session().refresh(false).await);
    assert!(
        printed.contains("targets metadata expired") && printed.contains("refresh --targets"),
        "{printed}"
    );
    assert!(
        scene.session().refresh(true).await.is_err(),
        "without the targets key"
    );
    std::fs::rename(
        scene.at().join("targets-1.away"),
        scene.at().join("keys/targets-1.pem"),
    )
    .unwrap();
    let is = scene.session().refresh(true).await.unwrap();
    assert_eq!(is.targets.signed.targets, before.targets.signed.targets);
    // The root's year is over as well.
    scene.later(366 * 24);
    let printed = refusal(scene.session().refresh(false).await);
    assert!(
        printed.contains("root metadata expired") && printed.contains("rotate-root"),
        "{printed}"
    );
    std::fs::rename(
        scene.at().join("root-1.away"),
        scene.at().join("keys/root-1.pem"),
    )
    .unwrap();
    assert!(rotate(&scene.session(), &[]).await.unwrap());
    scene.session().refresh(true).await.unwrap();
    assert!(publish(&scene.session(), "1.0.1").await.unwrap());
}

#[tokio::test]
async fn a_root_is_signed_in_steps_and_a_draft_waits_for_signers() {
    let mut scene = Scene::in_memory().made().await;
    for name in ["root-1", "root-2", "root-3"] {
        scene.take_away(name);
    }
    scene.channel.keys.root[2] = scene.key("root-4");
    let Made::Draft {
        path,
        draft,
        missing,
    } = scene.session().rotate(&[], false).await.unwrap()
    else {
        panic!("published without the old keys");
    };
    assert_eq!(draft.signatures.len(), 1, "root-4 is here");
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert_eq!(
        scene.reader().await.unwrap().versions()[0],
        1,
        "nothing was published"
    );
    // Two key holders sign the draft; one of the keys only counts for the present root.
    for name in ["root-1", "root-3"] {
        let mut draft = read_draft(&path).unwrap().unwrap();
        let away = KeySource::File(format!("{name}.away").into());
        let key = Keyring::new(
            scene.at().to_owned(),
            Box::new(|| Box::pin(async { bail!("no KMS") })),
        )
        .open(&away)
        .await
        .unwrap();
        assert_eq!(
            sign_blindly(&mut draft, std::slice::from_ref(&key))
                .await
                .unwrap(),
            1
        );
        assert_eq!(
            sign_blindly(&mut draft, &[key]).await.unwrap(),
            0,
            "once is enough"
        );
        replace_file(&path, &author::bytes(&draft).unwrap()).unwrap();
    }
    assert!(rotate(&scene.session(), &[]).await.unwrap());
    assert_eq!(scene.reader().await.unwrap().versions()[0], 2);
    assert!(!path.exists(), "the draft is done with");
    assert!(
        !rotate(&scene.session(), &[]).await.unwrap(),
        "nothing to do"
    );
    // A draft of another root is not continued.
    let mut other = *draft;
    other.signed.version = std::num::NonZeroU64::new(3).unwrap();
    replace_file(&path, &author::bytes(&other).unwrap()).unwrap();
    scene.channel.keys.targets_threshold = 1;
    scene.channel.keys.targets.push(scene.key("targets-2"));
    let printed = refusal(scene.session().rotate(&[], false).await);
    assert!(
        printed.contains("is not the root that the configuration asks for"),
        "{printed}"
    );
}

/// Row B5: the permissions of every changing verb are checked before its first write.
#[tokio::test]
async fn every_denied_action_is_found_before_the_first_write() {
    const KEY: &str = "arn:aws:kms:us-east-1:123456789012:key/1";
    for action in needed(&[Verb::Channel], &[Need::Bucket, Need::SigningKey]) {
        for verb in [
            "init", "publish", "promote", "withdraw", "refresh", "rotate",
        ] {
            let mut scene = Scene::in_memory();
            if verb != "init" {
                scene = scene.made().await;
                publish(&scene.session(), "1.0.0").await.unwrap();
            }
            match verb {
                // It has to open all of its keys to know whether there is anything to do.
                "rotate" if action.need == Need::SigningKey => continue,
                "rotate" => scene.channel.keys.online = Some(scene.key("new")),
                _ => scene.channel.keys.online = Some(KeySource::AwsKms(KEY.to_owned())),
            }
            scene.aws.state().policy.denied.insert(action.name);
            let session = scene.session_with(Box::new(Mortal {
                inner: Arc::clone(&scene.store),
                left: AtomicI64::new(1),
                cut: Cut::Before,
            }));
            let refused = refusal(match verb {
                "init" => session.init().await.map(|_| true),
                "publish" => publish(&session, "1.1.0").await,
                "promote" => promote(&session, "1.0.0", "beta").await,
                "withdraw" => withdraw(&session, "1.0.0", None).await,
                "refresh" => session.refresh(false).await.map(|_| true),
                _ => rotate(&session, &[scene.key("online")]).await,
            });
            let want = format!("may not call {}", action.name);
            assert!(refused.contains(&want), "{verb}: {refused}");
            if verb == "init" {
                assert!(!session.known_path().exists(), "{refused}");
            }
        }
    }
}

/// Nothing to do needs no permission, and neither does a folder.
#[tokio::test]
async fn nothing_to_do_and_folders_need_no_permission() {
    let scene = Scene::in_memory().made().await;
    publish(&scene.session(), "1.0.0").await.unwrap();
    assert!(!scene.aws.state().policy.asked.is_empty());
    let policy = || scene.aws.state().policy.clone();
    scene.aws.state().policy.asked.clear();
    scene.aws.state().policy.denied.insert("s3:PutObject");
    assert!(!publish(&scene.session(), "1.0.0").await.unwrap());
    assert!(policy().asked.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let mut local = Scene::with(Arc::new(
        Folder::writing(folder.path().join("repository")).unwrap(),
    ));
    local.channel.repository = crate::config::Repository::Folder("repository".into());
    let local = local.made().await;
    publish(&local.session(), "1.0.0").await.unwrap();
    assert!(local.aws.state().policy.asked.is_empty());
}

#[tokio::test]
async fn thresholds_are_kept() {
    let mut scene = Scene::in_memory();
    scene.channel.keys.targets.push(scene.key("targets-2"));
    scene.channel.keys.targets_threshold = 2;
    let scene = scene.made().await;
    assert!(publish(&scene.session(), "1.0.0").await.unwrap());
    assert_eq!(scene.reader().await.unwrap().targets.signatures.len(), 2);
    scene.take_away("targets-2");
    let printed = refusal(publish(&scene.session(), "1.1.0").await);
    assert!(
        printed.contains("cannot sign the channel's targets metadata"),
        "{printed}"
    );
    assert!(printed.contains("`targets` in [channel.keys]"), "{printed}");
    assert!(!printed.contains("BEGIN"), "{printed}");
    // Two files with one key are one key.
    std::fs::copy(
        public_path(&scene.at().join("keys/root-1.pem")),
        scene.at().join("keys/again.pem"),
    )
    .unwrap();
    let mut doubled = scene;
    doubled.channel.keys.root[1] = KeySource::File("keys/again.pem".into());
    assert!(doubled.session().rotate(&[], false).await.is_err());
}

#[tokio::test]
async fn the_second_of_two_publishers_is_refused_and_loses_nothing() {
    let scene = Scene::in_memory().made().await;
    publish(&scene.session(), "1.0.0").await.unwrap();
    // The second one read before the first one wrote.
    let session = scene.session();
    let was = session.verified().await.unwrap();
    publish(&scene.session(), "1.1.0").await.unwrap();
    let edit = releases::promote(
        &was.targets.signed,
        &Version::new(1, 0, 0),
        &ChannelName::parse("beta").unwrap(),
        scene.now,
        None,
        &Shape::default(),
    )
    .unwrap()
    .unwrap();
    let printed = refusal(
        session
            .write(&was, author::Extent::Targets(Box::new(edit.targets)))
            .await,
    );
    assert!(
        printed.contains("another publisher changed the channel meanwhile"),
        "{printed}"
    );
    let seen = scene.reader().await.unwrap();
    assert_eq!(seen.entries().len(), 2, "the first one's release is there");
    assert!(
        promote(&scene.session(), "1.0.0", "beta").await.unwrap(),
        "and the second one's next try"
    );
}

/// Metadata with one change in its signed part. By its place and not by its digits: a signature may contain those of the
/// year in it, and one of two signatures would do.
fn with_another_expiry(text: &str) -> String {
    let mut metadata: serde_json::Value = serde_json::from_str(text).unwrap();
    metadata["signed"]["expires"] = "2099-01-01T00:00:00Z".into();
    metadata.to_string()
}

#[tokio::test]
async fn tampered_metadata_is_never_built_on() {
    let scene = Scene::in_memory().made().await;
    publish(&scene.session(), "1.0.0").await.unwrap();
    let memory = Arc::new(InMemory::new());
    let seen = scene.reader().await.unwrap();
    let [root, _, snapshot, targets] = seen.versions();
    let files = [
        verify::metadata(root, "root"),
        verify::metadata(snapshot, "snapshot"),
        verify::metadata(targets, "targets"),
        TIMESTAMP.to_owned(),
    ];
    type Change = fn(&str) -> String;
    let changes: [(&str, Change); 3] = [
        ("another expiry", with_another_expiry),
        ("cut short", |text| text[..text.len() / 2].to_owned()),
        ("no signatures", |text| {
            let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
            value["signatures"] = serde_json::json!([]);
            value.to_string()
        }),
    ];
    for (what, change) in changes {
        for victim in &files[1..] {
            let bucket = Bucket::new(
                memory.clone(),
                "shop".to_owned(),
                format!("{what}/{victim}").replace(' ', "-"),
            );
            for path in &files {
                let found = scene.store.read(path, verify::MOST).await.unwrap().unwrap();
                let bytes = if path == victim {
                    change(std::str::from_utf8(&found.bytes).unwrap()).into()
                } else {
                    found.bytes
                };
                let written = bucket.create(path, bytes, Keep::Never).await.unwrap();
                assert_eq!(written, Written::Done, "{what} {victim}: {path}");
            }
            let session = scene.session_with(Box::new(bucket));
            let printed = refusal(publish(&session, "1.1.0").await);
            assert!(
                printed.contains("the channel does not verify"),
                "{what} {victim}: {printed}"
            );
            assert!(session.refresh(false).await.is_err(), "{what} {victim}");
        }
    }
    // The root of trust in this folder is compared as well.
    let path = scene.session().known_path();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, with_another_expiry(&text)).unwrap();
    assert!(refusal(publish(&scene.session(), "1.1.0").await).contains("does not verify"));
}

#[tokio::test]
async fn a_repository_with_older_versions_is_refused() {
    let scene = Scene::in_memory().made().await;
    let old = scene
        .store
        .read(TIMESTAMP, verify::MOST)
        .await
        .unwrap()
        .unwrap();
    publish(&scene.session(), "1.0.0").await.unwrap();
    let now = scene
        .store
        .read(TIMESTAMP, verify::MOST)
        .await
        .unwrap()
        .unwrap();
    let _ = scene
        .store
        .replace(TIMESTAMP, old.bytes, Keep::Never, &now.tag)
        .await
        .unwrap();
    let printed = refusal(publish(&scene.session(), "1.1.0").await);
    assert!(
        printed.contains("the channel went back: timestamp 2 was seen here, now it is 1"),
        "{printed}"
    );
}

#[tokio::test]
async fn an_existing_channel_is_not_made_again() {
    let scene = Scene::in_memory().made().await;
    assert!(matches!(
        scene.session().init().await.unwrap(),
        Made::Nothing(_)
    ));
    let other = Scene::with(Arc::clone(&scene.store));
    let printed = refusal(other.session().init().await);
    assert!(
        printed.contains("there is a channel in s3://shop/agents already"),
        "{printed}"
    );
    // With a root of its own it does not verify.
    std::fs::write(other.session().known_path(), "{}").unwrap();
    assert!(refusal(other.session().verified().await).contains("does not verify"));
}

#[tokio::test]
async fn a_folder_keeps_files_whole_and_one_publisher_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("channel");
    let folder = Folder::writing(root.clone()).unwrap();
    assert!(
        refusal(Folder::writing(root.clone())).contains("another process is changing the channel")
    );
    drop(folder);
    std::fs::write(root.join("metadata/.unnamed-1.root.json"), "half").unwrap();
    let scene = Scene::with(Arc::new(Folder::writing(root.clone()).unwrap()))
        .made()
        .await;
    publish(&scene.session(), "1.0.0").await.unwrap();
    scene.reader().await.unwrap();
    let mut names: Vec<String> = std::fs::read_dir(root.join("metadata"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "1.root.json",
            "1.snapshot.json",
            "1.targets.json",
            "2.snapshot.json",
            "2.targets.json",
            "timestamp.json"
        ]
    );
    let written = scene
        .store
        .create(
            "metadata/1.root.json",
            Bytes::from_static(b"x"),
            Keep::Forever,
        )
        .await
        .unwrap();
    assert_eq!(written, Written::Occupied);
    let wrong = Tag("no digest".to_owned());
    let written = scene
        .store
        .replace(TIMESTAMP, Bytes::from_static(b"x"), Keep::Never, &wrong)
        .await
        .unwrap();
    assert_eq!(written, Written::Occupied);
    let printed = scene
        .store
        .read(TIMESTAMP, 10)
        .await
        .unwrap_err()
        .to_string();
    assert!(printed.contains("is longer than 10 bytes"), "{printed}");
}

#[tokio::test]
async fn show_lists_releases_waves_and_expiries() {
    let mut scene = Scene::in_memory().made().await;
    publish(&scene.session(), "1.0.0").await.unwrap();
    publish(&scene.session(), "1.1.0").await.unwrap();
    promote(&scene.session(), "1.1.0", "beta").await.unwrap();
    withdraw(&scene.session(), "1.0.0", None).await.unwrap();
    let verified = scene.session().verified().await.unwrap();
    scene.later(23);
    let view = super::show::view(
        &verified,
        "s3://shop/agents".to_owned(),
        "https://shop.s3.amazonaws.com/agents".to_owned(),
        [365, 90, 7, 1],
        scene.now,
    );
    // Fresh keys have other names every time.
    let mut text = view.text(scene.now).join("\n");
    for id in verified.root().keys.keys() {
        text = text.replace(&hex::encode(id)[..8], "KEY");
    }
    let warnings = |view: &super::show::View| {
        let warnings = view.warnings();
        let printed: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        printed.join("\n")
    };
    assert!(view.warnings().iter().all(|warning| !warning.expired));
    assert_eq!(
        view.expiries(scene.now),
        "root in 364 d, targets in 89 d, snapshot in 6 d, timestamp in 1 h"
    );
    insta::assert_snapshot!("show", format!("{text}\n\n{}", warnings(&view)));
    scene.later(24 * 400);
    let view = super::show::view(
        &verified,
        String::new(),
        String::new(),
        [365, 90, 7, 1],
        scene.now,
    );
    assert!(view.warnings().iter().all(|warning| warning.expired));
    insta::assert_snapshot!("show-expired", warnings(&view));
}
