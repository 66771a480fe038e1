//! `rehearsal`: the cloud in a folder.

use std::process::ExitCode;

use clap::Parser;

mod accept;
mod account;
mod adapters;
mod admin;
mod autoscaling;
mod balancer;
mod balancer_source;
mod base_image;
mod cli;
mod clock;
mod cloud;
mod control;
mod daemon;
mod disks;
mod doctor;
mod ec2;
mod egress;
mod elb;
mod fault_counters;
mod faults;
mod files;
mod foreign;
mod guests;
mod http;
mod ids;
mod imds;
mod imds_relay;
mod imds_source;
mod launch_error;
mod loopback;
mod machines;
mod metadata;
mod moto;
mod permissions;
mod request;
mod request_log;
mod ssm;
mod status;
mod store;
mod sts;
mod table;
mod wire;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The parser's own message repeats what was given.
            if error.use_stderr() && support::print_without_credentials(&error.to_string()) {
                return ExitCode::from(2);
            }
            error.exit()
        }
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            cli::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
