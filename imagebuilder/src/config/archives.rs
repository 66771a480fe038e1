//! A line of `archives` in `[image.packages]`: a repository of apt, as sources.list(5) has it behind `deb`.

use std::fmt;

use url::Url;

/// What a line looks like.
const EXAMPLE: &str = "https://deb.debian.org/debian bookworm main";

/// One repository of apt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Where it is; its path ends with a slash.
    pub(crate) url: Url,
    /// The folder below `dists/`.
    pub(crate) suite: String,
    /// At least one.
    pub(crate) components: Vec<String>,
}

impl Archive {
    /// Reads a line, or says why it is none.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let url = words.next().unwrap_or_default();
        if matches!(url, "deb" | "deb-src") {
            return Err(format!(
                "begins with `{url}`: leave it out, as in \"{EXAMPLE}\""
            ));
        }
        if line.contains(['[', ']']) {
            return Err(
                "has options in brackets, which are not supported: for one architecture alone, set `archives` in \
                 [arch.NAME.image.packages]"
                    .to_owned(),
            );
        }
        let Some(suite) = words.next() else {
            return Err(format!(
                "is not a URL, a suite and components, such as \"{EXAMPLE}\""
            ));
        };
        let components: Vec<String> = words.map(str::to_owned).collect();
        if suite.ends_with('/') {
            return Err(format!(
                "has the suite `{suite}`: repositories without suites and components are not supported"
            ));
        }
        if components.is_empty() {
            return Err(format!("names no component, such as main in \"{EXAMPLE}\""));
        }
        if let Some(odd) = [suite]
            .into_iter()
            .chain(components.iter().map(String::as_str))
            .find(|word| !is_path(word))
        {
            return Err(format!("has `{odd}`, which is not a suite or a component"));
        }
        Ok(Self {
            url: address(url)?,
            suite: suite.to_owned(),
            components,
        })
    }
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_str().trim_end_matches('/');
        write!(f, "{url} {} {}", self.suite, self.components.join(" "))
    }
}

/// Whether a word is one or more names with slashes between.
fn is_path(word: &str) -> bool {
    word.split('/').all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.+~".contains(c))
    })
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| {
        format!("has the URL `{text}`: {error}; it begins with https://, http:// or file://")
    })?;
    let usable = match url.scheme() {
        "http" | "https" => url.has_host(),
        "file" => url.to_file_path().is_ok(),
        _ => false,
    };
    if !usable {
        return Err(format!(
            "has the URL `{text}`: it must begin with https://, http:// or file:///"
        ));
    }
    // Messages print the URL.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a URL with a user or a password, which is not supported".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a URL with `?` or `#`".to_owned());
    }
    Url::parse(&format!("{}/", text.trim_end_matches('/')))
        .map_err(|error| format!("has the URL `{text}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_sources_list_are_read() {
        for (line, want) in [
            (
                "https://deb.debian.org/debian bookworm main",
                "https://deb.debian.org/debian/dists/bookworm/",
            ),
            (
                "http://a.example//  jammy-updates\tmain universe ",
                "http://a.example/dists/jammy-updates/",
            ),
            (
                "file:///srv/mirror stable/updates main",
                "file:///srv/mirror/dists/stable/updates/",
            ),
        ] {
            let archive = Archive::parse(line).unwrap();
            let base = archive.url.join(&format!("dists/{}/", archive.suite));
            assert_eq!(base.unwrap().as_str(), want);
            assert_eq!(Archive::parse(&archive.to_string()).unwrap(), archive);
        }
    }

    #[test]
    fn other_lines_are_refused_with_the_reason() {
        for (line, want) in [
            ("", "is not a URL, a suite and components"),
            ("https://x/debian", "is not a URL, a suite and components"),
            ("https://x/debian sid", "names no component"),
            (
                "deb https://x/debian sid main",
                "begins with `deb`: leave it out",
            ),
            ("deb-src https://x/ sid main", "begins with `deb-src`"),
            (
                "[arch=amd64] https://x/ sid main",
                "options in brackets, which are not supported",
            ),
            ("deb [arch=amd64] https://x/ sid main", "begins with `deb`"),
            (
                "https://x/ ./",
                "without suites and components are not supported",
            ),
            (
                "https://x/ stable/ main",
                "without suites and components are not supported",
            ),
            (
                "https://x/ ../sid main",
                "has `../sid`, which is not a suite",
            ),
            ("https://x/ sid ma?n", "has `ma?n`"),
            ("ftp://x/ sid main", "it must begin with https://"),
            ("x/debian sid main", "it begins with https://"),
            ("file://host/x sid main", "it must begin with https://"),
            ("https://me:secret@x/ sid main", "with a user or a password"),
            ("https://x/?a=b sid main", "has a URL with `?`"),
        ] {
            let why = Archive::parse(line).unwrap_err();
            assert!(why.contains(want), "{line}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
