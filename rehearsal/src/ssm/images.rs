//! Images, as Parameter Store sees them.

use jiff::Timestamp;

use crate::ids::ImageId;

/// What Parameter Store reads from EC2.
pub(crate) trait Images {
    /// Whether an image exists and is available.
    fn is_available(&self, image_id: &ImageId) -> bool;
    /// The newest available image of Debian's own whose name begins like this, and when it was made.
    fn newest_of_debian(&self, stem: &str) -> Option<(ImageId, Timestamp)>;
}
