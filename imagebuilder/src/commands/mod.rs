//! One file per subcommand: an args struct with `run(self, &Context)`. Subcommands call other modules and have no logic of their own.

pub(crate) mod bake;
pub(crate) mod channel;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod init;
pub(crate) mod reap;
pub(crate) mod render;
pub(crate) mod roll;
pub(crate) mod status;
