//! Where an image keeps the agent: `imagebuilder` writes these paths at bake, the agent's updater uses them.
//!
//! ```text
//! /usr/lib/imagebuilder-agent/factory/imagebuilder-agent    baked, never deleted: the last resort
//! /usr/share/imagebuilder-agent/channel/root.json           the channel's root of trust at bake
//! /usr/share/imagebuilder-agent/channel/metadata/…          its metadata at bake: the rollback floor of a new instance
//! /opt/imagebuilder-agent/versions/<version>-<digest12>/{imagebuilder-agent,COMPLETE}
//! /opt/imagebuilder-agent/stable -> versions/…              baked as -> the factory slot; only a promotion changes it
//! /opt/imagebuilder-agent/trial -> versions/…               may dangle
//! /opt/imagebuilder-agent/staging/                          the same file system as the slots
//! /var/lib/imagebuilder-update/                             root's, 0700: metadata, state, skip list, hold
//! /run/imagebuilder-update/status.json                      the updater's status, world-readable
//! ```

/// The agent's file name in every slot.
pub const BINARY: &str = "imagebuilder-agent";

/// The slot that is baked into the image.
pub const FACTORY: &str = "/usr/lib/imagebuilder-agent/factory";

/// The tree of the slots and links.
pub const SLOTS: &str = "/opt/imagebuilder-agent";

/// The channel's files in the image: `root.json`, and `metadata/` as of the bake.
pub const CHANNEL: &str = "/usr/share/imagebuilder-agent/channel";

/// The updater's own state.
pub const STATE: &str = "/var/lib/imagebuilder-update";

/// The updater's runtime directory.
pub const RUN: &str = "/run/imagebuilder-update";
