//! The signed channel against attacks, faults and bad luck: each refused for its own reason, with the
//! floor as high as before, and nothing left broken for when the trouble is over.
//!
//! The public TUF conformance suite covers the specification; see `docs/decisions/0006-the-tuf-client.md`.
//! Here is what it does not: reasons, time, bytes, disks, and the agent's own floor.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod disk;
mod fuzz;
mod network;
mod proxy;
mod release;
mod repository;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use agent_update::channel::{Catalogue, Cause, Channel as _, Offer, Place, Refusal, TufChannel};
use jiff::Timestamp;
use tempfile::TempDir;

use repository::{Files, Repository, now};
use server::Server;

/// An instance that follows a channel.
struct Setup {
    dir: TempDir,
    repository: Repository,
    server: Server,
    place: Place,
}

impl Setup {
    /// An instance whose image knows the first root, and that has refreshed once.
    async fn new() -> Self {
        let mut setup = Self::fresh().await;
        setup.well().await;
        setup
    }

    /// An instance that has not refreshed yet.
    async fn fresh() -> Self {
        // In memory where there is some: hundreds of fsyncs wait for a disk that others use too.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let repository = Repository::new();
        let server = Server::start(repository.files.clone()).await;
        let mut place = Place::new(
            &server.url,
            &dir.path().join("trust"),
            &dir.path().join("tuf"),
        );
        place.plain_http = true;
        fs::create_dir(&place.trust).unwrap();
        fs::write(place.trust.join("root.json"), repository.root()).unwrap();
        Self {
            dir,
            repository,
            server,
            place,
        }
    }

    /// Changes the repository and serves all of it.
    fn publish(&mut self, change: impl FnOnce(&mut Repository)) {
        change(&mut self.repository);
        self.serve();
    }

    fn serve(&self) {
        self.server.serve(&self.repository.files);
    }

    /// A new run of the updater: nothing is remembered but what is on the disk.
    async fn run(&self, at: Timestamp) -> Result<Catalogue, Refusal> {
        TufChannel::open(&self.place)?.refresh(at).await
    }

    /// A run that must be well.
    async fn well(&mut self) -> Catalogue {
        self.run(now()).await.unwrap()
    }

    /// A run that must be refused, with the floor as it was to the byte; returns the reason.
    async fn refused(&self, cause: Cause) -> String {
        let before = self.floor();
        let refusal = self.run(now()).await.unwrap_err();
        assert_eq!(refusal.cause, cause, "{refusal}");
        assert_eq!(self.floor(), before, "{refusal}");
        refusal.detail
    }

    /// A run that must be refused, with the floor no lower than it was.
    async fn refused_above(&self, cause: Cause) -> String {
        let before = self.versions();
        let refusal = self.run(now()).await.unwrap_err();
        assert_eq!(refusal.cause, cause, "{refusal}");
        for (role, version) in self.versions() {
            assert!(
                version >= before[&role],
                "{role} fell to {version}: {refusal}"
            );
        }
        refusal.detail
    }

    /// The four roles on the disk.
    fn floor(&self) -> Files {
        let read = |role: &str| {
            let name = format!("{role}.json");
            let bytes = fs::read(self.place.store.join(&name)).ok()?;
            Some((name, bytes))
        };
        repository::ROLES
            .iter()
            .filter_map(|role| read(role))
            .collect()
    }

    fn versions(&self) -> BTreeMap<String, u64> {
        let version = |bytes: Vec<u8>| {
            let metadata: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            metadata["signed"]["version"].as_u64().unwrap()
        };
        let floor = self.floor().into_iter();
        floor.map(|(role, bytes)| (role, version(bytes))).collect()
    }

    /// Puts the channel's present metadata into the image.
    fn bake(&self) {
        for (path, bytes) in &self.repository.files {
            if path.starts_with("metadata/") {
                let path = self.place.trust.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
    }

    fn part(&self) -> PathBuf {
        self.dir.path().join("release.part")
    }

    async fn fetch(&self, offer: &Offer, part: &Path) -> Result<(), Refusal> {
        let mut channel = TufChannel::open(&self.place)?;
        channel.refresh(now()).await?;
        channel.fetch(offer, part).await
    }
}

#[tokio::test]
async fn an_honest_channel_is_believed_and_kept() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        it.add_release("1.2.0", b"the agent, version 1.2.0");
        it.next();
    });
    let catalogue = setup.well().await;
    let versions: Vec<_> = catalogue
        .offers
        .iter()
        .map(|it| it.release.version.to_string())
        .collect();
    assert_eq!(versions, ["1.1.0", "1.2.0"]);
    assert_eq!(catalogue.versions, [1, 2, 2, 2]);
    assert_eq!(catalogue.expires, now() + repository::days(30));
    let on_disk: Vec<_> = setup.versions().into_values().collect();
    assert_eq!(on_disk, [1, 2, 2, 2]);
}

#[tokio::test]
async fn what_has_not_changed_is_not_fetched_again() {
    let mut setup = Setup::new().await;
    setup.server.seen();
    setup.well().await;
    let asked: Vec<_> = setup
        .server
        .seen()
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(asked, ["metadata/2.root.json", "metadata/timestamp.json"]);
}

#[tokio::test]
async fn a_release_of_a_newer_tool_does_not_hide_the_others() {
    let mut setup = Setup::new().await;
    setup.publish(|it| {
        let known = it.targets["imagebuilder-agent-1.1.0-x86_64"].clone();
        for (name, key, value) in [
            (
                "imagebuilder-agent-2.0.0-x86_64",
                "schema",
                serde_json::json!(2),
            ),
            (
                "imagebuilder-agent-2.1.0-x86_64",
                "kind",
                serde_json::json!("kernel"),
            ),
            (
                "imagebuilder-agent-2.2.0-x86_64",
                "version",
                serde_json::json!("a.b"),
            ),
            (
                "imagebuilder-agent-2.3.0-x86_64",
                "arch",
                serde_json::json!("../../x86_64"),
            ),
            (
                "../../imagebuilder-agent-1.1.0-x86_64",
                "schema",
                serde_json::json!(1),
            ),
        ] {
            let mut target = known.clone();
            target["custom"][key] = value;
            it.targets.insert(name.to_owned(), target);
        }
        let mut without = known.clone();
        without["hashes"] = serde_json::json!({"sha512": "00"});
        it.targets
            .insert("imagebuilder-agent-1.1.1-x86_64".to_owned(), without);
        it.next();
    });
    assert_eq!(setup.well().await.offers.len(), 1);
}
