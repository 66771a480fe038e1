//! SSM parameters: pointers to images, and the registry of instances.

use async_trait::async_trait;

use super::{Answer, Owned};
use crate::ids::ImageId;

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its full name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Its version: how often it was written.
    pub version: i64,
}

/// SSM parameters.
#[async_trait]
pub trait Parameters: Send + Sync {
    /// One parameter; `None` when there is none.
    async fn parameter(&self, name: &str) -> Answer<Option<Parameter>>;
    /// Those of these parameters that exist.
    async fn named(&self, names: &[String]) -> Answer<Vec<Parameter>>;
    /// Points a parameter of data type `aws:ec2:image` at an image. The service validates *after* it answered: read
    /// the parameter back before relying on it.
    async fn point(&self, name: &str, image: &ImageId) -> Answer<()>;
    /// Writes a parameter that is plain text, in one call.
    async fn write(&self, name: &str, value: &str) -> Answer<()>;
    /// Deletes a parameter; not an error when it is deleted already.
    async fn delete(&self, name: &Owned<String>) -> Answer<()>;
}
