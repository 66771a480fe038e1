//! The three verbs, each from a request to an exit code: `roll` ([`roll`]), `roll watch` ([`resume`]), `roll rollback` ([`rollback`]).
//!
//! They call the other modules in order; [`plan`](super::plan) decides what is allowed, and what is next is decided in
//! [`watch`](super::watch). [`conclude`] turns the end of a watch into pointers and an exit code.

mod conclude;
mod request;
mod resume;
mod roll;
mod rollback;

pub use self::request::{Busy, Extent, Request};
pub use self::resume::watch;
pub use self::roll::roll;
pub use self::rollback::rollback;
