//! When a rollout begins and in which waves: the arguments that `publish` and `promote` share.

use jiff::Timestamp;

use crate::channel::waves::Shape;
use crate::config::Channel;
use run::exit::{Exit, Failure};

/// When a rollout begins: as asked, else now; to the second, as everything in the channel.
pub(super) fn start(asked: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let start = asked.unwrap_or(now);
    Timestamp::from_second(start.as_second()).unwrap_or(start)
}

/// A shape by name or spelled out.
pub(super) fn shape(text: &str, channel: &Channel) -> Result<Shape, Failure> {
    Shape::named(text, &channel.waves).map_err(|why| Exit::Usage.error(format!("--waves: {why}")))
}

/// The waves of a new rollout without `--waves`.
pub(super) const DEFAULT_WAVES: &str = "default";
