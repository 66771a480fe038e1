//! User data of the builder and of the gate's instance: read once, and within EC2's limit.

use std::path::{Path, PathBuf};

use contract::image_tests::REQUEST;

use crate::config::Config;
use run::exit::Exit;

/// EC2's limit, before base64, in bytes.
const LIMIT: usize = 16 * 1024;

/// The key of the gate's.
const GATE: &str = "[bake.gate] user_data";

/// What both instances get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserData {
    /// The builder.
    pub(crate) builder: Option<Vec<u8>>,
    /// The gate's instance.
    pub(crate) gate: Option<Vec<u8>>,
}

impl UserData {
    /// Reads what the configuration names. `root` is where relative paths start.
    pub(crate) fn read(config: &Config, root: &Path) -> anyhow::Result<Self> {
        let bake = &config.bake;
        let read = |path: &Option<PathBuf>, key| path.as_ref().map(|path| file(root, path, key));
        Ok(Self {
            builder: read(&bake.user_data, "[bake] user_data").transpose()?,
            gate: requesting(config, read(&bake.gate.user_data, GATE).transpose()?)?,
        })
    }

    /// Their sizes, for messages.
    pub(crate) fn sizes(&self) -> String {
        let all = [("builder", &self.builder), ("gate", &self.gate)];
        let sizes = all
            .into_iter()
            .filter_map(|(who, data)| Some(format!("{who} {} bytes", data.as_ref()?.len())));
        sizes.collect::<Vec<_>>().join(", ")
    }
}

fn file(root: &Path, path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    let path = root.join(path);
    let bytes = std::fs::read(&path).map_err(|error| {
        Exit::Usage
            .error(format!("cannot read {}", path.display()))
            .because(error)
            .hint(format!(
                "{key} names it; relative paths start at the configuration"
            ))
    })?;
    within_limit(&format!("{key}: {} has", path.display()), bytes)
}

/// Refuses what EC2 does not take; `what` begins the message.
fn within_limit(what: &str, bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if bytes.len() > LIMIT {
        return Err(Exit::Usage
            .error(format!(
                "{what} {} bytes, and EC2 takes {LIMIT}",
                bytes.len()
            ))
            .hint("have it fetch what is large, or put that onto the image as a payload")
            .into());
    }
    Ok(bytes)
}

/// The gate's user data with the request to run the image's tests, if it has any.
fn requesting(config: &Config, given: Option<Vec<u8>>) -> anyhow::Result<Option<Vec<u8>>> {
    if config.image.test.is_empty() {
        return Ok(given);
    }
    // Without any, it is settings of the agent, with nothing in them.
    let given = given.unwrap_or_else(|| b"#imagebuilder-agent\n".to_vec());
    let mut text = String::from_utf8(given).map_err(|_| {
        Exit::Usage
            .error(format!(
                "{GATE} is not text, so the request to run [[image.test]] cannot be added to it"
            ))
            .hint("name the agent's settings, cloud-config or a script, not compressed")
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(REQUEST);
    text.push('\n');
    let what = format!("{GATE} has, with the request to run [[image.test]],");
    within_limit(&what, text.into_bytes()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gates_user_data_ends_with_the_request_for_tests() {
        let root = tempfile::tempdir().unwrap();
        let text = "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"agent\"\n\
            [[image.test]]\nname = \"a\"\nscript = \"a.sh\"\n";
        let read = |content: Option<&[u8]>| {
            let mut config = Config::parse(text, "test.toml").unwrap();
            if let Some(content) = content {
                std::fs::write(root.path().join("data"), content).unwrap();
                config.bake.gate.user_data = Some("data".into());
            }
            UserData::read(&config, root.path()).map(|data| data.gate.unwrap())
        };
        for (given, want) in [
            (None, format!("#imagebuilder-agent\n{REQUEST}\n")),
            (
                Some("#cloud-config\npackages: []"),
                format!("#cloud-config\npackages: []\n{REQUEST}\n"),
            ),
            (
                Some("#!/bin/sh\ntrue\n"),
                format!("#!/bin/sh\ntrue\n{REQUEST}\n"),
            ),
        ] {
            let found = String::from_utf8(read(given.map(str::as_bytes)).unwrap()).unwrap();
            assert_eq!(found, want);
            assert!(contract::image_tests::is_requested(&found));
        }
        for (given, want) in [
            (vec![0xff; 3], "[bake.gate] user_data is not text"),
            (
                vec![b'#'; LIMIT],
                "[bake.gate] user_data has, with the request to run [[image.test]], 164",
            ),
        ] {
            let message = format!("{:#}", read(Some(&given)).unwrap_err());
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn user_data_beyond_the_limit_is_refused_with_its_key() {
        let root = tempfile::tempdir().unwrap();
        let config = |keys: &str| {
            let text = format!(
                "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"agent\"\n{keys}"
            );
            Config::parse(&text, "test.toml").unwrap()
        };
        std::fs::write(root.path().join("most"), vec![0xff; LIMIT]).unwrap();
        std::fs::write(root.path().join("more"), vec![b'x'; LIMIT + 1]).unwrap();
        let read = |keys: &str| UserData::read(&config(keys), root.path());
        let both = "[bake]\nuser_data = \"most\"\n[bake.gate]\nuser_data = \"most\"\n";
        assert_eq!(
            read(both).unwrap().sizes(),
            "builder 16384 bytes, gate 16384 bytes"
        );
        for (keys, want) in [
            ("[bake]\nuser_data = \"more\"\n", "[bake] user_data: "),
            (
                "[bake.gate]\nuser_data = \"more\"\n",
                "[bake.gate] user_data: ",
            ),
            ("[bake]\nuser_data = \"none\"\n", "cannot read "),
        ] {
            let error = read(keys).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage, "{keys}");
            let message = format!("{error:#}");
            assert!(message.contains(want), "{keys}: {message}");
        }
    }
}
