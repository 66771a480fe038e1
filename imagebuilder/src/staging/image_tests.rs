//! `[[image.test]]`: the scripts, the list that the agent reads, and the unit that runs it, as files of the image.
//!
//! They are on the image and not in the gate's user data: a script may have any size there, counts in the image's digest like all
//! else, and an instance shows later which tests it passed.

use std::path::Path;

use contract::image_tests::{ImageTests, LIST, SCHEMA};

use super::{Staging, unreadable};
use crate::config::{Config, Test};
use crate::shebang;
use run::exit::Exit;

/// The unit that runs the tests, where user data requests them.
pub(crate) const UNIT: &str = "imagebuilder-tests.service";

/// The mode of a script: nobody writes it, and every user may run it.
const SCRIPT: &str = "0555";

impl Staging {
    /// Gathers the tests. Every script that cannot be run is named.
    pub(super) fn image_tests(&mut self, config: &Config, root: &Path) -> anyhow::Result<()> {
        let tests = &config.image.test;
        if tests.is_empty() {
            return Ok(());
        }
        let mut wrong = Vec::new();
        for test in tests {
            let Some(source) = &test.script else { continue };
            let path = root.join(source);
            let key = format!("[[image.test]] {}: script", test.name);
            let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &key, error))?;
            match shebang::required(&bytes) {
                Ok(_) => self.put(&test.dest(), SCRIPT, bytes)?,
                Err(why) => wrong.push(format!("{key}: {}: {why}", path.display())),
            }
        }
        if !wrong.is_empty() {
            return Err(Exit::Usage
                .error(wrong.join("\n"))
                .hint("make it a text file whose first line is such as #!/bin/sh or #!/usr/bin/env python3, with Unix line ends")
                .into());
        }
        let list = ImageTests {
            schema: SCHEMA,
            tests: tests.iter().map(Test::on_image).collect(),
        };
        let mut text = serde_json::to_string_pretty(&list)?;
        text.push('\n');
        self.put(LIST, "0644", text.into_bytes())?;
        let text = self.templates.unit(config, UNIT, None)?;
        self.unit(UNIT, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;
    use crate::template::Facts;

    const SHOP: &str = "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"binary\"\n";
    const TESTS: &str = "[[image.test]]\nname = \"smoke\"\nscript = \"smoke.sh\"\n[[image.test]]\nname = \"conf\"\n\
        command = [\"/usr/sbin/nginx\", \"-t\"]\nuser = \"root\"\ntimeout_seconds = 5\n";

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("binary"), test_support::elf(62, "")).unwrap();
        std::fs::write(root.path().join("smoke.sh"), "#!/bin/sh\nexit 0\n").unwrap();
        root
    }

    fn gather(more: &str, root: &Path) -> anyhow::Result<(Staging, String)> {
        let config = Config::parse(&format!("{SHOP}{more}"), "test.toml").unwrap();
        let staging = Staging::gather(&config, root, None)?;
        let facts = Facts::of_no_bake(cloud::ids::ImageId::parse("ami-1").unwrap());
        let digest = staging.digest(&config, &facts, "").unwrap().0.to_string();
        Ok((staging, digest))
    }

    #[test]
    fn tests_are_files_of_the_image_and_of_its_digest() {
        let root = root();
        let (staging, digest) = gather(TESTS, root.path()).unwrap();
        let text = |dest: &str| match &staging.files[dest].content {
            Content::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Content::File { .. } => unreachable!(),
        };
        assert_eq!(
            staging.files["/usr/lib/imagebuilder/tests/smoke"].mode,
            "0555"
        );
        assert_eq!(
            text("/usr/lib/imagebuilder/tests/smoke"),
            "#!/bin/sh\nexit 0\n"
        );
        insta::assert_snapshot!(text(LIST));
        insta::assert_snapshot!(
            "unit",
            text("/etc/systemd/system/imagebuilder-tests.service")
        );
        assert!(staging.units.iter().any(|unit| unit == UNIT));

        let shorter = TESTS.replace("timeout_seconds = 5", "timeout_seconds = 4");
        assert_ne!(gather(&shorter, root.path()).unwrap().1, digest);
        std::fs::write(root.path().join("smoke.sh"), "#!/bin/sh\nexit 1\n").unwrap();
        assert_ne!(gather(TESTS, root.path()).unwrap().1, digest);
        let (without, _) = gather("", root.path()).unwrap();
        assert!(!without.files.contains_key(LIST));
        assert!(!without.units.iter().any(|unit| unit == UNIT));
    }

    #[test]
    fn every_script_that_cannot_run_is_named() {
        let root = root();
        std::fs::write(root.path().join("dos.sh"), "#!/bin/sh\r\nexit 0\r\n").unwrap();
        std::fs::write(root.path().join("plain"), "exit 0\n").unwrap();
        let test = |name: &str| format!("[[image.test]]\nname = \"{name}\"\nscript = \"{name}\"\n");
        let named = |name: &str, script: &str| {
            test(name).replace(
                &format!("script = \"{name}\""),
                &format!("script = \"{script}\""),
            )
        };
        let more = format!("{}{}", named("dos", "dos.sh"), test("plain"));
        let error = gather(&more, root.path()).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let message = format!("{error:#}");
        assert!(
            message.contains("[[image.test]] dos: script: ") && message.contains("CR LF"),
            "{message}"
        );
        assert!(
            message.contains("[[image.test]] plain: script: "),
            "{message}"
        );
        let message = format!("{:#}", gather(&test("none"), root.path()).unwrap_err());
        assert!(message.contains("cannot read "), "{message}");
    }
}
