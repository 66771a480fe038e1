//! User data of the builder and of the gate's instance: read once, and within EC2's limit.

use std::path::{Path, PathBuf};

use crate::config::Config;
use run::exit::Exit;

/// EC2's limit, before base64, in bytes.
const LIMIT: usize = 16 * 1024;

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
            gate: read(&bake.gate.user_data, "[bake.gate] user_data").transpose()?,
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
    if bytes.len() > LIMIT {
        return Err(Exit::Usage
            .error(format!(
                "{key}: {} has {} bytes, and EC2 takes {LIMIT}",
                path.display(),
                bytes.len()
            ))
            .hint("have it fetch what is large, or put that onto the image as a payload")
            .into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
