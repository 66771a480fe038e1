//! The pointers of an image, moved after a proven roll.
//!
//! Must not decide that a roll is proven; [`drive`](super::drive) calls this only when it is.

use anyhow::Result;
use contract::names::Pointer;

use super::plan::Direction;
use crate::cloud::Cloud;
use crate::ids::{ImageId, ImageName};
use crate::pointers::{read, set};

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
/// `before` is what the fleet ran, for the first roll of all, when there is no `current` yet. After a way back the release that
/// was replaced is not `previous`, or rolling back twice would return to it: `previous` is then the image itself, which means that
/// nothing is known of what was before.
pub(crate) async fn advance(
    cloud: &Cloud,
    image: &ImageName,
    proven: &ImageId,
    before: Option<&ImageId>,
    direction: Direction,
) -> Result<Moved> {
    let current = read(cloud, image, Pointer::Current).await?;
    if current.as_ref() == Some(proven) {
        return Ok(Moved::Unchanged);
    }
    let previous = match direction {
        Direction::Back => Some(proven),
        Direction::Forward => current
            .as_ref()
            .or(before)
            .filter(|before| *before != proven),
    };
    let previous = previous.cloned();
    if let Some(previous) = &previous {
        set(cloud, image, Pointer::Previous, previous).await?;
    }
    set(cloud, image, Pointer::Current, proven).await?;
    Ok(Moved::Moved { previous })
}
