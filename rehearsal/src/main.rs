//! `rehearsal`: the cloud in a folder.

use std::process::ExitCode;

use clap::Parser;

mod accept;
mod account;
mod autoscaling;
mod back_door;
mod balancer;
mod balancer_source;
mod base_image;
mod cli;
mod clock;
mod cloud;
mod control;
mod daemon;
mod dials;
mod disks;
mod doctor;
mod ec2;
mod egress;
mod elb;
mod faults;
mod files;
mod foreign;
mod front;
mod guests;
mod imds;
mod imds_relay;
mod imds_source;
mod journal;
mod launch_error;
mod loopback;
mod machines;
mod metadata;
mod moto;
mod permissions;
mod request;
mod ssm;
mod status;
mod store;
mod sts;
mod table;
mod wire;
mod world;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}
