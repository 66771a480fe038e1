//! What every run of an imagebuilder verb has: where it prints, how it ends, what it may do, what it records.
//!
//! [`ledger`] is the journal of a run, [`pointers`] moves an image's pointers, [`preflight`] asks for the [`permissions`] that a
//! verb needs. Nothing here knows a verb's steps, the configuration or the command line; feature `testing` adds what tests of
//! verbs need.

pub mod advice;
pub mod cancel;
pub mod document;
pub mod exit;
pub mod id;
pub mod image_release;
pub mod ledger;
pub mod lock;
pub mod output;
pub mod permissions;
pub mod pointers;
pub mod preflight;
#[cfg(any(test, feature = "testing"))]
#[expect(
    clippy::unwrap_used,
    reason = "its callers are tests, which fail by panicking"
)]
pub mod testing;
