//! Moving a fleet onto an image: look, plan, start, watch, verify.
//!
//! [`plan`], [`watch`] and [`verify`] decide and are pure; [`look`] asks and judges nothing; [`start`] gets a refresh
//! going; [`drive`] owns the only loop; [`show`] finds the words.

pub(crate) mod before;
pub(crate) mod blame;
pub(crate) mod drive;
#[cfg(test)]
mod fake;
mod history;
pub(crate) mod limits;
pub(crate) mod look;
pub(crate) mod plan;
pub(crate) mod pointers;
pub(crate) mod preflight;
#[cfg(test)]
mod sample;
pub(crate) mod show;
pub(crate) mod smoke;
pub(crate) mod start;
pub(crate) mod status;
#[cfg(test)]
mod stories;
pub(crate) mod verbs;
pub(crate) mod verify;
mod versions;
pub(crate) mod view;
pub(crate) mod watch;

use crate::cancel::Cancel;
use crate::cloud::Cloud;
use crate::config::Settings;
use crate::ids::ImageName;
use crate::output::Output;

/// What everything that acts on a fleet is given.
pub(crate) struct Crew<'a> {
    /// The cloud.
    pub(crate) cloud: &'a Cloud,
    /// The image's configured name: part of pointers and the registry.
    pub(crate) image: &'a ImageName,
    /// Which group, and how carefully.
    pub(crate) settings: &'a Settings,
    /// How to speak.
    pub(crate) output: &'a Output,
    /// When to stop watching.
    pub(crate) cancel: &'a Cancel,
    /// Who runs the smoke test.
    pub(crate) smoke: &'a dyn smoke::Smoke,
}

impl Crew<'_> {
    /// Does something that is safe to leave off: `None` as soon as the operator asks to stop.
    pub(crate) async fn unless_asked<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.cancel.asked() => None,
            done = work => Some(done),
        }
    }
}
