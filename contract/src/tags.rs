//! Keys of the tags that `imagebuilder` puts on everything it creates, at creation.

/// The run that created the resource; what `imagebuilder reap` goes by.
pub const RUN: &str = "imagebuilder:run";
/// The image's name from the configuration.
pub const IMAGE: &str = "imagebuilder:image";
/// The input digest: SHA-256 in lower-case hex over everything that goes into the image.
pub const DIGEST: &str = "imagebuilder:digest";
/// The source AMI the image was built from.
pub const SOURCE_AMI: &str = "imagebuilder:source-ami";
/// Version of the agent in the image.
pub const AGENT: &str = "imagebuilder:agent";
/// Version of the service in the image.
pub const SERVICE: &str = "imagebuilder:service";
/// The git commit of the configuration, `-dirty` appended when the tree was.
pub const GIT: &str = "imagebuilder:git";
/// What the gate said of the image: `fit`, once it has passed.
pub const VERDICT: &str = "imagebuilder:verdict";
/// The prefix all of the above share.
pub const PREFIX: &str = "imagebuilder:";
