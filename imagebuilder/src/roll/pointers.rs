//! The pointers of an image, moved after a verified roll.
//!
//! Must not decide that a roll is verified; [`drive`](super::drive) calls this only when it is.

use anyhow::Result;
use contract::names::Pointer;

use super::plan::Direction;
use crate::pointers::{read, set};
use cloud::Cloud;
use cloud::ids::{ImageId, ImageName};

/// The result of moving the pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// They were right already.
    Unchanged,
    /// `current` was moved; `previous` is its former value, if known.
    Moved {
        /// What `previous` points at now.
        previous: Option<ImageId>,
    },
}

/// Moves `previous` ← `current` ← `verified`. Killed in between and called again, it ends the same.
///
/// `before` is what the fleet ran, for the first roll of all, when there is no `current` yet. After a rollback the release that
/// was replaced is not `previous`, or rolling back twice would return to it: `previous` is then the image itself, which means that
/// the version before is unknown.
pub(crate) async fn advance(
    cloud: &Cloud,
    image: &ImageName,
    verified: &ImageId,
    before: Option<&ImageId>,
    direction: Direction,
) -> Result<Moved> {
    let current = read(cloud, image, Pointer::Current).await?;
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
        set(cloud, image, Pointer::Previous, previous).await?;
    }
    set(cloud, image, Pointer::Current, verified).await?;
    Ok(Moved::Moved { previous })
}
