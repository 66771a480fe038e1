//! What every program of this workspace needs and no domain owns.
//!
//! No word of a domain belongs here (docs/decisions/0016-one-crate-for-what-all-share.md): a module that has to name an instance, an
//! image or an order lives elsewhere.

mod credentials;
pub mod duration;
pub mod failure;
pub mod files;
pub mod shell;
mod suggest;
pub mod text;

pub use credentials::{print_without_credentials, without_credentials};
pub use failure::{Failure, Report, one_line};
pub use suggest::nearest;
