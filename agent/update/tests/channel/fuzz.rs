//! The whole way of metadata, from the file to the catalogue, with mutated bytes: unsigned, as an attacker with
//! the mirror could, and signed, as an attacker with a key could.
//!
//! Ordinary tests of a second each; `cargo bolero test fuzz::unsigned` drives them further.

use std::fs;

use agent_update::channel::{Catalogue, Channel as _, Place, Refusal, TufChannel};
use bolero::check;
use serde_json::{Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;
use test_support::fuzz::{Mutation, mutate};

use crate::repository::{Files, ROLES, Repository, now};

/// An instance's first refresh from such files.
fn refresh(root: &[u8], files: &Files) -> Result<Catalogue, Refusal> {
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    for (path, bytes) in files {
        let path = dir.path().join("site").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let place = Place::new(
        &format!("file://{}/site", dir.path().display()),
        &dir.path().join("trust"),
        &dir.path().join("tuf"),
    );
    fs::create_dir(&place.trust).unwrap();
    fs::write(place.trust.join("root.json"), root).unwrap();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { TufChannel::open(&place)?.refresh(now()).await })
}

fn usable(catalogue: &Catalogue) {
    for offer in &catalogue.offers {
        assert_eq!(offer.release.check(), Ok(()));
    }
}

#[test]
fn unsigned() {
    let repository = Repository::new();
    let good = refresh(repository.root(), &repository.files).unwrap();
    let metadata: Vec<&String> = repository
        .files
        .keys()
        .filter(|path| path.starts_with("metadata/"))
        .collect();
    check!().with_type::<Mutation>().for_each(|mutation| {
        let (mut files, mut root) = (repository.files.clone(), repository.root().to_vec());
        match metadata.get(usize::from(mutation.0) % (metadata.len() + 1)) {
            Some(path) => mutate(files.get_mut(*path).unwrap(), mutation),
            None => mutate(&mut root, mutation),
        }
        // What is accepted after all has the signed content: white space was mutated, or a signature too many.
        if let Ok(believed) = refresh(&root, &files) {
            assert_eq!(believed, good);
        }
    });
}

#[test]
fn signed() {
    let repository = Repository::new();
    check!().with_type::<Mutation>().for_each(|mutation| {
        let mut files = repository.files.clone();
        let role = ROLES[usize::from(mutation.0) % ROLES.len()];
        let suffix = format!("{role}.json");
        let (_, bytes) = files
            .iter_mut()
            .rfind(|(path, _)| path.ends_with(&suffix))
            .unwrap();
        let metadata: Value = serde_json::from_slice(bytes).unwrap();
        let mut text = metadata["signed"].to_string().into_bytes();
        mutate(&mut text, mutation);
        let Ok(signed) = serde_json::from_slice::<Value>(&text) else {
            return;
        };
        // A number with a fraction has no canonical form: nobody can sign it.
        if to_canonical_bytes(&signed).is_err() {
            return;
        }
        let keys = repository.roles[role].keys.iter();
        let signatures: Vec<Value> = keys.map(|key| key.signature(&signed)).collect();
        *bytes = json!({ "signed": signed, "signatures": signatures })
            .to_string()
            .into_bytes();
        if let Ok(believed) = refresh(repository.root(), &files) {
            usable(&believed);
        }
    });
}
