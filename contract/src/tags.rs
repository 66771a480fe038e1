//! Keys of the tags that `imagebuilder` puts on everything it creates, at creation.

/// The run that created the resource; `imagebuilder reap` selects by it.
pub const RUN: &str = "imagebuilder:run";
/// The image's name in the configuration.
pub const IMAGE: &str = "imagebuilder:image";
/// The input digest: SHA-256 in lower-case hex of everything that goes into the image.
pub const DIGEST: &str = "imagebuilder:digest";
/// The source AMI the image was built from.
pub const SOURCE_AMI: &str = "imagebuilder:source-ami";
/// The parameter of Systems Manager that named the source AMI, where one did.
pub const SOURCE_PARAMETER: &str = "imagebuilder:source-parameter";
/// Version of the agent in the image.
pub const AGENT: &str = "imagebuilder:agent";
/// Version of the service in the image.
pub const SERVICE: &str = "imagebuilder:service";
/// The git commit of the configuration, with `-dirty` appended if the tree had changes.
pub const GIT: &str = "imagebuilder:git";
/// The gate's verdict on the image: `fit`, once it has passed.
pub const VERDICT: &str = "imagebuilder:verdict";
/// The common prefix of these keys.
pub const PREFIX: &str = "imagebuilder:";
