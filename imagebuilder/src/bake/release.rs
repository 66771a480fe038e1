//! A release for several architectures: one image for each, all of them published or none.
//!
//! prepare all → bake and gate each → point each → write the release record → tag each. The record is the commit: it is written in
//! one call, and what is rolled is read from it. Whatever fails before it, everything is undone.

use std::collections::BTreeMap;

use super::publish::{self, OwnImage};
use super::{Bake, Baked, Inputs, Prepared, new_run};
use cloud::Owned;
use cloud::ids::{Digest, ImageId};
use contract::names::Pointer;
use run::exit::Exit;
use run::image_release;
use run::ledger::{Kind, Ledger, State};
use run::pointers;

/// The bakes of one image, one for each architecture.
pub(crate) struct Release<'a> {
    /// They have one image name, one output and one folder of runs.
    pub(crate) bakes: Vec<Bake<'a>>,
}

/// An image that passed its gate, now or in an earlier run.
struct Part<'a> {
    bake: &'a Bake<'a>,
    own: OwnImage,
    digest: Digest,
    source: ImageId,
    /// Its run; none when an earlier run's image is reused.
    made: Option<(Box<Inputs>, Ledger)>,
    /// What `candidate` pointed at, once that was read.
    before: Option<Option<ImageId>>,
}

impl Release<'_> {
    /// Bakes, gates and publishes all of them; or finds that nothing changed.
    pub(crate) async fn run(&self) -> anyhow::Result<Vec<Baked>> {
        let prepared = self.prepare().await?;
        let mut parts = Vec::new();
        let mut lock = None;
        for (bake, prepared) in self.bakes.iter().zip(prepared) {
            let made = match prepared {
                Prepared::Found(found) => {
                    let (own, digest, source) = *found;
                    Ok(Part {
                        bake,
                        own,
                        digest,
                        source,
                        made: None,
                        before: None,
                    })
                }
                Prepared::ToBake(inputs) => {
                    let run = new_run()?;
                    if lock.is_none() {
                        lock = Some(bake.lock(&run)?);
                    }
                    make(bake, run, inputs).await
                }
            };
            match made {
                Ok(part) => parts.push(part),
                Err(error) => return Err(undo(parts, error).await),
            }
        }
        let before = match image_release::text(self.cloud(), self.image()).await {
            Ok(before) => before,
            Err(error) => return Err(undo(parts, error.into()).await),
        };
        match self.publish(&mut parts).await {
            Ok(()) => self.finish(parts).await,
            Err(error) => {
                let own: Vec<Owned<ImageId>> =
                    parts.iter().map(|part| part.own.id.clone()).collect();
                let restored =
                    image_release::restore(self.cloud(), self.image(), &own, before.as_deref());
                let error = match restored.await {
                    Ok(()) => error,
                    Err(restoring) => error.context(format!("{restoring:#}")),
                };
                Err(undo(parts, error).await)
            }
        }
    }

    fn cloud(&self) -> &cloud::Cloud {
        self.bakes[0].cloud
    }

    fn image(&self) -> &cloud::ids::ImageName {
        &self.bakes[0].config.image.name
    }

    /// Checks all architectures before anything is created for one of them.
    async fn prepare(&self) -> anyhow::Result<Vec<Prepared>> {
        let mut prepared = Vec::new();
        let mut refused: Option<anyhow::Error> = None;
        for bake in &self.bakes {
            match (bake.prepared().await, &refused) {
                (Ok(part), _) => prepared.push(part),
                (Err(error), None) => refused = Some(error),
                (Err(error), Some(_)) => bake.output.warn(format!(
                    "{}: {}",
                    bake.config.image.arch,
                    support::one_line(&error)
                )),
            }
        }
        refused.map_or(Ok(prepared), Err)
    }

    /// Everything up to the release record, which makes it a release.
    async fn publish(&self, parts: &mut [Part<'_>]) -> anyhow::Result<()> {
        for part in parts.iter_mut() {
            point(part).await?;
        }
        let images: BTreeMap<_, _> = parts
            .iter()
            .map(|part| (part.bake.config.image.arch, part.own.image.id.clone()))
            .collect();
        let named: Vec<String> = images
            .iter()
            .map(|(arch, id)| format!("{arch} {id}"))
            .collect();
        let step = self.bakes[0]
            .output
            .step("release", format!("release {}", named.join(", ")));
        let changed = image_release::write(self.cloud(), self.image(), &images).await?;
        step.done(if changed {
            "published together"
        } else {
            "it was published already"
        });
        for (_, ledger) in parts.iter_mut().filter_map(|part| part.made.as_mut()) {
            let image = ledger.open_things();
            for thing in image.iter().filter(|thing| thing.kind == Kind::Image) {
                if let Some(id) = &thing.id {
                    ledger.mark(Kind::Image, id.id(), State::Kept)?;
                }
            }
        }
        Ok(())
    }

    /// Tags what was released, and removes everything but the images.
    async fn finish(&self, parts: Vec<Part<'_>>) -> anyhow::Result<Vec<Baked>> {
        let mut baked = Vec::new();
        let mut untagged = None;
        for part in parts {
            if let Err(error) = publish::mark_fit(self.cloud(), &part.own).await {
                untagged.get_or_insert(error);
            }
            baked.push(match part.made {
                Some((inputs, ledger)) => part.bake.finish(part.own.image, &inputs, ledger).await?,
                None => Baked {
                    image: part.own.image.id,
                    name: part.own.image.name,
                    architecture: part.bake.config.image.arch.to_string(),
                    digest: part.digest,
                    source: part.source,
                    run: None,
                },
            });
        }
        match untagged {
            None => Ok(baked),
            Some(error) => Err(Exit::BakeFailed
                .error("the images are released, and not all of them have their verdict tag")
                .because(error)
                .hint("bake again: nothing is built, the tags are added")
                .into()),
        }
    }
}

/// Bakes and gates the image of one architecture.
async fn make<'a>(
    bake: &'a Bake<'a>,
    run: cloud::ids::RunId,
    inputs: Box<Inputs>,
) -> anyhow::Result<Part<'a>> {
    let mut ledger = bake.begin(run, &inputs)?;
    match bake.create(&inputs, &mut ledger).await {
        Ok(own) => Ok(Part {
            bake,
            own,
            digest: inputs.digest.clone(),
            source: inputs.source.id.clone(),
            made: Some((inputs, ledger)),
            before: None,
        }),
        Err(error) => Err(bake.undo(error, ledger).await),
    }
}

/// Shares the image of one architecture, and points its `candidate` at it.
async fn point(part: &mut Part<'_>) -> anyhow::Result<()> {
    let bake = part.bake;
    bake.stop_here("before the release")?;
    let scope = bake.config.pointers();
    let before = pointers::read(bake.cloud, &scope, Pointer::Candidate).await?;
    part.before = Some(before);
    let id = &part.own.image.id;
    if let Some((_, ledger)) = &mut part.made {
        ledger.step("publish")?;
    }
    let mut step = bake.step("publish", format!("publish {id}"));
    let ledger = part.made.as_mut().map(|(_, ledger)| ledger);
    let changed = publish::point(bake.cloud, bake.config, &part.own, ledger, &mut step).await?;
    step.done(if changed.is_empty() {
        "nothing to do".to_owned()
    } else {
        changed.join(", ")
    });
    Ok(())
}

/// Undoes what there is of a release that failed, and returns the error with the exit code that fits what is left.
async fn undo(parts: Vec<Part<'_>>, error: anyhow::Error) -> anyhow::Error {
    let mut error = error;
    for part in parts {
        let bake = part.bake;
        let undone = match part.made {
            Some((_, ledger)) => {
                let why = Exit::BakeFailed.error(format!(
                    "the release failed: the image for {} is not published",
                    bake.config.image.arch
                ));
                let undone = bake.undo(why.into(), ledger).await;
                (Exit::of(&undone) == Exit::BakeLeft).then_some(undone)
            }
            None => match part.before {
                None => None,
                Some(before) => {
                    let scope = bake.config.pointers();
                    let (own, before) = (&part.own.id, before.as_ref());
                    pointers::restore(bake.cloud, &scope, Pointer::Candidate, own, before)
                        .await
                        .err()
                }
            },
        };
        if let Some(undone) = undone {
            error = Exit::BakeLeft
                .error(support::one_line(&undone))
                .because(error)
                .hint("`imagebuilder reap` removes what is left")
                .into();
        }
    }
    error
}
