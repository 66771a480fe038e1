//! Packages that do not exist, found before anything is created.

use super::*;

/// Writes an archive of `bookworm` with these packages, and returns the folder's URL.
fn archive(folder: &Path, packages: &str) -> String {
    let suite = folder.join("archive/dists/bookworm");
    let below = suite.join("main/binary-amd64");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("Packages"), packages).unwrap();
    let hash = image::sha256(packages.as_bytes());
    let (hash, size) = (hash.as_str(), packages.len());
    let release = format!("SHA256:\n {hash} {size} main/binary-amd64/Packages\n");
    std::fs::write(suite.join("InRelease"), release).unwrap();
    format!("file://{}", folder.join("archive").display())
}

fn scene(suite: &str) -> Scene {
    let mut scene = Scene::new(Verdict::Fit);
    let url = archive(scene.folder.path(), "Package: nginx\nVersion: 1\n");
    let packages = format!(
        "[image.packages]\napt = [\"nginxx\", \"crul\"]\narchives = [\"{url} {suite} main\"]\n"
    );
    scene.config = Config::parse(&format!("{CONFIG}{packages}"), "test.toml").unwrap();
    scene
}

#[tokio::test]
async fn a_misspelt_package_is_refused_before_the_bake() {
    let scene = scene("bookworm");
    let error = scene.bake(Reuse::Allowed).await.unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Refused);
    let message = format!("{error:#}");
    for name in ["nginxx", "crul"] {
        assert!(
            message.contains(&format!("no package `{name}` for amd64")),
            "{message}"
        );
    }
    let hint = run::exit::hint(&error).unwrap();
    assert!(hint.contains("did you mean `nginx`?"), "{hint}");
    assert_eq!(scene.aws.state().calls.changes, 0);
    assert!(scene.leftovers().is_empty());
    let kept = std::fs::read_dir(scene.folder.path().join("archives"));
    assert_eq!(kept.unwrap().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_archive_does_not_stop_a_bake() {
    let scene = scene("trixie");
    scene.bake(Reuse::Allowed).await.unwrap();
    let messages = scene.output.messages().join("\n");
    let want = "packages were not checked: nginxx, crul (file://";
    assert!(messages.contains(want), "{messages}");
    assert!(messages.contains("no dists/trixie/InRelease"), "{messages}");
}
