//! `imagebuilder-agent`: the box's own keeper.
//!
//! It decides whether this instance may serve, tells the Auto Scaling group and the registry, and
//! lets the box go in order; and it keeps itself current from a signed channel ([`update`]).
//!
//! A library only so that the TUF conformance client and the fuzz targets reach [`update`]; the program
//! is [`main`].

mod arguments;
mod aws;
mod balancer;
mod bounded;
mod cli;
mod configure;
mod duty;
mod elb;
mod exit;
mod files;
mod fleet;
#[cfg(test)]
mod fuzz;
mod health;
mod host;
mod identity;
mod journal;
mod leave;
mod lifecycle;
mod machine;
mod metrics;
mod notice;
mod notify;
mod output;
mod registry;
mod restart;
mod run;
mod runtime;
mod settings;
mod standing;
mod status;
mod text;
pub mod update;
mod version;

use std::process::ExitCode;

use clap::Parser;

/// The program: parses, sets up the log, and turns the outcome into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    journal::begin(cli.log_level());
    match cli.dispatch() {
        Ok(code) => code.into(),
        Err(error) => {
            for line in format!("{error:#}").lines() {
                tracing::error!("{line}");
            }
            exit::Exit::of(&error).into()
        }
    }
}
