//! Property test: bakes, undoes and reaps in accounts full of other users' resources, none of which is touched.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use cloud::testing::{AwsState, Fault, Nth, failure};

/// Which tags another user's resource carries.
#[derive(Clone, Copy, Debug)]
enum Disguise {
    /// It has no tags.
    Bare,
    /// It has the tags of our images, but no run's.
    LikeOurs,
    /// It is another run's, of another host, which may still run.
    OtherRun,
    /// It has a run's tag that is no run's.
    NoRun,
}

/// A resource of another user.
#[derive(Clone, Debug)]
enum Theirs {
    Instance,
    Image,
    /// Whose description names an image and an instance.
    Snapshot(String),
    Volume,
    Interface,
    KeyPair(String),
    Group(String),
    /// A registry record, or anything else below the image's path.
    Parameter(String),
}

fn disguise() -> impl Strategy<Value = Disguise> {
    use Disguise::*;
    prop_oneof![Just(Bare), Just(LikeOurs), Just(OtherRun), Just(NoRun)]
}

fn theirs() -> impl Strategy<Value = Theirs> {
    // Names as ours could be; ids are counted up, so that these collide with them.
    let name = "(imagebuilder-|packer_|shop-)?[a-z0-9]{0,4}";
    prop_oneof![
        Just(Theirs::Instance),
        Just(Theirs::Image),
        "Created by CreateImage\\(i-00[0-3][0-9a-f]\\) for ami-00[0-3][0-9a-f]"
            .prop_map(Theirs::Snapshot),
        Just(Theirs::Volume),
        Just(Theirs::Interface),
        name.prop_map(Theirs::KeyPair),
        name.prop_map(Theirs::Group),
        "/imagebuilder/shop/(registry/i-ff[0-9a-f]{2}|current|note)".prop_map(Theirs::Parameter),
    ]
}

fn tags(disguise: Disguise, nonce: u32) -> Tags {
    let run = match disguise {
        Disguise::Bare => return Tags::new(),
        Disguise::LikeOurs => None,
        Disguise::OtherRun => {
            Some(run::id::run_id("bake", jiff::Timestamp::now(), nonce).to_string())
        }
        Disguise::NoRun => Some("*".to_owned()),
    };
    let ours = [
        (tags::IMAGE.to_owned(), "shop".to_owned()),
        (tags::SOURCE_AMI.to_owned(), "ami-1".to_owned()),
        ("Name".to_owned(), "shop builder".to_owned()),
    ];
    let run = run.map(|run| (tags::RUN.to_owned(), run));
    ours.into_iter().chain(run).collect()
}

fn add(aws: &mut AwsState, theirs: &Theirs, disguise: Disguise, nonce: u32) {
    let tags = tags(disguise, nonce);
    let source = ImageId::parse("ami-1").unwrap();
    match theirs {
        Theirs::Instance => drop(aws.add_instance(&source, tags)),
        Theirs::Image => {
            let builder = aws.add_instance(&source, Tags::new());
            aws.create_image(&builder, "shop", tags);
        }
        Theirs::Snapshot(description) => drop(aws.add_snapshot(None, description, tags)),
        Theirs::Volume => drop(aws.add_volume(tags)),
        Theirs::Interface => drop(aws.add_interface(tags)),
        Theirs::KeyPair(name) => drop(aws.add_key_pair(name, tags)),
        Theirs::Group(name) => drop(aws.add_security_group(name, tags)),
        Theirs::Parameter(name) => drop(aws.parameters.insert(name.clone(), "ami-1".to_owned())),
    }
}

/// Everything there is, as text by id.
fn everything(aws: &AwsState) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |id: String, what: String| drop(all.insert(id, what));
    for (id, one) in &aws.instances {
        put(id.to_string(), format!("{one:?}"));
    }
    for (id, one) in &aws.images {
        put(id.to_string(), format!("{one:?}"));
    }
    for (id, one) in &aws.snapshots {
        put(id.to_string(), format!("{one:?}"));
    }
    for (id, one) in &aws.volumes {
        put(id.to_string(), format!("{one:?}"));
    }
    for (id, one) in &aws.interfaces {
        put(id.to_string(), format!("{one:?}"));
    }
    for (id, one) in &aws.key_pairs {
        put(id.to_string(), format!("{one:?}"));
    }
    for (id, one) in &aws.security_groups {
        put(id.to_string(), format!("{one:?}"));
    }
    for (name, value) in &aws.parameters {
        put(name.clone(), value.clone());
    }
    all
}

fn untouched(before: &BTreeMap<String, String>, scene: &Scene) -> Result<(), TestCaseError> {
    let now = everything(&scene.aws.state());
    for (id, what) in before {
        prop_assert_eq!(now.get(id), Some(what), "{}", id);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_of_others_is_touched(
        theirs in prop::collection::vec((theirs(), disguise()), 0..24),
        fit in any::<bool>(),
        // Ownership must not depend on the service's filters alone.
        unfiltered in any::<bool>(),
        fault in prop_oneof![
            Just(None),
            Just(Some(Fault::Refused(failure("InternalError")))),
            Just(Some(Fault::Hangs)),
            Just(Some(Fault::HangsAfter)),
        ],
        at in 1..16_usize,
        ledger in prop_oneof![Just(None), Just(Some("")), Just(Some("{"))],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let scene = Scene::new(if fit { Verdict::Fit } else { Verdict::Unfit });
            for (nonce, (theirs, disguise)) in (0..).zip(&theirs) {
                add(&mut scene.aws.state(), theirs, *disguise, nonce);
            }
            let before = everything(&scene.aws.state());
            scene.aws.state().unfiltered = unfiltered;
            if let Some(fault) = fault {
                scene.aws.fault_at(Nth::Change(at), fault);
            }
            let baked = scene.bake_until_killed().await;
            untouched(&before, &scene)?;
            // With any state of its ledger, and from another process.
            if let Some(text) = ledger.filter(|_| baked.is_none()) {
                for run in std::fs::read_dir(scene.runs()).into_iter().flatten() {
                    std::fs::write(run.unwrap().path().join("ledger.json"), text).unwrap();
                }
            }
            scene.reap().await;
            untouched(&before, &scene)?;
            let now = everything(&scene.aws.state());
            let ours = now.keys().filter(|id| !before.contains_key(*id));
            let terminated = |id: &&String| now[*id].contains("state: Terminated");
            let ours: Vec<_> = ours.filter(|id| !terminated(id)).collect();
            let image = scene.aws.state().parameters.get("/imagebuilder/shop/candidate").cloned();
            match image {
                // The image, its snapshot and the pointer.
                Some(_) => prop_assert_eq!(ours.len(), 3, "{:?}", ours),
                // With its ledger lost and its builder terminated, nothing shows whose an untagged snapshot is.
                None if ledger.is_some() => {
                    let unknown = ours.iter().all(|id| id.starts_with("snap-"));
                    prop_assert!(unknown, "{:?}", ours);
                }
                None => prop_assert!(ours.is_empty(), "{:?}", ours),
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn an_artifact_that_is_not_the_runs_is_refused_and_left_alone() {
    for disguise in [Disguise::Bare, Disguise::LikeOurs, Disguise::OtherRun] {
        let mut scene = Scene::new(Verdict::Fit);
        let theirs = scene
            .aws
            .state()
            .add_image(OWNER, "their-base", tags(disguise, 7));
        let before = everything(&scene.aws.state());
        scene.script.artifact = Some(theirs.clone());
        let error = scene.bake(Reuse::Allowed).await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::BakeFailed, "{disguise:?}");
        let text = format!("{error:#}");
        assert!(
            text.starts_with("bake failed, everything it created was removed: packer names"),
            "{disguise:?}: {text}"
        );
        scene.reap().await;
        let now = everything(&scene.aws.state());
        let removed: Vec<_> = before
            .iter()
            .filter(|(id, what)| now.get(*id) != Some(*what))
            .collect();
        assert!(removed.is_empty(), "{disguise:?}: {removed:?}");
        assert_eq!(
            scene.aws.state().inventory().len(),
            2,
            "{disguise:?}: their image and its snapshot"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn resources_others_made_from_a_builder_stay_and_are_named() {
    let mut scene = Scene::new(Verdict::Unfit);
    let taken = scene.script.visitors.insert(Default::default()).clone();
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    let theirs: Vec<SnapshotId> = taken.lock().unwrap().clone();
    assert_eq!(theirs.len(), 2);
    let aws = scene.aws.state();
    // A snapshot of the builder's volume that another user took by hand.
    assert!(aws.snapshots.contains_key(&theirs[0]));
    // The snapshot of the candidate that another user's image now refers to.
    assert!(aws.snapshots.contains_key(&theirs[1]));
    assert_eq!(Exit::of(&error), Exit::BakeLeft);
    let text = format!("{error:#}");
    assert!(text.contains(theirs[1].as_str()), "{text}");
    assert!(!text.contains(theirs[0].as_str()), "{text}");
}

#[tokio::test(start_paused = true)]
async fn volumes_and_network_interfaces_of_dead_runs_are_reaped() {
    let scene = Scene::new(Verdict::Fit);
    let old = Tags::from([
        (
            tags::RUN.to_owned(),
            "20250101T000000Z-bake-00000a".to_owned(),
        ),
        (tags::IMAGE.to_owned(), "shop".to_owned()),
    ]);
    {
        let mut aws = scene.aws.state();
        aws.add_volume(old.clone());
        aws.add_interface(old.clone());
        aws.add_key_pair("imagebuilder-old", old.clone());
        aws.add_security_group("imagebuilder-old", old);
    }
    let reaped = scene.reap().await;
    assert_eq!(reaped.removed.len(), 4, "{reaped:?}");
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_ledger_does_not_prevent_other_reaps() {
    let scene = Scene::new(Verdict::Fit);
    for at in [7, 9] {
        scene.aws.fault_at(Nth::Change(at), Fault::HangsAfter);
        assert!(scene.bake_until_killed().await.is_none(), "change {at}");
    }
    let mut runs: Vec<_> = std::fs::read_dir(scene.runs())
        .unwrap()
        .map(|run| run.unwrap().path())
        .collect();
    runs.sort();
    std::fs::write(runs[0].join("ledger.json"), "\0\0\0").unwrap();
    let reaped = scene.reap().await;
    assert_eq!(reaped.left, Vec::<String>::new());
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
    let name = runs[0].file_name().unwrap().to_str().unwrap();
    let messages = scene.output.messages();
    assert!(
        messages
            .iter()
            .any(|line| line.contains(name) && line.contains("cannot be read")),
        "{messages:?}"
    );
    assert_eq!(scene.reap().await, Reaped::default());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_nothing_from_being_removed() {
    let mut scene = Scene::new(Verdict::Fit);
    scene.script.full_disk = true;
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeFailed, "{error:#}");
    assert!(
        format!("{error:#}").contains("write the ledger"),
        "{error:#}"
    );
    assert_eq!(scene.aws.state().inventory(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_listed_is_reported_and_the_rest_removed() {
    let scene = Scene::new(Verdict::Unfit);
    scene.may_not_list_volumes_and_interfaces();
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeLeft);
    let text = format!("{error:#}");
    for denied in ["list volumes", "list network interfaces"] {
        assert!(text.contains(denied), "{text}");
    }
    let left = scene.aws.state().inventory();
    // The image's snapshot is identified by the volume, which could not be listed.
    assert!(left.iter().all(|id| id.starts_with("snap-")), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_ledger_of_another_region_stays_for_that_region() {
    let scene = Scene::new(Verdict::Fit);
    let run = scene.runs().join("20260101T000000Z-bake-00000a");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("ledger.json"), "{").unwrap();
    for _ in 0..2 {
        assert_eq!(scene.reap().await, Reaped::default());
    }
    assert_eq!(
        std::fs::read_to_string(run.join("ledger.json")).unwrap(),
        "{"
    );
}

#[tokio::test(start_paused = true)]
async fn the_gates_user_data_is_read_before_anything_is_created() {
    let mut scene = Scene::new(Verdict::Fit);
    scene.config.bake.gate.user_data = Some("no-such-file".into());
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Usage);
    assert_eq!(scene.aws.state().calls.changes, 0);
    assert!(!scene.runs().exists());
}
