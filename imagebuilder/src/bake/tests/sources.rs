//! Which source image is taken or refused, and what an image gets besides its files.

use super::*;
use cloud::Tokens;

const ID: &str = "id = \"ami-9\"\n";
const PARAMETER: &str = "ssm_parameter = \"/base/latest\"\n";
const NAME: &str = "owners = [\"self\"]\nname = \"base-*\"\n";

fn with_source(keys: &str, more: &str) -> Config {
    let (head, tail) = CONFIG.split_once("owners").unwrap();
    let (_, tail) = tail.split_once("[image.agent]").unwrap();
    Config::parse(
        &format!("{head}{keys}[image.agent]{tail}{more}"),
        "test.toml",
    )
    .unwrap()
}

/// A scene with an image `ami-9` of this account, and a parameter that names it.
fn scene(change: fn(&mut Image)) -> Scene {
    let scene = Scene::new(Verdict::Fit);
    {
        let mut aws = scene.aws.state();
        let id = aws.add_image(OWNER, "base-1", Tags::new());
        aws.rename_image(&id, "ami-9");
        change(
            aws.images
                .get_mut(&ImageId::parse("ami-9").unwrap())
                .unwrap(),
        );
        let name = "/base/latest".to_owned();
        aws.parameters.insert(name, "ami-9".to_owned());
    }
    scene
}

fn deprecated(image: &mut Image) {
    image.deprecated = Some("2020-01-01T00:00:00.000Z".to_owned());
}

#[tokio::test(start_paused = true)]
async fn a_source_by_id_or_parameter_is_recorded() {
    for (keys, parameter) in [(ID, None), (PARAMETER, Some("/base/latest"))] {
        let mut scene = scene(|_| {});
        scene.config = with_source(keys, "");
        let baked = scene.bake(Reuse::Allowed).await.unwrap();
        assert_eq!(baked.source.as_str(), "ami-9");
        let tags = scene.aws.state().images[&baked.image].tags.clone();
        assert_eq!(tags[tags::SOURCE_AMI], "ami-9");
        let named = tags.get(tags::SOURCE_PARAMETER).map(String::as_str);
        assert_eq!(named, parameter);
        let run = scene.runs().join(baked.run.unwrap().as_str());
        let ledger = std::fs::read_to_string(run.join("ledger.json")).unwrap();
        assert!(ledger.contains("\"source\": \"ami-9\""), "{ledger}");
        assert_eq!(ledger.contains("source_parameter"), parameter.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn an_unusable_source_is_refused_by_name() {
    type Change = fn(&mut Image);
    let rows: [(&str, Change, &str, &str); 8] = [
        (
            ID,
            deprecated,
            "is deprecated since 2020-01-01",
            "`deprecated = true`",
        ),
        (
            PARAMETER,
            deprecated,
            "parameter /base/latest: the source image ami-9",
            "`deprecated = true`",
        ),
        (
            NAME,
            deprecated,
            "no source image",
            "ami-9  base-1  x86_64  deprecated",
        ),
        (
            ID,
            |image| image.state = ImageState::Other("disabled".to_owned()),
            "ami-9 base-1 is disabled",
            "another image",
        ),
        (
            ID,
            |image| image.state = ImageState::Pending,
            "is pending",
            "when it is available",
        ),
        (
            ID,
            |image| image.architecture = "arm64".to_owned(),
            "is for arm64, and [image] arch is x86_64",
            "`arch`",
        ),
        (
            ID,
            |image| image.root_on_ebs = false,
            "instance store",
            "on EBS",
        ),
        (
            "id = \"ami-404\"\n",
            |_| {},
            "there is no image ami-404 in us-east-1",
            "the region",
        ),
    ];
    for (keys, change, want, hint) in rows {
        let mut scene = scene(change);
        scene.config = with_source(keys, "");
        let error = scene.bake(Reuse::Allowed).await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Refused, "{want}");
        let message = format!("{error:#} | {}", run::exit::hint(&error).unwrap());
        assert!(message.contains(want), "{message}\nmisses {want}");
        assert!(message.contains(hint), "{message}\nmisses {hint}");
        assert_eq!(scene.aws.state().calls.changes, 0, "{want}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deprecated_source_is_taken_on_request() {
    for keys in [ID, PARAMETER, NAME] {
        let mut scene = scene(deprecated);
        scene.config = with_source(&format!("{keys}deprecated = true\n"), "");
        let baked = scene.bake(Reuse::Allowed).await.unwrap();
        assert_eq!(baked.source.as_str(), "ami-9", "{keys}");
    }
    // Not deprecated yet.
    let mut scene = scene(|image| image.deprecated = Some("2999-01-01T00:00:00.000Z".to_owned()));
    scene.config = with_source(ID, "");
    scene.bake(Reuse::Allowed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_parameter_without_an_images_id_is_refused() {
    for (value, want, hint) in [
        (
            None,
            "there is no parameter /base/latest in us-east-1",
            "the region",
        ),
        (
            Some("shop"),
            "is `shop`, which is not the id of an image",
            "whose value is",
        ),
        (
            Some("{\"image_id\":\"ami-9\"}"),
            "which is not the id",
            "/base/latest/image_id",
        ),
    ] {
        let mut scene = scene(|_| {});
        scene.config = with_source(PARAMETER, "");
        {
            let mut aws = scene.aws.state();
            let name = "/base/latest".to_owned();
            match value {
                Some(value) => drop(aws.parameters.insert(name, value.to_owned())),
                None => drop(aws.parameters.remove(&name)),
            }
        }
        let error = scene.bake(Reuse::Allowed).await.unwrap_err();
        let message = format!("{error:#} | {}", run::exit::hint(&error).unwrap());
        assert!(
            message.contains(want) && message.contains(hint),
            "{message}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_source_or_packer_cannot_do_is_refused() {
    let mut scene = scene(|_| {});
    scene.config = with_source(
        ID,
        "instance_profile = \"none\"\n[image.root_volume]\nsize_gib = 4\n[[image.volume]]\ndevice = \"/dev/xvda\"\nsize_gib = 9\n",
    );
    scene.config.image.boot_mode = Some(crate::config::BootMode::LegacyBios);
    scene.config.image.imds_hops = Some(2.try_into().unwrap());
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Refused);
    let message = format!("{error:#}");
    for want in [
        "there is no instance profile none",
        "/dev/xvda of ami-9 has 8 GiB, and size_gib is 4",
        "/dev/xvda is the root device of ami-9",
        "ami-9 has boot mode uefi, and [image] boot_mode is legacy-bios",
        "Packer 1.6.6 cannot launch the builder with `imds_hops = 2`",
    ] {
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    assert_eq!(scene.aws.state().calls.changes, 0);
    scene.config.image.boot_mode = Some(crate::config::BootMode::Uefi);
    let error = format!("{:#}", scene.bake(Reuse::Allowed).await.unwrap_err());
    assert!(!error.contains("boot mode"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn own_tags_are_on_everything_and_reach_a_reused_image() {
    let mut scene = scene(|_| {});
    scene.config = with_source(ID, "[tags]\nteam = \"shop\"\n");
    let first = scene.bake(Reuse::Allowed).await.unwrap();
    {
        let aws = scene.aws.state();
        let image = &aws.images[&first.image];
        assert_eq!(image.tags["team"], "shop");
        let snapshots = image.snapshots.iter();
        for snapshot in snapshots.map(|id| &aws.snapshots[id]) {
            assert_eq!(snapshot.tags["team"], "shop");
        }
        assert_eq!(aws.launches[0].tags["team"], "shop");
        assert!(image.requires_tokens);
        assert_eq!(aws.launches[0].tokens, Tokens::Required);
    }
    scene.config.tags = [("team".to_owned(), "mail".to_owned())].into();
    let again = scene.bake(Reuse::Allowed).await.unwrap();
    assert_eq!(again.image, first.image);
    let changes = {
        let aws = scene.aws.state();
        assert_eq!(aws.images[&first.image].tags["team"], "mail");
        aws.calls.changes
    };
    scene.bake(Reuse::Allowed).await.unwrap();
    assert_eq!(scene.aws.state().calls.changes, changes);
}

#[tokio::test(start_paused = true)]
async fn optional_tokens_leave_the_image_alone() {
    let mut scene = scene(|_| {});
    scene.config = with_source(ID, "");
    let required = scene.bake(Reuse::Allowed).await.unwrap();
    scene.config.image.imds = crate::config::Imds::Optional;
    let optional = scene.bake(Reuse::Allowed).await.unwrap();
    assert_ne!(optional.digest, required.digest);
    let aws = scene.aws.state();
    assert!(!aws.images[&optional.image].requires_tokens);
    assert_eq!(aws.launches[1].tokens, Tokens::Optional);
}

/// Without the permission to read the parameter, it is named.
#[tokio::test(start_paused = true)]
async fn a_denied_source_parameter_is_named() {
    let mut scene = scene(|_| {});
    scene.config = with_source(PARAMETER, "");
    scene.aws.state().policy.denied.insert("ssm:GetParameter");
    scene
        .aws
        .refuse("parameter", denied("read parameter /base/latest"));
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Refused);
    assert!(
        format!("{error:#}").contains("ssm:GetParameter"),
        "{error:#}"
    );
}

/// As with a template of the user's own that renders no mappings.
#[tokio::test(start_paused = true)]
async fn an_image_without_the_configured_volumes_is_removed() {
    let mut scene = scene(|_| {});
    let volumes = "[image.root_volume]\nsize_gib = 20\n[[image.volume]]\ndevice = \"/dev/sdf\"\nsize_gib = 9\n";
    scene.config = with_source(ID, volumes);
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BakeFailed);
    let message = format!("{error:#}");
    let want = "its /dev/xvda has 8 GiB, not 20; it has no /dev/sdf";
    assert!(message.contains(want), "{message}");
    let aws = scene.aws.state();
    let own = aws.images.values().filter(|image| image.owner == OWNER);
    let own: Vec<&str> = own.map(|image| image.id.as_str()).collect();
    assert_eq!(own, ["ami-9"]);
}
