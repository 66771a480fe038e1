//! Arguments of commands that users paste into a shell.

use std::borrow::Cow;
use std::path::Path;

/// An argument for a POSIX shell, in quotes where it needs them.
#[must_use]
pub fn quoted(argument: &str) -> Cow<'_, str> {
    // Only a NUL byte cannot be quoted; no argument contains one.
    shlex::try_quote(argument).unwrap_or(Cow::Borrowed(argument))
}

/// A path for a POSIX shell, in quotes where it needs them.
#[must_use]
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_are_quoted() {
        assert_eq!(quoted("shop"), "shop");
        assert_eq!(quoted("my shop; rm -rf /"), "'my shop; rm -rf /'");
        assert_eq!(quoted_path(Path::new("/a b/it's")), r#""/a b/it's""#);
    }
}
