//! `imagebuilder`: bakes golden images and rolls fleets onto them.
//!
//! A library only for its tests; the program is [`main`].

mod advice;
mod bake;
mod cancel;
mod channel;
mod cli;
mod commands;
mod config;
mod context;
mod document;
mod exit;
mod image;
mod ledger;
mod lock;
mod output;
mod packer;
pub mod permissions;
mod pointers;
mod preflight;
mod program;
mod roll;
mod shebang;
mod staging;
mod template;

use std::process::ExitCode;

use clap::Parser as _;

use crate::exit::Exit;

/// Runs the program: parses the command line, runs the command, prints an error's chain once, and turns the result
/// into an exit code.
pub async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    output::log();
    let config = &cli.global.config;
    let context = match context::Context::new(&cli.global) {
        Ok(context) => context,
        Err(error) => return output::report(&error, &Exit::of(&error), config),
    };
    match cli.command.run(&context).await {
        Ok(exit) => exit.into(),
        Err(error) => output::report(&error, &Exit::of(&error), config),
    }
}
