//! `imagebuilder`: bakes golden images and rolls fleets onto them.
//!
//! The program is [`main`]; the subcommands are in `commands`.

mod archives;
mod bake;
mod channel;
mod cli;
mod commands;
mod config;
mod context;
mod image;
mod mappings;
mod packer;
mod program;
mod recipes;
mod requirements;
mod shebang;
mod staging;
mod template;
#[cfg(test)]
mod tests;
mod user_data;

use std::process::ExitCode;

use clap::Parser as _;

use run::exit::Exit;
use run::output;

/// Runs the program: parses the command line, runs the command, prints an error's chain once, and turns the result
/// into an exit code.
pub async fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse_from(cli::in_front(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // The parser's own message repeats what was given.
            if error.use_stderr() && support::print_without_credentials(&error.to_string()) {
                return Exit::Usage.into();
            }
            error.exit()
        }
    };
    output::log();
    let options = cli.global.options();
    let context = match context::Context::new(&cli.global) {
        Ok(context) => context,
        Err(error) => return output::report(&error, &Exit::of(&error), &options),
    };
    if let Err(error) = context.check_profile().await {
        return output::report(&error, &Exit::of(&error), &options);
    }
    match cli.command.run(&context).await {
        Ok(exit) => exit.into(),
        Err(error) => output::report(&error, &Exit::of(&error), &options),
    }
}
