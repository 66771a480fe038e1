//! The pointers of an image: read, moved after a proven roll, and read back.
//!
//! Must not decide that a roll is proven; [`drive`](super::drive) calls this only when it is.

use std::time::Duration;

use anyhow::{Result, bail};
use contract::names::Pointer;

use crate::cloud::Cloud;
use crate::ids::{ImageId, ImageName};

/// How often a pointer is read back. The service validates an image parameter *after* it has
/// answered, within a second or two.
const READS: u32 = 15;
/// Pause between two reads.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// The image a pointer points at; `None` when it does not exist or holds no image id.
pub(crate) async fn read(
    cloud: &Cloud,
    image: &ImageName,
    pointer: Pointer,
) -> Result<Option<ImageId>> {
    let parameter = cloud
        .parameters
        .parameter(&pointer.parameter(image.as_str()))
        .await?;
    Ok(parameter.and_then(|parameter| ImageId::parse(parameter.value).ok()))
}

/// What became of the pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// They were right already.
    Unchanged,
    /// `current` was moved; `previous` is what it was before, if anything is known of that.
    Moved {
        /// What `previous` points at now.
        previous: Option<ImageId>,
    },
}

/// Moves `previous` ← `current` ← `proven`. Killed in between and called again, it ends the same.
///
/// `before` is what the fleet ran, for the first roll of all, when there is no `current` yet.
pub(crate) async fn advance(
    cloud: &Cloud,
    image: &ImageName,
    proven: &ImageId,
    before: Option<&ImageId>,
) -> Result<Moved> {
    let current = read(cloud, image, Pointer::Current).await?;
    if current.as_ref() == Some(proven) {
        return Ok(Moved::Unchanged);
    }
    let previous = current
        .as_ref()
        .or(before)
        .filter(|before| *before != proven)
        .cloned();
    if let Some(previous) = &previous {
        set(cloud, image, Pointer::Previous, previous).await?;
    }
    set(cloud, image, Pointer::Current, proven).await?;
    Ok(Moved::Moved { previous })
}

/// Points one pointer at an image and reads it back.
async fn set(cloud: &Cloud, image: &ImageName, pointer: Pointer, to: &ImageId) -> Result<()> {
    let name = pointer.parameter(image.as_str());
    if read(cloud, image, pointer).await?.as_ref() == Some(to) {
        return Ok(());
    }
    cloud.parameters.point(&name, to).await?;
    for _ in 0..READS {
        if read(cloud, image, pointer).await?.as_ref() == Some(to) {
            return Ok(());
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
    bail!("pointer {name} was set to {to} but does not read back")
}
