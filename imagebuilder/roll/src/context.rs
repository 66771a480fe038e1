//! What everything that acts on a fleet is given.

use super::smoke::Smoke;
use crate::settings::Settings;
use cloud::ids::ImageName;
use cloud::{Arch, Cloud};
use run::cancel::Cancel;
use run::output::Output;
use run::pointers::Scope;

/// What everything that acts on a fleet is given.
pub struct RollContext<'a> {
    /// The cloud.
    pub cloud: &'a Cloud,
    /// The image's configured name: part of pointers and the registry.
    pub image: &'a ImageName,
    /// The architecture of the group's instances, when the image is released for several: part of the pointers.
    pub arch: Option<Arch>,
    /// Which group, and how it is rolled.
    pub settings: &'a Settings,
    /// Where progress is printed.
    pub output: &'a Output,
    /// When to stop watching.
    pub cancel: &'a Cancel,
    /// Runs the smoke test.
    pub smoke: &'a dyn Smoke,
}

impl RollContext<'_> {
    /// Whose pointers are read and moved.
    pub(crate) fn scope(&self) -> Scope {
        Scope::new(self.image, self.arch)
    }

    /// Runs work that is safe to abandon: `None` as soon as the operator requests a stop.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.cancel.requested() => None,
            done = work => Some(done),
        }
    }
}
