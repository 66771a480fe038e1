//! Whether the packages of an image exist, before anything is created: looked up in the archives that the configuration names.
//!
//! It finds misspelt names and pins. Signatures are not verified: what is installed is verified by apt on the builder.

mod fetch;
mod index;
mod release;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;

use self::fetch::Fetched;
use self::index::{Index, Verdict, Wanted};
use crate::config::{Arch, Archive, Packages};
use run::preflight::Finding;

/// How many versions or providers a message lists.
const LISTED: usize = 6;

/// The limits of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// To connect to a server.
    connect: Duration,
    /// For everything of one archive.
    archive: Duration,
    /// Bytes of a file, packed and unpacked.
    file: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            archive: Duration::from_secs(60),
            file: 300_000_000,
        }
    }
}

/// What a check found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Packages that the builder would not find.
    pub(crate) wrong: Vec<Finding>,
    /// What was not checked, each with the reason.
    pub(crate) not_checked: Vec<String>,
    /// How many packages exist.
    pub(crate) found: usize,
}

/// The folder in which fetched files are kept: beside that of the runs.
pub(crate) fn cache(runs: &Path) -> PathBuf {
    runs.with_file_name("archives")
}

/// Checks the packages for apt. Nothing is checked, and nothing reported, without `archives`.
///
/// What was fetched is kept in the folder `cache`.
pub(crate) async fn check(
    packages: &Packages,
    arch: Arch,
    cache: &Path,
    limits: Limits,
) -> Checked {
    // The configuration was validated: all are archives.
    let lines = packages.archives.iter();
    let archives: Vec<Archive> = lines.filter_map(|line| Archive::parse(line).ok()).collect();
    if archives.is_empty() || packages.apt.is_empty() {
        return Checked::default();
    }
    let arch = match arch {
        Arch::X86_64 => "amd64",
        Arch::Arm64 => "arm64",
    };
    let all = packages.apt.iter().map(|package| Wanted::of(package));
    let (wanted, foreign): (Vec<_>, Vec<_>) = all.partition(|one| one.is_of(arch));
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    let fetched = archives
        .iter()
        .map(|archive| fetch::packages(archive, arch, cache, limits));
    for (archive, fetched) in archives.iter().zip(join_all(fetched).await) {
        match fetched {
            Ok(fetched) => files.extend(fetched),
            Err(why) => unread.push(format!("{archive}: {why}")),
        }
    }
    let index = Index::of(&wanted);
    let read = tokio::task::spawn_blocking(move || read(index, &files, limits.file));
    let (index, broken) = match read.await {
        Ok(read) => read,
        Err(error) => (Index::default(), vec![error.to_string()]),
    };
    unread.extend(broken);
    let place = packages.place.0.as_deref();
    let mut checked = judge(&index, &wanted, &unread, arch, place);
    if !foreign.is_empty() {
        checked.not_checked.push(format!(
            "packages were not checked: {} (not for {arch})",
            written(&foreign)
        ));
    }
    checked
}

/// Reads all files; with those that are broken.
fn read(mut index: Index, files: &[Fetched], most: u64) -> (Index, Vec<String>) {
    let mut broken = Vec::new();
    for file in files {
        if let Err(error) = file.read(&mut index, most) {
            broken.push(format!("{}: {error}", file.name));
        }
    }
    (index, broken)
}

/// The verdict on all packages. What is not found while archives are unread may be in those.
fn judge(
    index: &Index,
    wanted: &[Wanted],
    unread: &[String],
    arch: &str,
    place: Option<&str>,
) -> Checked {
    let mut checked = Checked::default();
    let mut unknown = Vec::new();
    for one in wanted {
        match index.verdict(one) {
            Verdict::Found => checked.found += 1,
            _ if !unread.is_empty() => unknown.push(one.clone()),
            verdict => checked.wrong.extend(finding(one, verdict, arch, place)),
        }
    }
    let why = unread.join("; ");
    if !unknown.is_empty() {
        let unknown = written(&unknown);
        let line = format!("packages were not checked: {unknown} ({why})");
        checked.not_checked.push(line);
    } else if !unread.is_empty() {
        let line = format!("an archive was not read: {why}; all packages are in others");
        checked.not_checked.push(line);
    }
    checked
}

fn written(packages: &[Wanted]) -> String {
    let names: Vec<&str> = packages.iter().map(|one| one.written.as_str()).collect();
    names.join(", ")
}

/// What is wrong with a package, and its fix.
fn finding(wanted: &Wanted, verdict: Verdict, arch: &str, place: Option<&str>) -> Option<Finding> {
    let written = &wanted.written;
    let at = place.map_or_else(String::new, |place| format!(" ({place})"));
    let key = format!("`apt` of [image.packages]{at}");
    let (what, fix) = match verdict {
        Verdict::Found => return None,
        Verdict::Missing(near) => {
            let fix = match near {
                Some(near) => format!("did you mean `{near}`? "),
                None => String::new(),
            };
            (
                format!("there is no package `{written}` for {arch} in any of `archives`"),
                format!(
                    "{fix}correct `{written}` in {key}, or add the archive that has it to `archives`"
                ),
            )
        }
        Verdict::OtherVersions(versions) => (
            format!(
                "no version fits `{written}` for {arch}: there is {}",
                listed(&versions)
            ),
            format!("correct the version of `{written}` in {key}, or leave it out for the newest"),
        ),
        Verdict::Provided(packages) => (
            format!(
                "`{written}` is not a package but provided by {}, and apt does not choose",
                listed(&packages)
            ),
            format!("name one of them instead of `{written}` in {key}"),
        ),
    };
    Some(Finding { what, fix })
}

fn listed(all: &[String]) -> String {
    let (first, more) = all.split_at(all.len().min(LISTED));
    match more.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
