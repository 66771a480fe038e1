//! What `imagebuilder` and `imagebuilder-agent` must agree on, and nothing else: the names of tags and
//! parameters, the agent's registry record and a line of its console, which images are one release, a release's metadata in the
//! signed channel, where an image keeps the agent, the checks of a service, the tests of an image, and how an instance drains.
//!
//! Types only. This crate must not use files, the network, AWS or any runtime.

pub mod checks;
pub mod console;
pub mod drain;
pub mod image_release;
pub mod image_tests;
pub mod layout;
pub mod names;
pub mod registry;
pub mod release;
pub mod tags;
