//! The `Release` file of an archive: which `Packages` files it has, with their hashes. Its signature is not verified. Pure.

use std::collections::BTreeMap;

/// A file that an archive lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Below the folder of the suite.
    pub(super) path: String,
    /// SHA-256 of it as it is there, in hex.
    pub(super) sha256: String,
    /// Its size in bytes.
    pub(super) size: u64,
    /// How it is compressed.
    pub(super) compression: Compression,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Xz,
    Gzip,
    None,
}

impl Compression {
    /// All of them, the smallest first.
    const ALL: [Self; 3] = [Self::Xz, Self::Gzip, Self::None];

    fn suffix(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::Gzip => ".gz",
            Self::None => "",
        }
    }
}

/// What a `Release` file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    /// Whether files can be fetched by their hash.
    pub(super) by_hash: bool,
    /// Whether packages for all architectures are in files of their own.
    all_apart: bool,
    files: BTreeMap<String, (String, u64)>,
}

impl Release {
    /// Reads `Release`, or `InRelease` with a signature around it.
    pub(super) fn parse(text: &str) -> Self {
        let mut release = Self::default();
        let (mut has_all, mut all_inside, mut in_hashes) = (false, false, false);
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix([' ', '\t']) {
                if in_hashes {
                    release.add(entry);
                }
                continue;
            }
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            in_hashes = key == "SHA256";
            match key {
                "Acquire-By-Hash" => release.by_hash = value.trim() == "yes",
                "Architectures" => has_all = value.split_whitespace().any(|one| one == "all"),
                "No-Support-for-Architecture-all" => all_inside = value.trim() == "Packages",
                _ => {}
            }
        }
        release.all_apart = has_all && !all_inside;
        release
    }

    fn add(&mut self, entry: &str) {
        let mut words = entry.split_ascii_whitespace();
        let (Some(hash), Some(size), Some(path)) = (words.next(), words.next(), words.next())
        else {
            return;
        };
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Ok(size) = size.parse()
            && is_hash
            && path.contains("/Packages")
        {
            let hash = hash.to_ascii_lowercase();
            self.files.insert(path.to_owned(), (hash, size));
        }
    }

    /// The `Packages` files of a component for an architecture; none when there are none for it.
    pub(super) fn packages(&self, component: &str, arch: &str) -> Vec<Listed> {
        let Some(own) = self.smallest(component, arch) else {
            return Vec::new();
        };
        let all = self
            .all_apart
            .then(|| self.smallest(component, "all"))
            .flatten();
        [Some(own), all].into_iter().flatten().collect()
    }

    fn smallest(&self, component: &str, arch: &str) -> Option<Listed> {
        Compression::ALL.into_iter().find_map(|compression| {
            let suffix = compression.suffix();
            let path = format!("{component}/binary-{arch}/Packages{suffix}");
            let (sha256, size) = self.files.get(&path)?.clone();
            Some(Listed {
                path,
                sha256,
                size,
                compression,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(head: &str, files: &[&str], component: &str, arch: &str) -> Vec<String> {
        let hash = "a".repeat(64);
        let mut text = format!("{head}MD5Sum:\n 00 1 main/binary-amd64/Packages.xz\nSHA256:\n");
        for file in files {
            text += &format!(" {hash}   12 {file}\n");
        }
        text += "-----BEGIN PGP SIGNATURE-----\n\nxyz\n";
        let found = Release::parse(&text).packages(component, arch);
        found.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn the_smallest_listed_file_is_taken() {
        let xz = "main/binary-amd64/Packages.xz";
        let gz = "main/binary-amd64/Packages.gz";
        let plain = "main/binary-amd64/Packages";
        for (files, want) in [
            (&[plain, gz, xz][..], Some(xz)),
            (&[plain, gz], Some(gz)),
            (&[plain], Some(plain)),
            (&["main/binary-arm64/Packages.xz"], None),
            (&["other/binary-amd64/Packages.xz"], None),
            (&[], None),
        ] {
            let want: Vec<String> = want.map(str::to_owned).into_iter().collect();
            assert_eq!(paths("", files, "main", "amd64"), want, "{files:?}");
        }
    }

    #[test]
    fn packages_for_all_may_have_files_of_their_own() {
        let files = ["main/binary-amd64/Packages", "main/binary-all/Packages"];
        let inside = "No-Support-for-Architecture-all: Packages\n";
        for (head, want) in [
            ("Architectures: amd64 arm64\n".to_owned(), 1),
            ("Architectures: all amd64\n".to_owned(), 2),
            (format!("{inside}Architectures: all amd64\n"), 1),
        ] {
            let found = paths(&head, &files, "main", "amd64");
            assert_eq!(found.len(), want, "{head}: {found:?}");
        }
    }
}
