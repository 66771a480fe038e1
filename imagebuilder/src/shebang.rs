//! What runs a script: its first line, as the kernel reads it.
//!
//! Packer runs scripts from a folder that may be mounted `noexec`, so the interpreter is called by name, with the script
//! as its argument. Pure.

/// The interpreter of a script whose first line names none.
const DEFAULT: &str = "/bin/sh";
/// The kernel reads at most this much of the first line (`BINPRM_BUF_SIZE`).
const LIMIT: usize = 255;

/// The interpreter of a script and at most one argument, as execve(2) splits them; with whether the script names
/// it.
///
/// # Errors
/// When the first line begins with `#!` and is invalid.
pub(crate) fn interpreter(script: &str) -> Result<(Vec<String>, bool), String> {
    let Some(line) = script.strip_prefix("#!") else {
        return Ok((vec![DEFAULT.to_owned()], false));
    };
    let line = line.split('\n').next().unwrap_or_default();
    if line.ends_with('\r') {
        return Err(
            "its lines end with CR LF, as on Windows, so its interpreter cannot be found".into(),
        );
    }
    let line = line.trim_matches([' ', '\t']);
    let (program, argument) = match line.split_once([' ', '\t']) {
        Some((program, argument)) => (program, argument.trim_start_matches([' ', '\t'])),
        None => (line, ""),
    };
    if !program.starts_with('/') {
        return Err(format!(
            "its first line names no interpreter by an absolute path: `#!{}`",
            line.escape_debug()
        ));
    }
    if line.len() > LIMIT || line.chars().any(char::is_control) {
        return Err("its first line is too long, or has control characters".into());
    }
    let argument = Some(argument.to_owned()).filter(|argument| !argument.is_empty());
    Ok((
        std::iter::once(program.to_owned())
            .chain(argument)
            .collect(),
        true,
    ))
}

/// The text of a script that has to name its interpreter, and the interpreter.
///
/// # Errors
/// When it is no text, has the line ends of Windows, or names no interpreter.
pub(crate) fn required(script: &[u8]) -> Result<(&str, Vec<String>), String> {
    let text = std::str::from_utf8(script).map_err(|_| "it is not text in UTF-8")?;
    if text.contains('\0') {
        return Err("it is not text: it has null bytes".into());
    }
    if text.contains("\r\n") {
        return Err("its lines end with CR LF, as on Windows".into());
    }
    match interpreter(text)? {
        (interpreter, true) => Ok((text, interpreter)),
        (_, false) => Err("its first line names no interpreter".into()),
    }
}

/// Arguments as one line of a POSIX shell.
pub(crate) fn quoted(arguments: &[String]) -> String {
    let quote = |argument: &String| format!("'{}'", argument.replace('\'', "'\\''"));
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_as_the_kernel_does() {
        for (script, arguments, reason) in [
            ("#!/bin/bash\nset -o pipefail\n", &["/bin/bash"][..], true),
            ("#!/bin/sh", &["/bin/sh"], true),
            ("#! /bin/bash -eu\n", &["/bin/bash", "-eu"], true),
            (
                "#!/usr/bin/env python3\n",
                &["/usr/bin/env", "python3"],
                true,
            ),
            // One argument, however many spaces it contains.
            (
                "#!/usr/bin/env -S bash -e\n",
                &["/usr/bin/env", "-S bash -e"],
                true,
            ),
            ("set -e\n", &["/bin/sh"], false),
            ("", &["/bin/sh"], false),
            ("\n#!/bin/bash\n", &["/bin/sh"], false),
        ] {
            let (found, says) = interpreter(script).unwrap();
            assert_eq!(
                (&found[..], says),
                (
                    &arguments
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()[..],
                    reason
                ),
                "{script}"
            );
        }
        for script in [
            "#!\n",
            "#!bash\n",
            "#!/bin/bash\r\nset -e\r\n",
            "#!/bin/\u{7}\n",
        ] {
            assert!(interpreter(script).is_err(), "{script:?}");
        }
    }

    #[test]
    fn scripts_that_name_no_interpreter_are_refused() {
        for (script, want) in [
            (&b"echo"[..], "names no interpreter"),
            (b"", "names no interpreter"),
            (b"#!/bin/sh\necho\r\n", "CR LF"),
            (b"#!/bin/sh\r\n", "CR LF"),
            (b"#!/bin/sh\n\0", "null bytes"),
            (b"\x7fELF\xff", "not text in UTF-8"),
            (b"#!sh\n", "no interpreter by an absolute path"),
        ] {
            let error = required(script).unwrap_err();
            assert!(error.contains(want), "{error}, not {want}");
        }
        assert_eq!(required(b"#!/bin/sh\n").unwrap().1, ["/bin/sh"]);
    }

    #[test]
    fn arguments_are_quoted_for_a_shell() {
        let arguments = ["/usr/bin/env", "it's"].map(ToOwned::to_owned);
        assert_eq!(quoted(&arguments), r"'/usr/bin/env' 'it'\''s'");
    }
}
