//! Commands in hints, complete with the given configuration.
//!
//! Rule: a hint can be pasted. `imagebuilder VERB` in a hint is meant for the configuration of this call, so `-c FILE` is added
//! where it was given, and names from outside are quoted for a shell.

use std::borrow::Cow;
use std::path::Path;

use support::shell::quoted_path;

/// The configuration that is read when no other is named.
pub const DEFAULT_FILE: &str = "imagebuilder.toml";

/// The verbs that read a configuration.
const VERBS: [&str; 8] = [
    "bake", "channel", "doctor", "images", "reap", "render", "roll", "status",
];

/// The text with `-c FILE` added to every command of this program, unless the default configuration is used.
pub(crate) fn here<'a>(text: &'a str, config: &Path) -> Cow<'a, str> {
    if config == Path::new(DEFAULT_FILE) {
        return Cow::Borrowed(text);
    }
    let flag = format!("imagebuilder -c {} ", quoted_path(config));
    let mut parts = text.split("imagebuilder ");
    let mut complete = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let argument = part
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        complete.push_str(if VERBS.contains(&argument) {
            &flag
        } else {
            "imagebuilder "
        });
        complete.push_str(part);
    }
    Cow::Owned(complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_commands_name_the_given_configuration() {
        let text =
            "watch: imagebuilder roll watch\nor `imagebuilder roll ami-1`; the imagebuilder folder";
        assert_eq!(here(text, Path::new(DEFAULT_FILE)), text);
        assert_eq!(
            here(text, Path::new("my shop/x.toml")),
            "watch: imagebuilder -c 'my shop/x.toml' roll watch\nor `imagebuilder -c 'my shop/x.toml' roll ami-1`; \
             the imagebuilder folder"
        );
        assert_eq!(here("nothing", Path::new("x.toml")), "nothing");
    }
}
