//! `imagebuilder-agent`: the instance agent.
//!
//! It decides whether the instance may serve, reports that to the Auto Scaling group and the registry, drains and
//! releases the instance cleanly, and runs the updater ([`agent_update`]) for systemd and for operators.

mod arguments;
mod aws;
mod balancer;
mod bounded;
mod cli;
mod configure;
mod connections;
mod duty;
mod elb;
mod exit;
mod files;
mod fleet;
#[cfg(test)]
mod fuzz;
mod health;
mod hooks;
mod host;
mod identity;
mod image_tests;
mod journald;
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
mod status;
mod status_file;
mod test_runner;
mod update;
mod update_permission;

use std::process::ExitCode;

use clap::Parser;

/// Parses the command line, sets up the log, runs the subcommand, and turns the result into an exit code.
fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The parser's own message repeats what was given.
            if error.use_stderr() && support::print_without_credentials(&error.to_string()) {
                return exit::Exit::Refused.into();
            }
            error.exit()
        }
    };
    journald::begin(cli.log_level());
    match cli.dispatch() {
        Ok(code) => code.into(),
        Err(error) => {
            let report = support::Report::of(&error);
            tracing::error!("{}", report.message);
            for hint in &report.hints {
                tracing::error!("hint: {hint}");
            }
            exit::Exit::of(&error).into()
        }
    }
}
