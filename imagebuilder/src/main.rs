//! `imagebuilder`: bakes golden images and rolls fleets onto them.
//!
//! This file parses, runs, prints an error's chain once, and turns the result into an exit code. Nothing else.

mod advice;
mod bake;
mod cancel;
mod channel;
mod cli;
mod cloud;
mod commands;
mod config;
mod context;
mod exit;
mod ids;
mod image;
mod ledger;
mod lock;
mod output;
mod packer;
mod permissions;
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

#[tokio::main]
async fn main() -> ExitCode {
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
