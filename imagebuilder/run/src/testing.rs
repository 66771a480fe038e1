//! What tests of verbs share: the JSON Schema of a document, and whether it describes what is printed.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::document::Document;

/// The JSON Schema of a document.
pub fn schema_of<T: Document>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    schema["title"] = format!("imagebuilder {}", T::NAME).into();
    schema["properties"]["schema"] = json!({
        "description": "The number of this shape: raised when a key is removed or changes its meaning, not when one is added.",
        "const": T::SCHEMA,
    });
    let mut required = vec![json!("schema")];
    required.extend(schema["required"].as_array().into_iter().flatten().cloned());
    schema["required"] = required.into();
    schema
}

/// The same schema without room for keys that it does not name.
fn closed(mut schema: Value) -> Value {
    // A shape that is a part of the whole would take the other parts' keys for unknown.
    let parts = schema["anyOf"].to_string();
    schema["unevaluatedProperties"] = false.into();
    if let Some(definitions) = schema["$defs"].as_object_mut() {
        for (name, definition) in definitions {
            let part = parts.contains(&format!("\"#/$defs/{name}\""));
            if !part && definition.get("properties").is_some() {
                definition["unevaluatedProperties"] = false.into();
            }
        }
    }
    if schema["anyOf"].is_null() {
        schema.as_object_mut().unwrap().remove("anyOf");
    }
    if schema["$defs"].is_null() {
        schema.as_object_mut().unwrap().remove("$defs");
    }
    schema
}

/// A document as it is printed. Fails when its schema does not describe all of it.
pub fn printed<T: Document>(document: &T) -> String {
    let text = serde_json::to_string_pretty(&document.numbered()).unwrap();
    assert_described::<T>(&serde_json::from_str(&text).unwrap());
    text
}

/// Fails when a document's schema does not describe all of a value.
pub fn assert_described<T: Document>(value: &Value) {
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&closed(schema_of::<T>()))
        .unwrap();
    let faults: Vec<String> = validator
        .iter_errors(value)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{}: {faults:#?}\n{value:#}", T::NAME);
}
