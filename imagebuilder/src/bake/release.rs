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
use run::ledger::{ImageLock, Kind, Ledger, State};
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
                Prepared::ToBake(inputs) => make(bake, &mut lock, inputs).await,
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
        Ok(())
    }

    /// Tags what was released, and removes everything but the images. What fails for one architecture keeps back no other one.
    async fn finish(&self, parts: Vec<Part<'_>>) -> anyhow::Result<Vec<Baked>> {
        let mut baked = Vec::new();
        let mut failed: Vec<anyhow::Error> = Vec::new();
        for part in parts {
            if let Err(error) = publish::mark_fit(self.cloud(), &part.own).await {
                failed.push(error.context(format!("{} lacks its verdict tag", part.own.id)));
            }
            match part.finish().await {
                Ok(one) => baked.push(one),
                Err(error) => failed.push(error),
            }
        }
        let Some(first) = failed.pop() else {
            return Ok(baked);
        };
        for error in failed {
            self.bakes[0].output.warn(support::one_line(&error));
        }
        Err(Exit::BakeFailed
            .error("the images are released, and something after that failed")
            .because(first)
            .hint("bake again: nothing is built, missing tags are added; `imagebuilder reap` removes what is left")
            .into())
    }
}

impl Part<'_> {
    /// Keeps the image, and removes what its bake needed.
    async fn finish(self) -> anyhow::Result<Baked> {
        let image = self.own.image;
        match self.made {
            Some((inputs, mut ledger)) => {
                ledger.mark(Kind::Image, image.id.as_str(), State::Kept)?;
                self.bake.finish(image, &inputs, ledger).await
            }
            None => Ok(Baked {
                image: image.id,
                name: image.name,
                architecture: self.bake.config.image.arch.to_string(),
                digest: self.digest,
                source: self.source,
                run: None,
            }),
        }
    }
}

/// Bakes and gates the image of one architecture. The first one takes the image's lock for all.
async fn make<'a>(
    bake: &'a Bake<'a>,
    lock: &mut Option<ImageLock>,
    inputs: Box<Inputs>,
) -> anyhow::Result<Part<'a>> {
    let run = new_run()?;
    if lock.is_none() {
        *lock = Some(bake.lock(&run)?);
    }
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
