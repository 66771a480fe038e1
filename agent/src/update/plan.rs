//! Which release this box wants now, pure: view → decision. Waves, windows, hold, pin, floor, skip list.
//!
//! It must not read a clock, a file or a socket: [`super::attempt`] brings the [`View`].

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::board::{Build, Hold, Skipped};
use super::channel::Offer;

/// Everything a decision goes by.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// This box: `i-…`, or `machine-…` where there is no metadata service.
    pub instance_id: &'a str,
    /// Its architecture, as [`std::env::consts::ARCH`] names it.
    pub arch: &'a str,
    /// The channel it follows.
    pub channel: &'a str,
    /// What the channel offers: [`super::channel::Catalogue::offers`].
    pub offers: &'a [Offer],
    /// What `stable` points to.
    pub current: &'a Build,
    /// An operator's hold.
    pub hold: Option<&'a Hold>,
    /// The version an operator pinned.
    pub pin: Option<&'a Version>,
    /// Digests that failed here.
    pub skipped: &'a [Skipped],
    /// The highest floor seen so far.
    pub floor: Option<&'a Version>,
    /// When the daemon may be restarted.
    pub windows: &'a Windows,
    /// The last attempts that came to nothing through no fault of the release.
    pub setback: Option<&'a Setback>,
    /// Whether the daemon has yet to reach its first verdict on this box.
    pub first_boot: bool,
}

/// The hours of the week in which the daemon may be restarted, in UTC; none: always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

/// Some hours on some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {}

/// Attempts in a row that came to nothing through no fault of the release: the channel, the disk or the
/// network failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// How many in a row, at least 1.
    pub failures: u32,
    /// When the last one was.
    pub at: Timestamp,
    /// Why, in one line.
    #[serde(default)]
    pub reason: String,
}

/// What this box does about the channel now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs what it should.
    Current,
    /// Take it now.
    Update {
        /// What.
        offer: Offer,
        /// Why.
        why: Why,
    },
    /// Signed metadata withdrew what runs here and names where to go: take that now.
    Rollback {
        /// What.
        offer: Offer,
        /// Why the running release was withdrawn.
        reason: String,
    },
    /// The release's wave has not reached this box.
    WaitWave {
        /// What it will take.
        offer: Offer,
        /// When.
        at: Timestamp,
    },
    /// Outside of the hours for it.
    WaitWindow {
        /// What it will take.
        offer: Offer,
        /// When the next window opens.
        at: Timestamp,
    },
    /// Attempts failed; not again yet.
    WaitBackoff {
        /// What it will take.
        offer: Offer,
        /// When it tries again.
        at: Timestamp,
    },
    /// The daemon has yet to reach its first verdict on this box.
    WaitVerdict {
        /// What it will take.
        offer: Offer,
    },
    /// An operator holds the box; without the hold it would take this.
    Held {
        /// What it would take.
        offer: Offer,
        /// The end of the hold; `None`: until released.
        until: Option<Timestamp>,
    },
    /// It should change, or somebody wants it to, and nothing in the channel will do.
    Nothing {
        /// Why each thing looked at will not do.
        reasons: Vec<String>,
    },
}

/// Why a release is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is newer, and its wave has reached this box.
    Newer,
    /// An operator pinned it.
    Pinned,
    /// The box is below the floor.
    BelowFloor {
        /// The floor.
        floor: Version,
        /// What was overridden, for people: `hold`, `pin`, `window`, `wave`.
        overrides: Vec<&'static str>,
    },
}
