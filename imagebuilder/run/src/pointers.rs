//! The pointers of an image, parameters of data type `aws:ec2:image`: read, set, restored after a bake that failed, advanced after a
//! roll.
//!
//! Rule: a pointer is set when it reads back. The service validates an image parameter *after* it has answered
//! (<https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-ec2-aliases.html>), and one that fails keeps its
//! old value without an error. Baking and rolling set pointers through here only, with the same wait.

use std::time::Duration;

use anyhow::Result;
use contract::names::Pointer;

use crate::exit::Exit;
use crate::ledger::Direction;
use cloud::ids::{ImageId, ImageName};
use cloud::{Answer, Arch, Cloud, Owned};

/// Pause between two reads.
const PAUSE: Duration = Duration::from_millis(250);
/// How many reads. Validation takes a second or two, and has taken most of a minute; after two minutes it has failed.
const READS: u32 = 480;

/// Whose pointers: those of an image, or of one architecture of an image that is released for several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    image: ImageName,
    arch: Option<Arch>,
}

impl Scope {
    /// The pointers of an image; `arch` when it is released for several architectures.
    pub fn new(image: &ImageName, arch: Option<Arch>) -> Self {
        Self {
            image: image.clone(),
            arch,
        }
    }

    /// All that an image may have, whether it was released for one architecture or for several.
    pub fn all(image: &ImageName) -> impl Iterator<Item = Self> {
        let several = Arch::ALL.map(Some);
        let scopes = std::iter::once(None).chain(several);
        scopes.map(|arch| Self::new(image, arch))
    }

    /// The image.
    pub fn image(&self) -> &ImageName {
        &self.image
    }

    /// The architecture, for an image that is released for several.
    pub fn arch(&self) -> Option<Arch> {
        self.arch
    }

    /// The full name of a pointer's parameter.
    pub fn parameter(&self, pointer: Pointer) -> String {
        pointer.parameter(self.image.as_str(), self.arch.map(Arch::as_str))
    }
}

/// The image a pointer points at; `None` when it does not exist or contains no image id.
///
/// # Errors
/// When it cannot be read.
pub async fn read(cloud: &Cloud, scope: &Scope, pointer: Pointer) -> Answer<Option<ImageId>> {
    let name = scope.parameter(pointer);
    let parameter = cloud.parameters.parameter(&name).await?;
    Ok(parameter.and_then(|parameter| ImageId::parse(parameter.value).ok()))
}

/// Points a pointer at an image and waits until it reads back. Changes nothing when it points there already.
///
/// # Errors
/// When it cannot be set, or does not read back within two minutes.
pub async fn set(cloud: &Cloud, scope: &Scope, pointer: Pointer, to: &ImageId) -> Result<()> {
    if read(cloud, scope, pointer).await?.as_ref() == Some(to) {
        return Ok(());
    }
    let name = scope.parameter(pointer);
    cloud.parameters.point(&name, to).await?;
    for _ in 0..READS {
        if read(cloud, scope, pointer).await?.as_ref() == Some(to) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Exit::Unexpected
        .error(format!("{name} was set to {to} and still reads back its old value"))
        .hint("check that the caller may describe the image in this region: Systems Manager validates it after it has answered")
        .into())
}

/// Restores a pointer that points at our own image to the image that it pointed at `before`, or removes it if there was none.
/// Changes nothing when it points at another image by now.
///
/// # Errors
/// When it cannot be read, set or removed.
pub async fn restore(
    cloud: &Cloud,
    scope: &Scope,
    pointer: Pointer,
    own: &Owned<ImageId>,
    before: Option<&ImageId>,
) -> Result<()> {
    let name = scope.parameter(pointer);
    let now = cloud.parameters.parameter(&name).await?;
    let Some(own) = now.and_then(|now| now.owned_with(own)) else {
        return Ok(());
    };
    match before {
        Some(before) => set(cloud, scope, pointer, before).await,
        None => Ok(cloud.parameters.delete(&own).await?),
    }
}

/// The result of moving the pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// They were right already.
    Unchanged,
    /// `current` was moved; `previous` is its former value, if known.
    Moved {
        /// What `previous` points at now.
        previous: Option<ImageId>,
    },
}

/// Moves `previous` ← `current` ← `verified`. Killed in between and called again, it ends the same. That the roll to it is
/// verified is the caller's decision.
///
/// `before` is what the fleet ran, for the first roll of all, when there is no `current` yet. After a rollback the release that
/// was replaced is not `previous`, or rolling back twice would return to it: `previous` is then the image itself, which means that
/// the version before is unknown.
///
/// # Errors
/// When one cannot be read or set.
pub async fn advance(
    cloud: &Cloud,
    scope: &Scope,
    verified: &ImageId,
    before: Option<&ImageId>,
    direction: Direction,
) -> Result<Moved> {
    let current = read(cloud, scope, Pointer::Current).await?;
    if current.as_ref() == Some(verified) {
        return Ok(Moved::Unchanged);
    }
    let previous = match direction {
        Direction::Back => Some(verified),
        Direction::Forward => current
            .as_ref()
            .or(before)
            .filter(|before| *before != verified),
    };
    let previous = previous.cloned();
    if let Some(previous) = &previous {
        set(cloud, scope, Pointer::Previous, previous).await?;
    }
    set(cloud, scope, Pointer::Current, verified).await?;
    Ok(Moved::Moved { previous })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::testing::InMemoryAws;

    fn name() -> Scope {
        Scope::new(&ImageName::parse("shop").unwrap(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pointer_that_takes_a_minute_is_waited_for() {
        let aws = InMemoryAws::default();
        aws.state().validation = Some(240);
        let to = ImageId::parse("ami-1").unwrap();
        set(&aws.cloud(), &name(), Pointer::Current, &to)
            .await
            .unwrap();
        let read = read(&aws.cloud(), &name(), Pointer::Current).await;
        assert_eq!(read.unwrap(), Some(to));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pointer_that_never_reads_back_is_an_error() {
        let aws = InMemoryAws::default();
        aws.state().validation = Some(u32::MAX);
        let to = ImageId::parse("ami-1").unwrap();
        let error = set(&aws.cloud(), &name(), Pointer::Current, &to).await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("still reads back its old value"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn advancing_keeps_the_version_before() {
        use Direction::{Back, Forward};
        let cases = [
            // (name, current, before, verified, direction) → previous
            ("a roll", "ami-1", "ami-1", "ami-2", Forward, "ami-1"),
            (
                "of a fleet that ran another",
                "ami-1",
                "ami-0",
                "ami-2",
                Forward,
                "ami-1",
            ),
            ("the first", "", "ami-0", "ami-2", Forward, "ami-0"),
            (
                "the first of a fleet on it",
                "",
                "ami-2",
                "ami-2",
                Forward,
                "",
            ),
            ("a rollback", "ami-2", "ami-2", "ami-1", Back, "ami-1"),
            ("again", "ami-2", "ami-1", "ami-2", Forward, ""),
        ];
        for (what, current, before, verified, direction, previous) in cases {
            let aws = InMemoryAws::default();
            if !current.is_empty() {
                let parameter = name().parameter(Pointer::Current);
                aws.state().parameters.insert(parameter, current.into());
            }
            let image = |id: &str| ImageId::parse(id).unwrap();
            let (before, verified) = (image(before), image(verified));
            let (cloud, name) = (aws.cloud(), name());
            advance(&cloud, &name, &verified, Some(&before), direction)
                .await
                .unwrap();
            let now = |pointer| read(&cloud, &name, pointer);
            assert_eq!(
                now(Pointer::Current).await.unwrap(),
                Some(verified),
                "{what}"
            );
            let previous = ImageId::parse(previous).ok();
            assert_eq!(now(Pointer::Previous).await.unwrap(), previous, "{what}");
        }
    }
}
