//! Python requirements that go into an image: exact versions with their hashes.
//!
//! pip refuses others with `--require-hashes`, but only on the builder.

use std::path::Path;

use run::exit::{Exit, Failure};

/// The fix of every finding.
const LOCK: &str = "pip-compile --generate-hashes --output-file requirements.lock requirements.in";

/// Whether a payload is such a list: `requirements.lock`, `requirements-prod.lock`.
pub(crate) fn is_lock(source: &Path) -> bool {
    let name = source.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("requirements") && name.ends_with(".lock"))
}

/// Refuses a list that pip could not install by hashes; all findings at once.
pub(crate) fn check(path: &Path, text: &str) -> Result<(), Failure> {
    let findings: Vec<String> = findings(text)
        .into_iter()
        .map(|(line, why)| format!("{}:{line}: {why}", path.display()))
        .collect();
    if findings.is_empty() {
        return Ok(());
    }
    Err(Exit::Usage.error(findings.join("\n")).hint(LOCK))
}

/// The number of a line and what is wrong there.
fn findings(text: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    let mut requirements = 0;
    for (line, entry) in entries(text) {
        let what = entry.split_whitespace().next().unwrap_or_default();
        match what {
            "-r" | "-c" | "--requirement" | "--constraint" => findings.push((
                line,
                format!("`{entry}` names another file, which is not on the image"),
            )),
            "-e" | "--editable" => {
                findings.push((line, format!("`{entry}` is a folder, which has no hash")));
            }
            // Another option, of the index for example.
            _ if what.starts_with('-') => {}
            _ => {
                requirements += 1;
                if !entry.contains("--hash=") {
                    findings.push((line, format!("`{what}` has no hash")));
                } else if !entry.contains("==") && !entry.contains(" @ ") {
                    findings.push((line, format!("`{what}` has no exact version")));
                }
            }
        }
    }
    if requirements == 0 && findings.is_empty() {
        findings.push((1, "no requirement in it".to_owned()));
    }
    findings
}

/// Lines joined at a trailing backslash, without comments, each with the number of its first.
fn entries(text: &str) -> Vec<(usize, String)> {
    let mut entries = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = match line.trim_start().starts_with('#') {
            true => "",
            false => line.split(" #").next().unwrap_or_default().trim(),
        };
        let (piece, goes_on) = match line.strip_suffix('\\') {
            Some(piece) => (piece.trim_end(), true),
            None => (line, false),
        };
        let (first, joined) = open.take().unwrap_or((number + 1, String::new()));
        let joined = format!("{joined} {piece}").trim().to_owned();
        if goes_on {
            open = Some((first, joined));
        } else if !joined.is_empty() {
            entries.push((first, joined));
        }
    }
    entries.extend(open.filter(|(_, joined)| !joined.is_empty()));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_without_hashes_are_found() {
        for (text, expected) in [
            ("flask==3.1.3 --hash=sha256:aa\n", &[][..]),
            (
                "# by hand\nflask==3.1.3 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via -r requirements.in\n",
                &[],
            ),
            ("--only-binary :all:\nflask==3.1.3 --hash=sha256:aa", &[]),
            ("app @ https://host/app.whl --hash=sha256:aa", &[]),
            ("flask==3.1.3\n", &[(1, "`flask==3.1.3` has no hash")]),
            (
                "\nflask>=3 --hash=sha256:aa # newest\nclick # no\n",
                &[
                    (2, "`flask>=3` has no exact version"),
                    (3, "`click` has no hash"),
                ],
            ),
            (
                "-r base.lock\n-e .\n",
                &[
                    (
                        1,
                        "`-r base.lock` names another file, which is not on the image",
                    ),
                    (2, "`-e .` is a folder, which has no hash"),
                ],
            ),
            ("# nothing\n", &[(1, "no requirement in it")]),
            ("", &[(1, "no requirement in it")]),
            ("flask==1 \\", &[(1, "`flask==1` has no hash")]),
        ] {
            let found = findings(text);
            let found: Vec<(usize, &str)> = found
                .iter()
                .map(|(line, why)| (*line, why.as_str()))
                .collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn lists_are_recognised_by_their_name() {
        for (name, expected) in [
            ("requirements.lock", true),
            ("a/requirements-prod.lock", true),
            ("requirements.txt", false),
            ("Cargo.lock", false),
        ] {
            assert_eq!(is_lock(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_refusal_has_the_command_that_fixes_it() {
        let failure = check(Path::new("requirements.lock"), "a\nb\n").unwrap_err();
        let error = anyhow::Error::from(failure);
        assert_eq!(Exit::of(&error), Exit::Usage);
        let message = format!("{error:#}");
        assert!(
            message.contains("requirements.lock:2: `b` has no hash"),
            "{message}"
        );
        assert!(
            run::exit::hint(&error)
                .unwrap()
                .contains("--generate-hashes")
        );
    }
}
