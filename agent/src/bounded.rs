//! Reads small files that another process wrote: regular files only, up to a limit.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Longest status file: a hundred skipped releases with their reasons fit many times over.
pub(crate) const LONGEST_STATUS: u64 = 256 * 1024;

/// The text of a file; `None` when there is none.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for what is no regular file (a pipe would hold the reader up), is longer
/// than `most` bytes, or is not UTF-8; otherwise the error of reading.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Option<String>> {
    let refuse = |why: &str| io::Error::new(ErrorKind::InvalidData, why.to_owned());
    // The updater, as root, reads what the daemon wrote: a link or a pipe in its place must not redirect or block it.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(refuse("not a regular file"));
    }
    let mut text = String::new();
    // One byte more than the limit distinguishes a file that is too long from one that just fits.
    let length = file.take(most + 1).read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length > most) {
        return Err(refuse("longer than it may be"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_within_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read(&path, 4).unwrap(), None);
        fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).unwrap().as_deref(), Some("1234"));
        for (text, most) in [(&b"12345"[..], 4), (&b"\xff"[..], 4)] {
            fs::write(&path, text).unwrap();
            assert_eq!(
                read(&path, most).unwrap_err().kind(),
                ErrorKind::InvalidData,
                "{text:?}"
            );
        }
        assert_eq!(
            read(dir.path(), 4).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, 9).is_err());
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        assert_eq!(read(&pipe, 4).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(
            read(Path::new("/dev/zero"), 4).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
    }
}
