//! Commands in hints, complete with the given configuration and account.
//!
//! Rule: a hint can be pasted. `imagebuilder VERB` in a hint is meant for the configuration and the account of this call, so `-c`, `--set`,
//! `--profile`, `--region` and `--endpoint-url` are added where they were given, and names from outside are quoted for a shell.

use std::borrow::Cow;

use support::shell::quoted;

/// The configuration that is read when no other is named.
pub const DEFAULT_FILE: &str = "imagebuilder.toml";

/// The verbs that read a configuration.
const VERBS: [&str; 9] = [
    "bake", "channel", "config", "doctor", "images", "reap", "render", "roll", "status",
];

/// The options that a command in a hint needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(String);

impl Options {
    /// Adds an option with its value.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0 += &format!("{name} {} ", quoted(value));
    }
}

/// The text with the options added to every command of this program.
pub(crate) fn here<'a>(text: &'a str, options: &Options) -> Cow<'a, str> {
    if options.0.is_empty() {
        return Cow::Borrowed(text);
    }
    let with_options = format!("imagebuilder {}", options.0);
    let mut parts = text.split("imagebuilder ");
    let mut complete = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let argument = part
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        complete.push_str(if VERBS.contains(&argument) {
            &with_options
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
    fn hint_commands_have_the_given_options() {
        let text =
            "watch: imagebuilder roll watch\nor `imagebuilder roll ami-1`; the imagebuilder folder";
        let mut options = Options::default();
        assert_eq!(here(text, &options), text);
        options.add("-c", "my shop/x.toml");
        options.add("--set", "bake.share=[\"123456789012\"]");
        options.add("--region", "eu-north-1");
        let all = "-c 'my shop/x.toml' --set 'bake.share=[\"123456789012\"]' --region eu-north-1";
        assert_eq!(
            here(text, &options),
            format!(
                "watch: imagebuilder {all} roll watch\nor `imagebuilder {all} roll ami-1`; the imagebuilder folder"
            )
        );
        assert_eq!(here("nothing", &options), "nothing");
    }
}
