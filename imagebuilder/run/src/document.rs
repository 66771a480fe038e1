//! What the program prints as JSON: every shape is a type with a number, and its JSON Schema is in `docs/schemas/`.
//!
//! Rule: keys are stable. One that is added leaves the number as it is; one that is removed, or changes its meaning, raises it.

use schemars::JsonSchema;
use serde::Serialize;

/// A shape of JSON on stdout, or of a line in an events file.
pub trait Document: Sized + Serialize + JsonSchema {
    /// Its name: its JSON Schema is `docs/schemas/imagebuilder-NAME.json`.
    const NAME: &'static str;
    /// The number of its shape.
    const SCHEMA: u32 = 1;

    /// With the number in front, as it is printed.
    fn numbered(&self) -> Numbered<'_, Self> {
        Numbered {
            schema: Self::SCHEMA,
            document: self,
        }
    }
}

/// A document with its number as the key `schema`.
#[derive(Debug, Serialize)]
pub struct Numbered<'a, T> {
    schema: u32,
    #[serde(flatten)]
    document: &'a T,
}
