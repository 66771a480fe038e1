//! Publishing: shares, the candidate pointer, and last the verdict tag, each read first and read back after.
//!
//! Every step can be repeated, so a bake killed in between is finished by the next one. Undo restores the pointer.

use std::time::Duration;

use contract::names::Pointer;
use contract::tags;

use crate::config::Config;
use cloud::ids::{ImageId, RunId, SnapshotId};
use cloud::{Cloud, Image, Owned, Tags};
use run::exit::Exit;
use run::ledger::{Former, Ledger};
use run::output::Step;
use run::pointers::{self, Scope};

/// A tag is visible within a second.
const READ_BACK: Duration = Duration::from_millis(250);
/// A tag that is not visible after a minute was not set.
const READ_BACKS: u32 = 240;
/// An image that one of our runs made.
#[derive(Clone, Debug)]
pub(crate) struct OwnImage {
    /// As EC2 shows it.
    pub(crate) image: Image,
    /// Its id.
    pub(crate) id: Owned<ImageId>,
    /// Those of its snapshots that our runs made.
    pub(crate) snapshots: Vec<Owned<SnapshotId>>,
}

impl OwnImage {
    /// An image with the tag of one of our runs; `None` without.
    pub(super) async fn by_tag(cloud: &Cloud, image: Image) -> anyhow::Result<Option<Self>> {
        let run = image.tags.get(tags::RUN);
        let Some(run) = run.and_then(|run| RunId::parse(run.as_str()).ok()) else {
            return Ok(None);
        };
        let Some(id) = image.owned_by(&run, &[]) else {
            return Ok(None);
        };
        let tagged = cloud
            .images
            .snapshots_tagged(tags::RUN, Some(run.as_str()))
            .await?;
        let snapshots = tagged
            .iter()
            .filter(|snapshot| image.snapshots.contains(&snapshot.id))
            .filter_map(|snapshot| snapshot.owned_by(&run, &[], &[]))
            .collect();
        Ok(Some(Self {
            image,
            id,
            snapshots,
        }))
    }

    /// Adds tags to the image and its snapshots.
    pub(super) async fn tag(&self, cloud: &Cloud, tags: &Tags) -> anyhow::Result<()> {
        let mut ids = vec![self.id.text()];
        ids.extend(self.snapshots.iter().map(Owned::text));
        Ok(cloud.images.tag(&ids, tags).await?)
    }
}

/// Publishes an image that passed the gate, or finishes publishing it. Returns what it changed.
pub(crate) async fn publish(
    cloud: &Cloud,
    config: &Config,
    own: &OwnImage,
    ledger: Option<&mut Ledger>,
    step: &mut Step,
) -> anyhow::Result<Vec<String>> {
    let mut changed = point(cloud, config, own, ledger, step).await?;
    changed.extend(mark_fit(cloud, own).await?);
    Ok(changed)
}

/// Shares an image and points `candidate` at it. Returns what it changed.
pub(super) async fn point(
    cloud: &Cloud,
    config: &Config,
    own: &OwnImage,
    ledger: Option<&mut Ledger>,
    step: &mut Step,
) -> anyhow::Result<Vec<String>> {
    let image = &own.image;
    let mut changed = Vec::new();
    changed.extend(share(cloud, config, image, step).await?);
    changed.extend(own_tags(cloud, config, own).await?);
    let scope = config.pointers();
    let before = pointers::read(cloud, &scope, Pointer::Candidate).await?;
    if before.as_ref() != Some(&image.id) {
        if let Some(ledger) = ledger {
            ledger.update_bake(|bake| bake.candidate_before = Some(Former::from(before)))?;
        }
        let parameter = scope.parameter(Pointer::Candidate);
        step.waiting(format!("pointing {parameter} at {}", image.id));
        pointers::set(cloud, &scope, Pointer::Candidate, &image.id).await?;
        changed.push(format!("{parameter} points at {}", image.id));
    }
    Ok(changed)
}

/// Sets the configured tags that are missing: they are no input of the digest, so a reused image may have others.
async fn own_tags(
    cloud: &Cloud,
    config: &Config,
    own: &OwnImage,
) -> anyhow::Result<Option<String>> {
    let mut missing = config.tags.clone();
    missing.retain(|key, value| own.image.tags.get(key) != Some(value));
    if missing.is_empty() {
        return Ok(None);
    }
    own.tag(cloud, &missing).await?;
    let keys: Vec<&str> = missing.keys().map(String::as_str).collect();
    Ok(Some(format!("tagged with {}", keys.join(", "))))
}

/// Tags an image with its verdict, which is what makes it published. Returns what it changed.
pub(super) async fn mark_fit(cloud: &Cloud, own: &OwnImage) -> anyhow::Result<Option<String>> {
    let verdict = own.image.tags.get(tags::VERDICT);
    if verdict.is_some_and(|verdict| verdict == "fit") {
        return Ok(None);
    }
    let verdict = Tags::from([(tags::VERDICT.to_owned(), "fit".to_owned())]);
    own.tag(cloud, &verdict).await?;
    read_back_tag(cloud, &own.image.id).await?;
    Ok(Some("tagged fit".into()))
}

async fn share(
    cloud: &Cloud,
    config: &Config,
    image: &Image,
    step: &mut Step,
) -> anyhow::Result<Option<String>> {
    if config.bake.share.is_empty() {
        return Ok(None);
    }
    let shared = cloud.images.shared_with(&image.id).await?;
    let missing: Vec<_> = config
        .bake
        .share
        .iter()
        .filter(|account| !shared.contains(account))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(None);
    }
    step.waiting(format!("sharing {}", image.id));
    cloud.images.share(image, &missing).await.map_err(|error| {
        Exit::BakeFailed
            .error(format!("cannot share {}", image.id))
            .because(error)
            .hint("a snapshot encrypted with the account's default key cannot be shared: set `kms_key` in [bake]")
    })?;
    let shared = cloud.images.shared_with(&image.id).await?;
    if let Some(account) = config
        .bake
        .share
        .iter()
        .find(|account| !shared.contains(account))
    {
        return Err(Exit::BakeFailed
            .error(format!("{} is still not shared with {account}", image.id))
            .into());
    }
    Ok(Some(format!(
        "shared with {}",
        missing
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    )))
}

async fn read_back_tag(cloud: &Cloud, id: &ImageId) -> anyhow::Result<()> {
    for _ in 0..READ_BACKS {
        let image = cloud.images.image(id).await?;
        if image.is_some_and(|image| {
            image
                .tags
                .get(tags::VERDICT)
                .is_some_and(|verdict| verdict == "fit")
        }) {
            return Ok(());
        }
        tokio::time::sleep(READ_BACK).await;
    }
    Err(Exit::BakeFailed
        .error(format!("{id} does not show its verdict tag"))
        .into())
}

/// Restores the candidate pointer to its value before this run, if it points at this run's image now.
pub(crate) async fn undo(
    cloud: &Cloud,
    scope: &Scope,
    image: &Owned<ImageId>,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let bake = ledger.journal().bake.as_ref();
    let Some(before) = bake.and_then(|bake| bake.candidate_before.as_ref()) else {
        return Ok(());
    };
    pointers::restore(cloud, scope, Pointer::Candidate, image, before.image()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::ids::ImageName;
    use cloud::testing::InMemoryAws;
    use run::ledger::Found;

    /// As a bake of an earlier release recorded it.
    fn ledger(runs: &std::path::Path, before: &str) -> Box<Ledger> {
        let folder = runs.join("r1");
        std::fs::create_dir_all(&folder).unwrap();
        let digest = "a".repeat(64);
        let text = format!(
            r#"{{
                "schema": 2, "run": "r1", "verb": "bake", "image": "shop", "region": "us-east-1",
                "began": "2026-01-02T03:04:05Z", "outcome": null, "steps": [], "things": [],
                "facts": {{"digest": "{digest}", "candidate-before": "{before}"}}
            }}"#
        );
        std::fs::write(folder.join("ledger.json"), text).unwrap();
        match Ledger::find(&folder).unwrap() {
            Some(Found::Dead(ledger)) => ledger,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn undo_restores_the_pointer_of_a_schema_2_run() {
        for (before, points_at, want) in [
            ("ami-0", "ami-9", Some("ami-0")),
            ("", "ami-9", None),
            // Another run has published by now.
            ("ami-0", "ami-7", Some("ami-7")),
        ] {
            let runs = tempfile::tempdir().unwrap();
            let aws = InMemoryAws::default();
            let parameter = "/imagebuilder/shop/candidate";
            aws.state()
                .parameters
                .insert(parameter.into(), points_at.into());
            let own = Owned::for_test(ImageId::parse("ami-9").unwrap());
            let scope = Scope::new(&ImageName::parse("shop").unwrap(), None);
            undo(&aws.cloud(), &scope, &own, &ledger(runs.path(), before))
                .await
                .unwrap();
            let aws = aws.state();
            let now = aws.parameters.get(parameter).map(String::as_str);
            assert_eq!(now, want, "before {before:?}, points at {points_at}");
        }
    }
}
