//! The program `imagebuilder-agent`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    imagebuilder_agent::main()
}
