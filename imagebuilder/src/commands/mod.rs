//! One file a verb: an args struct with `run(self, &Context)`. Verbs call the rooms; they hold no logic of their own.

pub(crate) mod bake;
pub(crate) mod channel;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod init;
pub(crate) mod reap;
pub(crate) mod render;
pub(crate) mod roll;
pub(crate) mod status;
