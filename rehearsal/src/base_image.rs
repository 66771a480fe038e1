//! `rehearsal base-image`: the machine image that a new cloud registers as Debian's own.
//!
//! The recipe is the scripts and files of `base-image/`, embedded in this program. An image is cached by the digest of
//! recipe and suite: built under another name, renamed when complete, by one builder at a time.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use support::Failure;

/// A file of the recipe: its path, whether it is executable, and its bytes.
struct Part(&'static str, bool, &'static [u8]);

macro_rules! part {
    ($path:literal) => {
        Part(
            $path,
            false,
            include_bytes!(concat!("../base-image/", $path)),
        )
    };
    (run $path:literal) => {
        Part(
            $path,
            true,
            include_bytes!(concat!("../base-image/", $path)),
        )
    };
}

const RECIPE: [Part; 14] = [
    part!(run "build.sh"),
    part!(run "disk.sh"),
    part!("setup.sh"),
    part!("grub.cfg"),
    part!("overlay/etc/fstab"),
    part!("overlay/etc/initramfs-tools/conf.d/rehearsal"),
    part!(run "overlay/etc/initramfs-tools/hooks/rehearsal"),
    part!("overlay/etc/ssh/sshd_config.d/rehearsal.conf"),
    part!("overlay/etc/sudoers.d/admin"),
    part!("overlay/etc/systemd/journald.conf.d/rehearsal.conf"),
    part!("overlay/etc/systemd/network/10-dhcp.network"),
    part!("overlay/etc/systemd/system/rehearsal-init.service"),
    part!("overlay/etc/systemd/system/ssh.service.d/rehearsal.conf"),
    part!(run "overlay/usr/lib/rehearsal/init"),
];

/// Programs that the recipe runs, and their Debian packages.
const PROGRAMS: [(&str, &str); 7] = [
    ("mmdebstrap", "mmdebstrap"),
    ("sfdisk", "fdisk"),
    ("grub-mkstandalone", "grub-common"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("tar", "tar"),
];

/// Files that the recipe needs, and their Debian packages.
const FILES: [(&str, &str); 3] = [
    ("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin"),
    ("/usr/lib/grub/i386-pc", "grub-pc-bin"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// Debian's suites by age, with the version of glibc of each.
const SUITES: [(&str, Glibc); 3] = [
    ("bookworm", Glibc(2, 36)),
    ("trixie", Glibc(2, 41)),
    ("sid", Glibc(2, 42)),
];

/// A version of glibc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Glibc(u32, u32);

impl std::fmt::Display for Glibc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Builds the base image into `cache`, or finds it there; long steps are passed to `progress`.
///
/// # Errors
/// When a program is missing, no suite fits this host, or the build fails.
pub(crate) fn find_or_build(
    cache: &Path,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = suite(&release, host_glibc()?)?;
    let digest = digest(suite);
    let path = cache.join(format!("debian-{suite}-{}.raw", &digest[..16]));
    if path.exists() {
        return Ok(path);
    }
    check_programs()?;
    fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let lock_path = cache.join("base-image.lock");
    let lock =
        File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        progress("waiting for another build of the base image");
        lock.lock()
            .with_context(|| format!("lock {}", lock_path.display()))?;
    }
    if path.exists() {
        return Ok(path);
    }
    let work = cache.join("base-image.new");
    // Left by a build that was killed: the lock guarantees that no build is running.
    remove(&work)?;
    let built = build(&work, suite, &mut progress).and_then(|()| {
        let disk = work.join("disk.raw");
        File::open(&disk)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&disk, &path))
            .with_context(|| format!("finish {}", path.display()))
    });
    remove(&work)?;
    built.map(|()| path)
}

fn build(work: &Path, suite: &str, progress: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let recipe = work.join("recipe");
    for Part(name, runs, bytes) in &RECIPE {
        let path = recipe.join(name);
        let write = || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, bytes)?;
            let mode = if *runs { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        write().with_context(|| format!("write {}", path.display()))?;
    }
    // Root in mmdebstrap's user namespace is another user for this folder.
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("open {} to others", work.display()))?;
    let mut child = Command::new("bash")
        .arg(recipe.join("build.sh"))
        .arg(suite)
        .arg(work)
        .env("PATH", search_path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run bash")?;
    let stderr = child.stderr.take().context("bash without a stderr")?;
    let mut last = Vec::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        match line.strip_prefix("step: ") {
            Some(step) => progress(step),
            None => {
                if last.len() == 15 {
                    last.remove(0);
                }
                last.push(line);
            }
        }
    }
    let status = child.wait().context("wait for the build")?;
    if !status.success() {
        // As a failure it keeps its lines.
        let message = format!(
            "build the base image ({status}); the last output:\n{}",
            last.join("\n")
        );
        return Err(Failure::new(message)
            .hint("set REHEARSAL_MIRROR: packages come from this system's Debian mirror")
            .into());
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn digest(suite: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(suite);
    for Part(name, _, bytes) in &RECIPE {
        digest.update(name);
        digest.update(bytes.len().to_le_bytes());
        digest.update(bytes);
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// PATH with the folders of system programs, which are often not in a user's PATH.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

fn check_programs() -> anyhow::Result<()> {
    let path = search_path();
    let there =
        |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !there(program))
        .map(|(_, package)| *package)
        .collect();
    missing.extend(
        FILES
            .iter()
            .filter(|(file, _)| !Path::new(file).exists())
            .map(|(_, package)| *package),
    );
    if !rustix::process::geteuid().is_root() && !there("fakeroot") {
        missing.push("fakeroot");
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "programs for building the base image are missing\nhint: apt-get install {}",
        missing.join(" ")
    )
}

/// The oldest suite that runs programs built on this host; this host's own, if it runs Debian.
fn suite(os_release: &str, host: Glibc) -> anyhow::Result<&'static str> {
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    if field("ID") == Some("debian")
        && let Some(codename) = field("VERSION_CODENAME")
        && let Some((suite, glibc)) = SUITES.iter().find(|(suite, _)| *suite == codename)
        && *glibc >= host
    {
        return Ok(suite);
    }
    let newest = SUITES[SUITES.len() - 1].1;
    match SUITES.iter().find(|(_, glibc)| *glibc >= host) {
        Some((suite, _)) => Ok(suite),
        None => bail!(
            "programs built on this host need glibc {host}, and no Debian suite known here has more than {newest}: they would not run in the guests\nhint: build and rehearse on Debian 12 or newer, or in a container of it"
        ),
    }
}

fn host_glibc() -> anyhow::Result<Glibc> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .stdin(Stdio::null())
        .output()
        .context("run getconf for the version of glibc\nhint: apt-get install libc-bin")?;
    let output = String::from_utf8_lossy(&output.stdout);
    parse_glibc(&output).with_context(|| {
        format!("this host has no GNU C library (getconf printed `{}`): programs built here do not run in Debian guests", output.trim())
    })
}

/// `glibc 2.36`
fn parse_glibc(output: &str) -> Option<Glibc> {
    let (major, minor) = output.trim().strip_prefix("glibc ")?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some(Glibc(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_fits_the_hosts_glibc() {
        let debian = |codename| format!("ID=debian\nVERSION_CODENAME={codename}\n");
        let ubuntu = "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n";
        for (release, glibc, expected) in [
            (debian("bookworm"), Glibc(2, 36), Some("bookworm")),
            (debian("trixie"), Glibc(2, 41), Some("trixie")),
            (debian("bullseye"), Glibc(2, 31), Some("bookworm")),
            // A libc from elsewhere on an old Debian.
            (debian("bookworm"), Glibc(2, 39), Some("trixie")),
            (ubuntu.to_owned(), Glibc(2, 35), Some("bookworm")),
            (ubuntu.to_owned(), Glibc(2, 39), Some("trixie")),
            (String::new(), Glibc(2, 99), None),
        ] {
            let found = suite(&release, glibc);
            assert_eq!(found.as_ref().ok().copied(), expected, "{release} {glibc}");
            if let Err(error) = found {
                assert!(
                    error.to_string().contains("glibc 2.99"),
                    "{release}: {error}"
                );
            }
        }
    }

    #[test]
    fn glibc_versions() {
        assert_eq!(parse_glibc("glibc 2.36\n"), Some(Glibc(2, 36)));
        assert_eq!(parse_glibc("glibc 2.36.9000"), Some(Glibc(2, 36)));
        assert_eq!(parse_glibc(""), None);
        assert!(Glibc(2, 9) < Glibc(2, 36));
    }

    #[test]
    fn every_file_of_the_recipe_is_embedded() {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("base-image");
        let mut found = Vec::new();
        walk(&root, &mut found);
        let mut found: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap())
            .collect();
        found.sort_unstable();
        let mut embedded: Vec<_> = RECIPE.iter().map(|Part(name, _, _)| *name).collect();
        embedded.sort_unstable();
        assert_eq!(embedded, found);
    }

    #[test]
    fn another_suite_is_another_image() {
        assert_ne!(digest("bookworm"), digest("trixie"));
        assert_eq!(digest("bookworm"), digest("bookworm"));
    }
}
