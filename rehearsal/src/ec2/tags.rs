//! Tags of EC2 resources, stored by resource id.

use std::collections::BTreeMap;

use crate::wire::{ApiError, Params, Xml};

/// A resource's tags.
pub(crate) type Tags = BTreeMap<String, String>;

/// Resource kinds by the prefix of their ids, most used first.
const KINDS: [(&str, &str); 14] = [
    ("ami-", "image"),
    ("i-", "instance"),
    ("snap-", "snapshot"),
    ("vol-", "volume"),
    ("sg-", "security-group"),
    ("lt-", "launch-template"),
    ("key-", "key-pair"),
    ("subnet-", "subnet"),
    ("vpc-", "vpc"),
    ("eni-", "network-interface"),
    ("sir-", super::spot::KIND),
    ("rtb-", "route-table"),
    ("igw-", "internet-gateway"),
    ("r-", "reservation"),
];

/// The type of resource of an id.
pub(crate) fn kind(id: &str) -> Option<&'static str> {
    KINDS
        .iter()
        .find(|(prefix, _)| id.starts_with(prefix))
        .map(|(_, kind)| *kind)
}

/// Refuses tags for kinds of resources that the call does not create.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn check_kinds(params: &Params, kinds: &[&str]) -> Result<(), ApiError> {
    let of_template = params.structs("TemplateTagSpecification");
    for specification in params
        .structs("TagSpecification")
        .iter()
        .chain(&of_template)
    {
        let kind = specification.required("ResourceType")?;
        if !kinds.contains(&kind) {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("'{kind}' is not a valid taggable resource type for this operation."),
            ));
        }
    }
    Ok(())
}

/// The tags in a request for resources of `kind` that it creates (`TagSpecification.N`).
///
/// # Errors
/// When a tag is not valid or reserved.
pub(crate) fn specified(params: &Params, kind: &str) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for specification in params.structs("TagSpecification") {
        if specification.text("ResourceType") == Some(kind) {
            tags.extend(read(&specification)?);
        }
    }
    Ok(tags)
}

/// Reads `Tag.N.Key` and `Tag.N.Value`.
///
/// # Errors
/// When a tag is not valid or reserved.
pub(crate) fn read(params: &Params) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for tag in params.structs("Tag") {
        let key = tag.required("Key")?;
        let value = tag.text("Value").unwrap_or_default();
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Tag keys starting with 'aws:' are reserved for internal use: {key}"),
            ));
        }
        if key.chars().count() > 127 || value.chars().count() > 255 {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Tag {key} exceeds the maximum length"),
            ));
        }
        tags.insert(key.to_owned(), value.to_owned());
    }
    Ok(tags)
}

/// Writes `<tagSet>`, or nothing when there are none, as most calls of EC2 do.
pub(crate) fn write(xml: &mut Xml, tags: Option<&Tags>) {
    if tags.is_some_and(|tags| !tags.is_empty()) {
        write_all(xml, tags);
    }
}

/// Writes `<tagSet>`, empty when there are none.
pub(crate) fn write_all(xml: &mut Xml, tags: Option<&Tags>) {
    xml.list(
        "tagSet",
        "item",
        tags.into_iter().flatten(),
        |x, (key, value)| {
            x.text("key", key).text("value", value);
        },
    );
}

/// `<return>true</return>`, EC2's answer to calls without a result.
pub(crate) fn done() -> Xml {
    let mut xml = Xml::new();
    xml.text("return", true);
    xml
}
