//! What the agent prints on an instance's console that `imagebuilder` reads: before an instance is identified it has no
//! registry record.

/// The beginning of the line that reports why the instance cannot be identified, when waiting does not end that.
pub const UNIDENTIFIED: &str = "imagebuilder-agent: unidentified: ";
