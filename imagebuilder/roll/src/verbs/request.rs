//! The arguments of `roll` and `roll rollback`.

use crate::plan::Consent;
use cloud::ids::ImageId;

/// The arguments of `roll`.
#[derive(Clone, Debug)]
pub struct Request {
    /// The image; the pointer `candidate` when left out.
    pub image: Option<ImageId>,
    /// Risks that were accepted by flags.
    pub consents: Vec<Consent>,
    /// What to do when another refresh is active.
    pub busy: Busy,
    /// How far to go.
    pub extent: Extent,
}

/// What to do when another refresh is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// End with exit code 16.
    Refuse,
    /// Wait until it is over, then plan.
    Wait,
    /// Watch it as if this run had started it, if its target is the same image.
    Adopt,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Print the plan and stop.
    Plan,
    /// Carry it out.
    Whole,
}
