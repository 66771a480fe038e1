//! The schemas in `docs/schemas/`, compared with the types they describe; and what is printed, validated against them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bake::Baked;
use crate::bake::reap::Reaped;
use crate::channel::show::View;
use crate::commands::channel::{init, promote, publish, refresh, rotate_root, withdraw};
use crate::commands::{config, doctor, images, render};
use roll::show::Preview;
use roll::status::Status;
use run::document::Document;
use run::output::Event;
use run::testing::{assert_described, printed, schema_of};

/// Every document, by its name.
fn all() -> BTreeMap<&'static str, Value> {
    fn entry<T: Document>() -> (&'static str, Value) {
        (T::NAME, schema_of::<T>())
    }
    BTreeMap::from([
        entry::<Baked>(),
        entry::<Reaped>(),
        entry::<Preview>(),
        entry::<Status>(),
        entry::<Event<'_>>(),
        entry::<View>(),
        entry::<config::Shown>(),
        entry::<doctor::Check>(),
        entry::<images::Row>(),
        entry::<render::Rendered>(),
        entry::<init::Answer<'_>>(),
        entry::<promote::Answer>(),
        entry::<publish::Answer<'_>>(),
        entry::<refresh::Answer>(),
        entry::<rotate_root::Answer>(),
        entry::<withdraw::Answer>(),
    ])
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schemas"))
}

#[test]
fn every_schema_is_the_one_of_its_type() {
    let update = std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always");
    for (name, schema) in all() {
        let path = folder().join(format!("imagebuilder-{name}.json"));
        if update {
            std::fs::write(&path, format!("{schema:#}\n")).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| "null".into());
        let kept: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            kept,
            schema,
            "{} is not the schema of its type; run this test with INSTA_UPDATE=always, and read the diff",
            path.display()
        );
    }
}

#[test]
fn every_document_has_a_schema_and_nothing_else_does() {
    let known = all();
    let files = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let names = known.keys();
    let wanted: Vec<String> = names
        .map(|name| format!("imagebuilder-{name}.json"))
        .collect();
    assert_eq!(files, wanted);

    let crates = ["src", "roll/src", "run/src"]
        .map(|sources| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(sources));
    let mut sources = Vec::from(crates);
    let mut implemented = 0;
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            let inside = std::fs::read_dir(path).unwrap();
            sources.extend(inside.map(|entry| entry.unwrap().path()));
        } else {
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines();
            implemented += lines
                .filter(|line| line.starts_with("impl Document for "))
                .count();
        }
    }
    assert_eq!(
        implemented,
        known.len(),
        "a document is missing in this test"
    );
}

#[test]
fn results_are_described_by_their_schemas() {
    let mut baked = Baked {
        image: "ami-2".parse().unwrap(),
        name: "shop-1".into(),
        architecture: "x86_64".into(),
        digest: "a".repeat(64).parse().unwrap(),
        source: "ami-1".parse().unwrap(),
        run: Some("r1".parse().unwrap()),
    };
    printed(&baked);
    baked.run = None;
    printed(&baked);
    printed(&render::Rendered::File {
        file: "out/image.pkr.hcl".into(),
    });
    printed(&render::Rendered::Template {
        template: "source \"amazon-ebs\" \"image\" {".into(),
    });
}

#[test]
fn a_key_that_the_schema_does_not_name_is_found() {
    let mut value = json!({ "schema": 1, "removed": [], "left": [], "unlisted": [] });
    assert_described::<Reaped>(&value);
    value["more"] = true.into();
    let found = std::panic::catch_unwind(|| assert_described::<Reaped>(&value));
    assert!(found.is_err());
}
