//! Which packages of a list exist, judged by the lines of `Packages` files. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read as _};

/// A longer line is not one of a `Packages` file. The longest of Debian 12 has 30 kB.
const LONGEST_LINE: u64 = 1 << 20;

/// A package as `apt` in `[image.packages]` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// As written.
    pub(super) written: String,
    /// Its name alone.
    name: String,
    /// The architecture behind `:`.
    arch: Option<String>,
    /// The version or pattern behind `=`.
    pin: Option<String>,
}

impl Wanted {
    /// Takes a package apart: `name[:arch][=version | /release]`. The release is not judged.
    pub(super) fn of(written: &str) -> Self {
        let (rest, pin) = match written.split_once('=') {
            Some((rest, pin)) => (rest, Some(pin.to_owned())),
            None => (written.split('/').next().unwrap_or_default(), None),
        };
        let (name, arch) = match rest.split_once(':') {
            Some((name, arch)) => (name, Some(arch.to_owned())),
            None => (rest, None),
        };
        Self {
            written: written.to_owned(),
            name: name.to_owned(),
            arch,
            // apt's own words for versions that every package has.
            pin: pin.filter(|pin| !["candidate", "newest", "installed"].contains(&pin.as_str())),
        }
    }

    /// Whether it is of the architecture whose `Packages` files are read.
    pub(super) fn is_of(&self, arch: &str) -> bool {
        let own = [arch, "all", "any", "native"];
        self.arch.as_deref().is_none_or(|arch| own.contains(&arch))
    }
}

/// The verdict on one package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// apt finds it.
    Found,
    /// There is none; with the nearest name.
    Missing(Option<String>),
    /// No version fits the pin; with those that there are.
    OtherVersions(Vec<String>),
    /// It is the name of no package but provided by these, and apt chooses only when there is one and no pin.
    Provided(Vec<String>),
}

/// What `Packages` files say of the wanted packages, and every name in them.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeSet<String>,
    /// Of the wanted ones: their versions, and who provides them.
    versions: BTreeMap<String, BTreeSet<String>>,
    providers: BTreeMap<String, BTreeSet<String>>,
}

/// One paragraph of a `Packages` file.
#[derive(Default)]
struct Paragraph {
    package: String,
    version: String,
    provides: String,
    in_provides: bool,
}

impl Index {
    /// An index that keeps the versions and providers of these.
    pub(super) fn of<'a>(wanted: impl IntoIterator<Item = &'a Wanted>) -> Self {
        let mut index = Self::default();
        for one in wanted {
            for name in [Some(one.name.as_str()), one.name.strip_suffix('+')]
                .into_iter()
                .flatten()
            {
                index.versions.insert(name.to_owned(), BTreeSet::new());
                index.providers.insert(name.to_owned(), BTreeSet::new());
            }
        }
        index
    }

    /// Reads a `Packages` file, line by line.
    pub(super) fn read(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        let mut paragraph = Paragraph::default();
        loop {
            line.clear();
            let read = reader
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)?;
            if read as u64 == LONGEST_LINE {
                return Err(io::Error::other("it has a line of more than 1 MiB"));
            }
            let text = line.trim_ascii_end();
            if text.is_empty() {
                self.add(&std::mem::take(&mut paragraph));
            } else {
                paragraph.line(text);
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    fn add(&mut self, paragraph: &Paragraph) {
        let package = &paragraph.package;
        if package.is_empty() {
            return;
        }
        if let Some(versions) = self.versions.get_mut(package) {
            versions.insert(paragraph.version.clone());
        }
        for provided in paragraph.provides.split(',') {
            // Behind the name there may be `:any` and ` (= 1.0)`.
            let name = provided.trim().split([' ', ':', '(']).next();
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                continue;
            };
            if let Some(providers) = self.providers.get_mut(name) {
                providers.insert(package.clone());
            }
            if !self.names.contains(name) {
                self.names.insert(name.to_owned());
            }
        }
        if !self.names.contains(package) {
            self.names.insert(package.clone());
        }
    }

    /// How apt-get would take a package.
    pub(super) fn verdict(&self, wanted: &Wanted) -> Verdict {
        let exact = self.exact(&wanted.name, wanted.pin.as_deref());
        // apt takes a plus at the end for "install it", unless there is a package of that name.
        match (&exact, wanted.name.strip_suffix('+')) {
            (Verdict::Missing(_), Some(name)) => match self.exact(name, wanted.pin.as_deref()) {
                Verdict::Missing(_) => exact,
                other => other,
            },
            _ => exact,
        }
    }

    fn exact(&self, name: &str, pin: Option<&str>) -> Verdict {
        let listed = |all: &BTreeMap<String, BTreeSet<String>>| -> Vec<String> {
            let found = all.get(name).into_iter().flatten();
            found.cloned().collect()
        };
        let versions = listed(&self.versions);
        let providers = listed(&self.providers);
        match (pin, versions.is_empty(), providers.len()) {
            (None, false, _) | (None, true, 1) => Verdict::Found,
            (Some(pin), false, _) => {
                if versions.iter().any(|version| fits(pin, version)) {
                    Verdict::Found
                } else {
                    Verdict::OtherVersions(versions)
                }
            }
            (_, true, 0) => Verdict::Missing(self.nearest(name)),
            (_, true, _) => Verdict::Provided(providers),
        }
    }

    /// The nearest name of all. The distance of names of very different lengths is not computed: there are 100,000 of them.
    fn nearest(&self, name: &str) -> Option<String> {
        let close = |known: &&str| {
            let (a, b) = (name.len(), known.len());
            a.abs_diff(b) <= (a.max(b) / 3).max(1)
        };
        let known = self.names.iter().map(String::as_str).filter(close);
        support::nearest(name, known).map(str::to_owned)
    }
}

impl Paragraph {
    fn line(&mut self, line: &[u8]) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if self.in_provides {
                self.provides.push_str(&String::from_utf8_lossy(line));
            }
            return;
        }
        self.in_provides = false;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let value = || String::from_utf8_lossy(line[colon + 1..].trim_ascii()).into_owned();
        match &line[..colon] {
            name if name.eq_ignore_ascii_case(b"Package") => self.package = value(),
            name if name.eq_ignore_ascii_case(b"Version") => self.version = value(),
            name if name.eq_ignore_ascii_case(b"Provides") => {
                self.provides = value();
                self.in_provides = true;
            }
            _ => {}
        }
    }
}

/// Whether apt takes a version for a pin (`pkgVersionMatch`): the same text, the begin of it before a star at the end, or what fnmatch(3)
/// finds with what is before that star. Case does not matter, but for fnmatch.
fn fits(pin: &str, version: &str) -> bool {
    let (text, begins) = match pin.strip_suffix('*') {
        Some(text) => (text, true),
        None => (pin, false),
    };
    let start = if begins {
        version.get(..text.len())
    } else {
        Some(version)
    };
    start.is_some_and(|start| start.eq_ignore_ascii_case(text)) || matches(text, version)
}

/// A pattern whose only special character is `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "Package: nginx\nVersion: 1.22.1-9+deb12u1\nProvides: httpd, httpd-cgi, nginx-abi-1.22.1-7\n\n\
Package: nginx\nVersion: 1.26.0-1\n\nPackage: curl\nVersion: 7.88.1-10+deb12u8\nDescription: a text\n with Package: no\n .\n Version: no\n\n\
Package: lighttpd\nVersion: 1.4\nProvides: httpd,\n\thttpd-cgi (= 1), modern:any\n\nPackage: vim\nVersion: 2:9.0\n\n\
Package: g++\nVersion: 4:12.2\n\nPackage: nothing-else\n";

    fn verdict(written: &str) -> Verdict {
        let wanted = Wanted::of(written);
        let mut index = Index::of([&wanted]);
        // Cut anywhere, the file is read the same.
        index
            .read(io::BufReader::with_capacity(7, PACKAGES.as_bytes()))
            .unwrap();
        index.verdict(&wanted)
    }

    #[test]
    fn packages_are_found_as_apt_finds_them() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let found = Verdict::Found;
        let versions = Verdict::OtherVersions;
        for (written, want) in [
            ("nginx", found.clone()),
            ("nginx:amd64", found.clone()),
            ("nginx/bookworm", found.clone()),
            ("nginx+", found.clone()),
            ("g++", found.clone()),
            ("nothing-else", found.clone()),
            // A line that ends without a line break, and names in a description.
            ("no", Verdict::Missing(None)),
            ("nginxx", Verdict::Missing(Some("nginx".into()))),
            ("nginxx+", Verdict::Missing(Some("nginx".into()))),
            ("ligthttpd", Verdict::Missing(Some("lighttpd".into()))),
            ("htpd", Verdict::Missing(Some("httpd".into()))),
            ("flowers-for-all", Verdict::Missing(None)),
            // Provided by one, by two, and pinned.
            ("modern", found.clone()),
            ("nginx-abi-1.22.1-7", found.clone()),
            ("httpd", Verdict::Provided(texts(&["lighttpd", "nginx"]))),
            (
                "httpd-cgi",
                Verdict::Provided(texts(&["lighttpd", "nginx"])),
            ),
            ("modern=1", Verdict::Provided(texts(&["lighttpd"]))),
            // Pins.
            ("curl=7.88.1-10+deb12u8", found.clone()),
            ("curl=7.88.*", found.clone()),
            ("curl=7.*+deb12u8", found.clone()),
            ("curl=7.88.1-10+DEB12U8", found.clone()),
            ("curl=*", found.clone()),
            ("curl=newest", found.clone()),
            ("vim=2:9*", found.clone()),
            ("vim=9*", versions(texts(&["2:9.0"]))),
            ("vim=*9.0", found.clone()),
            ("curl=7.88", versions(texts(&["7.88.1-10+deb12u8"]))),
            // A star at the end counts only where the rest has none, as apt-get 2.6 does it.
            ("curl=7.*deb12u*", versions(texts(&["7.88.1-10+deb12u8"]))),
            ("curl=8.*", versions(texts(&["7.88.1-10+deb12u8"]))),
            ("nginx=1.26.*", found),
            (
                "nginx=1.2",
                versions(texts(&["1.22.1-9+deb12u1", "1.26.0-1"])),
            ),
        ] {
            assert_eq!(verdict(written), want, "{written}");
        }
    }

    #[test]
    fn a_foreign_architecture_is_recognized() {
        for (written, own) in [
            ("libc6", true),
            ("libc6:amd64", true),
            ("libc6:native=2.36*", true),
            ("libc6:i386", false),
            ("libc6:arm64/bookworm", false),
        ] {
            assert_eq!(Wanted::of(written).is_of("amd64"), own, "{written}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let error = Index::default().read(endless).unwrap_err();
        assert!(error.to_string().contains("1 MiB"), "{error}");
    }
}
